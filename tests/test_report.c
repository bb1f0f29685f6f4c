/* Reports: what a run's events add up to, as JSON and as text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/base/utf8.h"
#include "engine/run/report.h"
#include "engine/text/screen_text.h"

#include <cmocka.h>

static void make_request(struct request *r)
{
    struct stack stack;
    memset(&stack, 0, sizeof stack);
    assert_true(stack_parse(&stack, "sink:4,local:64", NULL));
    request_init(r);
    r->context = xstrdup("Paris.");
    r->n_context = 6;
    assert_true(request_add_question(r, "Where?", NULL));
    assert_true(request_add_question(r, "Why \x1b[31mthere?", NULL));
    assert_true(request_add_lane(r, NULL, &stack, NULL));
}

static void apply_token(struct report *r, int question, int lane, int index, int32_t id,
                        const char *text)
{
    struct event e = {.kind = EVENT_TOKEN};
    e.token = (struct token_event){.question = question,
                                   .lane = lane,
                                   .index = index,
                                   .id = id,
                                   .text = xstrdup(text),
                                   .n_text = strlen(text),
                                   .logprob = -0.5f,
                                   .step_us = 1000 + index};
    report_apply(r, &e);
    event_free(&e);
}

static void apply_metrics(struct report *r, int question, int lane)
{
    struct event e = {.kind = EVENT_METRICS};
    struct lane_metrics *m = &e.metrics;
    m->question = question;
    m->lane = lane;
    m->density = lane ? 0.25 : 1;
    m->read_density = lane ? 0.5 : 1;
    m->step_ms_per_token = 2;
    m->attention_us_per_token = 100;
    m->answer_ms = 40;
    m->ttft_ms = 10;
    m->speedup_attention = 3;
    m->speedup_step = 1.5;
    m->jaccard = 0.5;
    m->agreement = m->mean_kl = -1;
    m->recall_mean = m->recall_worst = -1;
    m->divergence.index = -1;
    m->n_layers = 2;
    if (lane) {
        m->reads_all_keys = true;
        m->recall_mean = 0.9;
        m->recall_worst = 0.125;
        m->recall_worst_layer = 1;
        m->layers = xcalloc(2, sizeof *m->layers);
        m->layers[0] = (struct layer_probe){0, 0.875, 0.5, 3, 0.25, 2};
        m->layers[1] = (struct layer_probe){1, 0.75, 0.125, 1, 0.5, 2};
        m->divergence = (struct divergence){.index = 1,
                                            .base_id = 7,
                                            .lane_id = 8,
                                            .base_text = xstrdup(" is"),
                                            .lane_text = xstrdup(" was"),
                                            .base_prob = 0.5f,
                                            .lane_prob = 0.25f,
                                            .margin = 0.0625f,
                                            .near_tie = true};
    }
    report_apply(r, &e);
    event_free(&e);
}

static void apply_done(struct report *r, int question, int lane, enum finish finish,
                       const char *error)
{
    struct event e = {.kind = EVENT_DONE};
    e.done = (struct done_event){question, lane, finish, error ? xstrdup(error) : NULL, false};
    report_apply(r, &e);
    event_free(&e);
}

/* A run with one question answered and one whose sparse lane failed. */
static struct report *make_report(void)
{
    struct request request;
    make_request(&request);
    struct model_info model = {.path = xstrdup("/m/tiny"),
                               .name = xstrdup("tiny"),
                               .device = xstrdup("a cpu"),
                               .family = "llama",
                               .dtype = "bf16",
                               .backend = "cpu",
                               .n_params = 15700000};
    struct report *r = report_new(&request, &model);
    model_info_free(&model);
    request_free(&request);

