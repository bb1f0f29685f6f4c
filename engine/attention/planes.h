/* Planes through the origin, by whose sides keys are hashed: random ones, or those of a file. */
#ifndef ATTNSCOPE_ENGINE_ATTENTION_PLANES_H
#define ATTNSCOPE_ENGINE_ATTENTION_PLANES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"

/* Whether a masker's path asks for random planes: "" or "random". */
bool planes_are_random(const char *path);

/* n standard normal numbers, the same on every machine for the same seed and stream.  Owned by the
 * caller: free(). */
float *planes_random(size_t n, uint64_t seed, uint32_t stream);

/* Tensor `name` of a safetensors file as f32, which must have shape [n_dims]; a first dimension of
 * 1 may be missing.  Owned by the caller: free().  NULL on failure. */
float *planes_read(const char *path, const char *name, const int *shape, int n_dims,
                   struct error *err);

#endif
