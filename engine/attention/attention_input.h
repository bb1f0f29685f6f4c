/* Queries, keys and values of attention calls, read from a safetensors file and laid out on a
 * device: what `debug attention` and the tests run stacks on. */
#ifndef ATTNSCOPE_ENGINE_ATTENTION_ATTENTION_INPUT_H
#define ATTNSCOPE_ENGINE_ATTENTION_ATTENTION_INPUT_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/model/safetensors.h"
#include "kernels/backend.h"

/* On the host, for a batch of calls of the same shape. */
struct attention_input {
    int n_batch, n_heads, n_kv_heads, n_rows, n_keys, head_dim;
    float *q;       /* [n_batch, n_rows, n_heads, head_dim] */
    float *k, *v;   /* [n_batch, n_kv_heads, n_keys, head_dim] */
    int *first_key; /* [n_batch] keys before it are padding */
};

/* Reads NAME/q [B, H, Q, D], NAME/k and NAME/v [B, KV, K, D] and, if there, NAME/allowed u8
 * [B, 1, Q, K], which must be causal with padding at most on the left.  On success the caller
 * frees *out with attention_input_free. */
bool attention_input_read(struct attention_input *out, const struct safetensors *file,
                          const char *name, struct error *err);
void attention_input_free(struct attention_input *in);

/* The same on a device, with room for one call's output; f32 keys and values. */
struct attention_stage {
    const struct attention_input *in; /* borrowed, with backend and dev */
    const struct backend *backend;
    struct device *dev;
    float *q, *k, *v;                /* (device) as in */
    float *out;                      /* (device) [n_rows, n_heads, head_dim] */
    struct step_state *step;         /* (device) */
    struct attention_counts *counts; /* (device) added to by all calls */
};

/* Uploads, with the workspaces that the calls need.  On failure nothing is held. */
bool attention_stage_open(struct attention_stage *out, const struct attention_input *in,
                          const struct backend *backend, struct device *dev, uint64_t seed,
                          struct error *err);
void attention_stage_close(struct attention_stage *s);

/* The call of batch entry b: all keys lie in the context segment. */
struct attention attention_stage_call(const struct attention_stage *s, int b);

#endif
