/* Chat templates: the same bytes as Jinja2 (tests/reference/make_template_golden.py), every budget
 * an error of its own, the choice of the template, and the frame around a question. */
#include "engine/text/chat_template.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/temp_folder.h"

#define GOLDEN ATTNSCOPE_SOURCE_DIR "/tests/golden/templates/"
#define MAX_GOLDEN_BYTES ((uint64_t)8 << 20)
#define NOW 1720000000

/* Renders source; NULL with err filled on failure.  The caller frees. */
static char *render(const char *source, const struct json *variables, struct error *err)
{
    struct buf out = {0};
    struct chat_template *t = chat_template_compile(source, strlen(source), "t.json", err);
    bool ok = t && chat_template_render(t, variables, NOW, &out, err);
    chat_template_free(t);
    if (!ok) {
        assert_int_equal(out.len, 0);
        return NULL;
    }
    return buf_take(&out);
}

static void expect_output(const char *source, const char *want)
{
    struct error err = {0};
    char *got = render(source, NULL, &err);
    if (!got || strcmp(got, want) != 0)
        fail_msg("%s\n got %s\nwant %s", source, got ? got : err.text, want);
    free(got);
}

static void expect_error(const char *source, const char *said)
{
    struct error err = {0};
    char *got = render(source, NULL, &err);
    if (got || !strstr(err.text, said) || strncmp(err.text, "t.json: ", 8) != 0)
        fail_msg("%.300s\n got %s\nwant an error with: %s", source, got ? got : err.text, said);
    free(got);
}

static struct json *load_golden(const char *name)
{
    char path[512];
    struct error err = {0};
    snprintf(path, sizeof path, GOLDEN "%s", name);
    struct json *golden = json_parse_file(path, MAX_GOLDEN_BYTES, &err);
    if (!golden)
        fail_msg("%s", err.text);
    return golden;
}

/* want NULL: Jinja2 ends with an error. */
static void expect_golden(const char *what, const char *source, const struct json *variables,
                          const char *want, int *n_wrong)
{
    struct error err = {0};
    char *got = render(source, variables, &err);
    if ((got != NULL) != (want != NULL) || (got && strcmp(got, want) != 0)) {
        print_error("%s\n got %s\nwant %s\n", what, got ? got : err.text, want ? want : "an error");
        ++*n_wrong;
    }
    if (!got && !err.text[0])
        fail_msg("%s: an error without a sentence", what);
    free(got);
}

static void test_conversations_render_as_jinja2_renders_them(void **state)
{
    (void)state;
    struct json *golden = load_golden("conversations.json");
    int n_wrong = 0, n_seen = 0;
    const struct json *t = json_first(json_get(golden, "templates"));
    for (; t; t = json_next(t)) {
        const struct json *want = json_first(json_get(json_get(golden, "rendered"), json_key(t)));
        const struct json *c = json_first(json_get(golden, "conversations"));
        for (; c; c = json_next(c), want = json_next(want), n_seen++) {
            char what[128];
            snprintf(what, sizeof what, "%s, %s", json_key(t), json_string(json_get(c, "label")));
            expect_golden(what, json_string(t), json_get(c, "variables"), json_string(want),
                          &n_wrong);
        }
    }
    json_free(golden);
    assert_int_equal(n_wrong, 0);
    assert_true(n_seen >= 12 * 12);
}

static void test_expressions_have_the_values_of_jinja2(void **state)
{
    (void)state;
    struct json *golden = load_golden("expressions.json");
    const struct json *e = json_first(json_get(golden, "expressions"));
    int n_wrong = 0, n_seen = 0;
    for (; e; e = json_next(e), n_seen++) {
        struct buf source = {0};
        const char *expression = json_string(json_get(e, "expression"));
        buf_printf(&source, "{{ %s }}", expression);
        expect_golden(expression, source.data, json_get(golden, "variables"),
                      json_string(json_get(e, "out")), &n_wrong);
        buf_free(&source);
    }
    json_free(golden);
    assert_int_equal(n_wrong, 0);
    assert_true(n_seen > 500);
}

