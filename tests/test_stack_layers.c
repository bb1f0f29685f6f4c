/* Stacks whose layers have lists of their own, and layers that take an earlier one's selection
 * over. */
#include "engine/attention/sparse_attention.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/attention_scene.h"

#include <cmocka.h>

/* --- Layers with stacks of their own -------------------------------------------------------- */

enum { LAYERS = 6 };

static void attend_layer(struct scene *s, struct sparse_attention *sparse, int layer)
{
    struct attention_method method = sparse_attention_method(sparse);
    s->att.layer = layer;
    method.attend(method.user, &s->att);
}

static void expect_layer_as_alone(const char *text, const char *alone, int layer, int n_rows)
{
    struct scene *s = scene_open(n_rows, 300, 7);
    struct sparse_attention *sparse = open_method(text, LAYERS, 300);
    struct sparse_attention *single = open_method(alone, LAYERS, 300);
    attend_layer(s, single, layer);
    float *want = download_out(s);
    for (int i = 0; i <= layer; i++)
        attend_layer(s, sparse, i);
    float *got = download_out(s);
    if (memcmp(got, want, (size_t)(n_rows * N_HEADS * HEAD_DIM) * sizeof *got) != 0)
        fail_msg("%s: layer %d does not attend as %s", text, layer, alone);
    free(got);
    free(want);
    sparse_attention_close(single);
    sparse_attention_close(sparse);
    scene_close(s);
}

static void test_each_layer_attends_as_its_own_stack(void **state)
{
    (void)state;
    static const char text[] =
        "sink:4,local:16,random:0.1; layers 0,4: dense; "
        "layers 2: local:16,quest:40:page_size=8,random:0.05; "
        "layers 3: sink:1%,hash:5%:weights=random,random:0.2; layers 5: causal";
    static const char *const alone[LAYERS] = {
        "dense",
        "sink:4,local:16,random:0.1",
        "local:16,quest:40:page_size=8,random:0.05",
        "sink:1%,hash:5%:weights=random,random:0.2",
        "dense",
        "causal",
    };
    for (int layer = 0; layer < LAYERS; layer++) {
        expect_layer_as_alone(text, alone[layer], layer, 1);
        expect_layer_as_alone(text, alone[layer], layer, 40);
    }
}

/* The default list is dense in all layers but one. */
static void test_a_dense_stack_may_have_a_sparse_layer(void **state)
{
    (void)state;
    expect_layer_as_alone("dense; layers 1: sink:4,oracle-topk:5%", "sink:4,oracle-topk:5%", 1, 9);
    expect_layer_as_alone("dense; layers 1: sink:4,oracle-topk:5%", "dense", 2, 9);
}

static struct attention_counts counted(struct scene *s, struct sparse_attention *sparse, int layer)
{
    static const struct attention_counts zero;
    struct attention_counts counts, *on_device = backend->alloc(dev, sizeof zero);
    s->att.counts = on_device;
    attend_layer(s, sparse, layer);
    s->att.counts = NULL;
    backend->download(dev, &counts, on_device, sizeof counts);
    backend->release(dev, on_device);
    return counts;
}

static int n_updates[3]; /* by layer */

static void count_update(struct device *device, struct key_index *index,
                         const struct attention *att)
{
    (void)device;
    (void)index;
    n_updates[att->layer]++;
}

static void test_an_index_is_updated_only_where_its_layers_use_it(void **state)
{
    (void)state;
    struct scene *s = scene_open(1, 300, 7);
    struct backend counting = *backend;
    counting.index_update = count_update;
    struct stack stack = parsed("dense; layers 1: quest:5%,quest:1%; layers 2: sink:4,quest:1%");
    struct stack all = parsed("quest:5%");
    struct model_config config = {
        .n_layers = 3, .n_heads = N_HEADS, .n_kv_heads = N_KV_HEADS, .head_dim = HEAD_DIM};
    struct masker_model model = {.config = &config};
    struct error err = {0};
    struct stack_index index;
    assert_true(stack_index_open(&index, &stack, &counting, dev, &model, 300, &err));
    for (s->att.layer = 0; s->att.layer < 3; s->att.layer++)
        stack_index_update(&index, &s->att);
    assert_int_equal(n_updates[0], 0);
    assert_int_equal(n_updates[1], 2);
    assert_int_equal(n_updates[2], 1);
    stack_index_close(&index);
    assert_true(stack_index_bytes(&stack, backend, dev, &model, 300) ==
                3 * stack_index_bytes(&all, backend, dev, &model, 300)); /* room for all layers */
    scene_close(s);
}

