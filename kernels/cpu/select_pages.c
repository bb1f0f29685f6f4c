/* Whole pages by score: Quest's choice.  Unlike a choice of keys it does not look at what is
 * selected already, so that its pages may overlap with it. */
#include "kernels/cpu/selection.h"

#include <string.h>

enum { MIN_PAGES = 3 }; /* the reference takes no fewer, whatever the budget */

struct pages_job {
    struct device *dev;
    struct selection *sel;
    const struct selection_kernels *kernels;
    enum share share;
    int page_size, n_pages; /* to choose */
    double top_p;           /* of the pages' mass to choose no more than needed; 0: off */
};

struct key_range select_visible_pages(const struct selection *sel, int row, int page_size)
{
    struct key_range visible = sel->visible[row];
    if (visible.begin >= visible.end)
        return (struct key_range){0, 0};
    return (struct key_range){visible.begin / page_size, (visible.end - 1) / page_size + 1};
}

/* Ranks of a choice's pages: of one head's scores, or of the sum of its group's. */
static void rank_pages(const struct pages_job *job, int row, int which, struct key_range pages,
                       const struct select_scratch *scratch)
{
    const struct selection *sel = job->sel;
    int n = pages.end - pages.begin;
    if (job->share == SHARE_HEAD) {
        job->kernels->rank(scratch->all.ranks, selection_scores(sel, row, which) + pages.begin, n);
        return;
    }
    const float *first = selection_scores(sel, row, which * sel->group) + pages.begin;
    memcpy(scratch->scores, first, (size_t)n * sizeof *first);
    for (int i = 1; i < sel->group; i++)
        job->kernels->add(scratch->scores,
                          selection_scores(sel, row, which * sel->group + i) + pages.begin, 1.0f,
                          n);
    job->kernels->rank(scratch->all.ranks, scratch->scores, n);
}

/* Ranks and masses of a choice's pages: of one head, or the mean of its group's.  Returns the sum
 * of the masses. */
static double weigh_pages(const struct pages_job *job, int row, int which, struct key_range pages,
                          const struct select_scratch *scratch)
{
    const struct selection *sel = job->sel;
    const struct selection_kernels *kernels = job->kernels;
    struct ranked all = scratch->all;
    bool shared = job->share == SHARE_GROUP;
    float *one = shared ? scratch->buffer[0].weights : all.weights;
    int n = pages.end - pages.begin, n_heads = shared ? sel->group : 1;
    memset(all.weights, 0, (size_t)n * sizeof *all.weights);
    for (int head = which * n_heads; head < (which + 1) * n_heads; head++) {
        const float *scores = selection_scores(sel, row, head) + pages.begin;
        kernels->rank(all.ranks, scores, n);
        kernels->weigh(one, scores, rank_score(kernels->highest(all.ranks, n)), 1.0f, n);
        if (shared)
            kernels->add(all.weights, one, (float)(1.0 / (kernels->total(one, n) * n_heads)), n);
    }
    if (shared)
        kernels->rank(all.ranks, all.weights, n);
    return kernels->total(all.weights, n);
}

/* The rank down to which a choice's pages are taken, and how many of those that equal it. */
static int32_t pages_threshold(const struct pages_job *job, int row, int which,
                               struct key_range pages, const struct select_scratch *scratch,
                               int64_t *n_ties)
{
    int n = pages.end - pages.begin;
    double above;
    if (job->top_p == 0.0) {
        int n_take = min_int(job->n_pages, n);
        rank_pages(job, row, which, pages, scratch);
        int32_t threshold = select_threshold(job->kernels, scratch, n, false, n_take - 0.5, &above);
        *n_ties = n_take - (int64_t)above;
        return threshold;
    }
    double target = job->top_p * weigh_pages(job, row, which, pages, scratch);
    int32_t threshold = select_threshold(job->kernels, scratch, n, true, target, &above);
    *n_ties = INT64_MAX;
    return select_at_most(job->kernels, scratch, n, threshold, job->n_pages, n_ties);
}

/* The keys of pages [n], ascending, that row sees outside of its ranges; returns how many. */
static int page_keys(const struct pages_job *job, int row, const uint32_t *pages, int n,
                     uint32_t *keys)
{
    const struct selection *sel = job->sel;
    struct candidates free;
    select_candidates(sel, row, &free);
    int n_keys = 0;
    for (int i = 0; i < n; i++) {
        int begin = (int)pages[i] * job->page_size, end = begin + job->page_size;
        for (int c = 0; c < free.n; c++)
            for (int key = max_int(begin, free.range[c].begin);
                 key < min_int(end, free.range[c].end); key++)
                keys[n_keys++] = (uint32_t)key;
    }
    return n_keys;
}

static void pages_task(void *user, int task_index, int thread_index)
{
    const struct pages_job *job = user;
    struct selection *sel = job->sel;
    int n_choices = select_choices_per_row(sel, job->share);
    int row = task_index / n_choices, which = task_index % n_choices, begin, end;
    struct select_scratch scratch;
    struct key_range pages = select_visible_pages(sel, row, job->page_size);
    int n = pages.end - pages.begin;
    int64_t n_ties;
    if (n == 0 || !select_scratch_get(job->dev, thread_index, sel, &scratch))
        return;
    int32_t threshold = pages_threshold(job, row, which, pages, &scratch, &n_ties);
    /* The ranks are read: their place holds the pages' numbers. */
    uint32_t *taken = (uint32_t *)scratch.buffer[0].ranks;
    n = job->kernels->collect(taken, scratch.all.ranks, n, (uint32_t)pages.begin, threshold,
                              &n_ties);
    n = page_keys(job, row, taken, n, scratch.keys);
    selection_choice_heads(sel, job->share, which, &begin, &end);
    for (int head = begin; head < end; head++) {
        selection_drop_keys(sel, row, head, scratch.keys, n); /* what was drawn is now certain */
        selection_add_keys(sel, row, head, scratch.keys, NULL, 1.0f, n);
    }
}

void cpu_select_pages(struct device *dev, struct selection *sel, const struct attention *att,
                      struct budget size, int page_size, double top_p, enum share share)
{
    assert(page_size > 0 && top_p >= 0.0);
    bool skips = selection_skips(dev, sel, att);
    int e = top_p > 0.0 && !skips ? selection_budget(size, sel->n_keys)
                                  : selection_top_count(dev, sel, att, size);
    if (e == 0)
        return;
    selection_prepare_lists(sel, share);
    struct pages_job job = {.dev = dev,
                            .sel = sel,
                            .kernels = selection_kernels(dev->isa),
                            .share = share,
                            .page_size = page_size,
                            .n_pages = max_int(MIN_PAGES, e / page_size),
                            .top_p = top_p};
    cpu_parallel(dev, sel->n_rows * select_choices_per_row(sel, share), pages_task, &job);
}
