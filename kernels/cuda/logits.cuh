/* Walks over the vocabulary, a chunk to a block, and sums over a block.  Sums of floats are taken
 * in a fixed order, so that the same logits always give the same bits. */
#ifndef ATTNSCOPE_KERNELS_CUDA_LOGITS_CUH
#define ATTNSCOPE_KERNELS_CUDA_LOGITS_CUH

#include "kernels/cuda/cuda.cuh"

enum {
    LOGITS_THREADS = 256,
    LOGITS_PER_THREAD = 4,
    LOGITS_PER_BLOCK = LOGITS_THREADS * LOGITS_PER_THREAD,
    LOGITS_WARPS = LOGITS_THREADS / WARP,
    /* Workspaces are sized for vocabularies up to this; larger ones grow them. */
    RESERVED_VOCABULARY = 1 << 20
};

static inline int logits_chunks(int vocab_size)
{
    return ceil_div(vocab_size, LOGITS_PER_BLOCK);
}

struct logits_sum {
    float max;  /* -INFINITY if no number lies above it; NaN does not count */
    double sum; /* of exp(logit - max) */
};

/* Orders as the floats do; -0 as 0; x is no NaN.  Never 0. */
static __device__ __forceinline__ uint32_t ordered_key(float x)
{
    uint32_t bits = __float_as_uint(x == 0.0f ? 0.0f : x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* --- Over a block: every thread calls, every thread gets the result ------------------------- */

static __device__ __forceinline__ double block_sum(double x)
{
    __shared__ double warps[LOGITS_WARPS];
    for (int offset = WARP / 2; offset > 0; offset /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, offset);
    __syncthreads(); /* the last sum has been read */
    if (threadIdx.x % WARP == 0)
        warps[threadIdx.x / WARP] = x;
    __syncthreads();
    x = 0;
    for (int i = 0; i < LOGITS_WARPS; i++)
        x += warps[i];
    return x;
}

static __device__ __forceinline__ float block_max(float x)
{
    __shared__ float warps[LOGITS_WARPS];
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % WARP == 0)
        warps[threadIdx.x / WARP] = x;
    __syncthreads();
    for (int i = 0; i < LOGITS_WARPS; i++)
        x = fmaxf(x, warps[i]);
    return x;
}

/* The sum over the threads before this one, and over all. */
static __device__ __forceinline__ unsigned long long block_before(unsigned long long x,
                                                                  unsigned long long *total)
{
    __shared__ unsigned long long warps[LOGITS_WARPS];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    unsigned long long sum = x, before = 0;
    for (int offset = 1; offset < WARP; offset *= 2) {
        unsigned long long other = __shfl_up_sync(0xffffffffu, sum, offset);
        sum += lane >= offset ? other : 0;
    }
    __syncthreads();
    if (lane == WARP - 1)
        warps[warp] = sum;
    __syncthreads();
    *total = 0;
    for (int i = 0; i < LOGITS_WARPS; i++) {
        before += i < warp ? warps[i] : 0;
        *total += warps[i];
    }
    return before + sum - x;
}

/* Counts the block as done; true in the block that is last, which may read what the others wrote
 * before (past L1: __ldcg).  The counter is zero again then. */
static __device__ __forceinline__ bool block_is_last(uint32_t *ticket)
{
    __shared__ bool is_last;
    __syncthreads();
    if (threadIdx.x == 0) {
        is_last = ticket_take(ticket) == gridDim.x - 1;
        if (is_last)
            *ticket = 0;
    }
    __syncthreads();
    return is_last;
}

/* --- Chunks --------------------------------------------------------------------------------- */

/* The logit that is this thread's number i of the block's chunk. */
static __device__ __forceinline__ int logit_id(int i)
{
    return blockIdx.x * LOGITS_PER_BLOCK + i * LOGITS_THREADS + (int)threadIdx.x;
}

/* This thread's logits of the block's chunk; NaN where there is none. */
static __device__ __forceinline__ void load_chunk(float x[LOGITS_PER_THREAD], const float *logits,
                                                  int vocab_size)
{
#pragma unroll
    for (int i = 0; i < LOGITS_PER_THREAD; i++)
        x[i] = logit_id(i) < vocab_size ? logits[logit_id(i)] : NAN;
}

static __device__ __forceinline__ struct logits_sum chunk_sum(const float x[LOGITS_PER_THREAD])
{
    struct logits_sum result = {-INFINITY, 0.0};
    float max = -INFINITY;
    double sum = 0;
#pragma unroll
    for (int i = 0; i < LOGITS_PER_THREAD; i++)
        max = fmaxf(max, x[i]); /* fmaxf passes over NaN */
    result.max = block_max(max);
    if (isinf(result.max))
        return result;
#pragma unroll
    for (int i = 0; i < LOGITS_PER_THREAD; i++)
        sum += isnan(x[i]) ? 0.0 : (double)expf(x[i] - result.max);
    result.sum = block_sum(sum);
    return result;
}

/* Sum number i of those that lie stride bytes apart. */
static __device__ __forceinline__ struct logits_sum load_sum(const struct logits_sum *sums,
                                                             size_t stride, int i)
{
    const struct logits_sum *from = (const struct logits_sum *)((const char *)sums + i * stride);
    struct logits_sum sum = {__ldcg(&from->max), __ldcg(&from->sum)};
    return sum;
}

/* log(sum exp(logit)) over n chunks: -INFINITY or INFINITY where the largest logit is so. */
static __device__ __forceinline__ double combine_sums(const struct logits_sum *sums, size_t stride,
                                                      int n)
{
    float max = -INFINITY;
    double sum = 0;
    for (int i = threadIdx.x; i < n; i += LOGITS_THREADS)
        max = fmaxf(max, load_sum(sums, stride, i).max);
    max = block_max(max);
    if (isinf(max))
        return (double)max;
    for (int i = threadIdx.x; i < n; i += LOGITS_THREADS) {
        struct logits_sum chunk = load_sum(sums, stride, i);
        if (chunk.sum > 0)
            sum += chunk.sum * exp((double)chunk.max - (double)max);
    }
    return (double)max + log(block_sum(sum));
}

#endif
