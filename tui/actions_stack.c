/* Actions about stacks and columns.  Each makes a changed copy and hands it to app_edit_stack, so
 * that every edit can be undone. */
#include <string.h>

#include "presets/preset.h"
#include "tui/actions.h"

/* The current stack without its preset's name, which an edit makes untrue. */
static struct stack edited_copy(struct app *app)
{
    struct stack s = *app_stack(app);
    s.name[0] = '\0';
    return s;
}

static bool on_masker(struct app *app)
{
    return app_stack_editable(app) && app->masker_row < stack_n_items(app_stack(app));
}

/* The list that the selected masker is of: the one for all layers where none is selected. */
static int current_list(struct app *app)
{
    const struct stack *s = app_stack(app);
    return app->masker_row < stack_n_items(s) ? stack_list_of_item(s, app->masker_row) : 0;
}

void act_stack_add(struct app *app, const char *argument)
{
    struct error err;
    if (!app_stack_editable(app))
        return;
    if (!argument) {
        palette_open(app, PALETTE_MASKERS);
        return;
    }
    const struct masker *m = masker_find(argument);
    if (!m) {
        app_message(app, ROLE_ERROR, "there is no masker '%s': a lists them", argument);
        return;
    }
    struct stack s = edited_copy(app);
    int list = current_list(app);
    if (!stack_add_to(&s, list, m, &err)) {
        app_error(app, &err);
        return;
    }
    app_log_action(app, "stack-add", argument);
    struct stack_list to = stack_list_at(&s, list);
    app->masker_row = to.first + to.n - 1;
    app->param_row = 0;
    app_edit_stack(app, &s);
}

void act_stack_delete(struct app *app, const char *argument)
{
    (void)argument;
    if (!on_masker(app))
        return;
    struct stack s = edited_copy(app);
    stack_remove(&s, app->masker_row);
    app_log_action(app, "stack-delete", NULL);
    app_edit_stack(app, &s);
}

static void move_masker(struct app *app, int by, const char *name)
{
    int to = app->masker_row + by;
    if (!on_masker(app))
        return;
    struct stack s = edited_copy(app);
    struct stack_list list = stack_list_at(&s, current_list(app));
    if (to < list.first || to >= list.first + list.n)
        return;
    stack_move(&s, app->masker_row, to);
    app->masker_row = to;
    app_log_action(app, name, NULL);
    app_edit_stack(app, &s);
}

void act_stack_down(struct app *app, const char *argument)
{
    (void)argument;
    move_masker(app, 1, "stack-down");
}

void act_stack_up(struct app *app, const char *argument)
{
    (void)argument;
    move_masker(app, -1, "stack-up");
}

void act_stack_toggle(struct app *app, const char *argument)
{
    (void)argument;
    if (!on_masker(app))
        return;
    struct stack s = edited_copy(app);
    s.items[app->masker_row].off = !s.items[app->masker_row].off;
    app_log_action(app, "stack-toggle", NULL);
    app_edit_stack(app, &s);
}

void act_stack_set(struct app *app, const char *argument)
{
    struct stack s;
    struct error err;
    if (!app_stack_editable(app))
        return;
    if (!argument) {
        struct buf now = {0};
        stack_write_short(app_stack(app), &now);
        app_prompt(app, PROMPT_STACK, now.data);
        buf_free(&now);
        return;
    }
    if (!preset_stack(&s, argument, &err)) {
        app_error(app, &err);
        return;
    }
    app_log_action(app, "set-stack", argument);
    app_edit_stack(app, &s);
    app_message(app, ROLE_OK, "column %c: %s (r runs)", lanes_letter(app->lanes.current),
                app->lanes.lane[app->lanes.current].name);
}

void act_stack_preset(struct app *app, const char *argument)
{
    if (!app_stack_editable(app))
        return;
    if (argument)
        act_stack_set(app, argument);
    else
        palette_open(app, PALETTE_STACKS);
}

/* The parameter that value keys change; NULL: none. */
static const struct masker_param *current_param(struct app *app, int *row)
{
    if (!on_masker(app))
        return NULL;
    const struct masker *m = app_stack(app)->items[app->masker_row].masker;
    *row = app->focus == PANE_PARAMS ? app->param_row : 0;
    return *row < m->n_params ? &m->params[*row] : NULL;
}

