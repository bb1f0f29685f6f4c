/* A stage of shared memory that a warp fills from device memory while it works on others, with an
 * mbarrier that tells when the bytes are there.
 *
 * On sm_90 lane 0 asks the copy engine for whole pieces; before, every lane copies 16 bytes at a
 * time.  Either way the warp calls all functions together, the stage is refilled only after a
 * __syncwarp behind its last read, and a stage is waited for with the parity of its use: 0 the
 * first time, then 1, 0, ... */
#ifndef ATTNSCOPE_KERNELS_CUDA_GEMV_RING_CUH
#define ATTNSCOPE_KERNELS_CUDA_GEMV_RING_CUH

#include "kernels/cuda/cuda.cuh"

#if !defined(RING_BULK) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define RING_BULK 1
#elif !defined(RING_BULK)
#define RING_BULK 0
#endif

enum { COPY_BYTES = 16 }; /* what every piece and address is a multiple of */

/* The same number, which the compiler keeps in a register where it would compute it again. */
static __device__ __forceinline__ int kept(int x)
{
    asm volatile("" : "+r"(x));
    return x;
}

/* Shared memory as instructions address it. */
static __device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)kept((int)__cvta_generic_to_shared(p));
}

/* Makes the warp's barriers [n] (8 bytes each) ready; ends with the warp in step. */
static __device__ __forceinline__ void ring_open(uint32_t barriers, int n)
{
    if (threadIdx.x % WARP == 0) {
#pragma unroll 1
        for (int i = 0; i < n; i++)
            asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barriers + 8 * i),
                         "r"(RING_BULK ? 1 : WARP)
                         : "memory");
#if RING_BULK
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
    }
    __syncwarp();
}

/* Announces that n_bytes will be copied into the barrier's stage. */
static __device__ __forceinline__ void ring_expect(uint32_t barrier, uint32_t n_bytes)
{
#if RING_BULK
    if (threadIdx.x % WARP == 0)
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier),
                     "r"(n_bytes)
                     : "memory");
#endif
}

/* to [n_bytes] (shared memory) = from [n_bytes] (device memory), later; n_bytes <= LINE_BYTES. */
template <int LINE_BYTES>
static __device__ __forceinline__ void ring_copy(uint32_t to, const char *from, uint32_t n_bytes,
                                                 uint32_t barrier, uint64_t policy)
{
    const uint32_t lane = threadIdx.x % WARP;
#if RING_BULK
    if (lane == 0)
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
                     ".L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(to),
                     "l"(from), "r"(n_bytes), "r"(barrier), "l"(policy)
                     : "memory");
#else
#pragma unroll
    for (uint32_t at = 0; at < LINE_BYTES; at += WARP * COPY_BYTES)
        if (lane * COPY_BYTES + at < n_bytes)
            asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(
                             to + lane * COPY_BYTES + at),
                         "l"(from + lane * COPY_BYTES + at), "l"(policy)
                         : "memory");
#endif
}

/* After the last ring_copy of a stage. */
static __device__ __forceinline__ void ring_commit(uint32_t barrier)
{
#if !RING_BULK
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
#endif
}

/* After ordinary stores into a stage, before it is copied into again. */
static __device__ __forceinline__ void ring_stored(void)
{
#if RING_BULK
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

/* Waits until the stage's bytes are there. */
static __device__ __forceinline__ void ring_wait(uint32_t barrier, uint32_t parity)
{
    uint32_t done;
    do {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
        asm volatile("{\n"
                     ".reg .pred p;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n"
                     "}\n"
                     : "=r"(done)
                     : "r"(barrier), "r"(parity)
                     : "memory");
#else
        asm volatile("{\n"
                     ".reg .pred p;\n"
                     "mbarrier.test_wait.parity.shared.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n"
                     "}\n"
                     : "=r"(done)
                     : "r"(barrier), "r"(parity)
                     : "memory");
#endif
    } while (!done);
}

#endif
