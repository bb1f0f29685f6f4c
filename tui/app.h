/* The workbench's state, and what changes it.
 *
 * Everything a frame shows is in struct app: screen_render reads it and nothing else, so that a
 * test fills one by hand.  Keys become actions (actions.h), engine events come through
 * app_apply_event; both only change this state and set `dirty`. */
#ifndef ATTNSCOPE_TUI_APP_H
#define ATTNSCOPE_TUI_APP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/run/engine.h"
#include "engine/run/report.h"
#include "sessions/session_log.h"
#include "tui/evidence_shelf.h"
#include "tui/lanes.h"
#include "tui/line_edit.h"
#include "tui/palette.h"
#include "tui/popup.h"
#include "tui/role.h"
#include "tui/token_diff.h"
#include "tui/workbench.h"

enum pane { PANE_ANSWERS, PANE_STACK, PANE_PARAMS, PANE_QUESTIONS, PANE_LANES, PANE_COUNT };

/* The word on the first line. */
enum run_state {
    RUN_STARTING, /* no engine yet */
    RUN_NO_MODEL,
    RUN_LOADING,
    RUN_READY,
    RUN_RUNNING,
    RUN_STOPPING,
    RUN_PARTIAL,
    RUN_DONE,
    RUN_ENGINE_ERROR /* no device, or a lost one: nothing can run until a restart */
};

/* What the line at the bottom is being typed for. */
enum prompt_purpose {
    PROMPT_ASK,
    PROMPT_EDIT_QUESTION,
    PROMPT_VALUE, /* of a parameter */
    PROMPT_STACK,
    PROMPT_CONTEXT,
    PROMPT_MODEL,
    PROMPT_PICTURE,
    PROMPT_SEARCH, /* in the tokens of the Context screen */
    PROMPT_GO_TO   /* a token there */
};

enum question_state {
    QUESTION_NEW,
    QUESTION_QUEUED,
    QUESTION_RUNNING,
    QUESTION_DONE,
    QUESTION_PARTIAL,
    QUESTION_FAILED
};

struct question {
    char *text; /* owned, as is all here */
    enum question_state state;
    struct report *report;                      /* of its last run; NULL: never run */
    uint64_t run;                               /* the run's number, from 1; 0: never run */
    int context_version;                        /* of the context that the report is about */
    struct token_diff diffs[REQUEST_MAX_LANES]; /* of report's lanes against its lane 0 */
};

struct context {
    char *text; /* [n] owned; NULL: none */
    size_t n;
    char *origin; /* a file, a sample, "paste" */
};

struct scroll {
    int top;     /* first line shown, when not following */
    bool manual; /* false: follows the end */
};

/* Figures as shown: copied at most 4 times a second, so that they can be read. */
struct shown {
    int64_t at_ms;
    int n_tokens[REQUEST_MAX_LANES];
    struct progress progress;
    double elapsed_s;
    int spinner;
};

/* Places in screens[] (screen.c). */
enum { SCREEN_ANSWERS, SCREEN_HEAT, SCREEN_CONTEXT };

enum { STEP_BY_ITSELF = -1 }; /* the first difference, or the answer's last step */

/* The current stack tried on one step along the dense answer, before it is run. */
struct trial {
    struct stack stack;
    uint64_t run; /* whose dense answer; 0: nothing was tried yet */
    int step;
    bool failed;                       /* it cannot be tried: the figures say nothing */
    double recall, density, agreement; /* means over all heads of all layers */
    double ms;                         /* from asking to knowing */
};

/* What the Heat and Context screens look at, and what the engine computes for them. */
struct looking {
    int step; /* of the answer, or STEP_BY_ITSELF */
    int layer, head;
    enum evidence_figure figure;
    bool auto_scale; /* from the smallest to the largest value shown */
    bool difference; /* of the current column and the one beside it */
    int key;         /* under the Context screen's cursor; < 0: the heaviest missed one */
    bool only_kept;
    char *search; /* owned; NULL: nothing was searched for */
    struct evidence_shelf shelf;
    uint64_t tag;              /* of the inspection that is on its way; 0: none */
    bool trying;               /* it is of coming_trial, else of coming */
    struct evidence_id coming; /* what it brings */
    struct trial coming_trial, trial;
    int64_t asked_ms;
    struct evidence_id failed; /* what could not be computed: not asked for again */
    char *why;                 /* owned: the reason; NULL: none failed */
};