    struct event e = {.kind = EVENT_CONTEXT};
    e.context = (struct context_info){
        .n_tokens = 12345, .prefill_ms = 8.5, .notice = xstrdup("5 tokens were left out")};
    report_apply(r, &e);
    event_free(&e);
    for (int lane = 0; lane < 2; lane++) {
        apply_token(r, 0, lane, 0, 5, "It");
        apply_token(r, 0, lane, 1, 7 + lane, lane ? " was" : " is");
        apply_token(r, 0, lane, 2, 2, "");
        apply_metrics(r, 0, lane);
        apply_done(r, 0, lane, FINISH_STOP, NULL);
    }
    apply_token(r, 1, 0, 0, 9,
                "Be\x1b]0;x\x07"
                "cause");
    apply_done(r, 1, 0, FINISH_LENGTH, NULL);
    apply_done(r, 1, 1, FINISH_ERROR, "no memory");
    e = (struct event){.kind = EVENT_FINISHED};
    report_apply(r, &e);
    return r;
}

/* --- Applying ----------------------------------------------------------------------------- */

static void test_report_gathers_answers_and_token_ends(void **state)
{
    (void)state;
    struct report *r = make_report();
    const struct report_lane *lane = report_lane(r, 0, 1);
    assert_string_equal(lane->answer.data, "It was");
    assert_int_equal(lane->n_tokens, 3);
    assert_int_equal(lane->tokens[0].text_end, 2);
    assert_int_equal(lane->tokens[1].text_end, 6);
    assert_int_equal(lane->tokens[2].text_end, 6);
    assert_int_equal(lane->tokens[2].step_us, 1002);
    assert_true(lane->done && lane->finish == FINISH_STOP);
    assert_string_equal(report_lane(r, 1, 1)->error, "no memory");
    assert_true(r->finished && !r->cancelled);
    report_free(r);
}

static void test_events_of_unknown_lanes_are_left_out(void **state)
{
    (void)state;
    struct report *r = make_report();
    apply_token(r, 7, 0, 0, 1, "x");
    apply_token(r, 0, -1, 0, 1, "x");
    apply_metrics(r, 0, 2);
    apply_done(r, -1, 0, FINISH_STOP, NULL);
    assert_int_equal(report_lane(r, 0, 0)->n_tokens, 3);
    report_free(r);
}

static void test_failed_run_keeps_its_error(void **state)
{
    (void)state;
    struct request request;
    make_request(&request);
    struct report *r = report_new(&request, NULL);
    struct event e = {.kind = EVENT_FAILED};
    e.failed = (struct error){EXIT_CODE_NO_DEVICE, "no room"};
    report_apply(r, &e);
    assert_string_equal(r->error.text, "no room");
    struct buf text = {0};
    report_write_text(r, 80, false, &text);
    assert_non_null(strstr(text.data, "error: no room"));
    buf_free(&text);
    report_free(r);
    request_free(&request);
}

/* --- JSON --------------------------------------------------------------------------------- */

static struct json *report_json(const struct report *r)
{
    struct error err = {0};
    struct buf text = {0};
    struct json *built = report_to_json(r);
    json_write(&text, built, false);
    struct json *parsed = json_parse(text.data, text.len, "report", &err);
    if (!parsed)
        fail_msg("%s in %s", err.text, text.data);
    json_free(built);
    buf_free(&text);
    return parsed;
}

static const struct json *nth(const struct json *array, int n)
{
    const struct json *v = json_first(array);
    while (n-- && v)
        v = json_next(v);
    return v;
}

/* Exactly these keys, in this order. */
static void assert_keys(const struct json *object, const char *const *keys)
{
    const struct json *v = json_first(object);
    for (; *keys; keys++, v = json_next(v)) {
        if (!v)
            fail_msg("key %s is missing", *keys);
        assert_string_equal(json_key(v), *keys);
    }
    if (v)
        fail_msg("key %s was not expected", json_key(v));
}

