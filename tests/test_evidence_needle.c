/* On the embedded model with its 12k sample: the screens show which heads lose a fact that sink and
 * local windows do not reach, and that the oracle's keys hold it.  Read from the drawn cells. */
#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/screen_state.h"
#include "tui/actions.h"

#include <cmocka.h> /* last: it defines fail */

#include "tests/golden_screen.h"

enum { WAIT_MS = 120000 };

/* Takes events until nothing runs and nothing is looked at. */
static void settle(struct app *app)
{
    struct event e;
    for (;;) {
        app_before_frame(app);
        if (!engine_busy(app->engine) && !engine_poll(app->engine, &e))
            return;
        if (engine_busy(app->engine) && !engine_wait(app->engine, &e, WAIT_MS))
            fail_msg("no event for two minutes");
        app_apply_event(app, &e);
        event_free(&e);
    }
}

static void command(struct app *app, const char *text)
{
    assert_true(action_run_command(app, text));
    settle(app);
}

static int start(void **state)
{
    static struct app app;
    static const struct workbench_options options = {
        .sample = "facts-12k",
        .engine = {.backend = "cpu", .kv_dtype = DTYPE_BF16},
        .max_tokens = 8};
    app_init(&app, &options);
    app.width = 120;
    app.height = 40;
    app_load_start(&app);
    app_start_engine(&app);
    settle(&app);
    assert_true(app.has_model);
    action_run_command(&app, "set-stack sink:4,local:64");
    action_run_command(&app, "column-add");
    action_run_command(&app, "set-stack oracle-topk:5%");
    app.current_question = 3; /* the password of the rusty gate */
    command(&app, "run");
    assert_non_null(app.questions[3].report);
    *state = &app;
    return 0;
}

static int stop(void **state)
{
    struct app *app = *state;
    engine_stop(app->engine);
    app_free(app);
    return 0;
}

/* The key under the cursor of the Context screen, and the text around it as it is drawn. */
static const struct evidence *look_at(struct app *app, int lane, int layer, int head, int key,
                                      struct buf *text)
{
    app->lanes.current = lane;
    app->looking.layer = layer;
    app->looking.head = head;
    app->looking.key = key;
    app->looking.step = 0; /* where the answer begins */
    command(app, "tokens");
    frame_text(app, text);
    return app_evidence(app, lane, false);
}

/* The head that loses most under sink and local windows. */
static void find_lost_head(struct app *app, int *layer, int *head)
{
    app->lanes.current = 1;
    app->looking.step = 0;
    command(app, "heat");
    command(app, "heat-worst");
    *layer = app->looking.layer;
    *head = app->looking.head;
}

static void fail_with(const char *what, const struct buf *frame)
{
    print_error("%s in\n", what);
    for (const char *line = frame->data; *line; line += strcspn(line, "\n") + 1)
        print_error("%.*s\n", (int)strcspn(line, "\n"), line);
    fail();
}

/* Whether the password is drawn within marks that open so: that is the last mark before it. */
static bool is_marked(const char *frame, const char *opens)
{
    static const char *const marks[] = {"«", "»", "{", "}"};
    const char *word = strstr(frame, "silver"), *last = NULL;
    for (size_t i = 0; word && i < sizeof marks / sizeof *marks; i++)
        for (const char *at = strstr(frame, marks[i]); at && at < word;
             at = strstr(at + 1, marks[i]))
            last = !last || at > last ? at : last;
    return last && !strncmp(last, opens, strlen(opens));
}

static void test_heat_shows_the_head_that_lost_the_fact(void **state)
{
    struct app *app = *state;
    struct buf text = {0};
    char words[64];
    int layer, head;
    find_lost_head(app, &layer, &head);
    frame_text(app, &text);
    snprintf(words, sizeof words, "▸ L%02d H%02d", layer, head);
    assert_non_null(strstr(text.data, words));
    assert_non_null(strstr(text.data, "recall     0.0"));
    buf_free(&text);
}

static void test_context_marks_the_fact_as_missed_by_windows(void **state)
{
    struct app *app = *state;
    struct buf text = {0};
    int layer, head;
    find_lost_head(app, &layer, &head);
    look_at(app, 1, layer, head, -1, &text);
    if (!is_marked(text.data, "{") || !strstr(text.data, "MISSED"))
        fail_with("the password is not marked as missed", &text);
    buf_free(&text);
}

static void test_context_marks_the_fact_as_kept_by_the_oracle(void **state)
{
    struct app *app = *state;
    struct buf text = {0};
    int layer, head;
    find_lost_head(app, &layer, &head);
    const struct evidence *e = look_at(app, 1, layer, head, -1, &text);
    int key = app_looked_key(app, e);
    look_at(app, 2, layer, head, key, &text);
    if (!is_marked(text.data, "«") || is_marked(text.data, "{") ||
        !strstr(text.data, "kept by oracle-topk"))
        fail_with("the password is not marked as kept", &text);
    assert_non_null(strstr(text.data, "missed 0 (mass 0.000)"));
    buf_free(&text);
}

/* --- Trials of a changed stack -------------------------------------------------------------------
 */

static void edit(struct app *app, const char *stack)
{
    char text[96];
    app->lanes.current = 1;
    snprintf(text, sizeof text, "set-stack %s", stack);
    assert_true(action_run_command(app, text));
}

static double tried(struct app *app, const char *stack)
{
    edit(app, stack);
    settle(app);
    assert_true(app_trial_is_current(app));
    assert_false(app->looking.trial.failed);
    return app->looking.trial.recall;
}

static void test_a_changed_stack_is_tried_before_it_is_run(void **state)
{
    struct app *app = *state;
    struct buf text = {0};
    app->screen = SCREEN_ANSWERS;
    double windows = tried(app, "sink:4,local:64");
    double oracle = tried(app, "oracle-topk:10%");
    assert_true(windows > 0 && windows < oracle && oracle < 1);
    frame_text(app, &text);
    assert_non_null(strstr(text.data, "  trial: recall 0."));
    edit(app, "sink:4,local:32");
    frame_text(app, &text);
    assert_non_null(strstr(text.data, "  ~trial: recall 0."));
    buf_free(&text);
}

static void test_a_stack_that_cannot_be_tried_is_not_tried_for_ever(void **state)
{
    struct app *app = *state;
    edit(app, "hash:5%:weights=/nonexistent");
    settle(app);
    assert_true(app->looking.trial.failed);
    assert_true(tried(app, "sink:4,local:64") > 0);
}

static void test_live_runs_a_changed_stack_by_itself(void **state)
{
    struct app *app = *state;
    bool stale = true;
    command(app, "live");
    edit(app, "sink:4,local:100");
    app->now_ms += 100;
    app_tick(app);
    assert_int_equal(app->running, -1); /* not while keys may follow */
    app->now_ms += 300;
    app_tick(app);
    assert_int_equal(app->running, app->current_question);
    settle(app);
    assert_non_null(app_result(app, app->current_question, 1, &stale, NULL));
    assert_false(stale);
    command(app, "live");
}

int main(void)
{
    setlocale(LC_CTYPE, "C.UTF-8");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_heat_shows_the_head_that_lost_the_fact),
        cmocka_unit_test(test_context_marks_the_fact_as_missed_by_windows),
        cmocka_unit_test(test_context_marks_the_fact_as_kept_by_the_oracle),
        cmocka_unit_test(test_a_changed_stack_is_tried_before_it_is_run),
        cmocka_unit_test(test_a_stack_that_cannot_be_tried_is_not_tried_for_ever),
        cmocka_unit_test(test_live_runs_a_changed_stack_by_itself),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
