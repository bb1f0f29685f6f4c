/* Actions about runs, contexts, questions and the model. */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "tui/actions.h"

void act_run(struct app *app, const char *argument)
{
    (void)argument;
    app_log_action(app, "run", NULL);
    app_run_question(app, app->current_question);
}

void act_run_all(struct app *app, const char *argument)
{
    (void)argument;
    app_log_action(app, "run-all", NULL);
    app_run_all(app);
}

void act_stop(struct app *app, const char *argument)
{
    (void)argument;
    app_log_action(app, "stop", NULL);
    app_cancel(app);
}

static void quit(struct app *app)
{
    app->quit = true;
}

void act_quit(struct app *app, const char *argument)
{
    (void)argument;
    if (app->running >= 0)
        popup_confirm(app, "A run is going on. Stop it and quit?", quit);
    else
        quit(app);
}

void act_restart(struct app *app, const char *argument)
{
    (void)argument;
    if (!app_needs_restart(app))
        app_message(app, ROLE_DIM, "the engine runs: there is no need to restart");
    else if (!app->log)
        app_message(app, ROLE_ERROR, "this session is not saved: a restart would lose it");
    else if (session_log_problem(app->log))
        popup_confirm(app, "Not all of this session is saved. Restart and lose the rest?",
                      app_restart);
    else
        app_restart(app);
}

void act_forced(struct app *app, const char *argument)
{
    (void)argument;
    app->forced = !app->forced;
    app_log_action(app, "forced", app->forced ? "on" : "off");
    app_message(app, ROLE_OK,
                app->forced ? "forced: every column is fed the dense answer's tokens (r runs)"
                            : "free run: every column goes its own way (r runs)");
}

void act_live(struct app *app, const char *argument)
{
    (void)argument;
    app->live = !app->live;
    app->live_due_ms = 0;
    app_message(app, ROLE_OK,
                app->live ? "a changed stack runs by itself" : "a changed stack waits for r");
}

void act_setup(struct app *app, const char *argument)
{
    (void)argument;
    app->setup = app->setup == SETUP_B ? SETUP_A : SETUP_B;
    app_log_action(app, "setup", app->setup == SETUP_A ? "A" : "B");
    app_message(app, ROLE_OK,
                app->setup == SETUP_A
                    ? "setup A: the question is read dense, the answer is sparse (r runs)"
                    : "setup B: question and answer are sparse (r runs)");
}

/* Without an argument: the next choice. */
void act_keep(struct app *app, const char *argument)
{
    static const struct {
        const char *name, *says;
    } choices[] = {
        {"refuse", "a context that is too long is refused"},
        {"head", "the beginning of a too long context is kept (r runs)"},
        {"tail", "the end of a too long context is kept (r runs)"},
        {"middle", "of a too long context the middle is left out (r runs)"},
    };
    enum { N_CHOICES = sizeof choices / sizeof *choices };
    struct workbench_options *o = &app->options;
    int choice = ((o->keep_given ? 1 + (int)o->keep : 0) + 1) % N_CHOICES;
    if (argument)
        for (choice = 0; choice < N_CHOICES && strcmp(choices[choice].name, argument);)
            choice++;
    if (choice == N_CHOICES) {
        app_message(app, ROLE_WARN, "keep %s: expected head, tail, middle or refuse", argument);
        return;
    }
    o->keep_given = choice > 0;
    o->keep = choice > 0 ? (enum keep)(choice - 1) : KEEP_HEAD;
    app_log_action(app, "keep", choices[choice].name);
    app_message(app, ROLE_OK, "%s", choices[choice].says);
}

/* A whole number from 1 to max, or "default", which is 0. */
static bool set_limit(struct app *app, const char *name, const char *argument, int max, int *limit)
{
    char *end;
    errno = 0;
    long n = argument ? strtol(argument, &end, 10) : 0;
    bool is_default = argument && !strcmp(argument, "default");
    if (!is_default && (!argument || *end || errno || n < 1 || n > max)) {
        app_message(app, ROLE_WARN, ":%s takes a number from 1 to %d, or default", name, max);
        return false;
    }
    *limit = (int)n;
    app_log_action(app, name, argument);
    app_message(app, ROLE_OK, "%s %s (r runs)", name, argument);
    return true;
}

void act_max_context(struct app *app, const char *argument)
{
    struct workbench_options *o = &app->options;
    if (set_limit(app, "max-context", argument, 1 << 30, &o->max_context) && o->max_context > 0)
        o->keep_given = true; /* as on the command line: who sets a limit wants the rest cut */
}

void act_max_tokens(struct app *app, const char *argument)
{
    set_limit(app, "max-tokens", argument, 1 << 20, &app->options.max_tokens);
}

static bool refuse_while_running(struct app *app)
{
    if (app->running < 0)
        return false;
    app_message(app, ROLE_WARN, "a run is going on: Ctrl-C stops it first");
    return true;
}

void act_sample(struct app *app, const char *argument)
{
    if (refuse_while_running(app))
        return;
    if (!argument) {
        palette_open(app, PALETTE_SAMPLES);
    } else if (app_load_sample(app, argument)) {
        app_log_action(app, "sample", argument);
        app_message(app, ROLE_OK, "sample %s: r asks its first question", argument);
    }
}

void act_context(struct app *app, const char *argument)
{
    if (!argument)
        app_prompt(app, PROMPT_CONTEXT, NULL);
    else if (app_load_context_file(app, argument))
        app_log_action(app, "context", argument);
}

void act_context_previous(struct app *app, const char *argument)
{
    (void)argument;
    app_log_action(app, "context-previous", NULL);
    app_swap_context(app);
}

void act_model(struct app *app, const char *argument)
{
    if (refuse_while_running(app))
        return;
    if (!argument) {
        palette_open(app, PALETTE_MODELS);
        return;
    }
    app_log_action(app, "model", argument);
    app_load_model(app, argument);
}

void act_insert(struct app *app, const char *argument)
{
    if (!argument) {
        app_prompt(app, PROMPT_ASK, app->draft);
        return;
    }
    app_log_action(app, "ask", argument);
    app_add_question(app, argument);
    app_log_questions(app);
    app_run_question(app, app->current_question);
}

void act_editor(struct app *app, const char *argument)
{
    (void)argument;
    app->editor_wanted = true;
}

void act_question_add(struct app *app, const char *argument)
{
    if (!argument) {
        app_prompt(app, PROMPT_ASK, NULL);
        return;
    }
    app_log_action(app, "question-add", argument);
    app_add_question(app, argument);
    app_log_questions(app);
}

void act_question_edit(struct app *app, const char *argument)
{
    (void)argument;
    if (app->current_question < app->n_questions)
        app_prompt(app, PROMPT_EDIT_QUESTION, app->questions[app->current_question].text);
}

void act_question_delete(struct app *app, const char *argument)
{
    (void)argument;
    if (!app_delete_question(app, app->current_question))
        return;
    app_log_action(app, "question-delete", NULL);
    app_log_questions(app);
    app->shown.at_ms = 0;
}

static void go_to_question(struct app *app, int i)
{
    if (i < 0 || i >= app->n_questions)
        return;
    app->current_question = i;
    app->diff_index = 0;
    app->shown.at_ms = 0;
    for (int lane = 0; lane < REQUEST_MAX_LANES; lane++)
        app->scroll[lane] = (struct scroll){0};
}

void act_question_next(struct app *app, const char *argument)
{
    (void)argument;
    go_to_question(app, app->current_question + 1);
}

void act_question_previous(struct app *app, const char *argument)
{
    (void)argument;
    go_to_question(app, app->current_question - 1);
}
