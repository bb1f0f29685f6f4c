/* Top-p by score: the fewest best keys that hold a share of the softmax mass, up to a limit.
 *
 * The rank down to which keys are taken is found by their mass; only where that takes more than the
 * limit is it found once more, by their number.
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
    int n_most; /* keys that a choice may take */
    float logit_scale;
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

/* Mass of the visible keys that are no candidates: those of the ranges, and those struck out. */
static double held_mass(const struct top_p_job *job, const struct top_p_choice *choice,
                        const float *seen, float max)
{
    const struct selection *sel = job->sel;
    const struct row_ranges *ranges = &sel->ranges[choice->row];
    const struct candidates *candidates = &choice->candidates;
    struct key_range visible = sel->visible[choice->row];
    float *weights = choice->scratch.buffer[1].weights;
    double held = 0.0;
    job->kernels->weigh(weights, seen, max, job->logit_scale, visible.end - visible.begin);
    for (int i = 0; i < ranges->n; i++)
        held += job->kernels->total(weights + ranges->range[i].begin - visible.begin,
                                    ranges->range[i].end - ranges->range[i].begin);
    for (int i = 0; sel->listed && i < candidates->n; i++)
        for (int key = candidates->range[i].begin; key < candidates->range[i].end; key++) {
            int place = candidates->place[i] + key - candidates->range[i].begin;
            if (choice->scratch.all.ranks[place] == NO_RANK)
                held += (double)weights[key - visible.begin];
        }
    return held;
}

/* weights [n_places] = exp(logit - max) of one head, 0 where a key is no candidate; all.ranks are
 * the scores' ranks.  *left is the candidates' mass and *held that of what is selected, if it
 * counts.  Returns how many candidates there are. */
static int weigh_head(const struct top_p_job *job, const struct top_p_choice *choice, int head,
                      float *weights, double *left, double *held)
{
    const struct selection *sel = job->sel;
    const struct selection_kernels *kernels = job->kernels;
    const struct candidates *candidates = &choice->candidates;
    int32_t *ranks = choice->scratch.all.ranks;
    float *scores = choice->scratch.scores;
    struct key_range visible = sel->visible[choice->row];
    const float *seen = selection_scores(sel, choice->row, head) + visible.begin;

    select_gather(candidates, scores, selection_scores(sel, choice->row, head));
    kernels->rank(ranks, scores, candidates->n_places);
    int n_left = select_strike_out(sel, choice->row, choice->begin, choice->end, candidates,
                                   (struct ranked){ranks, NULL});
    float max = rank_score(kernels->highest(ranks, candidates->n_places));
    if (job->of_total)
        max = highest_score(kernels, seen, visible.end - visible.begin,
                            choice->scratch.buffer[1].ranks);
    kernels->weigh(weights, scores, max, job->logit_scale, candidates->n_places);
    select_strike_out(sel, choice->row, choice->begin, choice->end, candidates,
                      (struct ranked){ranks, weights});
    *left = kernels->total(weights, candidates->n_places);
    *held = job->of_total ? held_mass(job, choice, seen, max) : 0.0;
    return n_left;
}

/* all.weights [n_places] = the mean of the group's probabilities, all.ranks their ranks. */
static int weigh_group(const struct top_p_job *job, const struct top_p_choice *choice, int group,
                       double *left, double *held)
{
    const struct selection *sel = job->sel;
    struct ranked all = choice->scratch.all;
    float *one = choice->scratch.buffer[0].weights;
    int n_places = choice->candidates.n_places;
    memset(all.weights, 0, (size_t)n_places * sizeof *all.weights);
    *held = 0.0;
    for (int head = group * sel->group; head < (group + 1) * sel->group; head++) {
        double head_left, head_held;
        if (weigh_head(job, choice, head, one, &head_left, &head_held) == 0)
            return 0;
        double scale = 1.0 / ((head_left + head_held) * sel->group);
        job->kernels->add(all.weights, one, (float)scale, n_places);
        *held += head_held * scale;
    }
    job->kernels->rank(all.ranks, all.weights, n_places);
    *left = job->kernels->total(all.weights, n_places);
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
    select_scored_candidates(sel, choice.row, &choice.candidates);
    if (choice.candidates.n_places == 0)
        return;
    double left = 0.0, held = 0.0, above;
    int n_left = job->share == SHARE_GROUP
                     ? weigh_group(job, &choice, which, &left, &held)
                     : weigh_head(job, &choice, which, choice.scratch.all.weights, &left, &held);
    double target = job->top_p * (left + held) - held;
    if (n_left == 0 || target < 0.0)
        return;
    int n_places = choice.candidates.n_places;
    int64_t n_ties = INT64_MAX;
    int32_t threshold =
        select_threshold(job->kernels, &choice.scratch, n_places, true, target, &above);
    threshold =
        select_at_most(job->kernels, &choice.scratch, n_places, threshold, job->n_most, &n_ties);
    select_take(sel, job->kernels, choice.row, choice.begin, choice.end, &choice.candidates,
                &choice.scratch, threshold, n_ties);
}

void cpu_select_top_p(struct device *dev, struct selection *sel, const struct attention *att,
                      double top_p, bool of_total, struct budget most, float logit_scale,
                      enum share share)
{
    assert(logit_scale > 0.0f);
    bool limited = most.is_fraction || most.value > 0.0;
    int n_most = limited ? selection_budget(most, sel->n_keys) : INT32_MAX;
    if (selection_skips(dev, sel, att) || n_most == 0)
        return;
    if (top_p >= 1.0 && !limited) {
        sel->full = true;
        return;
    }
    selection_prepare_lists(sel, share);
    struct top_p_job job = {.dev = dev,
                            .sel = sel,
                            .kernels = selection_kernels(dev->isa),
                            .share = share,
                            .top_p = top_p > 0.0 ? top_p : 0.0,
                            .of_total = of_total,
                            .n_most = n_most,
                            .logit_scale = logit_scale};
    cpu_parallel(dev, sel->n_rows * select_choices_per_row(sel, share), top_p_task, &job);
}
