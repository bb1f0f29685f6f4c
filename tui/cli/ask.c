/* `attnscope ask`: one request without a screen.  Results on stdout, progress on stderr and only
 * on a terminal. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "engine/base/memory.h"
#include "engine/run/engine.h"
#include "engine/run/report.h"
#include "engine/text/screen_text.h"
#include "sessions/session_log.h"
#include "sessions/session_record.h"
#include "tui/cli/assertion.h"
#include "tui/cli/commands.h"
#include "tui/cli/debug.h"
#include "tui/cli/request_args.h"

struct ask {
    const char *model;
    struct engine_options engine;
    struct request_args args;
    const char *save, *assertion;
    bool as_json, as_jsonl, as_ascii, quiet;

    struct report *report;
    struct session_log *log;
    bool progress_shown;
};

static volatile sig_atomic_t caught_signal;

static void on_signal(int signal_number)
{
    caught_signal = signal_number;
}

static bool handle(void *user, const char *name, const char *value, struct error *err)
{
    struct ask *a = user;
    bool ok = true;
    if (!name)
        a->model = value;
    else if (cli_engine_option(&a->engine, name, value, err, &ok) ||
             request_args_option(&a->args, name, value, &ok, err))
        return ok;
    else if (strcmp(name, "save") == 0)
        a->save = value;
    else if (strcmp(name, "assert") == 0)
        ok = assertion_check(a->assertion = value, err);
    else if (strcmp(name, "json") == 0)
        a->as_json = true;
    else if (strcmp(name, "jsonl") == 0)
        a->as_jsonl = true;
    else if (strcmp(name, "ascii") == 0)
        a->as_ascii = true;
    return ok;
}

/* Fills in what the options left open, and refuses what makes no request. */
static bool complete_request(struct ask *a, struct error *err)
{
    struct request *r = a->args.request;
    if (!request_args_complete(&a->args, err))
        return false;
    if (!r->n_questions)
        return fail_code(err, EXIT_CODE_USAGE,
                         "ask needs at least one --question (or --sample NAME)");
    if (!r->context)
        r->context = xstrdup("");
    return true;
}

/* --- Progress ------------------------------------------------------------------------------ */

static void clear_progress(struct ask *a)
{
    if (a->progress_shown)
        fputs("\r\033[K", stderr);
    a->progress_shown = false;
}

static void show_progress(struct ask *a, const struct progress *p)
{
    if (a->quiet || !p->total)
        return;
    clear_progress(a);
    fprintf(stderr, "%s %d%%", phase_name(p->phase), (int)(100 * p->done / p->total));
    if (p->eta_s >= 0)
        fprintf(stderr, "  %.0f s left", p->eta_s);
    fflush(stderr);
    a->progress_shown = true;
}

/* --- The run ------------------------------------------------------------------------------- */

static bool print_record(const struct event *event, struct error *err)
{
    struct json *record = record_from_event(event);
    if (!record)
        return true;
    struct buf line = {0};
    json_write(&line, record, false);
    buf_append_char(&line, '\n');
    bool ok = cli_write(line.data, line.len, err);
    buf_free(&line);
    json_free(record);
    return ok;
}

static bool take_event(struct ask *a, const struct event *event, struct error *err)
{
    if (event->kind == EVENT_PROGRESS)
        show_progress(a, &event->progress);
    if (a->report)
        report_apply(a->report, event);
    session_log_event(a->log, event);
    session_log_tick(a->log);
    return !a->as_jsonl || print_record(event, err);
}

/* Takes events until the command ends.  A load fills model. */
static bool follow(struct ask *a, struct engine *engine, struct model_info *model,
                   struct error *err)
{
    bool ok = true, ended = false, cancelling = false;
    while (!ended) {
        struct event event;
        if (caught_signal && !cancelling) {
            engine_cancel(engine);
            cancelling = true;
        }
        if (!engine_wait(engine, &event, 100))
            continue;
        ok = take_event(a, &event, err) && ok;
        if (!ok && !cancelling) {
            engine_cancel(engine); /* nobody reads any more: stop early */
            cancelling = true;
        }
        switch (event.kind) {
        case EVENT_LOADED:
            model_info_copy(model, &event.loaded);
            break;
        case EVENT_FAILED:
            if (ok)
                *err = event.failed;
            ok = false;
            ended = true;
            break;
        case EVENT_FINISHED:
            ended = true;
            break;
        default:
            break;
        }
        event_free(&event);
    }
    clear_progress(a);
    return ok;
}

