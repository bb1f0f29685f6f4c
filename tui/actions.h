/* The one table of actions: keys, key bar, palette, help and the log are made from it. */
#ifndef ATTNSCOPE_TUI_ACTIONS_H
#define ATTNSCOPE_TUI_ACTIONS_H

#include <stdbool.h>

#include "tui/app.h"

enum { ACTION_MAX_KEYS = 3 };

/* Where an action's keys work, one bit per pane; the palette reaches it from everywhere. */
#define IN_PANE(pane) (1u << (pane))
#define IN_ALL 0xFFu
/* In all panes while only a restart helps, before what the key means there otherwise. */
#define IN_NEED (1u << 8)
/* In the body, by what it shows; IN_BODY: whatever it is, but the answers. */
#define IN_BODY (1u << 7)
#define IN_HEAT (1u << 9)
#define IN_CONTEXT (1u << 10)

/* Places by name, for documents; title NULL ends the list. */
struct action_place {
    unsigned panes;
    const char *title;
};
extern const struct action_place action_place_list[];

struct action {
    const char *name; /* "stack-add": palette, "/stack-add" in the prompt, session log */
    unsigned panes;
    int keys[ACTION_MAX_KEYS];
    const char *bar;      /* its word in the key bar; NULL: not there */
    const char *title;    /* "Add a masker" */
    const char *help;     /* one sentence */
    const char *argument; /* what it takes after its name, "FILE"; NULL: nothing */
    void (*run)(struct app *app, const char *argument); /* argument may be NULL */
};

/* Ends with a NULL name; the actions of some places come before those of all panes. */
extern const struct action actions[];

const struct action *action_find(const char *name);
/* Where the person is: the bit of the focused pane, and IN_NEED while it is so. */
unsigned action_places(const struct app *app);
/* The action of a key there; NULL: none. */
const struct action *action_of_key(const struct app *app, int code);
void action_run(struct app *app, const struct action *action, const char *argument);
/* "name argument" as typed; false: no such action. */
bool action_run_command(struct app *app, const char *command);

/* Functions of the table, by file. */
void act_run(struct app *app, const char *argument); /* actions_run.c */
void act_run_all(struct app *app, const char *argument);
void act_stop(struct app *app, const char *argument);
void act_quit(struct app *app, const char *argument);
void act_restart(struct app *app, const char *argument);
void act_forced(struct app *app, const char *argument);
void act_live(struct app *app, const char *argument);
void act_setup(struct app *app, const char *argument);
void act_keep(struct app *app, const char *argument);
void act_max_context(struct app *app, const char *argument);
void act_max_tokens(struct app *app, const char *argument);
void act_sample(struct app *app, const char *argument);
void act_context(struct app *app, const char *argument);
void act_context_previous(struct app *app, const char *argument);
void act_model(struct app *app, const char *argument);
void act_insert(struct app *app, const char *argument);
void act_editor(struct app *app, const char *argument);
void act_question_add(struct app *app, const char *argument);
void act_question_edit(struct app *app, const char *argument);
void act_question_delete(struct app *app, const char *argument);
void act_question_next(struct app *app, const char *argument);
void act_question_previous(struct app *app, const char *argument);

void act_stack_add(struct app *app, const char *argument); /* actions_stack.c */
void act_stack_delete(struct app *app, const char *argument);
void act_stack_down(struct app *app, const char *argument);
void act_stack_up(struct app *app, const char *argument);
void act_stack_toggle(struct app *app, const char *argument);
void act_stack_set(struct app *app, const char *argument);
void act_stack_preset(struct app *app, const char *argument);
void act_value_up(struct app *app, const char *argument);
void act_value_down(struct app *app, const char *argument);
void act_value_double(struct app *app, const char *argument);
void act_value_halve(struct app *app, const char *argument);
void act_value_type(struct app *app, const char *argument);
void act_value_default(struct app *app, const char *argument);
void act_undo(struct app *app, const char *argument);
void act_redo(struct app *app, const char *argument);
void act_column_add(struct app *app, const char *argument);
void act_column_remove(struct app *app, const char *argument);
void act_column_next(struct app *app, const char *argument);
void act_column_previous(struct app *app, const char *argument);

void act_help(struct app *app, const char *argument); /* actions_view.c */
void act_figure(struct app *app, const char *argument);
void act_palette(struct app *app, const char *argument);
void act_focus_next(struct app *app, const char *argument);
void act_focus_previous(struct app *app, const char *argument);
void act_focus_stack(struct app *app, const char *argument);
void act_focus_questions(struct app *app, const char *argument);
void act_focus_params(struct app *app, const char *argument);
void act_back(struct app *app, const char *argument);
void act_up(struct app *app, const char *argument);
void act_down(struct app *app, const char *argument);
void act_page_up(struct app *app, const char *argument);
void act_page_down(struct app *app, const char *argument);
void act_top(struct app *app, const char *argument);
void act_bottom(struct app *app, const char *argument);
void act_difference_next(struct app *app, const char *argument);
void act_difference_previous(struct app *app, const char *argument);
void act_settings(struct app *app, const char *argument);
void act_theme(struct app *app, const char *argument);
void act_ascii(struct app *app, const char *argument);
void act_settings_write(struct app *app, const char *argument);
void act_picture(struct app *app, const char *argument);
void act_zoom(struct app *app, const char *argument);
void act_repaint(struct app *app, const char *argument);
void act_suspend(struct app *app, const char *argument);

void act_screen_answers(struct app *app, const char *argument); /* actions_evidence.c */
void act_screen_heat(struct app *app, const char *argument);
void act_screen_context(struct app *app, const char *argument);
void act_step_next(struct app *app, const char *argument);
void act_step_previous(struct app *app, const char *argument);
void act_layer_next(struct app *app, const char *argument);
void act_layer_previous(struct app *app, const char *argument);
void act_head_next(struct app *app, const char *argument);
void act_head_previous(struct app *app, const char *argument);
void act_heat_figure(struct app *app, const char *argument);
void act_heat_scale(struct app *app, const char *argument);
void act_heat_difference(struct app *app, const char *argument);
void act_heat_worst(struct app *app, const char *argument);
void act_key_next(struct app *app, const char *argument);
void act_key_previous(struct app *app, const char *argument);
void act_key_up(struct app *app, const char *argument);
void act_key_down(struct app *app, const char *argument);
void act_key_page_up(struct app *app, const char *argument);
void act_key_page_down(struct app *app, const char *argument);
void act_key_first(struct app *app, const char *argument);
void act_key_last(struct app *app, const char *argument);
void act_missed_next(struct app *app, const char *argument);
void act_missed_previous(struct app *app, const char *argument);
void act_only_kept(struct app *app, const char *argument);
void act_go_to(struct app *app, const char *argument);
void act_search(struct app *app, const char *argument);

#endif
