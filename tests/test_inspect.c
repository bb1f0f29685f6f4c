/* Looking at single steps of answers: what the evidence says must be what the answer's own steps
 * measured, whichever step was looked at before. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/file.h"
#include "engine/base/memory.h"
#include "tests/engine_run.h"
#include "tests/test_backend.h"

#include <cmocka.h>

#define PRESETS ATTNSCOPE_SOURCE_DIR "/presets/"
static const char question[] = "What is the special magic number for quiet harbor?";
enum { N_LAYERS = 8, N_HEADS = 6, MAX_TOKENS = 12 };

/* One answer of one lane, beside dense. */
struct answered {
    struct engine *engine;
    struct request request;
    struct ask_result *asked;
};

static int start(void **state)
{
    struct engine_options options = {.backend = test_backend(), .kv_dtype = DTYPE_BF16};
    struct error err = {0};
    struct engine *e = engine_start(&options, &err);
    if (!e || !load_run(e, PRESETS "model", &err))
        fail_msg("%s", err.text);
    *state = e;
    return 0;
}

static int stop(void **state)
{
    engine_stop(*state);
    return 0;
}

static struct stack stack_of(const char *text)
{
    struct error err = {0};
    struct stack stack;
    if (!stack_parse(&stack, text, &err))
        fail_msg("%s: %s", text, err.text);
    return stack;
}

static void ask(struct answered *a, struct engine *e, const char *stack_text)
{
    struct error err = {0};
    struct buf text = {0};
    struct stack stack = stack_of(stack_text);
    a->engine = e;
    request_init(&a->request);
    if (!file_read(&text, PRESETS "samples/needle-4k.txt", 1 << 20, &err))
        fail_msg("%s", err.text);
    free(a->request.context);
    a->request.n_context = text.len;
    a->request.context = buf_take(&text);
    a->request.max_tokens = MAX_TOKENS;
    assert_true(request_add_question(&a->request, question, &err));
    assert_true(request_add_lane(&a->request, NULL, &stack, &err));
    a->asked = ask_run(e, &a->request, NULL);
    assert_int_equal(a->asked->n_finished, 1);
}

static void answered_free(struct answered *a)
{
    ask_free(a->asked);
    request_free(&a->request);
}

/* The answer's own lane, alone. */
static struct inspection *inspection_of(const struct answered *a, int lane, int step, int layer,
                                        int head)
{
    const struct report_lane *r = report_lane(a->asked->report, 0, lane);
    struct inspection *i = xcalloc(1, sizeof *i);
    i->tag = 7;
    i->request = request_copy(&a->request);
    i->request->lanes[0] = i->request->lanes[lane];
    i->request->n_lanes = 1;
    i->fed = xcalloc(r->n_tokens, sizeof *i->fed);
    i->n_fed = (int)r->n_tokens;
    for (size_t t = 0; t < r->n_tokens; t++)
        i->fed[t] = r->tokens[t].id;
    i->step = step;
    i->layer = layer;
    i->head = head;
    return i;
}

/* Takes i.  The evidence is the caller's; NULL: it failed, as err says, or was cancelled. */
static struct evidence *look(struct engine *e, struct inspection *i, struct error *err)
{
    struct evidence *found = NULL;
    struct event event;
    int step = i->step;
    assert_true(engine_inspect(e, i));
    while (engine_wait(e, &event, 120000)) {
        bool ended = event.kind == EVENT_FINISHED || event.kind == EVENT_FAILED;
        if (event.kind == EVENT_FAILED)
            *err = event.failed;
        if (event.kind == EVENT_EVIDENCE) {
            assert_null(found);
            assert_int_equal(event.evidence.tag, 7);
            assert_int_equal(event.evidence.step, step);
            found = event.evidence.evidence;
            event.evidence.evidence = NULL;
        }
        event_free(&event);
        if (ended)
            return found;
    }
    fail_msg("the inspection did not end");
    return NULL;
}

static struct evidence *look_at(const struct answered *a, int lane, int step, int layer, int head)
{
    struct error err = {0};
    struct evidence *e = look(a->engine, inspection_of(a, lane, step, layer, head), &err);
    if (!e)
        fail_msg("%s", err.text);
    assert_int_equal(e->n_layers, N_LAYERS);
    assert_int_equal(e->n_heads, N_HEADS);
    return e;
}

static double mean(const struct evidence *e, enum evidence_figure figure, int layer)
{
    double sum = 0;
    for (int h = 0; h < N_HEADS; h++)
        sum += e->figures[figure][layer * N_HEADS + h];
    return sum / N_HEADS;
}

