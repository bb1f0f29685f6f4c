/* The parts of a tokenizer one by one: normalizers, pre-tokenizers, decoders, patterns. */
#include "engine/text/pre_tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "engine/base/json.h"
#include "engine/text/byte_alphabet.h"
#include "engine/text/char_class.h"
#include "engine/text/decoder.h"
#include "engine/text/normalizer.h"
#include "engine/text/pattern.h"

static struct json *parse(const char *text)
{
    struct error err = {0};
    struct json *v = json_parse(text, strlen(text), "test", &err);
    if (!v)
        fail_msg("%s: %s", text, err.text);
    return v;
}

static void expect_text(const char *what, const char *in, const struct buf *got, const char *want)
{
    const char *text = got->data ? got->data : "";
    if (strcmp(text, want) != 0)
        fail_msg("%s on \"%s\": got \"%s\", want \"%s\"", what, in, text, want);
}

static void expect_normalized(const char *json, const char *in, const char *want)
{
    struct error err = {0};
    struct json *v = parse(json);
    struct normalizer *normalizer = normalizer_load(v, &err);
    struct buf got = {0};
    if (!normalizer || !normalizer_run(normalizer, in, strlen(in), &got, &err))
        fail_msg("%s: %s", json, err.text);
    expect_text(json, in, &got, want);
    buf_free(&got);
    normalizer_free(normalizer);
    json_free(v);
}

/* The words, with | between them; a word at the very start of the input is in brackets. */
static void expect_words(const char *json, const char *in, const char *want)
{
    struct error err = {0};
    struct json *v = parse(json);
    struct pre_tokenizer *p = pre_tokenizer_load(v, &err);
    struct word_list words = {0};
    struct buf got = {0};
    buf_append(&words.text, in, strlen(in));
    word_list_add(&words, 0, strlen(in), true);
    if (!p || !pre_tokenizer_run(p, &words, &err))
        fail_msg("%s: %s", json, err.text);
    for (size_t i = 0; i < words.n; i++) {
        buf_append_str(&got, i ? "|" : "");
        buf_append(&got, words.text.data + words.words[i].start, words.words[i].n);
    }
    expect_text(json, in, &got, want);
    buf_free(&got);
    word_list_free(&words);
    pre_tokenizer_free(p);
    json_free(v);
}

/* tokens: a JSON list of spellings. */
static void expect_decoded(const char *json, const char *tokens, const char *want)
{
    struct error err = {0};
    struct json *v = parse(json), *list = parse(tokens);
    struct decoder *decoder = decoder_load(v, &err);
    if (!decoder)
        fail_msg("%s: %s", json, err.text);
    struct decoder_run *run = decoder_run_new(decoder);
    struct buf got = {0};
    for (const struct json *token = json_first(list); token; token = json_next(token))
        decoder_run_token(run, json_string(token), strlen(json_string(token)), &got);
    decoder_run_finish(run, &got);
    expect_text(json, tokens, &got, want);
    buf_free(&got);
    decoder_run_free(run);
    decoder_free(decoder);
    json_free(list);
    json_free(v);
}

static void test_normal_forms_compose_and_decompose(void **state)
{
    (void)state;
    expect_normalized("{\"type\":\"NFC\"}", "e\u0301 \u1100\u1161", "\u00e9 \uac00");
    expect_normalized("{\"type\":\"NFD\"}", "\u00e9\uac00", "e\u0301\u1100\u1161");
    expect_normalized("{\"type\":\"NFKC\"}", "\ufb01 \uff21\u1e9b\u0323", "fi A\u1e69");
    expect_normalized("{\"type\":\"NFKD\"}", "\u1e9b\u0323", "s\u0323\u0307");
    expect_normalized("{\"type\":\"NFD\"}", "a\u0301\u0316", "a\u0316\u0301");
    expect_normalized("{\"type\":\"NFC\"}", "plain ascii e\u0301", "plain ascii \u00e9");
    expect_normalized("null", "e\u0301", "e\u0301");
}

