/* The inner loops of index_kernels.h, written once for both vector widths; included by
 * index_avx2.c and index_avx512.c. */
#ifndef ATTNSCOPE_KERNELS_CPU_INDEX_LOOPS_H
#define ATTNSCOPE_KERNELS_CPU_INDEX_LOOPS_H

#include <math.h>
#include <string.h>

#include "kernels/cpu/attention_simd.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/index_kernels.h"

enum { TILE_ROWS = 4, TILE_VECTORS = 32 / LANES, LABEL_VECTORS = LABEL_KEYS / LANES };

ALWAYS_INLINE vec load_weights(const void *w, bool bf16, size_t at)
{
    return bf16 ? vec_load_bf16((const uint16_t *)w + at) : vec_load((const float *)w + at);
}

/* Outputs [n_vectors * LANES] from `first` on of rows [n_rows] at once: one load of w serves all
 * rows. */
ALWAYS_INLINE void linear_tile(float *y, const float *x, const void *w, bool bf16, const float *b,
                               int first, int n_rows, int n_vectors, int n_in, int n_out)
{
    vec sum[TILE_ROWS][TILE_VECTORS];
    for (int r = 0; r < n_rows; r++)
        for (int v = 0; v < n_vectors; v++)
            sum[r][v] = vec_load(b + first + v * LANES);
    for (int i = 0; i < n_in; i++)
        for (int v = 0; v < n_vectors; v++) {
            vec weight =
                load_weights(w, bf16, (size_t)i * (size_t)n_out + (size_t)(first + v * LANES));
            for (int r = 0; r < n_rows; r++)
                sum[r][v] = vec_fma(vec_all(x[r * n_in + i]), weight, sum[r][v]);
        }
    for (int r = 0; r < n_rows; r++)
        for (int v = 0; v < n_vectors; v++)
            vec_store(y + r * n_out + first + v * LANES, sum[r][v]);
}

ALWAYS_INLINE void linear_rows(float *y, const float *x, const void *w, bool bf16, const float *b,
                               int n_rows, int n_in, int n_out)
{
    int o = 0;
    for (; o + TILE_VECTORS * LANES <= n_out; o += TILE_VECTORS * LANES)
        linear_tile(y, x, w, bf16, b, o, n_rows, TILE_VECTORS, n_in, n_out);
    for (; o < n_out; o += LANES)
        linear_tile(y, x, w, bf16, b, o, n_rows, 1, n_in, n_out);
}

ALWAYS_INLINE void linear_of(float *y, const float *x, const void *w, bool bf16, const float *b,
                             int n, int n_in, int n_out)
{
    int row = 0;
    for (; row + TILE_ROWS <= n; row += TILE_ROWS)
        linear_rows(y + row * n_out, x + row * n_in, w, bf16, b, TILE_ROWS, n_in, n_out);
    for (; row < n; row++)
        linear_rows(y + row * n_out, x + row * n_in, w, bf16, b, 1, n_in, n_out);
}

static void linear(float *y, const float *x, const void *w, enum dtype dtype, const float *b, int n,
                   int n_in, int n_out)
{
    if (dtype == DTYPE_BF16)
        linear_of(y, x, w, true, b, n, n_in, n_out);
    else
        linear_of(y, x, w, false, b, n, n_in, n_out);
}

/* Compiled for this file's instruction set from plain C. */
static void silu(float *x, int n)
{
    for (int i = 0; i < n; i++)
        x[i] = x[i] / (1.0f + vexp(-x[i]));
}

static void activate(float *x, int n, enum hash_activation activation)
{
    if (activation == HASH_SILU)
        silu(x, n);
    else
        index_kernels_reference.activate(x, n, activation);
}

/* --- Labels ----------------------------------------------------------------------------------- */

/* The levels at bit `shift` of LANES words. */
ALWAYS_INLINE vec vec_levels(const uint32_t *words, int shift, uint32_t mask)
{
#if defined(__AVX512F__)
    __m512i x = _mm512_srl_epi32(_mm512_loadu_si512(words), _mm_cvtsi32_si128(shift));
    return _mm512_cvtepi32_ps(_mm512_and_si512(x, _mm512_set1_epi32((int)mask)));
#else
    __m256i x =
        _mm256_srl_epi32(_mm256_loadu_si256((const __m256i *)words), _mm_cvtsi32_si128(shift));
    return _mm256_cvtepi32_ps(_mm256_and_si256(x, _mm256_set1_epi32((int)mask)));
#endif
}

