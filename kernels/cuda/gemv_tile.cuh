/* What a warp does with a tile of weights: products with its columns of x, and sums over lanes. */
#ifndef ATTNSCOPE_KERNELS_CUDA_GEMV_TILE_CUH
#define ATTNSCOPE_KERNELS_CUDA_GEMV_TILE_CUH

#include "kernels/cuda/gemv_order.cuh"

/* Elements 4 half .. 4 half + 3 of a piece of weights. */
static __device__ __forceinline__ float4 widened(uint4 raw, int half, __nv_bfloat16)
{
    uint32_t a = half ? raw.z : raw.x, b = half ? raw.w : raw.y;
    return make_float4(__uint_as_float(a << 16), __uint_as_float(a & 0xFFFF0000u),
                       __uint_as_float(b << 16), __uint_as_float(b & 0xFFFF0000u));
}

static __device__ __forceinline__ float4 widened(uint4 raw, int half, __half)
{
    uint32_t a = half ? raw.z : raw.x, b = half ? raw.w : raw.y;
    float2 low = __half22float2(*(const __half2 *)&a), high = __half22float2(*(const __half2 *)&b);
    return make_float4(low.x, low.y, high.x, high.y);
}

static __device__ __forceinline__ float4 widened(uint4 raw, int, float)
{
    return make_float4(__uint_as_float(raw.x), __uint_as_float(raw.y), __uint_as_float(raw.z),
                       __uint_as_float(raw.w));
}

/* Zeroes what a stage holds beyond the matrix: columns n_valid and up. */
template <typename T, int ROWS>
static __device__ __forceinline__ void clear_tail(char *stage, int n_valid)
{
    const int lane = threadIdx.x % WARP;
    for (int piece = 0; piece < PIECES<ROWS>; piece++)
        for (int r = 0; r < GROUP<ROWS>; r++)
            if ((piece * WARP + lane) * PER_PIECE<T> >= n_valid)
                *(uint4 *)(stage + r * LINE_BYTES<ROWS> + (piece * WARP + lane) * 16) =
                    make_uint4(0, 0, 0, 0);
    ring_stored();
}

/* sums [GROUP, ROWS] += the lane's columns of a tile.   stage [GROUP, LINE_BYTES];  x: the tile's
 * columns of row 0, rows `stride` float4 apart */
template <typename T, int ROWS>
static __device__ __forceinline__ void multiply(float *sums, const char *stage, const float4 *x,
                                                int stride)
{
    constexpr int QUARTERS = PER_PIECE<T> / 4;
    const int lane = threadIdx.x % WARP;
    const uint4 *w = (const uint4 *)stage + lane;
    x += lane;
#pragma unroll
    for (int piece = 0; piece < PIECES<ROWS>; piece++) {
        uint4 raw[GROUP<ROWS>];
#pragma unroll
        for (int r = 0; r < GROUP<ROWS>; r++)
            raw[r] = w[r * (LINE_BYTES<ROWS> / 16) + piece * WARP];
#pragma unroll
        for (int quarter = 0; quarter < QUARTERS; quarter++) {
            float4 xs[ROWS];
#pragma unroll
            for (int row = 0; row < ROWS; row++)
                xs[row] = x[row * stride + (piece * QUARTERS + quarter) * WARP];
#pragma unroll
            for (int r = 0; r < GROUP<ROWS>; r++) {
                const float4 a = widened(raw[r], quarter, T());
#pragma unroll
                for (int row = 0; row < ROWS; row++) {
                    const float4 b = xs[row];
                    float *sum = sums + r * ROWS + row;
                    if (ROWS <= 2) /* few sums: short chains, to be added up */
                        *sum += a.x * b.x + a.y * b.y + (a.z * b.z + a.w * b.w);
                    else
                        *sum = fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, *sum))));
                }
            }
        }
    }
}

/* Sums over the warp of N values per lane, N a power of two up to WARP, by halving what each lane
 * still carries: value [lane / (WARP / N)] in every lane. */
template <int N, int OFFSET = WARP / 2>
static __device__ __forceinline__ float warp_sum_of(float *values)
{
    if constexpr (N == 1 && OFFSET == 0) {
        return values[0];
    } else if constexpr (N == 1) {
        values[0] += __shfl_xor_sync(0xffffffffu, values[0], OFFSET);
        return warp_sum_of<1, OFFSET / 2>(values);
    } else {
        const bool upper = threadIdx.x & OFFSET;
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            const float given = upper ? values[i] : values[i + N / 2];
            const float kept = upper ? values[i + N / 2] : values[i];
            values[i] = kept + __shfl_xor_sync(0xffffffffu, given, OFFSET);
        }
        return warp_sum_of<N / 2, OFFSET / 2>(values);
    }
}

#endif
