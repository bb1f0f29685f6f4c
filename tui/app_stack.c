/* The stack that the panel edits. */
#include "tui/app.h"

static int clamp(int v, int low, int high)
{
    return v > high ? (high < low ? low : high) : v < low ? low : v;
}

struct stack *app_stack(struct app *app)
{
    return &app->lanes.lane[app->lanes.current].stack;
}

bool app_stack_check(const struct app *app, const struct stack *s, struct error *err)
{
    return stack_check(s, err) &&
           (!app->has_model || stack_check_layers(s, app->model.n_layers, err));
}

bool app_stack_editable(struct app *app)
{
    if (app->lanes.current > 0)
        return true;
    app_message(app, ROLE_WARN,
                app->lanes.n > 1 ? "column D is the dense baseline: ] goes to a sparse column"
                                 : "column D is the dense baseline: c adds a sparse column");
    return false;
}

void app_clamp(struct app *app)
{
    const struct stack *s = app_stack(app);
    int n = stack_n_items(s);
    app->masker_row = clamp(app->masker_row, 0, n - 1);
    int n_params = n > 0 ? s->items[app->masker_row].masker->n_params : 0;
    app->param_row = clamp(app->param_row, 0, n_params - 1);
    app->current_question = clamp(app->current_question, 0, app->n_questions - 1);
}

void app_log_lanes(struct app *app)
{
    for (int i = 0; i < app->lanes.n; i++)
        session_log_stack(app->log, i, app->lanes.lane[i].name, &app->lanes.lane[i].stack);
    for (int i = app->n_logged_lanes - 1; i >= app->lanes.n; i--)
        session_log_stack(app->log, i, "", NULL);
    app->n_logged_lanes = app->lanes.n;
    app->log_waiting = true;
}

enum { LIVE_AFTER_MS = 300 };

void app_stacks_changed(struct app *app)
{
    if (app->live)
        app->live_due_ms = app->now_ms + LIVE_AFTER_MS;
    app->dirty = true;
}

void app_edit_stack(struct app *app, const struct stack *stack)
{
    int lane = app->lanes.current;
    lanes_set_stack(&app->lanes, lane, stack);
    app_clamp(app);
    app_stacks_changed(app);
    session_log_stack(app->log, lane, app->lanes.lane[lane].name, stack);
    app->log_waiting = true;
}
