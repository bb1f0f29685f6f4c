/* Top-k by score: the e best keys that are not selected yet. */
#include "kernels/cpu/selection.h"

struct top_k_job {
    struct device *dev;
    struct selection *sel;
    const struct selection_kernels *kernels;
    enum share share;
    int n_keys; /* to choose */
};

/* Sums the scores of a group's heads at the candidates' places. */
static const float *sum_scores(const struct top_k_job *job, int row, int group,
                               const struct candidates *candidates,
                               const struct select_scratch *scratch)
{
    const struct selection *sel = job->sel;
    float *sum = scratch->scores, *one = scratch->all.weights;
    select_gather(candidates, sum, selection_scores(sel, row, group * sel->group));
    for (int i = 1; i < sel->group; i++) {
        select_gather(candidates, one, selection_scores(sel, row, group * sel->group + i));
        job->kernels->add(sum, one, 1.0f, candidates->n_places);
    }
    return sum;
}

static void top_k_task(void *user, int task_index, int thread_index)
{
    const struct top_k_job *job = user;
    struct selection *sel = job->sel;
    int n_choices = select_choices_per_row(sel, job->share);
    int row = task_index / n_choices, which = task_index % n_choices, begin, end;
    struct select_scratch scratch;
    struct candidates candidates;
    if (!select_scratch_get(job->dev, thread_index, sel, &scratch))
        return;
    selection_choice_heads(sel, job->share, which, &begin, &end);
    select_scored_candidates(sel, row, &candidates);
    if (job->share == SHARE_GROUP) {
        const float *sum = sum_scores(job, row, which, &candidates, &scratch);
        job->kernels->rank(scratch.all.ranks, sum, candidates.n_places);
    } else {
        for (int i = 0; i < candidates.n; i++)
            job->kernels->rank(scratch.all.ranks + candidates.place[i],
                               selection_scores(sel, row, which) + candidates.range[i].begin,
                               candidates.range[i].end - candidates.range[i].begin);
    }
    struct ranked all = {scratch.all.ranks, NULL};
    int n_left = select_strike_out(sel, row, begin, end, &candidates, all);
    int n_take = min_int(job->n_keys, n_left);
    if (n_take == 0)
        return;
    double above;
    int32_t threshold = select_threshold(job->kernels, &scratch, candidates.n_places, false,
                                         (double)n_take - 0.5, &above);
    select_take(sel, job->kernels, row, begin, end, &candidates, &scratch, threshold,
                n_take - (int64_t)above);
}

void cpu_select_top_k(struct device *dev, struct selection *sel, const struct attention *att,
                      struct budget size, enum share share)
{
    int e = selection_top_count(dev, sel, att, size);
    if (e == 0)
        return;
    selection_prepare_lists(sel, share);
    struct top_k_job job = {.dev = dev,
                            .sel = sel,
                            .kernels = selection_kernels(dev->isa),
                            .share = share,
                            .n_keys = e};
    cpu_parallel(dev, sel->n_rows * select_choices_per_row(sel, share), top_k_task, &job);
}