/* LANES entries of array `which` of a label's values, from key on. */
ALWAYS_INLINE vec vec_values(const struct key_labels *k, bool bf16, int which, int key)
{
    return load_weights(k->values, bf16, (size_t)which * k->stride + (size_t)key);
}

/* s [LABEL_KEYS] = scores of keys from `first` on, by levels as in plain C. */
ALWAYS_INLINE void score_level_tile(float *s, const struct key_labels *k, bool bf16, const float *q,
                                    float q_sum, int first)
{
    int per_word = 32 / k->width;
    uint32_t mask = (1u << k->width) - 1;
    vec sum[LABEL_VECTORS], unit = vec_all(1.0f / (float)((1 << k->n_bits) - 1));
    for (int v = 0; v < LABEL_VECTORS; v++)
        sum[v] = vec_zero();
    for (int c = 0, w = 0; c < k->n_channels; w++) {
        const uint32_t *words = k->words + (size_t)w * k->stride + first;
        for (int i = 0; i < per_word && c < k->n_channels; i++, c++)
            for (int v = 0; v < LABEL_VECTORS; v++)
                sum[v] = vec_fma(vec_all(q[c]), vec_levels(words + v * LANES, i * k->width, mask),
                                 sum[v]);
    }
    for (int v = 0; v < LABEL_VECTORS; v++) {
        vec low = vec_values(k, bf16, 0, first + v * LANES);
        vec high = vec_values(k, bf16, 1, first + v * LANES);
        sum[v] = vec_mul(sum[v], vec_mul(vec_sub(high, low), unit));
        vec_store(s + v * LANES, vec_fma(vec_all(q_sum), low, sum[v]));
    }
}

/* The same where labels are the elements themselves. */
ALWAYS_INLINE void score_value_tile(float *s, const struct key_labels *k, bool bf16, const float *q,
                                    int first)
{
    vec sum[LABEL_VECTORS];
    for (int v = 0; v < LABEL_VECTORS; v++)
        sum[v] = vec_zero();
    for (int c = 0; c < k->n_channels; c++)
        for (int v = 0; v < LABEL_VECTORS; v++)
            sum[v] = vec_fma(vec_all(q[c]), vec_values(k, bf16, c, first + v * LANES), sum[v]);
    for (int v = 0; v < LABEL_VECTORS; v++)
        vec_store(s + v * LANES, sum[v]);
}

/* Whole tiles, the last one with what lies behind the keys, so that a key's score does not depend
 * on the keys beside it. */
ALWAYS_INLINE void score_labels_of(float *scores, const struct key_labels *k, bool bf16,
                                   const float *q, int n)
{
    float q_sum = 0.0f;
    for (int c = 0; c < k->n_channels; c++)
        q_sum += q[c];
    for (int first = 0; first < n; first += LABEL_KEYS) {
        float s[LABEL_KEYS];
        if (k->n_bits < 16)
            score_level_tile(s, k, bf16, q, q_sum, first);
        else
            score_value_tile(s, k, bf16, q, first);
        memcpy(scores + first, s,
               sizeof *s * (size_t)(n - first < LABEL_KEYS ? n - first : LABEL_KEYS));
    }
}

static void score_labels(float *scores, const struct key_labels *k, const float *q, int n)
{
    score_labels_of(scores, k, k->dtype == DTYPE_BF16, q, n);
}

/* --- Buckets ---------------------------------------------------------------------------------- */

enum { BUCKET_VECTORS = 4 }; /* of keys, that go through a table together */

#if defined(__AVX512F__)
typedef __m512i codes_vec;

ALWAYS_INLINE codes_vec load_codes(const struct key_buckets_of *k, size_t at)
{
    return k->wide ? _mm512_loadu_si512((const uint32_t *)k->codes + at)
                   : _mm512_cvtepu16_epi32(
                         _mm256_loadu_si256((const __m256i *)((const uint16_t *)k->codes + at)));
}

/* Entries of a part by the lowest bits of codes: it lies in two registers. */
ALWAYS_INLINE vec part_at(const float *part, codes_vec codes)
{
    return _mm512_permutex2var_ps(_mm512_loadu_ps(part), codes, _mm512_loadu_ps(part + 16));
}

