/* The embedded model against transformers (dense) and the reference project's adapter (sparse):
 * prompts, token ids and answers of tests/golden/embedded, in f32 throughout.  None of the
 * deviations of the maskers' spec shows in these answers: all are equal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/base/memory.h"
#include "engine/run/prompt.h"
#include "tests/engine_run.h"
#include "tests/test_backend.h"

#include <cmocka.h>

#define GOLDEN ATTNSCOPE_SOURCE_DIR "/tests/golden/embedded/"
static const char model_folder[] = ATTNSCOPE_SOURCE_DIR "/presets/model";

enum { MAX_TOKENS = 48, MAX_CASES = 64 };

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { LONGEST_CONTEXT = 5000 }; /* bytes: the long ones take minutes there */
#else
enum { LONGEST_CONTEXT = 1 << 20 };
#endif

/* The stacks of sparse.json in our short form. */
static const char *const stacks[][2] = {
    {"sink4+local64", "sink:4,local:64"},
    {"sink16+local128+oracle5%", "sink:16,local:128,oracle-topk:5%"},
    {"sink4+local32+oracle1%", "sink:4,local:32,oracle-topk:1%"},
    {"sink16+local64+oraclep0.9", "sink:16,local:64,oracle-topp:0.9"},
    {"sink16+local64+quest10%", "sink:16,local:64,quest:10%"},
};
enum { N_STACKS = sizeof stacks / sizeof stacks[0] };

struct golden {
    struct json *dense, *sparse;
    const struct json *cases[MAX_CASES];
    int n_cases;
};

static int open_golden(void **state)
{
    struct golden *g = xcalloc(1, sizeof *g);
    struct error err = {0};
    g->dense = json_parse_file(GOLDEN "dense.json", 1 << 26, &err);
    g->sparse = g->dense ? json_parse_file(GOLDEN "sparse.json", 1 << 26, &err) : NULL;
    if (!g->sparse)
        fail_msg("%s", err.text);
    const struct json *c = json_first(json_get(g->dense, "cases"));
    for (; c && g->n_cases < MAX_CASES; c = json_next(c))
        g->cases[g->n_cases++] = c;
    assert_int_equal(g->n_cases, 10);
    *state = g;
    return 0;
}

static int close_golden(void **state)
{
    struct golden *g = *state;
    json_free(g->dense);
    json_free(g->sparse);
    free(g);
    return 0;
}

static const char *text_of(const struct json *c, const char *key)
{
    const char *text = json_string(json_get(c, key));
    assert_non_null(text);
    return text;
}

static void assert_ids(const char *what, int number, const int32_t *got, size_t n_got,
                       const struct json *want)
{
    size_t i = 0;
    for (const struct json *v = json_first(want); v; v = json_next(v), i++) {
        int64_t id = -1;
        assert_true(json_int(v, 0, INT32_MAX, &id));
        if (i >= n_got || got[i] != id)
            fail_msg("case %d: %s token %zu is %d, want %d (of %zu and %zu tokens)", number, what,
                     i, i < n_got ? (int)got[i] : -1, (int)id, n_got, json_count(want));
    }
    if (i != n_got)
        fail_msg("case %d: %zu %s tokens, want %zu", number, n_got, what, i);
}

/* --- Prompts ------------------------------------------------------------------------------ */

static void test_split_prompts_have_the_joined_prompts_ids(void **state)
{
    struct golden *g = *state;
    struct error err = {0};
    struct prompt_format format;
    struct chat_template *chat = NULL;
    struct tokenizer *t = tokenizer_open(model_folder, &err);
    if (!t || !chat_template_open(&chat, model_folder, &err) ||
        !prompt_format_init(&format, t, chat, &err))
        fail_msg("%s", err.text);
    for (int i = 0; i < g->n_cases; i++) {
        struct request r;
        struct prompt prompt;
        request_init(&r);
        r.context = xstrdup(text_of(g->cases[i], "context"));
        r.n_context = strlen(r.context);
        assert_true(request_add_question(&r, text_of(g->cases[i], "question"), &err));
        if (!prompt_build(&prompt, &format, &r, 16384, MAX_TOKENS, &err))
            fail_msg("case %d: %s", i, err.text);
        token_list_append(&prompt.context, prompt.questions[0].ids, prompt.questions[0].n);
        assert_ids("prompt", i, prompt.context.ids, prompt.context.n,
                   json_get(g->cases[i], "prompt_token_ids"));
        prompt_free(&prompt);
        request_free(&r);
    }
    prompt_format_free(&format);
    chat_template_free(chat);
    tokenizer_close(t);
}

