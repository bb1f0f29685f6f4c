/* Device memory of a model: see the header. */
#include "engine/model/model_storage.h"

#include <stdio.h>
#include <stdlib.h>

#include "engine/base/memory.h"
#include "engine/model/config_rope.h"

static const char advice_weights[] = "choose a smaller model, or end what else uses the device";

struct model_storage {
    void **allocations; /* [n], device */
    size_t n, capacity;
};

struct model *model_new(const struct model_config *config, const char *path,
                        const struct backend *backend, struct device *dev)
{
    struct model *m = xcalloc(1, sizeof *m);
    m->backend = backend;
    m->dev = dev;
    m->config = *config;
    m->path = xstrdup(path);
    m->layers = xcalloc((size_t)config->n_layers, sizeof *m->layers);
    m->storage = xcalloc(1, sizeof *m->storage);
    struct device_info info;
    backend->describe(dev, &info);
    m->max_rows = info.max_rows;
    m->chunk_flops = info.chunk_flops;
    return m;
}

void model_close(struct model *m)
{
    if (!m)
        return;
    for (size_t i = 0; i < m->storage->n; i++)
        m->backend->release(m->dev, m->storage->allocations[i]);
    free(m->storage->allocations);
    free(m->storage);
    free(m->layers);
    free(m->warnings);
    free(m->path);
    free(m);
}

bool model_check_memory(const struct backend *backend, struct device *dev, uint64_t n_bytes,
                        const char *what, const char *advice, struct error *err)
{
    struct device_info info;
    backend->describe(dev, &info);
    if (n_bytes <= info.free_bytes || info.free_bytes == 0)
        return true;
    return fail_code(err, EXIT_CODE_NO_DEVICE,
                     "%s: needs %.1f MiB, and %.1f MiB are free on %s%s%s", what,
                     (double)n_bytes / (1 << 20), (double)info.free_bytes / (1 << 20), info.name,
                     advice ? "; " : "", advice ? advice : "");
}

static void *allocate(struct model *m, uint64_t n_bytes, const char *what, struct error *err)
{
    void *p = m->backend->alloc(m->dev, (size_t)n_bytes);
    if (!p) {
        /* What is free is told when it explains the failure; otherwise only the need is known. */
        if (model_check_memory(m->backend, m->dev, n_bytes, what, advice_weights, err))
            fail_code(err, EXIT_CODE_NO_DEVICE, "%s: no memory for %.1f MiB on the device", what,
                      (double)n_bytes / (1 << 20));
        return NULL;
    }
    struct model_storage *s = m->storage;
    s->allocations = array_grow(s->allocations, &s->capacity, s->n + 1, sizeof *s->allocations);
    s->allocations[s->n++] = p;
    return p;
}

static bool place_rope(struct model *m, struct error *err)
{
    const struct model_config *c = &m->config;
    if (c->rope_kind == ROPE_NONE)
        return true;
    size_t n_bytes = (size_t)c->rope_dim / 2 * sizeof(float);
    float *device = allocate(m, n_bytes, m->path, err);
    if (!device)
        return false;
    float *inv_freq = xcalloc(1, n_bytes);
    config_rope_frequencies(c, inv_freq);
    m->backend->upload(m->dev, device, inv_freq, n_bytes);
    free(inv_freq);
    m->rope = (struct rope){.inv_freq = device, .n_rot = c->rope_dim};
    return true;
}

/* Whether the weights fit; if not, err says how large a model of the same dtypes would. */
static bool check_weights(const struct model *m, struct error *err)
{
    struct device_info info;
    char advice[96];
    m->backend->describe(m->dev, &info);
    double fitting = (double)info.free_bytes / (double)m->weight_bytes * (double)m->n_params;
    bool large = fitting >= 1e9;
    snprintf(advice, sizeof advice, "a model of about %.1f %s parameters would fit",
             fitting / (large ? 1e9 : 1e6), large ? "billion" : "million");
    return model_check_memory(m->backend, m->dev, m->weight_bytes, m->path, advice, err);
}

bool model_place(struct model *m, struct weight_plan *plan, struct error *err)
{
    m->weight_bytes = weights_bytes(plan);
    m->n_params = weights_elements(plan);
    if (!check_weights(m, err))
        return false;
    for (size_t i = 0; i < plan->n; i++) {
        struct weight_slot *slot = &plan->slots[i];
        slot->device = allocate(m, weight_slot_bytes(slot), m->path, err);
        if (!slot->device)
            return false;
        if (slot->vector) {
            *slot->vector = slot->device;
        } else {
            slot->linear->w = slot->device;
            slot->linear->dtype = slot->dtype;
        }
    }
    if (!m->lm_head.w)
        m->lm_head = m->embedding;
    return place_rope(m, err);
}

uint64_t model_kv_bytes_per_token(const struct model_config *config, enum dtype kv_dtype)
{
    return (uint64_t)2 * (uint64_t)config->n_layers * (uint64_t)config->n_kv_heads *
           (uint64_t)config->head_dim * dtype_bytes(kv_dtype);
}
