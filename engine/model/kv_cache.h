/* The KV cache: one context segment that all lanes and questions share, and a small tail segment
 * per lane.  Attention reads the two as one sequence; nothing is copied when a lane starts.
 *   per layer: k, v [n_kv_heads, capacity, head_dim] (device) */
#ifndef ATTNSCOPE_ENGINE_MODEL_KV_CACHE_H
#define ATTNSCOPE_ENGINE_MODEL_KV_CACHE_H

#include "engine/base/error.h"
#include "engine/model/config.h"
#include "kernels/backend.h"

struct kv_cache {
    const struct backend *backend;
    struct device *dev;
    enum dtype dtype;
    int n_layers, n_kv_heads, head_dim;
    int capacity; /* tokens */
    uint64_t bytes;
    void *memory; /* one allocation, all layers: [n_layers, 2, n_kv_heads, capacity, head_dim] */
};

/* The same storage in the role of a lane's tail. */
struct kv_tail {
    struct kv_cache cache;
};

bool kv_cache_open(struct kv_cache *out, const struct backend *backend, struct device *dev,
                   const struct model_config *config, enum dtype dtype, int capacity,
                   struct error *err);
void kv_cache_close(struct kv_cache *c);

/* One layer's view; tail may be NULL. */
struct kv_layer kv_cache_layer(const struct kv_cache *context, const struct kv_tail *tail,
                               int layer);

#endif