struct app {
    struct workbench_options options;
    char *state_folder; /* history, stderr.log; NULL: none could be made */
    char *model_path;   /* what is loaded or being loaded */

    int width, height;
    bool ascii, mono;
    bool ascii_only; /* the terminal shows no more */
    enum theme theme;
    int64_t now_ms; /* set by the main loop before anything is handled */
    bool dirty, quit;
    bool restart; /* quit, and go on with this session in a new process */
    int exit_code;

    struct engine *engine;
    enum run_state state;
    char *lost; /* owned: what to tell of the GPU that failed for good; NULL: it has not */
    bool has_model, embedded; /* embedded: the model that comes with the program */
    struct model_info model;

    struct context context, previous_context;
    int context_version;
    struct context_info context_info; /* of the last EVENT_CONTEXT; n_tokens 0: none */

    struct question *questions; /* [n_questions] owned */
    size_t question_capacity;
    int n_questions, current_question;
    int running; /* index of the question being answered, -1: none */
    int64_t run_started_ms;
    double run_wall_ms; /* of the last run; 0: none */
    struct progress progress;
    struct shown shown;
    bool forced;
    enum setup setup;
    char *answer_prefix; /* owned: options.answer_prefix of a resumed session */

    struct lanes lanes;
    int screen; /* index in screens[] */
    enum pane focus;
    int masker_row, param_row;
    struct scroll scroll[REQUEST_MAX_LANES];
    bool zoomed;
    bool live;           /* a changed stack runs by itself */
    int64_t live_due_ms; /* when it will; 0: nothing has changed */
    struct looking looking;
    uint64_t n_runs, n_inspections;
    int diff_index; /* which difference of the current lane the divergence pane shows */

    bool insert; /* the line is being typed */
    enum prompt_purpose purpose;
    char *line, *matches, *draft; /* owned: the line as shown; a question left unfinished */
    size_t line_cursor;           /* bytes */

    struct palette palette;
    struct popup popup;
    char *message; /* owned, NULL: none */
    enum role message_role;
    int64_t message_until_ms;
    bool editor_wanted; /* the main loop runs $EDITOR, as the terminal is its own */
    bool suspend_wanted, repaint_wanted;

    struct session_log *log;
    bool log_waiting; /* something was logged since the last tick */
    int n_logged_lanes;
};

/* Plain state with dense and no question: nothing is opened or started. */
void app_init(struct app *app, const struct workbench_options *options);
void app_free(struct app *app);
/* Sample or given context, questions, lanes, or what the session holds. */
void app_load_start(struct app *app);
/* Starts the engine and the model's load: after the first frame. */
void app_start_engine(struct app *app);
/* Opens the session log: new, or the resumed session's. */
void app_start_log(struct app *app);
void app_load_model(struct app *app, const char *name);

/* Applies an engine event and logs it; the event stays the caller's, less the evidence in it. */
void app_apply_event(struct app *app, struct event *e);
/* Time has passed: refreshes shown figures, ends messages.  Sets dirty where something changed. */
void app_tick(struct app *app);
/* Milliseconds until app_tick has something to do; -1: nothing. */
int app_tick_due_ms(const struct app *app);
/* Brings what a frame needs up to date that is not worth doing per event. */
void app_before_frame(struct app *app);

void app_handle_key(struct app *app, int code);
void app_handle_paste(struct app *app, const char *text, size_t n);