static void test_json_has_the_documented_keys(void **state)
{
    (void)state;
    static const char *const top[] = {"attnscope",      "model",      "backend",   "device",
                                      "context_tokens", "prefill_ms", "questions", NULL};
    static const char *const model[] = {"path", "family", "params", "dtype", NULL};
    static const char *const lane_keys[] = {"name",
                                            "stack",
                                            "answer",
                                            "token_ids",
                                            "finish",
                                            "density",
                                            "read_density",
                                            "sparsity",
                                            "index_build_ms",
                                            "attention_us_per_token",
                                            "step_ms_per_token",
                                            "answer_ms",
                                            "ttft_ms",
                                            "speedup",
                                            "jaccard",
                                            "divergence",
                                            "layers",
                                            NULL};
    static const char *const speedup[] = {"attention", "step", "answer", NULL};
    static const char *const layer[] = {"layer",      "recall",       "recall_worst",
                                        "worst_head", "output_error", NULL};
    struct report *r = make_report();
    struct json *v = report_json(r);
    const struct json *lane = nth(json_get(json_first(json_get(v, "questions")), "lanes"), 1);
    assert_keys(v, top);
    assert_keys(json_get(v, "model"), model);
    assert_keys(lane, lane_keys);
    assert_keys(json_get(lane, "speedup"), speedup);
    assert_keys(json_first(json_get(lane, "layers")), layer);
    json_free(v);
    report_free(r);
}

static void test_json_holds_the_figures(void **state)
{
    (void)state;
    struct report *r = make_report();
    struct json *v = report_json(r);
    const struct json *lane = nth(json_get(json_first(json_get(v, "questions")), "lanes"), 1);
    assert_string_equal(json_string(json_get(lane, "name")), "sink:4,local:64");
    assert_string_equal(json_string(json_get(lane, "answer")), "It was");
    assert_string_equal(json_string(json_get(lane, "finish")), "stop");
    assert_int_equal(json_count(json_get(lane, "token_ids")), 3);
    assert_int_equal(json_count(json_get(lane, "stack")), 2);
    assert_true(json_number(json_get(lane, "density"), 0) == 0.25);
    assert_true(json_number(json_get(lane, "sparsity"), 0) == 0.75);
    const struct json *speedup = json_get(lane, "speedup");
    assert_true(json_number(json_get(speedup, "attention"), 0) == 3);
    assert_true(json_is_null(json_get(speedup, "answer"))); /* not known */
    const struct json *d = json_get(lane, "divergence");
    assert_true(json_number(json_get(d, "index"), -1) == 1);
    assert_true(json_number(json_get(d, "margin"), 0) == 0.0625);
    assert_string_equal(json_string(json_get(json_get(d, "dense"), "text")), " is");
    assert_true(json_number(json_get(nth(json_get(lane, "layers"), 1), "recall"), 0) == 0.75);
    json_free(v);
    report_free(r);
}

static void test_json_of_unknown_figures_is_null(void **state)
{
    (void)state;
    struct report *r = make_report();
    struct json *v = report_json(r);
    const struct json *lane = nth(json_get(nth(json_get(v, "questions"), 1), "lanes"), 1);
    assert_string_equal(json_string(json_get(lane, "finish")), "error");
    assert_string_equal(json_string(json_get(lane, "error")), "no memory");
    assert_true(json_is_null(json_get(lane, "density")));
    assert_true(json_is_null(json_get(lane, "jaccard")));
    assert_true(json_is_null(json_get(lane, "divergence")));
    assert_string_equal(json_string(json_get(lane, "answer")), "");
    json_free(v);
    report_free(r);
}

/* --- Text --------------------------------------------------------------------------------- */

static char *report_text(const struct report *r, int width, bool ascii)
{
    struct buf text = {0};
    report_write_text(r, width, ascii, &text);
    return buf_take(&text);
}

static void assert_says(const char *text, const char *what)
{
    if (!strstr(text, what))
        fail_msg("\"%s\" is not in:\n%s", what, text);
}