/* --- Answers ------------------------------------------------------------------------------ */

static struct engine *start_engine(void)
{
    struct error err = {0};
    struct engine_options options = {.backend = test_backend(), .kv_dtype = DTYPE_F32};
    struct engine *e = engine_start(&options, &err);
    if (!e || !load_run(e, model_folder, &err))
        fail_msg("%s", err.text);
    return e;
}

static const char *answer_of(struct report *r, int question, int lane)
{
    const struct buf *answer = &report_lane(r, question, lane)->answer;
    return answer->data ? answer->data : "";
}

/* Compares one question's lanes with the golden answers; returns how many sparse ones differ. */
static int compare(const struct golden *g, struct report *r, int question, int number)
{
    const struct json *c = g->cases[number];
    const struct report_lane *dense = report_lane(r, question, 0);
    int32_t ids[MAX_TOKENS];
    for (size_t i = 0; i < dense->n_tokens; i++)
        ids[i] = dense->tokens[i].id;
    assert_ids("answer", number, ids, dense->n_tokens, json_get(c, "answer_token_ids"));
    assert_string_equal(answer_of(r, question, 0), text_of(c, "answer"));

    int n_different = 0;
    for (int s = 0; s < N_STACKS; s++) {
        const struct json *v = json_first(json_get(json_get(g->sparse, "stacks"), stacks[s][0]));
        for (int i = 0; i < number; i++)
            v = json_next(v);
        const char *want = text_of(v, "answer"), *got = answer_of(r, question, s + 1);
        if (strcmp(got, want) == 0)
            continue;
        printf("case %d, %s: got \"%s\", want \"%s\"\n", number, stacks[s][0], got, want);
        n_different++;
    }
    return n_different;
}

/* All questions of one context in one request: dense and the stacks. */
static int run_context(const struct golden *g, struct engine *e, int first, int n)
{
    struct error err = {0};
    struct request r;
    request_init(&r);
    r.max_tokens = MAX_TOKENS;
    r.context = xstrdup(text_of(g->cases[first], "context"));
    r.n_context = strlen(r.context);
    for (int i = 0; i < n; i++)
        assert_true(request_add_question(&r, text_of(g->cases[first + i], "question"), &err));
    for (int s = 0; s < N_STACKS; s++) {
        struct stack stack;
        if (!stack_parse(&stack, stacks[s][1], &err) || !request_add_lane(&r, NULL, &stack, &err))
            fail_msg("%s: %s", stacks[s][1], err.text);
    }
    struct ask_result *a = ask_run(e, &r, NULL);
    if (a->n_failed || !a->n_finished)
        fail_msg("case %d: %s", first, a->report->error.text);
    int n_different = 0;
    for (int i = 0; i < n; i++)
        n_different += compare(g, a->report, i, first + i);
    ask_free(a);
    request_free(&r);
    return n_different;
}

static void test_dense_and_sparse_answers_are_the_references(void **state)
{
    struct golden *g = *state;
    struct engine *e = start_engine();
    int n_different = 0;
    for (int first = 0, n; first < g->n_cases; first += n) {
        const char *context = text_of(g->cases[first], "context");
        for (n = 1; first + n < g->n_cases; n++)
            if (strcmp(text_of(g->cases[first + n], "context"), context) != 0)
                break;
        if (strlen(context) <= LONGEST_CONTEXT)
            n_different += run_context(g, e, first, n);
        else
            printf("case %d is left out: too long for a build with sanitizers\n", first);
    }
    engine_stop(e);
    if (n_different)
        fail_msg("%d sparse answers differ from the reference's, see above", n_different);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_split_prompts_have_the_joined_prompts_ids),
        cmocka_unit_test(test_dense_and_sparse_answers_are_the_references),
    };
    if (!test_backend_opens())
        return TEST_SKIPPED;
    return cmocka_run_group_tests(tests, open_golden, close_golden);
}
