/* One vocabulary for the two vector widths, so that each inner loop is written once.  A file is
 * compiled for one of them: *_avx2.c has 8 lanes, *_avx512.c has 16. */
#ifndef ATTNSCOPE_KERNELS_CPU_ATTENTION_SIMD_H
#define ATTNSCOPE_KERNELS_CPU_ATTENTION_SIMD_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/vector_math.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)

enum { LANES = 16 };
typedef __m512 vec;

#define vec_zero() _mm512_setzero_ps()
#define vec_all(x) _mm512_set1_ps(x)
#define vec_load(p) _mm512_loadu_ps(p)
#define vec_store(p, x) _mm512_storeu_ps(p, x)
#define vec_fma(a, b, c) _mm512_fmadd_ps(a, b, c)
#define vec_mul(a, b) _mm512_mul_ps(a, b)
#define vec_add(a, b) _mm512_add_ps(a, b)
#define vec_sub(a, b) _mm512_sub_ps(a, b)
#define vec_max(a, b) _mm512_max_ps(a, b)
#define vec_exp(x) vexp16(x)

ALWAYS_INLINE vec vec_load_bf16(const uint16_t *p)
{
    return bf16_to_f32_16(_mm256_loadu_si256((const __m256i *)p));
}

/* The first n < LANES elements, then zeros; reads no further. */
ALWAYS_INLINE vec vec_load_part(const float *p, int n)
{
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}

ALWAYS_INLINE vec vec_load_bf16_part(const uint16_t *p, int n)
{
    return bf16_to_f32_16(_mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1), p));
}

ALWAYS_INLINE float vec_max_lane(vec x)
{
    return _mm512_reduce_max_ps(x);
}

ALWAYS_INLINE float vec_sum_lanes(vec x)
{
    return _mm512_reduce_add_ps(x);
}

/* Lane i of the result is the sum of the lanes of a[i]. */
ALWAYS_INLINE vec vec_sum_each(const vec *a)
{
    __m512 b[4];
    for (int i = 0; i < 4; i++) {
        __m512 lo = _mm512_add_ps(_mm512_unpacklo_ps(a[4 * i], a[4 * i + 1]),
                                  _mm512_unpackhi_ps(a[4 * i], a[4 * i + 1]));
        __m512 hi = _mm512_add_ps(_mm512_unpacklo_ps(a[4 * i + 2], a[4 * i + 3]),
                                  _mm512_unpackhi_ps(a[4 * i + 2], a[4 * i + 3]));
        __m512d lo_d = _mm512_castps_pd(lo), hi_d = _mm512_castps_pd(hi);
        b[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(lo_d, hi_d)),
                             _mm512_castpd_ps(_mm512_unpackhi_pd(lo_d, hi_d)));
    }
    /* b[i]: four partial sums, one per 128-bit lane, of a[4 i .. 4 i + 3]. */
    __m512 c0 = _mm512_add_ps(_mm512_shuffle_f32x4(b[0], b[1], 0x88),
                              _mm512_shuffle_f32x4(b[0], b[1], 0xDD));
    __m512 c1 = _mm512_add_ps(_mm512_shuffle_f32x4(b[2], b[3], 0x88),
                              _mm512_shuffle_f32x4(b[2], b[3], 0xDD));
    return _mm512_add_ps(_mm512_shuffle_f32x4(c0, c1, 0x88), _mm512_shuffle_f32x4(c0, c1, 0xDD));
}

/* s [n] += bias (NULL: constant) where bit `head` of bits (NULL: all) is set, else -inf, for up to
 * 16 keys; what lies beyond n becomes -inf. */
ALWAYS_INLINE void vec_keep_bits(float *s, const uint32_t *bits, int head, const float *bias,
                                 float constant, int n)
{
    __mmask16 tail = n < LANES ? (__mmask16)((1u << n) - 1) : (__mmask16)0xFFFF;
    __m512i word = bits ? _mm512_maskz_loadu_epi32(tail, bits) : _mm512_set1_epi32(-1);
    __m512i bit = _mm512_set1_epi32((int)(1u << head));
    __mmask16 keep = _mm512_mask_test_epi32_mask(tail, word, bit);
    __m512 add = bias ? _mm512_maskz_loadu_ps(tail, bias) : _mm512_set1_ps(constant);
    __m512 sum = _mm512_add_ps(_mm512_loadu_ps(s), add);
    _mm512_storeu_ps(s, _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), keep, sum));
}