/* One line for the person, gone after a few seconds; long ones open a popup. */
void app_message(struct app *app, enum role role, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void app_error(struct app *app, const struct error *err);
void app_log_action(struct app *app, const char *name, const char *argument);

/* --- After the GPU failed (app_restart.c) --- */

/* Only a new process can run anything. */
bool app_needs_restart(const struct app *app);
/* Leaves for a new process on this session. */
void app_restart(struct app *app);
/* An event told that the device is lost: says so, and what can still be done. */
void app_device_lost(struct app *app, const char *error);
/* After each event: with --auto-restart, restarts when the run that lost the device has ended. */
void app_after_device_lost(struct app *app, bool was_running);

/* --- Running (app_run.c) --- */

bool app_busy(const struct app *app);
/* Asks question i with all lanes; says why not in a message. */
void app_run_question(struct app *app, int i);
void app_run_all(struct app *app);
void app_cancel(struct app *app);
/* Forgets the questions that wait for their turn. */
void app_unqueue(struct app *app);

/* --- Context and questions (app_input.c) --- */

/* Takes text; the one before is kept for app_swap_context. */
void app_set_context(struct app *app, char *text, size_t n, const char *origin);
void app_swap_context(struct app *app);
bool app_load_context_file(struct app *app, const char *path);
bool app_load_sample(struct app *app, const char *name);
/* Appends and makes current. */
int app_add_question(struct app *app, const char *text);
bool app_delete_question(struct app *app, int i);
void app_set_question(struct app *app, int i, const char *text);
void app_log_questions(struct app *app);

/* --- The prompt line (app_prompt.c) --- */

void app_prompt(struct app *app, enum prompt_purpose purpose, const char *initial);
void app_prompt_leave(struct app *app);
/* Gives the line one key's bytes; acts on an accepted line. */
void app_prompt_key(struct app *app, int code);
void app_prompt_paste(struct app *app, const char *text, size_t n);
/* After $EDITOR: the text becomes the line. */
void app_prompt_set(struct app *app, const char *text);

/* --- The stack being edited (app_stack.c) --- */

/* Stacks or columns have changed: with `live`, they are run soon. */
void app_stacks_changed(struct app *app);
/* Replaces the current lane's stack, logs it, and says so when it is not valid. */
void app_edit_stack(struct app *app, const struct stack *stack);
struct stack *app_stack(struct app *app); /* current lane's; do not write through it */
/* stack_check, and stack_check_layers where a model is loaded. */
bool app_stack_check(const struct app *app, const struct stack *s, struct error *err);
/* True if the current lane may be edited; else a message says why not. */
bool app_stack_editable(struct app *app);
/* After undo and the like: rows and focus within what is there. */
void app_clamp(struct app *app);
void app_log_lanes(struct app *app);

/* --- Evidence of a step (app_evidence.c) --- */

/* What a lane of the current question is looked at: false if there is no finished answer of it. */
bool app_evidence_id(const struct app *app, int lane, struct evidence_id *out);
/* On the shelf; any_head: the figures of all heads are enough.  NULL: not yet. */
const struct evidence *app_evidence(const struct app *app, int lane, bool any_head);
/* The lane that a difference is taken from; -1: there is none. */
int app_difference_lane(const struct app *app);
/* Steps of the lane's answer; 0: there is none. */
int app_n_steps(const struct app *app, int lane);
/* Asks the engine for what the screen needs and the shelf lacks; call it before a frame. */
void app_look(struct app *app);
/* Events of an inspection, whose evidence is taken; true: e was one. */
bool app_apply_inspection(struct app *app, struct event *e);
/* Whether the trial is of the stack and the answer that are there now. */
bool app_trial_is_current(const struct app *app);
/* Ends an inspection that is on its way, so that the engine is free. */
void app_stop_looking(struct app *app);
/* The key that the Context screen's cursor is on. */
int app_looked_key(const struct app *app, const struct evidence *e);
void app_looking_free(struct app *app);

/* --- Looking up (app_view.c) --- */

/* Lane's result for question i: of the report's lane with the same stack.  *stale: the stack, the
 * context or the mode is another now.  NULL: none. */
struct report_lane *app_result(const struct app *app, int question, int lane, bool *stale,
                               int *report_index);
/* The words of the line at the bottom: the message, else that the GPU failed, in what has room in
 * width cells.  NULL: none. */
const char *app_notice(const struct app *app, int width, enum role *role);
/* Keys that an answer step sees, about; 0: unknown. */
int app_n_keys(const struct app *app);
/* The lane whose figures the strip shows: the current one, or the first sparse one. */
int app_figures_lane(const struct app *app);
/* Figures over fewer tokens are marked: caches are cold and chance may rule. */
enum { APP_FEW_TOKENS = 16 };
/* Decode tokens per second of a result, 0: not known (yet). */
double app_tokens_per_s(const struct report_lane *r);

#endif