static void test_characters_unknown_to_the_reference_keep_their_form(void **state)
{
    (void)state;
    /* U+11938 came with Unicode 13, the reference's normal forms are of 12. */
    expect_normalized("{\"type\":\"NFD\"}", "\U00011938", "\U00011938");
    expect_normalized("{\"type\":\"NFC\"}", "\U00011935\U00011930", "\U00011935\U00011930");
    expect_normalized("{\"type\":\"NFKC\"}", "\u32ff", "\u32ff");
}

static void test_other_normalizers_change_what_they_name(void **state)
{
    (void)state;
    expect_normalized("{\"type\":\"Lowercase\"}", "ÀB\u0130\u03a3", "àbi\u0307\u03c3");
    expect_normalized("{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":true}",
                      " \u3000 a b\t\n", "a b");
    expect_normalized("{\"type\":\"Strip\",\"strip_left\":false,\"strip_right\":true}", " a ",
                      " a");
    expect_normalized("{\"type\":\"Prepend\",\"prepend\":\"_\"}", "a", "_a");
    expect_normalized("{\"type\":\"Prepend\",\"prepend\":\"_\"}", "", "");
    expect_normalized("{\"type\":\"Replace\",\"pattern\":{\"String\":\".\"},\"content\":\"!\"}",
                      "a.b..", "a!b!!");
    expect_normalized("{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"\\\\s+\"},\"content\":\" \"}",
                      "a \t\nb", "a b");
    expect_normalized("{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Lowercase\"},{\"type\":"
                      "\"Prepend\",\"prepend\":\"X\"},{\"type\":\"Sequence\",\"normalizers\":[]}]}",
                      "AB", "Xab");
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void test_a_long_run_of_marks_is_normalized_in_linear_time(void **state)
{
    (void)state;
    struct json *v = parse("{\"type\":\"NFC\"}");
    struct error err = {0};
    struct normalizer *normalizer = normalizer_load(v, &err);
    struct buf in = {0}, out = {0};
    for (int i = 0; i < 200000; i++)
        buf_append_str(&in, "\u0301\u0316");
    double start = seconds();
    assert_true(normalizer_run(normalizer, in.data, in.len, &out, &err));
    double took = seconds() - start;
    if (took > 5)
        fail_msg("%zu bytes of marks took %.1f s", in.len, took);
    assert_int_equal(out.len, in.len);
    assert_memory_equal(out.data, "\u0316\u0316", 4); /* class 220 before class 230 */
    buf_free(&in);
    buf_free(&out);
    normalizer_free(normalizer);
    json_free(v);
}

#define R3                                                                                         \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| "         \
    "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
#define SPLIT_R3 "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" R3 "\"},\"behavior\":\"Isolated\"}"

static void test_known_expressions_cut_as_the_reference_does(void **state)
{
    (void)state;
    static const char gpt2[] = "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}";
    expect_words(SPLIT_R3, "it'\u017fx", "it|'\u017f|x");
    expect_words(SPLIT_R3, "1234567", "123|456|7");
    expect_words(SPLIT_R3, "a  b", "a| | b");
    expect_words(SPLIT_R3, "\xC2\x85\n", "\xC2\x85\n");
    expect_words(SPLIT_R3, "don't I'LL", "don|'t| I|'LL");
    expect_words(gpt2, "a  b\n", "a|\u0120|\u0120b|\u010a");
    expect_words(gpt2, "caf\u00e9 99%", "caf\u00c3\u00a9|\u012099|%");
}

static void test_characters_newer_than_the_regex_library_have_their_class(void **state)
{
    (void)state;
    expect_words(SPLIT_R3, "a\u1c89b\U00031350", "a\u1c89b\U00031350");
    expect_words(SPLIT_R3, "a\U0001FAE8b", "a|\U0001FAE8b");
    assert_int_equal(char_stand_in('a'), 'a');
    assert_int_not_equal(char_stand_in(0x31350), 0x31350);
    assert_true(char_is_word(0x31350));
}

