/* Actions about what is seen: focus, scrolling, differences. */
#include "tui/actions.h"

#include "engine/attention/metrics.h"
#include "tui/panes.h"

static int clamp(int v, int low, int high)
{
    return v > high ? (high < low ? low : high) : v < low ? low : v;
}

void act_help(struct app *app, const char *argument)
{
    (void)argument;
    palette_open(app, PALETTE_HELP);
}

void act_figure(struct app *app, const char *argument)
{
    const struct metric *m = argument ? metric_find(argument) : NULL;
    if (m)
        popup_message(app, ROLE_TEXT, m->name, m->definition);
    else
        palette_open(app, PALETTE_HELP); /* lists them all */
}

void act_palette(struct app *app, const char *argument)
{
    (void)argument;
    palette_open(app, PALETTE_ACTIONS);
}

static void set_focus(struct app *app, enum pane pane)
{
    app->focus = pane;
    app_clamp(app);
}

void act_focus_next(struct app *app, const char *argument)
{
    (void)argument;
    set_focus(app, (app->focus + 1) % PANE_COUNT);
}

void act_focus_previous(struct app *app, const char *argument)
{
    (void)argument;
    set_focus(app, (app->focus + PANE_COUNT - 1) % PANE_COUNT);
}

void act_focus_stack(struct app *app, const char *argument)
{
    (void)argument;
    if (app->lanes.current == 0 && app->lanes.n > 1)
        app->lanes.current = 1;
    set_focus(app, app->focus == PANE_STACK ? PANE_ANSWERS : PANE_STACK);
}

void act_focus_questions(struct app *app, const char *argument)
{
    (void)argument;
    set_focus(app, app->focus == PANE_QUESTIONS ? PANE_ANSWERS : PANE_QUESTIONS);
}

void act_focus_params(struct app *app, const char *argument)
{
    (void)argument;
    if (app_stack_editable(app) && app_stack(app)->n > 0)
        set_focus(app, PANE_PARAMS);
}

void act_back(struct app *app, const char *argument)
{
    (void)argument;
    set_focus(app, app->focus == PANE_PARAMS ? PANE_STACK : PANE_ANSWERS);
}

/* The current lane's column; false: it is not on the screen. */
static bool current_column(const struct app *app, struct rect *column)
{
    struct layout l;
    struct layout_columns c;
    layout_compute(&l, app->width, app->height);
    layout_columns(&c, &l, app->lanes.n, app->lanes.current, app->zoomed);
    for (int i = 0; i < c.n; i++)
        if (c.lanes[i] == app->lanes.current) {
            *column = c.columns[i];
            return true;
        }
    return false;
}

static void scroll_to(struct app *app, int lane, struct rect column, int top)
{
    int max = answers_lines(app, lane, column) - answers_height(column);
    struct scroll *s = &app->scroll[lane];
    s->top = clamp(top, 0, max < 0 ? 0 : max);
    s->manual = s->top < max;
}

static void scroll_by(struct app *app, int lines)
{
    struct rect column;
    if (current_column(app, &column))
        scroll_to(app, app->lanes.current, column,
                  answers_top(app, app->lanes.current, column) + lines);
}

/* A list's cursor in the focused pane, or the answer's scroll. */
static void move(struct app *app, int by)
{
    switch (app->focus) {
    case PANE_STACK:
        app->masker_row += by;
        app->param_row = 0;
        break;
    case PANE_PARAMS:
        app->param_row += by;
        break;
    case PANE_QUESTIONS:
        for (; by > 0; by--)
            act_question_next(app, NULL);
        for (; by < 0; by++)
            act_question_previous(app, NULL);
        break;
    case PANE_LANES:
        app->lanes.current = clamp(app->lanes.current + by, 0, app->lanes.n - 1);
        break;
    case PANE_ANSWERS:
    case PANE_COUNT:
        scroll_by(app, by);
        break;
    }
    app_clamp(app);
}

static int half_page(const struct app *app)
{
    struct rect column;
    return current_column(app, &column) ? clamp(answers_height(column) / 2, 1, 1 << 20) : 1;
}

void act_up(struct app *app, const char *argument)
{
    (void)argument;
    move(app, -1);
}

void act_down(struct app *app, const char *argument)
{
    (void)argument;
    move(app, 1);
}

void act_page_up(struct app *app, const char *argument)
{
    (void)argument;
    move(app, -half_page(app));
}

void act_page_down(struct app *app, const char *argument)
{
    (void)argument;
    move(app, half_page(app));
}

enum { FAR = 1 << 20 };

void act_top(struct app *app, const char *argument)
{
    (void)argument;
    if (app->focus == PANE_QUESTIONS)
        move(app, -app->n_questions);
    else
        move(app, -FAR);
}

void act_bottom(struct app *app, const char *argument)
{
    (void)argument;
    if (app->focus == PANE_QUESTIONS)
        move(app, app->n_questions);
    else if (app->focus == PANE_ANSWERS)
        for (int i = 0; i < REQUEST_MAX_LANES; i++)
            app->scroll[i].manual = false;
    else
        move(app, FAR);
}

/* Shows difference i of the current lane in its column and in dense's. */
static void show_difference(struct app *app, int by)
{
    bool stale = false;
    int at = 0, lane = app_figures_lane(app);
    if (!app_result(app, app->current_question, lane, &stale, &at) || at == 0) {
        app_message(app, ROLE_DIM, "there is no sparse answer to compare yet");
        return;
    }
    const struct token_diff *d = &app->questions[app->current_question].diffs[at];
    if (d->n == 0) {
        app_message(app, ROLE_OK, "no difference so far");
        return;
    }
    app->diff_index = (app->diff_index + by + d->n) % d->n;
    const struct diff_run *run = &d->runs[app->diff_index];
    struct layout l;
    struct layout_columns c;
    layout_compute(&l, app->width, app->height);
    layout_columns(&c, &l, app->lanes.n, app->lanes.current, app->zoomed);
    for (int i = 0; i < c.n; i++)
        if (c.lanes[i] == 0 || c.lanes[i] == lane) {
            int token = c.lanes[i] == 0 ? run->base : run->lane;
            int line = answers_line_of_token(app, c.lanes[i], c.columns[i], token);
            scroll_to(app, c.lanes[i], c.columns[i], line - answers_height(c.columns[i]) / 2);
        }
}

void act_difference_next(struct app *app, const char *argument)
{
    (void)argument;
    show_difference(app, 1);
}

void act_difference_previous(struct app *app, const char *argument)
{
    (void)argument;
    show_difference(app, -1);
}

void act_zoom(struct app *app, const char *argument)
{
    (void)argument;
    app->zoomed = !app->zoomed;
}

void act_repaint(struct app *app, const char *argument)
{
    (void)argument;
    app->repaint_wanted = true;
}

void act_suspend(struct app *app, const char *argument)
{
    (void)argument;
    app->suspend_wanted = true;
}
