/* Selections made by hand against the reference project's: attention with weights, draws that it
 * recorded, and its operations on masks (tests/golden/README.md). */
#include "tests/golden_checker.h"

#include "engine/attention/reference_mask.h"

/* --- Hand-made selections ------------------------------------------------------------------- */

struct hand_made {
    struct checker *c;
    struct attention_input in;
    struct attention_stage stage;
    struct selection *sel;
    int32_t *keys;
    float *prob, *out;
};

static struct hand_made hand_made_open(struct checker *c, const char *name)
{
    struct hand_made h = {.c = c, .in = golden_input(name)};
    return h;
}

static void hand_made_start(struct hand_made *h)
{
    struct error err = {0};
    if (!attention_stage_open(&h->stage, &h->in, h->c->backend, h->c->dev, 1, &err))
        fail_msg("%s", err.text);
    h->sel = h->c->backend->selection_open(h->c->dev, h->in.n_rows, h->in.n_heads, h->in.n_kv_heads,
                                           h->in.n_keys);
    assert_non_null(h->sel);
    h->keys = xcalloc((size_t)h->in.n_keys, sizeof *h->keys);
    h->prob = xcalloc((size_t)h->in.n_keys, sizeof *h->prob);
    h->out = xcalloc(n_outputs(&h->in), sizeof *h->out);
}

static void hand_made_close(struct hand_made *h)
{
    h->c->backend->selection_close(h->c->dev, h->sel);
    attention_stage_close(&h->stage);
    attention_input_free(&h->in);
    free(h->keys);
    free(h->prob);
    free(h->out);
}

/* Attends with weights [B, H, Q, K] put by hand; sink logits on the device or NULL. */
static void hand_made_attend(struct hand_made *h, const float *weights, const float *sinks)
{
    const struct backend *be = h->c->backend;
    const struct attention_input *in = &h->in;
    size_t n_call = n_outputs(in) / (size_t)in->n_batch;
    for (int b = 0; b < in->n_batch; b++) {
        struct attention att = attention_stage_call(&h->stage, b);
        att.sink_logits = sinks;
        be->selection_begin(h->c->dev, h->sel, &att);
        for (int i = 0; i < in->n_rows; i++)
            for (int head = 0; head < in->n_heads; head++) {
                struct compared_row r = {"", b, head, i, in};
                const float *w = weights + (((size_t)b * (size_t)in->n_heads + (size_t)head) *
                                                (size_t)in->n_rows +
                                            (size_t)i) *
                                               (size_t)in->n_keys;
                int n = 0;
                for (int key = 0; key < in->n_keys; key++) {
                    if (w[key] == 0 || !is_visible(&r, key))
                        continue;
                    h->keys[n] = key;
                    h->prob[n++] = reference_mask_prob(w[key]);
                }
                be->selection_put(h->c->dev, h->sel, i, head, h->keys, h->prob, n);
            }
        be->selection_end(h->c->dev, h->sel, &att);
        be->attend_selected(h->c->dev, &att, h->sel);
        be->download(h->c->dev, h->out + (size_t)b * n_call, att.out, n_call * sizeof(float));
    }
}

static void test_weighted_attention_equals_the_reference(void **state)
{
    struct checker *c = *state;
    struct safetensors *file = golden_open(GOLDEN "attention.safetensors");
    const struct json *runs = json_get(golden_section(c->manifest, "attention"), "runs");
    int n = 0;
    for (const struct json *run = json_first(runs); run; run = json_next(run), n++) {
        const char *name = json_string(json_get(run, "case"));
        struct hand_made h = hand_made_open(c, name);
        hand_made_start(&h);
        float *weights = golden_f32(file, name, "weights"), *want = golden_f32(file, name, "out");
        hand_made_attend(&h, weights, NULL);
        compare_out(name, h.out, want, n_outputs(&h.in));
        free(want);

        float *sinks = golden_f32(file, name, "sinks");
        want = golden_f32(file, name, "out_with_sinks");
        float *on_device = c->backend->alloc(c->dev, (size_t)h.in.n_heads * sizeof *sinks);
        c->backend->upload(c->dev, on_device, sinks, (size_t)h.in.n_heads * sizeof *sinks);
        hand_made_attend(&h, weights, on_device);
        compare_out(name, h.out, want, n_outputs(&h.in));
        c->backend->release(c->dev, on_device);
        free(want);
        free(sinks);
        free(weights);
        hand_made_close(&h);
    }
    assert_int_equal(n, 5);
    safetensors_close(file);
}

/* The reference draws with replacement and ours without, so that its draws are put by hand. */
static void check_recorded_draws(struct checker *c, const char *section, int n_runs)
{
    char path[512];
    snprintf(path, sizeof path, GOLDEN "%s.safetensors", section);
    struct safetensors *file = golden_open(path);
    const struct json *runs = json_get(golden_section(c->manifest, section), "runs");
    int n = 0;
    for (const struct json *run = json_first(runs); run; run = json_next(run), n++) {
        const char *key = json_string(json_get(run, "key"));
        struct hand_made h = hand_made_open(c, json_string(json_get(run, "case")));
        hand_made_start(&h);
        size_t n_rows = n_outputs(&h.in) / (size_t)h.in.head_dim, n_keys = (size_t)h.in.n_keys;
        float *weights = xcalloc(n_rows * n_keys, sizeof *weights);
        struct golden_mask m = golden_mask_read(file, key);
        for (size_t row = 0; row < n_rows; row++)
            for (int64_t at = m.ptr[row]; at < m.ptr[row + 1]; at++)
                weights[row * n_keys + (size_t)m.col[at]] = m.val ? m.val[at] : 1;
        hand_made_attend(&h, weights, NULL);
        float *want = golden_f32(file, key, "out");
        compare_out(key, h.out, want, n_outputs(&h.in));
        free(want);
        free(weights);
        golden_mask_free(&m);
        hand_made_close(&h);
    }
    assert_int_equal(n, n_runs);
    safetensors_close(file);
}