static void test_dense_layers_count_and_are_probed_as_dense(void **state)
{
    (void)state;
    struct scene *s = scene_open(9, 300, 7);
    struct sparse_attention *sparse = open_method("sink:4,local:16; layers 0: dense", 2, 300);
    struct layer_probe got[2];
    struct attention_counts counts = counted(s, sparse, 0);
    assert_true(counts.selected == counts.visible && counts.visible > 0);
    assert_int_equal(counts.full, 0);
    counts = counted(s, sparse, 1);
    assert_true(counts.selected < counts.visible);
    sparse_attention_probe(sparse, true);
    attend_layer(s, sparse, 0);
    attend_layer(s, sparse, 1);
    sparse_attention_probe(sparse, false);
    sparse_attention_probe_result(sparse, got);
    assert_int_equal(got[0].n_rows, 9);
    assert_float_equal(got[0].recall_mean, 1, 1e-12);
    assert_float_equal(got[0].recall_worst, 1, 0);
    assert_float_equal(got[0].output_error, 0, 0);
    assert_int_equal(got[1].n_rows, 9);
    assert_true(got[1].recall_mean < 0.99 && got[1].output_error > 0);
    sparse_attention_close(sparse);
    scene_close(s);
}

static void expect_not_opened(const char *text, int n_layers, const struct backend *on,
                              const char *said)
{
    struct stack stack = parsed(text);
    struct model_config config = {
        .n_layers = n_layers, .n_heads = N_HEADS, .n_kv_heads = N_KV_HEADS, .head_dim = HEAD_DIM};
    struct masker_model model = {.config = &config};
    struct error err = {0};
    assert_null(sparse_attention_open(&stack, on, dev, &model, 100, &err));
    if (!strstr(err.text, said))
        fail_msg("%s: got \"%s\", want \"%s\"", text, err.text, said);
}

static void test_a_layer_that_the_model_has_not_is_refused(void **state)
{
    (void)state;
    expect_not_opened("sink:4; layers 2-5: dense", 5, backend,
                      "the stack names layer 5, but this model has 5 layers, 0 to 4");
    expect_not_opened("dense; layers 5: dense", 5, backend, "this model has 5 layers");
}

static void test_one_call_alone_has_no_layers(void **state)
{
    (void)state;
    struct scene *s = scene_open(1, 300, 7);
    struct stack stack = parsed("sink:4; layers 0: dense");
    struct error err = {0};
    assert_false(sparse_attention_once(&stack, backend, dev, s->sel, &s->att, &err));
    assert_string_equal(err.text, "this is one attention call and not a model's layer; give it a "
                                  "stack without groups of layers");
    scene_close(s);
}

/* --- Selections taken over ------------------------------------------------------------------ */

static void negate_queries(struct scene *s)
{
    size_t n = (size_t)s->in.n_rows * N_HEADS * HEAD_DIM;
    for (size_t i = 0; i < n; i++)
        s->in.q[i] *= -1;
    backend->upload(dev, (float *)(uintptr_t)s->att.q, s->in.q, n * sizeof *s->in.q);
}

/* The output of attending, with the queries as they are now, to what `o` selected. */
static float *attended_to(struct scene *s, struct outcome *o)
{
    backend->selection_begin(dev, s->sel, &s->att);
    for (int h = 0; h < N_HEADS; h++)
        backend->selection_put(dev, s->sel, 0, h, o->keys[0][h], o->prob[0][h], o->n[0][h]);
    backend->selection_end(dev, s->sel, &s->att);
    backend->attend_selected(dev, &s->att, s->sel);
    return download_out(s);
}

static const char *const sources[] = {
    "sink:4,local:16",
    "oracle-topk:5%",
    "sink:4,local:16,oracle-topk:7%:share=group",
    "sink:4,oracle-topk:3%,random:0.1",
    "local:16,quest:40:page_size=8",
};

/* Layer 3 has other queries than layer 1, whose keys it takes over by way of layer 2. */
static void test_a_layer_attends_to_what_an_earlier_one_chose(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++) {
        char text[200];
        snprintf(text, sizeof text, "dense; layers 1: %s; layers 2: reuse:1; layers 3-5: reuse:2",
                 sources[i]);
        struct scene *s = scene_open(1, 300, 7);
        s->att.layer = 1;
        struct stack source = parsed(sources[i]);
        struct outcome *chosen = run(s, &source);
        struct sparse_attention *sparse = open_method(text, LAYERS, 300);
        attend_layer(s, sparse, 0);
        attend_layer(s, sparse, 1);
        attend_layer(s, sparse, 2);
        float *got = download_out(s);
        expect_same_out(text, got, chosen->out, 1);
        free(got);
        negate_queries(s);
        for (int layer = 3; layer < LAYERS; layer++) {
            attend_layer(s, sparse, layer);
            got = download_out(s);
            float *want = attended_to(s, chosen);
            expect_same_out(text, got, want, 1);
            free(want);
            free(got);
        }
        sparse_attention_close(sparse);
        outcome_free(chosen);
        scene_close(s);
    }
}

