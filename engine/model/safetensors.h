/* safetensors files and sharded checkpoints: validated headers, tensors read by pread.
 * Source: the safetensors format, 0.8; the rules and their order as the tests list them. */
#ifndef ATTNSCOPE_ENGINE_MODEL_SAFETENSORS_H
#define ATTNSCOPE_ENGINE_MODEL_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"

enum { SAFETENSORS_MAX_DIMS = 8 };

struct safetensor {
    char *name;     /* owned by the file */
    char dtype[16]; /* "BF16", "F32", ... */
    int n_dims;
    uint64_t shape[SAFETENSORS_MAX_DIMS];
    uint64_t n_elements;
    uint64_t begin, end; /* bytes, from the start of the file */
};

struct safetensors;

/* Opens one file and checks all of its header.  NULL on failure. */
struct safetensors *safetensors_open(const char *path, struct error *err);
void safetensors_close(struct safetensors *s);
const struct safetensor *safetensors_find(const struct safetensors *s, const char *name);
size_t safetensors_count(const struct safetensors *s);
/* In the order of their bytes in the file. */
const struct safetensor *safetensors_at(const struct safetensors *s, size_t i);
/* A string of the header's metadata, or NULL. */
const char *safetensors_metadata(const struct safetensors *s, const char *key);
const char *safetensors_path(const struct safetensors *s);
uint64_t safetensors_file_bytes(const struct safetensors *s);
/* False if the file is no longer the one that was opened (size or time of change). */
bool safetensors_check_unchanged(const struct safetensors *s, struct error *err);
/* Reads n_bytes at byte offset of the tensor into to. */
bool safetensors_read(const struct safetensors *s, const struct safetensor *t, uint64_t offset,
                      void *to, size_t n_bytes, struct error *err);
/* Reads a whole tensor as f32 (from F32, F16, BF16) or i64-able integers as int64; for tests,
 * reference data and small parts.  to [n_elements]. */
bool safetensors_read_f32(const struct safetensors *s, const struct safetensor *t, float *to,
                          struct error *err);
bool safetensors_read_i64(const struct safetensors *s, const struct safetensor *t, int64_t *to,
                          struct error *err);

/* Writes a file of f32 / i32 / i16 / u8 tensors (for `debug attention`), atomically. */
struct safetensors_out {
    const char *name;
    const char *dtype; /* "F32", "I32", "I16", "U8" */
    int n_dims;
    uint64_t shape[SAFETENSORS_MAX_DIMS];
    const void *data;
};
bool safetensors_write(const char *path, const struct safetensors_out *tensors, size_t n,
                       struct error *err);

/* A model folder's weights: model.safetensors, or the index and its shards.  All headers are
 * checked by checkpoint_open, before any weight is read. */
struct checkpoint;
struct checkpoint *checkpoint_open(const char *folder, struct error *err);
void checkpoint_close(struct checkpoint *c);
/* The tensor and the file that holds it; NULL if absent. */
const struct safetensor *checkpoint_find(const struct checkpoint *c, const char *name,
                                         const struct safetensors **file);
/* In the order of their names. */
size_t checkpoint_count(const struct checkpoint *c);
const struct safetensor *checkpoint_at(const struct checkpoint *c, size_t i);
/* Bytes of all files together. */
uint64_t checkpoint_file_bytes(const struct checkpoint *c);
/* Lines about tensors outside the index and links that leave the folder; "" if there are none. */
const char *checkpoint_warnings(const struct checkpoint *c);
bool checkpoint_check_unchanged(const struct checkpoint *c, struct error *err);

#endif