static void test_split_behaves_in_its_five_ways(void **state)
{
    (void)state;
    static const struct {
        const char *behavior, *invert, *want;
    } cases[] = {
        {"Removed", "false", "the|final|countdown"},
        {"Isolated", "false", "the|-|final|-|-|countdown"},
        {"MergedWithPrevious", "false", "the-|final-|-|countdown"},
        {"MergedWithNext", "false", "the|-final|-|-countdown"},
        {"Contiguous", "false", "the|-|final|--|countdown"},
        {"Removed", "true", "-|-|-"},
        {"MergedWithPrevious", "true", "the|-final|-|-countdown"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct buf json = {0};
        buf_printf(&json,
                   "{\"type\":\"Split\",\"pattern\":{\"String\":\"-\"},\"behavior\":\"%s\","
                   "\"invert\":%s}",
                   cases[i].behavior, cases[i].invert);
        expect_words(json.data, "the-final--countdown", cases[i].want);
        buf_free(&json);
    }
}

static void test_class_pre_tokenizers_cut_by_class(void **state)
{
    (void)state;
    expect_words("{\"type\":\"Digits\",\"individual_digits\":true}", "a12\u0663b",
                 "a|1|2|\u0663|b");
    expect_words("{\"type\":\"Digits\",\"individual_digits\":false}", "a12\u00bdb", "a|12\u00bd|b");
    expect_words("{\"type\":\"Punctuation\"}", "a,b\u3002!c$", "a|,|b|\u3002|!|c|$");
    expect_words("{\"type\":\"Punctuation\",\"behavior\":\"Removed\"}", "a,b", "a|b");
    expect_words("{\"type\":\"Whitespace\"}", "it's  a_1\u00b2 ok", "it|'|s|a_1|\u00b2|ok");
    expect_words("{\"type\":\"WhitespaceSplit\"}", " it's\u3000ok\n", "it's|ok");
    expect_words("null", "a b", "a b");
}

static void test_metaspace_prepends_by_its_scheme(void **state)
{
    (void)state;
    expect_words("{\"type\":\"Metaspace\",\"replacement\":\"\u2581\"}", "a  b",
                 "\u2581a|\u2581|\u2581b");
    expect_words("{\"type\":\"Metaspace\",\"replacement\":\"_\",\"split\":false}", " a b", "_a_b");
    expect_words("{\"type\":\"Metaspace\",\"prepend_scheme\":\"never\",\"replacement\":\"_\"}",
                 "a b", "a|_b");
    expect_words("{\"type\":\"Metaspace\",\"add_prefix_space\":false,\"replacement\":\"_\"}", "a b",
                 "a|_b");
    expect_words("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"WhitespaceSplit\"},{"
                 "\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"first\"}]}",
                 "a b", "_a|b");
}

static void test_byte_level_puts_a_space_in_front_when_asked(void **state)
{
    (void)state;
    expect_words("{\"type\":\"ByteLevel\",\"add_prefix_space\":true}", "a b", "\u0120a|\u0120b");
    expect_words("{\"type\":\"ByteLevel\",\"add_prefix_space\":true}", " a", "\u0120a");
    expect_words("{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}", "a b",
                 "a\u0120b");
}

static void test_the_byte_alphabet_is_one_to_one(void **state)
{
    (void)state;
    for (int byte = 0; byte < 256; byte++) {
        struct buf out = {0};
        char c = (char)byte;
        int len;
        byte_alphabet_encode(&out, &c, 1);
        uint32_t character = char_at(out.data, out.len, &len);
        assert_int_equal((size_t)len, out.len);
        assert_int_equal(byte_alphabet_decode(character), byte);
        buf_free(&out);
    }
    assert_int_equal(byte_alphabet_decode(0xAD), -1);
    assert_int_equal(byte_alphabet_decode(' '), -1);
    assert_int_equal(byte_alphabet_decode(0x144), -1);
}

static void test_decoders_undo_their_encoding(void **state)
{
    (void)state;
    expect_decoded("null", "[\"a\",\"b\"]", "a b");
    expect_decoded("{\"type\":\"ByteLevel\"}", "[\"\u00c3\",\"\u00a9\u0120x\"]", "\u00e9 x");
    expect_decoded("{\"type\":\"ByteLevel\"}", "[\"\u00c3\",\"a\",\"\u00e2\u0124\"]",
                   "\ufffda\ufffd");
    /* A token with a character outside the alphabet is its own text, whole. */
    expect_decoded("{\"type\":\"ByteLevel\"}", "[\"a b\u0120\"]", "a b\u0120");
    expect_decoded("{\"type\":\"Replace\",\"pattern\":{\"String\":\"_\"},\"content\":\" \"}",
                   "[\"_a\",\"b__\"]", " ab  ");
    expect_decoded("{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"[ab]+\"},\"content\":\"x\"}",
                   "[\"abc\",\"b\"]", "xcx");
    expect_decoded("{\"type\":\"Fuse\"}", "[\"a\",\"b\"]", "ab");
    expect_decoded("{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":2}",
                   "[\"  a   \",\" \",\"b\"]", " a b");
    expect_decoded("{\"type\":\"Metaspace\",\"replacement\":\"\u2581\"}",
                   "[\"\u2581a\u2581\",\"\u2581b\"]", "a b");
    expect_decoded("{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"never\"}",
                   "[\"_a\",\"_b\"]", " a b");
}

