/* `debug attention`: what it refuses, and what it writes. */
#include "engine/attention/attention_case.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/file.h"
#include "tests/golden_maskers.h"
#include "tests/temp_folder.h"

#include <cmocka.h>

static struct temp_folder folder;

static int setup(void **state)
{
    (void)state;
    folder = temp_folder_make();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    temp_folder_remove(&folder);
    return 0;
}

static bool run(const char *tensors, const char *name, const char *stack_text, struct error *err)
{
    struct stack stack;
    char out[512];
    if (!stack_parse(&stack, stack_text, err))
        fail_msg("%s", err->text);
    snprintf(out, sizeof out, "%s", temp_path(&folder, "out.safetensors"));
    struct attention_case_options options = {.tensors = tensors,
                                             .name = name,
                                             .out = out,
                                             .stack = &stack,
                                             .backend = "cpu",
                                             .n_threads = 1,
                                             .seed = 5};
    return attention_case_run(&options, err);
}

static void expect_refused(const char *tensors, const char *name, const char *said)
{
    struct error err = {0};
    if (run(tensors, name, "sink:4", &err))
        fail_msg("%s accepted", name);
    if (!strstr(err.text, said))
        fail_msg("%s: got \"%s\", want \"%s\"", name, err.text, said);
}

/* Case "c": q, k, v of the given shapes in F32, and allowed [1, 1, Q, K] if not NULL. */
static void expect_shapes_refused(const uint64_t q[4], const uint64_t k[4], const uint64_t v[4],
                                  const uint8_t *allowed, const char *said)
{
    static const float zeros[4096];
    char path[512];
    struct error err = {0};
    struct safetensors_out tensors[4] = {{"c/q", "F32", 4, {q[0], q[1], q[2], q[3]}, zeros},
                                         {"c/k", "F32", 4, {k[0], k[1], k[2], k[3]}, zeros},
                                         {"c/v", "F32", 4, {v[0], v[1], v[2], v[3]}, zeros},
                                         {"c/allowed", "U8", 4, {1, 1, q[2], k[2]}, allowed}};
    snprintf(path, sizeof path, "%s", temp_path(&folder, "in.safetensors"));
    if (!safetensors_write(path, tensors, allowed ? 4 : 3, &err))
        fail_msg("%s", err.text);
    expect_refused(path, "c", said);
}

static void test_bad_cases_are_refused_with_the_rule(void **state)
{
    (void)state;
    expect_refused("/nonexistent.safetensors", "c", "/nonexistent.safetensors");
    expect_refused(GOLDEN "inputs.safetensors", "nothing", "there is no tensor nothing/q");
    const uint64_t q[4] = {1, 4, 2, 16}, k[4] = {1, 2, 3, 16}, other[4] = {1, 2, 4, 16};
    const uint64_t three[4] = {1, 3, 3, 16}, narrow[4] = {1, 2, 3, 8}, one[4] = {1, 2, 1, 16};
    expect_shapes_refused(q, k, other, NULL, "c/k and c/v must have the same shape");
    expect_shapes_refused(q, narrow, narrow, NULL, "must agree in B and D");
    expect_shapes_refused(q, three, three, NULL, "4 query heads are no multiple of 3 KV heads");
    expect_shapes_refused(q, one, one, NULL, "more queries than c/k has keys");
    static const uint8_t holes[6] = {1, 0, 0, 1, 1, 1}, hidden[6] = {0, 0, 0, 0, 0, 0};
    static const uint8_t future[6] = {1, 1, 1, 1, 1, 1};
    expect_shapes_refused(q, k, k, holes, "must be causal, with padding at most on the left");
    expect_shapes_refused(q, k, k, hidden, "must be causal, with padding at most on the left");
    expect_shapes_refused(q, k, k, future, "must be causal, with padding at most on the left");
}

static void test_an_unknown_backend_is_named(void **state)
{
    (void)state;
    struct error err = {0};
    struct stack stack = {0};
    struct attention_case_options options = {.tensors = GOLDEN "inputs.safetensors",
                                             .name = "short_q1",
                                             .out = temp_path(&folder, "out.safetensors"),
                                             .stack = &stack,
                                             .backend = "abacus"};
    assert_false(attention_case_run(&options, &err));
    assert_non_null(strstr(err.text, "abacus"));
    assert_int_equal(err.code, EXIT_CODE_NO_DEVICE);
}

static void test_sampled_rows_are_written_with_their_probabilities(void **state)
{
    (void)state;
    struct error err = {0};
    if (!run(GOLDEN "inputs.safetensors", "gqa_q5_k200", "sink:4,random:0.1", &err))
        fail_msg("%s", err.text);
    struct safetensors *file = golden_open(temp_path(&folder, "out.safetensors"));
    struct golden_mask m = golden_mask_read(file, "");
    assert_string_equal(safetensors_find(file, "col")->dtype, "I16");
    assert_string_equal(safetensors_find(file, "ptr")->dtype, "I32");
    assert_non_null(m.val);
    for (int row = 0; row < 8 * 5; row++) {
        /* Row i of 5 sees 196 + i keys, 4 of which the sink has; 20 of the rest are drawn. */
        float p = 20.0f / (float)(192 + row % 5);
        assert_int_equal(m.ptr[row + 1] - m.ptr[row], 24);
        for (int64_t at = m.ptr[row]; at < m.ptr[row + 1]; at++)
            assert_float_equal(m.val[at], m.col[at] < 4 ? 1 : p, 1e-7);
    }
    golden_mask_free(&m);
    safetensors_close(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_cases_are_refused_with_the_rule),
        cmocka_unit_test(test_an_unknown_backend_is_named),
        cmocka_unit_test(test_sampled_rows_are_written_with_their_probabilities),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
