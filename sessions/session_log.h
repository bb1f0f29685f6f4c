/* The session log: one append-only JSON Lines file per session, written as things happen.
 *
 * Line 1 is {"v":1,"t":0,"ev":"session",...}; each further line {"t":seconds,"ev":KIND,...} (docs/
 * session-format.md).  Actions and results are logged, never keys; token text as base64 of the raw
 * bytes; seeds and hashes as strings.  Mode 0600, locked against a second writer, synced at least
 * every second and at the end of every answer.  The interface thread writes.
 *
 * Failing to write never stops the work: the log remembers since when it could not save, keeps
 * what it could not write in memory (bounded), and tries again. */
#ifndef ATTNSCOPE_SESSIONS_SESSION_LOG_H
#define ATTNSCOPE_SESSIONS_SESSION_LOG_H

#include <stdbool.h>

#include "engine/attention/stack.h"
#include "engine/base/error.h"
#include "engine/run/event.h"
#include "engine/run/report.h"
#include "engine/run/request.h"

struct session_log;

/* Creates a new log.  path NULL: a fresh name in $XDG_STATE_HOME/attnscope (~/.local/state/...).
 * An existing file is refused. */
struct session_log *session_log_create(const char *path, struct error *err);
/* Opens an existing log to go on with it. */
struct session_log *session_log_continue(const char *path, struct error *err);
/* Writes what is pending, syncs, closes.  NULL is allowed. */
void session_log_close(struct session_log *log);

/* Each writes one line.  log NULL: nothing is written. */
void session_log_model(struct session_log *log, const struct model_info *model);
void session_log_context(struct session_log *log, const char *text, size_t n, const char *origin);
void session_log_questions(struct session_log *log, char *const *questions, int n, int current);
/* stack NULL: the lane was removed. */
void session_log_stack(struct session_log *log, int lane, const char *name,
                       const struct stack *stack);
void session_log_run(struct session_log *log, const struct request *request);
void session_log_event(struct session_log *log, const struct event *event);
/* An action of the person by its name in the action table, with one argument or NULL. */
void session_log_action(struct session_log *log, const char *action, const char *argument);

/* Syncs if a second has passed; call from the main loop.  Never blocks for long. */
void session_log_tick(struct session_log *log);
/* Async-signal context never calls this; on SIGHUP/SIGTERM the main loop does, before exit. */
void session_log_flush(struct session_log *log);
const char *session_log_path(const struct session_log *log);
/* NULL while all is saved; else one sentence: "NOT SAVED since 12:03: No space left on device". */
const char *session_log_problem(const struct session_log *log);

/* --- Reading ------------------------------------------------------------------------------ */

enum { SESSION_MAX_LANES = REQUEST_MAX_LANES };

/* What a log adds up to: enough to go on where it stopped. */
struct session {
    char *path;
    char *model;   /* folder or name given to load; NULL: none */
    char *context; /* [n_context] raw bytes, NULL: none */
    size_t n_context;
    char *context_origin;
    char **questions;
    int n_questions, current_question;
    struct request_lane lanes[SESSION_MAX_LANES];
    int n_lanes;
    struct report *last_report; /* of the last run, finished or not; NULL: none */
    int n_runs;
    bool interrupted; /* the last run never finished: a crash or a lost connection */
    double last_at_s; /* the last line's time */
    char *notice;     /* "a torn last line was left out", ...; NULL if none */
};

struct session *session_read(const char *path, struct error *err);
void session_free(struct session *s);

struct session_entry {
    char *path;
    char *name;
    double modified_unix_s;
    uint64_t n_bytes;
};
/* Sessions in the state folder, newest first; the caller frees with session_list_free. */
size_t session_list(struct session_entry **out);
void session_list_free(struct session_entry *entries, size_t n);

#endif
