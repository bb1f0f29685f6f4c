/* Attention calls for benchmarks: see the header. */
#include "tui/cli/bench_calls.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/attention/sparse_attention.h"
#include "engine/base/memory.h"

static size_t query_width(const struct bench_calls *c)
{
    return (size_t)c->bench->config.n_heads * (size_t)c->bench->config.head_dim;
}

bool bench_calls_open(struct bench_calls *c, struct bench *b, struct error *err)
{
    const struct backend *backend = b->backend;
    struct workspace_need need = {.max_rows = 1,
                                  .max_width = b->config.n_heads * b->config.head_dim,
                                  .n_heads = b->config.n_heads,
                                  .n_kv_heads = b->config.n_kv_heads,
                                  .head_dim = b->config.head_dim,
                                  .max_keys = b->ctx + 1};
    *c = (struct bench_calls){.bench = b};
    if (!backend->reserve(b->dev, &need))
        return fail_code(err, EXIT_CODE_NO_DEVICE, "out of memory for workspaces");
    if (!bench_fill_cache(b, &c->cache, 1, err))
        return false;
    size_t width = query_width(c);
    c->q = backend->alloc(b->dev, width * sizeof(float));
    c->out = backend->alloc(b->dev, width * sizeof(float));
    c->counts = backend->alloc(b->dev, sizeof *c->counts);
    c->step = bench_step(b, b->ctx);
    if (!c->q || !c->out || !c->counts || !c->step)
        return fail_code(err, EXIT_CODE_NO_DEVICE, "out of memory for a query");
    backend->fill_random(b->dev, c->q, width, DTYPE_F32, sqrtf(3.0f), 7);
    return true;
}

void bench_calls_close(struct bench_calls *c)
{
    if (!c->bench)
        return;
    kv_cache_close(&c->cache);
    void *all[] = {c->q, c->out, c->counts, c->step};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        c->bench->backend->release(c->bench->dev, all[i]);
}

struct attention bench_call(const struct bench_calls *c, int layer)
{
    const struct model_config *config = &c->bench->config;
    return (struct attention){.out = c->out,
                              .q = c->q,
                              .q_stride = config->n_heads * config->head_dim,
                              .n_rows = 1,
                              .n_heads = config->n_heads,
                              .kv = kv_cache_layer(&c->cache, NULL, layer),
                              .step = c->step,
                              .scale = model_config_scale(config, layer),
                              .layer = layer,
                              .max_keys = c->bench->ctx + 1};
}

/* --- The reference --------------------------------------------------------------------------- */

static void *copy(struct bench_reference *r, const struct bench_calls *c, int slot,
                  const void *from, size_t n_bytes)
{
    struct bench *b = c->bench;
    r->memory[slot] = r->backend->alloc(r->dev, n_bytes);
    if (r->memory[slot])
        b->backend->download(b->dev, r->memory[slot], from, n_bytes);
    return r->memory[slot];
}

bool bench_reference_open(struct bench_reference *r, const struct bench_calls *c, int layer,
                          struct error *err)
{
    bool is_cpu = strcmp(c->bench->backend->name, "cpu") == 0;
    /* The cpu backend is held against its plain loops, others against its fast ones. */
    struct device_options options = {.exact = true,
                                     .isa = is_cpu ? DEVICE_ISA_REFERENCE : DEVICE_ISA_AUTO};
    char why[256] = "";
    *r = (struct bench_reference){0};
    r->dev = backend_open("cpu", &options, &r->backend, why, sizeof why);
    if (!r->dev)
        return fail_code(err, EXIT_CODE_NO_DEVICE, "%s", why);
    r->att = bench_call(c, layer);
    struct attention *att = &r->att;
    size_t n_kv = (size_t)att->kv.n_kv_heads * (size_t)att->kv.capacity[KV_CONTEXT] *
                  (size_t)att->kv.head_dim * dtype_bytes(att->kv.dtype);
    size_t n_q = query_width(c) * sizeof(float);
    att->kv.k[KV_CONTEXT] = copy(r, c, 0, att->kv.k[KV_CONTEXT], n_kv);
    att->kv.v[KV_CONTEXT] = copy(r, c, 1, att->kv.v[KV_CONTEXT], n_kv);
    att->q = copy(r, c, 2, att->q, n_q);
    att->out = copy(r, c, 3, att->out, n_q);
    att->step = copy(r, c, 4, att->step, sizeof *att->step);
    for (int i = 0; i < 5; i++)
        if (!r->memory[i])
            return fail_code(err, EXIT_CODE_NO_DEVICE, "no host memory to check %d keys",
                             att->max_keys);
    return true;
}

void bench_reference_close(struct bench_reference *r)
{
    if (!r->dev)
        return;
    if (r->selection)
        r->backend->selection_close(r->dev, r->selection);
    for (size_t i = 0; i < sizeof r->memory / sizeof r->memory[0]; i++)
        r->backend->release(r->dev, r->memory[i]);
    r->backend->close(r->dev);
    *r = (struct bench_reference){0};
}

bool bench_reference_run(struct bench_reference *r, const struct stack *stack, struct error *err)
{
    if (!stack) {
        r->backend->attend_dense(r->dev, &r->att);
    } else {
        if (!r->selection)
            r->selection = r->backend->selection_open(r->dev, 1, r->att.n_heads,
                                                      r->att.kv.n_kv_heads, r->att.max_keys);
        if (!r->selection)
            return fail_code(err, EXIT_CODE_NO_DEVICE, "no host memory for a selection");
        if (!sparse_attention_once(stack, r->backend, r->dev, r->selection, &r->att, err))
            return false;
    }
    char why[256] = "";
    return r->backend->sync(r->dev, why, sizeof why) ||
           fail_code(err, EXIT_CODE_RUNTIME, "the reference failed: %s", why);
}

double bench_difference(const float *got, const float *want, size_t n)
{
    double difference = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)got[i] - (double)want[i];
        difference += d * d;
        norm += (double)want[i] * (double)want[i];
    }
    double ratio = norm > 0 ? sqrt(difference / norm) : sqrt(difference);
    return isfinite(ratio) ? ratio : INFINITY;
}
