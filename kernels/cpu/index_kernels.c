/* Inner loops of indexes in plain C, and the choice by instruction set. */
#include "kernels/cpu/index_kernels.h"

#include <math.h>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/index_labels.h"

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

const struct index_kernels index_kernels_reference = {linear, activate, score_bits, score_labels};

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
