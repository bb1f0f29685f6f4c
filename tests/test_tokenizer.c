/* Whole tokenizers, from small files in a temporary folder: ids, flags, overrides and errors. */
#include "engine/text/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/base/file.h"

static char folder[64];

static void put_file(const char *name, const char *text)
{
    char *path = path_join(folder, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
    assert_int_equal(fclose(file), 0);
    free(path);
}

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/test_tokenizer_XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json",
                                        "special_tokens_map.json", "vocab.json", "merges.txt"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char *path = path_join(folder, names[i]);
        unlink(path);
        free(path);
    }
    return rmdir(folder);
}

/* The parts of a tokenizer.json; NULL takes what stands in open_parts. */
struct parts {
    const char *vocab, *merges, *model; /* model: more fields, ending in a comma */
    const char *added, *normalizer, *pre_tokenizer, *post_processor, *decoder;
    const char *config; /* the tokenizer_config.json */
};

static const char *or_default(const char *text, const char *fallback)
{
    return text ? text : fallback;
}

static struct tokenizer *try_open(struct parts p, struct error *err)
{
    struct buf json = {0};
    buf_printf(&json,
               "{\"version\":\"1.0\",\"truncation\":null,\"added_tokens\":%s,\"normalizer\":%s,"
               "\"pre_tokenizer\":%s,\"post_processor\":%s,\"decoder\":%s,"
               "\"model\":{\"type\":\"BPE\",%s\"vocab\":%s,\"merges\":%s}}",
               or_default(p.added, "[]"), or_default(p.normalizer, "null"),
               or_default(p.pre_tokenizer, "null"), or_default(p.post_processor, "null"),
               or_default(p.decoder, "{\"type\":\"Fuse\"}"), or_default(p.model, ""),
               or_default(p.vocab, "{\"a\":0,\"b\":1,\"c\":2,\"ab\":3,\"bc\":4,\"abc\":5,\"_\":6,"
                                   "\"<unk>\":7,\"<s>\":8,\"</s>\":9,\" \":10}"),
               or_default(p.merges, "[]"));
    put_file("tokenizer.json", json.data);
    if (p.config)
        put_file("tokenizer_config.json", p.config);
    buf_free(&json);
    return tokenizer_open(folder, err);
}

static struct tokenizer *open_parts(struct parts p)
{
    struct error err = {0};
    struct tokenizer *t = try_open(p, &err);
    if (!t)
        fail_msg("refused: %s", err.text);
    return t;
}

/* want: the spellings of the tokens with | after each. */
static void expect_n(const struct tokenizer *t, const char *text, size_t n, int flags,
                     const char *want)
{
    struct token_list ids = {0};
    struct error err = {0};
    struct buf got = {0};
    if (!tokenizer_encode(t, text, n, flags, &ids, &err))
        fail_msg("\"%s\": %s", text, err.text);
    buf_append(&got, "", 0);
    for (size_t i = 0; i < ids.n; i++)
        buf_printf(&got, "%s|", tokenizer_piece(t, ids.ids[i]));
    if (strcmp(got.data, want) != 0)
        fail_msg("\"%s\", flags %d: got \"%s\", want \"%s\"", text, flags, got.data, want);
    buf_free(&got);
    token_list_free(&ids);
}

static void expect(const struct tokenizer *t, const char *text, int flags, const char *want)
{
    expect_n(t, text, strlen(text), flags, want);
}

static void expect_once(struct parts p, const char *text, int flags, const char *want)
{
    struct tokenizer *t = open_parts(p);
    expect(t, text, flags, want);
    tokenizer_close(t);
}

static void expect_refused(struct parts p, const char *said)
{
    struct error err = {0};
    struct tokenizer *t = try_open(p, &err);
    if (t || !strstr(err.text, said) || strncmp(err.text, folder, strlen(folder)) != 0)
        fail_msg("got \"%s\", want the path and \"%s\"", t ? "a tokenizer" : err.text, said);
}

