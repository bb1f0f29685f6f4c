/* Inner loops of indexes over keys, by instruction set. */
#ifndef ATTNSCOPE_KERNELS_CPU_INDEX_KERNELS_H
#define ATTNSCOPE_KERNELS_CPU_INDEX_KERNELS_H

#include <stdint.h>

#include "kernels/backend.h"
#include "kernels/cpu/cpu.h"

enum {
    HASH_LANES = 16, /* outputs of a linear are padded to a multiple of it */
    HASH_ROWS = 32,  /* most rows that go through a network together */
    LABEL_KEYS = 64, /* keys whose labels are scored together */
    BUCKET_PART_BITS = 5,
    BUCKET_PART = 1 << BUCKET_PART_BITS
};

/* Labels of keys [n] of one layer and query head: key i at i of every array, which may be read up
 * to LABEL_KEYS - 1 entries beyond the last key. */
struct key_labels {
    const uint32_t *words; /* [n_words, stride] levels, the first lowest; n_bits < 16 */
    const void *values;    /* [., stride] ends of the levels, least then largest; or elements */
    enum dtype dtype;      /* of values, F32 or BF16 */
    size_t stride;
    int n_channels;
    int n_bits; /* of a level; 16: values are the elements, [n_channels, stride] */
    int width;  /* bits of a word that a level takes */
};

/* Buckets of keys [n] of one layer and KV head, table by table: key i at i of every array. */
struct key_buckets_of {
    const void *codes; /* [n_tables, stride] */
    bool wide;         /* uint32_t, else uint16_t */
    size_t stride;
    int n_tables, n_parts;
};

/* Codes of keys [n] of one layer and KV head, part by part: key i at i of every array. */
struct key_codes_of {
    const void *codes; /* [n_parts, stride] */
    bool wide;         /* uint16_t, else uint8_t */
    size_t stride;
    int n_parts, padded; /* entries of a part's table */
};

struct index_kernels {
    /* y [n, n_out] = x [n, n_in] w [n_in, n_out] + b [n_out]; n_out a multiple of HASH_LANES, n at
     * most HASH_ROWS, w f32 or bf16.  Each element's sum runs over n_in in order, so that it does
     * not depend on which rows go together. */
    void (*linear)(float *y, const float *x, const void *w, enum dtype dtype, const float *b, int n,
                   int n_in, int n_out);
    /* x [n] = act(x). */
    void (*activate)(float *x, int n, enum hash_activation activation);
    /* Hamming distances: scores [n] = top - 2 * sum over the n_words words w of
     * popcount(words[w * stride + i] ^ query[w]). */
    void (*score_bits)(float *scores, const uint32_t *words, size_t stride, const uint32_t *query,
                       int n_words, float top, int n);
    /* scores [n] = q [n_channels] times the labels. */
    void (*score_labels)(float *scores, const struct key_labels *k, const float *q, int n);
    /* scores [n] = norms * sum over tables, in order, of the product over parts, in order, of
     * part [n_tables, n_parts, BUCKET_PART] at each BUCKET_PART_BITS bits of the key's bucket. */
    void (*score_buckets)(float *scores, const struct key_buckets_of *k, const float *part,
                          const float *norms, int n);
    /* hits [n] = in how many of n_tables tables a key's code, of code_bytes 2, 4 or 8, is the
     * query's [n_tables]; codes [n_tables, stride], key i at i of every array. */
    void (*count_hits)(uint16_t *hits, const void *codes, int code_bytes, size_t stride,
                       const uint64_t *query, int n_tables, int n);
    /* q k over n elements, k f32 or bf16. */
    float (*dot)(const float *q, const void *k, enum dtype dtype, int n);
    /* nearest [n] = of x [n, dim] the centroid at the least squared distance, the first of those;
     * centroids [dim, padded], padded a multiple of HASH_LANES, those that are none infinite. */
    void (*nearest)(uint16_t *nearest, const float *x, int n, int dim, const float *centroids,
                    int padded);
    /* scores [n] = sum over parts, in order, of table [n_parts, padded] at the key's code. */
    void (*score_codes)(float *scores, const struct key_codes_of *k, const float *table, int n);
};

const struct index_kernels *index_kernels(enum cpu_isa isa);

extern const struct index_kernels index_kernels_reference;
#if defined(__x86_64__)
extern const struct index_kernels index_kernels_avx2, index_kernels_avx512;
#endif

#endif
