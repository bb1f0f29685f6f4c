/* A loaded model: config, weights on a device, and the one forward pass.
 *
 * Families (llama, mistral, qwen2, qwen3, gpt2) differ in which tensors they have and in a few
 * switches of struct model_config; the forward pass is written once over kernels/backend.h.
 * The engine thread owns a model. */
#ifndef ATTNSCOPE_ENGINE_MODEL_MODEL_H
#define ATTNSCOPE_ENGINE_MODEL_MODEL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/model/config.h"
#include "kernels/backend.h"

/* One layer's weights.  q, k and v rows are stored as one matrix, as are gate and up. */
struct model_layer {
    struct norm attention_norm;
    struct linear qkv; /* [(n_heads + 2 n_kv_heads) * head_dim, dim] */
    bool has_qk_norm;
    struct norm q_norm, k_norm;  /* [head_dim], qwen3 */
    struct linear attention_out; /* [dim, n_heads * head_dim] */
    struct norm ffn_norm;
    struct linear ffn_up;   /* [2 ffn_dim, dim] gate then up, or [ffn_dim, dim] (gpt2) */
    struct linear ffn_down; /* [dim, ffn_dim] */
};

struct model {
    const struct backend *backend; /* borrowed with dev: outlives the model */
    struct device *dev;
    struct model_config config;
    char *path;                 /* folder, owned */
    struct model_layer *layers; /* [config.n_layers] */
    struct linear embedding;    /* [vocab_size, dim] */
    struct linear positions;    /* [max_seq_len, dim], gpt2; w NULL otherwise */
    struct norm final_norm;
    struct linear lm_head; /* [vocab_size, dim]; shares embedding's w when tied */
    struct rope rope;
    uint64_t n_params;
    uint64_t weight_bytes; /* on the device */
    /* As the device says; asked once, since the chunks of a prefill must not change. */
    int max_rows;
    double chunk_flops;
    char *warnings; /* lines about ignored tensors and the like; owned, may be NULL */
    struct model_storage *storage; /* device allocations behind the pointers above */
};

/* Called while loading, from the loading thread, at most every ~50 ms. */
struct model_progress {
    void (*report)(void *user, uint64_t bytes_done, uint64_t bytes_total);
    void *user;
    atomic_bool *cancel; /* looked at between chunks; may be NULL */
};

/* Reads a model folder (safetensors, one file or sharded) onto the device.  NULL on failure: every
 * byte of the attempt is released, err names file, tensor and rule.  progress may be NULL. */
struct model *model_load(const char *folder, const struct backend *backend, struct device *dev,
                         const struct model_progress *progress, struct error *err);

/* A model of the config's shape with seeded random weights of the given dtype, scaled so that
 * activations stay finite; for benchmarks. */
struct model *model_random(const struct model_config *config, enum dtype dtype, uint64_t seed,
                           const struct backend *backend, struct device *dev, struct error *err);
void model_close(struct model *m);

/* Rounds the rotary frequencies to bf16.  transformers keeps them in f32 when it loads a
 * checkpoint, but a model that was cast to bf16 as a whole holds them so; for parity with such
 * references. */
void model_round_frequencies(struct model *m);

/* Weights, and the KV bytes of one token, for "fits N tokens". */
uint64_t model_kv_bytes_per_token(const struct model_config *config, enum dtype kv_dtype);

/* --- The forward pass --------------------------------------------------------------------- */

struct kv_cache; /* engine/model/kv_cache.h */
struct kv_tail;

/* How attention is done: dense when attend is NULL.  att is filled for the layer, rows appended. */
struct attention_method {
    void (*attend)(void *user, const struct attention *att);
    void *user;
};

/* Activations for calls of up to max_rows rows, in device memory.  Where the device records, also
 * what model_attention reads. */
struct forward_buffers;
struct forward_buffers *forward_buffers_open(struct model *m, int max_rows, int max_keys,
                                             struct error *err);
void forward_buffers_close(struct forward_buffers *b);
/* About the bytes of device memory that open takes, the device's workspaces included. */
uint64_t forward_buffers_bytes(const struct model *m, int max_rows);

struct forward_call {
    struct forward_buffers *buffers;
    const int32_t *tokens; /* [n_rows] (device) */
    int n_rows;
    const struct kv_cache *context;  /* the shared segment */
    const struct kv_tail *tail;      /* the lane's segment, or NULL during the context's prefill */
    const struct step_state *step;   /* (device) */
    struct attention_counts *counts; /* [n_layers] (device), or NULL */
    struct attention_method method;
    int max_keys; /* upper bound of keys after this call */
};

/* Runs n_rows tokens through all layers and appends their keys and values.  If logits is not NULL
 * (device) the logits of the last n_logits rows are written there, [n_logits, vocab_size]. */
void model_forward(struct model *m, const struct forward_call *call, float *logits, int n_logits);

/* The attention of all layers alone, once more, of the last one-row call, so that it can be timed:
 * on a device that records every layer's q of such a call is kept.  call is as it was then, its
 * step as before that call's row, without counts.  What comes out is thrown away. */
void model_attention(struct model *m, const struct forward_call *call);

#endif
