/* Indexes over keys from the inside (backend.h says what they mean).
 *
 * index.cu owns what all kinds have: how many keys each layer has indexed, which only the device
 * knows, since a step is replayed.  What is kept of a key and how it is scored is the kind's: one
 * file and one table of functions each. */
#ifndef ATTNSCOPE_KERNELS_CUDA_INDEX_CUH
#define ATTNSCOPE_KERNELS_CUDA_INDEX_CUH

#include "kernels/cuda/selection.cuh"

enum { HASH_COLUMNS = 8 /* outputs of a linear are padded to a multiple of it */ };

/* Networks as the kernels read them, outputs padded with zeros, weights in bf16 if that holds them
 * exactly, since a step reads them all.  All (device).
 *   w [n_layers, n_heads, width[i], padded(width[i + 1])]   b the same less width[i] */
struct hash_weights {
    void *w[HASH_SIDES][HASH_MAX_LINEARS];
    enum dtype dtype[HASH_SIDES][HASH_MAX_LINEARS]; /* of w */
    float *b[HASH_SIDES][HASH_MAX_LINEARS];
};

struct key_index {
    struct key_index_config config;
    const struct index_kind *kind;
    size_t stride;      /* entries from one array over keys (or pages) to the next */
    int32_t *n_indexed; /* (device) [n_layers] keys of each layer */
    uint32_t *ticket;   /* (device) 0 between operations */
    struct hash_weights hash;
    int n_words;     /* of a key's bits: INDEX_HASH, INDEX_CHANNELS below 16 bits, else 0 */
    uint32_t *words; /* (device) [n_layers, n_heads, n_words, stride] word by word, key j's at j */
    void *pages;     /* (device) [n_layers, n_kv_heads, stride, 2 head_dim] lo then hi of page p */
    enum dtype bounds; /* of pages: the keys', whose extremes they are, unless they are rounded */
    int16_t *channels; /* (device) [n_layers, n_heads, n_channels] */
    int n_values;      /* INDEX_CHANNELS: 2, a label's least and largest, or n_channels */
    void *
        values; /* (device) [n_layers, n_heads, n_values, stride] of the keys' type, key j's at j */
    /* INDEX_BUCKETS and INDEX_TABLES, all (device).  Sizes as the cpu backend has them. */
    float *planes; /* [n_planes, n_in, padded columns] */
    void *codes;   /* [n_layers, n_kv_heads, n_tables, stride] bucket or code of key j at j */
    float *norms;  /* [n_layers, n_kv_heads, stride] */
    void *queries; /* what a few rows of queries are turned into */
    float *means, *radii; /* [n_layers, n_kv_heads (, head_dim)] tables alone */
    int32_t *n_frozen; /* [n_layers, 2] keys that mean and radius are of; first key to code anew */
    /* INDEX_CODES, whose planes are centroids and n_frozen its state: index_codes.cuh.  (device) */
    float *phi;
    unsigned long long *sums;
    uint32_t *counts;
};

/* What a kind of index does. */
struct index_kind {
    /* Keys (or pages) that its arrays must hold. */
    size_t (*n_entries)(const struct key_index_config *config);
    /* Takes its memory; config, kind and stride are filled.  False: out of memory, or latched;
     * close is called either way. */
    bool (*open)(struct device *dev, struct key_index *index);
    void (*close)(struct device *dev, struct key_index *index);
    uint64_t (*bytes)(const struct key_index_config *config, size_t stride);
    /* index_update and score_index; no score where none is (INDEX_TABLES). */
    void (*add)(struct device *dev, struct key_index *index, const struct attention *att);
    void (*score)(struct device *dev, struct selection *sel, const struct key_index *index,
                  const struct attention *att);
};

extern const struct index_kind index_hash, index_pages, index_channels, index_codes, index_buckets,
    index_tables;

static inline size_t index_n_keys(const struct key_index_config *config)
{
    return (size_t)config->max_keys;
}

/* --- Which keys are new --------------------------------------------------------------------- */

/* What an add kernel counts by. */
struct index_count {
    int32_t *n_indexed; /* (device) of the call's layer */
    uint32_t *ticket;   /* (device) */
};

static inline struct index_count index_count_of(const struct key_index *index,
                                                const struct attention *att)
{
    assert(att->layer >= 0 && att->layer < index->config.n_layers && att->row_offset == 0);
    return {index->n_indexed + att->layer, index->ticket};
}

/* Keys that the call adds.  *kept: those that the layer knew of till now, at least added.begin. */
static __device__ __forceinline__ struct key_range
index_added(const struct index_count *count, const struct call_shape *shape, int *kept)
{
    *kept = __ldcg(count->n_indexed);
    return {min(*kept, shape->first_position), shape->n_keys};
}

/* All threads of all blocks, after they have read and written what they are to: the last block
 * notes down that the keys are there. */
static __device__ __forceinline__ void index_finish(const struct index_count *count,
                                                    const struct call_shape *shape)
{
    uint32_t n_blocks = gridDim.x * gridDim.y * gridDim.z;
    __syncthreads();
    if (threadIdx.x == 0 && ticket_take(count->ticket) == n_blocks - 1) {
        *count->n_indexed = shape->n_keys;
        *count->ticket = 0;
    }
}

/* --- What scoring costs --------------------------------------------------------------------- */

/* One thread of a launch: adds the bytes read for scores, `each` per entry that a row sees, told as
 * K rows.  n_seen: entries over all rows. */
static __device__ __forceinline__ void
index_count_scores(const struct attention *att, unsigned long long n_seen, unsigned long long each)
{
    unsigned long long row_bytes = (unsigned long long)att->kv.head_dim *
                                   (att->kv.dtype == DTYPE_F32 ? sizeof(float) : sizeof(uint16_t));
    if (att->counts)
        att->counts->score_rows += (n_seen * each + row_bytes - 1) / row_bytes;
}

static __device__ __forceinline__ unsigned long long index_seen_keys(const struct attention *att,
                                                                     const struct call_shape *shape)
{
    unsigned long long n = 0;
    for (int row = 0; row < att->n_rows; row++) {
        struct key_range seen = row_visible(att, shape, row);
        n += (unsigned long long)(seen.end - seen.begin);
    }
    return n;
}

#endif