static void test_random_sampling_from_recorded_draws_equals_the_reference(void **state)
{
    check_recorded_draws(*state, "random_sampling", 20);
}

static void test_adaptive_sampling_from_recorded_draws_equals_the_reference(void **state)
{
    check_recorded_draws(*state, "adaptive", 25);
}

/* --- Mask operations ------------------------------------------------------------------------ */

enum { OPS_ROWS = 2 * 3 * 4, OPS_KEYS = 20, OPS_DIM = 16 };

/* One query of zeros over keys whose values are x: what comes out is the weighted mean of x. */
static struct attention_input uniform_input(const float *x)
{
    struct attention_input in = {1, 1, 1, 1, OPS_KEYS, OPS_DIM, NULL, NULL, NULL, NULL};
    in.q = xcalloc(OPS_DIM, sizeof *in.q);
    in.k = xcalloc(OPS_KEYS * OPS_DIM, sizeof *in.k);
    in.v = xcalloc(OPS_KEYS * OPS_DIM, sizeof *in.v);
    in.first_key = xcalloc(1, sizeof *in.first_key);
    for (int j = 0; j < OPS_KEYS; j++)
        in.v[j * OPS_DIM] = x[j];
    return in;
}

static void check_inverse(struct checker *c, const float *a, const float *x, const float *inverse,
                          int row)
{
    struct hand_made h = {.c = c, .in = uniform_input(x)};
    hand_made_start(&h);
    hand_made_attend(&h, a, NULL);
    double num = 0, den = 0;
    int n = 0;
    for (int j = 0; j < OPS_KEYS; j++) {
        num += inverse[j];
        den += a[j] > 0 ? 1 / ((double)a[j] + 1e-6) : 0;
        n += a[j] > 0;
    }
    if (n && fabs(h.out[0] - num / den) > OUTPUT_TOLERANCE * (1 + fabs(num / den)))
        fail_msg("row %d: got %.8g, want %.8g", row, h.out[0], num / den);
    hand_made_close(&h);
}

/* A sink of 4 put over the mask a: merge(sink, a) = min(1, sink + a). */
static void check_union(struct checker *c, const float *a, int row)
{
    const struct backend *be = c->backend;
    float x[OPS_KEYS] = {0}, prob[OPS_KEYS];
    int32_t keys[OPS_KEYS];
    struct hand_made h = {.c = c, .in = uniform_input(x)};
    hand_made_start(&h);
    for (int sink_first = 0; sink_first < 2; sink_first++) {
        struct attention att = attention_stage_call(&h.stage, 0);
        int n = 0;
        be->selection_begin(c->dev, h.sel, &att);
        if (sink_first)
            be->select_sink(c->dev, h.sel, &att, (struct budget){false, 4});
        for (int j = 0; j < OPS_KEYS; j++)
            if (a[j] > 0) {
                keys[n] = j;
                prob[n++] = a[j];
            }
        be->selection_put(c->dev, h.sel, 0, 0, keys, prob, n);
        if (!sink_first)
            be->select_sink(c->dev, h.sel, &att, (struct budget){false, 4});
        be->selection_end(c->dev, h.sel, &att);
        n = be->selection_get(c->dev, h.sel, 0, 0, keys, prob);
        int at = 0;
        for (int j = 0; j < OPS_KEYS; j++) {
            float want = fminf(1, a[j] + (j < 4));
            float got = at < n && keys[at] == j ? prob[at++] : 0;
            if (got != want)
                fail_msg("row %d, key %d: got %g, want %g", row, j, got, want);
        }
        assert_int_equal(at, n);
    }
    hand_made_close(&h);
}

static void test_mask_operations_equal_the_reference(void **state)
{
    struct checker *c = *state;
    struct safetensors *file = golden_open(GOLDEN "mask_ops.safetensors");
    float *a = golden_f32(file, "", "a"), *x = golden_f32(file, "", "x");
    float *inverse = golden_f32(file, "", "apply_inv_a");
    for (int row = 0; row < OPS_ROWS; row++) {
        check_inverse(c, a + row * OPS_KEYS, x + row * OPS_KEYS, inverse + row * OPS_KEYS, row);
        check_union(c, a + row * OPS_KEYS, row);
    }
    free(a);
    free(x);
    free(inverse);
    safetensors_close(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mask_operations_equal_the_reference),
        cmocka_unit_test(test_weighted_attention_equals_the_reference),
        cmocka_unit_test(test_random_sampling_from_recorded_draws_equals_the_reference),
        cmocka_unit_test(test_adaptive_sampling_from_recorded_draws_equals_the_reference),
    };
    if (!test_backend_opens())
        return TEST_SKIPPED;
    return cmocka_run_group_tests(tests, setup, teardown);
}
