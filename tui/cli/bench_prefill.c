/* Prefill: a prompt in chunks of rows; the limit is the peak of the products. */
#include <stdlib.h>

#include "engine/base/memory.h"
#include "engine/model/kv_cache.h"
#include "engine/run/context.h"
#include "tui/cli/bench.h"
#include "tui/cli/bench_stats.h"
#include "tui/cli/bench_timed.h"

/* Multiply-adds count two.  Linears of n tokens (the vocabulary's once), and the causal half of
 * the attention matrices. */
static double prefill_flops(const struct model *m, const struct model_config *c, double n)
{
    const struct model_layer *l = &m->layers[0];
    double linear = (double)l->qkv.n_out * l->qkv.n_in +
                    (double)l->attention_out.n_out * l->attention_out.n_in +
                    (double)l->ffn_up.n_out * l->ffn_up.n_in +
                    (double)l->ffn_down.n_out * l->ffn_down.n_in;
    double attention = 2.0 * c->n_heads * c->head_dim * n * n / 2;
    return 2 * c->n_layers * (linear * n + attention) + 2.0 * c->vocab_size * c->dim;
}

/* What a prefill needs on the device. */
struct prefill {
    struct bench *bench;
    struct model *model;
    struct forward_buffers *buffers;
    struct kv_cache cache;
    int32_t *tokens; /* [ctx] */
    struct step_state *step;
    float *logits;
    int max_rows;
};

static int chunk_rows(const struct prefill *p, int done)
{
    const struct bench *b = p->bench;
    int n = b->chunk ? b->chunk : context_chunk_rows(p->model, done);
    return b->ctx - done < n ? b->ctx - done : n;
}

/* The chunks of a whole prompt; *longest_us is the longest chunk, which bounds a cancel. */
static double prefill_once_us(struct prefill *p, double *longest_us)
{
    struct bench *b = p->bench;
    double start = bench_now_us();
    for (int done = 0; done < b->ctx;) {
        double from = bench_now_us();
        int n = chunk_rows(p, done);
        struct step_state host = {.n_context = done};
        b->backend->upload(b->dev, p->step, &host, sizeof host);
        struct forward_call call = {.buffers = p->buffers,
                                    .tokens = p->tokens + done,
                                    .n_rows = n,
                                    .context = &p->cache,
                                    .step = p->step,
                                    .max_keys = done + n};
        bool last = done + n == b->ctx;
        model_forward(p->model, &call, last ? p->logits : NULL, last ? 1 : 0);
        b->backend->sync(b->dev, NULL, 0);
        done += n;
        double us = bench_now_us() - from;
        *longest_us = us > *longest_us ? us : *longest_us;
    }
    return bench_now_us() - start;
}

static bool prefill_open(struct prefill *p, struct bench *b, struct error *err)
{
    const struct backend *backend = b->backend;
    p->bench = b;
    p->model = model_random(&b->config, DTYPE_BF16, 1, backend, b->dev, err);
    if (!p->model ||
        !kv_cache_open(&p->cache, backend, b->dev, &b->config, b->engine.kv_dtype, b->ctx, err))
        return false;
    struct device_info info;
    backend->describe(b->dev, &info);
    p->max_rows = b->chunk ? b->chunk : info.max_rows;
    p->buffers = forward_buffers_open(p->model, p->max_rows, b->ctx, err);
    if (!p->buffers)
        return false;
    p->step = bench_step(b, 0);
    p->tokens = backend->alloc(b->dev, (size_t)b->ctx * sizeof *p->tokens);
    p->logits = backend->alloc(b->dev, (size_t)b->config.vocab_size * sizeof *p->logits);
    if (!p->step || !p->tokens || !p->logits)
        return fail_code(err, EXIT_CODE_NO_DEVICE, "out of memory for the prompt");
    int32_t *host = xcalloc((size_t)b->ctx, sizeof *host);
    for (int i = 0; i < b->ctx; i++)
        host[i] = (int32_t)(((uint32_t)i * 2654435761u >> 8) % (uint32_t)b->config.vocab_size);
    backend->upload(b->dev, p->tokens, host, (size_t)b->ctx * sizeof *host);
    free(host);
    return true;
}

