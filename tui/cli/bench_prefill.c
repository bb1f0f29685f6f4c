/* Prefill: a prompt in chunks of rows; the limit is the peak of the products. */
#include <stdlib.h>

#include "engine/base/memory.h"
#include "engine/model/kv_cache.h"
#include "tui/cli/bench.h"
#include "tui/cli/bench_stats.h"

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

static double prefill_once_us(struct bench *b, struct model *m, struct forward_buffers *buffers,
                              struct kv_cache *cache, int32_t *tokens, struct step_state *step,
                              float *logits)
{
    double start = bench_now_us();
    for (int done = 0; done < b->ctx;) {
        int n = b->ctx - done < b->chunk ? b->ctx - done : b->chunk;
        struct step_state host = {.n_context = done};
        b->backend->upload(b->dev, step, &host, sizeof host);
        struct forward_call call = {.buffers = buffers,
                                    .tokens = tokens + done,
                                    .n_rows = n,
                                    .context = cache,
                                    .step = step,
                                    .max_keys = done + n};
        bool last = done + n == b->ctx;
        model_forward(m, &call, last ? logits : NULL, last ? 1 : 0);
        b->backend->sync(b->dev, NULL, 0);
        done += n;
    }
    return bench_now_us() - start;
}

bool bench_prefill(struct bench *b, struct json *result, struct error *err)
{
    const struct backend *backend = b->backend;
    bool ok = false;
    struct kv_cache cache = {0};
    struct forward_buffers *buffers = NULL;
    int32_t *tokens = NULL;
    float *logits = NULL;
    struct step_state *step = NULL;
    int32_t *host = xcalloc((size_t)b->ctx, sizeof *host);
    double *us = xcalloc((size_t)b->n_repeats, sizeof *us);
    struct model *m = model_random(&b->config, DTYPE_BF16, 1, backend, b->dev, err);
    if (!m || !kv_cache_open(&cache, backend, b->dev, &b->config, b->engine.kv_dtype, b->ctx, err))
        goto out;
    buffers = forward_buffers_open(m, b->chunk, b->ctx, err);
    if (!buffers)
        goto out;
    step = bench_step(b, 0);
    tokens = backend->alloc(b->dev, (size_t)b->ctx * sizeof *tokens);
    logits = backend->alloc(b->dev, (size_t)b->config.vocab_size * sizeof *logits);
    if (!step || !tokens || !logits) {
        fail_code(err, EXIT_CODE_NO_DEVICE, "out of memory for the prompt");
        goto out;
    }
    for (int i = 0; i < b->ctx; i++)
        host[i] = (int32_t)(((uint32_t)i * 2654435761u >> 8) % (uint32_t)b->config.vocab_size);
    backend->upload(b->dev, tokens, host, (size_t)b->ctx * sizeof *host);
    for (int i = 0; i < b->n_repeats; i++)
        us[i] = prefill_once_us(b, m, buffers, &cache, tokens, step, logits);
    double median = bench_quantile(us, (size_t)b->n_repeats, 0.5);
    double flops = prefill_flops(m, &b->config, b->ctx);
    json_set_int(result, "chunk", b->chunk);
    json_set_number(result, "prefill_ms_median", median * 1e-3);
    json_set_number(result, "prefill_ms_best", bench_quantile(us, (size_t)b->n_repeats, 0) * 1e-3);
    json_set_number(result, "tokens_per_s", b->ctx / median * 1e6);
    json_set_number(result, "gflop", flops * 1e-9);
    json_set_number(result, "gflop_per_s", flops / median * 1e-3);
    json_set_number(result, "share_of_peak", flops / median * 1e6 / b->flops_per_s);
    ok = true;
out:
    free(host);
    free(us);
    backend->release(b->dev, tokens);
    backend->release(b->dev, logits);
    backend->release(b->dev, step);
    forward_buffers_close(buffers);
    kv_cache_close(&cache);
    model_close(m);
    return ok;
}
