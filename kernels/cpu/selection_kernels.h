/* Inner loops over keys: what choosing by score or at random spends its time in, by instruction
 * set.  Scores are compared as `ranks`: integers that order as the floats do.  NO_RANK, below all
 * of them, marks a key that cannot be chosen.
 *
 * Arrays that are written have LIST_SLACK entries to spare beyond their n. */
#ifndef ATTNSCOPE_KERNELS_CPU_SELECTION_KERNELS_H
#define ATTNSCOPE_KERNELS_CPU_SELECTION_KERNELS_H

#include <stdint.h>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/cpu.h"
#include "kernels/permutation.h"

#define NO_RANK INT32_MIN

static inline int32_t rank_of(float score)
{
    int32_t bits = (int32_t)float_bits(score);
    return bits ^ (int32_t)((uint32_t)(bits >> 31) >> 1);
}

static inline float rank_score(int32_t rank)
{
    return float_from_bits((uint32_t)(rank ^ (int32_t)((uint32_t)(rank >> 31) >> 1)));
}

/* What one pass of a selection splits: ranks, and their weights or NULL (1 each). */
struct ranked {
    int32_t *ranks;
    float *weights;
};

struct selection_kernels {
    /* ranks [n] of scores [n]. */
    void (*rank)(int32_t *ranks, const float *scores, int n);
    int32_t (*highest)(const int32_t *ranks, int n);
    /* weights [n] = exp(scale (scores - max)). */
    void (*weigh)(float *weights, const float *scores, float max, float scale, int n);
    /* Sum, in f64. */
    double (*total)(const float *weights, int n);
    /* to [n] += scale * from. */
    void (*add)(float *to, const float *from, float scale, int n);
    /* Splits into those at or above pivot and those below; `above` may be `all`.  Returns how many
     * are above; *above_weight is the sum of their weights. */
    int (*split)(struct ranked above, struct ranked below, struct ranked all, int n, int32_t pivot,
                 double *above_weight);
    /* Writes the numbers first + i of the ranks above threshold, and of the first *n_ties that
     * equal it (which are subtracted), to keys; returns how many. */
    int (*collect)(uint32_t *keys, const int32_t *ranks, int n, uint32_t first, int32_t threshold,
                   int64_t *n_ties);
    /* Moves the marks [n] that are not 0 to bits, and their numbers first + i to keys; returns how
     * many. */
    int (*unite)(uint32_t *keys, uint32_t *bits, const uint32_t *marks, int n, uint32_t first);
    void (*draw)(uint32_t *images, int n, const struct permutation *permutation);
};

const struct selection_kernels *selection_kernels(enum cpu_isa isa);

extern const struct selection_kernels selection_kernels_reference;
#if defined(__x86_64__)
extern const struct selection_kernels selection_kernels_avx2, selection_kernels_avx512;
#endif

#endif