static void test_white_space_around_tags_is_trimmed_as_jinja2_trims_it(void **state)
{
    (void)state;
    expect_output("a\n  {% if true %}\nb\n  {% endif %}\nc\n", "a\nb\nc");
    expect_output("a  {% if true %}\n\nb{% endif %}", "a  \nb");
    expect_output("a \n {%- if true -%} \n b \n {%- endif %}", "ab");
    expect_output("a\n  {%+ if true +%}\nb{% endif %}", "a\n  \nb");
    expect_output("  {{ 1 }}\n  {{- 2 -}}  \n3", "  123");
    expect_output("x\n  {# note #}\ny{#- n -#}\n z", "x\nyz");
    expect_output("{% raw %}{{ a }}{% b %}{% endraw %}\n.", "{{ a }}{% b %}.");
    expect_output("a\r\nb\rc\r\n", "a\nb\nc");
    expect_output("a\n\n", "a\n");
    expect_output("{{ {'a': {'b': 1}} }}", "{'a': {'b': 1}}");
}

static void test_a_set_in_a_loop_ends_with_the_iteration_and_a_namespace_stays(void **state)
{
    (void)state;
    expect_output("{% set x = 0 %}{% for i in [1, 2] %}{{ x }}{% set x = i %}{% endfor %}{{ x }}",
                  "000");
    expect_output("{% set n = namespace(x=0) %}{% for i in [1, 2] %}{% set n.x = n.x + i %}"
                  "{% endfor %}{{ n.x }}",
                  "3");
    expect_output("{% if true %}{% set x = 1 %}{% endif %}{{ x }}", "1");
    expect_error("{% set x = {} %}{% set x.a = 1 %}", "`x` is not a namespace");
    expect_output("{% macro f() %}{{ y }}{% endmacro %}{% set y = 2 %}{{ f() }}", "2");
}

/* The filter of a loop sees what its body did; loop.last looks one item ahead. */
static void test_a_loop_filter_is_asked_item_by_item(void **state)
{
    (void)state;
    expect_output("{% set n = namespace(stop=false) %}{% for i in [1, 2, 3] if not n.stop %}"
                  "{{ i }}{% set n.stop = true %}{% endfor %}",
                  "1");
    expect_output("{% for i in [1, 2, 3, 4] if i is odd %}{{ i }}{{ loop.last }}{{ loop.length }}"
                  "{% endfor %}",
                  "1False23True2");
    expect_output("{% for i in [1, 2] %}{% continue %}{% else %}none{% endfor %}", "none");
}

static void test_what_the_language_lacks_is_named_when_compiling(void **state)
{
    (void)state;
    static const char *const TAGS[] = {"include 'x'", "extends 'x'", "import 'x' as y",
                                       "from 'x' import y", "block b"};
    for (size_t i = 0; i < sizeof TAGS / sizeof *TAGS; i++) {
        struct error err = {0};
        char source[64], want[64];
        snprintf(source, sizeof source, "a\n{%% %s %%}", TAGS[i]);
        snprintf(want, sizeof want, "`{%% %.*s %%}` is not supported", (int)strcspn(TAGS[i], " "),
                 TAGS[i]);
        struct chat_template *t = chat_template_compile(source, strlen(source), "t.json", &err);
        if (t || !strstr(err.text, want) || !strstr(err.text, "line 2"))
            fail_msg("%s: got %s", source, t ? "a template" : err.text);
    }
    expect_error("{% for x in y recursive %}{% endfor %}", "recursive");
    expect_error("{% frobnicate %}", "unknown statement `{% frobnicate %}`");
    expect_error("{{ 'a'|frob }}", "the filter `frob` is not supported");
    expect_error("{{ 1 is frob }}", "the test `frob` is not supported");
    expect_error("{{ 'a'.encode() }}", "the method string.encode is not supported");
}

static void test_errors_name_the_file_the_line_and_the_thing(void **state)
{
    (void)state;
    expect_error("a\nb\n{{ missing.x }}",
                 "chat template, line 3: `missing` is undefined, so it has no attribute `x`");
    expect_error("\n\n\n{% if %}", "line 4: expected an expression, found `%}`");
    expect_error("{% if true %}\n", "the template ends before `{% endif %}`");
    expect_error("{{ 1 + }}", "expected an expression, found `}}`");
    expect_error("{{ 'a }}", "a string is not closed");
    expect_error("{# a", "a comment is not closed");
    expect_error("{% raw %}", "a raw block is not closed");
    expect_error("{{ 1 + 'a' }}", "`+` cannot join an int and a string");
    expect_error("{{ raise_exception('No ' ~ 'roles') }}",
                 "the template refuses these messages: No roles");
    expect_error("{{ 9223372036854775807 + 1 }}", "does not fit a 64-bit integer");
}

