/* What holds for every masker in the table, whichever it is; and stacks run through a model's
 * attention method: pieces, probes and time. */
#include "engine/attention/sparse_attention.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/attention/attention_input.h"
#include "engine/base/memory.h"

#include <cmocka.h>

enum { N_HEADS = 6, N_KV_HEADS = 2, HEAD_DIM = 16, MAX_KEYS = 320 };

static const struct backend *backend;
static struct device *dev;

static int setup(void **state)
{
    (void)state;
    char why[256];
    struct device_options options = {.n_threads = 2, .exact = true};
    dev = backend_open("cpu", &options, &backend, why, sizeof why);
    if (!dev)
        fail_msg("%s", why);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    backend->close(dev);
    return 0;
}

static unsigned random_state;

static float draw(void)
{
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        random_state = random_state * 1664525u + 1013904223u;
        sum += (float)(random_state >> 8) / (1 << 24) - 0.5f;
    }
    return 1.7f * sum;
}

static float *random_values(size_t n)
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

static struct scene *scene_open(int n_rows, int n_keys, uint64_t seed)
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

static void scene_close(struct scene *s)
{
    backend->selection_close(dev, s->sel);
    attention_stage_close(&s->stage);
    attention_input_free(&s->in);
    free(s);
}

static void set_seed(struct scene *s, uint64_t seed)
{
    struct step_state step = {.n_context = s->in.n_keys - s->in.n_rows, .seed = seed};
    backend->upload(dev, s->stage.step, &step, sizeof step);
}

static float *download_out(const struct scene *s)
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

static void read_selection(struct outcome *o, const struct selection *sel, int first, int n_rows)
{
    for (int i = 0; i < n_rows; i++)
        for (int h = 0; h < N_HEADS; h++)
            o->n[first + i][h] = backend->selection_get(dev, sel, i, h, o->keys[first + i][h],
                                                        o->prob[first + i][h]);
}

static struct outcome *run(struct scene *s, const struct stack *stack)
{
    struct outcome *o = xcalloc(1, sizeof *o);
    assert_in_range(s->in.n_rows, 1, 64);
    sparse_attention_once(stack, backend, dev, s->sel, &s->att);
    read_selection(o, s->sel, 0, s->in.n_rows);
    o->out = download_out(s);
    return o;
}

static void outcome_free(struct outcome *o)
{
    free(o->out);
    free(o);
}

static struct stack parsed(const char *text)
{
    struct stack s;
    struct error err = {0};
    if (!stack_parse(&s, text, &err))
        fail_msg("%s: %s", text, err.text);
    return s;
}

static struct stack alone(const struct masker *m)
{
    struct stack s = {0};
    assert_true(stack_add(&s, m, NULL));
    return s;
}

static bool same_selection(const struct outcome *a, const struct outcome *b, int n_rows)
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

static void expect_same_out(const char *what, const float *got, const float *want, int n_rows)
{
    for (int i = 0; i < n_rows * N_HEADS * HEAD_DIM; i++)
        if (!(fabsf(got[i] - want[i]) <= 1e-5f * (1 + fabsf(want[i]))))
            fail_msg("%s: output %d: got %.8g, want %.8g", what, i, got[i], want[i]);
}

/* --- Every masker --------------------------------------------------------------------------- */

static void expect_visible(const struct masker *m, const struct scene *s, const struct outcome *o)
{
    for (int i = 0; i < s->in.n_rows; i++)
        for (int h = 0; h < N_HEADS; h++) {
            int position = s->in.n_keys - s->in.n_rows + i;
            for (int j = 0; j < o->n[i][h]; j++) {
                int key = o->keys[i][h][j];
                float p = o->prob[i][h][j];
                bool visible = key >= s->att.first_key && key <= position &&
                               (s->att.window == 0 || position - key < s->att.window);
                if (!visible || (j > 0 && key <= o->keys[i][h][j - 1]) || !(p > 0 && p <= 1))
                    fail_msg("%s: row %d, head %d: key %d with p %g after key %d", m->name, i, h,
                             key, p, j ? o->keys[i][h][j - 1] : -1);
            }
        }
}

