/* Random sampling without replacement. */
#include "kernels/cpu/random_draw.h"

struct random_job {
    struct device *dev;
    struct selection *sel;
    const struct attention *att;
    enum share share;
    int n_wanted, slot;
};

static void random_task(void *user, int task_index, int thread_index)
{
    const struct random_job *job = user;
    struct selection *sel = job->sel;
    int n_choices = select_choices_per_row(sel, job->share);
    struct select_scratch scratch;
    struct random_draw draw;
    if (!select_scratch_get(job->dev, thread_index, sel, &scratch))
        return;
    random_draw_start(&draw, sel, job->att, job->share, task_index / n_choices,
                      task_index % n_choices, job->slot, (struct key_range){0, INT32_MAX},
                      &scratch);
    int n = min_int(job->n_wanted, draw.n_left);
    if (n == 0)
        return;
    random_draw_keys(&draw, selection_kernels(job->dev->isa), n, &scratch);
    random_draw_add(&draw, sel, scratch.keys, NULL, (float)((double)n / draw.n_left), n, &scratch);
}

void cpu_select_random(struct device *dev, struct selection *sel, const struct attention *att,
                       double rate, int slot, enum share share)
{
    if (selection_skips(dev, sel, att))
        return;
    struct budget budget = {true, rate < 1.0 ? rate : 1.0};
    struct random_job job = {.dev = dev,
                             .sel = sel,
                             .att = att,
                             .share = share,
                             .n_wanted = selection_budget(budget, sel->n_keys),
                             .slot = slot};
    if (job.n_wanted == 0)
        return;
    selection_prepare_lists(sel, share);
    cpu_parallel(dev, sel->n_rows * select_choices_per_row(sel, share), random_task, &job);
}
