/* Memory of an index over keys, and the way to its kind. */
#include "kernels/cuda/index.cuh"

#include <stdio.h>
#include <stdlib.h>

/* By enum key_index_kind; NULL: not there. */
static const struct index_kind *const kinds[N_INDEX_KINDS] = {
    &index_hash, &index_pages, &index_channels, &index_codes, &index_buckets, &index_tables};

static_assert((int)INDEX_HASH == 0 && (int)INDEX_PAGES == 1 && (int)INDEX_CHANNELS == 2 &&
                  (int)INDEX_CODES == 3 && (int)INDEX_BUCKETS == 4 && (int)INDEX_TABLES == 5,
              "the table goes by these");

/* A multiple of what a thread or a warp reads at once. */
static size_t stride_of(const struct key_index_config *c)
{
    return (kinds[c->kind]->n_entries(c) + 63) / 64 * 64;
}

static bool is_there(const struct key_index_config *c)
{
    return kinds[c->kind] != NULL;
}

uint64_t cuda_index_bytes(struct device *dev, const struct key_index_config *config)
{
    (void)dev;
    return is_there(config) ? kinds[config->kind]->bytes(config, stride_of(config)) : 0;
}

struct key_index *cuda_index_open(struct device *dev, const struct key_index_config *config,
                                  char *why, size_t n_why)
{
    if (!is_there(config)) {
        snprintf(why, n_why, "the cuda backend has no such index; use --backend cpu");
        return NULL;
    }
    struct key_index *index = (struct key_index *)calloc(1, sizeof *index);
    if (index) {
        size_t n = (size_t)config->n_layers;
        index->config = *config;
        index->kind = kinds[config->kind];
        index->stride = stride_of(config);
        index->n_indexed = (int32_t *)cuda_alloc(dev, n * sizeof *index->n_indexed);
        index->ticket = (uint32_t *)cuda_alloc(dev, sizeof *index->ticket);
        if (index->n_indexed && index->ticket && index->kind->open(dev, index))
            return index;
    }
    snprintf(why, n_why, "no memory for an index over %d keys, %.0f MiB", config->max_keys,
             (double)cuda_index_bytes(dev, config) / (1 << 20));
    cuda_index_close(dev, index);
    return NULL;
}

void cuda_index_close(struct device *dev, struct key_index *index)
{
    if (!index)
        return;
    index->kind->close(dev, index);
    cuda_release(dev, index->n_indexed);
    cuda_release(dev, index->ticket);
    free(index);
}

void cuda_index_update(struct device *dev, struct key_index *index, const struct attention *att)
{
    assert(att->kv.n_kv_heads == index->config.n_kv_heads);
    assert(att->max_keys <= index->config.max_keys && att->kv.dtype == index->config.kv_dtype);
    index->kind->add(dev, index, att);
}

void cuda_score_index(struct device *dev, struct selection *sel, const struct key_index *index,
                      const struct attention *att)
{
    assert(att->n_rows == sel->n_rows && att->max_keys <= index->config.max_keys);
    selection_catch_up(dev, sel);
    sel->late->levels.write = NULL;
    sel->late->scope = {};
    index->kind->score(dev, sel, index, att);
}