/* x where begin <= key < end, lane by lane, else -inf. */
ALWAYS_INLINE vec vec_keep_between(vec x, int key, const int32_t *begin, const int32_t *end)
{
    __m512i k = _mm512_set1_epi32(key);
    __mmask16 keep = _mm512_cmple_epi32_mask(_mm512_loadu_si512(begin), k) &
                     _mm512_cmpgt_epi32_mask(_mm512_loadu_si512(end), k);
    return _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), keep, x);
}

#else

enum { LANES = 8 };
typedef __m256 vec;

#define vec_zero() _mm256_setzero_ps()
#define vec_all(x) _mm256_set1_ps(x)
#define vec_load(p) _mm256_loadu_ps(p)
#define vec_store(p, x) _mm256_storeu_ps(p, x)
#define vec_fma(a, b, c) _mm256_fmadd_ps(a, b, c)
#define vec_mul(a, b) _mm256_mul_ps(a, b)
#define vec_add(a, b) _mm256_add_ps(a, b)
#define vec_sub(a, b) _mm256_sub_ps(a, b)
#define vec_max(a, b) _mm256_max_ps(a, b)
#define vec_exp(x) vexp8(x)

ALWAYS_INLINE vec vec_load_bf16(const uint16_t *p)
{
    return bf16_to_f32_8(_mm_loadu_si128((const __m128i *)p));
}

ALWAYS_INLINE __m256i vec_part_mask(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* The first n < LANES elements, then zeros; reads no further. */
ALWAYS_INLINE vec vec_load_part(const float *p, int n)
{
    return _mm256_maskload_ps(p, vec_part_mask(n));
}

ALWAYS_INLINE vec vec_load_bf16_part(const uint16_t *p, int n)
{
    uint16_t part[LANES] = {0};
    memcpy(part, p, (size_t)n * sizeof *p);
    return vec_load_bf16(part);
}

ALWAYS_INLINE float vec_max_lane(vec x)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

ALWAYS_INLINE float vec_sum_lanes(vec x)
{
    return vsum8(x);
}

/* Lane i of the result is the sum of the lanes of a[i]. */
ALWAYS_INLINE vec vec_sum_each(const vec *a)
{
    __m256 lo = _mm256_hadd_ps(_mm256_hadd_ps(a[0], a[1]), _mm256_hadd_ps(a[2], a[3]));
    __m256 hi = _mm256_hadd_ps(_mm256_hadd_ps(a[4], a[5]), _mm256_hadd_ps(a[6], a[7]));
    return _mm256_add_ps(_mm256_permute2f128_ps(lo, hi, 0x20),
                         _mm256_permute2f128_ps(lo, hi, 0x31));
}

/* As above, for up to 8 keys. */
ALWAYS_INLINE void vec_keep_bits(float *s, const uint32_t *bits, int head, const float *bias,
                                 float constant, int n)
{
    __m256i tail = vec_part_mask(n);
    __m256i word = bits ? _mm256_maskload_epi32((const int *)bits, tail) : tail;
    __m256i bit = _mm256_set1_epi32((int)(1u << head));
    __m256i drop = _mm256_cmpeq_epi32(_mm256_and_si256(word, bit), _mm256_setzero_si256());
    __m256 add = bias ? _mm256_maskload_ps(bias, tail) : _mm256_set1_ps(constant);
    __m256 sum = _mm256_add_ps(_mm256_loadu_ps(s), add);
    _mm256_storeu_ps(s,
                     _mm256_blendv_ps(sum, _mm256_set1_ps(-INFINITY), _mm256_castsi256_ps(drop)));
}

/* x where begin <= key < end, lane by lane, else -inf. */
ALWAYS_INLINE vec vec_keep_between(vec x, int key, const int32_t *begin, const int32_t *end)
{
    __m256i k = _mm256_set1_epi32(key);
    __m256i early = _mm256_cmpgt_epi32(_mm256_loadu_si256((const __m256i *)begin), k);
    __m256i keep =
        _mm256_andnot_si256(early, _mm256_cmpgt_epi32(_mm256_loadu_si256((const __m256i *)end), k));
    return _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), x, _mm256_castsi256_ps(keep));
}

#endif
#endif
