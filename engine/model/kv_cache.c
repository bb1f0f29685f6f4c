/* The KV cache: see the header. */
#include "engine/model/kv_cache.h"

#include <assert.h>

#include "engine/base/memory.h"
#include "engine/model/model.h"
#include "engine/model/model_storage.h"

bool kv_cache_open(struct kv_cache *out, const struct backend *backend, struct device *dev,
                   const struct model_config *config, enum dtype dtype, int capacity,
                   struct error *err)
{
    assert(capacity > 0);
    size_t n_bytes;
    if (!size_mul(&n_bytes, (size_t)model_kv_bytes_per_token(config, dtype), (size_t)capacity))
        return fail_code(err, EXIT_CODE_NO_DEVICE, "a KV cache of %d tokens overflows 64 bits",
                         capacity);
    if (!model_check_memory(backend, dev, n_bytes, "the KV cache", "shorten the context", err))
        return false;
    void *memory = backend->alloc(dev, n_bytes);
    if (!memory)
        return fail_code(err, EXIT_CODE_NO_DEVICE,
                         "the KV cache: no memory for %d tokens, %.1f MiB", capacity,
                         (double)n_bytes / (1 << 20));
    *out = (struct kv_cache){.backend = backend,
                             .dev = dev,
                             .dtype = dtype,
                             .n_layers = config->n_layers,
                             .n_kv_heads = config->n_kv_heads,
                             .head_dim = config->head_dim,
                             .capacity = capacity,
                             .bytes = n_bytes,
                             .memory = memory};
    return true;
}

void kv_cache_close(struct kv_cache *c)
{
    if (c->memory)
        c->backend->release(c->dev, c->memory);
    *c = (struct kv_cache){0};
}

static void set_segment(struct kv_layer *out, enum kv_segment segment, const struct kv_cache *c,
                        int layer)
{
    size_t part =
        (size_t)c->n_kv_heads * (size_t)c->capacity * (size_t)c->head_dim * dtype_bytes(c->dtype);
    out->k[segment] = (char *)c->memory + (size_t)layer * 2 * part;
    out->v[segment] = (char *)out->k[segment] + part;
    out->capacity[segment] = c->capacity;
}

struct kv_layer kv_cache_layer(const struct kv_cache *context, const struct kv_tail *tail,
                               int layer)
{
    assert(layer >= 0 && layer < context->n_layers);
    assert(!tail ||
           (tail->cache.dtype == context->dtype && tail->cache.n_layers == context->n_layers));
    struct kv_layer out = {
        .dtype = context->dtype, .n_kv_heads = context->n_kv_heads, .head_dim = context->head_dim};
    set_segment(&out, KV_CONTEXT, context, layer);
    if (tail)
        set_segment(&out, KV_TAIL, &tail->cache, layer);
    return out;
}
