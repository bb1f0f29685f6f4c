/* What choosing by score has in common: the candidates of a row, the rank down to which they are
 * taken, and the taking.  The rank is found without sorting: quickselect over weights, a few passes
 * over shrinking parts. */
#include "kernels/cpu/selection.h"

#include <string.h>

enum {
    SMALL = 24,  /* sorted at once */
    SAMPLES = 23 /* from which a pivot is taken */
};

static const double PIVOT_MARGIN = 0.08;

bool select_scratch_get(struct device *dev, int thread_index, const struct selection *sel,
                        struct select_scratch *out)
{
    size_t n = sel->stride;
    int32_t *at = cpu_scratch(dev, thread_index, 8 * n * sizeof(float));
    if (!at)
        return false;
    *out = (struct select_scratch){
        .all = {at, (float *)(at + n)},
        .buffer = {{at + 2 * n, (float *)(at + 3 * n)}, {at + 4 * n, (float *)(at + 5 * n)}},
        .wide = (double *)(at + 2 * n),
        .scores = (float *)(at + 6 * n),
        .keys = (uint32_t *)(at + 7 * n),
    };
    return true;
}

/* Keys of `from` outside of the ranges. */
static void candidates_between(const struct row_ranges *ranges, struct key_range from,
                               struct candidates *out)
{
    int begin = from.begin;
    out->n = out->n_places = 0;
    for (int i = 0; i <= ranges->n; i++) {
        int end = i < ranges->n ? min_int(ranges->range[i].begin, from.end) : from.end;
        if (begin < end) {
            out->range[out->n] = (struct key_range){begin, end};
            out->place[out->n++] = out->n_places;
            out->n_places += end - begin;
        }
        if (i < ranges->n)
            begin = max_int(begin, ranges->range[i].end);
    }
    out->place[out->n] = out->n_places;
}

void select_candidates(const struct selection *sel, int row, struct candidates *out)
{
    candidates_between(&sel->ranges[row], sel->visible[row], out);
}

void select_scored_candidates(const struct selection *sel, int row, struct candidates *out)
{
    static const struct row_ranges none = {0};
    struct key_range from = sel->visible[row];
    from.begin = max_int(from.begin, sel->scope.first_key);
    candidates_between(sel->scope.again ? &none : &sel->ranges[row], from, out);
}

int select_place(const struct candidates *candidates, uint32_t key)
{
    for (int i = 0; i < candidates->n; i++)
        if ((int)key >= candidates->range[i].begin && (int)key < candidates->range[i].end)
            return candidates->place[i] + (int)key - candidates->range[i].begin;
    return -1;
}

int select_choices_per_row(const struct selection *sel, enum share share)
{
    return share == SHARE_GROUP ? sel->n_kv_heads : sel->n_heads;
}

void select_gather(const struct candidates *candidates, float *to, const float *scores)
{
    for (int i = 0; i < candidates->n; i++) {
        struct key_range range = candidates->range[i];
        memcpy(to + candidates->place[i], scores + range.begin,
               (size_t)(range.end - range.begin) * sizeof *to);
    }
}

int select_strike_out(const struct selection *sel, int row, int begin, int end,
                      const struct candidates *candidates, struct ranked all)
{
    int n_left = candidates->n_places;
    if (sel->scope.again)
        return n_left;
    for (int head = begin; head < end; head++) {
        const uint32_t *keys = selection_keys(sel, row, head);
        for (int i = 0; i < selection_list(sel, row, head)->n; i++) {
            int place = select_place(candidates, keys[i]);
            if (place < 0)
                continue;
            n_left -= all.ranks[place] != NO_RANK;
            all.ranks[place] = NO_RANK;
            if (all.weights)
                all.weights[place] = 0.0f;
        }
    }
    return n_left;
}

/* Leaves out keys [n] that a row's ranges hold; returns how many are left. */
static int drop_ranged(const struct selection *sel, int row, uint32_t *keys, int n)
{
    int n_left = 0;
    for (int i = 0; i < n; i++)
        if (!selection_in_ranges(&sel->ranges[row], (int)keys[i]))
            keys[n_left++] = keys[i];
    return n_left;
}

void select_take(struct selection *sel, const struct selection_kernels *kernels, int row, int begin,
                 int end, const struct candidates *candidates, const struct select_scratch *scratch,
                 int32_t threshold, int64_t n_ties)
{
    int n = 0;
    if (threshold == NO_RANK)
        threshold = NO_RANK + 1;
    for (int i = 0; i < candidates->n; i++) {
        struct key_range range = candidates->range[i];
        n += kernels->collect(scratch->keys + n, scratch->all.ranks + candidates->place[i],
                              range.end - range.begin, (uint32_t)range.begin, threshold, &n_ties);
    }
    if (sel->scope.again)
        n = drop_ranged(sel, row, scratch->keys, n);
    for (int head = begin; head < end; head++) {
        if (sel->scope.again)
            selection_drop_keys(sel, row, head, scratch->keys,
                                n); /* what was drawn is now certain */
        selection_add_keys(sel, row, head, scratch->keys, NULL, 1.0f, n);
    }
}

