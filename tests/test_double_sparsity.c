/* DoubleSparsity against the reference project: masks and outputs, labels bit for bit, scores by
 * its rule, and what a file of channels may not be. */
#include "tests/golden_index.h"

#define LABEL_TOLERANCE 1e-5 /* of the terms' sizes: f32 sums in another order */

enum { MOST_CHANNELS = 128 };

/* --- Files of channels ----------------------------------------------------------------------- */

static struct json *channel_lists(const int64_t *channels, int n_heads, int n_channels)
{
    struct json *heads = json_new_array();
    for (int head = 0; head < n_heads; head++) {
        struct json *list = json_new_array();
        for (int i = 0; i < n_channels; i++)
            json_add_int(list, channels[head * n_channels + i]);
        json_add(heads, list);
    }
    return heads;
}

/* Layer 0 of a case's channels as a file; the path is the folder's. */
static const char *write_channels(const struct checker *c, const int64_t *channels, int n_heads,
                                  int n_channels)
{
    struct json *root = json_new_object();
    struct buf text = {0};
    json_set(root, "model.layers.0.self_attn.qk_proj",
             channel_lists(channels, n_heads, n_channels));
    json_write(&text, root, false);
    temp_write_text(&c->folder, "channels.json", text.data);
    json_free(root);
    buf_free(&text);
    return temp_path(&c->folder, "channels.json");
}

/* --- The reference's rule --------------------------------------------------------------------- */

struct rule {
    const int64_t *channels; /* [n_heads, head_dim] */
    int n_channels, n_bits;
};

static struct rule rule_of(const struct stack *stack, const int64_t *channels, int head_dim)
{
    const struct stack_item *item = &stack->items[stack->n - 1];
    const double group = item->values.param[masker_param_index(item->masker, "group_factor")].value;
    const double bits = item->values.param[masker_param_index(item->masker, "label_bits")].value;
    return (struct rule){channels, head_dim / (int)group, (int)bits};
}

/* Rounds x [n] in f32, in the steps that the reference takes. */
static void pseudo_quantise(float *x, int n, int n_bits)
{
    float low = x[0], high = x[0], top = (float)((1 << n_bits) - 1);
    for (int i = 1; i < n; i++) {
        low = fminf(low, x[i]);
        high = fmaxf(high, x[i]);
    }
    float range = high - low, scale = top * (1.0f / (range == 0 ? 1.0f : range));
    for (int i = 0; i < n; i++)
        x[i] = fminf(fmaxf(rintf((x[i] - low) * scale), 0.0f), top) / scale + low;
}

static void label_of(const struct rule *rule, int head, int head_dim, const float *row, float *to)
{
    for (int i = 0; i < rule->n_channels; i++)
        to[i] = row[rule->channels[head * head_dim + i]];
    if (rule->n_bits < 16)
        pseudo_quantise(to, rule->n_channels, rule->n_bits);
}

/* The score of one key, and in *size the sum of its terms' sizes. */
static double rule_score(const struct rule *rule, const struct compared_row *r, int key,
                         double *size)
{
    const struct attention_input *in = r->in;
    size_t dim = (size_t)in->head_dim, kv = (size_t)(r->head / (in->n_heads / in->n_kv_heads));
    size_t row = (size_t)r->b * (size_t)in->n_rows + (size_t)r->i;
    size_t kv_row = ((size_t)r->b * (size_t)in->n_kv_heads + kv) * (size_t)in->n_keys;
    float q[MOST_CHANNELS], k[MOST_CHANNELS];
    label_of(rule, r->head, in->head_dim,
             in->q + (row * (size_t)in->n_heads + (size_t)r->head) * dim, q);
    label_of(rule, r->head, in->head_dim, in->k + (kv_row + (size_t)key) * dim, k);
    double sum = *size = 0;
    for (int i = 0; i < rule->n_channels; i++) {
        sum += (double)q[i] * k[i];
        *size += fabs((double)q[i] * k[i]);
    }
    *size /= sqrt(rule->n_channels);
    return sum / sqrt(rule->n_channels);
}

