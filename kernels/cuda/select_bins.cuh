/* Histograms in shared memory, and which bin has the n-th largest number.
 *
 * A lane counts in its own column, so that numbers that are alike do not wait for one another. */
#ifndef ATTNSCOPE_KERNELS_CUDA_SELECT_BINS_CUH
#define ATTNSCOPE_KERNELS_CUDA_SELECT_BINS_CUH

#include "kernels/cuda/cuda.cuh"

enum { N_BINS = 256 };

typedef uint32_t bin_columns[N_BINS][WARP];

/* All threads; the caller's next barrier shows it. */
static __device__ __forceinline__ void bins_clear(bin_columns columns)
{
    for (int i = threadIdx.x; i < N_BINS * WARP; i += blockDim.x)
        columns[i / WARP][i % WARP] = 0;
}

static __device__ __forceinline__ void bins_count(bin_columns columns, uint32_t bin)
{
    atomicAdd(&columns[bin][threadIdx.x % WARP], 1u);
}

/* to [N_BINS] = the sums.  All threads, between barriers. */
static __device__ __forceinline__ void bins_sum(bin_columns columns, uint32_t *to)
{
    int lane = threadIdx.x % WARP;
    for (int bin = threadIdx.x / WARP; bin < N_BINS; bin += blockDim.x / WARP) {
        uint32_t n = __reduce_add_sync(0xffffffffu, columns[bin][lane]);
        if (lane == 0)
            to[bin] = n;
    }
}

/* The bin of the n-th largest number, counted from 1, among those counted in bins [N_BINS];
 * *before: how many lie in the bins above it.  One warp. */
static __device__ __forceinline__ int find_bin(const uint32_t *bins, int n, int *before)
{
    int lane = threadIdx.x, own[N_BINS / WARP], sum = 0, found = -1, above = 0;
    /* Lane 0 has the highest bins. */
    int top = N_BINS - 1 - lane * (N_BINS / WARP);
#pragma unroll
    for (int i = 0; i < N_BINS / WARP; i++) {
        own[i] = (int)bins[top - i];
        sum += own[i];
    }
    int up_to = sum;
    for (int offset = 1; offset < WARP; offset *= 2) {
        int below = __shfl_up_sync(0xffffffffu, up_to, offset);
        up_to += lane >= offset ? below : 0;
    }
    int at = up_to - sum;
#pragma unroll
    for (int i = 0; i < N_BINS / WARP; i++) {
        if (found < 0 && at < n && at + own[i] >= n) {
            found = top - i;
            above = at;
        }
        at += own[i];
    }
    int lane_found = __ffs((int)__ballot_sync(0xffffffffu, found >= 0)) - 1;
    *before = __shfl_sync(0xffffffffu, above, lane_found);
    return __shfl_sync(0xffffffffu, found, lane_found);
}

#endif
