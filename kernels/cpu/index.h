/* Indexes over keys from the inside (backend.h says what they mean).
 *
 * index.c keeps how many keys each layer has indexed; what is kept of a key and how it is scored is
 * the kind's: one file and one table of functions each. */
#ifndef ATTNSCOPE_KERNELS_CPU_INDEX_H
#define ATTNSCOPE_KERNELS_CPU_INDEX_H

#include "kernels/cpu/attention.h"
#include "kernels/cpu/index_kernels.h"
#include "kernels/cpu/selection.h"

/* Networks as the inner loops read them: outputs padded to HASH_LANES with zeros, weights in bf16
 * if that holds them exactly, since a step reads them all.
 *   w [n_layers, n_heads, width[i], padded(width[i + 1])]   b the same less width[i] */
struct hash_weights {
    void *w[HASH_SIDES][HASH_MAX_LINEARS];
    enum dtype dtype[HASH_SIDES][HASH_MAX_LINEARS]; /* of w */
    float *b[HASH_SIDES][HASH_MAX_LINEARS];
};

struct key_index {
    struct key_index_config config;
    const struct index_kind *kind;
    int *n_indexed; /* [n_layers] keys of each layer */
    size_t stride;  /* entries from one array over keys (or pages) to the next */
    struct hash_weights hash;
    int n_words;       /* of a key's bits: INDEX_HASH, INDEX_CHANNELS below 16 bits, else 0 */
    uint32_t *words;   /* [n_layers, n_heads, n_words, stride] bits of key j, word by word, at j */
    void *pages;       /* [n_layers, n_kv_heads, stride, 2 head_dim] lo then hi of page p at p */
    enum dtype bounds; /* of pages: the keys', whose extremes they are, unless they are rounded */
    int16_t *channels; /* [n_layers, n_heads, n_channels] */
    int n_values;      /* INDEX_CHANNELS: 2, a label's least and largest, or n_channels */
    void *values;      /* [n_layers, n_heads, n_values, stride] of the keys' type, key j's at j */
    float *phi;        /* INDEX_CODES: [n_layers, n_kv_heads, n_parts] */
    /* INDEX_BUCKETS, INDEX_TABLES and INDEX_CODES, whose planes are centroids and whose tables are
     * parts: index_codes.h. */
    float *planes; /* [n_planes, head_dim, padded(n_tables n_bits)]; of tables, per layer and with
                    * a row more */
    float *zeros;  /* [padded(n_tables n_bits)] */
    void *codes;   /* [n_layers, n_kv_heads, n_tables, stride] bucket or code of key j at j */
    float *norms;  /* [n_layers, n_kv_heads, stride] lengths of values, or of keys less the mean */
    float *means;  /* [n_layers, n_kv_heads, head_dim]: tables, with radii and n_frozen */
    float *radii;  /* [n_layers, n_kv_heads] N */
    int *n_frozen; /* [n_layers] keys that mean and N are of */
};

/* What a kind of index does. */
struct index_kind {
    /* Keys (or pages) that its arrays must hold. */
    size_t (*n_entries)(const struct key_index_config *config);
    /* Takes its memory, zeroed; config, kind and stride are filled.  False: out of memory; close is
     * called either way. */
    bool (*open)(struct key_index *index);
    void (*close)(struct key_index *index);
    /* About the bytes that open takes; stride as in the index.  Weights may be NULL here. */
    uint64_t (*bytes)(const struct key_index_config *config, size_t stride);
    /* Keys [added.begin, added.end) of layer att->layer are new, those before are as they were;
     * kept >= added.begin: keys that the layer knew of till now. */
    void (*add)(struct device *dev, struct key_index *index, const struct attention *att,
                struct key_range added, int kept);
    /* score_index; no score where none is (INDEX_TABLES). */
    void (*score)(struct device *dev, struct selection *sel, const struct key_index *index,
                  const struct attention *att);
};

extern const struct index_kind index_hash, index_pages, index_channels, index_codes, index_buckets,
    index_tables;

static inline size_t index_n_keys(const struct key_index_config *config)
{
    return (size_t)config->max_keys;
}

/* [n_words, stride] of one query head; NULL where a key has no words. */
static inline uint32_t *index_words(const struct key_index *index, int layer, int head)
{
    size_t which = (size_t)layer * (size_t)index->config.n_heads + (size_t)head;
    return index->words ? index->words + which * (size_t)index->n_words * index->stride : NULL;
}

/* Bits of a word that a level of INDEX_CHANNELS takes: a power of two, at most 16. */
static inline int label_width(const struct key_index_config *config)
{
    int width = 1;
    while (width < config->channels.label_bits)
        width *= 2;
    return width;
}

static inline int hash_padded(int width)
{
    return round_up(width, HASH_LANES);
}

/* Planes as columns: [n_sets, head_dim, padded(n_planes)] of from [n_sets, n_planes, head_dim].
 * NULL: out of memory. */
float *index_planes(const float *from, int n_sets, int n_planes, int head_dim);

static inline int index_n_pages(const struct key_index *index, int n_keys)
{
    return (n_keys + index->config.pages.page_size - 1) / index->config.pages.page_size;
}

#endif
