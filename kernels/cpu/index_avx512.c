/* Inner loops of indexes over keys in AVX-512. */
#include "kernels/cpu/index_kernels.h"

#if defined(__AVX512F__)

#include "kernels/cpu/index_loops.h"

/* score_bits where the processor counts the bits of 16 words at once. */
__attribute__((target("avx512f,avx512vpopcntdq"))) static void
score_counted(float *scores, const uint32_t *words, size_t stride, const uint32_t *query,
              int n_words, float top, int n)
{
    for (int i = 0; i < n; i += 16) {
        __mmask16 there = n - i < 16 ? (__mmask16)((1u << (n - i)) - 1) : 0xFFFF;
        __m512i distance = _mm512_setzero_si512();
        for (int w = 0; w < n_words; w++) {
            __m512i word = _mm512_maskz_loadu_epi32(there, words + (size_t)w * stride + i);
            word = _mm512_xor_si512(word, _mm512_set1_epi32((int)query[w]));
            distance = _mm512_add_epi32(distance, _mm512_popcnt_epi32(word));
        }
        __m512 twice = _mm512_mul_ps(_mm512_cvtepi32_ps(distance), _mm512_set1_ps(2.0f));
        _mm512_mask_storeu_ps(scores + i, there, _mm512_sub_ps(_mm512_set1_ps(top), twice));
    }
}

static void score_best(float *scores, const uint32_t *words, size_t stride, const uint32_t *query,
                       int n_words, float top, int n)
{
    if (__builtin_cpu_supports("avx512vpopcntdq"))
        score_counted(scores, words, stride, query, n_words, top, n);
    else
        score_bits(scores, words, stride, query, n_words, top, n);
}

const struct index_kernels index_kernels_avx512 = {linear,       activate,      score_best,
                                                   score_labels, score_buckets, count_hits,
                                                   dot,          nearest,       score_codes};

#endif