/* [B, H, Q, K], to tell ties by. */
static double *rule_scores(const struct rule *rule, const struct attention_input *in)
{
    size_t n_rows = (size_t)in->n_batch * (size_t)in->n_heads * (size_t)in->n_rows;
    double *scores = xcalloc(n_rows * (size_t)in->n_keys, sizeof *scores), *to = scores;
    for (int b = 0; b < in->n_batch; b++)
        for (int head = 0; head < in->n_heads; head++)
            for (int i = 0; i < in->n_rows; i++)
                for (int key = 0; key < in->n_keys; key++) {
                    struct compared_row r = {"", b, head, i, in};
                    double size;
                    *to++ = rule_score(rule, &r, key, &size);
                }
    return scores;
}

/* --- Runs ------------------------------------------------------------------------------------- */

/* What one run of the section is of. */
struct golden_run {
    const struct json *run;
    const char *key;
    const struct safetensors *file;
    struct attention_input in;
    int64_t *channels;
    struct stack stack;
    struct rule rule;
};

static void for_each_run(struct checker *c, void (*check)(struct checker *, struct golden_run *))
{
    struct safetensors *file = golden_open(GOLDEN "double_sparsity.safetensors");
    const struct json *runs = json_get(golden_section(c->manifest, "double_sparsity"), "runs");
    c->n_runs = c->n_rows = c->n_ties = c->n_exhausted = 0;
    for (const struct json *run = json_first(runs); run; run = json_next(run)) {
        const char *name = json_string(json_get(run, "case"));
        struct golden_run g = {.run = run, .key = json_string(json_get(run, "key")), .file = file};
        g.in = golden_input(name);
        g.channels = golden_ints(file, name, "channels");
        assert_non_null(g.channels);
        snprintf(c->masker_file, sizeof c->masker_file, "%s",
                 write_channels(c, g.channels, g.in.n_heads, g.in.head_dim));
        g.stack = parsed(c, run);
        g.rule = rule_of(&g.stack, g.channels, g.in.head_dim);
        check(c, &g);
        c->masker_file[0] = 0;
        free(g.channels);
        attention_input_free(&g.in);
    }
    safetensors_close(file);
}

static void check_masks(struct checker *c, struct golden_run *g)
{
    c->scores = rule_scores(&g->rule, &g->in);
    check_run(c, g->run, g->file, false);
    check_run(c, g->run, g->file, true);
    free(c->scores);
    c->scores = NULL;
}

static void test_masks_and_outputs_equal_the_reference(void **state)
{
    struct checker *c = *state;
    for_each_run(c, check_masks);
    print_message("double_sparsity: %d runs, %d rows, %d with ties, %d exhausted\n", c->n_runs,
                  c->n_rows, c->n_ties, c->n_exhausted);
    assert_int_equal(c->n_runs, 2 * 35);
}

/* --- Scores ----------------------------------------------------------------------------------- */

/* The keys before the call's own, one by one. */
static void grow(const struct stack_index *index, const struct attention_stage *stage,
                 const struct attention *att)
{
    struct attention before = *att;
    before.n_rows = 0;
    for (int n = 1; n <= stage->in->n_keys - stage->in->n_rows; n++) {
        struct step_state step = {.n_context = n};
        index->backend->upload(index->dev, stage->step, &step, sizeof step);
        stack_index_update(index, &before);
    }
}

static double worst_score; /* difference seen, of the terms' sizes */

static void compare_scores(struct checker *c, const struct golden_run *g, int b,
                           const struct selection *sel)
{
    for (int head = 0; head < g->in.n_heads; head++)
        for (int i = 0; i < g->in.n_rows; i++) {
            struct compared_row r = {g->key, b, head, i, &g->in};
            c->n_rows++;
            for (int key = 0; key < g->in.n_keys; key++) {
                double size, got = (double)selection_scores(sel, i, head)[key];
                double want = rule_score(&g->rule, &r, key, &size);
                if (!is_visible(&r, key))
                    continue;
                if (!(fabs(got - want) <= LABEL_TOLERANCE * (size + 1e-3)))
                    fail_msg("%s entry %d head %d row %d key %d: got %.9g, want %.9g", g->key, b,
                             head, i, key, got, want);
                worst_score = fmax(worst_score, fabs(got - want) / (size + 1e-3));
            }
        }
}