/* What is taken over is the present step's, not an earlier one's. */
static void test_what_is_taken_over_follows_every_step(void **state)
{
    (void)state;
    struct scene *s = scene_open(1, 300, 7);
    struct stack source = parsed("oracle-topk:5%");
    struct sparse_attention *sparse = open_method("oracle-topk:5%; layers 1: reuse:0", LAYERS, 300);
    for (int step = 0; step < 3; step++) {
        negate_queries(s);
        s->att.layer = 0;
        struct outcome *chosen = run(s, &source);
        attend_layer(s, sparse, 0);
        attend_layer(s, sparse, 1);
        float *got = download_out(s);
        expect_same_out("reuse:0", got, chosen->out, 1);
        free(got);
        outcome_free(chosen);
    }
    sparse_attention_close(sparse);
    scene_close(s);
}

static void test_maskers_add_to_what_is_taken_over(void **state)
{
    (void)state;
    struct scene *s = scene_open(1, 300, 7);
    s->att.layer = 1;
    struct stack both = parsed("oracle-topk:5%,sink:4,local:16");
    struct outcome *want = run(s, &both);
    struct sparse_attention *sparse =
        open_method("oracle-topk:5%; layers 1: sink:4,local:16,reuse:0; "
                    "layers 2: reuse:0,sink:4,local:16",
                    LAYERS, 300);
    for (int layer = 0; layer < 3; layer++) {
        attend_layer(s, sparse, layer);
        float *got = download_out(s);
        if (layer > 0)
            expect_same_out("reuse beside others", got, want->out, 1);
        free(got);
    }
    sparse_attention_close(sparse);
    outcome_free(want);
    scene_close(s);
}

/* Whether the rows are one piece or many. */
static void test_calls_of_several_rows_are_dense_where_they_take_over(void **state)
{
    (void)state;
    for (int max_keys = 300; max_keys <= 40000; max_keys += 39700) {
        struct scene *s = scene_open(40, 300, 7);
        float *want = dense_out(s);
        struct sparse_attention *sparse =
            open_method("oracle-topk:5%; layers 1: reuse:0", LAYERS, max_keys);
        attend_layer(s, sparse, 0);
        struct attention_counts counts = counted(s, sparse, 1);
        float *got = download_out(s);
        assert_memory_equal(got, want, (size_t)(40 * N_HEADS * HEAD_DIM) * sizeof *got);
        assert_true(counts.selected == counts.visible);
        free(got);
        free(want);
        sparse_attention_close(sparse);
        scene_close(s);
    }
}

static void test_a_kept_selection_is_probed_and_its_memory_counted(void **state)
{
    (void)state;
    struct scene *s = scene_open(1, 300, 7);
    struct sparse_attention *sparse = open_method("oracle-topk:5%; layers 1: reuse:0", 2, 300);
    struct layer_probe got[2];
    sparse_attention_probe(sparse, true);
    attend_layer(s, sparse, 0);
    attend_layer(s, sparse, 1);
    sparse_attention_probe_result(sparse, got);
    assert_true(got[0].recall_mean > 0.1 && got[0].recall_mean < 0.99);
    assert_float_equal(got[1].recall_mean, got[0].recall_mean, 1e-6);
    assert_int_equal(got[1].n_rows, 1);
    sparse_attention_close(sparse);
    struct model_config config = {
        .n_layers = 4, .n_heads = N_HEADS, .n_kv_heads = N_KV_HEADS, .head_dim = HEAD_DIM};
    struct masker_model model = {.config = &config};
    uint64_t bytes[3];
    static const char *const stacks[] = {"oracle-topk:5%", "oracle-topk:5%; layers 1,3: reuse:0",
                                         "oracle-topk:5%; layers 1,3: reuse:0; layers 2: reuse:1"};
    for (int i = 0; i < 3; i++) {
        struct stack stack = parsed(stacks[i]);
        bytes[i] = sparse_attention_bytes(&stack, backend, dev, &model, 300);
    }
    assert_true(bytes[1] > bytes[0]);
    assert_true(bytes[2] - bytes[1] == bytes[1] - bytes[0]); /* one row's each */
    scene_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_layer_attends_as_its_own_stack),
        cmocka_unit_test(test_a_dense_stack_may_have_a_sparse_layer),
        cmocka_unit_test(test_an_index_is_updated_only_where_its_layers_use_it),
        cmocka_unit_test(test_dense_layers_count_and_are_probed_as_dense),
        cmocka_unit_test(test_a_layer_that_the_model_has_not_is_refused),
        cmocka_unit_test(test_one_call_alone_has_no_layers),
        cmocka_unit_test(test_a_layer_attends_to_what_an_earlier_one_chose),
        cmocka_unit_test(test_what_is_taken_over_follows_every_step),
        cmocka_unit_test(test_maskers_add_to_what_is_taken_over),
        cmocka_unit_test(test_calls_of_several_rows_are_dense_where_they_take_over),
        cmocka_unit_test(test_a_kept_selection_is_probed_and_its_memory_counted),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
