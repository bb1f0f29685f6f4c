/* The inner loops of selection_kernels.h, written once for both vector widths; included by
 * selection_avx2.c and selection_avx512.c. */
#ifndef ATTNSCOPE_KERNELS_CPU_SELECTION_LOOPS_H
#define ATTNSCOPE_KERNELS_CPU_SELECTION_LOOPS_H

#include "kernels/cpu/attention_simd.h"
#include "kernels/cpu/selection_kernels.h"

#if defined(__AVX512F__)

typedef __m512i ivec;
#define ivec_load(p) _mm512_loadu_si512(p)
#define ivec_all(x) _mm512_set1_epi32(x)
#define ivec_count_from(x)                                                                         \
    _mm512_add_epi32(_mm512_set1_epi32((int)(x)),                                                  \
                     _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15))
#define ivec_max(a, b) _mm512_max_epi32(a, b)
#define ivec_above(a, b) ((unsigned)_mm512_cmpgt_epi32_mask(a, b))
#define ivec_equal(a, b) ((unsigned)_mm512_cmpeq_epi32_mask(a, b))

/* Writes the lanes of x that keep names side by side; may write LANES entries. */
ALWAYS_INLINE void ivec_compress(void *to, ivec x, unsigned keep)
{
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32((__mmask16)keep, x));
}

/* Sums of the lanes of x that keep names, in f64. */
typedef __m512d wide;
#define wide_zero() _mm512_setzero_pd()
#define wide_sum(x) _mm512_reduce_add_pd(x)
ALWAYS_INLINE wide wide_add(wide sum, vec x, unsigned keep)
{
    __m512 kept = _mm512_maskz_mov_ps((__mmask16)keep, x);
    sum = _mm512_add_pd(sum, _mm512_cvtps_pd(_mm512_castps512_ps256(kept)));
    return _mm512_add_pd(sum, _mm512_cvtps_pd(_mm512_extractf32x8_ps(kept, 1)));
}
#define ivec_from_vec(x) _mm512_castps_si512(x)

#else

typedef __m256i ivec;
#define ivec_load(p) _mm256_loadu_si256((const __m256i *)(p))
#define ivec_all(x) _mm256_set1_epi32(x)
#define ivec_count_from(x)                                                                         \
    _mm256_add_epi32(_mm256_set1_epi32((int)(x)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
#define ivec_max(a, b) _mm256_max_epi32(a, b)
#define ivec_above(a, b)                                                                           \
    ((unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(a, b))))
#define ivec_equal(a, b)                                                                           \
    ((unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b))))

/* Writes the lanes of x that keep names side by side; may write LANES entries. */
ALWAYS_INLINE void ivec_compress(void *to, ivec x, unsigned keep)
{
    /* Lane numbers that bring the named lanes of a half to its front. */
    static const int32_t order[16][4] = {{0, 0, 0, 0}, {0, 0, 0, 0}, {1, 0, 0, 0}, {0, 1, 0, 0},
                                         {2, 0, 0, 0}, {0, 2, 0, 0}, {1, 2, 0, 0}, {0, 1, 2, 0},
                                         {3, 0, 0, 0}, {0, 3, 0, 0}, {1, 3, 0, 0}, {0, 1, 3, 0},
                                         {2, 3, 0, 0}, {0, 2, 3, 0}, {1, 2, 3, 0}, {0, 1, 2, 3}};
    __m256 all = _mm256_castsi256_ps(x);
    float *at = to;
    __m128i low = _mm_loadu_si128((const __m128i *)order[keep & 15]);
    __m128i high = _mm_loadu_si128((const __m128i *)order[keep >> 4]);
    __m128 high_half = _mm256_extractf128_ps(all, 1);
    _mm_storeu_ps(at, _mm_permutevar_ps(_mm256_castps256_ps128(all), low));
    _mm_storeu_ps(at + __builtin_popcount(keep & 15), _mm_permutevar_ps(high_half, high));
}

/* Sums of the lanes of x that keep names, in f64. */
typedef __m256d wide;
#define wide_zero() _mm256_setzero_pd()
ALWAYS_INLINE double wide_sum(wide x)
{
    __m128d s = _mm_add_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd(x, 1));
    return _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)));
}
ALWAYS_INLINE wide wide_add(wide sum, vec x, unsigned keep)
{
    __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i named = _mm256_and_si256(_mm256_set1_epi32((int)keep), bit);
    __m256 kept = _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_cmpeq_epi32(named, bit)));
    sum = _mm256_add_pd(sum, _mm256_cvtps_pd(_mm256_castps256_ps128(kept)));
    return _mm256_add_pd(sum, _mm256_cvtps_pd(_mm256_extractf128_ps(kept, 1)));
}
#define ivec_from_vec(x) _mm256_castps_si256(x)

