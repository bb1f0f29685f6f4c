/* Drawing a token from logits, and the order of floats as integers. */
#ifndef ATTNSCOPE_KERNELS_CUDA_SAMPLE_CUH
#define ATTNSCOPE_KERNELS_CUDA_SAMPLE_CUH

#include "kernels/cuda/cuda.cuh"

/* Orders as the floats do; -0 as 0; x is no NaN.  Never 0. */
static __device__ __forceinline__ uint32_t ordered_key(float x)
{
    uint32_t bits = __float_as_uint(x == 0.0f ? 0.0f : x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* Replaces the greedy token of *pick by a draw, unless there is none to draw from.
 * weights [vocab_size] (device) is room to work in. */
void cuda_sample(struct device *dev, struct pick *pick, const float *logits, int vocab_size,
                 float *weights, const struct sampling *sampling, const struct step_state *step);

#endif