static void check_scores_grown(struct checker *c, struct golden_run *g, bool one_by_one)
{
    struct attention_stage stage = open_stage(c, &g->in);
    struct selection *sel = open_selection(c, &g->in);
    int slot = g->stack.n - 1;
    for (int b = 0; b < g->in.n_batch; b++) {
        struct stack_index index = open_index(c, &g->stack, &g->in);
        struct attention att = attention_stage_call(&stage, b);
        if (one_by_one)
            grow(&index, &stage, &att);
        stack_index_update(&index, &att);
        c->backend->selection_begin(c->dev, sel, &att);
        c->backend->score_index(c->dev, sel, index.slot[slot], &att);
        compare_scores(c, g, b, sel);
        stack_index_close(&index);
    }
    c->backend->selection_close(c->dev, sel);
    attention_stage_close(&stage);
    c->n_runs++;
}

static void check_scores(struct checker *c, struct golden_run *g)
{
    check_scores_grown(c, g, false);
    check_scores_grown(c, g, true);
}

static void test_scores_follow_the_reference_s_rule(void **state)
{
    struct checker *c = *state;
    if (!test_backend_is_cpu())
        skip();
    worst_score = 0;
    for_each_run(c, check_scores);
    print_message("scores: %d runs, %d rows, off by at most %.2g of the terms' sizes\n", c->n_runs,
                  c->n_rows, worst_score);
    assert_int_equal(c->n_runs, 2 * 35);
}

/* --- Labels ----------------------------------------------------------------------------------- */

enum { KEYS = 6, DIM = 10 };

/* Element i of a key's label as its levels stand for it. */
static float kept_value(const struct key_index *index, int key, int i)
{
    const struct key_index_config *config = &index->config;
    int width = label_width(config), per_word = 32 / width;
    uint32_t word = index->words[(size_t)(i / per_word) * index->stride + (size_t)key];
    float level = (float)(word >> i % per_word * width & ((1u << width) - 1));
    float low = ((const float *)index->values)[key];
    float high = ((const float *)index->values)[index->stride + (size_t)key];
    float top = (float)((1 << config->channels.label_bits) - 1);
    return level / (top * (1.0f / (high == low ? 1.0f : high - low))) + low;
}

/* Rows of pseudo_quantize/x as keys with all of their elements, q1 to q8, bit for bit. */
static void test_labels_equal_the_reference(void **state)
{
    struct checker *c = *state;
    if (!test_backend_is_cpu())
        skip();
    int16_t all[DIM];
    for (int i = 0; i < DIM; i++)
        all[i] = (int16_t)i;
    struct safetensors *file = golden_open(GOLDEN "double_sparsity.safetensors");
    float *x = golden_f32(file, "pseudo_quantize", "x");
    struct step_state step = {.n_context = KEYS};
    struct attention att = {.n_heads = 1,
                            .kv = {{x}, {x}, {KEYS}, DTYPE_F32, .n_kv_heads = 1, .head_dim = DIM},
                            .step = &step,
                            .max_keys = KEYS};
    int n_compared = 0;
    for (int n_bits = 1; n_bits <= 8; n_bits *= 2) {
        struct key_index_config config = {
            INDEX_CHANNELS, 1, 1, 1, DIM, KEYS, DTYPE_F32, .channels = {DIM, n_bits, all}};
        char why[256] = "", part[16];
        struct key_index *index = c->backend->index_open(c->dev, &config, why, sizeof why);
        assert_non_null(index);
        c->backend->index_update(c->dev, index, &att);
        snprintf(part, sizeof part, "q%d", n_bits);
        float *want = golden_f32(file, "pseudo_quantize", part);
        for (int i = 0; i < KEYS * DIM; i++, n_compared++) {
            float got = kept_value(index, i / DIM, i % DIM);
            if (got != want[i])
                fail_msg("%d bits: row %d element %d: got %.9g, want %.9g", n_bits, i / DIM,
                         i % DIM, (double)got, (double)want[i]);
        }
        free(want);
        c->backend->index_close(c->dev, index);
    }
    print_message("labels: %d elements\n", n_compared);
    free(x);
    safetensors_close(file);
}

/* --- Layers ----------------------------------------------------------------------------------- */

/* Layer 1 of two has channels of its own (deviation D15 of the specification: the reference takes
 * those of the layer that calls first for all). */