static void test_merges_take_the_lowest_rank_then_the_leftmost(void **state)
{
    (void)state;
    expect_once((struct parts){.merges = "[\"b c\",\"a b\",\"a bc\"]"}, "abcab", 0, "abc|ab|");
    expect_once((struct parts){.merges = "[\"a b\",\"b c\",\"a bc\"]"}, "abcbc", 0, "ab|c|bc|");
    expect_once((struct parts){.vocab = "{\"a\":0,\"aa\":1}", .merges = "[\"a a\"]"}, "aaa", 0,
                "aa|a|");
}

static void test_both_forms_of_merges_are_read(void **state)
{
    (void)state;
    expect_once((struct parts){.merges = "[[\"b\",\"c\"],[\"a\",\"bc\"]]"}, "abc", 0, "abc|");
    expect_once((struct parts){.merges = "[\"#version: 0.2\",\"b c\",\"a bc\"]"}, "abc", 0, "abc|");
    expect_once((struct parts){.vocab = "{\" \":0,\"a\":1,\" a\":2}", .merges = "[[\" \",\"a\"]]"},
                " a", 0, " a|");
}

static void test_ignore_merges_takes_whole_words(void **state)
{
    (void)state;
    static const char merges[] = "[\"a b\",\"b c\"]";
    expect_once((struct parts){.merges = merges}, "abc", 0, "ab|c|");
    expect_once((struct parts){.merges = merges, .model = "\"ignore_merges\":true,"}, "abc", 0,
                "abc|");
}

static void test_unknown_characters_fall_back_fuse_or_vanish(void **state)
{
    (void)state;
    static const char bytes[] = "{\"a\":0,\"<unk>\":1,\"<0xC3>\":2,\"<0xA9>\":3}";
    expect_once((struct parts){0}, "axyb", 0, "a|b|");
    expect_once((struct parts){.model = "\"unk_token\":\"<unk>\","}, "axyb", 0, "a|<unk>|<unk>|b|");
    expect_once((struct parts){.model = "\"unk_token\":\"<unk>\",\"fuse_unk\":true,"}, "axyb", 0,
                "a|<unk>|b|");
    expect_once(
        (struct parts){.vocab = bytes, .model = "\"unk_token\":\"<unk>\",\"byte_fallback\":true,"},
        "a\u00e9\u00ea", 0, "a|<0xC3>|<0xA9>|<unk>|");
}

static void test_affixes_mark_the_places_of_characters(void **state)
{
    (void)state;
    expect_once(
        (struct parts){
            .vocab = "{\"a\":0,\"##b\":1,\"##b</w>\":2,\"ab\":3,\"a</w>\":4,\"ab</w>\":5}",
            .model = "\"continuing_subword_prefix\":\"##\",\"end_of_word_suffix\":\"</w>\",",
            .merges = "[\"a ##b\",\"a ##b</w>\"]"},
        "ab", 0, "ab</w>|");
}

#define ADDED(text, id, flags) "{\"id\":" id ",\"content\":\"" text "\"," flags "}"

static void test_added_tokens_match_leftmost_then_longest(void **state)
{
    (void)state;
    static const char added[] = "[" ADDED("ca", "20", "\"normalized\":false") "," ADDED(
        "cab", "21", "\"normalized\":false") "," ADDED("bcc", "22", "\"normalized\":false") "]";
    struct tokenizer *t = open_parts((struct parts){.added = added});
    expect(t, "acabca", 0, "a|cab|ca|");
    expect(t, "bccab", 0, "bcc|a|b|");
    expect(t, "cacabcc", 0, "ca|cab|c|c|");
    tokenizer_close(t);
}

static void test_added_tokens_heed_their_flags(void **state)
{
    (void)state;
    struct tokenizer *t = open_parts((struct parts){
        .added = "[" ADDED("<l>", "20", "\"lstrip\":true,\"normalized\":false") "," ADDED(
            "<r>", "21",
            "\"rstrip\":true,\"normalized\":false") "," ADDED("cc", "22",
                                                              "\"single_word\":true,\"normalized\":"
                                                              "false") "," ADDED("CA", "23",
                                                                                 "\"normalized\":"
                                                                                 "true") "," ADDED("BA",
                                                                                                   "24",
                                                                                                   "\"normalized\":false") "]",
        .normalizer = "{\"type\":\"Lowercase\"}"});
    expect(t, "a \u3000<l> b", 0, "a|<l>| |b|");
    expect(t,
           "a <r> \n\xC2\x85"
           "b",
           0, "a| |<r>|b|");
    expect(t, "<r> <l>", 0, "<r>|<l>|");
    expect(t, "cc acc cc\u0301 .cc.", 0, "cc| |a|c|c| |c|c| |cc|");
    expect(t, "caCA", 0, "CA|CA|");
    expect(t, "BAba", 0, "BA|b|a|");
    tokenizer_close(t);
}