static void test_byte_fallback_gives_a_replacement_for_each_byte_of_a_bad_run(void **state)
{
    (void)state;
    static const char json[] = "{\"type\":\"ByteFallback\"}";
    expect_decoded(json, "[\"<0xC3>\",\"<0xA9>\",\"x\"]", "\u00e9x");
    expect_decoded(json, "[\"a\",\"<0x41>\",\"<0xC3>\"]", "a\ufffd\ufffd");
    expect_decoded(json, "[\"<0xZZ>\",\"<0x4>\",\"<0x41\"]", "<0xZZ><0x4><0x41");
}

static void test_a_literal_replace_after_fuse_does_not_hold_the_text_back(void **state)
{
    (void)state;
    struct json *v = parse("{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":"
                           "\"Replace\",\"pattern\":{\"String\":\"xyz\"},\"content\":\"-\"}]}");
    struct decoder *decoder = decoder_load(v, NULL);
    struct decoder_run *run = decoder_run_new(decoder);
    struct buf out = {0};
    decoder_run_token(run, "abx", 3, &out);
    assert_string_equal(out.data, "ab");
    decoder_run_token(run, "yx", 2, &out);
    assert_string_equal(out.data, "abxy");
    decoder_run_token(run, "yzq", 3, &out);
    assert_string_equal(out.data, "abxy-q");
    decoder_run_finish(run, &out);
    assert_string_equal(out.data, "abxy-q");
    buf_free(&out);
    decoder_run_free(run);
    decoder_free(decoder);
    json_free(v);
}

static void test_a_hostile_expression_ends_in_an_error(void **state)
{
    (void)state;
    struct error err = {0};
    struct pattern *p = pattern_new_regex("(a*)*b\\1|(a|aa)+$", &err);
    struct buf text = {0}, out = {0};
    for (int i = 0; i < 5000; i++)
        buf_append_char(&text, 'a');
    buf_append_char(&text, 'c');
    assert_non_null(p);
    double start = seconds();
    assert_false(pattern_replace(p, text.data, text.len, "x", &out, &err));
    assert_non_null(strstr(err.text, "gave up on this text of 5001 bytes"));
    if (seconds() - start > 30)
        fail_msg("took %.1f s", seconds() - start);
    buf_free(&text);
    buf_free(&out);
    pattern_free(p);
}

