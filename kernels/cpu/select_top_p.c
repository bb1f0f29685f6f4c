/* Top-p by score: the fewest best keys that hold a share of the softmax mass.
 *
 * Per head, keys rank by score.  Per group, they rank by the mean of the heads' probabilities, each
 * head's taken over the same keys: those not selected yet, or all visible ones (of_total). */
#include "kernels/cpu/selection.h"

#include <string.h>

struct top_p_job {
    struct device *dev;
    struct selection *sel;
    const struct selection_kernels *kernels;
    enum share share;
    double top_p;
    bool of_total;
};

/* One choice: a row, and the heads whose lists it goes to. */
struct top_p_choice {
    int row, begin, end;
    struct candidates candidates;
    struct select_scratch scratch;
};

static float highest_score(const struct selection_kernels *kernels, const float *scores, int n,
                           int32_t *ranks)
{
    kernels->rank(ranks, scores, n);
    return rank_score(kernels->highest(ranks, n));
}

/* weights [n_places] = exp(score - max) of one head, 0 where a key is no candidate; all.ranks are
 * the scores' ranks.  Returns how many places are left; *mass is that of the keys that the share is
 * of. */
static int weigh_head(const struct top_p_job *job, const struct top_p_choice *choice, int head,
                      float *weights, double *mass)
{
    const struct selection *sel = job->sel;
    const struct selection_kernels *kernels = job->kernels;
    const struct candidates *candidates = &choice->candidates;
    int32_t *ranks = choice->scratch.all.ranks;
    float *scores = choice->scratch.scores;
    struct key_range visible = sel->visible[choice->row];
    const float *seen = selection_scores(sel, choice->row, head) + visible.begin;
    int n_seen = visible.end - visible.begin;

    select_gather(candidates, scores, selection_scores(sel, choice->row, head));
    kernels->rank(ranks, scores, candidates->n_places);
    int n_left = select_strike_out(sel, choice->row, choice->begin, choice->end, candidates,
                                   (struct ranked){ranks, NULL});
    float max = rank_score(kernels->highest(ranks, candidates->n_places));
    if (job->of_total)
        max = highest_score(kernels, seen, n_seen, choice->scratch.buffer[1].ranks);
    kernels->weigh(weights, scores, max, candidates->n_places);
    select_strike_out(sel, choice->row, choice->begin, choice->end, candidates,
                      (struct ranked){ranks, weights});
    *mass = kernels->total(weights, candidates->n_places);
    if (job->of_total) {
        kernels->weigh(choice->scratch.buffer[1].weights, seen, max, n_seen);
        *mass = kernels->total(choice->scratch.buffer[1].weights, n_seen);
    }
    return n_left;
}

/* all.weights [n_places] = the mean of the group's probabilities, all.ranks their ranks. */
static int weigh_group(const struct top_p_job *job, const struct top_p_choice *choice, int group)
{
    const struct selection *sel = job->sel;
    struct ranked all = choice->scratch.all;
    float *one = choice->scratch.buffer[0].weights;
    int n_places = choice->candidates.n_places;
    memset(all.weights, 0, (size_t)n_places * sizeof *all.weights);
    for (int head = group * sel->group; head < (group + 1) * sel->group; head++) {
        double mass;
        if (weigh_head(job, choice, head, one, &mass) == 0)
            return 0;
        job->kernels->add(all.weights, one, (float)(1.0 / (mass * sel->group)), n_places);
    }
    job->kernels->rank(all.ranks, all.weights, n_places);
    return select_strike_out(sel, choice->row, choice->begin, choice->end, &choice->candidates,
                             all);
}

static void top_p_task(void *user, int task_index, int thread_index)
{
    const struct top_p_job *job = user;
    struct selection *sel = job->sel;
    int n_choices = select_choices_per_row(sel, job->share);
    int which = task_index % n_choices;
    struct top_p_choice choice = {.row = task_index / n_choices};
    if (!select_scratch_get(job->dev, thread_index, sel, &choice.scratch))
        return;
    selection_choice_heads(sel, job->share, which, &choice.begin, &choice.end);
    select_candidates(sel, choice.row, &choice.candidates);
    int n_places = choice.candidates.n_places;
    if (n_places == 0)
        return;
    double mass = 1.0;
    int n_left = job->share == SHARE_GROUP
                     ? weigh_group(job, &choice, which)
                     : weigh_head(job, &choice, which, choice.scratch.all.weights, &mass);
    if (n_left == 0)
        return;
    double left = job->kernels->total(choice.scratch.all.weights, n_places);
    /* Of the total, what is selected already counts: mass - left. */
    double target = job->of_total ? left - (1.0 - job->top_p) * mass : left * job->top_p;
    if (target < 0.0)
        return;
    double above;
    int32_t threshold =
        select_threshold(job->kernels, &choice.scratch, n_places, true, target, &above);
    select_take(sel, job->kernels, choice.row, choice.begin, choice.end, &choice.candidates,
                &choice.scratch, threshold, INT64_MAX);
}

void cpu_select_top_p(struct device *dev, struct selection *sel, const struct attention *att,
                      double top_p, bool of_total, enum share share)
{
    if (selection_skips(dev, sel, att))
        return;
    if (top_p >= 1.0) {
        sel->full = true;
        return;
    }
    selection_prepare_lists(sel, share);
    struct top_p_job job = {.dev = dev,
                            .sel = sel,
                            .kernels = selection_kernels(dev->isa),
                            .share = share,
                            .top_p = top_p > 0.0 ? top_p : 0.0,
                            .of_total = of_total};
    cpu_parallel(dev, sel->n_rows * select_choices_per_row(sel, share), top_p_task, &job);
}