static void test_every_masker_keeps_to_visible_keys_with_legal_probabilities(void **state)
{
    (void)state;
    for (const struct masker *const *m = maskers; *m; m++)
        for (int window = 0; window <= 100; window += 50) {
            struct scene *s = scene_open(5, 300, 7);
            s->att.first_key = 9;
            s->att.window = window;
            struct stack stack = alone(*m);
            struct outcome *o = run(s, &stack);
            expect_visible(*m, s, o);
            outcome_free(o);
            scene_close(s);
        }
}

static void test_every_masker_repeats_itself_under_one_seed(void **state)
{
    (void)state;
    for (const struct masker *const *m = maskers; *m; m++) {
        struct scene *s = scene_open(3, 300, 7);
        struct stack stack = alone(*m);
        struct outcome *a = run(s, &stack), *b = run(s, &stack);
        set_seed(s, 8);
        struct outcome *c = run(s, &stack);
        if (!same_selection(a, b, 3))
            fail_msg("%s: two selections under one seed", (*m)->name);
        if (same_selection(a, c, 3) != ((*m)->kind != MASKER_SAMPLER))
            fail_msg("%s: another seed must matter to samplers and to nothing else", (*m)->name);
        outcome_free(a);
        outcome_free(b);
        outcome_free(c);
        scene_close(s);
    }
}

static float *dense_out(struct scene *s)
{
    backend->attend_dense(dev, &s->att);
    return download_out(s);
}

static void test_every_masker_with_a_full_budget_equals_dense(void **state)
{
    (void)state;
    for (const struct masker *const *m = maskers; *m; m++) {
        struct scene *s = scene_open(5, 300, 7);
        struct stack stack = alone(*m);
        if ((*m)->n_params) {
            const struct masker_param *p = &(*m)->params[0];
            bool is_budget = p->kind == PARAM_BUDGET;
            stack.items[0].values.param[0] = (struct budget){is_budget, is_budget ? 1 : p->max};
        }
        struct outcome *o = run(s, &stack);
        float *want = dense_out(s);
        expect_same_out((*m)->name, o->out, want, 5);
        free(want);
        outcome_free(o);
        scene_close(s);
    }
}

static void test_stacks_without_maskers_equal_dense(void **state)
{
    (void)state;
    struct scene *s = scene_open(5, 300, 7);
    struct stack stack = parsed("dense");
    struct outcome *o = run(s, &stack);
    float *want = dense_out(s);
    expect_same_out("dense", o->out, want, 5);
    assert_int_equal(o->n[0][0], -1);
    free(want);
    outcome_free(o);
    scene_close(s);
}

/* The last n_tail keys (and the row's own) moved to a tail segment. */
static void move_to_tail(struct scene *s, int n_tail)
{
    size_t dim = HEAD_DIM, n_keys = (size_t)s->in.n_keys, n = (size_t)n_tail + 1;
    struct kv_layer *kv = &s->att.kv;
    void **buffers[] = {kv->k, kv->v};
    for (int which = 0; which < 2; which++) {
        const float *from = buffers[which][KV_CONTEXT];
        float *tail = backend->alloc(dev, N_KV_HEADS * (n + 3) * dim * sizeof *tail);
        for (size_t head = 0; head < N_KV_HEADS; head++)
            backend->upload(dev, tail + head * (n + 3) * dim,
                            from + (head * n_keys + n_keys - n) * dim, n * dim * sizeof *tail);
        buffers[which][KV_TAIL] = tail;
    }
    kv->capacity[KV_TAIL] = n_tail + 4;
    struct step_state step = {
        .n_context = s->in.n_keys - n_tail - 1, .n_tail = n_tail, .append_tail = 1, .seed = 7};
    backend->upload(dev, s->stage.step, &step, sizeof step);
}

static void test_every_masker_chooses_alike_from_a_growing_tail_and_from_scratch(void **state)
{
    (void)state;
    for (const struct masker *const *m = maskers; *m; m++)
        for (int n_tail = 0; n_tail < 12; n_tail++) {
            struct scene *scratch = scene_open(1, 240 + n_tail + 1, 7);
            struct scene *grown = scene_open(1, 240 + n_tail + 1, 7);
            move_to_tail(grown, n_tail);
            struct stack stack = alone(*m);
            struct outcome *a = run(scratch, &stack), *b = run(grown, &stack);
            if (!same_selection(a, b, 1))
                fail_msg("%s: %d keys in the tail change the selection", (*m)->name, n_tail);
            expect_same_out((*m)->name, b->out, a->out, 1);
            outcome_free(a);
            outcome_free(b);
            backend->release(dev, grown->att.kv.k[KV_TAIL]);
            backend->release(dev, grown->att.kv.v[KV_TAIL]);
            scene_close(scratch);
            scene_close(grown);
        }
}