static void test_the_source_is_bounded(void **state)
{
    (void)state;
    struct error err = {0};
    size_t n = ((size_t)1 << 20) + 1;
    char *source = malloc(n);
    memset(source, 'a', n);
    assert_null(chat_template_compile(source, n, "t.json", &err));
    assert_non_null(strstr(err.text, "more than the limit of 1 MiB"));
    struct chat_template *t = chat_template_compile(source, n - 1, "t.json", &err);
    assert_non_null(t);
    chat_template_free(t);
    free(source);
    assert_null(chat_template_compile("a\xFF", 2, "t.json", &err));
    assert_non_null(strstr(err.text, "not valid UTF-8 at byte 1"));
}

/* part repeated n times between begin and end. */
static char *repeated(const char *begin, const char *part, size_t n, const char *end)
{
    struct buf b = {0};
    buf_append_str(&b, begin);
    for (size_t i = 0; i < n; i++)
        buf_append_str(&b, part);
    buf_append_str(&b, end);
    return buf_take(&b);
}

/* Python's sorted() takes a bool or a C int; Jinja2 3.1 passes the rest on, to a TypeError. */
static void test_the_reverse_of_a_sort_is_true_or_false(void **state)
{
    (void)state;
    expect_output("{{ [1, 2]|sort(reverse=1) }}", "[2, 1]");
    expect_output("{{ [2, 1]|sort(reverse=false) }}", "[1, 2]");
    static const char *const others[] = {"[1]", "none", "1.0", "'x'", "missing", "3000000000"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        char source[80];
        snprintf(source, sizeof source, "{{ [1, 2]|sort(reverse=%s) }}", others[i]);
        expect_error(source, "true or false");
        snprintf(source, sizeof source, "{{ {'a': 1}|dictsort(reverse=%s) }}", others[i]);
        expect_error(source, "true or false");
    }
}

static void expect_error_in(char *source, const char *said)
{
    expect_error(source, said);
    free(source);
}

static void test_parts_and_nesting_are_bounded(void **state)
{
    (void)state;
    expect_error_in(repeated("", "{{a}}", 60000, ""), "more than 100000 parts");
    static const char *const OPENERS[] = {"(", "[", "{1:", "-", "not ", "a[", "f(", "1 if 1 else "};
    for (size_t i = 0; i < sizeof OPENERS / sizeof *OPENERS; i++)
        expect_error_in(repeated("{{ ", OPENERS[i], 5000, "1 }}"), "deep, the limit");
    expect_error_in(repeated("", "{% if 1 %}", 5000, ""), "nested more than 200 deep");
    expect_error_in(repeated("", "{% for x in y %}", 5000, ""), "nested more than 200 deep");
}

static void test_long_chains_are_no_nesting(void **state)
{
    (void)state;
    static const char *const PARTS[] = {" + 1", " and 1", " ~ 1", "|int", " * 1"};
    for (size_t i = 0; i < sizeof PARTS / sizeof *PARTS; i++) {
        struct error err = {0};
        char *source = repeated("{{ 1", PARTS[i], 5000, " }}");
        char *got = render(source, NULL, &err);
        if (!got)
            fail_msg("5000 times %s: %s", PARTS[i], err.text);
        free(got);
        free(source);
    }
}

static void test_steps_and_time_run_out(void **state)
{
    (void)state;
    /* Either may come first: which one depends on the machine. */
    expect_error_in(
        repeated("{% for a in range(99999) %}{% if 1", " + 1", 900, "%}{% endif %}{% endfor %}"),
        "the template runs for more than ");
    expect_error("{% set n = namespace(s='a' * 9000000) %}{% for i in range(99999) %}"
                 "{% if 'b' in n.s %}{% endif %}{% endfor %}",
                 "the template runs for more than ");
}

