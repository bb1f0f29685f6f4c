/* Maskers that keep an index over the keys against the reference project's: masks and outputs. */
#include "tests/golden_runs.h"

static void test_quest_equals_the_reference(void **state)
{
    const struct checker *c = *state;
    if (!c->backend->index_open)
        skip(); /* not there on this backend */
    check_section(*state, "quest", 42);
}

/* --- Hash: networks by run ------------------------------------------------------------------ */

/* Writes a run's networks as our weights files have them, layer 0. */
static void write_networks(const struct safetensors *file, const char *tag, const char *path)
{
    static const char *const sides[] = {"query", "key"};
    static const char *const parts[] = {"matrix", "bias"};
    struct safetensors_out out[4 * HASH_MAX_LINEARS];
    char names[4 * HASH_MAX_LINEARS][32], part[64];
    struct error err = {0};
    size_t n = 0;
    for (int i = 0; i < 4 * HASH_MAX_LINEARS; i++) {
        int linear = i / 4, side = i / 2 % 2, bias = i % 2;
        snprintf(part, sizeof part, "w/%s_%s%d", sides[side], parts[bias], linear);
        const struct safetensor *t = golden_find(file, tag, part);
        if (!t)
            continue;
        snprintf(names[n], sizeof names[n], "layer.0.%c.%c%d", sides[side][0], "Wb"[bias], linear);
        out[n] =
            (struct safetensors_out){names[n], "F32", t->n_dims, {0}, golden_f32(file, tag, part)};
        memcpy(out[n].shape, t->shape, sizeof out[n].shape);
        n++;
    }
    if (!safetensors_write(path, out, n, &err))
        fail_msg("%s", err.text);
    for (size_t i = 0; i < n; i++)
        free((void *)out[i].data);
}

static void test_hash_equals_the_reference(void **state)
{
    struct checker *c = *state;
    if (!c->backend->index_open)
        skip();
    struct safetensors *file = golden_open(GOLDEN "hashattention.safetensors");
    const struct json *runs = json_get(golden_section(c->manifest, "hashattention"), "runs");
    c->n_runs = c->n_rows = c->n_ties = c->n_exhausted = 0;
    for (const struct json *run = json_first(runs); run; run = json_next(run)) {
        const char *key = json_string(json_get(run, "key"));
        char tag[128], path[512], scores[160];
        snprintf(tag, sizeof tag, "%.*s", (int)(strrchr(key, '/') - key), key);
        snprintf(path, sizeof path, "%s", temp_path(&c->folder, "networks.safetensors"));
        snprintf(scores, sizeof scores, "%s/h6", tag);
        write_networks(file, tag, path);
        c->networks = path;
        c->scores = golden_ints(file, scores, "scores");
        assert_non_null(c->scores);
        check_run(c, run, file, false);
        check_run(c, run, file, true);
        free(c->scores);
        c->scores = NULL;
        c->networks = NULL;
    }
    safetensors_close(file);
    print_message("hash: %d runs, %d rows, %d with ties, %d exhausted\n", c->n_runs, c->n_rows,
                  c->n_ties, c->n_exhausted);
    assert_int_equal(c->n_runs, 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quest_equals_the_reference),
        cmocka_unit_test(test_hash_equals_the_reference),
    };
    if (!test_backend_opens())
        return TEST_SKIPPED;
    return cmocka_run_group_tests(tests, setup, teardown);
}