static void test_heads_that_share_choose_the_same_keys(void **state)
{
    (void)state;
    for (const struct masker *const *m = maskers; *m; m++) {
        int share = masker_param_index(*m, "share");
        if (share < 0)
            continue;
        struct scene *s = scene_open(3, 300, 7);
        struct stack stack = alone(*m);
        stack.items[0].values.param[share].value = SHARE_GROUP;
        struct outcome *o = run(s, &stack);
        for (int i = 0; i < 3; i++)
            for (int h = 0; h < N_HEADS; h++) {
                int first = h / (N_HEADS / N_KV_HEADS) * (N_HEADS / N_KV_HEADS);
                int n = o->n[i][h];
                if (n <= 0 || n != o->n[i][first] ||
                    memcmp(o->keys[i][h], o->keys[i][first], (size_t)n * sizeof(int32_t)) != 0)
                    fail_msg("%s: row %d: heads %d and %d differ", (*m)->name, i, first, h);
            }
        outcome_free(o);
        scene_close(s);
    }
}

/* --- Pieces of a call ----------------------------------------------------------------------- */

/* Budgets are fractions of the whole call's K, and 265 + 40 >= 300 makes the whole call dense. */
static const char *const piece_stacks[] = {
    "sink:4,local:10%",
    "sink:4,local:265",
    "local:259",
    "sink:1%,local:16,oracle-topk:5%",
    "sink:4,local:16,oracle-topk:7%:share=group",
    "local:16,oracle-topp:0.7",
    "oracle-topp:0.6:mass=total:share=group",
    "sink:4,local:16,random:0.1",
    "random:0.05:share=group",
    "sink:299",
    "dense",
};

static void run_in_pieces(struct scene *s, const struct stack *stack, int rows, struct outcome *o)
{
    for (int row = 0; row < s->in.n_rows; row += rows) {
        int left = s->in.n_rows - row, n = left < rows ? left : rows;
        struct attention piece = sparse_attention_rows(&s->att, row, n);
        sparse_attention_once(stack, backend, dev, s->sel, &piece);
        read_selection(o, s->sel, row, n);
    }
    o->out = download_out(s);
}

static void test_a_call_in_pieces_equals_the_whole_call(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof piece_stacks / sizeof piece_stacks[0]; i++)
        for (int rows = 1; rows <= 13; rows += 6) {
            struct scene *s = scene_open(40, 300, 7);
            struct stack stack = parsed(piece_stacks[i]);
            struct outcome *whole = run(s, &stack), *pieces = xcalloc(1, sizeof *pieces);
            run_in_pieces(s, &stack, rows, pieces);
            if (!same_selection(whole, pieces, 40))
                fail_msg("%s: pieces of %d rows choose otherwise", piece_stacks[i], rows);
            expect_same_out(piece_stacks[i], pieces->out, whole->out, 40);
            outcome_free(whole);
            outcome_free(pieces);
            scene_close(s);
        }
}

static struct sparse_attention *open_method(const char *stack_text, int n_layers, int max_keys)
{
    struct stack stack = parsed(stack_text);
    struct model_config config = {
        .n_layers = n_layers, .n_heads = N_HEADS, .n_kv_heads = N_KV_HEADS, .head_dim = HEAD_DIM};
    struct error err = {0};
    struct sparse_attention *s =
        sparse_attention_open(&stack, backend, dev, &config, max_keys, &err);
    if (!s)
        fail_msg("%s", err.text);
    return s;
}

