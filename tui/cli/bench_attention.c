/* Attention alone: the decode attention of all layers, dense and with a stack, over distinct keys
 * and values per layer, in alternating order D S S D. */
#include <stdlib.h>
#include <string.h>

#include "engine/attention/metrics.h"
#include "engine/attention/sparse_attention.h"
#include "engine/base/memory.h"
#include "tui/cli/bench_calls.h"
#include "tui/cli/bench_stats.h"
#include "tui/cli/bench_timed.h"

/* Relative L2 that a bf16 cache allows; an f32 cache leaves rounding only. */
static const double BF16_TOLERANCE = 1e-2, F32_TOLERANCE = 1e-4;

struct side {
    struct bench_calls *calls;
    struct attention_method method; /* attend NULL: dense */
};

static void attend(struct side *s, struct attention *att)
{
    if (s->method.attend)
        s->method.attend(s->method.user, att);
    else
        s->calls->bench->backend->attend_dense(s->calls->bench->dev, att);
}

static void attend_all(void *user)
{
    struct side *s = user;
    for (int layer = 0; layer < s->calls->bench->config.n_layers; layer++) {
        struct attention att = bench_call(s->calls, layer);
        attend(s, &att);
    }
}

/* Runs one layer, whose stack is given, on both backends; sets and judges the difference. */
static bool check(struct side *s, int layer, const struct stack *stack, struct json *result,
                  const char *name, struct error *err)
{
    struct bench *b = s->calls->bench;
    struct bench_reference r;
    size_t n = (size_t)b->config.n_heads * (size_t)b->config.head_dim;
    float *got = xcalloc(n, sizeof *got);
    bool ok = bench_reference_open(&r, s->calls, layer, err);
    if (ok) {
        struct attention att = bench_call(s->calls, layer);
        attend(s, &att);
        b->backend->download(b->dev, got, s->calls->out, n * sizeof *got);
        ok = bench_sync(b, err) && bench_reference_run(&r, stack, err);
    }
    if (ok) {
        double difference = bench_difference(got, r.att.out, n);
        double most = b->engine.kv_dtype == DTYPE_F32 ? F32_TOLERANCE : BF16_TOLERANCE;
        json_set_number(result, name, difference);
        if (!(difference <= most))
            ok = fail_code(err, EXIT_CODE_RUNTIME,
                           "%s: differs from the reference by %.3g, at most %.3g is allowed", name,
                           difference, most);
    }
    bench_reference_close(&r);
    free(got);
    return ok;
}

/* What one sparse call of each layer counts, all layers together. */
static struct attention_counts count(struct side *s)
{
    struct bench *b = s->calls->bench;
    static const struct attention_counts zero;
    struct attention_counts counts;
    b->backend->upload(b->dev, s->calls->counts, &zero, sizeof zero);
    for (int layer = 0; layer < b->config.n_layers; layer++) {
        struct attention att = bench_call(s->calls, layer);
        att.counts = s->calls->counts;
        attend(s, &att);
    }
    b->backend->download(b->dev, &counts, s->calls->counts, sizeof counts);
    return counts;
}

static void report_sparse(struct bench *b, struct json *result, const struct attention_counts *n,
                          double *sparse_us, double *ratios)
{
    size_t n_pairs = (size_t)b->n_repeats;
    struct bench_interval us = bench_median_interval(sparse_us, n_pairs);
    double calls = n->calls ? (double)n->calls : 1;
    double row_bytes = 2.0 * b->config.head_dim * (double)dtype_bytes(b->engine.kv_dtype);
    double bytes = ((double)n->rows_read + 0.5 * (double)n->score_rows) * row_bytes / calls;
    struct buf name = {0};
    stack_write_short(&b->stack, &name);
    json_set_string(result, "stack", name.data);
    buf_free(&name);
    bench_set_interval(result, "sparse_us_per_layer", us);
    json_set_number(result, "density", metric_density(n));
    json_set_number(result, "read_density", metric_read_density(n));
    json_set_number(result, "sparse_kb_per_layer", bytes * 1e-3);
    json_set_number(result, "sparse_gb_per_s", bytes / us.median * 1e-3);
    json_set_number(result, "sparse_share_of_bandwidth", bytes / us.median * 1e6 / b->bytes_per_s);
    bench_set_interval(result, "speedup_attention", bench_median_interval(ratios, n_pairs));
}