static void test_unknown_or_broken_parts_are_quoted(void **state)
{
    (void)state;
    static const struct {
        const char *json, *said;
    } cases[] = {
        {"{\"type\":\"Bogus\"}", "unknown type \"Bogus\""},
        {"{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Nmt\"}],\"pretokenizers\":[{\"type\":"
         "\"Nmt\"}],\"decoders\":[{\"type\":\"Nmt\"}]}",
         "unknown type \"Nmt\""},
        {"{\"type\":\"Sequence\"}", "is not a list"},
        {"{}", "is not an object with a \"type\""},
        {"[]", "is not an object with a \"type\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct json *v = parse(cases[i].json);
        for (int part = 0; part < 3; part++) {
            struct error err = {0};
            bool loaded = part == 0   ? normalizer_load(v, &err) != NULL
                          : part == 1 ? pre_tokenizer_load(v, &err) != NULL
                                      : decoder_load(v, &err) != NULL;
            if (loaded || !strstr(err.text, cases[i].said))
                fail_msg("%s: got \"%s\", want \"%s\"", cases[i].json, err.text, cases[i].said);
        }
        json_free(v);
    }
}

static void expect_refused_words(const char *json, const char *said)
{
    struct error err = {0};
    struct json *v = parse(json);
    if (pre_tokenizer_load(v, &err) || !strstr(err.text, said))
        fail_msg("%s: got \"%s\", want \"%s\"", json, err.text, said);
    json_free(v);
}

static void test_wrong_fields_of_pre_tokenizers_are_refused(void **state)
{
    (void)state;
    expect_refused_words("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":"
                         "\"Isolated\"}",
                         "the regular expression \"(\" is not valid");
    expect_refused_words("{\"type\":\"Split\",\"pattern\":{},\"behavior\":\"Isolated\"}",
                         "a pattern is neither");
    expect_refused_words("{\"type\":\"Split\",\"pattern\":{\"String\":\"\"},\"behavior\":"
                         "\"Isolated\"}",
                         "empty string");
    expect_refused_words("{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Odd\"}",
                         "\"behavior\" is \"Odd\"");
    expect_refused_words("{\"type\":\"ByteLevel\",\"add_prefix_space\":1}",
                         "\"add_prefix_space\" is not true or false");
    expect_refused_words("{\"type\":\"Metaspace\",\"replacement\":\"__\"}", "not one character");
    expect_refused_words("{\"type\":\"Metaspace\",\"prepend_scheme\":\"odd\"}",
                         "\"prepend_scheme\" is \"odd\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_normal_forms_compose_and_decompose),
        cmocka_unit_test(test_characters_unknown_to_the_reference_keep_their_form),
        cmocka_unit_test(test_other_normalizers_change_what_they_name),
        cmocka_unit_test(test_a_long_run_of_marks_is_normalized_in_linear_time),
        cmocka_unit_test(test_known_expressions_cut_as_the_reference_does),
        cmocka_unit_test(test_characters_newer_than_the_regex_library_have_their_class),
        cmocka_unit_test(test_split_behaves_in_its_five_ways),
        cmocka_unit_test(test_class_pre_tokenizers_cut_by_class),
        cmocka_unit_test(test_metaspace_prepends_by_its_scheme),
        cmocka_unit_test(test_byte_level_puts_a_space_in_front_when_asked),
        cmocka_unit_test(test_the_byte_alphabet_is_one_to_one),
        cmocka_unit_test(test_decoders_undo_their_encoding),
        cmocka_unit_test(test_byte_fallback_gives_a_replacement_for_each_byte_of_a_bad_run),
        cmocka_unit_test(test_a_literal_replace_after_fuse_does_not_hold_the_text_back),
        cmocka_unit_test(test_a_hostile_expression_ends_in_an_error),
        cmocka_unit_test(test_unknown_or_broken_parts_are_quoted),
        cmocka_unit_test(test_wrong_fields_of_pre_tokenizers_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
