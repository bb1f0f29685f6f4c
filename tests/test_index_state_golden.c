/* What indexes over keys keep and score, against the reference project's; on the cpu backend, from
 * the inside. */
#include "tests/golden_index.h"

#define PAGE_TOLERANCE 1e-5 /* f32 sums in another order than the reference's, and scaled */

/* The keys before the call's own, one by one. */
static void grow(const struct stack_index *index, const struct attention_stage *stage,
                 const struct attention *att)
{
    struct attention before = *att;
    int n_before = stage->in->n_keys - stage->in->n_rows;
    before.n_rows = 0;
    for (int n = 1; n <= n_before; n++) {
        struct step_state step = {.n_context = n};
        index->backend->upload(index->dev, stage->step, &step, sizeof step);
        stack_index_update(index, &before);
    }
}

/* Indexes the keys of a run of a single masker, all at once or one by one, and has the scores of
 * each batch entry checked. */
static void check_index(struct checker *c, const struct json *run, const struct safetensors *file,
                        const char *key, bool one_by_one,
                        void (*check)(const struct safetensors *file, const char *key,
                                      const struct indexed_call *call))
{
    struct attention_input in = golden_input(json_string(json_get(run, "case")));
    struct stack stack = parsed(c, run);
    struct attention_stage stage = open_stage(c, &in);
    struct selection *sel = open_selection(c, &in);
    for (int b = 0; b < in.n_batch; b++) {
        struct stack_index index = open_index(c, &stack, &in);
        struct attention att = attention_stage_call(&stage, b);
        if (one_by_one)
            grow(&index, &stage, &att);
        stack_index_update(&index, &att);
        c->backend->selection_begin(c->dev, sel, &att);
        c->backend->score_index(c->dev, sel, index.slot[0], &att);
        check(file, key, &(struct indexed_call){&in, b, index.slot[0], sel});
        stack_index_close(&index);
    }
    c->backend->selection_close(c->dev, sel);
    attention_stage_close(&stage);
    attention_input_free(&in);
    c->n_runs++;
}

/* --- Hash ------------------------------------------------------------------------------------- */

/* KEY/scores [B, H, Q, K]. */
static void check_hash_scores(const struct safetensors *file, const char *key,
                              const struct indexed_call *call)
{
    const struct attention_input *in = call->in;
    int64_t *scores = golden_ints(file, key, "scores");
    assert_non_null(scores);
    for (int head = 0; head < in->n_heads; head++)
        for (int i = 0; i < in->n_rows; i++) {
            struct compared_row r = {key, call->b, head, i, in};
            const int64_t *want = scores + row_index(&r) * (size_t)in->n_keys;
            const float *got = selection_scores(call->sel, i, head);
            for (int j = 0; j < in->n_keys; j++)
                if (is_visible(&r, j) && got[j] != (float)want[j])
                    fail_msg("%s entry %d head %d row %d key %d: got %g, want %lld", key, call->b,
                             head, i, j, (double)got[j], (long long)want[j]);
        }
    free(scores);
}

/* All networks of the reference data, with what it recorded of the runs TAG/h6. */
static void check_hash_indexes(struct checker *c,
                               void (*check)(const struct safetensors *file, const char *key,
                                             const struct indexed_call *call))
{
    if (!test_backend_is_cpu())
        skip();
    struct safetensors *file = golden_open(GOLDEN "hashattention.safetensors");
    const struct json *runs = json_get(golden_section(c->manifest, "hashattention"), "runs");
    c->n_runs = 0;
    for (const struct json *run = json_first(runs); run; run = json_next(run)) {
        const char *key = json_string(json_get(run, "key"));
        char tag[128];
        if (!golden_find(file, key, "key_sig"))
            continue;
        run_tag(tag, key);
        take_networks(c, file, tag);
        check_index(c, run, file, key, false, check);
        c->masker_file[0] = 0;
    }
    safetensors_close(file);
    assert_int_equal(c->n_runs, 5);
}

static void test_key_signatures_equal_the_reference(void **state)
{
    check_hash_indexes(*state, check_signatures);
}

static void test_hash_scores_equal_the_reference(void **state)
{
    check_hash_indexes(*state, check_hash_scores);
}

/* --- Pages ------------------------------------------------------------------------------------ */

static bool sees_page(const struct compared_row *r, int page, int page_size)
{
    bool sees = false;
    for (int key = page * page_size; key < (page + 1) * page_size && key < r->in->n_keys; key++)
        sees = sees || is_visible(r, key);
    return sees;
}

