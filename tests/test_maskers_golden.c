/* Maskers that keep nothing of the keys, and stacks, against the reference project's: masks and
 * outputs. */
#include "tests/golden_runs.h"

static void test_causal_equals_the_reference(void **state)
{
    check_section(*state, "causal", 2);
}

static void test_local_equals_the_reference(void **state)
{
    check_section(*state, "local", 28);
}

static void test_sink_equals_the_reference(void **state)
{
    check_section(*state, "sink", 28);
}

static void test_oracle_top_k_equals_the_reference(void **state)
{
    check_section(*state, "oracle_topk", 28);
}

static void test_oracle_top_p_equals_the_reference(void **state)
{
    check_section(*state, "oracle_topp", 42);
}

/* --- Stacks: the manifest alone ------------------------------------------------------------- */

static double relative_error(const float *x, const float *reference, size_t n)
{
    double diff = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        diff += ((double)x[i] - reference[i]) * ((double)x[i] - reference[i]);
        norm += (double)reference[i] * reference[i];
    }
    return sqrt(diff / norm);
}

static void check_stack_order(struct checker *c, const struct json *run, const struct stack *stack)
{
    const char *key = json_string(json_get(run, "key")), *name = json_string(json_get(run, "case"));
    const struct json *mask = json_get(run, "mask");
    struct run_result ours = run_case(c, stack, name, true);
    struct attention_input in = golden_input(name);
    assert_int_equal(ours.full, json_bool(json_get(mask, "full"), false));
    assert_int_equal(ours.empty, json_bool(json_get(mask, "empty"), false));
    if (ours.mask.ptr) {
        size_t n_rows = (size_t)in.n_batch * (size_t)in.n_heads * (size_t)in.n_rows;
        int64_t want = (int64_t)json_number(json_get(mask, "nnz"), -1), got = ours.mask.ptr[n_rows];
        /* In a prefill the first rows run out of candidates and the reference marks more. */
        if (in.n_rows == in.n_keys ? got > want : got != want)
            fail_msg("%s: got %lld keys, want %lld", key, (long long)got, (long long)want);
    }
    const struct json *error = json_get(run, "output_rel_err_vs_dense");
    struct safetensors *inputs = golden_open(GOLDEN "inputs.safetensors");
    float *dense = golden_f32(inputs, name, "dense_out");
    safetensors_close(inputs);
    if (json_is_number(error)) {
        double got = relative_error(ours.out, dense, n_outputs(&in)), want = json_number(error, -1);
        if (fabs(got - want) > 2e-5 * (1 + want))
            fail_msg("%s: error against dense: got %.8g, want %.8g", key, got, want);
    }
    free(dense);
    run_result_free(&ours);
    attention_input_free(&in);
}

static bool has_masker(const struct stack *s, const char *name)
{
    for (int i = 0; i < s->n; i++)
        if (strcmp(s->items[i].masker->name, name) == 0)
            return true;
    return false;
}

/* The reference draws SOCKET's planes of one shape from one seed: those of a case are recorded with
 * the section's own runs.  False: not for this case. */
static bool take_socket_planes(struct checker *c, const struct json *run, struct stack *stack)
{
    char key[160];
    struct safetensors *file = golden_open(GOLDEN "socket.safetensors");
    snprintf(key, sizeof key, "%s/K6_L5_t0.5_h0.2", json_string(json_get(run, "case")));
    bool found = golden_find(file, key, "planes") != NULL;
    if (found) {
        take_planes(c, file, key);
        use_masker_file(stack, c->masker_file);
        c->masker_file[0] = 0;
    }
    safetensors_close(file);
    return found;
}

static void test_stacks_in_any_order_equal_the_reference(void **state)
{
    struct checker *c = *state;
    const struct json *runs = json_get(golden_section(c->manifest, "stacks_order"), "runs");
    int n = 0;
    for (const struct json *run = json_first(runs); run; run = json_next(run)) {
        struct stack stack;
        struct error err = {0};
        if (!parse_config(&stack, run, &err)) { /* a masker that is not here */
            if (!strstr(err.text, "there is no masker of type"))
                fail_msg("%s", err.text);
            continue;
        }
        n++;
        bool here = true;
        if (has_masker(&stack, "socket"))
            here = index_is_there(c, INDEX_BUCKETS) && take_socket_planes(c, run, &stack);
        if (here)
            check_stack_order(c, run, &stack);
    }
    print_message("stacks_order: %d of %zu stacks\n", n, json_count(runs));
    assert_int_equal(n, 70);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_causal_equals_the_reference),
        cmocka_unit_test(test_local_equals_the_reference),
        cmocka_unit_test(test_sink_equals_the_reference),
        cmocka_unit_test(test_oracle_top_k_equals_the_reference),
        cmocka_unit_test(test_oracle_top_p_equals_the_reference),
        cmocka_unit_test(test_stacks_in_any_order_equal_the_reference),
    };
    if (!test_backend_opens())
        return TEST_SKIPPED;
    return cmocka_run_group_tests(tests, setup, teardown);
}
