/* Inner loops of selections in plain C, and the choice by instruction set. */
#include "kernels/cpu/selection_kernels.h"

#include <math.h>

static void rank(int32_t *ranks, const float *scores, int n)
{
    for (int i = 0; i < n; i++)
        ranks[i] = rank_of(scores[i]);
}

static int32_t highest(const int32_t *ranks, int n)
{
    int32_t most = NO_RANK;
    for (int i = 0; i < n; i++)
        most = ranks[i] > most ? ranks[i] : most;
    return most;
}

static void weigh(float *weights, const float *scores, float max, float scale, int n)
{
    for (int i = 0; i < n; i++)
        weights[i] = expf(scale * (scores[i] - max));
}

static double total(const float *weights, int n)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++)
        sum += (double)weights[i];
    return sum;
}

static void add(float *to, const float *from, float scale, int n)
{
    for (int i = 0; i < n; i++)
        to[i] += scale * from[i];
}

static int split(struct ranked above, struct ranked below, struct ranked all, int n, int32_t pivot,
                 double *above_weight)
{
    int n_above = 0, n_below = 0;
    *above_weight = 0.0;
    for (int i = 0; i < n; i++) {
        int32_t x = all.ranks[i];
        float w = all.weights ? all.weights[i] : 1.0f;
        bool high = x >= pivot;
        struct ranked to = high ? above : below;
        int at = high ? n_above++ : n_below++;
        to.ranks[at] = x;
        if (all.weights)
            to.weights[at] = w;
        if (high)
            *above_weight += (double)w;
    }
    return n_above;
}

static int collect(uint32_t *keys, const int32_t *ranks, int n, uint32_t first, int32_t threshold,
                   int64_t *n_ties)
{
    int n_keys = 0;
    for (int i = 0; i < n; i++) {
        bool tie = ranks[i] == threshold && *n_ties > 0;
        if (tie)
            --*n_ties;
        if (tie || ranks[i] > threshold)
            keys[n_keys++] = first + (uint32_t)i;
    }
    return n_keys;
}

static int unite(uint32_t *keys, uint32_t *bits, const uint32_t *marks, int n, uint32_t first)
{
    int n_keys = 0;
    for (int i = 0; i < n; i++) {
        if (!marks[i])
            continue;
        bits[n_keys] = marks[i];
        keys[n_keys++] = first + (uint32_t)i;
    }
    return n_keys;
}

static void draw(uint32_t *images, int n, const struct permutation *permutation)
{
    for (int i = 0; i < n; i++)
        images[i] = permutation_image(permutation, (uint32_t)i);
}

const struct selection_kernels selection_kernels_reference = {
    rank, highest, weigh, total, add, split, collect, unite, draw,
};

const struct selection_kernels *selection_kernels(enum cpu_isa isa)
{
#if defined(__x86_64__)
    if (isa >= CPU_ISA_AVX512)
        return &selection_kernels_avx512;
    if (isa >= CPU_ISA_AVX2)
        return &selection_kernels_avx2;
#endif
    (void)isa;
    return &selection_kernels_reference;
}
