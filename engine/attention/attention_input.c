#include "engine/attention/attention_input.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"

enum { MAX_HEADS = 1024, MAX_HEAD_DIM = 512, MAX_KEYS = 1 << 24, MAX_BATCH = 1 << 16 };

/* --- Reading ------------------------------------------------------------------------------ */

static const struct safetensor *find(const struct safetensors *file, const char *name,
                                     const char *part)
{
    char full[512];
    int n = snprintf(full, sizeof full, "%s/%s", name, part);
    return n > 0 && (size_t)n < sizeof full ? safetensors_find(file, full) : NULL;
}

/* A tensor of four dimensions; its elements are bounded by the file's length. */
static const struct safetensor *find_4d(const struct safetensors *file, const char *name,
                                        const char *part, struct error *err)
{
    const struct safetensor *t = find(file, name, part);
    if (!t) {
        fail(err, "%s: there is no tensor %.200s/%s", safetensors_path(file), name, part);
        return NULL;
    }
    if (t->n_dims != 4 || !t->n_elements) {
        fail(err, "%s: %s must have four dimensions, none of them 0", safetensors_path(file),
             t->name);
        return NULL;
    }
    return t;
}

static bool check_shapes(struct attention_input *in, const struct safetensor *q,
                         const struct safetensor *k, const struct safetensor *v, const char *path,
                         struct error *err)
{
    if (memcmp(k->shape, v->shape, 4 * sizeof k->shape[0]) != 0)
        return fail(err, "%s: %s and %s must have the same shape", path, k->name, v->name);
    if (q->shape[0] != k->shape[0] || q->shape[3] != k->shape[3])
        return fail(err, "%s: %s [B, H, Q, D] and %s [B, KV, K, D] must agree in B and D", path,
                    q->name, k->name);
    if (q->shape[0] > MAX_BATCH || q->shape[1] > MAX_HEADS || k->shape[2] > MAX_KEYS ||
        q->shape[3] > MAX_HEAD_DIM)
        return fail(err, "%s: %s is too large: at most %d heads of %d, and %d keys", path, q->name,
                    MAX_HEADS, MAX_HEAD_DIM, MAX_KEYS);
    if (q->shape[1] % k->shape[1] != 0)
        return fail(err, "%s: %" PRIu64 " query heads are no multiple of %" PRIu64 " KV heads",
                    path, q->shape[1], k->shape[1]);
    if (q->shape[2] > k->shape[2])
        return fail(err, "%s: %s has more queries than %s has keys; the last query's key is last",
                    path, q->name, k->name);
    in->n_batch = (int)q->shape[0];
    in->n_heads = (int)q->shape[1];
    in->n_rows = (int)q->shape[2];
    in->head_dim = (int)q->shape[3];
    in->n_kv_heads = (int)k->shape[1];
    in->n_keys = (int)k->shape[2];
    return true;
}

/* The values of t, [n_elements]; NULL on failure. */
static float *read_values(const struct safetensors *file, const struct safetensor *t,
                          struct error *err)
{
    float *values =
        t->n_elements <= SIZE_MAX ? try_calloc((size_t)t->n_elements, sizeof *values) : NULL;
    if (!values) {
        fail_code(err, EXIT_CODE_NO_DEVICE, "%s: %s: out of memory", safetensors_path(file),
                  t->name);
        return NULL;
    }
    if (safetensors_read_f32(file, t, values, err))
        return values;
    free(values);
    return NULL;
}

/* [B, H, Q, D] to [B, Q, H, D]. */
static void heads_inside_rows(float *to, const float *from, const struct attention_input *in)
{
    size_t n_heads = (size_t)in->n_heads, n_rows = (size_t)in->n_rows, dim = (size_t)in->head_dim;
    for (size_t b = 0; b < (size_t)in->n_batch; b++)
        for (size_t h = 0; h < n_heads; h++)
            for (size_t i = 0; i < n_rows; i++)
                memcpy(to + ((b * n_rows + i) * n_heads + h) * dim,
                       from + ((b * n_heads + h) * n_rows + i) * dim, dim * sizeof *to);
}

static bool read_queries(struct attention_input *in, const struct safetensors *file,
                         const struct safetensor *t, struct error *err)
{
    float *by_head = read_values(file, t, err);
    if (!by_head)
        return false;
    in->q = try_calloc((size_t)t->n_elements, sizeof *in->q);
    if (in->q)
        heads_inside_rows(in->q, by_head, in);
    else
        fail_code(err, EXIT_CODE_NO_DEVICE, "%s: out of memory", t->name);
    free(by_head);
    return in->q != NULL;
}

/* allowed [n_rows, n_keys] of one batch entry: finds first_key and checks that nothing else is
 * hidden than padding and the future. */
static bool find_padding(const struct attention_input *in, const uint8_t *allowed, int *first_key)
{
    int first = 0;
    while (first < in->n_keys && !allowed[first])
        first++;
    if (first > in->n_keys - in->n_rows)
        return false;
    for (int i = 0; i < in->n_rows; i++)
        for (int j = 0; j < in->n_keys; j++) {
            bool visible = j >= first && j <= in->n_keys - in->n_rows + i;
            if (visible != (allowed[(size_t)i * (size_t)in->n_keys + (size_t)j] != 0))
                return false;
        }
    *first_key = first;
    return true;
}