#endif

enum { ALL_LANES = (1 << LANES) - 1 };

/* The lanes of the last vector that lie inside of n, when it starts at i. */
ALWAYS_INLINE unsigned lanes_inside(int i, int n)
{
    return n - i >= LANES ? ALL_LANES : (1u << (n - i)) - 1;
}

/* Compiled for this file's instruction set from plain C. */
static void rank(int32_t *restrict ranks, const float *restrict scores, int n)
{
    for (int i = 0; i < n; i++)
        ranks[i] = rank_of(scores[i]);
}

static void weigh(float *restrict weights, const float *restrict scores, float max, float scale,
                  int n)
{
    for (int i = 0; i < n; i++)
        weights[i] = vexp(scale * (scores[i] - max));
}

static void add(float *restrict to, const float *restrict from, float scale, int n)
{
    for (int i = 0; i < n; i++)
        to[i] += scale * from[i];
}

static void draw(uint32_t *images, int n, const struct permutation *permutation)
{
    permutation_draw(images, n, permutation);
}

static int32_t highest(const int32_t *ranks, int n)
{
    int32_t most = NO_RANK;
    for (int i = 0; i < n; i++)
        most = ranks[i] > most ? ranks[i] : most;
    return most;
}

static double total(const float *weights, int n)
{
    int n_whole = n / LANES * LANES;
    wide sum = wide_zero();
    for (int i = 0; i < n_whole; i += LANES)
        sum = wide_add(sum, vec_load(weights + i), ALL_LANES);
    double rest = 0.0;
    for (int i = n_whole; i < n; i++)
        rest += (double)weights[i];
    return wide_sum(sum) + rest;
}

/* Reading a whole vector beyond n is allowed by LIST_SLACK; its lanes are masked off. */
static int split(struct ranked above, struct ranked below, struct ranked all, int n, int32_t pivot,
                 double *above_weight)
{
    ivec limit = ivec_all(pivot);
    wide sum = wide_zero();
    int n_above = 0, n_below = 0;
    for (int i = 0; i < n; i += LANES) {
        ivec x = ivec_load(all.ranks + i);
        unsigned inside = lanes_inside(i, n), low = ivec_above(limit, x) & inside;
        unsigned high = inside & ~low;
        if (all.weights) {
            vec w = vec_load(all.weights + i);
            sum = wide_add(sum, w, high);
            ivec_compress(above.weights + n_above, ivec_from_vec(w), high);
            ivec_compress(below.weights + n_below, ivec_from_vec(w), low);
        }
        ivec_compress(above.ranks + n_above, x, high);
        ivec_compress(below.ranks + n_below, x, low);
        n_above += __builtin_popcount(high);
        n_below += __builtin_popcount(low);
    }
    *above_weight = all.weights ? wide_sum(sum) : (double)n_above;
    return n_above;
}

static int collect(uint32_t *keys, const int32_t *ranks, int n, uint32_t first, int32_t threshold,
                   int64_t *n_ties)
{
    ivec limit = ivec_all(threshold);
    int n_keys = 0;
    for (int i = 0; i < n; i += LANES) {
        ivec x = ivec_load(ranks + i);
        unsigned inside = lanes_inside(i, n);
        unsigned take = ivec_above(x, limit) & inside, ties = ivec_equal(x, limit) & inside;
        if (ties && *n_ties > 0) {
            while (__builtin_popcount(ties) > *n_ties)
                ties &= ~(1u << (31 - __builtin_clz(ties))); /* the last ones stay out */
            *n_ties -= __builtin_popcount(ties);
            take |= ties;
        }
        if (!take)
            continue;
        ivec_compress(keys + n_keys, ivec_count_from(first + (uint32_t)i), take);
        n_keys += __builtin_popcount(take);
    }
    return n_keys;
}

static int unite(uint32_t *keys, uint32_t *bits, const uint32_t *marks, int n, uint32_t first)
{
    ivec none = ivec_all(0);
    int n_keys = 0;
    for (int i = 0; i < n; i += LANES) {
        ivec x = ivec_load(marks + i);
        unsigned take = ~ivec_equal(x, none) & lanes_inside(i, n);
        if (!take)
            continue;
        ivec_compress(keys + n_keys, ivec_count_from(first + (uint32_t)i), take);
        ivec_compress(bits + n_keys, x, take);
        n_keys += __builtin_popcount(take);
    }
    return n_keys;
}

#endif
