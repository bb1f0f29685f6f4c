/* PQCache's index from the inside: one problem of k-means per layer, KV head and part.
 * index_codes.cu, index_kmeans.cu */
#ifndef ATTNSCOPE_KERNELS_CUDA_INDEX_CODES_CUH
#define ATTNSCOPE_KERNELS_CUDA_INDEX_CODES_CUH

#include "kernels/cuda/index.cuh"

enum {
    CODES_COLUMNS = 16, /* centroids are padded to a multiple of it, with infinities */
    CODES_STATE = 2     /* of a layer: keys that centroids are of, whether they are being found */
};

/* The problems of one layer, all KV heads.  All (device). */
struct layer_codes {
    int n_parts, part_dim, dim; /* dim: of a centroid, one more if lifted */
    int n_centroids, padded, first_key, max_rounds;
    bool lifted, given; /* by inner product; centroids came from the host */
    uint64_t seed;
    float *centroids; /* [n_kv_heads, n_parts, dim, padded] */
    float *phi;       /* [n_kv_heads, n_parts] */
    void *codes;      /* [n_kv_heads, n_parts, stride] uint8_t, or uint16_t if wide */
    bool wide;
    size_t stride;
    int32_t *state; /* [CODES_STATE] */
    /* For rounds, shared by the layers: sums of elements as fixed-point numbers. */
    unsigned long long *sums; /* [n_kv_heads, n_parts, dim, padded] */
    uint32_t *counts;         /* [n_kv_heads, n_parts, padded] */
    uint32_t *done;           /* [n_kv_heads, n_parts] */
};

struct codes_job {
    struct attention att;
    struct layer_codes of;
    struct index_count count;
    int round;
};

/* Finds centroids, if it is time, and codes keys.  index_kmeans.cu */
void codes_update(struct device *dev, const struct codes_job *job);

#endif
