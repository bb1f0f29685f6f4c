/* PQCache against the reference project: what is chosen by its centroids and its codes.
 *
 * The reference's codes are those from before its centroids' last move (deviation D17), so that
 * ours are put in their place; which of them are the nearest centroids' is checked on its own. */
#include "engine/attention/sparse_attention.h"

#include "kernels/cpu/index_codes.h"
#include "tests/golden_decode.h"
#include "tests/golden_index.h"

struct pq_call {
    struct checker *c;
    const struct safetensors *file;
    const char *key; /* of the run */
    const struct attention_input *in;
    struct stack stack;
    struct key_index *index;
    int b;
    int64_t *codes; /* [B, N, KV, S] the reference's, N = K - first_key */
    int n_known;    /* keys whose codes are the reference's already */
};

/* The stack's last masker's index, with recorded centroids of entry b. */
static struct key_index *open_codes(struct checker *c, const struct stack *stack,
                                    const struct attention_input *in, int b, const float *centroids,
                                    const float *phi)
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
    assert_string_equal(item->masker->name, "pq");
    if (!item->masker->index(&item->values, &of, &config, NULL, &err))
        fail_msg("%s", err.text);
    size_t n = (size_t)(in->n_kv_heads * config.codes.n_parts);
    config.codes.centroids =
        centroids + (size_t)b * n * (size_t)codes_n_centroids(&config) * (size_t)codes_dim(&config);
    config.codes.phi = phi ? phi + (size_t)b * n : NULL;
    struct key_index *index = c->backend->index_open(c->dev, &config, why, sizeof why);
    if (!index)
        fail_msg("%s", why);
    return index;
}

static int64_t reference_code(const struct pq_call *call, int kv_head, int part, int key)
{
    const struct key_codes *k = &call->index->config.codes;
    size_t n = (size_t)(call->in->n_keys - k->first_key);
    size_t at = ((size_t)call->b * n + (size_t)(key - k->first_key)) * (size_t)call->in->n_kv_heads;
    return call->codes[(at + (size_t)kv_head) * (size_t)k->n_parts + (size_t)part];
}

/* Squared distance of a key's part from a centroid, with the lifted coordinate. */
static double distance(const struct pq_call *call, int kv_head, int part, int key, int centroid)
{
    const struct key_index_config *c = &call->index->config;
    const struct attention_input *in = call->in;
    int part_dim = codes_part_dim(c), dim = codes_dim(c);
    const float *k =
        in->k +
        (((size_t)call->b * (size_t)in->n_kv_heads + (size_t)kv_head) * (size_t)in->n_keys +
         (size_t)key) *
            (size_t)in->head_dim +
        part * part_dim;
    size_t problem = codes_problem(call->index, 0, kv_head, part);
    const float *centroids = codes_centroids(call->index, problem);
    double sum = 0, squares = 0;
    for (int d = 0; d < dim; d++) {
        double x = 0, y = (double)centroids[(size_t)d * (size_t)codes_padded(c) + (size_t)centroid];
        if (d < part_dim)
            x = (double)k[d];
        else
            x = sqrt(fmax(0, (double)call->index->phi[problem] - squares));
        squares += x * x;
        sum += (x - y) * (x - y);
    }
    return sum;
}

static int own_code(const struct pq_call *call, int kv_head, int part, int key)
{
    const void *codes = codes_of(call->index, codes_problem(call->index, 0, kv_head, part));
    return codes_bytes_of(&call->index->config) == 1 ? ((const uint8_t *)codes)[key]
                                                     : ((const uint16_t *)codes)[key];
}

/* Ours are the nearest; then the reference's take their place. */
static void replace_codes(const struct pq_call *call)
{
    const struct key_index_config *c = &call->index->config;
    for (int kv_head = 0; kv_head < c->n_kv_heads; kv_head++)
        for (int part = 0; part < c->codes.n_parts; part++)
            for (int key = call->n_known > c->codes.first_key ? call->n_known : c->codes.first_key;
                 key < call->in->n_keys; key++) {
                int own = own_code(call, kv_head, part, key);
                double ours = distance(call, kv_head, part, key, own);
                for (int i = 0; i < codes_n_centroids(c); i++)
                    if (distance(call, kv_head, part, key, i) < ours * (1 - 1e-5) - 1e-6)
                        fail_msg("%s: head %d part %d key %d: centroid %d is nearer than %d",
                                 call->key, kv_head, part, key, i, own);
                uint16_t code = (uint16_t)reference_code(call, kv_head, part, key);
                void *to = codes_of(call->index, codes_problem(call->index, 0, kv_head, part));
                if (codes_bytes_of(c) == 1)
                    ((uint8_t *)to)[key] = (uint8_t)code;
                else
                    ((uint16_t *)to)[key] = code;
            }
}