static bool read_allowed(struct attention_input *in, const struct safetensors *file,
                         const char *name, struct error *err)
{
    const struct safetensor *t = find(file, name, "allowed");
    if (!t)
        return true;
    size_t n_entry = (size_t)in->n_rows * (size_t)in->n_keys;
    if (strcmp(t->dtype, "U8") != 0 || t->n_elements != (uint64_t)in->n_batch * n_entry)
        return fail(err, "%s: %s must be U8 [B, 1, Q, K]", safetensors_path(file), t->name);
    uint8_t *allowed = try_calloc(n_entry, 1);
    if (!allowed)
        return fail_code(err, EXIT_CODE_NO_DEVICE, "%s: out of memory", t->name);
    bool ok = true;
    for (int b = 0; ok && b < in->n_batch; b++) {
        ok = safetensors_read(file, t, (uint64_t)b * n_entry, allowed, n_entry, err);
        if (ok && !find_padding(in, allowed, &in->first_key[b]))
            ok = fail(err, "%s: %s must be causal, with padding at most on the left",
                      safetensors_path(file), t->name);
    }
    free(allowed);
    return ok;
}

bool attention_input_read(struct attention_input *out, const struct safetensors *file,
                          const char *name, struct error *err)
{
    struct attention_input in = {0};
    const struct safetensor *q = find_4d(file, name, "q", err);
    const struct safetensor *k = q ? find_4d(file, name, "k", err) : NULL;
    const struct safetensor *v = k ? find_4d(file, name, "v", err) : NULL;
    if (!v || !check_shapes(&in, q, k, v, safetensors_path(file), err))
        return false;
    in.first_key = xcalloc((size_t)in.n_batch, sizeof *in.first_key);
    if (!read_queries(&in, file, q, err) || !(in.k = read_values(file, k, err)) ||
        !(in.v = read_values(file, v, err)) || !read_allowed(&in, file, name, err)) {
        attention_input_free(&in);
        return false;
    }
    *out = in;
    return true;
}

void attention_input_free(struct attention_input *in)
{
    free(in->q);
    free(in->k);
    free(in->v);
    free(in->first_key);
    *in = (struct attention_input){0};
}

/* --- On a device -------------------------------------------------------------------------- */

static void *uploaded(struct attention_stage *s, const void *from, size_t n_bytes)
{
    void *p = s->backend->alloc(s->dev, n_bytes);
    if (p && from)
        s->backend->upload(s->dev, p, from, n_bytes);
    return p;
}

bool attention_stage_open(struct attention_stage *out, const struct attention_input *in,
                          const struct backend *backend, struct device *dev, uint64_t seed,
                          struct error *err)
{
    struct attention_stage s = {.in = in, .backend = backend, .dev = dev};
    size_t call = (size_t)in->n_rows * (size_t)in->n_heads * (size_t)in->head_dim;
    size_t keys = (size_t)in->n_kv_heads * (size_t)in->n_keys * (size_t)in->head_dim;
    struct workspace_need need = {.max_rows = in->n_rows,
                                  .max_width = in->n_heads * in->head_dim,
                                  .n_heads = in->n_heads,
                                  .n_kv_heads = in->n_kv_heads,
                                  .head_dim = in->head_dim,
                                  .max_keys = in->n_keys};
    struct step_state step = {.n_context = in->n_keys - in->n_rows, .seed = seed};
    s.q = uploaded(&s, in->q, (size_t)in->n_batch * call * sizeof(float));
    s.k = uploaded(&s, in->k, (size_t)in->n_batch * keys * sizeof(float));
    s.v = uploaded(&s, in->v, (size_t)in->n_batch * keys * sizeof(float));
    s.out = uploaded(&s, NULL, call * sizeof(float));
    s.step = uploaded(&s, &step, sizeof step);
    s.counts = uploaded(&s, NULL, sizeof *s.counts);
    if (s.q && s.k && s.v && s.out && s.step && s.counts && backend->reserve(dev, &need)) {
        *out = s;
        return true;
    }
    attention_stage_close(&s);
    struct device_info info;
    backend->describe(dev, &info);
    return fail_code(err, EXIT_CODE_NO_DEVICE,
                     "%s: no memory for %d calls of %d queries and %d keys; %.0f MiB are free",
                     info.name, in->n_batch, in->n_rows, in->n_keys,
                     (double)info.free_bytes / (1 << 20));
}

void attention_stage_close(struct attention_stage *s)
{
    void *held[] = {s->q, s->k, s->v, s->out, s->step, s->counts};
    for (size_t i = 0; i < sizeof held / sizeof held[0]; i++)
        if (held[i])
            s->backend->release(s->dev, held[i]);
    s->q = s->k = s->v = s->out = NULL;
    s->step = NULL;
    s->counts = NULL;
}

struct attention attention_stage_call(const struct attention_stage *s, int b)
{
    const struct attention_input *in = s->in;
    size_t call = (size_t)in->n_rows * (size_t)in->n_heads * (size_t)in->head_dim;
    size_t keys = (size_t)in->n_kv_heads * (size_t)in->n_keys * (size_t)in->head_dim;
    struct attention att = {
        .out = s->out,
        .q = s->q + (size_t)b * call,
        .q_stride = in->n_heads * in->head_dim,
        .n_rows = in->n_rows,
        .n_heads = in->n_heads,
        .kv = {.dtype = DTYPE_F32, .n_kv_heads = in->n_kv_heads, .head_dim = in->head_dim},
        .step = s->step,
        .counts = s->counts,
        .scale = 1 / sqrtf((float)in->head_dim),
        .first_key = in->first_key[b],
        .max_keys = in->n_keys,
    };
    att.kv.k[KV_CONTEXT] = s->k + (size_t)b * keys;
    att.kv.v[KV_CONTEXT] = s->v + (size_t)b * keys;
    att.kv.capacity[KV_CONTEXT] = in->n_keys;
    return att;
}
