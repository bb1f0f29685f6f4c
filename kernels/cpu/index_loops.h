/* The inner loops of index_kernels.h, written once for both vector widths; included by
 * index_avx2.c and index_avx512.c. */
#ifndef ATTNSCOPE_KERNELS_CPU_INDEX_LOOPS_H
#define ATTNSCOPE_KERNELS_CPU_INDEX_LOOPS_H

#include <math.h>

#include "kernels/cpu/attention_simd.h"
#include "kernels/cpu/index_kernels.h"
#include "kernels/cpu/index_labels.h"

enum { TILE_ROWS = 4, TILE_VECTORS = 32 / LANES };

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
