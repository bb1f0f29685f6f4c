/* Our ids and texts against those of the `tokenizers` package, from tests/golden/tokenizers. */
#include "engine/text/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/file.h"
#include "engine/base/json.h"

#define GOLDEN ATTNSCOPE_SOURCE_DIR "/tests/golden/tokenizers/"

static void print_ids(struct buf *out, const int32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++)
        buf_printf(out, " %d", ids[i]);
}

/* want: a list of ids. */
static void expect_ids(const struct tokenizer *t, const char *text, int flags,
                       const struct json *want)
{
    struct token_list got = {0}, wanted = {0};
    struct error err = {0};
    for (const struct json *id = json_first(want); id; id = json_next(id))
        token_list_add(&wanted, (int32_t)json_number(id, -1));
    if (!tokenizer_encode(t, text, strlen(text), flags, &got, &err))
        fail_msg("\"%s\": %s", text, err.text);
    if (got.n != wanted.n || (got.n && memcmp(got.ids, wanted.ids, got.n * sizeof *got.ids) != 0)) {
        struct buf message = {0};
        print_ids(&message, got.ids, got.n);
        buf_append_str(&message, "\nwant");
        print_ids(&message, wanted.ids, wanted.n);
        fail_msg("\"%s\", flags %d:\ngot %s", text, flags, message.data);
    }
    token_list_free(&got);
    token_list_free(&wanted);
}

/* The text of the ids at once and streamed, both without special tokens. */
static void expect_text(const struct tokenizer *t, const struct json *ids, const char *want)
{
    struct token_list list = {0};
    struct buf whole = {0}, streamed = {0};
    struct detokenizer d;
    for (const struct json *id = json_first(ids); id; id = json_next(id))
        token_list_add(&list, (int32_t)json_number(id, -1));
    tokenizer_decode(t, list.ids, list.n, true, &whole);
    detokenizer_init(&d, t);
    for (size_t i = 0; i < list.n; i++)
        detokenizer_push(&d, list.ids[i], &streamed);
    detokenizer_flush(&d, &streamed);
    buf_append(&whole, "", 0);
    buf_append(&streamed, "", 0);
    if (strcmp(whole.data, want) != 0 || strcmp(streamed.data, want) != 0)
        fail_msg("whole \"%s\", streamed \"%s\", want \"%s\"", whole.data, streamed.data, want);
    detokenizer_free(&d);
    token_list_free(&list);
    buf_free(&whole);
    buf_free(&streamed);
}

static void check_case(const struct tokenizer *t, const char *line, size_t n)
{
    struct error err = {0};
    struct json *v = json_parse(line, n, "cases.jsonl", &err);
    if (!v)
        fail_msg("%s", err.text);
    const char *text = json_string(json_get(v, "text"));
    const char *decoded = json_string(json_get(v, "decoded"));
    const struct json *ids = json_get(v, "ids"), *plain = json_get(v, "plain");
    assert_non_null(text);
    assert_true(json_is_array(ids));
    expect_ids(t, text, TOKENIZE_SPECIAL, ids);
    expect_ids(t, text, TOKENIZE_PLAIN | TOKENIZE_ADD_BOS_EOS, plain ? plain : ids);
    expect_text(t, ids, decoded ? decoded : text);
    json_free(v);
}

static void check_cases(const char *folder, const char *name)
{
    struct error err = {0};
    struct buf lines = {0};
    int n_cases = 0;
    struct tokenizer *t = tokenizer_open(folder, &err);
    if (!t)
        fail_msg("%s", err.text);
    char *path = path_join(GOLDEN, name), *cases = path_join(path, "cases.jsonl");
    if (!file_read(&lines, cases, 16 << 20, &err))
        fail_msg("%s", err.text);
    for (char *at = lines.data, *end; (end = strchr(at, '\n')); at = end + 1, n_cases++)
        check_case(t, at, (size_t)(end - at));
    assert_true(n_cases >= 50);
    buf_free(&lines);
    free(path);
    free(cases);
    tokenizer_close(t);
}

static void test_small_tokenizers_of_every_shape_agree(void **state)
{
    (void)state;
    static const char *const names[] = {
        "llama3", "qwen",      "smollm",  "tekken",    "cl100k",      "roberta",        "llama2",
        "gemma",  "metaspace", "affixes", "lowercase", "punctuation", "metaspace_first"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char *folder = path_join(GOLDEN, names[i]);
        check_cases(folder, names[i]);
        free(folder);
    }
}

static void test_the_embedded_tokenizer_agrees(void **state)
{
    (void)state;
    check_cases(ATTNSCOPE_SOURCE_DIR "/presets/model", "embedded");
}

/* Tokenizers of other people are not part of the project. */
static void test_real_tokenizers_agree(void **state)
{
    (void)state;
    static const char *const names[] = {"gpt2", "pythia", "mistral-v0.3"};
    for (size_t i = 0; i < 3; i++) {
        char *folder = path_join(ATTNSCOPE_SOURCE_DIR "/../shared/tokenizers", names[i]);
        bool is_there = file_is_folder(folder);
        if (is_there)
            check_cases(folder, names[i]);
        free(folder);
        if (!is_there) {
            print_message("skipped: ../shared/tokenizers/%s is not there\n", names[i]);
            skip();
        }
    }
}

/* Any ids at all: what is streamed is what is decoded at once. */
static void test_streamed_text_equals_whole_text_for_random_ids(void **state)
{
    (void)state;
    static const char *const names[] = {"llama3", "llama2", "metaspace", "punctuation"};
    uint32_t random = 1;
    for (size_t k = 0; k < 4; k++) {
        char *folder = path_join(GOLDEN, names[k]);
        struct tokenizer *t = tokenizer_open(folder, NULL);
        struct detokenizer d;
        assert_non_null(t);
        detokenizer_init(&d, t);
        for (int round = 0; round < 500; round++) {
            int32_t ids[40];
            struct buf whole = {0}, streamed = {0};
            for (int i = 0; i < 40; i++) {
                random = random * 1664525u + 1013904223u;
                ids[i] = (int32_t)(random >> 8) % (tokenizer_vocab_size(t) + 2);
                detokenizer_push(&d, ids[i], &streamed);
            }
            detokenizer_flush(&d, &streamed);
            tokenizer_decode(t, ids, 40, true, &whole);
            buf_append(&streamed, "", 1);
            buf_append(&whole, "", 1);
            assert_string_equal(streamed.data, whole.data);
            buf_free(&whole);
            buf_free(&streamed);
        }
        detokenizer_free(&d);
        tokenizer_close(t);
        free(folder);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small_tokenizers_of_every_shape_agree),
        cmocka_unit_test(test_the_embedded_tokenizer_agrees),
        cmocka_unit_test(test_real_tokenizers_agree),
        cmocka_unit_test(test_streamed_text_equals_whole_text_for_random_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