static void per_layer(const struct bench *b, double *us)
{
    for (int i = 0; i < b->n_repeats; i++)
        us[i] /= b->config.n_layers;
}

/* Builds the indexes over the context, as a lane does once, and tells how long it takes. */
static bool build_index(struct bench_calls *calls, struct sparse_attention *sparse,
                        struct json *result, struct error *err)
{
    struct bench *b = calls->bench;
    if (!bench_sync(b, err))
        return false;
    b->backend->time_mark(b->dev, 0);
    for (int layer = 0; layer < b->config.n_layers; layer++) {
        struct attention att = bench_call(calls, layer);
        sparse_attention_index_before(sparse, &att);
    }
    b->backend->time_mark(b->dev, 1);
    if (!bench_sync(b, err))
        return false;
    json_set_number(result, "index_build_us_per_layer",
                    b->backend->time_between_us(b->dev, 0, 1) / b->config.n_layers);
    return true;
}

bool bench_attention(struct bench *b, struct json *result, struct error *err)
{
    struct bench_calls calls = {0};
    struct sparse_attention *sparse = NULL;
    struct side sides[2] = {{.calls = &calls}, {.calls = &calls}};
    struct bench_timed timed[2] = {{0}, {0}};
    size_t n_pairs = (size_t)b->n_repeats;
    double *dense_us = xcalloc(n_pairs, sizeof *dense_us);
    double *sparse_us = xcalloc(n_pairs, sizeof *sparse_us);
    double *ratios = xcalloc(n_pairs, sizeof *ratios);
    struct attention_counts counts = {0};
    bool ok =
        bench_calls_open(&calls, b, err) && check(&sides[0], 0, NULL, result, "dense_error", err);
    if (ok && b->has_stack) {
        struct masker_model model = {.config = &b->config, .kv_dtype = b->engine.kv_dtype};
        sparse = sparse_attention_open(&b->stack, b->backend, b->dev, &model, b->ctx + 1, err);
        ok = sparse != NULL;
    }
    if (ok && sparse) {
        sides[1].method = sparse_attention_untimed(sparse);
        int layer;
        struct stack stack = bench_checked_stack(b, &layer);
        ok = build_index(&calls, sparse, result, err) &&
             check(&sides[1], layer, stack_is_dense(&stack) ? NULL : &stack, result, "sparse_error",
                   err);
        counts = count(&sides[1]);
        ok = ok && bench_timed_open(b, &timed[1], attend_all, &sides[1], err);
    }
    if (!ok || !bench_timed_open(b, &timed[0], attend_all, &sides[0], err)) {
        ok = false;
        goto out;
    }
    bench_timed_pairs(b, &timed[0], &timed[1], dense_us, sparse_us, ratios);
    per_layer(b, dense_us);
    per_layer(b, sparse_us);
    struct bench_interval us = bench_median_interval(dense_us, n_pairs);
    double bytes = (double)model_kv_bytes_per_token(&b->config, b->engine.kv_dtype) * (b->ctx + 1) /
                   b->config.n_layers;
    bench_set_interval(result, "dense_us_per_layer", us);
    json_set_number(result, "dense_kb_per_layer", bytes * 1e-3);
    json_set_number(result, "dense_gb_per_s", bytes / us.median * 1e-3);
    json_set_number(result, "dense_share_of_bandwidth", bytes / us.median * 1e6 / b->bytes_per_s);
    if (sparse)
        report_sparse(b, result, &counts, sparse_us, ratios);
    ok = bench_sync(b, err);
out:
    bench_timed_close(b, &timed[0]);
    bench_timed_close(b, &timed[1]);
    free(dense_us);
    free(sparse_us);
    free(ratios);
    sparse_attention_close(sparse);
    bench_calls_close(&calls);
    return ok;
}
