/* The JSON wrapper: what is refused and where, numbers kept exactly, writing that reads back. */
#include "engine/base/json.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void expect_refused(const char *text, size_t n, const char *said)
{
    struct error err = {0};
    if (json_check(text, n, "in.json", &err))
        fail_msg("accepted: %.*s", (int)n, text);
    if (!strstr(err.text, said) || strncmp(err.text, "in.json: line ", 14) != 0)
        fail_msg("%.*s: got \"%s\", want \"%s\"", (int)n, text, err.text, said);
    if (json_parse(text, n, "in.json", &err))
        fail_msg("parsed: %.*s", (int)n, text);
}

static struct json *parse(const char *text)
{
    struct error err = {0};
    struct json *v = json_parse(text, strlen(text), "in.json", &err);
    if (!v)
        fail_msg("%s: refused: %s", text, err.text);
    return v;
}

static void expect_written(const struct json *v, bool pretty, const char *want)
{
    struct buf got = {0};
    json_write(&got, v, pretty);
    assert_string_equal(got.data, want);
    buf_free(&got);
}

static void test_malformed_text_is_refused_with_its_place(void **state)
{
    (void)state;
    static const struct {
        const char *text, *said;
    } cases[] = {
        {"", "line 1, column 1: the text ends where a value is expected"},
        {"  ", "column 3: the text ends"},
        {"{} xyz", "column 4: expected nothing more"},
        {"{}{}", "expected nothing more"},
        {"\xEF\xBB\xBF{}", "byte-order mark"},
        {"{\"a\":01}", "column 6: a number begins with a needless 0"},
        {"-", "where a digit is expected"},
        {"1.", "where a digit after the point is expected"},
        {".5", "expected a value"},
        {"+1", "expected a value"},
        {"1e", "digit of the exponent"},
        {"1e999", "the number 1e999 is too large"},
        {"-1e999", "too large"},
        {"NaN", "expected a value"},
        {"Infinity", "expected a value"},
        {"nul", "expected a value"},
        {"[1,]", "expected a value, found ']'"},
        {"[1 2]", "expected ',' or ']', found '2'"},
        {"[1", "the text ends where ',' or ']'"},
        {"{\"a\" 1}", "expected ':'"},
        {"{a:1}", "expected a key in quotes"},
        {"{\"a\":1,}", "expected a key in quotes"},
        {"{\"a\":1", "',' or '}'"},
        {"\"a", "without its closing quote"},
        {"\"a\\", "unknown escape"},
        {"\"\\x\"", "unknown escape"},
        {"\"\\u12g4\"", "four hexadecimal digits"},
        {"\"\\u0000\"", "\\u0000 is not accepted"},
        {"\"\\ud800\"", "half of a surrogate pair"},
        {"\"\\ud800\\u0041\"", "half of a surrogate pair"},
        {"\"\\udc00\"", "half of a surrogate pair"},
        {"\"a\nb\"", "control character 0x0a"},
        {"\"\xC0\x80\"", "0xc0 is not valid UTF-8"},
        {"\"\xED\xA0\x80\"", "not valid UTF-8"},
        {"\"\xF4\x90\x80\x80\"", "not valid UTF-8"},
        {"\"\xE2\x82\"", "not valid UTF-8"},
        {"{\"a\":1,\"b\":2,\"a\":3}", "column 14: the key \"a\" comes twice"},
        {"{\"a\":1,\"\\u0061\":3}", "the key \"a\" comes twice"},
        {"[\n {\"x\":\n  tru}]", "line 3, column 3: expected a value"},
        {"[\"\xC3\xA9\xC3\xA9\", x]", "column 8: expected a value, found 'x'"},
        {"/* c */ {}", "expected a value"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_refused(cases[i].text, strlen(cases[i].text), cases[i].said);
}

static void test_nul_bytes_are_refused_everywhere(void **state)
{
    (void)state;
    expect_refused("{}\0", 3, "byte 0x00");
    expect_refused("\0{}", 3, "byte 0x00");
    expect_refused("[\0]", 3, "byte 0x00");
    expect_refused("\"a\0b\"", 5, "control character 0x00");
}

static void test_depth_64_is_read_and_65_refused(void **state)
{
    (void)state;
    char text[131] = {0};
    memset(text, '[', 64);
    memset(text + 64, ']', 64);
    json_free(parse(text));
    memset(text, '[', 65);
    memset(text + 65, ']', 65);
    expect_refused(text, 130, "nested deeper than 64 levels");
}

static void test_a_number_of_64_characters_is_refused(void **state)
{
    (void)state;
    char text[65] = {0};
    memset(text, '0', 64);
    memcpy(text, "0.", 2);
    text[62] = '5';
    text[63] = '\0';
    struct json *v = parse(text);
    assert_true(json_number(v, -1) > 0);
    json_free(v);
    text[63] = '5';
    expect_refused(text, 64, "a number of 64 characters");
}

static void test_strings_are_decoded(void **state)
{
    (void)state;
    struct json *v = parse("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\ud83d\\ude00\"");
    assert_string_equal(json_string(v), "\"\\/\b\f\n\r\t\xC3\xA9\xF0\x9F\x98\x80");
    json_free(v);
}

static void test_integers_keep_64_bits_and_their_spelling(void **state)
{
    (void)state;
    struct json *v = parse("[9007199254740993, -9223372036854775808, 9223372036854775807,"
                           " 18446744073709551615, 18446744073709551616, 1, 1.0, 1e2, -0, 1.5]");
    const struct json *item[10] = {json_first(v)};
    for (int i = 1; i < 10; i++)
        item[i] = json_next(item[i - 1]);
    int64_t value = 0;
    assert_true(json_int(item[0], 0, INT64_MAX, &value));
    assert_int_equal(value, 9007199254740993);
    assert_true(json_int(item[1], INT64_MIN, INT64_MAX, &value));
    assert_true(value == INT64_MIN);
    assert_true(json_int(item[2], INT64_MIN, INT64_MAX, &value));
    assert_true(value == INT64_MAX);
    assert_false(json_int(item[3], INT64_MIN, INT64_MAX, &value));
    uint64_t wide = 0;
    assert_true(json_uint64(item[3], &wide));
    assert_true(wide == UINT64_MAX);
    assert_false(json_uint64(item[4], &wide));
    assert_true(json_int(item[5], 1, 1, &value));
    assert_false(json_int(item[5], 2, 9, &value));
    assert_true(json_int(item[6], 0, 9, &value) && json_int(item[7], 0, 100, &value));
    assert_int_equal(value, 100);
    assert_false(json_int(item[9], 0, 9, &value));
    static const bool want_int[10] = {1, 1, 1, 1, 1, 1, 0, 0, 1, 0};
    for (int i = 0; i < 10; i++)
        if (json_written_as_int(item[i]) != want_int[i])
            fail_msg("number %d: written as an integer: got %d, want %d", i, !want_int[i],
                     want_int[i]);
    expect_written(v, false,
                   "[9007199254740993,-9223372036854775808,9223372036854775807,"
                   "18446744073709551615,18446744073709551616,1,1.0,100.0,-0,1.5]");
    assert_true(json_int(json_first(v), 0, INT64_MAX, &value) && value == 9007199254740993);
    json_free(v);
}

static void test_number_marks_stay_in_step_with_strings_that_hold_digits(void **state)
{
    (void)state;
    struct json *v = parse("{\"1\":\"2\\\"3\",\"a\":[1.0,\"4\",{\"5\":6}],\"b\":true,\"c\":7.5}");
    const struct json *a = json_get(v, "a");
    assert_false(json_written_as_int(json_first(a)));
    assert_true(json_written_as_int(json_get(json_next(json_next(json_first(a))), "5")));
    assert_false(json_written_as_int(json_get(v, "c")));
    json_free(v);
}

static void test_lookup_is_exact_and_walks_in_order(void **state)
{
    (void)state;
    struct json *v = parse("{\"a\":1,\"A\":2,\"n\":null,\"t\":true}");
    assert_true(json_number(json_get(v, "A"), 0) == 2);
    assert_null(json_get(v, "N"));
    assert_true(json_is_null(json_get(v, "n")) && json_is_null(NULL));
    assert_true(json_bool(json_get(v, "t"), false));
    assert_true(json_bool(json_get(v, "n"), true));
    assert_int_equal(json_count(v), 4);
    assert_string_equal(json_key(json_next(json_first(v))), "A");
    assert_null(json_get(json_get(v, "a"), "x"));
    assert_null(json_string(json_get(v, "a")));
    json_free(v);
}

static void test_doubles_read_back_bit_for_bit(void **state)
{
    (void)state;
    static const double values[] = {0.1,     1.0 / 3, 1e300,  5e-324, 1.7976931348623157e308,
                                    -2.5e-7, 1e15,    1e22,   100,    123456789.125,
                                    -0.0,    3,       0.3e-5, 1e-5};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        struct json *array = json_new_array();
        json_add_number(array, values[i]);
        struct buf text = {0};
        json_write(&text, array, false);
        json_free(array);
        struct json *back = parse(text.data);
        double got = json_number(json_first(back), NAN);
        if (memcmp(&got, &values[i], sizeof got) != 0 || json_written_as_int(json_first(back)))
            fail_msg("wrote %.17g as %s, read %.17g", values[i], text.data, got);
        json_free(back);
        buf_free(&text);
    }
}

static void test_writing_is_one_line_or_indented(void **state)
{
    (void)state;
    struct json *v = json_new_object(), *array = json_new_array();
    json_set_string(v, "s", "a\"\\\n\x01\x7F\xC3\xA9");
    json_set_number(v, "nan", NAN);
    json_set_int(v, "i", 3);
    json_set_int(v, "i", INT64_MAX);
    json_set_bool(v, "b", true);
    json_set_null(v, "z");
    json_add_int(array, 1);
    json_add_string(array, "x");
    json_set(v, "a", array);
    json_set(v, "e", json_new_array());
    expect_written(v, false,
                   "{\"s\":\"a\\\"\\\\\\n\\u0001\x7F\xC3\xA9\",\"nan\":null,"
                   "\"i\":9223372036854775807,\"b\":true,\"z\":null,\"a\":[1,\"x\"],\"e\":[]}");
    json_set_null(v, "s");
    expect_written(v, true,
                   "{\n  \"nan\": null,\n  \"i\": 9223372036854775807,\n  \"b\": true,\n"
                   "  \"z\": null,\n  \"a\": [\n    1,\n    \"x\"\n  ],\n  \"e\": [],\n"
                   "  \"s\": null\n}");
    json_free(v);
}

static void test_bad_bytes_are_written_as_replacement_characters(void **state)
{
    (void)state;
    struct json *v = json_new_object();
    json_set_string_n(v, "s", "a\0b\xFF\xE2\x82", 6);
    expect_written(v, false,
                   "{\"s\":\"a\xEF\xBF\xBD"
                   "b\xEF\xBF\xBD\xEF\xBF\xBD\"}");
    json_free(v);
    struct buf b = {0};
    json_quote(&b, "\0x", 2);
    assert_string_equal(b.data, "\"\xEF\xBF\xBDx\"");
    buf_free(&b);
}

static void test_a_wide_object_is_checked_quickly_for_twins(void **state)
{
    (void)state;
    struct buf text = {0};
    buf_append_str(&text, "{");
    for (int i = 0; i < 200000; i++)
        buf_printf(&text, "\"key%d\":%d,", i, i);
    size_t len = text.len;
    buf_append_str(&text, "\"last\":0}");
    struct error err = {0};
    if (!json_check(text.data, text.len, "in.json", &err))
        fail_msg("%s", err.text);
    text.len = len;
    buf_append_str(&text, "\"key77\":0}");
    expect_refused(text.data, text.len, "the key \"key77\" comes twice");
    buf_free(&text);
}

/* Every prefix and every single-bit flip: accepted or refused, and what json_check accepts
 * json_parse reads. */
static void test_mutations_never_split_scanner_and_parser(void **state)
{
    (void)state;
    const char *text = "{\"a\":[1,-2.5e3,true,null],\"\\u00e9\\n\":{\"b\":\"\xC3\xA9\"},\"c\":0}";
    size_t n = strlen(text);
    for (size_t i = 0; i < n; i++) {
        char *prefix = malloc(i + 1); /* exact, so that a read past the end is seen */
        memcpy(prefix, text, i);
        if (json_check(prefix, i, "in.json", NULL))
            fail_msg("a prefix of %zu bytes was accepted", i);
        free(prefix);
    }
    int n_accepted = 0;
    for (size_t bit = 0; bit < n * 8; bit++) {
        char *flipped = malloc(n);
        memcpy(flipped, text, n);
        flipped[bit / 8] ^= (char)(1 << bit % 8);
        bool ok = json_check(flipped, n, "in.json", NULL);
        struct json *v = json_parse(flipped, n, "in.json", NULL);
        if (ok != (v != NULL))
            fail_msg("bit %zu: scanner says %d, parser %d", bit, ok, v != NULL);
        n_accepted += ok;
        json_free(v);
        free(flipped);
    }
    assert_true(n_accepted > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_malformed_text_is_refused_with_its_place),
        cmocka_unit_test(test_nul_bytes_are_refused_everywhere),
        cmocka_unit_test(test_depth_64_is_read_and_65_refused),
        cmocka_unit_test(test_a_number_of_64_characters_is_refused),
        cmocka_unit_test(test_strings_are_decoded),
        cmocka_unit_test(test_integers_keep_64_bits_and_their_spelling),
        cmocka_unit_test(test_number_marks_stay_in_step_with_strings_that_hold_digits),
        cmocka_unit_test(test_lookup_is_exact_and_walks_in_order),
        cmocka_unit_test(test_doubles_read_back_bit_for_bit),
        cmocka_unit_test(test_writing_is_one_line_or_indented),
        cmocka_unit_test(test_bad_bytes_are_written_as_replacement_characters),
        cmocka_unit_test(test_a_wide_object_is_checked_quickly_for_twins),
        cmocka_unit_test(test_mutations_never_split_scanner_and_parser),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