static void assert_same(const struct evidence *a, const struct evidence *b)
{
    assert_int_equal(a->n_keys, b->n_keys);
    size_t n = (size_t)a->n_keys;
    for (int f = 0; f < EVIDENCE_N_FIGURES; f++)
        assert_memory_equal(a->figures[f], b->figures[f], N_LAYERS * N_HEADS * sizeof(float));
    assert_memory_equal(a->head.weight, b->head.weight, n * sizeof(float));
    assert_memory_equal(a->head.kept_by, b->head.kept_by, n);
}

/* --- What the evidence says ------------------------------------------------------------------ */

/* The first decode step of an answer is probed, and told in its figures. */
static void test_recall_is_that_of_the_probed_step(void **state)
{
    struct answered a;
    ask(&a, *state, "sink:4,local:64,quest:10%");
    const struct lane_metrics *m = &report_lane(a.asked->report, 0, 1)->metrics;
    struct evidence *e = look_at(&a, 1, 1, 0, 0);
    for (int l = 0; l < N_LAYERS; l++) {
        assert_int_equal(m->layers[l].n_rows, 1);
        assert_float_equal(mean(e, EVIDENCE_RECALL, l), m->layers[l].recall_mean, 1e-6);
    }
    evidence_free(e);
    answered_free(&a);
}

static void test_weights_sum_to_one_and_kept_ones_to_the_recall(void **state)
{
    struct answered a;
    ask(&a, *state, "sink:4,local:64,quest:10%");
    struct evidence *e = look_at(&a, 1, 3, 5, 4);
    double all = 0, kept = 0;
    int n_kept = 0;
    for (int j = 0; j < e->n_keys; j++) {
        all += e->head.weight[j];
        kept += e->head.kept_by[j] ? e->head.weight[j] : 0;
        n_kept += e->head.kept_by[j] != 0;
    }
    assert_float_equal(all, 1, 1e-5);
    assert_float_equal(kept, e->figures[EVIDENCE_RECALL][5 * N_HEADS + 4], 1e-4);
    assert_int_equal(n_kept, e->head.n_kept);
    assert_float_equal((double)n_kept / e->n_keys, e->figures[EVIDENCE_DENSITY][5 * N_HEADS + 4],
                       1e-6);
    evidence_free(e);
    answered_free(&a);
}

static void test_each_key_is_told_by_the_masker_that_kept_it(void **state)
{
    struct answered a;
    ask(&a, *state, "sink:4,local:16,oracle-topk:20");
    struct evidence *e = look_at(&a, 1, 2, 3, 1);
    int n_top = 0;
    for (int j = 0; j < e->n_keys; j++) {
        int by = e->head.kept_by[j];
        if (j < 4)
            assert_int_equal(by, 1);
        else if (j >= e->n_keys - 16)
            assert_int_equal(by, 2);
        else
            n_top += by == 3;
    }
    assert_int_equal(n_top, 20);
    assert_int_equal(e->head.n_kept, 40);
    evidence_free(e);
    answered_free(&a);
}

static void test_an_oracle_agrees_with_the_heaviest_keys(void **state)
{
    struct answered a;
    ask(&a, *state, "oracle-topk:5%");
    struct evidence *e = look_at(&a, 1, 2, 3, 1);
    for (int l = 0; l < N_LAYERS; l++)
        assert_float_equal(mean(e, EVIDENCE_AGREEMENT, l), 1, 0);
    int heaviest[8];
    assert_int_equal(evidence_heaviest(e, 8, heaviest), 8);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(evidence_rank(e, heaviest[i]), i);
        assert_int_equal(e->head.kept_by[heaviest[i]], 1);
    }
    evidence_free(e);
    answered_free(&a);
}

static void test_dense_keeps_every_key(void **state)
{
    struct answered a;
    ask(&a, *state, "sink:4,local:64");
    struct evidence *e = look_at(&a, 0, 2, 3, 1);
    for (int j = 0; j < e->n_keys; j++)
        assert_int_equal(e->head.kept_by[j], EVIDENCE_KEPT_DENSELY);
    assert_float_equal(mean(e, EVIDENCE_DENSITY, 3), 1, 0);
    assert_float_equal(mean(e, EVIDENCE_ERROR, 3), 0, 0);
    evidence_free(e);
    answered_free(&a);
}

