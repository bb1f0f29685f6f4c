/* Memory of an index over keys, and which keys each layer has indexed. */
#include "kernels/cpu/index.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- Memory --------------------------------------------------------------------------------- */

static size_t stride_of(const struct key_index_config *c)
{
    size_t n = (size_t)c->max_keys;
    if (c->kind == INDEX_PAGES)
        n = (n + (size_t)c->pages.page_size - 1) / (size_t)c->pages.page_size;
    return (n + 15) / 16 * 16 + LIST_SLACK;
}

static size_t n_words_of(const struct key_index_config *c)
{
    if (c->kind == INDEX_CHANNELS && c->channels.label_bits >= 16)
        return 0;
    if (c->kind == INDEX_CHANNELS)
        return ((size_t)c->channels.n_channels * (size_t)label_width(c) + 31) / 32;
    return ((size_t)c->hash.width[c->hash.n_linears] + 31) / 32;
}

/* Elements of one linear's weights, and of its biases, over all layers and heads. */
static size_t n_weights(const struct key_index_config *c, int linear)
{
    return (size_t)c->n_layers * (size_t)c->n_heads * (size_t)c->hash.width[linear] *
           (size_t)hash_padded(c->hash.width[linear + 1]);
}

static size_t n_biases(const struct key_index_config *c, int linear)
{
    return (size_t)c->n_layers * (size_t)c->n_heads *
           (size_t)hash_padded(c->hash.width[linear + 1]);
}

/* Bounds that are keys' own elements are exact in their type; rounded ones are not. */
static enum dtype bounds_of(const struct key_index_config *c)
{
    return c->pages.label_bits < 16 ? DTYPE_F32 : c->kv_dtype;
}

static size_t n_values_of(const struct key_index_config *c)
{
    return c->channels.label_bits < 16 ? 2 : (size_t)c->channels.n_channels;
}

uint64_t cpu_index_bytes(struct device *dev, const struct key_index_config *config)
{
    (void)dev;
    uint64_t arrays = (uint64_t)config->n_layers * stride_of(config);
    if (config->kind == INDEX_PAGES)
        return arrays * (uint64_t)config->n_kv_heads * 2 * (uint64_t)config->head_dim *
               dtype_bytes(bounds_of(config));
    if (config->kind == INDEX_CHANNELS)
        return arrays * (uint64_t)config->n_heads *
               (n_words_of(config) * sizeof(uint32_t) +
                n_values_of(config) * dtype_bytes(config->kv_dtype));
    arrays *= (uint64_t)config->n_heads * n_words_of(config) * sizeof(uint32_t);
    for (int i = 0; i < config->hash.n_linears; i++)
        arrays += HASH_SIDES * (n_weights(config, i) + n_biases(config, i)) * sizeof(float);
    return arrays;
}

/* The type that holds x [n] exactly in the fewest bytes. */
static enum dtype narrowest(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (float_bits(x[i]) & 0xFFFF)
            return DTYPE_F32;
    return DTYPE_BF16;
}

/* to [n, padded(width)] = from [n, width], then zeros.  NULL: out of memory. */
static void *padded_copy(const float *from, size_t n, int width, enum dtype dtype)
{
    size_t padded = (size_t)hash_padded(width);
    void *to = calloc(n * padded, dtype_bytes(dtype));
    for (size_t i = 0; to && i < n; i++)
        store_f32(to, dtype, i * padded, from + i * (size_t)width, width);
    return to;
}

static bool open_hash(struct key_index *index)
{
    const struct key_index_config *c = &index->config;
    const struct hash_networks *h = &c->hash;
    size_t n = (size_t)c->n_layers * (size_t)c->n_heads;
    assert(h->n_linears > 0 && h->n_linears <= HASH_MAX_LINEARS && h->width[0] == c->head_dim);
    index->n_words = (int)n_words_of(c);
    /* Zeroed by the system when first touched, so that it costs what is indexed. */
    index->words = calloc(n * (size_t)index->n_words * index->stride, sizeof *index->words);
    bool ok = index->words != NULL;
    for (int side = 0; side < HASH_SIDES; side++)
        for (int i = 0; ok && i < h->n_linears; i++) {
            int width = h->width[i + 1];
            size_t n_rows = n * (size_t)h->width[i];
            enum dtype dtype = narrowest(h->w[side][i], n_rows * (size_t)width);
            index->hash.dtype[side][i] = dtype;
            index->hash.w[side][i] = padded_copy(h->w[side][i], n_rows, width, dtype);
            index->hash.b[side][i] = padded_copy(h->b[side][i], n, width, DTYPE_F32);
            ok = index->hash.w[side][i] && index->hash.b[side][i];
        }
    return ok;
}