static void test_text_shows_table_answers_and_divergence(void **state)
{
    (void)state;
    struct report *r = make_report();
    char *text = report_text(r, 100, false);
    assert_says(text, "tiny (llama, 15.7M parameters, bf16) on cpu: a cpu");
    assert_says(text, "12,345 tokens");
    assert_says(text, "note: 5 tokens were left out");
    assert_says(text, "1. Where?");
    assert_says(text, "25.0%");
    assert_says(text, "3.00x*");
    assert_says(text, "0.50");
    assert_says(text, "It was");
    assert_says(text, "differs from dense at token 2: \" is\" (p 0.500) became \" was\" (p 0.250), "
                      "margin 0.06: a near-tie");
    assert_says(text, "mass recall 0.900, worst 0.125 (layer 1, head 0)");
    assert_says(text, "error: no memory");
    assert_says(text, "reads every key");
    free(text);
    report_free(r);
}

static void test_text_holds_no_control_characters_and_fits_the_width(void **state)
{
    (void)state;
    static const int widths[] = {40, 60, 80, 120};
    struct report *r = make_report();
    for (int w = 0; w < 8; w++) {
        bool ascii = w >= 4;
        char *text = report_text(r, widths[w % 4], ascii);
        int column = 0;
        for (size_t i = 0, n = strlen(text); i < n;) {
            uint32_t c;
            int n_bad, len = utf8_decode(text + i, n - i, &c, &n_bad);
            assert_true(len > 0);
            if (c != '\n' && (!screen_text_allowed(c) || (ascii && c > 0x7E)))
                fail_msg("U+%04X in:\n%s", (unsigned)c, text);
            column = c == '\n' ? 0 : column + screen_text_width(c);
            if (column > widths[w % 4])
                fail_msg("a line is wider than %d:\n%s", widths[w % 4], text);
            i += (size_t)len;
        }
        free(text);
    }
    report_free(r);
}

/* --- Requests ----------------------------------------------------------------------------- */

static void test_request_copy_is_deep(void **state)
{
    (void)state;
    struct request r;
    make_request(&r);
    r.answer_prefix = xstrdup("So");
    struct request *copy = request_copy(&r);
    assert_ptr_not_equal(copy->context, r.context);
    assert_ptr_not_equal(copy->questions[1], r.questions[1]);
    request_free(&r);
    assert_string_equal(copy->questions[0], "Where?");
    assert_string_equal(copy->answer_prefix, "So");
    assert_int_equal(copy->n_lanes, 2);
    request_free(copy);
    free(copy);
}

static void test_request_refuses_more_than_it_holds(void **state)
{
    (void)state;
    struct request r;
    struct error err = {0};
    struct stack dense;
    memset(&dense, 0, sizeof dense);
    request_init(&r);
    for (int i = 1; i < REQUEST_MAX_LANES; i++)
        assert_true(request_add_lane(&r, "d", &dense, &err));
    assert_false(request_add_lane(&r, "d", &dense, &err));
    assert_int_equal(err.code, EXIT_CODE_USAGE);
    for (int i = 0; i < REQUEST_MAX_QUESTIONS; i++)
        assert_true(request_add_question(&r, "?", &err));
    assert_false(request_add_question(&r, "?", &err));
    request_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_report_gathers_answers_and_token_ends),
        cmocka_unit_test(test_events_of_unknown_lanes_are_left_out),
        cmocka_unit_test(test_failed_run_keeps_its_error),
        cmocka_unit_test(test_json_has_the_documented_keys),
        cmocka_unit_test(test_json_holds_the_figures),
        cmocka_unit_test(test_json_of_unknown_figures_is_null),
        cmocka_unit_test(test_text_shows_table_answers_and_divergence),
        cmocka_unit_test(test_text_holds_no_control_characters_and_fits_the_width),
        cmocka_unit_test(test_request_copy_is_deep),
        cmocka_unit_test(test_request_refuses_more_than_it_holds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
