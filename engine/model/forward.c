/* The forward pass of every family: one straight line over the backend's table. */
#include <assert.h>
#include <stdlib.h>

#include "engine/base/memory.h"
#include "engine/model/kv_cache.h"
#include "engine/model/model.h"
#include "engine/model/model_storage.h"

/* What devices take for products and for partial results of attention, at most. */
#define OTHER_WORKSPACE_BYTES ((uint64_t)64 << 20)

struct forward_buffers {
    const struct backend *backend;
    struct device *dev;
    int max_rows, max_keys;
    void *memory;    /* one allocation behind all below */
    float *x;        /* [max_rows, dim] the residual stream */
    float *qkv;      /* [max_rows, (n_heads + 2 n_kv_heads) * head_dim] */
    float *heads;    /* [max_rows, n_heads * head_dim] attention's output */
    float *hidden;   /* [max_rows, ffn_dim] */
    float *step_qkv; /* [n_layers, width of qkv] of a one-row call; NULL: in qkv as well */
};

static int max_of(int a, int b)
{
    return a > b ? a : b;
}

/* Floats of each part for max_rows rows. */
struct parts {
    size_t x, qkv, heads, hidden, step_qkv;
};

static struct parts parts_of(const struct model *m, int max_rows)
{
    const struct model_config *c = &m->config;
    size_t rows = (size_t)max_rows, q_width = (size_t)c->n_heads * (size_t)c->head_dim;
    size_t qkv_width = q_width + 2 * (size_t)c->n_kv_heads * (size_t)c->head_dim;
    return (struct parts){
        .x = rows * (size_t)c->dim,
        .qkv = rows * qkv_width,
        .heads = rows * q_width,
        .hidden = rows * (size_t)c->ffn_dim,
        .step_qkv = m->backend->record_begin ? (size_t)c->n_layers * qkv_width : 0,
    };
}

static size_t parts_bytes(const struct parts *p)
{
    return (p->x + p->qkv + p->heads + p->hidden + p->step_qkv) * sizeof(float);
}

static bool allocate(struct forward_buffers *b, const struct model *m, struct error *err)
{
    struct parts parts = parts_of(m, b->max_rows);
    size_t n_bytes = parts_bytes(&parts);
    if (!model_check_memory(b->backend, b->dev, n_bytes, "activations", NULL, err))
        return false;
    b->memory = b->backend->alloc(b->dev, n_bytes);
    if (!b->memory)
        return fail_code(err, EXIT_CODE_NO_DEVICE, "activations: no memory for %d rows, %.1f MiB",
                         b->max_rows, (double)n_bytes / (1 << 20));
    b->x = b->memory;
    b->qkv = b->x + parts.x;
    b->heads = b->qkv + parts.qkv;
    b->hidden = b->heads + parts.heads;
    b->step_qkv = parts.step_qkv ? b->hidden + parts.hidden : NULL;
    return true;
}

static struct workspace_need need_of(const struct model *m, int max_rows, int max_keys)
{
    const struct model_config *c = &m->config;
    int widest_layer = max_of(max_of(m->layers[0].qkv.n_out, m->layers[0].ffn_up.n_out), c->dim);
    return (struct workspace_need){
        .max_rows = max_rows,
        .max_width = max_of(widest_layer, max_of(c->ffn_dim, m->layers[0].attention_out.n_in)),
        .n_heads = c->n_heads,
        .n_kv_heads = c->n_kv_heads,
        .head_dim = c->head_dim,
        .max_keys = max_keys,
    };
}

uint64_t forward_buffers_bytes(const struct model *m, int max_rows)
{
    struct parts parts = parts_of(m, max_rows);
    struct workspace_need need = need_of(m, max_rows, 1);
    uint64_t activations = (uint64_t)need.max_rows * (uint64_t)need.max_width * sizeof(float);
    return parts_bytes(&parts) + activations + OTHER_WORKSPACE_BYTES;
}

struct forward_buffers *forward_buffers_open(struct model *m, int max_rows, int max_keys,
                                             struct error *err)
{
    assert(max_rows > 0 && max_keys > 0);
    struct forward_buffers *b = xcalloc(1, sizeof *b);
    b->backend = m->backend;
    b->dev = m->dev;
    b->max_rows = max_rows;
    b->max_keys = max_keys;
    struct workspace_need need = need_of(m, max_rows, max_keys);
    bool ok = allocate(b, m, err);
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

/* Where a layer's q, k and v of a call lie. */
static float *qkv_of(const struct model *m, const struct forward_call *call, int layer)
{
    const struct forward_buffers *b = call->buffers;
    if (call->n_rows > 1 || !b->step_qkv)
        return b->qkv;
    return b->step_qkv + (size_t)layer * (size_t)m->layers[layer].qkv.n_out;
}

static struct attention attention_of(const struct model *m, const struct forward_call *call,
                                     int layer)
{
    const struct model_config *c = &m->config;
    return (struct attention){.out = call->buffers->heads,
                              .q = qkv_of(m, call, layer),
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

static void attend(struct model *m, const struct forward_call *call, const struct attention *att)
{
    if (call->method.attend)
        call->method.attend(call->method.user, att);
    else
        m->backend->attend_dense(m->dev, att);
}

void model_attention(struct model *m, const struct forward_call *call)
{
    assert(call->n_rows == 1 && call->buffers->step_qkv && !call->counts);
    for (int i = 0; i < m->config.n_layers; i++) {
        struct attention att = attention_of(m, call, i);
        attend(m, call, &att);
    }
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
        float *qkv = qkv_of(m, call, i);
        backend->norm_linear(dev, qkv, b->x, &layer->attention_norm, &layer->qkv, ACTIVATION_NONE,
                             n_rows);
        backend->rotate_append(dev, qkv, c->n_heads, &att.kv, &m->rope,
                               layer->has_qk_norm ? &layer->q_norm : NULL,
                               layer->has_qk_norm ? &layer->k_norm : NULL, call->step, n_rows);
        attend(m, call, &att);
        backend->linear_add(dev, b->x, b->heads, &layer->attention_out, n_rows);
        backend->norm_linear(dev, b->hidden, b->x, &layer->ffn_norm, &layer->ffn_up, c->activation,
                             n_rows);
        backend->linear_add(dev, b->x, b->hidden, &layer->ffn_down, n_rows);
    }
    if (logits && n_logits > 0)
        backend->norm_linear(dev, logits, b->x + (size_t)(n_rows - n_logits) * (size_t)c->dim,
                             &m->final_norm, &m->lm_head, ACTIVATION_NONE, n_logits);
}
