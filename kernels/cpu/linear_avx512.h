/* Shared by the AVX-512 files: weights as f32 vectors, and the transposition behind packing. */
#ifndef ATTNSCOPE_KERNELS_CPU_LINEAR_AVX512_H
#define ATTNSCOPE_KERNELS_CPU_LINEAR_AVX512_H

#include <immintrin.h>

#include "kernels/cpu/vector_math.h"

/* Elements [i, i + 16) of w as f32. */
static inline __m512 load16(const void *w, enum dtype dtype, size_t i)
{
    switch (dtype) {
    case DTYPE_F16:
        return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)((const uint16_t *)w + i)));
    case DTYPE_BF16:
        return bf16_to_f32_16(_mm256_loadu_si256((const void *)((const uint16_t *)w + i)));
    default:
        return _mm512_loadu_ps((const float *)w + i);
    }
}

/* As load16, of the elements in mask only; the others are 0. */
static inline __m512 load16_masked(const void *w, enum dtype dtype, size_t i, __mmask16 mask)
{
    switch (dtype) {
    case DTYPE_F16:
        return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, (const uint16_t *)w + i));
    case DTYPE_BF16:
        return bf16_to_f32_16(_mm256_maskz_loadu_epi16(mask, (const uint16_t *)w + i));
    default:
        return _mm512_maskz_loadu_ps(mask, (const float *)w + i);
    }
}

/* The first n lanes: none for n <= 0, all for n >= 16. */
static inline __mmask16 mask_first(int n)
{
    if (n <= 0)
        return 0;
    return n >= 16 ? (__mmask16)0xFFFF : (__mmask16)((1u << n) - 1);
}

/* The sums of four vectors, in order. */
static inline __m128 sum4x16(__m512 a, __m512 b, __m512 c, __m512 d)
{
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512 abcd = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xEE));
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/* row[i] lane j becomes row[j] lane i: pairs of rows, then pairs of pairs within 128-bit lanes,
 * then the lanes themselves. */
static inline void transpose_16x16(__m512 row[16])
{
    __m512 t[16];
    for (int i = 0; i < 16; i += 4) {
        __m512 a = _mm512_unpacklo_ps(row[i], row[i + 1]);
        __m512 b = _mm512_unpackhi_ps(row[i], row[i + 1]);
        __m512 c = _mm512_unpacklo_ps(row[i + 2], row[i + 3]);
        __m512 d = _mm512_unpackhi_ps(row[i + 2], row[i + 3]);
        t[i] = _mm512_shuffle_ps(a, c, 0x44);
        t[i + 1] = _mm512_shuffle_ps(a, c, 0xEE);
        t[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
        t[i + 3] = _mm512_shuffle_ps(b, d, 0xEE);
    }
    /* t[4 g + c] lane 4 b + r = original row 4 g + r, lane 4 b + c. */
    for (int c = 0; c < 4; c++) {
        __m512 low01 = _mm512_shuffle_f32x4(t[c], t[4 + c], 0x44);
        __m512 low23 = _mm512_shuffle_f32x4(t[8 + c], t[12 + c], 0x44);
        __m512 high01 = _mm512_shuffle_f32x4(t[c], t[4 + c], 0xEE);
        __m512 high23 = _mm512_shuffle_f32x4(t[8 + c], t[12 + c], 0xEE);
        row[c] = _mm512_shuffle_f32x4(low01, low23, 0x88);
        row[4 + c] = _mm512_shuffle_f32x4(low01, low23, 0xDD);
        row[8 + c] = _mm512_shuffle_f32x4(high01, high23, 0x88);
        row[12 + c] = _mm512_shuffle_f32x4(high01, high23, 0xDD);
    }
}

#endif
