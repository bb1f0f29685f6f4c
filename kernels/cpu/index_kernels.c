/* Inner loops of indexes in plain C, and the choice by instruction set. */
#include "kernels/cpu/index_kernels.h"

#include <math.h>

#include "kernels/cpu/convert.h"

static void linear(float *y, const float *x, const void *w, enum dtype dtype, const float *b, int n,
                   int n_in, int n_out)
{
    for (int row = 0; row < n; row++)
        for (int o = 0; o < n_out; o++) {
            float sum = b[o];
            for (int i = 0; i < n_in; i++)
                sum += x[row * n_in + i] * load_as_f32(w, dtype, (size_t)(i * n_out + o));
            y[row * n_out + o] = sum;
        }
}

static float activated(float x, enum hash_activation activation)
{
    switch (activation) {
    case HASH_RELU:
        return x > 0.0f ? x : 0.0f;
    case HASH_GELU_ERF:
        return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case HASH_TANH:
        return tanhf(x);
    default:
        return x / (1.0f + expf(-x));
    }
}

static void activate(float *x, int n, enum hash_activation activation)
{
    for (int i = 0; i < n; i++)
        x[i] = activated(x[i], activation);
}

static void score_bits(float *scores, const uint32_t *words, size_t stride, const uint32_t *query,
                       int n_words, float top, int n)
{
    for (int i = 0; i < n; i++) {
        int distance = 0;
        for (int w = 0; w < n_words; w++)
            distance += __builtin_popcount(words[(size_t)w * stride + (size_t)i] ^ query[w]);
        scores[i] = top - 2.0f * (float)distance;
    }
}

static float label_value(const struct key_labels *k, int which, int key)
{
    return load_as_f32(k->values, k->dtype, (size_t)which * k->stride + (size_t)key);
}

static uint32_t bucket_of(const struct key_buckets_of *k, int table, int key)
{
    size_t at = (size_t)table * k->stride + (size_t)key;
    return k->wide ? ((const uint32_t *)k->codes)[at] : ((const uint16_t *)k->codes)[at];
}

static void score_buckets(float *scores, const struct key_buckets_of *k, const float *part,
                          const float *norms, int n)
{
    for (int key = 0; key < n; key++) {
        const float *at = part;
        float sum = 0.0f;
        for (int table = 0; table < k->n_tables; table++) {
            uint32_t bucket = bucket_of(k, table, key);
            float product = 1.0f;
            for (int p = 0; p < k->n_parts; p++, at += BUCKET_PART, bucket >>= BUCKET_PART_BITS)
                product *= at[bucket & (BUCKET_PART - 1)];
            sum += product;
        }
        scores[key] = norms[key] * sum;
    }
}

/* The idea to hold: sum_c q_c (level_c step + low) = step sum_c q_c level_c + low sum_c q_c. */
static float score_levels(const struct key_labels *k, const float *q, int key)
{
    int per_word = 32 / k->width;
    float sum = 0.0f, q_sum = 0.0f, low = label_value(k, 0, key), high = label_value(k, 1, key);
    for (int c = 0; c < k->n_channels; c++) {
        uint32_t word = k->words[(size_t)(c / per_word) * k->stride + (size_t)key];
        word = word >> c % per_word * k->width & ((1u << k->width) - 1);
        sum += q[c] * (float)(int32_t)word;
        q_sum += q[c];
    }
    return sum * ((high - low) / (float)((1 << k->n_bits) - 1)) + q_sum * low;
}

static void score_labels(float *scores, const struct key_labels *k, const float *q, int n)
{
    for (int key = 0; key < n; key++) {
        if (k->n_bits < 16) {
            scores[key] = score_levels(k, q, key);
            continue;
        }
        scores[key] = 0.0f;
        for (int c = 0; c < k->n_channels; c++)
            scores[key] += q[c] * label_value(k, c, key);
    }
}

static uint64_t code_at(const void *codes, int code_bytes, size_t at)
{
    return code_bytes == 2   ? ((const uint16_t *)codes)[at]
           : code_bytes == 4 ? ((const uint32_t *)codes)[at]
                             : ((const uint64_t *)codes)[at];
}

static void count_hits(uint16_t *hits, const void *codes, int code_bytes, size_t stride,
                       const uint64_t *query, int n_tables, int n)
{
    for (int i = 0; i < n; i++) {
        hits[i] = 0;
        for (int table = 0; table < n_tables; table++)
            hits[i] +=
                code_at(codes, code_bytes, (size_t)table * stride + (size_t)i) == query[table];
    }
}

static float dot(const float *q, const void *k, enum dtype dtype, int n)
{
    float sum = 0.0f;
    for (int i = 0; i < n; i++)
        sum += q[i] * load_as_f32(k, dtype, (size_t)i);
    return sum;
}

static void nearest(uint16_t *to, const float *x, int n, int dim, const float *centroids,
                    int padded)
{
    for (int i = 0; i < n; i++, x += dim) {
        float least = INFINITY;
        to[i] = 0;
        for (int c = 0; c < padded; c++) {
            float sum = 0.0f;
            for (int d = 0; d < dim; d++) {
                float apart = x[d] - centroids[(size_t)d * (size_t)padded + (size_t)c];
                sum += apart * apart;
            }
            if (sum < least) {
                least = sum;
                to[i] = (uint16_t)c;
            }
        }
    }
}

static void score_codes(float *scores, const struct key_codes_of *k, const float *table, int n)
{
    for (int key = 0; key < n; key++) {
        float sum = 0.0f;
        for (int part = 0; part < k->n_parts; part++) {
            size_t at = (size_t)part * k->stride + (size_t)key;
            int code = k->wide ? ((const uint16_t *)k->codes)[at] : ((const uint8_t *)k->codes)[at];
            sum += table[part * k->padded + code];
        }
        scores[key] = sum;
    }
}

const struct index_kernels index_kernels_reference = {linear,       activate,      score_bits,
                                                      score_labels, score_buckets, count_hits,
                                                      dot,          nearest,       score_codes};

const struct index_kernels *index_kernels(enum cpu_isa isa)
{
#if defined(__x86_64__)
    if (isa >= CPU_ISA_AVX512)
        return &index_kernels_avx512;
    if (isa >= CPU_ISA_AVX2)
        return &index_kernels_avx2;
#endif
    (void)isa;
    return &index_kernels_reference;
}