/* KEY/scores [B, H, Q, N], of unscaled queries, to [B, H, Q, K] for telling ties. */
static double *spread_scores(const struct pq_call *call)
{
    const struct attention_input *in = call->in;
    size_t n_rows = (size_t)(in->n_batch * in->n_heads * in->n_rows), n_keys = (size_t)in->n_keys;
    size_t first = (size_t)call->index->config.codes.first_key;
    float *scores = golden_f32(call->file, call->key, "scores");
    double *to = xcalloc(n_rows * n_keys, sizeof *to);
    for (size_t row = 0; scores && row < n_rows; row++)
        for (size_t key = first; key < n_keys; key++)
            to[row * n_keys + key] = (double)scores[row * (n_keys - first) + key - first];
    free(scores);
    return to;
}

static void compare_scores(const struct pq_call *call, const struct selection *sel,
                           const double *scores)
{
    const struct attention_input *in = call->in;
    int first = call->index->config.codes.first_key;
    for (int head = 0; head < in->n_heads; head++)
        for (int i = 0; i < in->n_rows; i++) {
            struct compared_row r = {call->key, call->b, head, i, in};
            for (int key = first; key < in->n_keys; key++) {
                double got = (double)selection_scores(sel, i, head)[key] * sqrt(in->head_dim);
                double want = scores[row_index(&r) * (size_t)in->n_keys + (size_t)key];
                if (is_visible(&r, key) && !(fabs(got - want) <= 1e-5 * (1 + fabs(want))))
                    fail_msg("%s row %d,%d,%d: key %d: got %.8g, want %.8g", call->key, call->b,
                             head, i, key, got, want);
            }
        }
}

static void mark_selected(const struct pq_call *call, const struct selection *sel, int head, int i,
                          uint8_t *marks)
{
    struct checker *c = call->c;
    int32_t *keys = xcalloc((size_t)call->in->n_keys, sizeof *keys);
    float *prob = xcalloc((size_t)call->in->n_keys, sizeof *prob);
    int n = c->backend->selection_get(c->dev, sel, i, head, keys, prob);
    memset(marks, 0, (size_t)call->in->n_keys);
    assert_true(n >= 0);
    for (int j = 0; j < n; j++)
        marks[keys[j]] = 1;
    free(keys);
    free(prob);
}

/* The reference chooses keys that a row cannot see as well (deviation D20): ours has others in
 * their place, the next best, and otherwise the same but for ties. */
static void compare_choice(const struct pq_call *call, const struct compared_row *r,
                           const uint8_t *ours, const uint8_t *theirs)
{
    struct checker *c = call->c;
    const double *scores = c->scores + row_index(r) * (size_t)r->in->n_keys;
    double low = INFINITY, high = -INFINITY;
    int n_hidden = 0, n_ours = 0, n_theirs = 0; /* of one alone */
    for (int key = 0; key < r->in->n_keys; key++) {
        n_hidden += !is_visible(r, key) && theirs[key];
        if (!is_visible(r, key) && ours[key])
            fail_msg("%s row %d,%d,%d: key %d cannot be seen", r->key, r->b, r->head, r->i, key);
        if (!is_visible(r, key) || ours[key] == theirs[key])
            continue;
        n_ours += ours[key];
        n_theirs += theirs[key];
        low = fmin(low, scores[key]);
        high = fmax(high, scores[key]);
    }
    c->n_rows++;
    c->n_ties += n_theirs > 0;
    c->tied[row_index(r)] = n_ours > 0;
    if (n_theirs > 0 && high - low > TIE_TOLERANCE * (1 + fabs(high)))
        fail_msg("%s row %d,%d,%d: %d keys differ, and it is no tie", r->key, r->b, r->head, r->i,
                 n_theirs);
    if (n_ours < n_theirs || n_ours - n_theirs > n_hidden)
        fail_msg("%s row %d,%d,%d: %d keys more, %d less, %d hidden", r->key, r->b, r->head, r->i,
                 n_ours, n_theirs, n_hidden);
}

static void compare_call(const struct pq_call *call, const struct selection *sel, const float *out)
{
    const struct attention_input *in = call->in;
    struct checker *c = call->c;
    struct golden_mask theirs = golden_mask_read(call->file, call->key);
    float *want = golden_f32(call->file, call->key, "out");
    uint8_t *a = xcalloc((size_t)in->n_keys, 1), *b = xcalloc((size_t)in->n_keys, 1);
    for (int head = 0; head < in->n_heads; head++)
        for (int i = 0; i < in->n_rows; i++) {
            struct compared_row r = {call->key, call->b, head, i, in};
            size_t dim = (size_t)in->head_dim;
            size_t at = (((size_t)call->b * (size_t)in->n_rows + (size_t)i) * (size_t)in->n_heads +
                         (size_t)head) *
                        dim;
            mark_selected(call, sel, head, i, a);
            spread(b, &theirs, row_index(&r), in->n_keys);
            compare_choice(call, &r, a, b);
            if (c->tied[row_index(&r)])
                attend_marked(&r, a, want + at);
            compare_out(call->key, out + ((size_t)i * (size_t)in->n_heads + (size_t)head) * dim,
                        want + at, dim);
        }
    free(a);
    free(b);
    free(want);
    golden_mask_free(&theirs);
}

