/* Sums over the threads of a block. */
#ifndef ATTNSCOPE_KERNELS_CUDA_BLOCK_SCAN_CUH
#define ATTNSCOPE_KERNELS_CUDA_BLOCK_SCAN_CUH

#include "kernels/cuda/cuda.cuh"

/* The sum of x over the threads before this one, and over all.  Every thread calls it; scratch
 * [32] is free again when it returns. */
template <typename number>
static __device__ __forceinline__ number block_scan(number x, number *scratch, number *total)
{
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, n_warps = blockDim.x / WARP;
    number sum = x;
    for (int offset = 1; offset < WARP; offset *= 2) {
        number below = __shfl_up_sync(0xffffffffu, sum, offset);
        sum += lane >= offset ? below : 0;
    }
    if (lane == WARP - 1)
        scratch[warp] = sum;
    __syncthreads();
    number warps = lane < n_warps ? scratch[lane] : 0;
    for (int offset = 1; offset < WARP; offset *= 2) {
        number below = __shfl_up_sync(0xffffffffu, warps, offset);
        warps += lane >= offset ? below : 0;
    }
    *total = __shfl_sync(0xffffffffu, warps, WARP - 1);
    number before = __shfl_sync(0xffffffffu, warps, max(warp - 1, 0));
    __syncthreads();
    return (warp > 0 ? before : 0) + sum - x;
}

#endif