static void set_value(struct app *app, int row, struct budget value, const char *name)
{
    struct stack s = edited_copy(app);
    s.items[app->masker_row].values.param[row] = value;
    app_log_action(app, name, NULL);
    app_edit_stack(app, &s);
}

static void step_value(struct app *app, int direction, const char *name)
{
    int row = 0;
    const struct masker_param *p = current_param(app, &row);
    if (!p)
        return;
    struct budget now = app_stack(app)->items[app->masker_row].values.param[row];
    set_value(app, row, param_step(p, now, direction), name);
}

void act_value_up(struct app *app, const char *argument)
{
    (void)argument;
    step_value(app, 1, "value-up");
}

void act_value_down(struct app *app, const char *argument)
{
    (void)argument;
    step_value(app, -1, "value-down");
}

void act_value_double(struct app *app, const char *argument)
{
    (void)argument;
    step_value(app, 2, "value-double");
}

void act_value_halve(struct app *app, const char *argument)
{
    (void)argument;
    step_value(app, -2, "value-halve");
}

static void type_value(struct app *app, int row, const char *text)
{
    struct stack s = edited_copy(app);
    struct stack_item *item = &s.items[app->masker_row];
    struct error err;
    if (!masker_value_parse(item->masker, &item->values, row, text, &err)) {
        app_error(app, &err);
        return;
    }
    app_log_action(app, "value-type", NULL);
    app_edit_stack(app, &s);
}

void act_value_type(struct app *app, const char *argument)
{
    int row = 0;
    if (!current_param(app, &row))
        return;
    if (argument) {
        type_value(app, row, argument);
        return;
    }
    struct buf now = {0};
    const struct stack_item *item = &app_stack(app)->items[app->masker_row];
    masker_value_write(item->masker, &item->values, row, &now);
    app_prompt(app, PROMPT_VALUE, now.data ? now.data : "");
    buf_free(&now);
}

void act_value_default(struct app *app, const char *argument)
{
    (void)argument;
    int row = 0;
    const struct masker_param *p = current_param(app, &row);
    if (p && p->kind == PARAM_PATH)
        type_value(app, row, "");
    else if (p)
        set_value(app, row, p->fallback, "value-default");
}

static void after_history(struct app *app, const char *name)
{
    app_clamp(app);
    app_log_action(app, name, NULL);
    app_log_lanes(app);
    app->shown.at_ms = 0;
    app_stacks_changed(app);
}

void act_undo(struct app *app, const char *argument)
{
    (void)argument;
    if (lanes_undo(&app->lanes, NULL))
        after_history(app, "undo");
    else
        app_message(app, ROLE_DIM, "nothing to undo");
}

void act_redo(struct app *app, const char *argument)
{
    (void)argument;
    if (lanes_redo(&app->lanes, NULL))
        after_history(app, "redo");
    else
        app_message(app, ROLE_DIM, "nothing to redo");
}

void act_column_add(struct app *app, const char *argument)
{
    (void)argument;
    struct error err;
    struct stack s = *app_stack(app);
    if (!lanes_add(&app->lanes, &s, &err)) {
        app_error(app, &err);
        return;
    }
    after_history(app, "column-add");
    app_message(app, ROLE_OK, "column %c added: change its stack with F4 or F8, r runs",
                lanes_letter(app->lanes.current));
}

void act_column_remove(struct app *app, const char *argument)
{
    (void)argument;
    struct error err;
    if (lanes_remove(&app->lanes, app->lanes.current, &err))
        after_history(app, "column-remove");
    else
        app_error(app, &err);
}

static void go_to_column(struct app *app, int lane)
{
    if (lane < 0 || lane >= app->lanes.n)
        return;
    app->lanes.current = lane;
    app->masker_row = app->param_row = 0;
    app->diff_index = 0;
    app_clamp(app);
}

void act_column_next(struct app *app, const char *argument)
{
    (void)argument;
    go_to_column(app, app->lanes.current + 1);
}

void act_column_previous(struct app *app, const char *argument)
{
    (void)argument;
    go_to_column(app, app->lanes.current - 1);
}