static void check_call(struct pq_call *call)
{
    struct checker *c = call->c;
    struct attention_stage stage = open_stage(c, call->in);
    struct selection *sel = open_selection(c, call->in);
    struct attention att = attention_stage_call(&stage, call->b);
    size_t n = n_outputs(call->in) / (size_t)call->in->n_batch;
    float *out = xcalloc(n, sizeof *out);
    c->backend->index_update(c->dev, call->index, &att);
    call->codes = golden_ints(call->file, call->key, "codes");
    assert_non_null(call->codes);
    replace_codes(call);
    c->backend->selection_begin(c->dev, sel, &att);
    for (int i = 0; i < call->stack.n; i++) {
        const struct stack_item *item = &call->stack.items[i];
        struct masker_call masker = {.backend = c->backend,
                                     .dev = c->dev,
                                     .selection = sel,
                                     .att = &att,
                                     .index = call->index,
                                     .logit_scale = 1.0f,
                                     .slot = i};
        item->masker->select(&masker, &item->values);
    }
    c->backend->selection_end(c->dev, sel, &att);
    c->scores = spread_scores(call);
    if (golden_find(call->file, call->key, "scores"))
        compare_scores(call, sel, c->scores);
    c->backend->attend_selected(c->dev, &att, sel);
    c->backend->download(c->dev, out, att.out, n * sizeof *out);
    c->tied = xcalloc(n_outputs(call->in), 1);
    compare_call(call, sel, out);
    free(c->tied);
    free(c->scores);
    c->scores = NULL;
    free(call->codes);
    free(out);
    c->backend->selection_close(c->dev, sel);
    attention_stage_close(&stage);
}

static void test_choices_by_codes_equal_the_reference(void **state)
{
    struct checker *c = *state;
    struct safetensors *file = golden_open(GOLDEN "pqcache.safetensors");
    const struct json *runs = json_get(golden_section(c->manifest, "pqcache"), "runs");
    int n_full = 0;
    c->n_runs = c->n_rows = c->n_ties = 0;
    for (const struct json *run = json_first(runs); run; run = json_next(run)) {
        struct pq_call call = {.c = c, .file = file, .key = json_string(json_get(run, "key"))};
        struct attention_input in = golden_input(json_string(json_get(run, "case")));
        float *centroids = golden_f32(file, call.key, "centroids");
        float *phi = golden_f32(file, call.key, "phi");
        bool full = json_bool(json_get(json_get(run, "mask"), "full"), false);
        call.in = &in;
        call.stack = parsed(c, run);
        n_full += full;
        for (call.b = 0; !full && call.b < in.n_batch; call.b++) {
            call.index = open_codes(c, &call.stack, &in, call.b, centroids, phi);
            check_call(&call);
            c->backend->index_close(c->dev, call.index);
        }
        c->n_runs += !full;
        free(phi);
        free(centroids);
        attention_input_free(&in);
    }
    safetensors_close(file);
    print_message("pq: %d runs, %d of them full, %d rows, %d with ties\n", c->n_runs + n_full,
                  n_full, c->n_rows, c->n_ties);
    assert_int_equal(c->n_runs + n_full, 28);
}

static void check_decode(struct checker *c, const char *tag)
{
    struct decode_data data = decode_data_open();
    char key[48];
    float *centroids = golden_f32(data.file, tag, "centroids"),
          *phi = golden_f32(data.file, tag, "phi");
    struct pq_call call = {.c = c, .file = data.file, .key = key};
    snprintf(key, sizeof key, "%s/step0", tag);
    call.stack = parsed(c, decode_run(c, key));
    call.index = open_codes(c, &call.stack, &data.whole, 0, centroids, phi);
    c->n_rows = 0;
    for (int step = 0; step < DECODE_STEPS; step++) {
        snprintf(key, sizeof key, "%s/step%d", tag, step);
        struct attention_input in = decode_input(&data, step);
        call.in = &in;
        check_call(&call);
        call.n_known = in.n_keys;
        attention_input_free(&in);
    }
    assert_int_equal(c->n_rows, (5 + 3) * data.whole.n_heads);
    c->backend->index_close(c->dev, call.index);
    free(phi);
    free(centroids);
    decode_data_close(&data);
}

static void test_decodes_equal_the_reference(void **state)
{
    check_decode(*state, "pq");
    check_decode(*state, "pq_ip");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choices_by_codes_equal_the_reference),
        cmocka_unit_test(test_decodes_equal_the_reference),
    };
    if (!test_backend_is_cpu())
        return TEST_SKIPPED;
    return cmocka_run_group_tests(tests, setup, teardown);
}