ALWAYS_INLINE codes_vec next_part(codes_vec codes)
{
    return _mm512_srli_epi32(codes, BUCKET_PART_BITS);
}
#else
typedef __m256i codes_vec;

ALWAYS_INLINE codes_vec load_codes(const struct key_buckets_of *k, size_t at)
{
    return k->wide ? _mm256_loadu_si256((const __m256i *)((const uint32_t *)k->codes + at))
                   : _mm256_cvtepu16_epi32(
                         _mm_loadu_si128((const __m128i *)((const uint16_t *)k->codes + at)));
}

ALWAYS_INLINE vec part_at(const float *part, codes_vec codes)
{
    return _mm256_i32gather_ps(part, _mm256_and_si256(codes, _mm256_set1_epi32(BUCKET_PART - 1)),
                               4);
}

ALWAYS_INLINE codes_vec next_part(codes_vec codes)
{
    return _mm256_srli_epi32(codes, BUCKET_PART_BITS);
}
#endif

/* s [BUCKET_VECTORS * LANES] = sums over tables for keys from `first` on. */
ALWAYS_INLINE void sum_buckets(float *s, const struct key_buckets_of *k, const float *part,
                               int first)
{
    vec sum[BUCKET_VECTORS];
    for (int v = 0; v < BUCKET_VECTORS; v++)
        sum[v] = vec_zero();
    for (int table = 0; table < k->n_tables; table++, part += k->n_parts * BUCKET_PART) {
        size_t at = (size_t)table * k->stride + (size_t)first;
        for (int v = 0; v < BUCKET_VECTORS; v++) {
            codes_vec codes = load_codes(k, at + (size_t)v * LANES);
            vec product = part_at(part, codes);
            for (int p = 1; p < k->n_parts; p++) {
                codes = next_part(codes);
                product = vec_mul(product, part_at(part + p * BUCKET_PART, codes));
            }
            sum[v] = vec_add(sum[v], product);
        }
    }
    for (int v = 0; v < BUCKET_VECTORS; v++)
        vec_store(s + v * LANES, sum[v]);
}

/* Whole vectors, with what lies behind the keys, as with labels. */
static void score_buckets(float *scores, const struct key_buckets_of *k, const float *part,
                          const float *norms, int n)
{
    enum { TILE = BUCKET_VECTORS * LANES };
    for (int first = 0; first < n; first += TILE) {
        float s[TILE];
        sum_buckets(s, k, part, first);
        int n_here = n - first < (int)TILE ? n - first : (int)TILE;
        for (int i = 0; i < n_here; i++)
            scores[first + i] = norms[first + i] * s[i];
    }
}

/* --- Hits -------------------------------------------------------------------------------------
 * Compiled for this file's instruction set from plain C. */

#define COUNT_HITS(type)                                                                           \
    for (int table = 0; table < n_tables; table++) {                                               \
        const type *restrict code = (const type *)codes + (size_t)table * stride;                  \
        type wanted = (type)query[table];                                                          \
        for (int i = 0; i < n; i++)                                                                \
            hits[i] = (uint16_t)(hits[i] + (code[i] == wanted));                                   \
    }

static void count_hits(uint16_t *restrict hits, const void *codes, int code_bytes, size_t stride,
                       const uint64_t *query, int n_tables, int n)
{
    memset(hits, 0, (size_t)n * sizeof *hits);
    if (code_bytes == 2) {
        COUNT_HITS(uint16_t)
    } else if (code_bytes == 4) {
        COUNT_HITS(uint32_t)
    } else {
        COUNT_HITS(uint64_t)
    }
}

/* --- One key ---------------------------------------------------------------------------------- */

static float dot(const float *q, const void *k, enum dtype dtype, int n)
{
    vec sum = vec_zero();
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        sum = vec_fma(vec_load(q + i), load_weights(k, dtype == DTYPE_BF16, (size_t)i), sum);
    float total = vec_sum_lanes(sum);
    for (; i < n; i++)
        total += q[i] * load_as_f32(k, dtype, (size_t)i);
    return total;
}

/* --- Codes ------------------------------------------------------------------------------------ */