static void test_each_layer_has_its_own_channels(void **state)
{
    struct checker *c = *state;
    if (!test_backend_is_cpu())
        skip();
    temp_write_text(&c->folder, "layers.json",
                    "{\"model.layers.0.self_attn.qk_proj\": [[0, 1], [1, 0]],"
                    " \"model.layers.1.self_attn.qk_proj\": [[1, 0], [1, 0]]}");
    char text[640];
    snprintf(text, sizeof text, "double-sparsity:2:group_factor=2:label_bits=16:channels=%s",
             temp_path(&c->folder, "layers.json"));
    struct stack stack;
    struct error err = {0};
    if (!stack_parse(&stack, text, &err))
        fail_msg("%s", err.text);
    struct model_config config = {.n_layers = 2, .n_heads = 2, .n_kv_heads = 1, .head_dim = 2};
    struct masker_model model = {.config = &config, .kv_dtype = DTYPE_F32};
    struct stack_index index;
    if (!stack_index_open(&index, &stack, c->backend, c->dev, &model, 8, &err))
        fail_msg("%s", err.text);
    const int16_t want[] = {0, 1, 1, 1};
    assert_memory_equal(index.slot[0]->channels, want, sizeof want);
    stack_index_close(&index);
}

/* --- Refusals --------------------------------------------------------------------------------- */

static void expect_refused(struct checker *c, const char *channels, const char *more,
                           const char *said)
{
    struct model_config config = {.n_layers = 2, .n_heads = 2, .n_kv_heads = 1, .head_dim = 4};
    struct masker_model model = {.config = &config, .folder = "/nowhere", .kv_dtype = DTYPE_F32};
    struct stack stack;
    struct stack_index index;
    struct error err = {0};
    char text[700];
    snprintf(text, sizeof text, "double-sparsity:2%s%s%s", channels ? ":channels=" : "",
             channels ? channels : "", more);
    if (!stack_parse(&stack, text, &err))
        fail_msg("%s: %s", text, err.text);
    if (stack_index_open(&index, &stack, c->backend, c->dev, &model, 8, &err))
        fail_msg("accepted: %s", text);
    if (strncmp(err.text, "double-sparsity: ", 17) != 0 || !strstr(err.text, said) ||
        (channels && *channels == '/' && !strstr(err.text, channels)))
        fail_msg("%s: got \"%s\", want \"%s\"", text, err.text, said);
}

#define LAYER_0 "{\"model.layers.0.self_attn.qk_proj\": [[0, 1, 2, 3], [3, 2]],"
#define LAYER_1 " \"model.layers.1.self_attn.qk_proj\": "

static void test_bad_files_of_channels_are_refused_with_file_and_rule(void **state)
{
    static const struct {
        const char *text, *said;
    } files[] = {
        {"[[0, 1], [1, 0]]", "it must be an object"},
        {"{\"model.layers.0", "line 1"},
        {"{}", "there is no \"model.layers.0.self_attn.qk_proj\", the model has 2 layers"},
        {"{\"model.layers.0.self_attn.q_proj\": [[0, 1], [1, 0]]}", "layers.0.self_attn.qk_proj"},
        {LAYER_0 " \"x\": 1}", "there is no \"model.layers.1.self_attn.qk_proj\""},
        {LAYER_0 LAYER_1 "[[0, 1]]}", "has channels of 1 heads, the model has 2 query heads"},
        {LAYER_0 LAYER_1 "[[0, 1], [0, 1], [0, 1]]}", "has channels of 3 heads"},
        {LAYER_0 LAYER_1 "{}}", "layers.1.self_attn.qk_proj must be a list of lists"},
        {LAYER_0 LAYER_1 "[[0, 1], 3]}", "qk_proj, head 1: it is no list of channels"},
        {LAYER_0 LAYER_1 "[[0, 1], [3]]}", "head 1: it has 1 channels where 2 are wanted"},
        {LAYER_0 LAYER_1 "[[0, 1], []]}", "head 1: it has 0 channels where 2 are wanted"},
        {LAYER_0 LAYER_1 "[[0, 4], [0, 1]]}",
         "head 0: channel 2 of it is no whole number from 0 to 3"},
        {LAYER_0 LAYER_1 "[[-1, 2], [0, 1]]}", "head 0: channel 1 of it is no whole number"},
        {LAYER_0 LAYER_1 "[[0, 1.5], [0, 1]]}", "channel 2 of it is no whole number"},
        {LAYER_0 LAYER_1 "[[0, \"1\"], [0, 1]]}", "channel 2 of it is no whole number"},
        {LAYER_0 LAYER_1 "[[0, 1], [0, 1, 9]]}", "head 1: channel 3 of it is no whole number"},
        {LAYER_0 LAYER_1 "[[2, 2], [0, 1]]}", "head 0: channel 2 is in it twice"},
        {LAYER_0 LAYER_1 "[[0, 1], [0, 1]], \"model.layers.2.self_attn.qk_proj\": []}",
         "it has \"model.layers.2.self_attn.qk_proj\", but the model has only 2 layers"},
    };
    struct checker *c = *state;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        temp_write_text(&c->folder, "bad.json", files[i].text);
        char path[512];
        snprintf(path, sizeof path, "%s", temp_path(&c->folder, "bad.json"));
        expect_refused(c, path, ":group_factor=2", files[i].said);
    }
}

