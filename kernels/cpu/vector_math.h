/* exp for inner loops, in three widths that give the same polynomial: relative error below 2e-7
 * (2 units in the last place) where the result is a normal number; results below 2^-126 are 0, and
 * arguments above 88.376 give what 88.376 gives (2.4e38), never infinity.  NaN gives NaN.
 *
 * exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln 2 / 2; exp(r) by the Taylor series' first
 * eight terms (the next is below 6e-9), r by a two-part ln 2 (Cody and Waite 1980).
 *
 * vexp is plain C without branches: a loop over it is vectorised by the compiler. */
#ifndef ATTNSCOPE_KERNELS_CPU_VECTOR_MATH_H
#define ATTNSCOPE_KERNELS_CPU_VECTOR_MATH_H

#include <math.h>
#include <stdint.h>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "kernels/cpu/convert.h"

#define VEXP_HIGH 88.376f
#define VEXP_LOW -87.336f /* below it the result would be subnormal */
#define VEXP_LOG2E 1.44269504f
#define VEXP_LN2_HIGH 0.693359375f
#define VEXP_LN2_LOW -2.12194440e-4f
#define VEXP_ROUND 12582912.0f /* 1.5 * 2^23: adding it rounds to an integer */
#define VEXP_C2 0.5f
#define VEXP_C3 0.166666667f
#define VEXP_C4 0.0416666667f
#define VEXP_C5 0.00833333333f
#define VEXP_C6 0.00138888889f
#define VEXP_C7 0.000198412698f

static inline float vexp(float x)
{
    float low = x < VEXP_LOW ? 0.0f : 1.0f;
    x = x > VEXP_HIGH ? VEXP_HIGH : x;
    x = x < VEXP_LOW ? VEXP_LOW : x;
    float shifted = x * VEXP_LOG2E + VEXP_ROUND;
    float n = shifted - VEXP_ROUND;
    float r = (x - n * VEXP_LN2_HIGH) - n * VEXP_LN2_LOW;
    float p = VEXP_C7;
    p = p * r + VEXP_C6;
    p = p * r + VEXP_C5;
    p = p * r + VEXP_C4;
    p = p * r + VEXP_C3;
    p = p * r + VEXP_C2;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    /* The low bits of `shifted` hold n. */
    float scale = float_from_bits((float_bits(shifted) + 127u) << 23);
    return p * scale * low;
}

#ifdef __AVX2__
static inline __m256 vexp8(__m256 x)
{
    __m256 in_range = _mm256_cmp_ps(x, _mm256_set1_ps(VEXP_LOW), _CMP_NLT_UQ);
    /* min and max return their second operand for NaN, which is what keeps NaN alive. */
    x = _mm256_min_ps(_mm256_set1_ps(VEXP_HIGH), x);
    x = _mm256_max_ps(_mm256_set1_ps(VEXP_LOW), x);
    __m256 round = _mm256_set1_ps(VEXP_ROUND);
    __m256 shifted = _mm256_fmadd_ps(x, _mm256_set1_ps(VEXP_LOG2E), round);
    __m256 n = _mm256_sub_ps(shifted, round);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(VEXP_LN2_HIGH), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(VEXP_LN2_LOW), r);
    __m256 p = _mm256_set1_ps(VEXP_C7);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(VEXP_C6));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(VEXP_C5));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(VEXP_C4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(VEXP_C3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(VEXP_C2));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    __m256i exponent = _mm256_add_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(127));
    __m256 scale = _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
    return _mm256_and_ps(_mm256_mul_ps(p, scale), in_range);
}

static inline float vsum8(__m256 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

static inline __m256 bf16_to_f32_8(__m128i h)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
#endif

#ifdef __AVX512F__
static inline __m512 vexp16(__m512 x)
{
    __mmask16 in_range = _mm512_cmp_ps_mask(x, _mm512_set1_ps(VEXP_LOW), _CMP_NLT_UQ);
    x = _mm512_min_ps(_mm512_set1_ps(VEXP_HIGH), x);
    x = _mm512_max_ps(_mm512_set1_ps(VEXP_LOW), x);
    __m512 round = _mm512_set1_ps(VEXP_ROUND);
    __m512 shifted = _mm512_fmadd_ps(x, _mm512_set1_ps(VEXP_LOG2E), round);
    __m512 n = _mm512_sub_ps(shifted, round);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(VEXP_LN2_HIGH), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(VEXP_LN2_LOW), r);
    __m512 p = _mm512_set1_ps(VEXP_C7);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(VEXP_C6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(VEXP_C5));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(VEXP_C4));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(VEXP_C3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(VEXP_C2));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    __m512i exponent = _mm512_add_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(127));
    __m512 scale = _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
    return _mm512_maskz_mul_ps(in_range, p, scale);
}

static inline __m512 bf16_to_f32_16(__m256i h)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
#endif

#endif