static void test_a_layer_of_its_own_stack_is_told_by_it(void **state)
{
    struct answered a;
    ask(&a, *state, "sink:4,local:16; layers 0-1: dense");
    struct evidence *e = look_at(&a, 1, 1, 1, 0);
    assert_int_equal(e->head.kept_by[100], EVIDENCE_KEPT_DENSELY);
    assert_float_equal(mean(e, EVIDENCE_DENSITY, 1), 1, 0);
    assert_float_equal(mean(e, EVIDENCE_DENSITY, 2), 20.0 / e->n_keys, 1e-6);
    evidence_free(e);
    answered_free(&a);
}

static void test_the_keys_spell_the_prompt_and_the_answer(void **state)
{
    struct answered a;
    ask(&a, *state, "sink:4,local:64");
    const struct report_lane *r = report_lane(a.asked->report, 0, 0);
    struct evidence *e = look_at(&a, 0, 2, 0, 0);
    const char *context = strstr(e->text, a.request.context);
    assert_non_null(context);
    const char *asked = strstr(context + a.request.n_context, question);
    assert_non_null(asked);
    size_t n = r->tokens[1].text_end;
    assert_memory_equal(e->text + e->text_end[e->n_keys - 1] - n, r->answer.data, n);
    for (int j = 1; j < e->n_keys; j++)
        assert_true(e->text_end[j] >= e->text_end[j - 1]);
    evidence_free(e);
    answered_free(&a);
}

/* --- One look after another ------------------------------------------------------------------ */

static void test_a_step_looks_the_same_whatever_was_looked_at_before(void **state)
{
    struct answered a;
    ask(&a, *state, "sink:4,local:64,quest:5%,random:0.05");
    struct evidence *first = look_at(&a, 1, 4, 5, 2);
    int steps[] = {2, 0, 6, 1};
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++)
        evidence_free(look_at(&a, 1, steps[i], 0, 0));
    struct evidence *again = look_at(&a, 1, 4, 5, 2);
    assert_same(first, again);
    evidence_free(first);
    evidence_free(again);
    answered_free(&a);
}

/* What is kept of a look is no part of the next ask. */
static void test_an_ask_after_a_look_answers_as_before(void **state)
{
    struct answered a;
    ask(&a, *state, "sink:4,local:64,quest:5%");
    evidence_free(look_at(&a, 1, 4, 5, 2));
    struct ask_result *again = ask_run(*state, &a.request, NULL);
    const struct report_lane *before = report_lane(a.asked->report, 0, 1);
    const struct report_lane *after = report_lane(again->report, 0, 1);
    assert_int_equal(before->n_tokens, after->n_tokens);
    for (size_t i = 0; i < before->n_tokens; i++)
        assert_int_equal(before->tokens[i].id, after->tokens[i].id);
    ask_free(again);
    answered_free(&a);
}

/* --- Along the dense answer ------------------------------------------------------------------- */

static struct evidence *look_along_dense(const struct answered *a, const char *stack, int step)
{
    struct error err = {0};
    struct inspection *i = inspection_of(a, 0, step, -1, 0);
    i->request->lanes[0].stack = stack_of(stack);
    i->on_dense_path = true;
    struct evidence *e = look(a->engine, i, &err);
    if (!e)
        fail_msg("%s", err.text);
    return e;
}

/* In the first layer queries and keys are the same whatever came of attention before. */
static void test_the_first_layer_along_dense_is_that_of_the_lane(void **state)
{
    struct answered a;
    ask(&a, *state, "sink:4,local:64");
    struct evidence *own = look_at(&a, 1, 0, 0, 0);
    struct evidence *along = look_along_dense(&a, "sink:4,local:64", 0);
    for (int f = 0; f < EVIDENCE_N_FIGURES; f++)
        assert_memory_equal(own->figures[f], along->figures[f], N_HEADS * sizeof(float));
    assert_memory_not_equal(own->figures[EVIDENCE_RECALL], along->figures[EVIDENCE_RECALL],
                            N_LAYERS * N_HEADS * sizeof(float));
    evidence_free(own);
    evidence_free(along);
    answered_free(&a);
}

/* Whichever stack is tried, the dense path is the same: an oracle of all keys errs nowhere, and a
 * stack that was tried before looks as it did. */