static void test_macro_depth_and_ranges_are_bounded(void **state)
{
    (void)state;
    expect_error("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
                 "macros call each other more than 100 deep");
    expect_output("{% macro f(n) %}{{ f(n - 1) if n }}{{ n }}{% endmacro %}{{ f(9) }}",
                  "0123456789");
    expect_error("{{ range(100001) }}", "a range is longer than 100000");
    expect_error("{{ range(9223372036854775807) }}", "a range is longer than 100000");
}

/* Macros at their deepest, each deeply nested inside: the stack must hold. */
static void test_nesting_times_macro_depth_is_bounded(void **state)
{
    (void)state;
    char *inner = repeated("{% macro f(n) %}{{ ", "[", 90, "f(n + 1)");
    char *source = repeated(inner, "]", 90, " }}{% endmacro %}{{ f(0) }}");
    expect_error_in(source, "nested more than 2500 deep");
    free(inner);
}

static void test_strings_output_and_memory_are_bounded(void **state)
{
    (void)state;
    expect_error("{{ 'a' * 99999999 }}", "a string is longer than 16 MiB");
    expect_error("{{ 'a'.center(99999999) }}", "a string is longer than 16 MiB");
    expect_error("{{ 'aaaa'|replace('', 'b' * 9000000) }}", "a string is longer than 16 MiB");
    expect_error("{% set s = 'a' * 9000000 %}{% for i in range(9) %}{{ s }}{% endfor %}",
                 "the output is longer than 64 MiB");
    expect_error("{% set n = namespace(l=[1]) %}{% for i in range(40) %}{% set n.l = n.l + n.l %}"
                 "{% endfor %}",
                 "needs more than 256 MiB of memory");
    expect_error("{% set n = namespace(l=[]) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}"
                 "{% endfor %}{{ n.l }}",
                 "the template runs for more than ");
    expect_error("{% set n = namespace(a=[], b=[]) %}{% for i in range(60) %}"
                 "{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% endfor %}"
                 "{{ n.a == n.b }}",
                 "the template runs for more than ");
    expect_error("{% set n = namespace(l=[]) %}{% for i in range(9999) %}{% set n.l = [n.l] %}"
                 "{% endfor %}{{ n.l }}",
                 "nested more than 2500 deep");
    expect_error("{% set n = namespace(l=[]) %}{% for i in range(9999) %}{% set n.l = [n.l] %}"
                 "{% endfor %}{{ n.l|tojson }}",
                 "nested more than 2500 deep");
    expect_error("{% set n = namespace() %}{% set n.n = n %}{{ n }}", "nested more than 2500 deep");
}

static void test_the_clock_of_a_template_is_the_callers(void **state)
{
    (void)state;
    expect_output("{{ strftime_now('%Y-%m-%d %H:%M:%S') }}", "2024-07-03 09:46:40");
}

static void test_a_folder_template_file_wins_over_the_configuration(void **state)
{
    (void)state;
    struct temp_folder f = temp_folder_make();
    struct error err = {0};
    struct chat_template *t;
    assert_true(chat_template_open(&t, f.path, &err));
    assert_null(t);

    temp_write_text(&f, "chat_template.json", "{\"chat_template\": \"json\"}");
    assert_true(chat_template_open(&t, f.path, &err));
    assert_string_equal(chat_template_source(t), "chat_template.json");
    chat_template_free(t);

    temp_write_text(&f, "tokenizer_config.json", "{\"chat_template\": \"config\"}");
    assert_true(chat_template_open(&t, f.path, &err));
    assert_string_equal(chat_template_source(t), "tokenizer_config.json");
    chat_template_free(t);

    temp_write_text(&f, "chat_template.jinja", "file");
    assert_true(chat_template_open(&t, f.path, &err));
    assert_string_equal(chat_template_source(t), "chat_template.jinja");
    chat_template_free(t);
    temp_folder_remove(&f);
}

static void test_the_default_of_several_templates_is_taken(void **state)
{
    (void)state;
    struct temp_folder f = temp_folder_make();
    struct error err = {0};
    struct buf out = {0};
    struct chat_template *t;
    temp_write_text(&f, "tokenizer_config.json",
                    "{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"tools\"},"
                    "{\"name\": \"default\", \"template\": \"plain\"}]}");
    assert_true(chat_template_open(&t, f.path, &err));
    assert_true(chat_template_render(t, NULL, NOW, &out, &err));
    assert_string_equal(out.data, "plain");
    buf_free(&out);
    chat_template_free(t);
    temp_folder_remove(&f);
}

