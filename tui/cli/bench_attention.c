/* Attention alone: the decode attention of all layers, dense and with a stack, over distinct keys
 * and values per layer, in alternating order D S S D. */
#include <stdlib.h>
#include <string.h>

#include "engine/attention/metrics.h"
#include "engine/attention/sparse_attention.h"
#include "engine/base/memory.h"
#include "engine/model/kv_cache.h"
#include "tui/cli/bench.h"
#include "tui/cli/bench_stats.h"

struct calls {
    struct kv_cache cache;
    float *q, *out;
    struct step_state *step;
    struct attention_counts *counts;
};

static bool calls_open(struct calls *c, struct bench *b, struct error *err)
{
    const struct backend *backend = b->backend;
    struct workspace_need need = {.max_rows = 1,
                                  .max_width = b->config.n_heads * b->config.head_dim,
                                  .n_heads = b->config.n_heads,
                                  .n_kv_heads = b->config.n_kv_heads,
                                  .head_dim = b->config.head_dim,
                                  .max_keys = b->ctx + 1};
    if (!backend->reserve(b->dev, &need))
        return fail_code(err, EXIT_CODE_NO_DEVICE, "out of memory for workspaces");
    if (!bench_fill_cache(b, &c->cache, 1, err))
        return false;
    size_t width = (size_t)b->config.n_heads * (size_t)b->config.head_dim;
    c->q = backend->alloc(b->dev, width * sizeof(float));
    c->out = backend->alloc(b->dev, width * sizeof(float));
    c->counts = backend->alloc(b->dev, sizeof *c->counts);
    c->step = bench_step(b, b->ctx);
    if (!c->q || !c->out || !c->counts || !c->step)
        return fail_code(err, EXIT_CODE_NO_DEVICE, "out of memory for a query");
    float *noise = xcalloc(width, sizeof *noise);
    for (size_t i = 0; i < width; i++)
        noise[i] = (float)((i * 2654435761u >> 7) % 2000) / 1000.0f - 1.0f;
    backend->upload(b->dev, c->q, noise, width * sizeof *noise);
    free(noise);
    return true;
}

static void calls_close(struct calls *c, struct bench *b)
{
    kv_cache_close(&c->cache);
    void *all[] = {c->q, c->out, c->counts, c->step};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        b->backend->release(b->dev, all[i]);
}

/* All layers once; microseconds per layer. */
static double all_layers_us(struct calls *c, struct bench *b, struct attention_method method)
{
    double start = bench_now_us();
    for (int layer = 0; layer < b->config.n_layers; layer++) {
        struct attention att = {.out = c->out,
                                .q = c->q,
                                .q_stride = b->config.n_heads * b->config.head_dim,
                                .n_rows = 1,
                                .n_heads = b->config.n_heads,
                                .kv = kv_cache_layer(&c->cache, NULL, layer),
                                .step = c->step,
                                .counts = c->counts,
                                .scale = model_config_scale(&b->config, layer),
                                .layer = layer,
                                .max_keys = b->ctx + 1};
        if (method.attend)
            method.attend(method.user, &att);
        else
            b->backend->attend_dense(b->dev, &att);
    }
    b->backend->sync(b->dev, NULL, 0);
    return (bench_now_us() - start) / b->config.n_layers;
}

static struct attention_counts take_counts(struct calls *c, struct bench *b)
{
    struct attention_counts counts;
    static const struct attention_counts zero;
    b->backend->download(b->dev, &counts, c->counts, sizeof counts);
    b->backend->upload(b->dev, c->counts, &zero, sizeof zero);
    return counts;
}

static void report_sparse(struct bench *b, struct json *result, const struct attention_counts *n,
                          double dense_us, double *sparse_us, double *ratios)
{
    size_t n_pairs = (size_t)b->n_repeats;
    double us = bench_quantile(sparse_us, n_pairs, 0.5);
    double calls = n->calls ? (double)n->calls : 1;
    double row_bytes = 2.0 * b->config.head_dim * (double)dtype_bytes(b->engine.kv_dtype);
    double bytes = ((double)n->rows_read + 0.5 * (double)n->score_rows) * row_bytes / calls;
    struct buf name = {0};
    stack_write_short(&b->stack, &name);
    json_set_string(result, "stack", name.data);
    buf_free(&name);
    json_set_number(result, "sparse_us_per_layer_median", us);
    json_set_number(result, "density", metric_density(n));
    json_set_number(result, "read_density", metric_read_density(n));
    json_set_number(result, "sparse_kb_per_layer", bytes * 1e-3);
    json_set_number(result, "sparse_gb_per_s", bytes / us * 1e-3);
    json_set_number(result, "speedup_attention", dense_us / us);
    json_set_number(result, "speedup_attention_pairs_q05", bench_quantile(ratios, n_pairs, 0.05));
    json_set_number(result, "speedup_attention_pairs_median", bench_quantile(ratios, n_pairs, 0.5));
    json_set_number(result, "speedup_attention_pairs_q95", bench_quantile(ratios, n_pairs, 0.95));
}

bool bench_attention(struct bench *b, struct json *result, struct error *err)
{
    struct calls c = {0};
    struct sparse_attention *sparse = NULL;
    size_t n_pairs = (size_t)b->n_repeats;
    double *dense_us = xcalloc(n_pairs, sizeof *dense_us);
    double *sparse_us = xcalloc(n_pairs, sizeof *sparse_us);
    double *ratios = xcalloc(n_pairs, sizeof *ratios);
    bool ok = calls_open(&c, b, err);
    if (ok && b->has_stack) {
        sparse = sparse_attention_open(&b->stack, b->backend, b->dev, &b->config, b->ctx + 1, err);
        ok = sparse != NULL;
    }
    if (!ok)
        goto out;
    struct attention_method dense_method = {0};
    struct attention_method sparse_method = dense_method;
    if (sparse)
        sparse_method = sparse_attention_method(sparse);
    all_layers_us(&c, b, dense_method);
    all_layers_us(&c, b, sparse_method);
    take_counts(&c, b);
    all_layers_us(&c, b, sparse_method);
    struct attention_counts counts = take_counts(&c, b);
    for (size_t i = 0; i < n_pairs; i++) {
        bool sparse_first = i % 2 == 1;
        if (sparse_first)
            sparse_us[i] = all_layers_us(&c, b, sparse_method);
        dense_us[i] = all_layers_us(&c, b, dense_method);
        if (!sparse_first)
            sparse_us[i] = all_layers_us(&c, b, sparse_method);
        ratios[i] = dense_us[i] / sparse_us[i];
    }
    double us = bench_quantile(dense_us, n_pairs, 0.5);
    double bytes = (double)model_kv_bytes_per_token(&b->config, b->engine.kv_dtype) * (b->ctx + 1) /
                   b->config.n_layers;
    json_set_number(result, "dense_us_per_layer_median", us);
    json_set_number(result, "dense_kb_per_layer", bytes * 1e-3);
    json_set_number(result, "dense_gb_per_s", bytes / us * 1e-3);
    json_set_number(result, "dense_share_of_bandwidth", bytes / us * 1e6 / b->bytes_per_s);
    if (sparse)
        report_sparse(b, result, &counts, us, sparse_us, ratios);
out:
    free(dense_us);
    free(sparse_us);
    free(ratios);
    sparse_attention_close(sparse);
    calls_close(&c, b);
    return ok;
}
