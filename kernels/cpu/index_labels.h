/* Scores of keys by their labels, in plain C that each instruction set compiles for itself;
 * included by index_kernels.c and, through index_loops.h, by index_avx2.c and index_avx512.c.
 *
 * Keys go by LABEL_KEYS, the last ones together with what lies behind them, so that a key's score
 * does not depend on the keys beside it. */
#ifndef ATTNSCOPE_KERNELS_CPU_INDEX_LABELS_H
#define ATTNSCOPE_KERNELS_CPU_INDEX_LABELS_H

#include <string.h>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/index_kernels.h"

/* to [LABEL_KEYS] = entries of array `which` from key `first` on. */
static inline void load_values(float *restrict to, const struct key_labels *k, int which, int first)
{
    size_t at = (size_t)which * k->stride + (size_t)first;
    if (k->dtype == DTYPE_BF16)
        for (int i = 0; i < LABEL_KEYS; i++)
            to[i] = bf16_to_f32(((const uint16_t *)k->values)[at + (size_t)i]);
    else
        for (int i = 0; i < LABEL_KEYS; i++)
            to[i] = ((const float *)k->values)[at + (size_t)i];
}

/* The first of LABEL_KEYS scores that are there. */
static inline void store_scores(float *scores, const float *from, int n)
{
    memcpy(scores, from, (size_t)(n < LABEL_KEYS ? n : LABEL_KEYS) * sizeof *from);
}

static void score_values(float *scores, const struct key_labels *k, const float *q, int n)
{
    for (int first = 0; first < n; first += LABEL_KEYS) {
        float sum[LABEL_KEYS] = {0}, x[LABEL_KEYS];
        for (int c = 0; c < k->n_channels; c++) {
            load_values(x, k, c, first);
            for (int i = 0; i < LABEL_KEYS; i++)
                sum[i] += q[c] * x[i];
        }
        store_scores(scores + first, sum, n - first);
    }
}

/* The idea to hold: sum_c q_c (level_c step + low) = step sum_c q_c level_c + low sum_c q_c. */
static void score_levels(float *scores, const struct key_labels *k, const float *q, int n)
{
    int per_word = 32 / k->width;
    uint32_t mask = (1u << k->width) - 1;
    float q_sum = 0.0f, unit = 1.0f / (float)((1 << k->n_bits) - 1);
    for (int c = 0; c < k->n_channels; c++)
        q_sum += q[c];
    for (int first = 0; first < n; first += LABEL_KEYS) {
        float sum[LABEL_KEYS] = {0}, low[LABEL_KEYS], high[LABEL_KEYS];
        for (int c = 0; c < k->n_channels; c++) {
            const uint32_t *words = k->words + (size_t)(c / per_word) * k->stride + first;
            int shift = c % per_word * k->width;
            for (int i = 0; i < LABEL_KEYS; i++)
                sum[i] += q[c] * (float)(int32_t)(words[i] >> shift & mask);
        }
        load_values(low, k, 0, first);
        load_values(high, k, 1, first);
        for (int i = 0; i < LABEL_KEYS; i++)
            sum[i] = sum[i] * ((high[i] - low[i]) * unit) + q_sum * low[i];
        store_scores(scores + first, sum, n - first);
    }
}

static void score_labels(float *scores, const struct key_labels *k, const float *q, int n)
{
    if (k->n_bits < 16)
        score_levels(scores, k, q, n);
    else
        score_values(scores, k, q, n);
}

#endif
