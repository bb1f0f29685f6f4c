/* The row way's inner loops (attention.h), written once for both vector widths and included by
 * attention_avx2.c and attention_avx512.c.
 *
 * Scores: LANES dot products at a time, of up to 4 queries with LANES / 4 keys or of fewer queries
 * with more keys; each keeps its own vector of partial sums, and one transposing sum ends them all.
 * Values: the sums of a few queries over a slice of the head stay in registers while the block's
 * rows pass by. */
#ifndef ATTNSCOPE_KERNELS_CPU_ATTENTION_ROWS_H
#define ATTNSCOPE_KERNELS_CPU_ATTENTION_ROWS_H

#include "kernels/cpu/attention.h"
#include "kernels/cpu/attention_simd.h"

enum { LINE_BYTES = 64 };

ALWAYS_INLINE const char *row_at(const struct row_list *rows, int i, size_t row_bytes)
{
    size_t number = rows->index ? rows->index[i] - rows->first : (size_t)i;
    return (const char *)rows->base + number * row_bytes;
}

ALWAYS_INLINE void ask_early(const struct row_list *rows, int i, int n, size_t row_bytes)
{
    for (int end = min_int(i + n, rows->n); i < end; i++) {
        const char *row = row_at(rows, i, row_bytes);
        for (size_t line = 0; line < row_bytes; line += LINE_BYTES)
            _mm_prefetch(row + line, _MM_HINT_T0);
    }
}

ALWAYS_INLINE vec load_row(const char *row, int at, int part, bool bf16)
{
    if (bf16) {
        const uint16_t *p = (const uint16_t *)row + at;
        return part ? vec_load_bf16_part(p, part) : vec_load_bf16(p);
    }
    const float *p = (const float *)row + at;
    return part ? vec_load_part(p, part) : vec_load(p);
}

/* Scores of nq queries (nq_slots = 1, 2 or 4 >= nq) with all keys of k. */
ALWAYS_INLINE void scores_of(float *s, const float *q, int padded_dim, int nq, int nq_slots,
                             const struct row_list *k, const struct row_list *ahead, bool bf16)
{
    const int n_tile = LANES / nq_slots;
    const size_t row_bytes = (size_t)k->head_dim * (bf16 ? 2 : 4);
    const int n_whole = k->head_dim / LANES * LANES, part = k->head_dim - n_whole;
    for (int j = 0; j < k->n; j += n_tile) {
        const char *row[LANES];
        vec sum[LANES];
        for (int t = 0; t < n_tile; t++)
            row[t] = row_at(k, min_int(j + t, k->n - 1), row_bytes);
        for (int i = 0; i < LANES; i++)
            sum[i] = vec_zero();
        if (ahead)
            ask_early(ahead, j, n_tile, row_bytes);
        for (int d = 0; d < n_whole; d += LANES) {
            vec qv[4];
            for (int h = 0; h < nq; h++)
                qv[h] = vec_load(q + h * padded_dim + d);
            for (int t = 0; t < n_tile; t++) {
                vec kv = load_row(row[t], d, 0, bf16);
                for (int h = 0; h < nq; h++)
                    sum[h * n_tile + t] = vec_fma(qv[h], kv, sum[h * n_tile + t]);
            }
        }
        if (part)
            for (int t = 0; t < n_tile; t++) {
                vec kv = load_row(row[t], n_whole, part, bf16);
                for (int h = 0; h < nq; h++)
                    sum[h * n_tile + t] =
                        vec_fma(vec_load(q + h * padded_dim + n_whole), kv, sum[h * n_tile + t]);
            }
        float all[LANES];
        vec_store(all, vec_sum_each(sum));
        for (int h = 0; h < nq; h++)
            memcpy(s + h * ROW_KEYS + j, all + h * n_tile, (size_t)n_tile * sizeof *s);
    }
}

#define SCORES_CASE(nq, nq_slots)                                                                  \
    case nq:                                                                                       \
        if (k->dtype == DTYPE_BF16)                                                                \
            scores_of(s, q, padded_dim, nq, nq_slots, k, ahead, true);                             \
        else                                                                                       \
            scores_of(s, q, padded_dim, nq, nq_slots, k, ahead, false);                            \
        break;

static void scores(float *s, const float *q, int padded_dim, int n_queries,
                   const struct row_list *k, const struct row_list *ahead)
{
    int n_padded = round_up(k->n, 16), n_all = n_queries;
    float *first = s;
    while (n_queries > 0) {
        int nq = min_int(n_queries, 4);
        switch (nq) {
            SCORES_CASE(1, 1)
            SCORES_CASE(2, 2)
            SCORES_CASE(3, 4)
            SCORES_CASE(4, 4)
        }
        s += nq * ROW_KEYS;
        q += nq * padded_dim;
        n_queries -= nq;
        ahead = NULL;
    }
    for (int h = 0; h < n_all; h++)
        for (int j = k->n; j < n_padded; j++)
            first[h * ROW_KEYS + j] = -INFINITY;
}