static void test_stacks_tried_along_dense_do_not_change_the_path(void **state)
{
    struct answered a;
    ask(&a, *state, "sink:4,local:64");
    struct evidence *first = look_along_dense(&a, "sink:4,local:64,quest:5%", 2);
    evidence_free(look_along_dense(&a, "sink:1", 1));
    struct evidence *most = look_along_dense(&a, "oracle-topk:99%", 2);
    for (int l = 0; l < N_LAYERS; l++)
        assert_true(mean(most, EVIDENCE_RECALL, l) > 0.99);
    struct evidence *again = look_along_dense(&a, "sink:4,local:64,quest:5%", 2);
    for (int f = 0; f < EVIDENCE_N_FIGURES; f++)
        assert_memory_equal(first->figures[f], again->figures[f],
                            N_LAYERS * N_HEADS * sizeof(float));
    assert_null(first->text);
    evidence_free(first);
    evidence_free(most);
    evidence_free(again);
    answered_free(&a);
}

static void test_tokens_fed_otherwise_are_computed_again(void **state)
{
    struct answered a;
    ask(&a, *state, "sink:4,local:64");
    struct evidence *own = look_at(&a, 1, 4, 5, 2);
    struct inspection *i = inspection_of(&a, 1, 4, 5, 2);
    struct error err = {0};
    i->fed[1]++;
    struct evidence *other = look(*state, i, &err);
    assert_non_null(other);
    assert_memory_not_equal(own->head.weight, other->head.weight,
                            (size_t)own->n_keys * sizeof(float));
    struct evidence *again = look_at(&a, 1, 4, 5, 2);
    assert_same(own, again);
    evidence_free(own);
    evidence_free(other);
    evidence_free(again);
    answered_free(&a);
}

/* --- Bad input and cancelling ----------------------------------------------------------------- */

static void assert_refused(struct engine *e, struct inspection *i, const char *words)
{
    struct error err = {0};
    assert_null(look(e, i, &err));
    if (!strstr(err.text, words))
        fail_msg("want \"%s\", got \"%s\"", words, err.text);
}

static void test_steps_layers_and_heads_that_are_not_there_are_refused(void **state)
{
    struct answered a;
    ask(&a, *state, "sink:4,local:64");
    int n = (int)report_lane(a.asked->report, 0, 1)->n_tokens;
    assert_refused(*state, inspection_of(&a, 1, n + 1, 0, 0), "the answer has steps 0 to");
    assert_refused(*state, inspection_of(&a, 1, 1, N_LAYERS, 0), "layers 0 to 7");
    assert_refused(*state, inspection_of(&a, 1, 1, 0, N_HEADS), "heads 0 to 5");
    evidence_free(look_at(&a, 1, 1, 0, 0));
    answered_free(&a);
}

static void test_a_cancelled_look_tells_nothing_and_the_next_one_works(void **state)
{
    struct answered a;
    ask(&a, *state, "sink:4,local:64");
    struct inspection *i = inspection_of(&a, 1, 4, 5, 2);
    struct event event;
    assert_true(engine_inspect(*state, i));
    engine_cancel(*state);
    bool ended = false;
    while (!ended && engine_wait(*state, &event, 120000)) {
        assert_int_not_equal(event.kind, EVENT_FAILED);
        ended = event.kind == EVENT_FINISHED;
        event_free(&event);
    }
    assert_true(ended);
    evidence_free(look_at(&a, 1, 4, 5, 2));
    answered_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recall_is_that_of_the_probed_step),
        cmocka_unit_test(test_weights_sum_to_one_and_kept_ones_to_the_recall),
        cmocka_unit_test(test_each_key_is_told_by_the_masker_that_kept_it),
        cmocka_unit_test(test_an_oracle_agrees_with_the_heaviest_keys),
        cmocka_unit_test(test_dense_keeps_every_key),
        cmocka_unit_test(test_a_layer_of_its_own_stack_is_told_by_it),
        cmocka_unit_test(test_the_keys_spell_the_prompt_and_the_answer),
        cmocka_unit_test(test_a_step_looks_the_same_whatever_was_looked_at_before),
        cmocka_unit_test(test_an_ask_after_a_look_answers_as_before),
        cmocka_unit_test(test_the_first_layer_along_dense_is_that_of_the_lane),
        cmocka_unit_test(test_stacks_tried_along_dense_do_not_change_the_path),
        cmocka_unit_test(test_tokens_fed_otherwise_are_computed_again),
        cmocka_unit_test(test_steps_layers_and_heads_that_are_not_there_are_refused),
        cmocka_unit_test(test_a_cancelled_look_tells_nothing_and_the_next_one_works),
    };
    if (!test_backend_opens())
        return TEST_SKIPPED;
    return cmocka_run_group_tests(tests, start, stop);
}
