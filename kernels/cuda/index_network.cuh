/* HashAttention's networks: what a launch runs, of which keys or queries, and where the bits go.
 * index_network.cu */
#ifndef ATTNSCOPE_KERNELS_CUDA_INDEX_NETWORK_CUH
#define ATTNSCOPE_KERNELS_CUDA_INDEX_NETWORK_CUH

#include "kernels/cuda/index.cuh"

/* The networks of one side and layer, all heads.   w [n_heads, width[i], padded(width[i + 1])]
 * b [n_heads, padded(width[i + 1])] (device) */
struct network {
    int n_linears;
    int width[HASH_MAX_LINEARS + 1];
    enum hash_activation activation;
    const void *w[HASH_MAX_LINEARS];
    enum dtype dtype[HASH_MAX_LINEARS];
    const float *b[HASH_MAX_LINEARS];
};

/* Word w of row r of a head goes to words[head * head_stride + w * word_stride + r * row_stride].
 */
struct network_job {
    struct attention att;
    struct network net;
    struct index_count count; /* of keys */
    uint32_t *words;
    int n_words;
    size_t head_stride, word_stride, row_stride;
    struct select_plan plan;        /* of queries: none is run if the plan is full */
    unsigned long long score_bytes; /* of queries: read per key that a row is scored against */
    int tile;                       /* rows that go together */
    bool resident;                  /* the weights are in shared memory */
    bool aligned;                   /* rows may be read 16 bytes at a time */
};

static inline __host__ __device__ int network_padded(int width)
{
    return (width + HASH_COLUMNS - 1) / HASH_COLUMNS * HASH_COLUMNS;
}

/* Runs the new keys of the call through the networks, or its queries.  n_rows: about how many. */
void network_run(struct device *dev, struct network_job *job, bool keys, int n_rows);

#endif
