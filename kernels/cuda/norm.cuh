/* RMS norm and layer norm of one row, as blocks compute them, and sums over a block. */
#ifndef ATTNSCOPE_KERNELS_CUDA_NORM_CUH
#define ATTNSCOPE_KERNELS_CUDA_NORM_CUH

#include "kernels/cuda/cuda.cuh"

enum { MAX_WARPS = 32 }; /* of a block */

/* struct norm as kernels take it, by value. */
struct row_norm {
    bool present;
    bool layer;          /* layer norm, otherwise RMS norm */
    const float *weight; /* [dim] */
    const float *bias;   /* [dim] or NULL */
    float eps;
};

static inline struct row_norm row_norm_of(const struct norm *norm)
{
    struct row_norm out = {};
    if (!norm)
        return out;
    out.present = true;
    out.layer = norm->kind == NORM_LAYER;
    out.weight = norm->weight;
    out.bias = out.layer ? norm->bias : NULL;
    out.eps = norm->eps;
    return out;
}

/* Sum of x over the block's threads, the same in each of them.  blockDim.x is a multiple of WARP;
 * all threads call it;   partial [MAX_WARPS] in shared memory */
static __device__ __forceinline__ float block_sum(float x, float *partial)
{
    x = warp_sum(x);
    __syncthreads(); /* partial may still be read from the last call */
    if (threadIdx.x % WARP == 0)
        partial[threadIdx.x / WARP] = x;
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < (int)blockDim.x / WARP; i++)
        sum += partial[i];
    return sum;
}

/* normalised = (x - mean) * scale * weight + bias. */
struct row_moments {
    float mean, scale;
};

/* Moments of x [n] by a whole block; scale 1 without a norm.   partial [MAX_WARPS] in shared memory
 * Sources: Zhang and Sennrich 2019, eq. 4; Ba et al. 2016. */
static __device__ __forceinline__ struct row_moments
block_moments(const float *x, int n, const struct row_norm *norm, float *partial)
{
    struct row_moments moments = {0, 1};
    if (!norm->present)
        return moments;
    if (norm->layer) {
        float sum = 0;
        for (int i = threadIdx.x; i < n; i += blockDim.x)
            sum += x[i];
        moments.mean = block_sum(sum, partial) / (float)n;
    }
    float squares = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        squares += (x[i] - moments.mean) * (x[i] - moments.mean);
    moments.scale = rsqrtf(block_sum(squares, partial) / (float)n + norm->eps);
    return moments;
}

static __device__ __forceinline__ float normalised(float x, int i, struct row_moments moments,
                                                   const struct row_norm *norm)
{
    if (!norm->present)
        return x;
    float y = (x - moments.mean) * moments.scale * norm->weight[i];
    return norm->bias ? y + norm->bias[i] : y;
}

#endif
