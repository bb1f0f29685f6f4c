/* A decode with one index, step by step, against the reference project's. */
#include "engine/attention/sparse_attention.h"

#include "tests/golden_decode.h"
#include "tests/golden_index.h"

struct decode {
    struct checker *c;
    struct decode_data data;
    struct stack stack;
    struct stack_index index;
};

static void decode_open(struct decode *d, struct checker *c)
{
    *d = (struct decode){.c = c, .data = decode_data_open()};
    take_networks(c, d->data.file, "hash");
    d->stack = parsed(c, decode_run(c, "hash/step0"));
    c->masker_file[0] = 0;
    d->index = open_index(c, &d->stack, &d->data.whole);
}

static void decode_close(struct decode *d)
{
    stack_index_close(&d->index);
    decode_data_close(&d->data);
}

/* One linear of the queries' network of one head, in double: x [n_in] becomes x W + b [n_out]. */
static void network_linear(const struct decode *d, int linear, int head, double *x)
{
    char name[64];
    snprintf(name, sizeof name, "w/query_matrix%d", linear);
    const struct safetensor *t = golden_find(d->data.file, "hash", name);
    float *w = golden_f32(d->data.file, "hash", name);
    snprintf(name, sizeof name, "w/query_bias%d", linear);
    float *b = golden_f32(d->data.file, "hash", name);
    size_t n_in = (size_t)t->shape[1], n_out = (size_t)t->shape[2];
    double y[HASH_MAX_WIDTH];
    for (size_t o = 0; o < n_out; o++) {
        y[o] = (double)b[(size_t)head * n_out + o];
        for (size_t i = 0; i < n_in; i++)
            y[o] += x[i] * (double)w[((size_t)head * n_in + i) * n_out + o];
    }
    memcpy(x, y, n_out * sizeof *x);
    free(w);
    free(b);
}

/* Scores [H, Q, K] of a step, to tell ties by: the reference's key signatures, and the queries' by
 * its networks of two linears with silu between them. */
static double *decode_scores(const struct decode *d, const struct attention_input *in)
{
    enum { BITS = 16, HIDDEN = 24 };
    size_t n_keys = (size_t)in->n_keys, n_all = (size_t)d->data.whole.n_keys;
    int64_t *sig = golden_ints(d->data.file, "hash/step3", "key_sig"); /* [H, n_all, BITS] */
    double *scores = xcalloc((size_t)in->n_heads * (size_t)in->n_rows * n_keys, sizeof *scores),
           *to = scores;
    for (int head = 0; head < in->n_heads; head++)
        for (int i = 0; i < in->n_rows; i++) {
            double x[HASH_MAX_WIDTH];
            const float *q =
                in->q + ((size_t)i * (size_t)in->n_heads + (size_t)head) * (size_t)in->head_dim;
            for (int j = 0; j < in->head_dim; j++)
                x[j] = (double)q[j];
            network_linear(d, 0, head, x);
            for (int j = 0; j < HIDDEN; j++)
                x[j] = x[j] / (1 + exp(-x[j]));
            network_linear(d, 1, head, x);
            for (size_t key = 0; key < n_keys; key++, to++)
                for (size_t bit = 0; bit < BITS; bit++)
                    *to += (x[bit] > 0 ? 1.0 : -1.0) *
                           (double)sig[((size_t)head * n_all + key) * BITS + bit];
        }
    free(sig);
    return scores;
}

/* What was selected, as a mask; rows in (h, i) order. */
static struct golden_mask selected(const struct checker *c, const struct selection *sel,
                                   const struct attention_input *in)
{
    size_t n_rows = (size_t)in->n_heads * (size_t)in->n_rows, at = 0;
    struct golden_mask m = {xcalloc(n_rows + 1, sizeof *m.ptr),
                            xcalloc(n_rows * (size_t)in->n_keys, sizeof *m.col), NULL};
    int32_t *keys = xcalloc((size_t)in->n_keys, sizeof *keys);
    float *prob = xcalloc((size_t)in->n_keys, sizeof *prob);
    for (int head = 0; head < in->n_heads; head++)
        for (int i = 0; i < in->n_rows; i++) {
            int n = c->backend->selection_get(c->dev, sel, i, head, keys, prob);
            assert_true(n >= 0);
            int64_t first = m.ptr[at++];
            for (int j = 0; j < n; j++)
                m.col[first + j] = keys[j];
            m.ptr[at] = first + n;
        }
    free(keys);
    free(prob);
    return m;
}

static void check_decode_step(struct decode *d, int step)
{
    struct checker *c = d->c;
    char key[32];
    snprintf(key, sizeof key, "hash/step%d", step);
    struct attention_input in = decode_input(&d->data, step);
    struct attention_stage stage = open_stage(c, &in);
    struct selection *sel = open_selection(c, &in);
    struct attention att = attention_stage_call(&stage, 0);
    stack_index_update(&d->index, &att);
    sparse_attention_select(&d->stack, &d->index, sel, &att);
    c->backend->attend_selected(c->dev, &att, sel);

    struct golden_mask ours = selected(c, sel, &in), theirs = golden_mask_read(d->data.file, key);
    float *out = xcalloc(n_outputs(&in), sizeof *out), *want = golden_f32(d->data.file, key, "out");
    c->backend->download(c->dev, out, att.out, n_outputs(&in) * sizeof *out);
    c->tied = xcalloc(n_outputs(&in), 1);
    c->scores = decode_scores(d, &in);
    compare_masks(c, key, &in, &ours, &theirs, false);
    expect_tied_rows(c, &in, &ours, want);
    compare_out(key, out, want, n_outputs(&in));
    free(c->tied);
    free(c->scores);
    c->scores = NULL;
    free(out);
    free(want);
    golden_mask_free(&ours);
    golden_mask_free(&theirs);
    c->backend->selection_close(c->dev, sel);
    attention_stage_close(&stage);
    attention_input_free(&in);
}

static void test_hash_decodes_as_the_reference(void **state)
{
    struct checker *c = *state;
    struct decode d;
    decode_open(&d, c);
    c->n_rows = c->n_ties = 0;
    for (int step = 0; step < DECODE_STEPS; step++)
        check_decode_step(&d, step);
    print_message("decode: %d rows, %d with ties\n", c->n_rows, c->n_ties);
    assert_int_equal(c->n_rows, (5 + 3) * d.data.whole.n_heads);
    decode_close(&d);
}

/* The reference recorded what it keeps after the first step and after the last. */
static void test_signatures_kept_in_a_decode_equal_the_reference(void **state)
{
    if (!test_backend_is_cpu())
        skip();
    struct decode d;
    int n_recorded = 0;
    decode_open(&d, *state);
    for (int step = 0; step < DECODE_STEPS; step++) {
        char key[32];
        snprintf(key, sizeof key, "hash/step%d", step);
        struct attention_input in = decode_input(&d.data, step);
        struct attention_stage stage = open_stage(d.c, &in);
        struct attention att = attention_stage_call(&stage, 0);
        stack_index_update(&d.index, &att);
        if (golden_find(d.data.file, key, "key_sig")) {
            check_signatures(d.data.file, key,
                             &(struct indexed_call){.in = &in, .index = d.index.slot[2]});
            n_recorded++;
        }
        attention_stage_close(&stage);
        attention_input_free(&in);
    }
    assert_int_equal(n_recorded, 2);
    decode_close(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hash_decodes_as_the_reference),
        cmocka_unit_test(test_signatures_kept_in_a_decode_equal_the_reference),
    };
    if (!test_backend_opens())
        return TEST_SKIPPED;
    return cmocka_run_group_tests(tests, setup, teardown);
}