static void test_the_method_chops_and_equals_the_whole_call(void **state)
{
    (void)state;
    enum { LONG = 40000 };
    assert_in_range(sparse_attention_max_rows(N_HEADS, N_KV_HEADS, LONG), 2, 39);
    assert_int_equal(sparse_attention_max_rows(128, 8, 1 << 20), 1);
    for (size_t i = 0; i < sizeof piece_stacks / sizeof piece_stacks[0]; i++) {
        struct scene *s = scene_open(40, 300, 7);
        struct stack stack = parsed(piece_stacks[i]);
        struct outcome *whole = run(s, &stack);
        struct sparse_attention *sparse = open_method(piece_stacks[i], 1, LONG);
        struct attention_method method = sparse_attention_method(sparse);
        method.attend(method.user, &s->att);
        float *got = download_out(s);
        expect_same_out(piece_stacks[i], got, whole->out, 40);
        free(got);
        sparse_attention_close(sparse);
        outcome_free(whole);
        scene_close(s);
    }
}

/* --- Probes and time ------------------------------------------------------------------------ */

static float dense_score(const struct scene *s, int i, int h, int key)
{
    const float *q = s->in.q + (i * N_HEADS + h) * HEAD_DIM;
    const float *k = s->in.k + (h / (N_HEADS / N_KV_HEADS) * s->in.n_keys + key) * HEAD_DIM;
    float sum = 0;
    for (int d = 0; d < HEAD_DIM; d++)
        sum += q[d] * k[d];
    return sum * s->att.scale;
}

/* The dense softmax mass on the keys that a row and head selected. */
static double brute_recall(const struct scene *s, const struct outcome *o, int i, int h)
{
    double all = 0, kept = 0;
    for (int key = 0; key <= s->in.n_keys - s->in.n_rows + i; key++)
        all += exp(dense_score(s, i, h, key));
    for (int j = 0; j < o->n[i][h]; j++)
        kept += exp(dense_score(s, i, h, o->keys[i][h][j]));
    return kept / all;
}

static void test_probes_measure_recall_and_output_error(void **state)
{
    (void)state;
    enum { ROWS = 9 };
    struct scene *s = scene_open(ROWS, 300, 7);
    struct stack stack = parsed("sink:4,local:16,oracle-topk:4%");
    struct outcome *o = run(s, &stack);
    float *dense = dense_out(s);
    double diff = 0, norm = 0, mean = 0, worst = 2;
    int worst_head = -1;
    for (int i = 0; i < ROWS * N_HEADS * HEAD_DIM; i++) {
        diff += (double)(o->out[i] - dense[i]) * (o->out[i] - dense[i]);
        norm += (double)dense[i] * dense[i];
    }
    for (int h = 0; h < N_HEADS; h++) {
        double recall = 0;
        for (int i = 0; i < ROWS; i++)
            recall += brute_recall(s, o, i, h) / ROWS;
        mean += recall / N_HEADS;
        if (recall < worst) {
            worst = recall;
            worst_head = h;
        }
    }
    struct sparse_attention *sparse =
        open_method("sink:4,local:16,oracle-topk:4%", 3, 100000); /* pieces of few rows */
    struct attention_method method = sparse_attention_method(sparse);
    struct layer_probe got[3];
    s->att.layer = 1;
    sparse_attention_probe(sparse, true);
    for (int twice = 0; twice < 2; twice++)
        method.attend(method.user, &s->att);
    sparse_attention_probe(sparse, false);
    method.attend(method.user, &s->att); /* not probed */
    sparse_attention_probe_result(sparse, got);
    assert_int_equal(got[0].n_rows, 0);
    assert_int_equal(got[1].n_rows, 2 * ROWS);
    assert_int_equal(got[1].layer, 1);
    assert_float_equal(got[1].recall_mean, mean, 1e-5);
    assert_float_equal(got[1].recall_worst, worst, 1e-5);
    assert_int_equal(got[1].worst_head, worst_head);
    assert_float_equal(got[1].output_error, sqrt(diff / norm), 1e-5);
    assert_true(mean > 0.1 && mean < 0.999);
    sparse_attention_probe_reset(sparse);
    sparse_attention_probe_result(sparse, got);
    assert_int_equal(got[1].n_rows, 0);
    sparse_attention_close(sparse);
    free(dense);
    outcome_free(o);
    scene_close(s);
}