static void keep_bits(float *s, const uint32_t *bits, int head, const float *bias, float constant,
                      int n)
{
    for (int j = 0; j < n; j += LANES)
        vec_keep_bits(s + j, bits ? bits + j : NULL, head, bias ? bias + j : NULL, constant,
                      min_int(n - j, LANES));
}

static float soften(float *s, int n, float *max, float *sum)
{
    vec highest = vec_load(s);
    for (int j = LANES; j < n; j += LANES)
        highest = vec_max(highest, vec_load(s + j));
    float old = *max, now = vec_max_lane(highest);
    now = now > old ? now : old;
    if (now == -INFINITY) { /* nothing selected so far */
        for (int j = 0; j < n; j += LANES)
            vec_store(s + j, vec_zero());
        return 1.0f;
    }
    vec shift = vec_all(now), total = vec_zero();
    for (int j = 0; j < n; j += LANES) {
        vec p = vec_exp(vec_sub(vec_load(s + j), shift));
        vec_store(s + j, p);
        total = vec_add(total, p);
    }
    float scale = old == now ? 1.0f : vexp(old - now);
    *max = now;
    *sum = *sum * scale + vec_sum_lanes(total);
    return scale;
}

/* acc of nq queries, nv vectors from dimension d on; the last one has `part` elements if not 0. */
ALWAYS_INLINE void accumulate_slice(float *acc, const float *scale, const float *p, int padded_dim,
                                    int nq, int nv, int d, int part, const struct row_list *v,
                                    const struct row_list *ahead, bool bf16)
{
    const size_t row_bytes = (size_t)v->head_dim * (bf16 ? 2 : 4);
    vec sum[4][8];
    for (int h = 0; h < nq; h++)
        for (int c = 0; c < nv; c++)
            sum[h][c] = vec_mul(vec_load(acc + h * padded_dim + d + c * LANES), vec_all(scale[h]));
    for (int j = 0; j < v->n; j++) {
        const char *row = row_at(v, j, row_bytes);
        if (ahead)
            ask_early(ahead, j, 1, row_bytes);
        vec value[8];
        for (int c = 0; c < nv; c++)
            value[c] = load_row(row, d + c * LANES, c == nv - 1 ? part : 0, bf16);
        for (int h = 0; h < nq; h++) {
            vec weight = vec_all(p[h * ROW_KEYS + j]);
            for (int c = 0; c < nv; c++)
                sum[h][c] = vec_fma(weight, value[c], sum[h][c]);
        }
    }
    for (int h = 0; h < nq; h++)
        for (int c = 0; c < nv; c++)
            vec_store(acc + h * padded_dim + d + c * LANES, sum[h][c]);
}

#define SLICE_CASE(nq, nv)                                                                         \
    case (nq)*16 + (nv):                                                                           \
        if (v->dtype == DTYPE_BF16)                                                                \
            accumulate_slice(acc, scale, p, padded_dim, nq, nv, d, part, v, ahead, true);          \
        else                                                                                       \
            accumulate_slice(acc, scale, p, padded_dim, nq, nv, d, part, v, ahead, false);         \
        break;

/* What stays in registers: at 16 lanes 32 registers hold 4 queries x 4 vectors or 2 x 8; at 8 lanes
 * 16 registers hold 4 x 2 or 2 x 4. */
enum { NARROW_VECTORS = LANES == 16 ? 4 : 2, WIDE_VECTORS = 2 * NARROW_VECTORS };

