/* Decode: one token after another through the whole model; the limit is the time to read the
 * weights and the KV cache once. */
#include <stdlib.h>

#include "engine/attention/sparse_attention.h"
#include "engine/base/memory.h"
#include "engine/model/kv_cache.h"
#include "tui/cli/bench.h"
#include "tui/cli/bench_stats.h"

enum { WARM_UP = 3 };

struct decode {
    struct model *model;
    struct forward_buffers *buffers;
    struct kv_cache cache;
    struct step_state *step;
    int32_t *token;
    float *logits;
    struct pick *pick;
};

static bool decode_open(struct decode *d, struct bench *b, struct error *err)
{
    const struct backend *backend = b->backend;
    d->model = model_random(&b->config, DTYPE_BF16, 1, backend, b->dev, err);
    if (!d->model || !bench_fill_cache(b, &d->cache, 1, err))
        return false;
    d->buffers = forward_buffers_open(d->model, 1, b->ctx + 1, err);
    if (!d->buffers)
        return false;
    d->step = bench_step(b, b->ctx);
    d->token = backend->alloc(b->dev, sizeof *d->token);
    d->logits = backend->alloc(b->dev, (size_t)b->config.vocab_size * sizeof(float));
    d->pick = backend->alloc(b->dev, sizeof *d->pick);
    if (!d->step || !d->token || !d->logits || !d->pick)
        return fail_code(err, EXIT_CODE_NO_DEVICE, "out of memory for the logits");
    return true;
}

static void decode_close(struct decode *d, struct bench *b)
{
    forward_buffers_close(d->buffers);
    kv_cache_close(&d->cache);
    void *all[] = {d->step, d->token, d->logits, d->pick};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        b->backend->release(b->dev, all[i]);
    model_close(d->model);
}

/* One step at the same position every time: the token's row is overwritten. */
static double decode_step_us(struct decode *d, struct bench *b, struct attention_method method)
{
    struct forward_call call = {.buffers = d->buffers,
                                .tokens = d->token,
                                .n_rows = 1,
                                .context = &d->cache,
                                .step = d->step,
                                .method = method,
                                .max_keys = b->ctx + 1};
    static const struct sampling greedy = {.top_p = 1};
    double start = bench_now_us();
    model_forward(d->model, &call, d->logits, 1);
    b->backend->pick(b->dev, d->pick, d->logits, b->config.vocab_size, &greedy, d->step);
    b->backend->sync(b->dev, NULL, 0);
    return bench_now_us() - start;
}

/* Bytes per second of one plain read of all the matrices that a step reads. */
static double read_weights(struct decode *d, struct bench *b)
{
    double bytes = 0, seconds = 0;
    for (int i = 0; i <= b->config.n_layers; i++) {
        const struct model_layer *l = i < b->config.n_layers ? &d->model->layers[i] : NULL;
        const struct linear *all[4] = {&d->model->lm_head};
        if (l) {
            all[0] = &l->qkv;
            all[1] = &l->attention_out;
            all[2] = &l->ffn_up;
            all[3] = &l->ffn_down;
        }
        for (int j = 0; j < (l ? 4 : 1); j++) {
            size_t n = (size_t)all[j]->n_out * (size_t)all[j]->n_in * dtype_bytes(all[j]->dtype);
            bytes += (double)n;
            seconds += (double)n / b->backend->measure_read_of(b->dev, all[j]->w, n);
        }
    }
    return bytes / seconds;
}

bool bench_decode(struct bench *b, struct json *result, struct error *err)
{
    struct decode d = {0};
    struct sparse_attention *sparse = NULL;
    double *dense_us = xcalloc((size_t)b->n_repeats, sizeof *dense_us);
    double *sparse_us = xcalloc((size_t)b->n_repeats, sizeof *sparse_us);
    double *read_rate = xcalloc((size_t)b->n_repeats, sizeof *read_rate);
    bool ok = decode_open(&d, b, err);
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
    for (int i = 0; i < WARM_UP; i++)
        decode_step_us(&d, b, dense_method);
    for (int i = 0; i < b->n_repeats; i++) {
        dense_us[i] = decode_step_us(&d, b, dense_method);
        read_rate[i] = read_weights(&d, b);
        if (sparse)
            sparse_us[i] = decode_step_us(&d, b, sparse_method);
    }
    /* Read once a token: all weights but an untied embedding table, and every key and value. */
    double weights = (double)d.model->weight_bytes;
    if (!b->config.tie_embeddings)
        weights -= (double)b->config.vocab_size * b->config.dim * 2;
    double kv = (double)model_kv_bytes_per_token(&b->config, b->engine.kv_dtype) * (b->ctx + 1);
    size_t n = (size_t)b->n_repeats;
    double best_us = bench_quantile(dense_us, n, 0), median_us = bench_quantile(dense_us, n, 0.5);
    json_set_number(result, "weight_gb", weights * 1e-9);
    json_set_number(result, "kv_gb", kv * 1e-9);
    json_set_number(result, "step_ms_median", median_us * 1e-3);
    json_set_number(result, "step_ms_best", best_us * 1e-3);
    json_set_number(result, "tokens_per_s_median", 1e6 / median_us);
    json_set_number(result, "gb_per_s_median", (weights + kv) / median_us * 1e-3);
    double limit = bench_quantile(read_rate, n, 0.5);
    json_set_number(result, "read_of_these_weights_gb_s", limit * 1e-9);
    json_set_number(result, "share_of_bandwidth_median", (weights + kv) / median_us * 1e6 / limit);
    if (sparse) {
        double sparse_median = bench_quantile(sparse_us, n, 0.5);
        json_set_number(result, "sparse_step_ms_median", sparse_median * 1e-3);
        json_set_number(result, "speedup_step", median_us / sparse_median);
    }
out:
    free(dense_us);
    free(sparse_us);
    free(read_rate);
    sparse_attention_close(sparse);
    decode_close(&d, b);
    return ok;
}