static void log_request(struct ask *a)
{
    const struct request *r = a->args.request;
    if (!a->log)
        return;
    session_log_context(a->log, r->context, r->n_context,
                        a->args.sample ? a->args.sample : a->args.context_origin);
    session_log_questions(a->log, r->questions, r->n_questions, 0);
    for (int i = 0; i < r->n_lanes; i++)
        session_log_stack(a->log, i, r->lanes[i].name, &r->lanes[i].stack);
    session_log_run(a->log, r);
}

static bool run_request(struct ask *a, struct error *err)
{
    struct model_info model = {0};
    struct engine *engine = NULL;
    char *folder = cli_model_folder(a->model, err);
    bool ok = folder != NULL;
    if (ok) {
        engine = engine_start(&a->engine, err);
        ok = engine != NULL;
    }
    if (ok) {
        engine_load(engine, folder);
        ok = follow(a, engine, &model, err);
    }
    if (ok && model.warnings && !a->quiet)
        fprintf(stderr, "%s", model.warnings);
    if (ok) {
        log_request(a);
        a->report = report_new(a->args.request, &model);
        engine_ask(engine, request_copy(a->args.request));
        ok = follow(a, engine, &model, err);
    }
    engine_stop(engine);
    model_info_free(&model);
    free(folder);
    return ok;
}

static int terminal_width(void)
{
    struct winsize size;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 40)
        return size.ws_col;
    return 80;
}

static bool print_report(struct ask *a, struct error *err)
{
    struct buf out = {0};
    if (a->as_jsonl)
        return true;
    if (a->as_json) {
        struct json *o = report_to_json(a->report);
        json_write(&out, o, true);
        buf_append_char(&out, '\n');
        json_free(o);
    } else {
        report_write_text(a->report, terminal_width(), a->as_ascii, &out);
    }
    bool ok = cli_write(out.data, out.len, err);
    buf_free(&out);
    return ok;
}

/* A lane that failed by itself makes the run fail, after its report is printed. */
static bool lanes_ok(struct ask *a, struct error *err)
{
    struct request *r = a->report->request;
    for (int i = 0; i < r->n_questions * r->n_lanes; i++) {
        const struct report_lane *lane = &a->report->lanes[i];
        if (lane->done && lane->finish == FINISH_ERROR)
            return fail_code(err, EXIT_CODE_RUNTIME, "lane %s: %s", r->lanes[i % r->n_lanes].name,
                             lane->error ? lane->error : "failed");
    }
    return true;
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
}

static bool ask_all(struct ask *a, struct error *err)
{
    if (a->as_json && a->as_jsonl)
        return fail_code(err, EXIT_CODE_USAGE, "--json and --jsonl exclude each other");
    if (!complete_request(a, err))
        return false;
    if (a->save && !(a->log = session_log_create(a->save, err)))
        return false;
    bool ok = run_request(a, err);
    const char *problem = session_log_problem(a->log);
    if (ok)
        ok = print_report(a, err) && lanes_ok(a, err);
    if (ok && a->assertion && !caught_signal)
        ok = assertion_holds(a->assertion, a->report, err);
    if (problem)
        ok = fail_code(err, EXIT_CODE_RUNTIME, "%s: %s", a->save, problem);
    return ok;
}

static int run(int argc, char **argv)
{
    struct ask a = {.quiet = !isatty(STDERR_FILENO)};
    struct error err = {0};
    request_args_init(&a.args);
    cli_engine_defaults(&a.engine);
    int code;
    if (cli_parse(&command_ask, argc, argv, handle, &a, &code)) {
        catch_signals();
        code = ask_all(&a, &err) ? EXIT_CODE_OK : cli_fail(&err);
    }
    session_log_close(a.log);
    report_free(a.report);
    request_args_free(&a.args);
    return caught_signal ? 128 + caught_signal : code;
}

const struct cli_command command_ask = {
    .name = "ask",
    .usage = "[MODEL] [--context FILE] --question Q... [--stack S]... [OPTION]...",
    .summary = "answer questions about a context with dense and sparse attention",
    .examples =
        "  attnscope ask --sample paris\n"
        "  attnscope ask --context book.txt --question 'Who?' --stack sink:4,local:64 --json\n"
        "  attnscope ask --sample needle-4k --stack oracle-k --assert 'jaccard>=0.9'\n",
    .options =
        (const struct cli_option[]){
            CLI_REQUEST_OPTIONS,
            CLI_ENGINE_OPTIONS,
            {"save", "SESSION", "write the session log to this new file"},
            {"json", NULL, "one JSON object"},
            {"jsonl", NULL, "one JSON object per event, as it happens"},
            {"ascii", NULL, "only ASCII in the report"},
            {"assert", "EXPR", "'recall>=0.95 && jaccard>=0.9': exit 3 unless it holds"},
            {NULL, NULL, NULL}},
    .shows_figures = true,
    .max_positional = 1,
    .run = run,
};
