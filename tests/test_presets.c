/* Presets: those that are shipped, and what --stack and samples accept. */
#include "presets/preset.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/temp_folder.h"

#include <cmocka.h>

#define PRESETS ATTNSCOPE_SOURCE_DIR "/presets"

static int use_source_presets(void **state)
{
    (void)state;
    return setenv("ATTNSCOPE_PRESETS", PRESETS, 1);
}

static void expect_stack(const char *spec, const char *want)
{
    struct stack s;
    struct error err = {0};
    if (!preset_stack(&s, spec, &err))
        fail_msg("%s: refused: %s", spec, err.text);
    struct buf got = {0};
    stack_write_short(&s, &got);
    if (strcmp(got.data, want) != 0)
        fail_msg("%s: got %s, want %s", spec, got.data, want);
    buf_free(&got);
}

static void expect_refused(const char *spec, const char *said, enum exit_code code)
{
    struct stack s;
    struct error err = {0};
    if (preset_stack(&s, spec, &err))
        fail_msg("accepted: %s", spec);
    if (!strstr(err.text, said) || err.code != code)
        fail_msg("%s: got \"%s\" (code %d), want \"%s\" (code %d)", spec, err.text, err.code, said,
                 code);
}

static void test_stack_option_takes_names_files_json_and_short_forms(void **state)
{
    (void)state;
    expect_stack("dense", "dense");
    expect_stack("streaming-llm", "sink:4,local:64");
    expect_stack("oracle-k", "sink:4,local:64,oracle-topk:5%");
    expect_stack("random", "sink:4,local:64,random:0.1");
    expect_stack("random:0.1", "random:0.1");
    expect_stack("sink:8", "sink:8");
    expect_stack("sink", "sink:128");
    expect_stack("{\"stack\":[{\"masker\":\"sink\",\"sink_size\":3}]}", "sink:3");
    expect_stack(PRESETS "/stacks/oracle-p.json", "sink:4,local:64,oracle-topp:0.9");
    expect_stack("sink:4,double-sparsity:8:channels=a/b.json",
                 "sink:4,double-sparsity:8:channels=a/b.json");
    expect_stack("quest-layers", "sink:4,local:64,quest:10%; layers 0-1: dense");
    expect_stack("tidal", "reuse:4; layers 0-1: dense; layers 2,4: sink:4,local:64,"
                          "oracle-topk:5%; layers 3: reuse:2");
    expect_stack("dense; layers 0: double-sparsity:8:channels=a.json",
                 "dense; layers 0: double-sparsity:8:channels=a.json");
    expect_stack("sink; layers 0: double-sparsity:8:channels=a.json",
                 "sink:128; layers 0: double-sparsity:8:channels=a.json");
}

static void test_bad_stack_options_say_what_there_is(void **state)
{
    (void)state;
    expect_refused("oracle-q", "attnscope stacks lists presets and maskers", EXIT_CODE_USAGE);
    expect_refused("oracle-q", "did you mean", EXIT_CODE_USAGE);
    expect_refused("/nonexistent/stack.json", "/nonexistent/stack.json", EXIT_CODE_INVALID);
    expect_refused("../stacks/dense", "there is no masker", EXIT_CODE_USAGE);
    expect_refused(PRESETS "/samples/paris.json", "paris.json: a stack is an array",
                   EXIT_CODE_INVALID);
    expect_refused("sink:0", "sink_size must be > 0", EXIT_CODE_USAGE);
    expect_refused("quest-layers; layers 0: dense", "there is no masker", EXIT_CODE_USAGE);
    expect_refused("", "the stack is empty", EXIT_CODE_USAGE);
}

/* The reference project's stacks, and those of the papers. */
static void test_canonical_stacks_are_shipped(void **state)
{
    (void)state;
    expect_stack("streaming-llm-128", "sink:128,local:512");
    expect_stack("oracle-k-128", "sink:128,local:128,oracle-topk:10%");
    expect_stack("oracle-p-128", "sink:128,local:128,oracle-topp:0.9");
    expect_stack("random-128", "sink:128,local:128,random:0.1");
    expect_stack("hash-128", "sink:128,local:128,hash:10%");
    expect_stack("quest-128", "sink:128,local:128,quest:10%");
    expect_stack("double-sparsity-128", "sink:128,local:128,double-sparsity:10%");
    expect_stack("socket-128", "sink:128,local:128,socket:20%:bits=12:tables=60");
    expect_stack("magicpig", "sink:4,local:64,magicpig:75");
    expect_stack("pq", "sink:4,local:64,pq:10%:init_offset=4");
    expect_stack("pq-128", "sink:128,local:128,pq:10%");
    expect_stack("magicpig-paper", "sink:4,local:64,magicpig:150:bits=10:hits=2");
    expect_stack("vattention-oracle", "sink:128,local:128,oracle-topk:2.5%,adaptive:2.5%");
    expect_stack("vattention-hash", "sink:128,local:128,hash:2.5%,adaptive:2.5%");
    expect_stack("streaming-llm-paper", "sink:4,local:1020");
    expect_stack("hash-paper", "hash:6.25%");
    expect_stack("double-sparsity-paper", "double-sparsity:6.25%");
    expect_stack("quest-twilight", "quest:25%:top_p=0.85");
    expect_stack("double-sparsity-twilight",
                 "double-sparsity:25%:group_factor=2:label_bits=2:top_p=0.85");
}

