/* The forward pass of every family: one straight line over the backend's table. */
#include <assert.h>
#include <stdlib.h>

#include "engine/base/memory.h"
#include "engine/model/kv_cache.h"
#include "engine/model/model.h"
#include "engine/model/model_storage.h"

struct forward_buffers {
    const struct backend *backend;
    struct device *dev;
    int max_rows, max_keys;
    void *memory;  /* one allocation behind the four */
    float *x;      /* [max_rows, dim] the residual stream */
    float *qkv;    /* [max_rows, (n_heads + 2 n_kv_heads) * head_dim] */
    float *heads;  /* [max_rows, n_heads * head_dim] attention's output */
    float *hidden; /* [max_rows, ffn_dim] */
};

static int max_of(int a, int b)
{
    return a > b ? a : b;
}

static bool allocate(struct forward_buffers *b, const struct model_config *c, struct error *err)
{
    size_t q_width = (size_t)c->n_heads * (size_t)c->head_dim;
    size_t qkv_width = q_width + 2 * (size_t)c->n_kv_heads * (size_t)c->head_dim;
    size_t rows = (size_t)b->max_rows;
    size_t row_bytes = sizeof(float) * ((size_t)c->dim + qkv_width + q_width + (size_t)c->ffn_dim);
    size_t n_bytes = 0;
    if (!size_mul(&n_bytes, row_bytes, rows))
        return fail_code(err, EXIT_CODE_NO_DEVICE, "activations of %d rows overflow 64 bits",
                         b->max_rows);
    if (!model_check_memory(b->backend, b->dev, n_bytes, "activations", err))
        return false;
    b->memory = b->backend->alloc(b->dev, n_bytes);
    if (!b->memory)
        return fail_code(err, EXIT_CODE_NO_DEVICE, "activations: no memory for %d rows, %.1f MiB",
                         b->max_rows, (double)n_bytes / (1 << 20));
    b->x = b->memory;
    b->qkv = b->x + rows * (size_t)c->dim;
    b->heads = b->qkv + rows * qkv_width;
    b->hidden = b->heads + rows * q_width;
    return true;
}

struct forward_buffers *forward_buffers_open(struct model *m, int max_rows, int max_keys,
                                             struct error *err)
{
    assert(max_rows > 0 && max_keys > 0);
    const struct model_config *c = &m->config;
    struct forward_buffers *b = xcalloc(1, sizeof *b);
    b->backend = m->backend;
    b->dev = m->dev;
    b->max_rows = max_rows;
    b->max_keys = max_keys;
    int widest_layer = max_of(max_of(m->layers[0].qkv.n_out, m->layers[0].ffn_up.n_out), c->dim);
    const struct workspace_need need = {
        .max_rows = max_rows,
        .max_width = max_of(widest_layer, max_of(c->ffn_dim, m->layers[0].attention_out.n_in)),
        .n_heads = c->n_heads,
        .n_kv_heads = c->n_kv_heads,
        .head_dim = c->head_dim,
        .max_keys = max_keys};
    bool ok = allocate(b, c, err);
    if (ok && !m->backend->reserve(m->dev, &need))
        ok = fail_code(err, EXIT_CODE_NO_DEVICE,
                       "no memory for the workspaces of %d rows and %d keys", max_rows, max_keys);
    if (ok)
        return b;
    forward_buffers_close(b);
    return NULL;
}

void forward_buffers_close(struct forward_buffers *b)
{
    if (!b)
        return;
    if (b->memory)
        b->backend->release(b->dev, b->memory);
    free(b);
}

static struct attention attention_of(const struct model *m, const struct forward_call *call,
                                     int layer)
{
    const struct model_config *c = &m->config;
    return (struct attention){.out = call->buffers->heads,
                              .q = call->buffers->qkv,
                              .q_stride = m->layers[layer].qkv.n_out,
                              .n_rows = call->n_rows,
                              .n_heads = c->n_heads,
                              .kv = kv_cache_layer(call->context, call->tail, layer),
                              .step = call->step,
                              .counts = call->counts ? call->counts + layer : NULL,
                              .scale = model_config_scale(c, layer),
                              .window = model_config_window(c, layer),
                              .layer = layer,
                              .max_keys = call->max_keys};
}

void model_forward(struct model *m, const struct forward_call *call, float *logits, int n_logits)
{
    const struct model_config *c = &m->config;
    const struct backend *backend = m->backend;
    const struct forward_buffers *b = call->buffers;
    struct device *dev = m->dev;
    int n_rows = call->n_rows;
    assert(n_rows > 0 && n_rows <= b->max_rows && n_logits <= n_rows);
    assert(call->max_keys <= b->max_keys);

    backend->embed(dev, b->x, &m->embedding, m->positions.w ? &m->positions : NULL, call->tokens,
                   call->step, n_rows);
    for (int i = 0; i < c->n_layers; i++) {
        const struct model_layer *layer = &m->layers[i];
        struct attention att = attention_of(m, call, i);
        backend->norm_linear(dev, b->qkv, b->x, &layer->attention_norm, &layer->qkv,
                             ACTIVATION_NONE, n_rows);
        backend->rotate_append(dev, b->qkv, c->n_heads, &att.kv, &m->rope,
                               layer->has_qk_norm ? &layer->q_norm : NULL,
                               layer->has_qk_norm ? &layer->k_norm : NULL, call->step, n_rows);
        if (call->method.attend)
            call->method.attend(call->method.user, &att);
        else
            backend->attend_dense(dev, &att);
        backend->linear_add(dev, b->x, b->heads, &layer->attention_out, n_rows);
        backend->norm_linear(dev, b->hidden, b->x, &layer->ffn_norm, &layer->ffn_up, c->activation,
                             n_rows);
        backend->linear_add(dev, b->x, b->hidden, &layer->ffn_down, n_rows);
    }
    if (logits && n_logits > 0)
        backend->norm_linear(dev, logits, b->x + (size_t)(n_rows - n_logits) * (size_t)c->dim,
                             &m->final_norm, &m->lm_head, ACTIVATION_NONE, n_logits);
}