static void test_special_token_text_stays_plain_unless_asked(void **state)
{
    (void)state;
    struct parts p = {.added = "[" ADDED("</s>", "9", "\"special\":true") "," ADDED(
                          "<x>", "20", "\"special\":false") "]",
                      .model = "\"ignore_merges\":true,\"unk_token\":\"<unk>\",\"fuse_unk\":true,"};
    struct tokenizer *t = open_parts(p);
    expect(t, "a</s>b<x>", TOKENIZE_SPECIAL, "a|</s>|b|<x>|");
    expect(t, "a</s>b<x>", TOKENIZE_PLAIN, "a|<unk>|b|<x>|");
    /* Not by way of a whole word either. */
    expect(t, "</s>", TOKENIZE_PLAIN, "<unk>|");
    tokenizer_close(t);
}

#define TEMPLATE                                                                                   \
    "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":"  \
    "0}}"                                                                                          \
    ",{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"special_tokens\":{\"<s>\":{\"ids\":[8]}}}"

static void test_the_post_processor_runs_only_when_asked(void **state)
{
    (void)state;
    struct tokenizer *t = open_parts((struct parts){.post_processor = TEMPLATE});
    expect(t, "a", TOKENIZE_ADD_BOS_EOS, "<s>|a|");
    expect(t, "", TOKENIZE_ADD_BOS_EOS, "<s>|");
    expect(t, "a", 0, "a|");
    tokenizer_close(t);
    expect_once((struct parts){.post_processor =
                                   "{\"type\":\"RobertaProcessing\",\"sep\":[\"</s>\","
                                   "9],\"cls\":[\"<s>\",8]}"},
                "a", TOKENIZE_ADD_BOS_EOS, "<s>|a|</s>|");
    expect_once((struct parts){.post_processor =
                                   "{\"type\":\"Sequence\",\"processors\":[{\"type\":"
                                   "\"ByteLevel\"},{\"type\":\"BertProcessing\",\"sep\":[\"b\",1],"
                                   "\"cls\":[\"c\",2]}," TEMPLATE "]}"},
                "a", TOKENIZE_ADD_BOS_EOS, "<s>|c|a|b|");
}

static void test_the_config_overrides_bos_eos_and_prefix_space(void **state)
{
    (void)state;
    static const char names[] = "\"bos_token\":{\"content\":\"<s>\"},\"eos_token\":\"</s>\"}";
    char config[300];
    snprintf(config, sizeof config,
             "{\"tokenizer_class\":\"LlamaTokenizer\",\"add_bos_token\":false,"
             "\"add_eos_token\":true,%s",
             names);
    expect_once((struct parts){.post_processor = TEMPLATE, .config = config}, "a",
                TOKENIZE_ADD_BOS_EOS, "a|</s>|");
    snprintf(config, sizeof config,
             "{\"tokenizer_class\":\"GemmaTokenizerFast\",\"add_bos_token\":true,%s", names);
    expect_once((struct parts){.config = config}, "a", TOKENIZE_ADD_BOS_EOS, "<s>|a|");
    snprintf(config, sizeof config,
             "{\"tokenizer_class\":\"PreTrainedTokenizerFast\",\"add_bos_token\":false,%s", names);
    expect_once((struct parts){.post_processor = TEMPLATE, .config = config}, "a",
                TOKENIZE_ADD_BOS_EOS, "<s>|a|");
    expect_once(
        (struct parts){.vocab = "{\"a\":0,\"\u0120\":1}",
                       .pre_tokenizer = "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}",
                       .config = "{\"tokenizer_class\":\"GPT2Tokenizer\","
                                 "\"add_prefix_space\":true}"},
        "a", 0, "\u0120|a|");
}

static void test_the_config_adds_tokens_and_wins_over_flags(void **state)
{
    (void)state;
    struct tokenizer *t = open_parts((struct parts){
        .added = "[" ADDED("<x>", "20", "\"special\":true") "]",
        .config = "{\"added_tokens_decoder\":{\"20\":{\"content\":\"<x>\",\"special\":"
                  "false,\"rstrip\":true},\"22\":{\"content\":\"<y>\",\"special\":"
                  "true}},\"eos_token\":\"</s>\",\"pad_token\":null}"});
    expect(t, "a<x> b<y>", TOKENIZE_SPECIAL, "a|<x>|b|<y>|");
    assert_false(tokenizer_is_special(t, 20));
    assert_true(tokenizer_is_special(t, 22));
    assert_int_equal(tokenizer_vocab_size(t), 23);
    assert_null(tokenizer_piece(t, 21));
    assert_int_equal(tokenizer_find(t, "<y>"), 22);
    assert_int_equal(tokenizer_find(t, "<z>"), -1);
    assert_string_equal(tokenizer_special(t, "eos_token"), "</s>");
    assert_null(tokenizer_special(t, "pad_token"));
    assert_null(tokenizer_special(t, "no_such_token"));
    tokenizer_close(t);
}

static void test_special_tokens_are_left_out_of_text_when_asked(void **state)
{
    (void)state;
    struct tokenizer *t =
        open_parts((struct parts){.added = "[" ADDED("<s>", "8", "\"special\":true") "]"});
    static const int32_t ids[] = {8, 0, -5, 8, 1, 99999};
    struct buf text = {0};
    tokenizer_decode(t, ids, 6, true, &text);
    assert_string_equal(text.data, "ab");
    tokenizer_decode(t, ids, 6, false, &text);
    assert_string_equal(text.data, "ab<s>a<s>b");
    buf_free(&text);
    tokenizer_close(t);
}

static void test_broken_utf8_becomes_replacement_characters(void **state)
{
    (void)state;
    struct tokenizer *t = open_parts((struct parts){.vocab = "{\"a\":0,\"\ufffd\":1}"});
    expect_n(t,
             "a\xff\xe2\x82"
             "a\xc3",
             6, 0, "a|\ufffd|\ufffd|a|\ufffd|");
    expect_n(t, "", 0, 0, "");
    expect_n(t, "a\0a", 3, 0, "a|a|");
    tokenizer_close(t);
}

static void test_a_gpt2_folder_needs_no_tokenizer_json(void **state)
{
    (void)state;
    struct error err = {0};
    put_file("vocab.json", "{\"a\":0,\"b\":1,\"\u0120\":2,\"ab\":3,\"<|endoftext|>\":4}");
    put_file("merges.txt", "#version: 0.2\r\na b\r\n");
    struct tokenizer *t = tokenizer_open(folder, &err);
    if (!t)
        fail_msg("%s", err.text);
    expect(t, "ab ab<|endoftext|>", TOKENIZE_SPECIAL, "ab|\u0120|ab|<|endoftext|>|");
    struct buf text = {0};
    static const int32_t ids[] = {3, 2, 0, 4};
    tokenizer_decode(t, ids, 4, true, &text);
    assert_string_equal(text.data, "ab a");
    buf_free(&text);
    tokenizer_close(t);

    put_file("tokenizer_config.json", "{\"add_prefix_space\":true}");
    t = tokenizer_open(folder, &err);
    assert_non_null(t);
    expect(t, "a", 0, "\u0120|a|");
    tokenizer_close(t);

    put_file("merges.txt", "a b c\n");
    assert_null(tokenizer_open(folder, &err));
    assert_non_null(strstr(err.text, "merge 0 is \"a b c\" (expected two parts and one space)"));
}

static void test_a_folder_without_tokenizer_says_what_is_missing(void **state)
{
    (void)state;
    struct error err = {0};
    assert_null(tokenizer_open(folder, &err));
    assert_non_null(strstr(err.text, "no tokenizer (expected tokenizer.json, or vocab.json"));
    put_file("tokenizer.json", "[]");
    assert_null(tokenizer_open(folder, &err));
    assert_non_null(strstr(err.text, "tokenizer.json: not a JSON object"));
    put_file("tokenizer.json", "{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}");
    assert_null(tokenizer_open(folder, &err));
    assert_non_null(strstr(err.text, "type \"Unigram\" is not supported (expected \"BPE\")"));
}

static void test_what_cannot_be_a_tokenizer_is_refused(void **state)
{
    (void)state;
    expect_refused((struct parts){.vocab = "[]"}, "not an object of tokens and ids");
    expect_refused((struct parts){.vocab = "{\"a\":0,\"b\":0}"},
                   "id 0 belongs to two tokens, \"a\" and \"b\"");
    expect_refused((struct parts){.vocab = "{\"a\":-1}"}, "is not an integer from 0");
    expect_refused((struct parts){.vocab = "{\"a\":5000000}"}, "is not an integer from 0");
    expect_refused((struct parts){.vocab = "{\"a\":1.5}"}, "is not an integer");
    expect_refused((struct parts){.merges = "{}"}, "\"merges\" is not a list");
    expect_refused((struct parts){.merges = "[\"ab\"]"}, "merge 0 is \"ab\"");
    expect_refused((struct parts){.merges = "[\"a b\",\"a  b\"]"}, "merge 1 is \"a  b\"");
    expect_refused((struct parts){.merges = "[[\"a\"]]"}, "merge 0 is neither");
    expect_refused((struct parts){.merges = "[[\"a\",\"b\",\"c\"]]"}, "merge 0 is neither");
    expect_refused((struct parts){.merges = "[\"a x\"]"}, "has a part \"x\" that is not in");
    expect_refused((struct parts){.merges = "[\"a c\"]"}, "makes \"ac\", which is not in");
    expect_refused((struct parts){.model = "\"dropout\":0.1,"}, "\"dropout\" is 0.1");
    expect_refused((struct parts){.model = "\"unk_token\":\"?\","}, "\"unk_token\" is \"?\"");
    expect_refused((struct parts){.model = "\"fuse_unk\":1,"}, "\"fuse_unk\" is not true or false");
    expect_refused((struct parts){.added = "{}"}, "\"added_tokens\" is not a list");
    expect_refused((struct parts){.added = "[{\"id\":30}]"}, "has no \"content\"");
    expect_refused((struct parts){.added = "[{\"content\":\"<x>\"}]"}, "has no id");
    expect_refused((struct parts){.added = "[" ADDED("<x>", "0", "\"special\":true") "]"},
                   "id 0 belongs to two tokens, \"a\" and \"<x>\"");
    expect_refused((struct parts){.added = "[" ADDED("a", "30", "\"special\":true") "]"},
                   "token \"a\" has two ids, 0 and 30");
    expect_refused((struct parts){.normalizer = "{\"type\":\"Precompiled\"}"},
                   "normalizer: unknown type \"Precompiled\"");
    expect_refused((struct parts){.pre_tokenizer = "{\"type\":\"UnicodeScripts\"}"},
                   "pre_tokenizer: unknown type \"UnicodeScripts\"");
    expect_refused((struct parts){.decoder = "{\"type\":\"WordPiece\"}"},
                   "decoder: unknown type \"WordPiece\"");
}

static void test_wrong_post_processors_and_configs_are_refused(void **state)
{
    (void)state;
    expect_refused((struct parts){.post_processor = "{\"type\":\"Odd\"}"},
                   "post_processor: unknown type \"Odd\"");
    expect_refused(
        (struct parts){.post_processor = "{\"type\":\"TemplateProcessing\",\"single\":[]}"},
        "holds the Sequence A 0 times");
    expect_refused((struct parts){.post_processor = "{\"type\":\"TemplateProcessing\",\"single\":[{"
                                                    "\"SpecialToken\":{\"id\":\"<s>\"}}]}"},
                   "\"<s>\" has no list of ids");
    expect_refused((struct parts){.post_processor =
                                      "{\"type\":\"BertProcessing\",\"sep\":[\"x\",77],"
                                      "\"cls\":[\"x\",0]}"},
                   "id 77 belongs to no token");
    expect_refused((struct parts){.config = "[]"}, "tokenizer_config.json: not a JSON object");
    expect_refused((struct parts){.config = "{\"eos_token\":7}"}, "\"eos_token\" is neither");
    expect_refused(
        (struct parts){.config = "{\"added_tokens_decoder\":{\"x\":{\"content\":\"y\"}}}"},
        "added token \"y\" has no id");
    expect_refused((struct parts){.config = "{\"tokenizer_class\":\"LlamaTokenizer\","
                                            "\"add_bos_token\":true}"},
                   "\"add_bos_token\" is true, but there is no such token");
}

/* Ten times the time that is allowed, because sanitizers may be on. */
static void test_a_mebibyte_without_space_is_encoded_in_time(void **state)
{
    (void)state;
    struct tokenizer *t = open_parts((struct parts){
        .vocab = "{\"a\":0,\"b\":1,\"ab\":2,\"ba\":3,\"abab\":4,\"aba\":5,\"babab\":6}",
        .merges = "[\"a b\",\"ab ab\",\"b a\",\"ab a\",\"b abab\"]"});
    struct buf text = {0};
    struct token_list ids = {0};
    uint32_t random = 1;
    for (int i = 0; i < 1 << 20; i++) {
        random = random * 1664525u + 1013904223u;
        buf_append_char(&text, random >> 31 ? 'a' : 'b');
    }
    clock_t start = clock();
    assert_true(tokenizer_encode(t, text.data, text.len, 0, &ids, NULL));
    double took = (double)(clock() - start) / CLOCKS_PER_SEC;
    if (took > 10)
        fail_msg("took %.1f s", took);
    struct buf back = {0};
    tokenizer_decode(t, ids.ids, ids.n, false, &back);
    assert_int_equal(back.len, text.len);
    assert_memory_equal(back.data, text.data, text.len);
    buf_free(&back);
    buf_free(&text);
    token_list_free(&ids);
    tokenizer_close(t);
}

static void test_a_hostile_expression_is_an_error_and_leaves_no_ids(void **state)
{
    (void)state;
    struct error err = {0};
    struct tokenizer *t =
        open_parts((struct parts){.pre_tokenizer = "{\"type\":\"Split\",\"pattern\":{\"Regex\":"
                                                   "\"^(a|aa|b+)+$\"},\"behavior\":\"Isolated\"}"});
    struct buf text = {0};
    struct token_list ids = {0};
    for (int i = 0; i < 2000; i++)
        buf_append_char(&text, 'a');
    buf_append_char(&text, 'c');
    token_list_add(&ids, 42);
    assert_false(tokenizer_encode(t, text.data, text.len, 0, &ids, &err));
    assert_non_null(strstr(err.text, "gave up"));
    assert_int_equal(ids.n, 1);
    buf_free(&text);
    token_list_free(&ids);
    tokenizer_close(t);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_merges_take_the_lowest_rank_then_the_leftmost),
        TEST(test_both_forms_of_merges_are_read),
        TEST(test_ignore_merges_takes_whole_words),
        TEST(test_unknown_characters_fall_back_fuse_or_vanish),
        TEST(test_affixes_mark_the_places_of_characters),
        TEST(test_added_tokens_match_leftmost_then_longest),
        TEST(test_added_tokens_heed_their_flags),
        TEST(test_special_token_text_stays_plain_unless_asked),
        TEST(test_the_post_processor_runs_only_when_asked),
        TEST(test_the_config_overrides_bos_eos_and_prefix_space),
        TEST(test_the_config_adds_tokens_and_wins_over_flags),
        TEST(test_special_tokens_are_left_out_of_text_when_asked),
        TEST(test_broken_utf8_becomes_replacement_characters),
        TEST(test_a_gpt2_folder_needs_no_tokenizer_json),
        TEST(test_a_folder_without_tokenizer_says_what_is_missing),
        TEST(test_what_cannot_be_a_tokenizer_is_refused),
        TEST(test_wrong_post_processors_and_configs_are_refused),
        TEST(test_a_mebibyte_without_space_is_encoded_in_time),
        TEST(test_a_hostile_expression_is_an_error_and_leaves_no_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
