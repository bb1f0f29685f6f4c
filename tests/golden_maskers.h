/* The reference project's masks and outputs (tests/golden/README.md), read for tests. */
#ifndef ATTNSCOPE_TESTS_GOLDEN_MASKERS_H
#define ATTNSCOPE_TESTS_GOLDEN_MASKERS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/attention/attention_input.h"
#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/memory.h"
#include "engine/model/safetensors.h"

#include <cmocka.h>

#define GOLDEN ATTNSCOPE_SOURCE_DIR "/tests/golden/maskers/"

static inline struct json *golden_manifest(void)
{
    struct error err = {0};
    struct json *root = json_parse_file(GOLDEN "manifest.json", 16 << 20, &err);
    if (!root)
        fail_msg("%s", err.text);
    return root;
}

static inline const struct json *golden_section(const struct json *manifest, const char *name)
{
    const struct json *section = json_get(json_get(manifest, "sections"), name);
    if (!section)
        fail_msg("the manifest has no section %s", name);
    return section;
}

static inline struct safetensors *golden_open(const char *path)
{
    struct error err = {0};
    struct safetensors *file = safetensors_open(path, &err);
    if (!file)
        fail_msg("%s", err.text);
    return file;
}

/* Tensor "KEY/PART" (or PART alone when key is ""); NULL if absent. */
static inline const struct safetensor *golden_find(const struct safetensors *file, const char *key,
                                                   const char *part)
{
    char name[256];
    snprintf(name, sizeof name, "%s%s%s", key, *key ? "/" : "", part);
    return safetensors_find(file, name);
}

/* Its values, [n_elements]; NULL if absent.  The caller frees. */
static inline float *golden_f32(const struct safetensors *file, const char *key, const char *part)
{
    const struct safetensor *t = golden_find(file, key, part);
    struct error err = {0};
    if (!t)
        return NULL;
    float *values = xcalloc((size_t)t->n_elements + 1, sizeof *values);
    if (!safetensors_read_f32(file, t, values, &err))
        fail_msg("%s", err.text);
    return values;
}

/* A mask: rows in (b, h, i) order. */
struct golden_mask {
    int64_t *ptr; /* [n_rows + 1], NULL if the mask is full or empty */
    int64_t *col;
    float *val; /* NULL: all 1 */
};

static inline int64_t *golden_ints(const struct safetensors *file, const char *key,
                                   const char *part)
{
    const struct safetensor *t = golden_find(file, key, part);
    struct error err = {0};
    if (!t)
        return NULL;
    int64_t *values = xcalloc((size_t)t->n_elements + 1, sizeof *values);
    if (!safetensors_read_i64(file, t, values, &err))
        fail_msg("%s", err.text);
    return values;
}

/* Whole numbers or f32, as double; NULL: not there. */
static inline double *golden_numbers(const struct safetensors *file, const char *key,
                                     const char *part)
{
    const struct safetensor *t = golden_find(file, key, part);
    if (!t)
        return NULL;
    double *values = xcalloc((size_t)t->n_elements + 1, sizeof *values);
    bool real = strcmp(t->dtype, "F32") == 0;
    float *reals = real ? golden_f32(file, key, part) : NULL;
    int64_t *ints = real ? NULL : golden_ints(file, key, part);
    for (size_t i = 0; i < (size_t)t->n_elements; i++)
        values[i] = real ? (double)reals[i] : (double)ints[i];
    free(reals);
    free(ints);
    return values;
}

static inline struct golden_mask golden_mask_read(const struct safetensors *file, const char *key)
{
    return (struct golden_mask){golden_ints(file, key, "ptr"), golden_ints(file, key, "col"),
                                golden_f32(file, key, "val")};
}

static inline void golden_mask_free(struct golden_mask *m)
{
    free(m->ptr);
    free(m->col);
    free(m->val);
}

static inline struct attention_input golden_input(const char *name)
{
    struct safetensors *file = golden_open(GOLDEN "inputs.safetensors");
    struct attention_input in;
    struct error err = {0};
    if (!attention_input_read(&in, file, name, &err))
        fail_msg("%s", err.text);
    safetensors_close(file);
    return in;
}

/* q.k of a row and key, in double. */
static inline double golden_score(const struct attention_input *in, int b, int head, int i, int key)
{
    size_t dim = (size_t)in->head_dim, kv = (size_t)(head / (in->n_heads / in->n_kv_heads));
    const float *q =
        in->q +
        (((size_t)b * (size_t)in->n_rows + (size_t)i) * (size_t)in->n_heads + (size_t)head) * dim;
    const float *k =
        in->k +
        (((size_t)b * (size_t)in->n_kv_heads + kv) * (size_t)in->n_keys + (size_t)key) * dim;
    double sum = 0;
    for (size_t d = 0; d < dim; d++)
        sum += (double)q[d] * k[d];
    return sum;
}

#endif