static void nearest(uint16_t *to, const float *x, int n, int dim, const float *centroids,
                    int padded)
{
    for (int i = 0; i < n; i++, x += dim) {
        float least = INFINITY;
        to[i] = 0;
        for (int c = 0; c < padded; c += LANES) {
            float one[LANES];
            vec sum = vec_zero();
            for (int d = 0; d < dim; d++) {
                vec apart =
                    vec_sub(vec_all(x[d]), vec_load(centroids + (size_t)d * (size_t)padded + c));
                sum = vec_fma(apart, apart, sum);
            }
            vec_store(one, sum);
            for (int j = 0; j < LANES; j++)
                if (one[j] < least) {
                    least = one[j];
                    to[i] = (uint16_t)(c + j);
                }
        }
    }
}

/* LANES entries of a part's table of `padded` entries. */
#if defined(__AVX512F__)
ALWAYS_INLINE __m512i part_codes(const struct key_codes_of *k, size_t at)
{
    return k->wide ? _mm512_cvtepu16_epi32(
                         _mm256_loadu_si256((const __m256i *)((const uint16_t *)k->codes + at)))
                   : _mm512_cvtepu8_epi32(
                         _mm_loadu_si128((const __m128i *)((const uint8_t *)k->codes + at)));
}

ALWAYS_INLINE vec table_at(const float *table, int padded, __m512i codes)
{
    if (padded == 16)
        return _mm512_permutexvar_ps(codes, _mm512_loadu_ps(table));
    if (padded == 32)
        return _mm512_permutex2var_ps(_mm512_loadu_ps(table), codes, _mm512_loadu_ps(table + 16));
    if (padded > 64)
        return _mm512_i32gather_ps(codes, table, 4);
    vec low = _mm512_permutex2var_ps(_mm512_loadu_ps(table), codes, _mm512_loadu_ps(table + 16));
    vec high =
        _mm512_permutex2var_ps(_mm512_loadu_ps(table + 32), codes, _mm512_loadu_ps(table + 48));
    return _mm512_mask_blend_ps(_mm512_test_epi32_mask(codes, _mm512_set1_epi32(32)), low, high);
}
#else
ALWAYS_INLINE __m256i part_codes(const struct key_codes_of *k, size_t at)
{
    return k->wide ? _mm256_cvtepu16_epi32(
                         _mm_loadu_si128((const __m128i *)((const uint16_t *)k->codes + at)))
                   : _mm256_cvtepu8_epi32(
                         _mm_loadl_epi64((const __m128i *)((const uint8_t *)k->codes + at)));
}

ALWAYS_INLINE vec table_at(const float *table, int padded, __m256i codes)
{
    (void)padded;
    return _mm256_i32gather_ps(table, codes, 4);
}
#endif

/* Whole vectors, with what lies behind the keys, as with labels. */
static void score_codes(float *scores, const struct key_codes_of *k, const float *table, int n)
{
    for (int first = 0; first < n; first += LANES) {
        float s[LANES];
        vec sum = vec_zero();
        for (int part = 0; part < k->n_parts; part++)
            sum = vec_add(sum, table_at(table + part * k->padded, k->padded,
                                        part_codes(k, (size_t)part * k->stride + (size_t)first)));
        vec_store(s, sum);
        memcpy(scores + first, s, sizeof *s * (size_t)(n - first < LANES ? n - first : LANES));
    }
}

/* --- Bits ------------------------------------------------------------------------------------- */

/* Bits that are set, by sums of ever wider fields. */
ALWAYS_INLINE uint32_t count_bits(uint32_t x)
{
    x -= x >> 1 & 0x55555555u;
    x = (x & 0x33333333u) + (x >> 2 & 0x33333333u);
    x = (x + (x >> 4)) & 0x0F0F0F0Fu;
    x += x >> 8;
    return (x + (x >> 16)) & 0x3Fu;
}

static void score_word(float *restrict scores, const uint32_t *restrict words, uint32_t query,
                       float top, int n)
{
    for (int i = 0; i < n; i++)
        scores[i] = top - 2.0f * (float)(int32_t)count_bits(words[i] ^ query);
}

static void score_bits(float *scores, const uint32_t *words, size_t stride, const uint32_t *query,
                       int n_words, float top, int n)
{
    score_word(scores, words, query[0], top, n);
    for (int w = 1; w < n_words; w++) {
        const uint32_t *restrict word = words + (size_t)w * stride;
        for (int i = 0; i < n; i++)
            scores[i] -= 2.0f * (float)(int32_t)count_bits(word[i] ^ query[w]);
    }
}

#endif
