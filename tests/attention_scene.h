/* A random attention call on the cpu backend, and what a stack makes of it: for tests of maskers.
 */
#ifndef ATTNSCOPE_TESTS_ATTENTION_SCENE_H
#define ATTNSCOPE_TESTS_ATTENTION_SCENE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/attention/attention_input.h"
#include "engine/attention/sparse_attention.h"
#include "engine/base/memory.h"

#include <cmocka.h>

enum { N_HEADS = 6, N_KV_HEADS = 2, HEAD_DIM = 16, MAX_KEYS = 320 };

static const struct backend *backend;
static struct device *dev;

static inline int setup(void **state)
{
    (void)state;
    char why[256];
    struct device_options options = {.n_threads = 1, .exact = true};
    dev = backend_open("cpu", &options, &backend, why, sizeof why);
    if (!dev)
        fail_msg("%s", why);
    return 0;
}

static inline int teardown(void **state)
{
    (void)state;
    backend->close(dev);
    return 0;
}

static unsigned random_state;

static inline float draw(void)
{
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        random_state = random_state * 1664525u + 1013904223u;
        sum += (float)(random_state >> 8) / (1 << 24) - 0.5f;
    }
    return 1.7f * sum;
}

static inline float *random_values(size_t n)
{
    float *x = xcalloc(n, sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = draw();
    return x;
}

/* --- A call ------------------------------------------------------------------------------- */

struct scene {
    struct attention_input in;
    struct attention_stage stage;
    struct selection *sel;
    struct attention att;
};

static inline struct scene *scene_open(int n_rows, int n_keys, uint64_t seed)
{
    struct scene *s = xcalloc(1, sizeof *s);
    struct error err = {0};
    random_state = 12345;
    s->in = (struct attention_input){
        1, N_HEADS, N_KV_HEADS, n_rows, n_keys, HEAD_DIM, .first_key = xcalloc(1, sizeof(int))};
    s->in.k = random_values((size_t)N_KV_HEADS * (size_t)n_keys * HEAD_DIM);
    s->in.v = random_values((size_t)N_KV_HEADS * (size_t)n_keys * HEAD_DIM);
    s->in.q = random_values((size_t)n_rows * N_HEADS * HEAD_DIM);
    if (!attention_stage_open(&s->stage, &s->in, backend, dev, seed, &err))
        fail_msg("%s", err.text);
    s->sel = backend->selection_open(dev, n_rows, N_HEADS, N_KV_HEADS, n_keys);
    assert_non_null(s->sel);
    s->att = attention_stage_call(&s->stage, 0);
    return s;
}

static inline void scene_close(struct scene *s)
{
    backend->selection_close(dev, s->sel);
    attention_stage_close(&s->stage);
    attention_input_free(&s->in);
    free(s);
}

static inline void set_seed(struct scene *s, uint64_t seed)
{
    struct step_state step = {.n_context = s->in.n_keys - s->in.n_rows, .seed = seed};
    backend->upload(dev, s->stage.step, &step, sizeof step);
}

static inline float *download_out(const struct scene *s)
{
    size_t n = (size_t)s->in.n_rows * N_HEADS * HEAD_DIM;
    float *out = xcalloc(n, sizeof *out);
    backend->download(dev, out, s->att.out, n * sizeof *out);
    return out;
}

/* What a stack chose and gave for one call. */
struct outcome {
    int n[64][N_HEADS]; /* -1: full */
    int32_t keys[64][N_HEADS][MAX_KEYS];
    float prob[64][N_HEADS][MAX_KEYS];
    float *out;
};

static inline void read_selection(struct outcome *o, const struct selection *sel, int first,
                                  int n_rows)
{
    for (int i = 0; i < n_rows; i++)
        for (int h = 0; h < N_HEADS; h++)
            o->n[first + i][h] = backend->selection_get(dev, sel, i, h, o->keys[first + i][h],
                                                        o->prob[first + i][h]);
}

static inline void once(const struct stack *stack, struct selection *sel,
                        const struct attention *att)
{
    struct error err = {0};
    if (!sparse_attention_once(stack, backend, dev, sel, att, &err))
        fail_msg("%s", err.text);
}

static inline struct outcome *run(struct scene *s, const struct stack *stack)
{
    struct outcome *o = xcalloc(1, sizeof *o);
    assert_in_range(s->in.n_rows, 1, 64);
    once(stack, s->sel, &s->att);
    read_selection(o, s->sel, 0, s->in.n_rows);
    o->out = download_out(s);
    return o;
}

static inline void outcome_free(struct outcome *o)
{
    free(o->out);
    free(o);
}

static inline struct stack parsed(const char *text)
{
    struct stack s;
    struct error err = {0};
    if (!stack_parse(&s, text, &err))
        fail_msg("%s: %s", text, err.text);
    return s;
}

static inline struct sparse_attention *open_method(const char *stack_text, int n_layers,
                                                   int max_keys)
{
    struct stack stack = parsed(stack_text);
    struct model_config config = {
        .n_layers = n_layers, .n_heads = N_HEADS, .n_kv_heads = N_KV_HEADS, .head_dim = HEAD_DIM};
    struct masker_model model = {.config = &config};
    struct error err = {0};
    struct sparse_attention *s =
        sparse_attention_open(&stack, backend, dev, &model, max_keys, &err);
    if (!s)
        fail_msg("%s", err.text);
    return s;
}

static inline struct stack alone(const struct masker *m)
{
    struct stack s = {0};
    assert_true(stack_add(&s, m, NULL));
    for (int i = 0; i < m->n_params; i++) {
        if (m->params[i].kind == PARAM_PATH) /* of weights: those that need no file */
            assert_true(masker_value_parse(m, &s.items[0].values, i, "random", NULL));
        bool is_offset = strcmp(m->params[i].name, "init_offset") == 0;
        if ((i > 0 && m->params[i].kind == PARAM_BUDGET) || is_offset) /* left to others */
            s.items[0].values.param[i] = (struct budget){.value = m->params[i].min};
    }
    return s;
}

static inline bool same_selection(const struct outcome *a, const struct outcome *b, int n_rows)
{
    for (int i = 0; i < n_rows; i++)
        for (int h = 0; h < N_HEADS; h++) {
            int n = a->n[i][h];
            if (n != b->n[i][h] ||
                (n > 0 && (memcmp(a->keys[i][h], b->keys[i][h], (size_t)n * sizeof(int32_t)) ||
                           memcmp(a->prob[i][h], b->prob[i][h], (size_t)n * sizeof(float)))))
                return false;
        }
    return true;
}

static inline void expect_same_out(const char *what, const float *got, const float *want,
                                   int n_rows)
{
    for (int i = 0; i < n_rows * N_HEADS * HEAD_DIM; i++)
        if (!(fabsf(got[i] - want[i]) <= 1e-5f * (1 + fabsf(want[i]))))
            fail_msg("%s: output %d: got %.8g, want %.8g", what, i, got[i], want[i]);
}

static inline float *dense_out(struct scene *s)
{
    backend->attend_dense(dev, &s->att);
    return download_out(s);
}

static inline float dense_score(const struct scene *s, int i, int h, int key)
{
    const float *q = s->in.q + (i * N_HEADS + h) * HEAD_DIM;
    const float *k = s->in.k + (h / (N_HEADS / N_KV_HEADS) * s->in.n_keys + key) * HEAD_DIM;
    float sum = 0;
    for (int d = 0; d < HEAD_DIM; d++)
        sum += q[d] * k[d];
    return sum * s->att.scale;
}

#endif
