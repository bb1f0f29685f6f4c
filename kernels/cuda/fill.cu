/* Random numbers for benchmarks: element i is word i % 4 of Philox block i / 4, as on the cpu
 * backend. */
#include "kernels/cuda/cuda.cuh"

#include "kernels/philox.h"

/* Tells these numbers from the draws of tokens and maskers: "fill". */
#define PHILOX_FILL 0x66696C6Cu

enum { FILL_THREADS = 256, BLOCKS_PER_SM = 8 };

static __device__ __forceinline__ void store(float *to, float x)
{
    *to = x;
}

static __device__ __forceinline__ void store(__half *to, float x)
{
    *to = __float2half_rn(x);
}

static __device__ __forceinline__ void store(__nv_bfloat16 *to, float x)
{
    *to = __float2bfloat16_rn(x);
}

/* A thread takes every (grid)-th block of four numbers. */
template <typename T>
static __global__ void __launch_bounds__(FILL_THREADS)
    fill_kernel(T *p, size_t n, float scale, uint64_t seed)
{
    dependency_wait();
    size_t stride = (size_t)gridDim.x * FILL_THREADS;
    for (size_t block = (size_t)blockIdx.x * FILL_THREADS + threadIdx.x; block * 4 < n;
         block += stride) {
        struct philox random =
            philox_4x32(seed, (uint32_t)block, (uint32_t)(block >> 32), 0, PHILOX_FILL);
        for (size_t j = 0; j < 4 && block * 4 + j < n; j++) {
            float x = __fsub_rn(2.0f * philox_unit(random.word[j]), 1.0f);
            store(p + block * 4 + j, __fmul_rn(x, scale));
        }
    }
}

void cuda_fill_random(struct device *dev, void *p, size_t n, enum dtype dtype, float scale,
                      uint64_t seed)
{
    dim3 grid(dev->n_sms * BLOCKS_PER_SM), block(FILL_THREADS);
    if (n == 0)
        return;
    switch (dtype) {
    case DTYPE_F32:
        cuda_launch(dev, fill_kernel<float>, grid, block, 0, (float *)p, n, scale, seed);
        break;
    case DTYPE_F16:
        cuda_launch(dev, fill_kernel<__half>, grid, block, 0, (__half *)p, n, scale, seed);
        break;
    case DTYPE_BF16:
        cuda_launch(dev, fill_kernel<__nv_bfloat16>, grid, block, 0, (__nv_bfloat16 *)p, n, scale,
                    seed);
        break;
    }
}
