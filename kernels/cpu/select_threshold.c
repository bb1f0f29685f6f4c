/* What choosing by score has in common: the candidates of a row, and the rank down to which they
 * are taken, found without sorting: quickselect over weights, a few passes over shrinking parts. */
#include "kernels/cpu/selection.h"

#include <string.h>

enum {
    SMALL = 48,  /* sorted at once */
    SAMPLES = 31 /* from which a pivot is taken */
};

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
        .scores = (float *)(at + 6 * n),
        .keys = (uint32_t *)(at + 7 * n),
    };
    return true;
}

void select_candidates(const struct selection *sel, int row, struct candidates *out)
{
    struct key_range visible = sel->visible[row];
    const struct row_ranges *ranges = &sel->ranges[row];
    int begin = visible.begin;
    out->n = out->n_places = 0;
    for (int i = 0; i <= ranges->n; i++) {
        int end = i < ranges->n ? ranges->range[i].begin : visible.end;
        if (begin < end) {
            out->range[out->n] = (struct key_range){begin, end};
            out->place[out->n++] = out->n_places;
            out->n_places += end - begin;
        }
        if (i < ranges->n)
            begin = ranges->range[i].end;
    }
    out->place[out->n] = out->n_places;
}

int select_place(const struct candidates *candidates, uint32_t key)
{
    for (int i = 0; i < candidates->n; i++)
        if ((int)key >= candidates->range[i].begin && (int)key < candidates->range[i].end)
            return candidates->place[i] + (int)key - candidates->range[i].begin;
    return -1;
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

int32_t select_threshold(const struct selection_kernels *kernels,
                         const struct select_scratch *scratch, int n, bool weighted, double target,
                         double *above)
{
    struct ranked now = {scratch->all.ranks, weighted ? scratch->all.weights : NULL};
    struct ranked high = scratch->buffer[0], low = scratch->buffer[1];
    int32_t bump = 0; /* 1 after a pivot that was the lowest rank: nothing would be split off */
    *above = 0.0;
    while (n > SMALL) {
        /* For counts the share that will be taken is known: aim a little below it. */
        double share = weighted ? 0.5 : (target - *above) / n * 1.2 + 0.08;
        int32_t pivot = pivot_near(now, n, share < 0.5 || !weighted ? share : 0.5);
        pivot = pivot < INT32_MAX ? pivot + bump : pivot;
        double weight;
        int n_high = kernels->split(high, low, now, n, pivot, &weight);
        if (n_high == n && bump == 0) { /* perhaps all are equal */
            int32_t lowest = pivot;
            n_high = kernels->split(high, low, now, n, lowest + 1, &weight);
            if (n_high == 0)
                return lowest;
        }
        if (*above + weight > target) {
            now = (struct ranked){high.ranks, weighted ? high.weights : NULL};
            n = n_high;
        } else {
            *above += weight;
            n -= n_high;
            now = (struct ranked){low.ranks, weighted ? low.weights : NULL};
            low = high;
            high = (struct ranked){now.ranks, scratch->buffer[0].ranks == now.ranks
                                                  ? scratch->buffer[0].weights
                                                  : scratch->buffer[1].weights};
        }
    }
    if (now.ranks == scratch->all.ranks) { /* sorted in a copy */
        memcpy(high.ranks, now.ranks, (size_t)n * sizeof *now.ranks);
        if (weighted)
            memcpy(high.weights, now.weights, (size_t)n * sizeof *now.weights);
        now = (struct ranked){high.ranks, weighted ? high.weights : NULL};
    }
    sort_falling(now, n);
    return threshold_of_sorted(now, n, target, above);
}
