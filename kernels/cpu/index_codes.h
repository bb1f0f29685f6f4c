/* PQCache's index from the inside: centroids, and how they come about (backend.h says what they
 * mean). */
#ifndef ATTNSCOPE_KERNELS_CPU_INDEX_CODES_H
#define ATTNSCOPE_KERNELS_CPU_INDEX_CODES_H

#include "kernels/cpu/index.h"

static inline int codes_n_centroids(const struct key_index_config *c)
{
    return 1 << c->codes.code_bits;
}

/* Centroids side by side, as the inner loops read them; those beyond the last are far away. */
static inline int codes_padded(const struct key_index_config *c)
{
    return round_up(codes_n_centroids(c), HASH_LANES);
}

/* Elements of a part of a key. */
static inline int codes_part_dim(const struct key_index_config *c)
{
    return c->head_dim / c->codes.n_parts;
}

/* The same of a centroid. */
static inline int codes_dim(const struct key_index_config *c)
{
    return codes_part_dim(c) + (c->codes.metric == CODES_INNER);
}

/* Of a part of a KV head, among those of all layers. */
static inline size_t codes_problem(const struct key_index *index, int layer, int kv_head, int part)
{
    size_t head = (size_t)layer * (size_t)index->config.n_kv_heads + (size_t)kv_head;
    return head * (size_t)index->config.codes.n_parts + (size_t)part;
}

/* [codes_dim, codes_padded] of a problem: element by element. */
static inline float *codes_centroids(const struct key_index *index, size_t problem)
{
    const struct key_index_config *c = &index->config;
    return index->planes + problem * (size_t)codes_dim(c) * (size_t)codes_padded(c);
}

static inline int codes_bytes_of(const struct key_index_config *c)
{
    return c->codes.code_bits <= 8 ? 1 : 2;
}

/* [stride] of a problem. */
static inline void *codes_of(const struct key_index *index, size_t problem)
{
    return (char *)index->codes + problem * index->stride * (size_t)codes_bytes_of(&index->config);
}

/* One problem of k-means. */
struct kmeans {
    const float *points; /* [n, dim] */
    int n, dim;
    int n_centroids, padded; /* n >= n_centroids */
    float *centroids;        /* [dim, padded]: the result */
    uint16_t *nearest;       /* [n]: of each point its centroid's number */
    double *sums;            /* [n_centroids, dim] spare */
    int *counts;             /* [n_centroids] spare */
    int max_rounds;
    uint64_t seed;
    uint32_t layer, kv_head, part; /* coordinates of randomness */
};

void kmeans_run(const struct kmeans *k, const struct index_kernels *kernels);

#endif