static void test_time_is_counted_over_layers_but_not_while_probing(void **state)
{
    (void)state;
    enum { LAYERS = 40 }; /* more than the clock has marks for */
    struct scene *s = scene_open(1, 300, 7);
    static const char *const stacks[] = {"dense", "sink:4,local:16,oracle-topk:4%"};
    for (int which = 0; which < 2; which++) {
        struct sparse_attention *sparse = open_method(stacks[which], LAYERS, 300);
        struct attention_method method = sparse_attention_method(sparse);
        assert_float_equal(sparse_attention_us(sparse), 0, 0);
        double before = 0;
        for (int call = 0; call < 3; call++) {
            for (s->att.layer = 0; s->att.layer < LAYERS; s->att.layer++)
                method.attend(method.user, &s->att);
            double now = sparse_attention_us(sparse);
            if (!(now > before && now < 1e7))
                fail_msg("%s: %g us after %g us", stacks[which], now, before);
            before = now;
        }
        s->att.layer = 0;
        sparse_attention_probe(sparse, true);
        method.attend(method.user, &s->att);
        assert_float_equal(sparse_attention_us(sparse), before, 0);
        sparse_attention_us_reset(sparse);
        assert_float_equal(sparse_attention_us(sparse), 0, 0);
        sparse_attention_close(sparse);
    }
    scene_close(s);
}

/* --- Sampling ------------------------------------------------------------------------------- */

/* Horvitz-Thompson sums of exp(z) and exp(z) v_0 over many seeds against the dense sums. */
static void expect_unbiased(const char *stack_text)
{
    enum { SEEDS = 10000, KEYS = 80 };
    struct scene *s = scene_open(1, KEYS, 1);
    struct stack stack = parsed(stack_text);
    int32_t keys[KEYS];
    float prob[KEYS];
    double dense[2] = {0}, sum[2] = {0}, squares[2] = {0};
    const int head = 4, kv = head / (N_HEADS / N_KV_HEADS);
    double weight[KEYS], value[KEYS];
    for (int j = 0; j < KEYS; j++) {
        weight[j] = exp(dense_score(s, 0, head, j));
        value[j] = weight[j] * s->in.v[(kv * KEYS + j) * HEAD_DIM];
        dense[0] += weight[j];
        dense[1] += value[j];
    }
    for (int seed = 0; seed < SEEDS; seed++) {
        set_seed(s, (uint64_t)seed);
        sparse_attention_once(&stack, backend, dev, s->sel, &s->att);
        int n = backend->selection_get(dev, s->sel, 0, head, keys, prob);
        double estimate[2] = {0};
        for (int i = 0; i < n; i++) {
            estimate[0] += weight[keys[i]] / prob[i];
            estimate[1] += value[keys[i]] / prob[i];
        }
        for (int k = 0; k < 2; k++) {
            sum[k] += estimate[k];
            squares[k] += estimate[k] * estimate[k];
        }
    }
    for (int k = 0; k < 2; k++) {
        double mean = sum[k] / SEEDS;
        double error = sqrt((squares[k] / SEEDS - mean * mean) / SEEDS);
        if (!(error > 0) || fabs(mean - dense[k]) > 3.5 * error)
            fail_msg("%s: %s: mean %.6g, dense %.6g, standard error %.2g", stack_text,
                     k ? "numerator" : "denominator", mean, dense[k], error);
    }
    scene_close(s);
}

static void test_random_sampling_is_unbiased_over_seeds(void **state)
{
    (void)state;
    expect_unbiased("random:0.1");
    expect_unbiased("sink:4,local:8,random:0.2");
    expect_unbiased("oracle-topk:8,random:0.1:share=group");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_masker_keeps_to_visible_keys_with_legal_probabilities),
        cmocka_unit_test(test_every_masker_repeats_itself_under_one_seed),
        cmocka_unit_test(test_every_masker_with_a_full_budget_equals_dense),
        cmocka_unit_test(test_stacks_without_maskers_equal_dense),
        cmocka_unit_test(test_every_masker_chooses_alike_from_a_growing_tail_and_from_scratch),
        cmocka_unit_test(test_heads_that_share_choose_the_same_keys),
        cmocka_unit_test(test_a_call_in_pieces_equals_the_whole_call),
        cmocka_unit_test(test_the_method_chops_and_equals_the_whole_call),
        cmocka_unit_test(test_probes_measure_recall_and_output_error),
        cmocka_unit_test(test_time_is_counted_over_layers_but_not_while_probing),
        cmocka_unit_test(test_random_sampling_is_unbiased_over_seeds),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
