/* What indexes over keys keep and score, against the reference project's; on the cpu backend, from
 * the inside. */
#include "tests/golden_index.h"

/* Indexes the keys of a run of a single masker, and has the scores of each batch entry checked. */
static void check_index(struct checker *c, const struct json *run, const struct safetensors *file,
                        const char *key,
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
        char tag[128], path[512];
        if (!golden_find(file, key, "key_sig"))
            continue;
        snprintf(tag, sizeof tag, "%.*s", (int)(strrchr(key, '/') - key), key);
        snprintf(path, sizeof path, "%s", temp_path(&c->folder, "networks.safetensors"));
        write_networks(file, tag, path);
        c->networks = path;
        check_index(c, run, file, key, check);
        c->networks = NULL;
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_key_signatures_equal_the_reference),
        cmocka_unit_test(test_hash_scores_equal_the_reference),
    };
    if (!test_backend_opens())
        return TEST_SKIPPED;
    return cmocka_run_group_tests(tests, setup, teardown);
}
