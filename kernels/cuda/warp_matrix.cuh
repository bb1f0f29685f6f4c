/* What a warp does with matrices of bf16: copies that run by themselves, loads of fragments from
 * shared memory, and products.
 *
 * The fragments of a 16 x 8 x 16 product, with g = lane / 4 and t = lane % 4, two elements a word,
 * the first in its low half:
 *   a[0] (row g,     columns 2t, 2t + 1)    a[2] (row g,     columns 2t + 8, 2t + 9)
 *   a[1] (row g + 8, columns 2t, 2t + 1)    a[3] (row g + 8, columns 2t + 8, 2t + 9)
 *   b[0] (rows 2t, 2t + 1, column g)        b[1] (rows 2t + 8, 2t + 9, column g)
 *   c[0], c[1] (row g, columns 2t, 2t + 1)  c[2], c[3] (row g + 8, columns 2t, 2t + 1)
 * Source: PTX ISA, "Matrix fragments for mma.m16n8k16". */
#ifndef ATTNSCOPE_KERNELS_CUDA_WARP_MATRIX_CUH
#define ATTNSCOPE_KERNELS_CUDA_WARP_MATRIX_CUH

#include <stdint.h>

#include <cuda_bf16.h>

static __device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* 16 bytes to shared memory, zeros unless there.  `from` is not read then. */
static __device__ __forceinline__ void copy_async_16(uint32_t to, const void *from, bool there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(there ? 16 : 0)
                 : "memory");
}

/* Closes this thread's group of copies. */
static __device__ __forceinline__ void copy_async_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most PENDING of this thread's groups, the youngest, are under way. */
template <int PENDING> static __device__ __forceinline__ void copy_async_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

/* Four 8 x 8 matrices: lane l gives the address of row l % 8 of matrix l / 8. */
static __device__ __forceinline__ void load_matrices(uint32_t m[4], uint32_t row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(row)
                 : "memory");
}

/* The same, each matrix transposed. */
static __device__ __forceinline__ void load_matrices_transposed(uint32_t m[4], uint32_t row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(row)
                 : "memory");
}

/* An 8 x 8 matrix, lane l holding (row l / 4, columns 2 (l % 4) and the next), transposed. */
static __device__ __forceinline__ uint32_t transpose_matrix(uint32_t m)
{
    uint32_t out;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(m));
    return out;
}

/* c += a b. */
static __device__ __forceinline__ void multiply_add(float c[4], const uint32_t a[4],
                                                    const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#define LOG2_E 1.4426950408889634f

/* 2^x, relative error below 2^-22; 0 for -infinity. */
static __device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* log2 x to 2^-22 of its size or of 1. */
static __device__ __forceinline__ float log2_fast(float x)
{
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Two numbers as bf16, the first in the low half. */
static __device__ __forceinline__ uint32_t pack_bf16(float x, float y)
{
    __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
    return (uint32_t)__bfloat16_as_ushort(pair.x) | (uint32_t)__bfloat16_as_ushort(pair.y) << 16;
}

/* Two numbers as the sums of two bf16 each: to 2^-17 of their size. */
static __device__ __forceinline__ void split_bf16(float x, float y, uint32_t *high, uint32_t *low)
{
    *high = pack_bf16(x, y);
    *low = pack_bf16(x - __uint_as_float(*high << 16), y - __uint_as_float(*high & 0xffff0000u));
}

#endif
