/* The state's life, engine events, time, and where keys go. */
#include "tui/app.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/file.h"
#include "engine/base/memory.h"
#include "engine/model/hub.h"
#include "presets/preset.h"
#include "tui/actions.h"
#include "tui/keys.h"

enum { SHOWN_EVERY_MS = 250, MESSAGE_MS = 6000, LIVE_AGAIN_MS = 20 };

static const char DEFAULT_SAMPLE[] = "paris";
/* Small enough to leave something out of the smallest sample, and with a measured speed-up. */
static const char DEFAULT_STACK[] = "sink:4,local:16";

/* --- Life --------------------------------------------------------------------------------- */

void app_init(struct app *app, const struct workbench_options *options)
{
    *app = (struct app){.options = *options, .running = -1, .state = RUN_STARTING};
    app->looking = (struct looking){.step = STEP_BY_ITSELF, .key = -1};
    app->setup = options->setup;
    app->forced = options->forced;
    app->ascii = options->ascii;
    app->dirty = true;
    lanes_init(&app->lanes);
}

void app_free(struct app *app)
{
    while (app->n_questions > 0) {
        app->running = -1;
        app_delete_question(app, app->n_questions - 1);
    }
    free(app->questions);
    free(app->context.text);
    free(app->context.origin);
    free(app->previous_context.text);
    free(app->previous_context.origin);
    model_info_free(&app->model);
    lanes_free(&app->lanes);
    palette_close(app);
    buf_free(&app->palette.filter);
    popup_close(app);
    app_looking_free(app);
    free(app->line);
    free(app->matches);
    free(app->draft);
    free(app->message);
    free(app->lost);
    free(app->answer_prefix);
    free(app->model_path);
    free(app->state_folder);
    *app = (struct app){0};
}

static void load_default_lane(struct app *app)
{
    struct stack stack;
    struct error err;
    struct request_lane lanes[2] = {app->lanes.lane[0]};
    if (!stack_parse(&stack, DEFAULT_STACK, &err))
        return;
    lanes[1].stack = stack;
    lanes_name(&stack, lanes[1].name);
    lanes_load(&app->lanes, lanes, 2);
}

/* The next runs are asked as the session's last one was. */
static void load_request_options(struct app *app, const struct request *r)
{
    struct workbench_options *o = &app->options;
    app->forced = r->forced;
    app->setup = r->setup;
    o->max_tokens = r->max_tokens;
    o->max_context = r->max_context;
    o->keep = r->keep;
    o->keep_given = r->keep_given;
    o->seed = r->seed;
    o->sampling = r->sampling;
    app->answer_prefix = r->answer_prefix ? xstrdup(r->answer_prefix) : NULL;
    o->answer_prefix = app->answer_prefix;
}

static void load_session(struct app *app, struct session *s)
{
    if (s->n_lanes > 0)
        lanes_load(&app->lanes, s->lanes, s->n_lanes);
    if (s->context) {
        app->context.text = s->context;
        app->context.n = s->n_context;
        app->context.origin = xstrdup(s->context_origin ? s->context_origin : "session");
        s->context = NULL;
    }
    for (int i = 0; i < s->n_questions; i++)
        app_add_question(app, s->questions[i]);
    app->current_question = s->current_question;
    app_clamp(app);
    struct report *report = s->last_report;
    if (!report || !report->request || report->request->n_questions < 1)
        return;
    load_request_options(app, report->request);
    for (int i = 0; i < app->n_questions; i++) {
        struct question *q = &app->questions[i];
        if (strcmp(q->text, report->request->questions[0]))
            continue;
        q->report = report;
        q->run = ++app->n_runs;
        q->state = report->finished && !report->cancelled ? QUESTION_DONE : QUESTION_PARTIAL;
        app->context_info = (struct context_info){.n_tokens = report->context.n_tokens};
        s->last_report = NULL;
        break;
    }
}

void app_load_start(struct app *app)
{
    const struct workbench_options *o = &app->options;
    struct session *s = o->resume;
    if (s) {
        load_session(app, s);
        app_message(app, s->notice ? ROLE_WARN : ROLE_OK, "%s %s%s%s",
                    s->interrupted ? "resumed an interrupted session" : "resumed", s->path,
                    s->notice ? ": " : "", s->notice ? s->notice : "");
        return;
    }
    if (o->n_lanes > 0)
        lanes_load(&app->lanes, o->lanes, o->n_lanes);
    if (o->n_lanes < 2 && app->lanes.n < 2)
        load_default_lane(app);
    if (o->context)
        app_set_context(app, xmemdup0(o->context, o->n_context), o->n_context,
                        o->context_origin ? o->context_origin : "given");
    else if (o->sample || (!o->model && o->n_questions == 0))
        app_load_sample(app, o->sample ? o->sample : DEFAULT_SAMPLE);
    for (int i = 0; i < o->n_questions; i++)
        app_add_question(app, o->questions[i]);
    app->current_question = 0;
    app_clamp(app);
}