static void test_every_shipped_stack_is_legal_and_described(void **state)
{
    (void)state;
    struct preset_list list = preset_list_stacks();
    assert_true(list.n >= 5);
    assert_string_equal(list.entries[0].name, "dense");
    for (size_t i = 0; i < list.n; i++) {
        struct stack s;
        struct error err = {0};
        if (!preset_stack(&s, list.entries[i].name, &err))
            fail_msg("%s: %s", list.entries[i].name, err.text);
        assert_string_equal(s.name, list.entries[i].name);
        assert_true(list.entries[i].title[0] && list.entries[i].source[0]);
        struct buf warnings = {0};
        stack_warn(&s, 4096, &warnings);
        if (warnings.len)
            fail_msg("%s: %s", s.name, warnings.data);
    }
    preset_list_free(&list);
}

static void test_every_shipped_sample_has_a_context_and_questions(void **state)
{
    (void)state;
    struct preset_list list = preset_list_samples();
    assert_true(list.n >= 3);
    assert_string_equal(list.entries[0].name, "paris");
    for (size_t i = 0; i < list.n; i++) {
        struct sample s;
        struct error err = {0};
        if (!preset_sample(&s, list.entries[i].name, &err))
            fail_msg("%s: %s", list.entries[i].name, err.text);
        assert_string_equal(s.name, list.entries[i].name);
        assert_true(s.title[0] && s.n_context > 40 && s.n_questions >= 2);
        assert_int_equal(strlen(s.context), s.n_context);
        sample_free(&s);
    }
    preset_list_free(&list);
}

static void test_the_needle_lies_in_its_sample_once(void **state)
{
    (void)state;
    struct sample s;
    struct error err = {0};
    assert_true(preset_sample(&s, "needle-4k", &err));
    const char *at = strstr(s.context, "for quiet harbor is: 7402913.");
    assert_non_null(at);
    assert_null(strstr(at + strlen("for quiet harbor is: 7402913"), "7402913"));
    sample_free(&s);
}

static void test_bad_samples_are_refused_with_file_and_rule(void **state)
{
    (void)state;
    static const struct {
        const char *text, *said;
    } cases[] = {
        {"{\"questions\":[\"q\"]}", "exactly one of \"context\" and \"context_file\""},
        {"{\"context\":\"a\",\"context_file\":\"b\",\"questions\":[\"q\"]}", "exactly one of"},
        {"{\"context_file\":\"missing.txt\",\"questions\":[\"q\"]}", "missing.txt"},
        {"{\"context\":\"a\"}", "at least one question"},
        {"{\"context\":\"a\",\"questions\":[]}", "at least one question"},
        {"{\"context\":\"a\",\"questions\":[\"q\",3]}", "question 2 is not a string"},
        {"[", "line 1"},
    };
    struct temp_folder folder = temp_folder_make();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        temp_write_text(&folder, "bad.json", cases[i].text);
        struct sample s;
        struct error err = {0};
        if (preset_sample(&s, temp_path(&folder, "bad.json"), &err))
            fail_msg("accepted: %s", cases[i].text);
        if (!strstr(err.text, cases[i].said) || !strstr(err.text, folder.path))
            fail_msg("%s: got \"%s\", want \"%s\"", cases[i].text, err.text, cases[i].said);
    }
    temp_folder_remove(&folder);
    struct sample s;
    struct error err = {0};
    assert_false(preset_sample(&s, "pariss", &err));
    assert_non_null(strstr(err.text, "there are: paris, needle-4k"));
}

static void test_the_embedded_model_is_found(void **state)
{
    (void)state;
    char *path = preset_model_folder();
    assert_non_null(path);
    assert_string_equal(path, PRESETS "/model");
    free(path);
}

static void test_a_wrong_folder_is_named(void **state)
{
    (void)state;
    setenv("ATTNSCOPE_PRESETS", "/nonexistent", 1);
    struct error err = {0};
    assert_null(preset_folder(&err));
    assert_non_null(strstr(err.text, "/nonexistent: $ATTNSCOPE_PRESETS names no folder"));
    assert_null(preset_model_folder());
    struct preset_list list = preset_list_stacks();
    assert_int_equal(list.n, 0);
    preset_list_free(&list);
    expect_stack("sink:4", "sink:4"); /* needs no presets */
    expect_stack("dense", "dense");
    setenv("ATTNSCOPE_PRESETS", PRESETS, 1);
}

static void test_without_the_variable_the_source_tree_serves(void **state)
{
    (void)state;
    unsetenv("ATTNSCOPE_PRESETS");
    expect_stack("streaming-llm", "sink:4,local:64");
    setenv("ATTNSCOPE_PRESETS", PRESETS, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stack_option_takes_names_files_json_and_short_forms),
        cmocka_unit_test(test_bad_stack_options_say_what_there_is),
        cmocka_unit_test(test_canonical_stacks_are_shipped),
        cmocka_unit_test(test_every_shipped_stack_is_legal_and_described),
        cmocka_unit_test(test_every_shipped_sample_has_a_context_and_questions),
        cmocka_unit_test(test_the_needle_lies_in_its_sample_once),
        cmocka_unit_test(test_bad_samples_are_refused_with_file_and_rule),
        cmocka_unit_test(test_the_embedded_model_is_found),
        cmocka_unit_test(test_a_wrong_folder_is_named),
        cmocka_unit_test(test_without_the_variable_the_source_tree_serves),
    };
    return cmocka_run_group_tests(tests, use_source_presets, NULL);
}