static void test_without_channels_it_says_what_to_do(void **state)
{
    struct checker *c = *state;
    expect_refused(c, NULL, ":group_factor=2", "this model has no double_sparsity.json; name");
    expect_refused(c, "/nowhere/channels.json", ":group_factor=2", "No such file");
    expect_refused(c, "random", ":group_factor=5",
                   "group_factor 5 leaves no channel of 4; it must be at most 4");
    expect_refused(c, "random", "", "group_factor 16 leaves no channel of 4");
}

static void test_parameters_out_of_range_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *said;
    } stacks[] = {
        {"double-sparsity:0", "heavy_size must be > 0"},
        {"double-sparsity:8:label_bits=0", "label_bits must be in range [1, 16]"},
        {"double-sparsity:8:label_bits=17", "label_bits must be in range [1, 16]"},
        {"double-sparsity:8:group_factor=0", "group_factor must be in range [1, 1024]"},
        {"double-sparsity:8:selection=v_proj", "selection must be one of qk_proj, q_proj, k_proj"},
    };
    for (size_t i = 0; i < sizeof stacks / sizeof stacks[0]; i++) {
        struct stack stack;
        struct error err = {0};
        if (stack_parse(&stack, stacks[i].text, &err))
            fail_msg("accepted: %s", stacks[i].text);
        if (!strstr(err.text, stacks[i].said))
            fail_msg("%s: got \"%s\"", stacks[i].text, err.text);
    }
}

/* --- The reference's form --------------------------------------------------------------------- */

static void test_the_reference_s_form_is_kept(void **state)
{
    (void)state;
    static const char text[] =
        "{\"masker_configs\":[{\"type\":\"DoubleSparsityTopKMaskerConfig\",\"params\":{"
        "\"heavy_size\":0.1,\"sorted_channel_file\":\"a.json\",\"group_factor\":8,"
        "\"label_bits\":2,\"channel_selection\":\"q_proj\"}}]}";
    struct error err = {0};
    struct json *in = json_parse(text, strlen(text), "text", &err);
    struct stack stack;
    if (!in || !stack_from_json(&stack, in, "text", &err))
        fail_msg("%s", err.text);
    struct buf out = {0};
    struct json *back = stack_to_reference_json(&stack);
    json_write(&out, back, false);
    assert_string_equal(out.data, text);
    buf_free(&out);
    json_free(back);
    json_free(in);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_masks_and_outputs_equal_the_reference),
        cmocka_unit_test(test_scores_follow_the_reference_s_rule),
        cmocka_unit_test(test_labels_equal_the_reference),
        cmocka_unit_test(test_each_layer_has_its_own_channels),
        cmocka_unit_test(test_bad_files_of_channels_are_refused_with_file_and_rule),
        cmocka_unit_test(test_without_channels_it_says_what_to_do),
        cmocka_unit_test(test_parameters_out_of_range_are_refused),
        cmocka_unit_test(test_the_reference_s_form_is_kept),
    };
    if (!test_backend_opens())
        return TEST_SKIPPED;
    return cmocka_run_group_tests(tests, setup, teardown);
}