static void accumulate(float *acc, const float *scale, const float *p, int padded_dim,
                       int n_queries, const struct row_list *v, const struct row_list *ahead)
{
    const int n_vectors = (v->head_dim + LANES - 1) / LANES;
    while (n_queries > 0) {
        int nq = min_int(n_queries, LANES == 16 && n_vectors > NARROW_VECTORS ? 2 : 4);
        int most = nq > 2 ? NARROW_VECTORS : WIDE_VECTORS;
        for (int c = 0; c < n_vectors; c += most) {
            int nv = min_int(most, n_vectors - c), d = c * LANES;
            int part = c + nv == n_vectors ? v->head_dim % LANES : 0;
            switch (nq * 16 + nv) {
                SLICE_CASE(1, 1)
                SLICE_CASE(1, 2)
                SLICE_CASE(1, 3)
                SLICE_CASE(1, 4)
                SLICE_CASE(2, 1)
                SLICE_CASE(2, 2)
                SLICE_CASE(2, 3)
                SLICE_CASE(2, 4)
                SLICE_CASE(3, 1)
                SLICE_CASE(3, 2)
                SLICE_CASE(4, 1)
                SLICE_CASE(4, 2)
#if defined(__AVX512F__)
                SLICE_CASE(1, 5)
                SLICE_CASE(1, 6)
                SLICE_CASE(1, 7)
                SLICE_CASE(1, 8)
                SLICE_CASE(2, 5)
                SLICE_CASE(2, 6)
                SLICE_CASE(2, 7)
                SLICE_CASE(2, 8)
                SLICE_CASE(3, 3)
                SLICE_CASE(3, 4)
                SLICE_CASE(4, 3)
                SLICE_CASE(4, 4)
#endif
            }
            ahead = NULL;
        }
        acc += nq * padded_dim;
        scale += nq;
        p += nq * ROW_KEYS;
        n_queries -= nq;
    }
}

/* --- Scores in one order ---------------------------------------------------------------------- */

/* 16 partial sums are one vector or two; as many keys at a time as one transposing sum ends. */
enum { ORDERED_VECTORS = 16 / LANES, ORDERED_KEYS = LANES == 16 ? 16 : 4 };

/* s [ORDERED_KEYS] from sum [ORDERED_KEYS, ORDERED_VECTORS]. */
ALWAYS_INLINE void ordered_sums(float *s, const vec *sum, float scale)
{
#if defined(__AVX512F__)
    vec_store(s, vec_mul(vec_all(scale), vec_sum_each(sum)));
#else
    vec half[2];
    for (int c = 0; c < 2; c++) {
        vec a =
            vec_add(_mm256_unpacklo_ps(sum[c], sum[2 + c]), _mm256_unpackhi_ps(sum[c], sum[2 + c]));
        vec b = vec_add(_mm256_unpacklo_ps(sum[4 + c], sum[6 + c]),
                        _mm256_unpackhi_ps(sum[4 + c], sum[6 + c]));
        __m256d a_d = _mm256_castps_pd(a), b_d = _mm256_castps_pd(b);
        half[c] = vec_add(_mm256_castpd_ps(_mm256_unpacklo_pd(a_d, b_d)),
                          _mm256_castpd_ps(_mm256_unpackhi_pd(a_d, b_d)));
    }
    __m128 low = _mm_add_ps(_mm256_castps256_ps128(half[0]), _mm256_extractf128_ps(half[0], 1));
    __m128 high = _mm_add_ps(_mm256_castps256_ps128(half[1]), _mm256_extractf128_ps(half[1], 1));
    _mm_storeu_ps(s, _mm_mul_ps(_mm_set1_ps(scale), _mm_add_ps(low, high)));
#endif
}

ALWAYS_INLINE void ordered_scores_of(float *s, const float *q, float scale,
                                     const struct row_list *k, bool bf16)
{
    const size_t row_bytes = (size_t)k->head_dim * (bf16 ? 2 : 4);
    for (int j = 0; j < k->n; j += ORDERED_KEYS) {
        const char *row[ORDERED_KEYS];
        vec sum[ORDERED_KEYS * ORDERED_VECTORS];
        for (int t = 0; t < ORDERED_KEYS; t++)
            row[t] = row_at(k, min_int(j + t, k->n - 1), row_bytes);
        for (int i = 0; i < ORDERED_KEYS * ORDERED_VECTORS; i++)
            sum[i] = vec_zero();
        ask_early(k, j + ORDERED_KEYS, ORDERED_KEYS, row_bytes);
        for (int d = 0; d < k->head_dim; d += 16)
            for (int c = 0; c < ORDERED_VECTORS; c++) {
                int at = d + c * LANES, left = k->head_dim - at;
                if (left <= 0)
                    break;
                int part = left < LANES ? left : 0;
                vec qv = part ? vec_load_part(q + at, part) : vec_load(q + at);
                for (int t = 0; t < ORDERED_KEYS; t++)
                    sum[t * ORDERED_VECTORS + c] =
                        vec_fma(qv, load_row(row[t], at, part, bf16), sum[t * ORDERED_VECTORS + c]);
            }
        float all[ORDERED_KEYS];
        ordered_sums(all, sum, scale);
        memcpy(s + j, all, (size_t)min_int(ORDERED_KEYS, k->n - j) * sizeof *s);
    }
}

static void ordered_scores(float *s, const float *q, float scale, const struct row_list *k)
{
    if (k->dtype == DTYPE_BF16)
        ordered_scores_of(s, q, scale, k, true);
    else
        ordered_scores_of(s, q, scale, k, false);
}

#endif
