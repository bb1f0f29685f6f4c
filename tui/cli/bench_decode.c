/* Decode: one token after another through the whole model; the limit is the time to read the
 * weights and the KV cache once. */
#include <stdlib.h>

#include "engine/attention/sparse_attention.h"
#include "engine/base/memory.h"
#include "engine/model/kv_cache.h"
#include "tui/cli/bench.h"
#include "tui/cli/bench_timed.h"

struct decode {
    struct model *model;
    struct forward_buffers *buffers;
    struct kv_cache cache;
    struct step_state *step;
    int32_t *token;
    float *logits;
    struct pick *pick;               /* [2] */
    struct step_state *scratch_step; /* [2], of empty steps */
    int32_t *scratch_token;
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
    d->pick = backend->alloc(b->dev, 2 * sizeof *d->pick);
    d->scratch_step = backend->alloc(b->dev, 2 * sizeof *d->scratch_step);
    d->scratch_token = backend->alloc(b->dev, sizeof *d->scratch_token);
    if (!d->step || !d->token || !d->logits || !d->pick || !d->scratch_step || !d->scratch_token)
        return fail_code(err, EXIT_CODE_NO_DEVICE, "out of memory for the logits");
    return true;
}

static void decode_close(struct decode *d, struct bench *b)
{
    forward_buffers_close(d->buffers);
    kv_cache_close(&d->cache);
    void *all[] = {d->step, d->token, d->logits, d->pick, d->scratch_step, d->scratch_token};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        b->backend->release(b->dev, all[i]);
    model_close(d->model);
}

/* One kind of step. */
struct side {
    struct bench *bench;
    struct decode *decode;
    struct attention_method method;
};

/* A step at the same position every time: the token's row is overwritten. */
static void step(void *user)
{
    struct side *s = user;
    struct bench *b = s->bench;
    struct decode *d = s->decode;
    struct forward_call call = {.buffers = d->buffers,
                                .tokens = d->token,
                                .n_rows = 1,
                                .context = &d->cache,
                                .step = d->step,
                                .method = s->method,
                                .max_keys = b->ctx + 1};
    static const struct sampling greedy = {.top_p = 1};
    model_forward(d->model, &call, d->logits, 1);
    b->backend->pick(b->dev, d->pick, d->logits, b->config.vocab_size, &greedy, d->step);
}

/* As many operations as a step has, each of them next to nothing: what starting them costs. */
static void empty_step(void *user)
{
    struct side *s = user;
    struct bench *b = s->bench;
    struct decode *d = s->decode;
    for (int i = 0; i < 6 * b->config.n_layers + 3; i++)
        b->backend->advance(b->dev, d->scratch_step, d->scratch_step + 1, d->scratch_token, d->pick,
                            d->pick + 1, 1);
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

/* Bytes read once a token: all weights but an untied embedding table, and every key and value. */
static void report_dense(struct bench *b, struct decode *d, struct json *result,
                         const double *dense_us, double limit)
{
    double weights = (double)d->model->weight_bytes;
    if (!b->config.tie_embeddings)
        weights -= (double)b->config.vocab_size * b->config.dim * 2;
    double kv = (double)model_kv_bytes_per_token(&b->config, b->engine.kv_dtype) * (b->ctx + 1);
    struct bench_interval us = bench_median_interval(dense_us, (size_t)b->n_repeats);
    json_set_number(result, "weight_gb", weights * 1e-9);
    json_set_number(result, "kv_gb", kv * 1e-9);
    bench_set_interval(result, "step_us", us);
    json_set_number(result, "tokens_per_s_median", 1e6 / us.median);
    json_set_number(result, "gb_per_s_median", (weights + kv) / us.median * 1e-3);
    json_set_number(result, "read_of_these_weights_gb_s", limit * 1e-9);
    json_set_number(result, "share_of_read_of_weights", (weights + kv) / us.median * 1e6 / limit);
    json_set_number(result, "share_of_bandwidth",
                    (weights + kv) / us.median * 1e6 / b->bytes_per_s);
}

static void report_sparse(struct bench *b, struct json *result, const double *sparse_us,
                          const double *ratios)
{
    size_t n = (size_t)b->n_repeats;
    struct buf name = {0};
    stack_write_short(&b->stack, &name);
    json_set_string(result, "stack", name.data);
    buf_free(&name);
    bench_set_interval(result, "sparse_step_us", bench_median_interval(sparse_us, n));
    bench_set_interval(result, "speedup_step", bench_median_interval(ratios, n));
}

/* What starting a step's operations costs, as a share of the step. */
static bool report_launches(struct bench *b, struct side *side, struct json *result,
                            const double *dense_us, struct error *err)
{
    struct bench_timed empty;
    if (!b->backend->record_begin)
        return true;
    bool ok = bench_timed_open(b, &empty, empty_step, side, err);
    if (ok) {
        double us = bench_timed_median_us(b, &empty);
        double step_us = bench_median_interval(dense_us, (size_t)b->n_repeats).median;
        json_set_number(result, "empty_step_us", us);
        json_set_number(result, "empty_step_share", us / step_us);
    }
    bench_timed_close(b, &empty);
    return ok;
}

static bool measure(struct bench *b, struct decode *d, struct side *sides, struct json *result,
                    struct error *err)
{
    size_t n = (size_t)b->n_repeats;
    double *dense_us = xcalloc(n, sizeof *dense_us);
    double *sparse_us = xcalloc(n, sizeof *sparse_us);
    double *ratios = xcalloc(n, sizeof *ratios);
    struct bench_timed timed[2] = {{0}, {0}};
    bool ok = bench_timed_open(b, &timed[0], step, &sides[0], err) &&
              (!b->has_stack || bench_timed_open(b, &timed[1], step, &sides[1], err));
    if (ok) {
        double limit = read_weights(d, b);
        bench_timed_pairs(b, &timed[0], &timed[1], dense_us, sparse_us, ratios);
        limit = (limit + read_weights(d, b)) / 2;
        ok = bench_sync(b, err);
        report_dense(b, d, result, dense_us, limit);
        if (b->has_stack)
            report_sparse(b, result, sparse_us, ratios);
        ok = ok && report_launches(b, &sides[0], result, dense_us, err);
    }
    bench_timed_close(b, &timed[0]);
    bench_timed_close(b, &timed[1]);
    free(dense_us);
    free(sparse_us);
    free(ratios);
    return ok;
}

bool bench_decode(struct bench *b, struct json *result, struct error *err)
{
    struct decode d = {0};
    struct sparse_attention *sparse = NULL;
    struct side sides[2] = {{b, &d, {0}}, {b, &d, {0}}};
    bool ok = bench_check_forward(b, result, err) && decode_open(&d, b, err);
    if (ok && b->has_stack) {
        struct masker_model model = {.config = &b->config, .kv_dtype = b->engine.kv_dtype};
        sparse = sparse_attention_open(&b->stack, b->backend, b->dev, &model, b->ctx + 1, err);
        ok = sparse != NULL;
        if (ok)
            sides[1].method = sparse_attention_untimed(sparse);
    }
    ok = ok && measure(b, &d, sides, result, err);
    sparse_attention_close(sparse);
    decode_close(&d, b);
    return ok;
}
