/* Rounding to a few levels between the least and the largest of some numbers, operation by
 * operation as kernels/cpu/index_levels.h does it, so that both give the same bits.
 * Source: the pseudo-quantisation of DoubleSparse, Yang et al. 2024, arXiv 2408.07092. */
#ifndef ATTNSCOPE_KERNELS_CUDA_INDEX_LEVELS_CUH
#define ATTNSCOPE_KERNELS_CUDA_INDEX_LEVELS_CUH

struct levels {
    float low, high; /* the least and the largest number */
    float scale;     /* levels per unit */
    float top;       /* levels are 0 .. top */
};

static __device__ __forceinline__ struct levels levels_between(float low, float high, int n_bits)
{
    struct levels l = {low, high, 0, (float)((1 << n_bits) - 1)};
    /* By the reciprocal, as the reference divides: it decides which way a half goes. */
    l.scale = __fmul_rn(l.top, __fdiv_rn(1.0f, high > low ? __fsub_rn(high, low) : 1.0f));
    return l;
}

/* The nearest level of one of the numbers, halves to even. */
static __device__ __forceinline__ float levels_nearest(const struct levels *l, float x)
{
    float level = rintf(__fmul_rn(__fsub_rn(x, l->low), l->scale));
    return level < 0.0f ? 0.0f : level > l->top ? l->top : level;
}

static __device__ __forceinline__ float levels_value(const struct levels *l, float level)
{
    return __fadd_rn(__fdiv_rn(level, l->scale), l->low);
}

#endif