/* Falling by rank; ranks and weights together. */
static void sort_falling(struct ranked x, int n)
{
    for (int i = 1; i < n; i++) {
        int32_t rank = x.ranks[i];
        float weight = x.weights ? x.weights[i] : 1.0f;
        int j = i;
        for (; j > 0 && x.ranks[j - 1] < rank; j--) {
            x.ranks[j] = x.ranks[j - 1];
            if (x.weights)
                x.weights[j] = x.weights[j - 1];
        }
        x.ranks[j] = rank;
        if (x.weights)
            x.weights[j] = weight;
    }
}

/* The threshold among n > 0 sorted ones, when those above them already weigh *above. */
static int32_t threshold_of_sorted(struct ranked x, int n, double target, double *above)
{
    double sum = *above;
    for (int i = 0; i < n; i++) {
        if (i > 0 && x.ranks[i] != x.ranks[i - 1])
            *above = sum;
        sum += x.weights ? (double)x.weights[i] : 1.0;
        if (sum > target)
            return x.ranks[i];
    }
    return x.ranks[n - 1]; /* rounding: all of them */
}

/* A rank of the array near the share `at` from the top, so that about that share lies above. */
static int32_t pivot_near(struct ranked x, int n, double at)
{
    int32_t sample[SAMPLES];
    struct ranked sorted = {sample, NULL};
    for (int i = 0; i < SAMPLES; i++)
        sample[i] = x.ranks[(size_t)i * (size_t)n / SAMPLES];
    sort_falling(sorted, SAMPLES);
    int which = (int)(at * SAMPLES);
    return sample[which < SAMPLES ? which : SAMPLES - 1];
}

/* Splits so that something is on both sides, or returns n: all are equal (to *pivot). */
static int split_off(const struct selection_kernels *kernels, struct ranked high, struct ranked low,
                     struct ranked now, int n, int32_t *pivot, double *weight)
{
    int n_high = kernels->split(high, low, now, n, *pivot, weight);
    if (n_high < n || *pivot == INT32_MAX)
        return n_high;
    n_high = kernels->split(high, low, now, n, *pivot + 1, weight); /* the pivot was the lowest */
    return n_high > 0 ? n_high : n;
}

int32_t select_threshold(const struct selection_kernels *kernels,
                         const struct select_scratch *scratch, int n, bool weighted, double target,
                         double *above)
{
    struct ranked now = scratch->all, high = scratch->buffer[0], low = scratch->buffer[1];
    if (!weighted)
        now.weights = high.weights = low.weights = NULL;
    *above = 0.0;
    while (n > SMALL) {
        /* Of a count the share to be taken is known: a pivot a little to its larger side leaves
         * the smaller side to go on with. */
        double share = weighted ? 0.5 : (target - *above) / n, weight;
        double margin = share < 0.5 ? PIVOT_MARGIN : -PIVOT_MARGIN;
        int32_t pivot = pivot_near(now, n, share + (weighted ? 0.0 : margin));
        int n_high = split_off(kernels, high, low, now, n, &pivot, &weight);
        if (n_high == n)
            return pivot;
        if (*above + weight > target) {
            n = n_high;
        } else {
            *above += weight;
            n -= n_high;
            struct ranked swap = high;
            high = low;
            low = swap;
        }
        now = high;
    }
    if (now.ranks != high.ranks) { /* all is kept as it is */
        memcpy(high.ranks, now.ranks, (size_t)n * sizeof *now.ranks);
        if (weighted)
            memcpy(high.weights, now.weights, (size_t)n * sizeof *now.weights);
    }
    sort_falling(high, n);
    return threshold_of_sorted(high, n, target, above);
}

int32_t select_at_most(const struct selection_kernels *kernels,
                       const struct select_scratch *scratch, int n, int32_t threshold, int n_most,
                       int64_t *n_ties)
{
    if (n <= n_most)
        return threshold;
    struct ranked all = {scratch->all.ranks, NULL}, high = {scratch->buffer[0].ranks, NULL},
                  low = {scratch->buffer[1].ranks, NULL};
    double weight, above;
    int32_t lowest = threshold == NO_RANK ? NO_RANK + 1 : threshold;
    if (kernels->split(high, low, all, n, lowest, &weight) <= n_most)
        return threshold;
    threshold = select_threshold(kernels, scratch, n, false, n_most - 0.5, &above);
    *n_ties = n_most - (int64_t)above;
    return threshold;
}