static void test_a_broken_template_is_an_error_and_not_a_base_model(void **state)
{
    (void)state;
    static const struct {
        const char *file, *text, *said;
    } cases[] = {
        {"chat_template.jinja", "{% if %}", "chat_template.jinja: chat template, line 1"},
        {"tokenizer_config.json", "{\"chat_template\": \"{{\"}", "tokenizer_config.json: chat"},
        {"tokenizer_config.json", "{\"chat_template\": 5}", "neither a string nor a list"},
        {"tokenizer_config.json", "{\"chat_template\": []}", "neither a string nor a list"},
        {"tokenizer_config.json", "{", "tokenizer_config.json"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct temp_folder f = temp_folder_make();
        struct error err = {0};
        struct chat_template *t;
        temp_write_text(&f, cases[i].file, cases[i].text);
        if (chat_template_open(&t, f.path, &err) || t || !strstr(err.text, cases[i].said))
            fail_msg("%s %s: got \"%s\"", cases[i].file, cases[i].text, err.text);
        temp_folder_remove(&f);
    }
}

static void expect_frame(const char *source, const char *want_prefix, const char *want_suffix)
{
    struct error err = {0};
    struct buf prefix = {0}, suffix = {0};
    struct chat_special_tokens special = {.bos = "<s>", .eos = "</s>"};
    struct chat_template *t = chat_template_compile(source, strlen(source), "t.json", &err);
    if (!t || !chat_template_frame(t, &special, NOW, &prefix, &suffix, &err))
        fail_msg("%s: %s", source, err.text);
    assert_string_equal(prefix.data ? prefix.data : "", want_prefix);
    assert_string_equal(suffix.data ? suffix.data : "", want_suffix);
    buf_free(&prefix);
    buf_free(&suffix);
    chat_template_free(t);
}

static void test_a_frame_is_what_stands_around_the_question(void **state)
{
    (void)state;
    expect_frame(
        "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
        "<s><user>", "</s><assistant>");
    expect_frame("[{{ messages[0]['content'] | trim }}]", "[", "]");
    expect_frame("{{ messages[0].content.split('</think>')[-1] }}", "", "");
    expect_frame("{{ messages[0].content }}{% if enable_thinking is defined and not "
                 "enable_thinking %}off{% endif %}",
                 "", "off");
    expect_frame("{{ unk_token is defined }}{{ messages[0].content }}{{ tools }}", "False", "None");
}

static void test_the_embedded_models_frame_is_chatml(void **state)
{
    (void)state;
    struct error err = {0};
    struct buf prefix = {0}, suffix = {0};
    struct chat_template *t;
    if (!chat_template_open(&t, ATTNSCOPE_SOURCE_DIR "/presets/model", &err) ||
        !chat_template_frame(t, NULL, NOW, &prefix, &suffix, &err))
        fail_msg("%s", err.text);
    assert_string_equal(prefix.data, "<|im_start|>user\n");
    assert_string_equal(suffix.data, "<|im_end|>\n<|im_start|>assistant\n");
    buf_free(&prefix);
    buf_free(&suffix);
    chat_template_free(t);
}

static void test_without_a_template_the_frame_is_empty(void **state)
{
    (void)state;
    struct error err = {0};
    struct buf prefix = {0}, suffix = {0};
    assert_true(chat_template_frame(NULL, NULL, NOW, &prefix, &suffix, &err));
    assert_int_equal(prefix.len + suffix.len, 0);
}

static void test_a_template_that_changes_the_question_has_no_frame(void **state)
{
    (void)state;
    static const struct {
        const char *source, *said;
    } cases[] = {
        {"{{ messages[0].content }}{{ messages[0].content }}", "more than once"},
        {"{{ messages[0].content | upper }}", "changed or not at all"},
        {"{{ messages[0].content[1:] }}", "changed or not at all"},
        {"hello", "changed or not at all"},
        {"{{ raise_exception('no') }}", "refuses these messages: no"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error err = {0};
        struct buf prefix = {0}, suffix = {0};
        struct chat_template *t =
            chat_template_compile(cases[i].source, strlen(cases[i].source), "t.json", &err);
        assert_non_null(t);
        if (chat_template_frame(t, NULL, NOW, &prefix, &suffix, &err) ||
            !strstr(err.text, cases[i].said) || prefix.len || suffix.len)
            fail_msg("%s: got \"%s\"", cases[i].source, err.text);
        chat_template_free(t);
    }
}

/* xorshift: the same damage in every run. */
static uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

static void damage(struct buf *source, uint32_t *random)
{
    static const char BYTES[] = "{}%#-+()[]|.,:'\"\\ \n0a~=<>*!_";
    for (int n = 1 + (int)(next_random(random) % 4); n > 0 && source->len > 4; n--) {
        size_t at = next_random(random) % (source->len - 3);
        uint32_t kind = next_random(random) % 3;
        if (kind == 0) {
            source->data[at] = BYTES[next_random(random) % (sizeof BYTES - 1)];
        } else if (kind == 1) {
            memmove(source->data + at, source->data + at + 2, source->len - at - 2);
            source->len -= 2;
        } else {
            size_t from = next_random(random) % (source->len - 3);
            memmove(source->data + at, source->data + from, 3);
        }
    }
}

static void test_damaged_templates_render_or_say_why(void **state)
{
    (void)state;
    struct json *golden = load_golden("conversations.json");
    uint32_t random = 1;
    const struct json *c = json_first(json_get(golden, "conversations"));
    for (int round = 0; round < 3000; round++) {
        const struct json *t = json_first(json_get(golden, "templates"));
        for (uint32_t skip = next_random(&random) % 14; skip && json_next(t); skip--)
            t = json_next(t);
        c = json_next(c) ? json_next(c) : json_first(json_get(golden, "conversations"));
        struct buf source = {0}, out = {0};
        struct error err = {0};
        buf_append_str(&source, json_string(t));
        damage(&source, &random);
        struct chat_template *damaged =
            chat_template_compile(source.data, source.len, "t.json", &err);
        bool ok =
            damaged && chat_template_render(damaged, json_get(c, "variables"), NOW, &out, &err);
        if (ok == (err.text[0] != 0))
            fail_msg("%.*s\nended with %d and \"%s\"", (int)source.len, source.data, ok, err.text);
        chat_template_free(damaged);
        buf_free(&source);
        buf_free(&out);
    }
    json_free(golden);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_reverse_of_a_sort_is_true_or_false),
        cmocka_unit_test(test_conversations_render_as_jinja2_renders_them),
        cmocka_unit_test(test_expressions_have_the_values_of_jinja2),
        cmocka_unit_test(test_white_space_around_tags_is_trimmed_as_jinja2_trims_it),
        cmocka_unit_test(test_a_set_in_a_loop_ends_with_the_iteration_and_a_namespace_stays),
        cmocka_unit_test(test_a_loop_filter_is_asked_item_by_item),
        cmocka_unit_test(test_what_the_language_lacks_is_named_when_compiling),
        cmocka_unit_test(test_errors_name_the_file_the_line_and_the_thing),
        cmocka_unit_test(test_the_source_is_bounded),
        cmocka_unit_test(test_parts_and_nesting_are_bounded),
        cmocka_unit_test(test_long_chains_are_no_nesting),
        cmocka_unit_test(test_steps_and_time_run_out),
        cmocka_unit_test(test_macro_depth_and_ranges_are_bounded),
        cmocka_unit_test(test_nesting_times_macro_depth_is_bounded),
        cmocka_unit_test(test_strings_output_and_memory_are_bounded),
        cmocka_unit_test(test_the_clock_of_a_template_is_the_callers),
        cmocka_unit_test(test_a_folder_template_file_wins_over_the_configuration),
        cmocka_unit_test(test_the_default_of_several_templates_is_taken),
        cmocka_unit_test(test_a_broken_template_is_an_error_and_not_a_base_model),
        cmocka_unit_test(test_a_frame_is_what_stands_around_the_question),
        cmocka_unit_test(test_the_embedded_models_frame_is_chatml),
        cmocka_unit_test(test_without_a_template_the_frame_is_empty),
        cmocka_unit_test(test_a_template_that_changes_the_question_has_no_frame),
        cmocka_unit_test(test_damaged_templates_render_or_say_why),
    };
    setenv("TZ", "UTC", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
