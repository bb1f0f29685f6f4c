/* The networks of HashAttention, from a safetensors file or at random. */
#ifndef ATTNSCOPE_ENGINE_ATTENTION_HASH_WEIGHTS_H
#define ATTNSCOPE_ENGINE_ATTENTION_HASH_WEIGHTS_H

#include <stdbool.h>

#include "engine/base/error.h"
#include "engine/model/config.h"
#include "kernels/backend.h"

/* Reads layer.L.{q,k}.{Wi,bi}: Wi [n_heads, in, out], bi [n_heads, out] (0 where absent), for
 * linears i = 0, 1, ... of every layer of the model, in F32, F16 or BF16.  The metadata's
 * "activation" is that between them, silu if it says nothing.  out points into *held, freed with
 * free(); held NULL: widths and activation only.  err names file, tensor and rule. */
bool hash_weights_read(struct hash_networks *out, const char *path,
                       const struct model_config *config, void **held, struct error *err);

/* The signs of 32 random projections, the same for queries and keys: for timing, and where there
 * are no trained networks. */
void hash_weights_random(struct hash_networks *out, const struct model_config *config, void **held);

/* "silu", "relu", "gelu", "tanh", in the order of enum hash_activation, then NULL. */
extern const char *const hash_activation_words[];

#endif
