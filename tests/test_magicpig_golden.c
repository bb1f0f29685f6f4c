/* MagicPIG against the reference project: which keys collide, with which probability, and the
 * weighted output.  The reference scales keys by the longest of all heads and entries (deviation
 * D25), so that length is given; it also marks keys that a row cannot see, which are left out. */
#include "engine/attention/sparse_attention.h"

#include "tests/golden_decode.h"
#include "tests/golden_index.h"

#define PROB_TOLERANCE 2e-5 /* relative: the reference's angles are of f32 products */

struct pig_call {
    struct checker *c;
    const struct safetensors *file;
    const char *key; /* of the run */
    const struct attention_input *in;
    struct stack stack;
    struct key_index *index;
    int b;
};

/* The longest of all keys [n_keys], less their head's mean where keys are centred. */
static float longest_key(const struct attention_input *in, int n_keys, bool centred)
{
    size_t dim = (size_t)in->head_dim, n_heads = (size_t)(in->n_batch * in->n_kv_heads);
    double longest = 0, *mean = xcalloc(dim, sizeof *mean);
    for (size_t head = 0; head < n_heads; head++) {
        const float *k = in->k + head * (size_t)in->n_keys * dim;
        memset(mean, 0, dim * sizeof *mean);
        for (size_t i = 0; centred && i < (size_t)n_keys * dim; i++)
            mean[i % dim] += (double)k[i] / n_keys;
        for (size_t key = 0; key < (size_t)n_keys; key++) {
            double sum = 0;
            for (size_t d = 0; d < dim; d++)
                sum += ((double)k[key * dim + d] - mean[d]) * ((double)k[key * dim + d] - mean[d]);
            longest = fmax(longest, sqrt(sum));
        }
    }
    free(mean);
    return (float)longest;
}

/* The stack's last masker's index, with recorded projections. */
static struct key_index *open_tables(struct checker *c, const struct stack *stack,
                                     const struct attention_input *in, int n_keys,
                                     const float *projections)
{
    const struct stack_item *item = &stack->items[stack->n - 1];
    const struct model_config model = {.n_layers = 1,
                                       .n_heads = in->n_heads,
                                       .n_kv_heads = in->n_kv_heads,
                                       .head_dim = in->head_dim};
    struct masker_model of = {.config = &model, .kv_dtype = DTYPE_F32};
    struct key_index_config config = {.n_layers = 1,
                                      .n_heads = in->n_heads,
                                      .n_kv_heads = in->n_kv_heads,
                                      .head_dim = in->head_dim,
                                      .max_keys = in->n_keys,
                                      .kv_dtype = DTYPE_F32};
    struct error err = {0};
    char why[256] = "";
    assert_string_equal(item->masker->name, "magicpig");
    if (!item->masker->index(&item->values, &of, &config, NULL, &err))
        fail_msg("%s", err.text);
    float norm[64];
    for (int i = 0; i < in->n_kv_heads; i++)
        norm[i] = longest_key(in, n_keys, config.tables.center != CENTER_NONE);
    config.tables.projections = projections;
    config.tables.norm = norm;
    struct key_index *index = c->backend->index_open(c->dev, &config, why, sizeof why);
    if (!index)
        fail_msg("%s", why);
    return index;
}

/* --- Comparing ------------------------------------------------------------------------------- */

/* out [D] of a row: weights 1 / (p + more) over visible keys, in double. */
static void weighted_out(const struct compared_row *r, const float *p, double more, double *out)
{
    const struct attention_input *in = r->in;
    size_t dim = (size_t)in->head_dim, kv = (size_t)(r->head / (in->n_heads / in->n_kv_heads));
    const float *v =
        in->v + ((size_t)r->b * (size_t)in->n_kv_heads + kv) * (size_t)in->n_keys * dim;
    double sum = 0;
    memset(out, 0, dim * sizeof *out);
    for (int key = 0; key < in->n_keys; key++) {
        if (!(p[key] > 0) || !is_visible(r, key))
            continue;
        double z = golden_score(in, r->b, r->head, r->i, key) / sqrt((double)dim);
        double w = exp(z) / ((double)p[key] + more);
        sum += w;
        for (size_t d = 0; d < dim; d++)
            out[d] += w * v[(size_t)key * dim + d];
    }
    for (size_t d = 0; d < dim; d++)
        out[d] /= sum;
}

static void expect_near(const struct compared_row *r, const float *got, const double *want,
                        double tolerance, const char *what)
{
    for (int d = 0; d < r->in->head_dim; d++)
        if (!(fabs((double)got[d] - want[d]) <= tolerance * (1 + fabs(want[d]))))
            fail_msg("%s row %d,%d,%d: %s %d: got %.8g, want %.8g", r->key, r->b, r->head, r->i,
                     what, d, (double)got[d], want[d]);
}

/* ours and theirs [n_keys]: probabilities by key. */
static void compare_probs(const struct compared_row *r, const float *ours, const float *theirs)
{
    for (int key = 0; key < r->in->n_keys; key++) {
        if (!is_visible(r, key))
            continue;
        double got = (double)ours[key], want = (double)theirs[key];
        if (!(fabs(got - want) <= PROB_TOLERANCE * want))
            fail_msg("%s row %d,%d,%d: key %d: got p %.8g, want %.8g", r->key, r->b, r->head, r->i,
                     key, got, want);
    }
}