void app_start_log(struct app *app)
{
    struct error err;
    const struct session *resume = app->options.resume;
    app->log = resume ? session_log_continue(resume->path, &err) : session_log_create(NULL, &err);
    app->n_logged_lanes = resume ? app->lanes.n : 0;
    if (!app->log) {
        app_message(app, ROLE_ERROR, "NOT SAVED: %s", err.text);
        return;
    }
    if (resume)
        return;
    if (app->context.text)
        session_log_context(app->log, app->context.text, app->context.n, app->context.origin);
    app_log_questions(app);
    app_log_lanes(app);
}

void app_load_model(struct app *app, const char *name)
{
    struct error err;
    if (app_needs_restart(app)) {
        app_message(app, ROLE_ERROR, "the engine cannot run: R restarts the program");
        return;
    }
    char *folder = hub_resolve(name, &err);
    if (!folder) {
        app_error(app, &err);
        return;
    }
    app_stop_looking(app);
    if (!app->engine || !engine_load(app->engine, folder)) {
        app_message(app, ROLE_ERROR, "the engine is busy: stop the run first");
        free(folder);
        return;
    }
    free(app->model_path);
    app->model_path = folder;
    char *embedded = preset_model_folder();
    app->embedded = embedded && !strcmp(embedded, folder);
    free(embedded);
    app->has_model = false;
    app->state = RUN_LOADING;
    app->run_started_ms = app->now_ms;
    app->progress = (struct progress){.phase = PHASE_LOAD, .eta_s = -1};
    app->dirty = true;
}

void app_start_engine(struct app *app)
{
    struct error err;
    app->dirty = true;
    app->engine = engine_start(&app->options.engine, &err);
    if (!app->engine) {
        app->state = RUN_ENGINE_ERROR;
        app_error(app, &err);
        return;
    }
    app->state = RUN_NO_MODEL;
    const struct session *resume = app->options.resume;
    const char *name = app->options.model ? app->options.model : resume ? resume->model : NULL;
    char *embedded = name ? NULL : preset_model_folder();
    if (name || embedded)
        app_load_model(app, name ? name : embedded);
    else
        app_message(app, ROLE_ERROR, "the embedded model was not found: F3 loads a model folder");
    free(embedded);
}

/* --- Messages ----------------------------------------------------------------------------- */

void app_message(struct app *app, enum role role, const char *format, ...)
{
    char *text = NULL;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    if (n < 0)
        return;
    free(app->message);
    app->message = text;
    app->message_role = role;
    app->message_until_ms = app->now_ms + MESSAGE_MS;
    app->dirty = true;
    if (role == ROLE_ERROR && n > app->width - 4)
        popup_message(app, role, "Error", text);
}

/* The engine's sentences name options of the command line; one that is an action here is called
 * as the action is: "--keep" becomes ":keep". */
void app_error(struct app *app, const struct error *err)
{
    struct buf text = {0};
    const char *from = err->text;
    for (const char *dashes; (dashes = strstr(from, "--"));) {
        size_t n = strspn(dashes + 2, "abcdefghijklmnopqrstuvwxyz-");
        char *name = xstrndup(dashes + 2, n);
        bool word = dashes == err->text || strchr(" (", dashes[-1]);
        buf_append(&text, from, (size_t)(dashes - from));
        buf_printf(&text, "%s%s", word && action_find(name) ? ":" : "--", name);
        free(name);
        from = dashes + 2 + n;
    }
    buf_append_str(&text, from);
    app_message(app, ROLE_ERROR, "%s", text.data);
    buf_free(&text);
}

void app_log_action(struct app *app, const char *name, const char *argument)
{
    session_log_action(app->log, name, argument);
    app->log_waiting = true;
}

/* --- Events ------------------------------------------------------------------------------- */

