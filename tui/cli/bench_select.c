/* Selection alone, one decode row: scoring, choosing after the scores are there, and both as the
 * stack's masker does it. */
#include <stdlib.h>
#include <string.h>

#include "engine/attention/masker.h"
#include "engine/attention/sparse_attention.h"
#include "engine/base/memory.h"
#include "tui/cli/bench_calls.h"
#include "tui/cli/bench_stats.h"
#include "tui/cli/bench_timed.h"

/* Share of chosen keys that may differ from the reference's: scores that tie within rounding. */
static const double MOST_DIFFERENT = 2e-3;

struct select {
    struct bench_calls calls;
    struct selection *selection;
    struct stack_index index;
    const struct stack *stack;
    struct budget budget; /* of the stack's oracle-topk */
    enum share share;
};

static void score_all(void *user)
{
    struct select *s = user;
    struct bench *b = s->calls.bench;
    for (int layer = 0; layer < b->config.n_layers; layer++) {
        struct attention att = bench_call(&s->calls, layer);
        b->backend->selection_begin(b->dev, s->selection, &att);
        b->backend->score_exact(b->dev, s->selection, &att);
    }
}

/* Chooses by the scores of the last layer scored. */
static void choose_all(void *user)
{
    struct select *s = user;
    struct bench *b = s->calls.bench;
    for (int layer = 0; layer < b->config.n_layers; layer++) {
        struct attention att = bench_call(&s->calls, layer);
        b->backend->selection_begin(b->dev, s->selection, &att);
        b->backend->select_top_k(b->dev, s->selection, &att, s->budget, s->share);
        b->backend->selection_end(b->dev, s->selection, &att);
    }
}

static void select_stack(struct select *s, int layer)
{
    struct attention att = bench_call(&s->calls, layer);
    stack_index_update(&s->index, &att);
    sparse_attention_select(s->stack, &s->index, s->selection, &att);
}

static void select_all(void *user)
{
    struct select *s = user;
    for (int layer = 0; layer < s->calls.bench->config.n_layers; layer++)
        select_stack(s, layer);
}

/* The stack's first oracle-topk, if it has one. */
static bool find_top_k(struct select *s)
{
    for (int i = 0; i < s->stack->n; i++) {
        const struct stack_item *item = &s->stack->items[i];
        if (strcmp(item->masker->name, "oracle-topk") != 0)
            continue;
        int share = masker_param_index(item->masker, "share");
        s->budget = item->values.param[0];
        s->share = share >= 0 && item->values.param[share].value > 0 ? SHARE_GROUP : SHARE_HEAD;
        return true;
    }
    return false;
}

/* Keys of two ascending lists that are in one only. */
static int n_different(const int32_t *a, int n_a, const int32_t *b, int n_b)
{
    int i = 0, j = 0, n = 0;
    while (i < n_a || j < n_b) {
        if (i < n_a && j < n_b && a[i] == b[j]) {
            i++, j++;
            continue;
        }
        n++;
        if (j == n_b || (i < n_a && a[i] < b[j]))
            i++;
        else
            j++;
    }
    return n;
}

/* Compares every head's keys of layer 0 with the reference's. */
static bool check(struct select *s, struct json *result, struct error *err)
{
    struct bench *b = s->calls.bench;
    struct bench_reference r;
    size_t max_keys = (size_t)b->ctx + 1;
    int32_t *keys = xcalloc(2 * max_keys, sizeof *keys);
    float *prob = xcalloc(max_keys, sizeof *prob);
    bool ok = bench_reference_open(&r, &s->calls, 0, err) && bench_reference_run(&r, s->stack, err);
    if (ok) {
        select_stack(s, 0);
        ok = bench_sync(b, err);
    }
    double different = 0, all = 0;
    for (int head = 0; ok && head < b->config.n_heads; head++) {
        int n = b->backend->selection_get(b->dev, s->selection, 0, head, keys, prob);
        int want = r.backend->selection_get(r.dev, r.selection, 0, head, keys + max_keys, prob);
        different += n < 0 || want < 0 ? n != want : n_different(keys, n, keys + max_keys, want);
        all += want < 0 ? 1 : want;
    }
    if (ok)
        json_set_number(result, "keys_different_share", all > 0 ? different / all : 0);
    if (ok && different > MOST_DIFFERENT * all)
        ok = fail_code(err, EXIT_CODE_RUNTIME, "%.0f of %.0f keys differ from the reference",
                       different, all);
    bench_reference_close(&r);
    free(keys);
    free(prob);
    return ok;
}

static bool time_part(struct select *s, void (*enqueue)(void *user), struct json *result,
                      const char *name, struct error *err)
{
    struct bench *b = s->calls.bench;
    struct bench_timed timed;
    bool ok = bench_timed_open(b, &timed, enqueue, s, err);
    if (ok)
        json_set_number(result, name, bench_timed_median_us(b, &timed) / b->config.n_layers);
    bench_timed_close(b, &timed);
    return ok && bench_sync(b, err);
}

bool bench_select(struct bench *b, struct json *result, struct error *err)
{
    struct select s = {.stack = &b->stack};
    struct buf name = {0};
    if (b->stack.n_groups)
        return fail_code(err, EXIT_CODE_USAGE,
                         "bench select times one choice for all layers; leave the stack's groups "
                         "of layers out");
    if (!b->has_stack && !stack_parse(&b->stack, "oracle-topk:10%", err))
        return false;
    stack_write_short(&b->stack, &name);
    json_set_string(result, "stack", name.data);
    buf_free(&name);
    bool ok = bench_calls_open(&s.calls, b, err);
    if (ok) {
        s.selection = b->backend->selection_open(b->dev, 1, b->config.n_heads, b->config.n_kv_heads,
                                                 b->ctx + 1);
        ok = s.selection || fail_code(err, EXIT_CODE_NO_DEVICE, "out of memory for a selection");
    }
    struct masker_model model = {.config = &b->config, .kv_dtype = b->engine.kv_dtype};
    ok = ok && stack_index_open(&s.index, &b->stack, b->backend, b->dev, &model, b->ctx + 1, err) &&
         check(&s, result, err);
    if (ok && find_top_k(&s))
        ok = time_part(&s, score_all, result, "score_us", err) &&
             time_part(&s, choose_all, result, "choose_us", err);
    ok = ok && time_part(&s, select_all, result, "stack_us", err);
    stack_index_close(&s.index);
    if (s.selection)
        b->backend->selection_close(b->dev, s.selection);
    bench_calls_close(&s.calls);
    return ok;
}