static void compare_call(const struct pig_call *call, const struct selection *sel, const float *out)
{
    const struct attention_input *in = call->in;
    struct checker *c = call->c;
    struct golden_mask theirs = golden_mask_read(call->file, call->key);
    float *reference_out = golden_f32(call->file, call->key, "out");
    size_t n_keys = (size_t)in->n_keys, dim = (size_t)in->head_dim;
    int32_t *keys = xcalloc(n_keys, sizeof *keys);
    float *prob = xcalloc(3 * n_keys, sizeof *prob), *ours = prob + n_keys, *want = ours + n_keys;
    double *row_out = xcalloc(dim, sizeof *row_out);
    for (int head = 0; head < in->n_heads; head++)
        for (int i = 0; i < in->n_rows; i++) {
            struct compared_row r = {call->key, call->b, head, i, in};
            int n = c->backend->selection_get(c->dev, sel, i, head, keys, prob), n_visible = 0;
            memset(ours, 0, 2 * n_keys * sizeof *ours);
            for (int j = 0; j < n; j++)
                ours[keys[j]] = prob[j];
            for (int64_t j = theirs.ptr[row_index(&r)]; j < theirs.ptr[row_index(&r) + 1]; j++) {
                want[theirs.col[j]] = theirs.val ? theirs.val[j] : 1.0f;
                n_visible += is_visible(&r, (int)theirs.col[j]);
            }
            compare_probs(&r, ours, want);
            c->n_rows++;
            if (!n_visible)
                continue; /* ours attends to the row's own key */
            size_t at = (((size_t)call->b * (size_t)in->n_rows + (size_t)i) * (size_t)in->n_heads +
                         (size_t)head) *
                        dim;
            size_t at_ours = ((size_t)i * (size_t)in->n_heads + (size_t)head) * dim;
            weighted_out(&r, want, 1e-6, row_out);
            expect_near(&r, reference_out + at, row_out, 1e-5, "the reference's output");
            weighted_out(&r, want, 0, row_out);
            expect_near(&r, out + at_ours, row_out, 5e-5, "output");
        }
    free(row_out);
    free(prob);
    free(keys);
    free(reference_out);
    golden_mask_free(&theirs);
}

static void check_call(const struct pig_call *call)
{
    struct checker *c = call->c;
    struct attention_stage stage = open_stage(c, call->in);
    struct selection *sel = open_selection(c, call->in);
    struct attention att = attention_stage_call(&stage, call->b);
    size_t n = n_outputs(call->in) / (size_t)call->in->n_batch;
    float *out = xcalloc(n, sizeof *out);
    c->backend->index_update(c->dev, call->index, &att);
    c->backend->selection_begin(c->dev, sel, &att);
    for (int i = 0; i < call->stack.n; i++) {
        const struct stack_item *item = &call->stack.items[i];
        struct masker_call masker = {.backend = c->backend,
                                     .dev = c->dev,
                                     .selection = sel,
                                     .att = &att,
                                     .index = call->index,
                                     .slot = i};
        item->masker->select(&masker, &item->values);
    }
    c->backend->selection_end(c->dev, sel, &att);
    c->backend->attend_selected(c->dev, &att, sel);
    c->backend->download(c->dev, out, att.out, n * sizeof *out);
    compare_call(call, sel, out);
    free(out);
    c->backend->selection_close(c->dev, sel);
    attention_stage_close(&stage);
}

/* --- The section ------------------------------------------------------------------------------ */

static void test_collisions_equal_the_reference(void **state)
{
    struct checker *c = *state;
    if (!index_is_there(c, INDEX_TABLES))
        skip();
    struct safetensors *file = golden_open(GOLDEN "magicpig.safetensors");
    const struct json *runs = json_get(golden_section(c->manifest, "magicpig"), "runs");
    c->n_runs = c->n_rows = 0;
    for (const struct json *run = json_first(runs); run; run = json_next(run)) {
        struct pig_call call = {.c = c, .file = file, .key = json_string(json_get(run, "key"))};
        float *projections = golden_f32(file, call.key, "projections");
        struct attention_input in = golden_input(json_string(json_get(run, "case")));
        call.in = &in;
        call.stack = parsed(c, run);
        assert_non_null(projections);
        for (call.b = 0; call.b < in.n_batch; call.b++) {
            call.index = open_tables(c, &call.stack, &in, in.n_keys, projections);
            check_call(&call);
            c->backend->index_close(c->dev, call.index);
        }
        c->n_runs++;
        free(projections);
        attention_input_free(&in);
    }
    safetensors_close(file);
    print_message("magicpig: %d runs, %d rows\n", c->n_runs, c->n_rows);
    assert_int_equal(c->n_runs, 25);
}

/* Mean and length are those of the first step's keys. */
static void test_a_decode_equals_the_reference(void **state)
{
    struct checker *c = *state;
    if (!index_is_there(c, INDEX_TABLES))
        skip();
    struct decode_data data = decode_data_open();
    float *projections = golden_f32(data.file, "magicpig", "projections");
    struct pig_call call = {.c = c, .file = data.file};
    call.stack = parsed(c, decode_run(c, "magicpig/step0"));
    call.index = open_tables(c, &call.stack, &data.whole, FIRST_KEYS, projections);
    c->n_rows = 0;
    for (int step = 0; step < DECODE_STEPS; step++) {
        char key[32];
        snprintf(key, sizeof key, "magicpig/step%d", step);
        struct attention_input in = decode_input(&data, step);
        call.key = key;
        call.in = &in;
        check_call(&call);
        attention_input_free(&in);
    }
    assert_int_equal(c->n_rows, (5 + 3) * data.whole.n_heads);
    c->backend->index_close(c->dev, call.index);
    free(projections);
    decode_data_close(&data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_collisions_equal_the_reference),
        cmocka_unit_test(test_a_decode_equals_the_reference),
    };
    if (!test_backend_opens())
        return TEST_SKIPPED;
    return cmocka_run_group_tests(tests, setup, teardown);
}