static void apply_loaded(struct app *app, const struct model_info *model)
{
    model_info_free(&app->model);
    model_info_copy(&app->model, model);
    app->has_model = true;
    app->state = RUN_READY;
    app->shown.at_ms = 0;
    session_log_model(app->log, model);
    if (model->warnings)
        app_message(app, ROLE_WARN, "%s", model->warnings);
}

/* The question's state, and the next of the queue. */
static void end_run(struct app *app, bool failed, bool cancelled, double wall_ms)
{
    struct question *q = app->running >= 0 ? &app->questions[app->running] : NULL;
    app->run_wall_ms = wall_ms;
    app->shown.at_ms = 0;
    app->running = -1;
    app->state = cancelled ? RUN_PARTIAL : failed ? RUN_READY : RUN_DONE;
    if (!q)
        return;
    q->state = failed ? QUESTION_FAILED : cancelled ? QUESTION_PARTIAL : QUESTION_DONE;
    for (int i = 0; i < app->n_questions && !failed && !cancelled; i++)
        if (app->questions[i].state == QUESTION_QUEUED) {
            app->current_question = i;
            app_run_question(app, i);
            return;
        }
}

static void apply_failed(struct app *app, const struct error *err)
{
    if (app->state == RUN_LOADING) {
        app->state = RUN_NO_MODEL;
    } else {
        app_unqueue(app);
        end_run(app, true, false, 0);
    }
    if (!app->lost)
        app_error(app, err);
}

static void apply_finished(struct app *app, const struct event *e)
{
    if (app->running >= 0)
        end_run(app, app->lost != NULL, e->finished.cancelled, e->finished.wall_ms);
    else if (app->state == RUN_LOADING || app->state == RUN_STOPPING)
        app->state = app->has_model ? RUN_READY : RUN_NO_MODEL;
}

static void apply_context(struct app *app, const struct context_info *c)
{
    app->context_info = *c;
    app->context_info.notice = NULL; /* the report keeps its copy */
    if (c->notice)
        app_message(app, ROLE_WARN, "%s", c->notice);
    else if (c->n_cut > 0)
        app_message(app, ROLE_WARN, "%d tokens of the context were left out", c->n_cut);
}

void app_apply_event(struct app *app, struct event *e)
{
    if (app_apply_inspection(app, e)) {
        app->dirty = true;
        return;
    }
    bool was_running = app->running >= 0;
    struct question *q = was_running ? &app->questions[app->running] : NULL;
    session_log_event(app->log, e);
    app->log_waiting = true;
    if (e->kind != EVENT_PROGRESS) /* shown at the pace of the figures */
        app->dirty = true;
    if (q && q->report)
        report_apply(q->report, e);
    switch (e->kind) {
    case EVENT_LOADED:
        apply_loaded(app, &e->loaded);
        break;
    case EVENT_PROGRESS:
        app->progress = e->progress;
        break;
    case EVENT_CONTEXT:
        apply_context(app, &e->context);
        break;
    case EVENT_DONE:
        if (e->done.device_lost)
            app_device_lost(app, e->done.error ? e->done.error : "no reason was given");
        else if (e->done.finish == FINISH_ERROR)
            app_message(app, ROLE_ERROR, "column %c: %s", lanes_letter(e->done.lane),
                        e->done.error ? e->done.error : "failed");
        break;
    case EVENT_FINISHED:
        apply_finished(app, e);
        break;
    case EVENT_FAILED:
        if (e->device_lost)
            app_device_lost(app, e->failed.text);
        apply_failed(app, &e->failed);
        break;
    case EVENT_EVIDENCE:
    case EVENT_TOKEN:
    case EVENT_METRICS:
        break;
    }
    app_after_device_lost(app, was_running);
}

/* --- Time --------------------------------------------------------------------------------- */

static bool active(const struct app *app)
{
    return app->state == RUN_LOADING || app->state == RUN_RUNNING || app->state == RUN_STOPPING;
}

static void refresh_shown(struct app *app)
{
    struct shown *s = &app->shown;
    s->at_ms = app->now_ms;
    s->progress = app->progress;
    s->elapsed_s =
        active(app) ? (double)(app->now_ms - app->run_started_ms) / 1000 : app->run_wall_ms / 1000;
    s->spinner = active(app) ? (s->spinner + 1) % 4 : 0;
    for (int i = 0; i < REQUEST_MAX_LANES; i++) {
        bool stale = false;
        const struct report_lane *r = app_result(app, app->current_question, i, &stale, NULL);
        s->n_tokens[i] = r ? (int)r->n_tokens : 0;
    }
    app->dirty = true;
}

