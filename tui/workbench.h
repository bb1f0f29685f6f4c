/* The workbench: the full-screen program, from an entry point to an exit code. */
#ifndef ATTNSCOPE_TUI_WORKBENCH_H
#define ATTNSCOPE_TUI_WORKBENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/run/engine.h"
#include "sessions/session_log.h"
#include "tui/theme.h"

struct workbench_options {
    const char *model; /* a folder to load; NULL: the embedded model (or the session's) */
    struct engine_options engine;

    /* What to begin with; all borrowed, and all may be absent. */
    const char *sample;  /* a sample's name: its context and its questions */
    const char *context; /* [n_context], in place of the sample's */
    size_t n_context;
    const char *context_origin;   /* a file's name, for the screen; NULL with no context */
    const char *const *questions; /* [n_questions] */
    int n_questions;
    const struct request_lane *lanes; /* [n_lanes], lane 0 the baseline; 0: dense and the default */
    int n_lanes;

    /* Of each request. */
    int max_tokens, max_context; /* as in struct request, 0: default */
    enum keep keep;
    bool keep_given;
    enum setup setup;
    bool forced;
    uint64_t seed;
    const char *answer_prefix;
    struct sampling sampling; /* all zero: greedy */

    struct session *resume; /* goes on with this session's log; taken; NULL: a new log */
    /* When the GPU has failed for good, a new process goes on with the session: at the press of a
     * key, or at once after the run that it failed in. */
    bool auto_restart;
    const char *const *restart_args; /* for it: options of `resume`; NULL-terminated, NULL: none */
    bool ascii;                      /* only ASCII, also where the locale has more */
    enum color_mode color;
    const char *theme; /* a name of theme_names; NULL: as the settings say */
};

/* Runs until the person leaves or a signal ends it; returns the exit code.  Where there is no
 * terminal to show it on (pipes, TERM=dumb) says so on stderr in one sentence and returns
 * EXIT_CODE_USAGE.  Main thread; no other thread may run yet, as signals are blocked here. */
int workbench_run(const struct workbench_options *options);

#endif
