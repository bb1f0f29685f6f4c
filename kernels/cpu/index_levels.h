/* Rounding to a few levels between the least and the largest of some numbers: bounds of pages and
 * labels of channels.
 * Source: the pseudo-quantisation of DoubleSparse, Yang et al. 2024, arXiv 2408.07092. */
#ifndef ATTNSCOPE_KERNELS_CPU_INDEX_LEVELS_H
#define ATTNSCOPE_KERNELS_CPU_INDEX_LEVELS_H

#include <math.h>

struct levels {
    float low, high; /* the least and the largest number */
    float scale;     /* levels per unit */
    float top;       /* levels are 0 .. top */
};

/* The 2^n_bits levels of x [n]. */
static inline struct levels levels_of(const float *x, int n, int n_bits)
{
    struct levels l = {x[0], x[0], .top = (float)((1 << n_bits) - 1)};
    for (int i = 1; i < n; i++) {
        l.low = x[i] < l.low ? x[i] : l.low;
        l.high = x[i] > l.high ? x[i] : l.high;
    }
    /* By the reciprocal, as the reference divides: it decides which way a half goes. */
    l.scale = l.top * (1.0f / (l.high > l.low ? l.high - l.low : 1.0f));
    return l;
}

/* The nearest level of one of the numbers, halves to even. */
static inline float levels_nearest(const struct levels *l, float x)
{
    float level = rintf((x - l->low) * l->scale);
    return level < 0.0f ? 0.0f : level > l->top ? l->top : level;
}

static inline float levels_value(const struct levels *l, float level)
{
    return level / l->scale + l->low;
}

/* x [n] = the values of their nearest levels. */
static inline void levels_round(float *x, int n, int n_bits)
{
    struct levels l = levels_of(x, n, n_bits);
    for (int i = 0; i < n; i++)
        x[i] = levels_value(&l, levels_nearest(&l, x[i]));
}

#endif