/* A run that goes on with what the stacks were is stopped first. */
static void run_live(struct app *app)
{
    if (app->running >= 0) {
        engine_cancel(app->engine);
        app->live_due_ms = app->now_ms + LIVE_AGAIN_MS;
        return;
    }
    app->live_due_ms = 0;
    app_run_question(app, app->current_question);
}

void app_tick(struct app *app)
{
    if (app->live_due_ms && app->now_ms >= app->live_due_ms)
        run_live(app);
    if (app->message && app->now_ms >= app->message_until_ms) {
        free(app->message);
        app->message = NULL;
        app->dirty = true;
    }
    if (app->shown.at_ms == 0 || (active(app) && app->now_ms - app->shown.at_ms >= SHOWN_EVERY_MS))
        refresh_shown(app);
}

int app_tick_due_ms(const struct app *app)
{
    int64_t due = -1;
    if (app->message)
        due = app->message_until_ms - app->now_ms;
    if (active(app)) {
        int64_t shown = app->shown.at_ms + SHOWN_EVERY_MS - app->now_ms;
        due = due < 0 || shown < due ? shown : due;
    }
    if (app->live_due_ms) {
        int64_t live = app->live_due_ms - app->now_ms;
        live = live < 0 ? 0 : live;
        due = due < 0 || live < due ? live : due;
    }
    return due < -1 ? 0 : due > 60000 ? 60000 : (int)due;
}

static void update_diff(struct question *q, int lane)
{
    struct report_lane *a = report_lane(q->report, 0, 0), *b = report_lane(q->report, 0, lane);
    int n_a = (int)a->n_tokens, n_b = (int)b->n_tokens;
    /* The rest of an answer that still grows is not a difference yet. */
    if (!b->done && n_a > n_b)
        n_a = n_b;
    if (!a->done && n_b > n_a)
        n_b = n_a;
    struct token_diff *d = &q->diffs[lane];
    if (d->n_a == n_a && d->n_b == n_b)
        return;
    int32_t *ids = xcalloc((size_t)n_a + (size_t)n_b + 1, sizeof *ids);
    for (int i = 0; i < n_a; i++)
        ids[i] = a->tokens[i].id;
    for (int i = 0; i < n_b; i++)
        ids[n_a + i] = b->tokens[i].id;
    token_diff_compute(d, ids, n_a, ids + n_a, n_b);
    free(ids);
}

void app_before_frame(struct app *app)
{
    app_look(app);
    if (app->current_question >= app->n_questions)
        return;
    struct question *q = &app->questions[app->current_question];
    for (int i = 1; q->report && i < q->report->request->n_lanes; i++)
        update_diff(q, i);
}

/* --- Keys --------------------------------------------------------------------------------- */

void app_handle_key(struct app *app, int code)
{
    app->dirty = true;
    if (code == CODE_UNKNOWN)
        return;
    const struct action *action = action_of_key(app, code);
    /* Stop, suspend and repaint work everywhere. */
    bool control = code == CODE_CTRL('C') || code == CODE_CTRL('Z') || code == CODE_CTRL('L') ||
                   code == CODE_F0 + 9;
    /* A message that says what R does need not be closed first. */
    if (code == 'R' && app->popup.open && !app->popup.on_yes && app_needs_restart(app))
        popup_close(app);
    if (control && action && !(app->insert && code == CODE_CTRL('L'))) {
        action_run(app, action, NULL);
    } else if (app->popup.open) {
        popup_key(app, code);
    } else if (app->palette.open) {
        palette_key(app, code);
    } else if (app->insert) {
        app_prompt_key(app, code);
    } else if (action) {
        action_run(app, action, NULL);
    }
}

enum { PASTE_AS_CONTEXT_BYTES = 4096 };

void app_handle_paste(struct app *app, const char *text, size_t n)
{
    app->dirty = true;
    if (n == 0 || app->popup.open || app->palette.open)
        return;
    if (n > PASTE_AS_CONTEXT_BYTES) {
        app_set_context(app, xmemdup0(text, n), n, "paste");
        app_log_action(app, "paste-context", NULL);
        app_message(app, ROLE_OK,
                    "pasted %zu bytes: they are the context now (:context-previous "
                    "brings back the one before)",
                    n);
        return;
    }
    if (!app->insert)
        app_prompt(app, PROMPT_ASK, app->draft);
    app_prompt_paste(app, text, n);
}