static void prefill_close(struct prefill *p)
{
    struct bench *b = p->bench;
    b->backend->release(b->dev, p->tokens);
    b->backend->release(b->dev, p->logits);
    b->backend->release(b->dev, p->step);
    forward_buffers_close(p->buffers);
    kv_cache_close(&p->cache);
    model_close(p->model);
}

/* The attention of the last chunk of the prompt alone, in one layer: TFLOP/s. */
static void measure_attention(struct prefill *p, struct json *result)
{
    struct bench *b = p->bench;
    const struct model_config *c = &b->config;
    int n = b->ctx < p->max_rows ? b->ctx : p->max_rows, before = b->ctx - n;
    size_t width = (size_t)c->n_heads * (size_t)c->head_dim;
    struct step_state host = {.n_context = before};
    float *q = b->backend->alloc(b->dev, 2 * (size_t)n * width * sizeof *q);
    if (!q)
        return;
    b->backend->fill_random(b->dev, q, (size_t)n * width, DTYPE_F32, 1.7f, 11);
    b->backend->upload(b->dev, p->step, &host, sizeof host);
    struct attention att = {.out = q + (size_t)n * width,
                            .q = q,
                            .q_stride = (int)width,
                            .n_rows = n,
                            .n_heads = c->n_heads,
                            .kv = kv_cache_layer(&p->cache, NULL, 0),
                            .step = p->step,
                            .scale = model_config_scale(c, 0),
                            .max_keys = b->ctx};
    double us[5];
    for (int i = -1; i < 5; i++) {
        b->backend->time_mark(b->dev, 0);
        b->backend->attend_dense(b->dev, &att);
        b->backend->time_mark(b->dev, 1);
        double each = b->backend->time_between_us(b->dev, 0, 1);
        if (i >= 0)
            us[i] = each;
    }
    double keys = (double)n * before + (double)n * (n + 1) / 2;
    double flops = 4.0 * c->n_heads * c->head_dim * keys, median = bench_quantile(us, 5, 0.5);
    json_set_int(result, "attention_rows", n);
    json_set_number(result, "attention_us", median);
    json_set_number(result, "attention_tflop_per_s", flops / median * 1e-6);
    b->backend->release(b->dev, q);
}

bool bench_prefill(struct bench *b, struct json *result, struct error *err)
{
    struct prefill p = {.bench = b};
    double longest_us = 0;
    size_t n = (size_t)b->n_repeats;
    double *us = xcalloc(n, sizeof *us);
    bool ok = bench_check_forward(b, result, err) && prefill_open(&p, b, err);
    if (ok) {
        prefill_once_us(&p, &longest_us); /* warms up */
        longest_us = 0;
        for (size_t i = 0; i < n; i++)
            us[i] = prefill_once_us(&p, &longest_us);
        double median = bench_quantile(us, n, 0.5);
        double flops = prefill_flops(p.model, &b->config, b->ctx);
        json_set_int(result, "first_chunk_rows", chunk_rows(&p, 0));
        json_set_number(result, "longest_chunk_ms", longest_us * 1e-3);
        json_set_number(result, "prefill_ms_median", median * 1e-3);
        json_set_number(result, "prefill_ms_best", bench_quantile(us, n, 0) * 1e-3);
        json_set_number(result, "tokens_per_s", b->ctx / median * 1e6);
        json_set_number(result, "gflop", flops * 1e-9);
        json_set_number(result, "gflop_per_s", flops / median * 1e-3);
        json_set_number(result, "share_of_peak", flops / median * 1e6 / b->flops_per_s);
        measure_attention(&p, result);
        ok = bench_sync(b, err);
    }
    prefill_close(&p);
    free(us);
    return ok;
}
