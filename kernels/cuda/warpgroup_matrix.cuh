/* What warpgroups of sm_90a do: products whose matrices lie in shared memory and run on their own,
 * copies of tiles by the tensor copy engine, and the barriers that tie them together.
 *
 * A warpgroup is 4 consecutive warps, the first a multiple of 4; its warp i owns rows [16 i, 16 i +
 * 16) of a 64-row product, each in the layout of a warp's product (warp_matrix.cuh).  Products run
 * asynchronously: between a product and the wait for it nobody may touch its registers, which
 * registers_settle tells the compiler on both sides.
 * Source: PTX ISA, "Asynchronous warpgroup level matrix instructions". */
#ifndef ATTNSCOPE_KERNELS_CUDA_WARPGROUP_MATRIX_CUH
#define ATTNSCOPE_KERNELS_CUDA_WARPGROUP_MATRIX_CUH

#include <stdint.h>

#include <cuda.h>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* --- Barriers in shared memory ---------------------------------------------------------------- */

/* A phase of a barrier ends after `count` arrivals and the bytes that were announced. */
static __device__ __forceinline__ void barrier_init(uint32_t barrier, int count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

/* After the barriers' inits, before the block's threads meet. */
static __device__ __forceinline__ void barrier_init_fence(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

static __device__ __forceinline__ void barrier_arrive(uint32_t barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/* Arrives, and announces bytes that copies will bring. */
static __device__ __forceinline__ void barrier_arrive_expect(uint32_t barrier, int n_bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier),
                 "r"(n_bytes)
                 : "memory");
}

/* Waits for the end of the phase of that parity; phases count from 0. */
static __device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity)
{
    uint32_t done;
    do
        asm volatile("{\n"
                     ".reg .pred done;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, done;\n"
                     "}"
                     : "=r"(done)
                     : "r"(barrier), "r"(parity)
                     : "memory");
    while (!done);
}

/* --- Barriers of some of a block's threads ---------------------------------------------------- */

/* Waits until n_threads threads, these included, have come to barrier `id` (1 to 15). */
static __device__ __forceinline__ void threads_meet(int id, int n_threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n_threads) : "memory");
}

/* Counts among them without waiting. */
static __device__ __forceinline__ void threads_pass(int id, int n_threads)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(n_threads) : "memory");
}

/* --- Copies ----------------------------------------------------------------------------------- */

/* A box of a tensor of 3 dimensions, at (x, y, z), to shared memory; the bytes count in barrier. */
static __device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap *map, int x, int y,
                                                int z, uint32_t barrier)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(to),
                 "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier)
                 : "memory");
}

/* Makes this thread's ordinary writes to shared memory visible to products and copies. */
static __device__ __forceinline__ void shared_fence(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* --- Registers -------------------------------------------------------------------------------- */

/* Registers per thread that a warpgroup takes from, or leaves to, the others of its block. */
template <int N> static __device__ __forceinline__ void registers_take(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

template <int N> static __device__ __forceinline__ void registers_leave(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

/* What was written to x before is there, and what is read after is not read earlier. */
template <int N> static __device__ __forceinline__ void registers_settle(float (&x)[N][4])
{
#pragma unroll
    for (int i = 0; i < N; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            asm volatile("" : "+f"(x[i][j])::"memory");
}

template <int N> static __device__ __forceinline__ void registers_settle(uint32_t (&x)[N][4])
{
#pragma unroll
    for (int i = 0; i < N; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            asm volatile("" : "+r"(x[i][j])::"memory");
}

/* Keeps a wait that follows behind the computing of x >= 0: nothing else binds arithmetic to its
 * place, and what runs beside products should not come after them. */
static __device__ __forceinline__ void compute_first(float x)
{
    asm volatile("{\n"
                 ".reg .pred never;\n"
                 "setp.lt.f32 never, %0, 0f00000000;\n"
                 "@never nanosleep.u32 1;\n"
                 "}" ::"f"(x));
}

/* --- Products --------------------------------------------------------------------------------- */

/* Before the first product, and before one whose registers were written since the last. */
static __device__ __forceinline__ void products_fence(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

/* Ends a group of products. */
static __device__ __forceinline__ void products_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Waits until at most PENDING groups, the youngest, are under way. */
template <int PENDING> static __device__ __forceinline__ void products_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

/* A matrix in panels of 128-byte lines with the 128-byte swizzle, 8 lines being 1024 bytes from the
 * next 8.  panel_bytes: from panel to panel where lines run across the product's long side (V);
 * ignored where they run along the dimension that is summed over (q, k). */
static __device__ __forceinline__ uint64_t matrix_descriptor(uint32_t address, int panel_bytes)
{
    return (uint64_t)(address >> 4 & 0x3fff) | (uint64_t)(panel_bytes >> 4) << 16 |
           (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

/* A descriptor that starts n_bytes further. */
static __device__ __forceinline__ uint64_t descriptor_at(uint64_t descriptor, int n_bytes)
{
    return descriptor + (uint64_t)(n_bytes >> 4);
}

#define REGISTERS_32                                                                               \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "        \
    "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define REGISTERS_64                                                                               \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "        \
    "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, "        \
    "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, "        \
    "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define OPERANDS_4(x) "+f"(x[0]), "+f"(x[1]), "+f"(x[2]), "+f"(x[3])
#define OPERANDS_32(x)                                                                             \
    OPERANDS_4(x[0]), OPERANDS_4(x[1]), OPERANDS_4(x[2]), OPERANDS_4(x[3]), OPERANDS_4(x[4]),      \
        OPERANDS_4(x[5]), OPERANDS_4(x[6]), OPERANDS_4(x[7])
#define OPERANDS_64(x) OPERANDS_32(x), OPERANDS_32((x + 8))

/* c [64, 128] = a [64, 16] b [128, 16]^T (+ c if add), both in shared memory. */
static __device__ __forceinline__ void multiply_rows(float (&c)[16][4], uint64_t a, uint64_t b,
                                                     int add)
{
    asm volatile("{\n"
                 ".reg .pred add;\n"
                 "setp.ne.b32 add, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" REGISTERS_64 "}, "
                 "%64, %65, add, 1, 1, 0, 0;\n"
                 "}"
                 : OPERANDS_64(c)
                 : "l"(a), "l"(b), "r"(add));
}

/* c [64, 128] += a [64, 16] b [16, 128], a in registers. */
static __device__ __forceinline__ void multiply_columns(float (&c)[16][4], const uint32_t (&a)[4],
                                                        uint64_t b)
{
    asm volatile("{\n"
                 ".reg .pred add;\n"
                 "setp.ne.b32 add, 1, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" REGISTERS_64 "}, "
                 "{%64, %65, %66, %67}, %68, add, 1, 1, 1;\n"
                 "}"
                 : OPERANDS_64(c)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

/* The same with b [16, 64]. */
static __device__ __forceinline__ void multiply_columns(float (&c)[8][4], const uint32_t (&a)[4],
                                                        uint64_t b)
{
    asm volatile("{\n"
                 ".reg .pred add;\n"
                 "setp.ne.b32 add, 1, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" REGISTERS_32 "}, "
                 "{%32, %33, %34, %35}, %36, add, 1, 1, 1;\n"
                 "}"
                 : OPERANDS_32(c)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#undef REGISTERS_32
#undef REGISTERS_64
#undef OPERANDS_4
#undef OPERANDS_32
#undef OPERANDS_64

#endif
#endif
