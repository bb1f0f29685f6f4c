/* Memory of an index over keys, and which keys each layer has indexed. */
#include "kernels/cpu/index.h"

#include <stdio.h>
#include <stdlib.h>

/* --- Memory --------------------------------------------------------------------------------- */

static const struct index_kind *const kinds[N_INDEX_KINDS] = {
    [INDEX_HASH] = &index_hash,
    [INDEX_PAGES] = &index_pages,
    [INDEX_CHANNELS] = &index_channels,
    [INDEX_CODES] = &index_codes,
    [INDEX_BUCKETS] = &index_buckets,
    [INDEX_TABLES] = &index_tables,
};

static size_t stride_of(const struct key_index_config *c)
{
    return (kinds[c->kind]->n_entries(c) + 15) / 16 * 16 + LIST_SLACK;
}

uint64_t cpu_index_bytes(struct device *dev, const struct key_index_config *config)
{
    (void)dev;
    return kinds[config->kind]->bytes(config, stride_of(config));
}

struct key_index *cpu_index_open(struct device *dev, const struct key_index_config *config,
                                 char *why, size_t n_why)
{
    struct key_index *index = calloc(1, sizeof *index);
    bool ok = index != NULL;
    if (ok) {
        index->config = *config;
        index->kind = kinds[config->kind];
        index->stride = stride_of(config);
        index->n_indexed = calloc((size_t)config->n_layers, sizeof *index->n_indexed);
        ok = index->n_indexed != NULL;
    }
    ok = ok && index->kind->open(index);
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
    if (index->kind)
        index->kind->close(index);
    free(index->n_indexed);
    free(index);
}

float *index_planes(const float *from, int n_sets, int n_planes, int head_dim)
{
    size_t padded = (size_t)hash_padded(n_planes), n = (size_t)n_sets * (size_t)n_planes;
    float *to = calloc((size_t)n_sets * (size_t)head_dim * padded, sizeof *to);
    for (size_t plane = 0; to && plane < n; plane++) {
        float *set = to + plane / (size_t)n_planes * (size_t)head_dim * padded;
        for (size_t d = 0; d < (size_t)head_dim; d++)
            set[d * padded + plane % (size_t)n_planes] = from[plane * (size_t)head_dim + d];
    }
    return to;
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
    index->kind->add(dev, index, att, added, *n_indexed);
    *n_indexed = shape.n_keys;
}

void cpu_score_index(struct device *dev, struct selection *sel, const struct key_index *index,
                     const struct attention *att)
{
    if (selection_skips(dev, sel, att))
        return;
    assert(index->n_indexed[att->layer] == sel->n_keys);
    sel->scope = (struct choice_scope){0};
    index->kind->score(dev, sel, index, att);
}
