/* Maskers that keep an index over the keys against the reference project's: masks and outputs. */
#include "tests/golden_runs.h"

static void test_quest_equals_the_reference(void **state)
{
    check_section(*state, "quest", 42);
}

/* --- Hash: networks by run ------------------------------------------------------------------ */

static void test_hash_equals_the_reference(void **state)
{
    struct checker *c = *state;
    struct safetensors *file = golden_open(GOLDEN "hashattention.safetensors");
    const struct json *runs = json_get(golden_section(c->manifest, "hashattention"), "runs");
    c->n_runs = c->n_rows = c->n_ties = c->n_exhausted = 0;
    for (const struct json *run = json_first(runs); run; run = json_next(run)) {
        const char *key = json_string(json_get(run, "key"));
        char tag[128], scores[160];
        run_tag(tag, key);
        snprintf(scores, sizeof scores, "%s/h6", tag);
        take_networks(c, file, tag);
        c->scores = golden_numbers(file, scores, "scores");
        assert_non_null(c->scores);
        check_run(c, run, file, false);
        check_run(c, run, file, true);
        free(c->scores);
        c->scores = NULL;
        c->masker_file[0] = 0;
    }
    safetensors_close(file);
    print_message("hash: %d runs, %d rows, %d with ties, %d exhausted\n", c->n_runs, c->n_rows,
                  c->n_ties, c->n_exhausted);
    assert_int_equal(c->n_runs, 20);
}

/* --- SOCKET: planes by run ------------------------------------------------------------------ */

static void test_socket_equals_the_reference(void **state)
{
    struct checker *c = *state;
    if (!index_is_there(c, INDEX_BUCKETS))
        skip();
    struct safetensors *file = golden_open(GOLDEN "socket.safetensors");
    const struct json *runs = json_get(golden_section(c->manifest, "socket"), "runs");
    c->n_runs = c->n_rows = c->n_ties = c->n_exhausted = 0;
    for (const struct json *run = json_first(runs); run; run = json_next(run)) {
        const char *key = json_string(json_get(run, "key"));
        char planes[160];
        /* The reference draws planes of one shape from one seed: those of runs after sinks and
         * windows, which do not record theirs, are another run's. */
        snprintf(planes, sizeof planes, "%s", key);
        if (!golden_find(file, planes, "planes")) {
            char tag[128];
            run_tag(tag, key);
            snprintf(planes, sizeof planes, "%s/K6_L5_t0.5_h0.2", tag);
        }
        take_planes(c, file, planes);
        c->scores = golden_numbers(file, key, "scores");
        check_run(c, run, file, false);
        check_run(c, run, file, true);
        free(c->scores);
        c->scores = NULL;
        c->masker_file[0] = 0;
    }
    safetensors_close(file);
    print_message("socket: %d runs, %d rows, %d with ties, %d exhausted\n", c->n_runs, c->n_rows,
                  c->n_ties, c->n_exhausted);
    assert_int_equal(c->n_runs, 40);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quest_equals_the_reference),
        cmocka_unit_test(test_hash_equals_the_reference),
        cmocka_unit_test(test_socket_equals_the_reference),
    };
    if (!test_backend_opens())
        return TEST_SKIPPED;
    return cmocka_run_group_tests(tests, setup, teardown);
}
