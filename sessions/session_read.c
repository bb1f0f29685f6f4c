/* Reading a session log: each line is applied to a struct session in turn.  A line that is not a
 * whole JSON object (torn by a crash) is left out with a notice; unknown kinds are passed over. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/memory.h"
#include "sessions/session_log.h"
#include "sessions/session_record.h"

enum { SESSION_VERSION = 1 };
#define MAX_SESSION_BYTES (UINT64_C(2) << 30)

struct reading {
    struct session *session;
    struct model_info model; /* of the last model record */
    bool run_open;           /* a run began and has not ended */
};

static void set_string(char **to, char *value)
{
    free(*to);
    *to = value;
}

static char *bytes_of(const struct json *record, const char *key, size_t *n)
{
    struct buf b = {0};
    if (!record_get_bytes(record, key, &b)) {
        buf_free(&b);
        return NULL;
    }
    if (n)
        *n = b.len;
    return buf_take(&b);
}

static void free_questions(struct session *s)
{
    for (int i = 0; i < s->n_questions; i++)
        free(s->questions[i]);
    free(s->questions);
    s->questions = NULL;
    s->n_questions = 0;
}

static void apply_questions(struct session *s, const struct json *record)
{
    free_questions(s);
    const struct json *list = json_get(record, "questions");
    size_t n = json_count(list);
    if (n > REQUEST_MAX_QUESTIONS)
        n = REQUEST_MAX_QUESTIONS;
    s->questions = xcalloc(n, sizeof *s->questions);
    for (const struct json *q = json_first(list); q && (size_t)s->n_questions < n; q = json_next(q))
        s->questions[s->n_questions++] = xstrdup(json_string(q) ? json_string(q) : "");
    int64_t current = 0;
    json_int(json_get(record, "current"), 0, REQUEST_MAX_QUESTIONS, &current);
    s->current_question = current < s->n_questions ? (int)current : 0;
}

static void apply_stack(struct session *s, const struct json *record)
{
    int64_t lane;
    if (!json_int(json_get(record, "lane"), 0, SESSION_MAX_LANES - 1, &lane))
        return;
    if (json_bool(json_get(record, "removed"), false)) {
        if (lane < s->n_lanes) {
            s->n_lanes--;
            memmove(&s->lanes[lane], &s->lanes[lane + 1],
                    (size_t)(s->n_lanes - (int)lane) * sizeof s->lanes[0]);
        }
        return;
    }
    struct request_lane read = {0};
    if (lane > s->n_lanes ||
        !stack_from_json(&read.stack, json_get(record, "stack"), s->path, NULL))
        return;
    const char *name = json_string(json_get(record, "name"));
    snprintf(read.name, sizeof read.name, "%s", name ? name : "");
    s->lanes[lane] = read;
    if (lane == s->n_lanes)
        s->n_lanes++;
}

static void apply_run(struct reading *r, const struct json *record)
{
    struct session *s = r->session;
    struct request *request = record_to_request(record, s->context, s->n_context);
    if (!request)
        return;
    report_free(s->last_report);
    s->last_report = report_new(request, r->model.path ? &r->model : NULL);
    request_free(request);
    free(request);
    s->n_runs++;
    r->run_open = true;
}

static void apply_event(struct reading *r, const struct json *record)
{
    struct session *s = r->session;
    struct event event;
    if (!record_to_event(record, &event))
        return;
    if (event.kind == EVENT_LOADED) {
        model_info_free(&r->model);
        model_info_copy(&r->model, &event.loaded);
        if (event.loaded.path)
            set_string(&s->model, xstrdup(event.loaded.path));
    } else if (s->last_report && r->run_open) {
        report_apply(s->last_report, &event);
        if (event.kind == EVENT_FINISHED || event.kind == EVENT_FAILED)
            r->run_open = false;
    }
    event_free(&event);
}

static void apply_line(struct reading *r, const struct json *record)
{
    struct session *s = r->session;
    const char *ev = json_string(json_get(record, "ev"));
    double t = json_number(json_get(record, "t"), 0);
    if (t > s->last_at_s)
        s->last_at_s = t;
    if (!ev)
        return;
    if (strcmp(ev, "context") == 0) {
        s->n_context = 0;
        set_string(&s->context, bytes_of(record, "text", &s->n_context));
        set_string(&s->context_origin, bytes_of(record, "origin", NULL));
    } else if (strcmp(ev, "questions") == 0) {
        apply_questions(s, record);
    } else if (strcmp(ev, "stack") == 0) {
        apply_stack(s, record);
    } else if (strcmp(ev, "run") == 0) {
        apply_run(r, record);
    } else {
        apply_event(r, record);
    }
}

/* The first line says what the file is. */
static bool check_first_line(const char *line, size_t n, const char *path, struct error *err)
{
    struct json *record = json_parse(line, n, path, NULL);
    const char *ev = json_string(json_get(record, "ev"));
    int64_t version = 0;
    json_int(json_get(record, "v"), 0, INT32_MAX, &version);
    bool is_session = ev && strcmp(ev, "session") == 0;
    json_free(record);
    if (!is_session)
        return fail(err, "%s: not a session log: its first line is no session record", path);
    if (version < 1 || version > SESSION_VERSION)
        return fail(err,
                    "%s: session format version %" PRId64 "; this attnscope reads up to %d: "
                    "use a newer one",
                    path, version, SESSION_VERSION);
    return true;
}

static void apply_all(struct reading *r, const struct buf *text)
{
    size_t n_torn = 0;
    for (size_t at = 0; at < text->len;) {
        const char *line = text->data + at;
        const char *end = memchr(line, '\n', text->len - at);
        size_t n = end ? (size_t)(end - line) : text->len - at;
        struct json *record = n ? json_parse(line, n, r->session->path, NULL) : NULL;
        if (record)
            apply_line(r, record);
        else if (n)
            n_torn++;
        json_free(record);
        at += n + 1;
    }
    if (n_torn) {
        struct buf notice = {0};
        buf_printf(&notice, "%zu torn line%s left out", n_torn, n_torn == 1 ? " was" : "s were");
        r->session->notice = buf_take(&notice);
    }
}

struct session *session_read(const char *path, struct error *err)
{
    struct buf text = {0};
    struct session *s = NULL;
    if (!file_read(&text, path, MAX_SESSION_BYTES, err))
        goto out;
    const char *end = text.len ? memchr(text.data, '\n', text.len) : NULL;
    if (!check_first_line(text.data ? text.data : "", end ? (size_t)(end - text.data) : text.len,
                          path, err))
        goto out;
    s = xcalloc(1, sizeof *s);
    s->path = xstrdup(path);
    struct reading reading = {.session = s};
    apply_all(&reading, &text);
    s->interrupted = reading.run_open;
    model_info_free(&reading.model);
out:
    buf_free(&text);
    return s;
}

void session_free(struct session *s)
{
    if (!s)
        return;
    free(s->path);
    free(s->model);
    free(s->context);
    free(s->context_origin);
    free_questions(s);
    report_free(s->last_report);
    free(s->notice);
    free(s);
}