static bool open_pages(struct key_index *index)
{
    const struct key_index_config *c = &index->config;
    assert(c->pages.page_size > 0 && c->pages.label_bits > 0 && c->pages.label_bits <= 16);
    size_t n = (size_t)c->n_layers * (size_t)c->n_kv_heads * index->stride;
    index->bounds = bounds_of(c);
    index->pages = calloc(n, 2 * (size_t)c->head_dim * dtype_bytes(index->bounds));
    return index->pages != NULL;
}

static bool open_channels(struct key_index *index)
{
    const struct key_index_config *c = &index->config;
    const struct key_channels *from = &c->channels;
    size_t n = (size_t)c->n_layers * (size_t)c->n_heads;
    size_t n_channels = n * (size_t)from->n_channels;
    assert(from->n_channels > 0 && from->n_channels <= c->head_dim);
    assert(from->label_bits > 0 && from->label_bits <= 16);
    index->n_words = (int)n_words_of(c);
    index->n_values = (int)n_values_of(c);
    index->channels = calloc(n_channels, sizeof *index->channels);
    if (index->channels)
        memcpy(index->channels, from->channels, n_channels * sizeof *index->channels);
    if (index->n_words)
        index->words = calloc(n * (size_t)index->n_words * index->stride, sizeof *index->words);
    index->values = calloc(n * (size_t)index->n_values * index->stride, dtype_bytes(c->kv_dtype));
    return index->channels && index->values && (index->words || !index->n_words);
}

static bool open_kind(struct key_index *index)
{
    switch (index->config.kind) {
    case INDEX_HASH:
        return open_hash(index);
    case INDEX_PAGES:
        return open_pages(index);
    default:
        return open_channels(index);
    }
}

struct key_index *cpu_index_open(struct device *dev, const struct key_index_config *config,
                                 char *why, size_t n_why)
{
    struct key_index *index = calloc(1, sizeof *index);
    bool ok = index != NULL;
    if (ok) {
        index->config = *config;
        index->stride = stride_of(config);
        index->n_indexed = calloc((size_t)config->n_layers, sizeof *index->n_indexed);
        ok = index->n_indexed != NULL;
    }
    ok = ok && open_kind(index);
    if (ok)
        return index;
    snprintf(why, n_why, "no memory for an index over %d keys, %.0f MiB", config->max_keys,
             (double)cpu_index_bytes(dev, config) / (1 << 20));
    cpu_index_close(dev, index);
    return NULL;
}

void cpu_index_close(struct device *dev, struct key_index *index)
{
    (void)dev;
    if (!index)
        return;
    for (int side = 0; side < HASH_SIDES; side++)
        for (int i = 0; i < HASH_MAX_LINEARS; i++) {
            free(index->hash.w[side][i]);
            free(index->hash.b[side][i]);
        }
    free(index->words);
    free(index->pages);
    free(index->channels);
    free(index->values);
    free(index->n_indexed);
    free(index);
}

/* --- Operations ------------------------------------------------------------------------------ */

void cpu_index_update(struct device *dev, struct key_index *index, const struct attention *att)
{
    if (cpu_failed(dev))
        return;
    struct attention_shape shape = attention_shape(att);
    assert(att->layer >= 0 && att->layer < index->config.n_layers && att->row_offset == 0);
    assert(att->kv.n_kv_heads == index->config.n_kv_heads &&
           shape.n_keys <= index->config.max_keys);
    int *n_indexed = &index->n_indexed[att->layer];
    struct key_range added = {min_int(*n_indexed, shape.first_position), shape.n_keys};
    if (index->config.kind == INDEX_HASH)
        index_hash_add(dev, index, att, added);
    else if (index->config.kind == INDEX_CHANNELS)
        index_channels_add(dev, index, att, added);
    else
        index_pages_add(dev, index, att, added, *n_indexed);
    *n_indexed = shape.n_keys;
}

void cpu_score_index(struct device *dev, struct selection *sel, const struct key_index *index,
                     const struct attention *att)
{
    if (selection_skips(dev, sel, att))
        return;
    assert(index->n_indexed[att->layer] == sel->n_keys);
    if (index->config.kind == INDEX_HASH)
        index_hash_score(dev, sel, index, att);
    else if (index->config.kind == INDEX_CHANNELS)
        index_channels_score(dev, sel, index, att);
    else
        index_pages_score(dev, sel, index, att);
}
