/* Stacks run through a model's attention method: pieces of a call, probes and time. */
#include "engine/attention/sparse_attention.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/attention_scene.h"

#include <cmocka.h>

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
    "sink:4,hash:5%:weights=random",
    "local:16,quest:40:page_size=8",
    "random:0.1,quest:40:page_size=8:share=group",
    "local:16,double-sparsity:7%:group_factor=4:channels=random",
    "double-sparsity:258:group_factor=4:channels=random:share=group",
    "double-sparsity:260:group_factor=4:channels=random",
    "local:16,double-sparsity:260:group_factor=4:channels=random:top_p=0.5",
    "sink:4,hash:20%:weights=random:top_p=0.3:share=group",
    "local:16,quest:150:page_size=8:top_p=0.6",
    "sink:299",
    "dense",
};

static void run_in_pieces(struct scene *s, const struct stack *stack, int rows, struct outcome *o)
{
    for (int row = 0; row < s->in.n_rows; row += rows) {
        int left = s->in.n_rows - row, n = left < rows ? left : rows;
        struct attention piece = sparse_attention_rows(&s->att, row, n);
        once(stack, s->sel, &piece);
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

/* --- Indexes that grow ---------------------------------------------------------------------- */

enum { FIRST = 100, GROWN = 1100, LAST = 20 };

/* A call of rows [from, from + n) over the keys up to them, of a scene of GROWN rows and keys. */
static struct attention rows_of(struct scene *s, int from, int n)
{
    struct attention att = s->att;
    struct step_state step = {.n_context = from, .seed = 7};
    backend->upload(dev, s->stage.step, &step, sizeof step);
    att.q += (size_t)from * (size_t)att.q_stride;
    att.n_rows = n;
    return att;
}

static float *attended(struct scene *s, struct sparse_attention *sparse, int from, int n)
{
    struct attention att = rows_of(s, from, n);
    struct attention_method method = sparse_attention_method(sparse);
    method.attend(method.user, &att);
    return download_out(s);
}

static void expect_grown_as_fresh(const char *text, struct scene *s, struct sparse_attention *grown,
                                  int from)
{
    struct sparse_attention *fresh = open_method(text, 1, GROWN);
    float *got = attended(s, grown, from, 1), *want = attended(s, fresh, from, 1);
    if (memcmp(got, want, N_HEADS * HEAD_DIM * sizeof *got) != 0)
        fail_msg("%s: grown to key %d attends otherwise than a fresh index", text, from);
    free(got);
    free(want);
    sparse_attention_close(fresh);
}

/* A context at once, then key by key; then a rewind to an earlier key, with other keys after it. */
static void test_an_index_that_grew_by_1000_keys_equals_one_from_scratch(void **state)
{
    (void)state;
    static const char *const stacks[] = {
        "hash:5%:weights=random",
        "sink:4,local:16,hash:5%:weights=random:share=group",
        "quest:10%",
        "sink:4,local:16,quest:64:page_size=7:label_bits=4",
        "double-sparsity:10%:group_factor=4:channels=random",
        "sink:4,local:16,double-sparsity:64:group_factor=2:label_bits=16:channels=random",
    };
    for (size_t i = 0; i < sizeof stacks / sizeof stacks[0]; i++) {
        struct scene *s = scene_open(GROWN, GROWN, 7);
        struct sparse_attention *grown = open_method(stacks[i], 1, GROWN);
        free(attended(s, grown, 0, FIRST));
        for (int from = FIRST; from < GROWN - 1; from++)
            free(attended(s, grown, from, 1));
        expect_grown_as_fresh(stacks[i], s, grown, GROWN - 1);
        for (size_t head = 0; head < N_KV_HEADS; head++)
            for (size_t k = (FIRST + 5) * HEAD_DIM; k < GROWN * HEAD_DIM; k++)
                s->in.k[head * GROWN * HEAD_DIM + k] *= -1;
        backend->upload(dev, s->att.kv.k[KV_CONTEXT], s->in.k,
                        (size_t)(N_KV_HEADS * GROWN * HEAD_DIM) * sizeof(float));
        free(attended(s, grown, FIRST + 5, LAST));
        struct sparse_attention *fresh = open_method(stacks[i], 1, GROWN);
        float *got = attended(s, grown, FIRST + 5 + LAST, 1);
        float *want = attended(s, fresh, FIRST + 5 + LAST, 1);
        assert_memory_equal(got, want, N_HEADS * HEAD_DIM * sizeof *got);
        free(got);
        free(want);
        sparse_attention_close(fresh);
        sparse_attention_close(grown);
        scene_close(s);
    }
}

static void test_hash_without_weights_says_what_to_do(void **state)
{
    (void)state;
    struct stack stack = parsed("hash:5%");
    struct model_config config = {
        .n_layers = 1, .n_heads = N_HEADS, .n_kv_heads = N_KV_HEADS, .head_dim = HEAD_DIM};
    struct masker_model model = {.config = &config, .folder = "/nowhere"};
    struct error err = {0};
    assert_null(sparse_attention_open(&stack, backend, dev, &model, 100, &err));
    assert_non_null(strstr(err.text, "hash: this model has no hash_attention.safetensors"));
    stack = parsed("hash:5%:weights=random:bits=16");
    assert_null(sparse_attention_open(&stack, backend, dev, &model, 100, &err));
    assert_non_null(strstr(err.text, "bits is 16, but the weights have 32"));
}

/* --- Probes and time ------------------------------------------------------------------------ */

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

static void test_the_untimed_method_does_the_same_and_is_not_timed(void **state)
{
    (void)state;
    static const char *const stacks[] = {"dense", "sink:4,local:16,oracle-topk:4%"};
    for (int which = 0; which < 2; which++) {
        struct scene *s = scene_open(1, 300, 7);
        struct sparse_attention *sparse = open_method(stacks[which], 1, 300);
        struct attention_method timed = sparse_attention_method(sparse);
        struct attention_method untimed = sparse_attention_untimed(sparse);
        timed.attend(timed.user, &s->att);
        float *want = download_out(s);
        sparse_attention_us_reset(sparse);
        untimed.attend(untimed.user, &s->att);
        float *got = download_out(s);
        assert_memory_equal(got, want, N_HEADS * HEAD_DIM * sizeof *got);
        assert_float_equal(sparse_attention_us(sparse), 0, 0);
        free(got);
        free(want);
        sparse_attention_close(sparse);
        scene_close(s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_call_in_pieces_equals_the_whole_call),
        cmocka_unit_test(test_the_method_chops_and_equals_the_whole_call),
        cmocka_unit_test(test_an_index_that_grew_by_1000_keys_equals_one_from_scratch),
        cmocka_unit_test(test_hash_without_weights_says_what_to_do),
        cmocka_unit_test(test_probes_measure_recall_and_output_error),
        cmocka_unit_test(test_time_is_counted_over_layers_but_not_while_probing),
        cmocka_unit_test(test_the_untimed_method_does_the_same_and_is_not_timed),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
