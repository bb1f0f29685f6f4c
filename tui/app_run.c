/* Running questions: one request per question, so that each keeps its own report; "all" is a
 * queue.  The engine keeps the context's KV cache between requests. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "tui/app.h"

bool app_busy(const struct app *app)
{
    return app->engine && engine_busy(app->engine);
}

static struct request *make_request(const struct app *app, const char *question, struct error *err)
{
    struct request *r = xcalloc(1, sizeof *r);
    const struct workbench_options *o = &app->options;
    request_init(r);
    r->context = xmemdup0(app->context.text, app->context.n);
    r->n_context = app->context.n;
    r->max_tokens = o->max_tokens;
    r->max_context = o->max_context;
    r->keep = o->keep;
    r->keep_given = o->keep_given;
    r->seed = o->seed;
    r->sampling = o->sampling;
    if (r->sampling.top_p <= 0)
        r->sampling.top_p = 1;
    r->setup = app->setup;
    r->forced = app->forced;
    if (o->answer_prefix)
        r->answer_prefix = xstrdup(o->answer_prefix);
    bool ok = request_add_question(r, question, err);
    r->lanes[0] = app->lanes.lane[0];
    for (int i = 1; ok && i < app->lanes.n; i++)
        ok = request_add_lane(r, app->lanes.lane[i].name, &app->lanes.lane[i].stack, err);
    if (ok)
        return r;
    request_free(r);
    free(r);
    return NULL;
}

static bool can_run(struct app *app, int i)
{
    if (i < 0 || i >= app->n_questions) {
        app_message(app, ROLE_WARN, "there is no question yet: press i and type one");
        return false;
    }
    if (app_needs_restart(app) || !app->engine) {
        app_message(app, ROLE_ERROR,
                    app->state == RUN_STARTING ? "the engine is starting"
                                               : "the engine cannot run: R restarts the program");
        return false;
    }
    if (!app->has_model) {
        app_message(app, ROLE_WARN,
                    app->state == RUN_LOADING ? "the model is still loading"
                                              : "no model is loaded: F3 loads one");
        return false;
    }
    for (int lane = 0; lane < app->lanes.n; lane++) {
        struct error err;
        if (app_stack_check(app, &app->lanes.lane[lane].stack, &err))
            continue;
        app_message(app, ROLE_ERROR, "column %c is not valid: %s", lanes_letter(lane), err.text);
        return false;
    }
    return true;
}

static void drop_result(struct question *q)
{
    report_free(q->report);
    q->report = NULL;
    for (int i = 0; i < REQUEST_MAX_LANES; i++)
        token_diff_free(&q->diffs[i]);
}

void app_run_question(struct app *app, int i)
{
    struct error err;
    if (!can_run(app, i))
        return;
    app_stop_looking(app);
    if (app_busy(app)) {
        app_message(app, ROLE_WARN, "a run is going on: Ctrl-C stops it");
        return;
    }
    struct question *q = &app->questions[i];
    struct request *request = make_request(app, q->text, &err);
    if (!request) {
        app_error(app, &err);
        return;
    }
    drop_result(q);
    q->report = report_new(request, &app->model);
    q->run = ++app->n_runs;
    app->looking.step = STEP_BY_ITSELF;
    app->looking.key = -1;
    q->context_version = app->context_version;
    q->state = QUESTION_RUNNING;
    if (app->log) {
        session_log_run(app->log, request);
        app->log_waiting = true;
    }
    if (!engine_ask(app->engine, request)) {
        q->state = QUESTION_FAILED;
        app_message(app, ROLE_ERROR, "the engine is busy: try again");
        return;
    }
    app->running = i;
    app->state = RUN_RUNNING;
    app->run_started_ms = app->now_ms;
    app->progress = (struct progress){.phase = PHASE_TOKENIZE, .eta_s = -1};
    memset(app->scroll, 0, sizeof app->scroll);
    app->diff_index = 0;
    app->shown.at_ms = 0;
    app->dirty = true;
}

void app_run_all(struct app *app)
{
    app_stop_looking(app);
    if (app_busy(app) || !can_run(app, 0)) {
        if (app_busy(app))
            app_message(app, ROLE_WARN, "a run is going on: Ctrl-C stops it");
        return;
    }
    for (int i = 1; i < app->n_questions; i++)
        app->questions[i].state = QUESTION_QUEUED;
    app->current_question = 0;
    app_run_question(app, 0);
}

void app_unqueue(struct app *app)
{
    for (int i = 0; i < app->n_questions; i++)
        if (app->questions[i].state == QUESTION_QUEUED)
            app->questions[i].state = app->questions[i].report ? QUESTION_DONE : QUESTION_NEW;
}

void app_cancel(struct app *app)
{
    app_unqueue(app);
    if (!app_busy(app)) {
        app_message(app, ROLE_DIM, "nothing runs: press q to quit");
        return;
    }
    engine_cancel(app->engine);
    if (app->state == RUN_RUNNING)
        app->state = RUN_STOPPING;
    app->dirty = true;
}