/* KEY/page_scores [B, H, Q, P], of unscaled queries. */
static void check_page_scores(const struct safetensors *file, const char *key,
                              const struct indexed_call *call)
{
    const struct attention_input *in = call->in;
    int page_size = call->index->config.pages.page_size;
    int n_pages = (in->n_keys + page_size - 1) / page_size;
    float *scores = golden_f32(file, key, "page_scores");
    for (int head = 0; head < in->n_heads; head++)
        for (int i = 0; i < in->n_rows; i++) {
            struct compared_row r = {key, call->b, head, i, in};
            for (int page = 0; page < n_pages; page++) {
                double want = (double)scores[row_index(&r) * (size_t)n_pages + (size_t)page];
                double got =
                    (double)selection_scores(call->sel, i, head)[page] * sqrt((double)in->head_dim);
                if (sees_page(&r, page, page_size) &&
                    !(fabs(got - want) <= PAGE_TOLERANCE * (1 + fabs(want))))
                    fail_msg("%s entry %d head %d row %d page %d: got %.8g, want %.8g", key,
                             call->b, head, i, page, got, want);
            }
        }
    free(scores);
}

static void check_pages(struct checker *c, bool one_by_one)
{
    if (!test_backend_is_cpu())
        skip();
    struct safetensors *file = golden_open(GOLDEN "quest.safetensors");
    const struct json *runs = json_get(golden_section(c->manifest, "quest"), "runs");
    c->n_runs = 0;
    for (const struct json *run = json_first(runs); run; run = json_next(run)) {
        const char *key = json_string(json_get(run, "key"));
        if (golden_find(file, key, "page_scores"))
            check_index(c, run, file, key, one_by_one, check_page_scores);
    }
    safetensors_close(file);
    assert_int_equal(c->n_runs, 25);
}

static void test_page_scores_equal_the_reference(void **state)
{
    check_pages(*state, false);
}

static void test_page_scores_of_keys_one_by_one_equal_the_reference(void **state)
{
    check_pages(*state, true);
}

/* Rows of pseudo_quantize/x as keys, each a page of its own: both bounds are the rounded row, q1 to
 * q8, bit for bit. */
static void test_rounded_bounds_equal_the_reference(void **state)
{
    enum { KEYS = 6, DIM = 10 };
    struct checker *c = *state;
    if (!test_backend_is_cpu())
        skip();
    struct safetensors *file = golden_open(GOLDEN "double_sparsity.safetensors");
    float *x = golden_f32(file, "pseudo_quantize", "x");
    struct step_state step = {.n_context = KEYS};
    struct attention att = {.n_heads = 1,
                            .kv = {{x}, {x}, {KEYS}, DTYPE_F32, .n_kv_heads = 1, .head_dim = DIM},
                            .step = &step,
                            .max_keys = KEYS};
    for (int n_bits = 1; n_bits <= 8; n_bits *= 2) {
        struct key_index_config config = {INDEX_PAGES, 1,    1,         1,
                                          DIM,         KEYS, DTYPE_F32, .pages = {1, n_bits}};
        char why[256] = "", part[8];
        struct key_index *index = c->backend->index_open(c->dev, &config, why, sizeof why);
        assert_non_null(index);
        c->backend->index_update(c->dev, index, &att);
        snprintf(part, sizeof part, "q%d", n_bits);
        float *want = golden_f32(file, "pseudo_quantize", part);
        for (size_t i = 0; i < KEYS * DIM; i++)
            for (size_t side = 0; side < 2; side++) {
                float got = ((float *)index->pages)[(i / DIM * 2 + side) * DIM + i % DIM];
                if (got != want[i])
                    fail_msg("%d bits: row %zu element %zu: got %.9g, want %.9g", n_bits, i / DIM,
                             i % DIM, (double)got, (double)want[i]);
            }
        free(want);
        c->backend->index_close(c->dev, index);
    }
    free(x);
    safetensors_close(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_key_signatures_equal_the_reference),
        cmocka_unit_test(test_hash_scores_equal_the_reference),
        cmocka_unit_test(test_rounded_bounds_equal_the_reference),
        cmocka_unit_test(test_page_scores_equal_the_reference),
        cmocka_unit_test(test_page_scores_of_keys_one_by_one_equal_the_reference),
    };
    if (!test_backend_opens())
        return TEST_SKIPPED;
    return cmocka_run_group_tests(tests, setup, teardown);
}
