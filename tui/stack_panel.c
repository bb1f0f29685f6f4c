/* The current column's stack: its maskers, and the parameters of the selected one. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tui/format.h"
#include "tui/panes.h"
#include "tui/rich.h"

/* Filtered text, wrapped, from row y; returns the row after it. */
static int put_wrapped(struct grid *g, struct rect area, int x, int y, enum role role,
                       const char *text)
{
    struct rich rich = {0};
    struct rich_lines lines = {0};
    struct rect in = {area.x + x, area.y, area.w - x - 1, area.h};
    rich_append_str(&rich, text, role, 0);
    rich_wrap(&rich, in.w, &lines);
    for (size_t i = 0; i < lines.n; i++, y++)
        rich_draw_line(g, in, y, &rich, lines.lines[i]);
    rich_lines_free(&lines);
    rich_free(&rich);
    return y;
}

static void write_value(const struct stack_item *item, int row, struct buf *out)
{
    masker_value_write(item->masker, &item->values, row, out);
}

/* Keys that the masker's main parameter stands for, as a share of all; < 0: it says nothing. */
static double share_of(const struct stack_item *item, int n_keys)
{
    if (item->off || item->masker->n_params == 0)
        return -1;
    const struct masker_param *p = &item->masker->params[0];
    struct budget b = item->values.param[0];
    if (p->kind != PARAM_BUDGET)
        return -1;
    if (b.is_fraction)
        return fmin(b.value, 1);
    return n_keys > 0 ? fmin(b.value / n_keys, 1) : -1;
}

/* "sink 4 › local 64" from column x; returns the column after it. */
static int put_list(struct grid *g, struct rect area, int x, const struct stack *s, int which)
{
    struct stack_list list = stack_list_at(s, which);
    for (int i = list.first; i < list.first + list.n; i++) {
        const struct stack_item *item = &s->items[i];
        struct buf value = {0};
        if (item->masker->n_params > 0)
            write_value(item, 0, &value);
        if (i > list.first)
            x = grid_put(g, area, x, 0, ROLE_DIM, 0, " › ");
        x = grid_printf(g, area, x, 0, item->off ? ROLE_DIM : ROLE_TEXT, 0, "%s%s %s",
                        item->off ? "○" : "", item->masker->name, value.data ? value.data : "");
        buf_free(&value);
    }
    return list.n ? x : grid_put(g, area, x, 0, ROLE_DIM, 0, "dense");
}

/* Figures of another stack or answer are marked. */
static const char *trial_mark(const struct app *app)
{
    return app_trial_is_current(app) ? "" : "~";
}

static bool has_trial(const struct app *app)
{
    return app->looking.trial.run != 0 && !app->looking.trial.failed;
}

static void put_trial_right(const struct app *app, struct grid *g, struct rect area, int from)
{
    const struct trial *t = &app->looking.trial;
    char text[64];
    if (!has_trial(app))
        return;
    snprintf(text, sizeof text, "%strial: recall %.3f kept %.1f%%", trial_mark(app), t->recall,
             100 * t->density);
    if (from + (int)strlen(text) < area.w)
        grid_put_right(g, area, area.w - 1, 0, ROLE_DIM, 0, text);
}

/* Two rows: what the stack would choose in one step along the dense answer. */
static void draw_trial(const struct app *app, struct grid *g, struct rect area, int y)
{
    const struct trial *t = &app->looking.trial;
    if (!has_trial(app) || y + 1 >= area.h)
        return;
    bool current = app_trial_is_current(app);
    enum role role = current ? ROLE_TEXT : ROLE_DIM;
    grid_printf(g, area, 2, y, role, 0, "%strial: recall %.3f  kept %.1f%%", trial_mark(app),
                t->recall, 100 * t->density);
    grid_printf(g, area, 2, y + 1, ROLE_DIM, 0, "agreement %.3f  step %d  %.0f ms", t->agreement,
                t->step, t->ms);
}

/* "sink 4 › local 64 › … · layers 0-1: dense" on one line. */
void stack_line_draw(const struct app *app, struct grid *g, struct rect area)
{
    int lane = app_figures_lane(app);
    const struct stack *s = &app->lanes.lane[lane].stack;
    int x = grid_printf(g, area, 1, 0, role_of_lane(lane), 0, "%c: ", lanes_letter(lane));
    if (s->n == 0 && s->n_groups == 0)
        grid_put(g, area, x, 0, ROLE_DIM, 0, "dense: every visible key   F4 edits a stack");
    else
        x = put_list(g, area, x, s, 0);
    for (int i = 0; i < s->n_groups; i++) {
        struct buf layers = {0};
        layer_set_write(&s->groups[i].layers, &layers);
        x = grid_printf(g, area, x, 0, ROLE_DIM, 0, " · layers %s: ", layers.data);
        x = put_list(g, area, x, s, 1 + i);
        buf_free(&layers);
    }
    struct error err;
    if (!app_stack_check(app, s, &err))
        grid_put(g, area, x + 2, 0, ROLE_ERROR, 0, "not valid: F4 shows why");
    else
        put_trial_right(app, g, area, x + 2);
}

/* Item i in row y, number of its list. */
static void draw_masker_row(const struct app *app, struct grid *g, struct rect area, int y, int i,
                            int number)
{
    const struct stack_item *item = &app->lanes.lane[app->lanes.current].stack.items[i];
    bool on_row = app->masker_row == i && (app->focus == PANE_STACK || app->focus == PANE_PARAMS);
    struct rect row = {area.x, area.y + y, area.w, 1};
    struct buf value = {0};
    if (item->masker->n_params > 0)
        write_value(item, 0, &value);
    enum role role = item->off ? ROLE_DIM : ROLE_TEXT;
    bool reads_all = masker_reads_all_keys(item->masker, &item->values);
    const char *share = item->off ? "off " : reads_all ? "SIM " : NULL;
    /* The share takes 6 cells at the right.  Names give way to values; a cut value says so. */
    enum { SHARE_CELLS = 7, MARK_CELLS = 6, VALUE_CELLS = 7, MAX_NAME_CELLS = 12 };
    struct rect left = {row.x, row.y, area.w > SHARE_CELLS ? area.w - SHARE_CELLS : 0, 1};
    int name_cells = left.w - MARK_CELLS - VALUE_CELLS;
    if (name_cells > MAX_NAME_CELLS)
        name_cells = MAX_NAME_CELLS;
    int x = grid_printf(g, left, 0, 0, role, 0, "%s%2d %s %-*s ", on_row ? "▸" : " ", number,
                        item->off ? "○" : "●", name_cells > 0 ? name_cells : 0, item->masker->name);
    const char *text = value.data ? value.data : "";
    grid_put(g, left, x, 0, role, 0, text);
    if (x + grid_text_width(g, text) > left.w)
        grid_put(g, left, left.w - 1, 0, role, 0, "…");
    grid_put_right(g, row, area.w - 1, 0, share && !item->off ? ROLE_WARN : ROLE_DIM, 0,
                   share ? share : format_share(share_of(item, app_n_keys(app))).text);
    if (on_row && app->focus == PANE_STACK && !app->insert)
        grid_paint(g, row, 0, 0, area.w - 1, ROLE_ACCENT, 0);
    buf_free(&value);
}

/* A list from row y, a group's below its layers; returns the row after it. */
static int draw_list(const struct app *app, struct grid *g, struct rect area, int y,
                     const struct stack *s, int which)
{
    struct stack_list list = stack_list_at(s, which);
    if (which > 0) {
        struct buf layers = {0};
        layer_set_write(&s->groups[which - 1].layers, &layers);
        if (y < area.h)
            grid_printf(g, area, 1, y, ROLE_DIM, 0, "layers %s%s", layers.data,
                        list.n ? "" : ": dense");
        buf_free(&layers);
        y++;
    }
    for (int i = 0; i < list.n; i++, y++)
        if (y < area.h)
            draw_masker_row(app, g, area, y, list.first + i, 1 + i);
    return y;
}

void stack_panel_draw(const struct app *app, struct grid *g, struct rect area)
{
    int lane = app->lanes.current;
    const struct stack *s = &app->lanes.lane[lane].stack;
    char title[STACK_NAME_MAX + 16];
    snprintf(title, sizeof title, "Stack %c%s%s", lanes_letter(lane), s->name[0] ? " " : "",
             s->name);
    pane_title_draw(app, g, area, PANE_STACK, title, " F4 ");
    int y = 1;
    if (s->n == 0)
        y = put_wrapped(g, area, 2, 1, ROLE_DIM,
                        lane == 0 ? "dense: the baseline, every visible key"
                                  : "empty: dense, every visible key");
    for (int i = 0; i <= s->n_groups; i++)
        y = draw_list(app, g, area, y, s, i);
    struct error err;
    struct buf warnings = {0};
    if (!app_stack_check(app, s, &err)) {
        y = put_wrapped(g, area, 2, y, ROLE_ERROR, err.text);
    } else if (lane > 0) {
        stack_warn(s, app_n_keys(app), &warnings);
        while (warnings.len > 0 && warnings.data[warnings.len - 1] == '\n')
            warnings.data[--warnings.len] = '\0';
        if (warnings.len > 0)
            y = put_wrapped(g, area, 2, y, ROLE_WARN, warnings.data);
    }
    buf_free(&warnings);
    if (lane == 0)
        return;
    if (y < area.h)
        grid_put(g, area, 2, y, ROLE_DIM, 0,
                 area.w >= 32 ? "a add x del J/K move ␣ on/off" : "a add x del J/K ␣ on/off");
    if (y + 1 < area.h)
        grid_put(g, area, 2, y + 1, ROLE_DIM, 0, "P presets c column L live");
    draw_trial(app, g, area, y + 2);
}

/* 0..1: where the value lies between its bounds; wide ranges by their logarithm. */
static double position(const struct masker_param *p, struct budget value)
{
    double low = p->min, high = p->max, v = value.value;
    if (p->kind == PARAM_PATH)
        return 0;
    if (p->kind == PARAM_CHOICE) {
        int n = 0;
        while (p->choices[n])
            n++;
        return n > 1 ? v / (n - 1) : 0;
    }
    if (p->kind == PARAM_BUDGET && value.is_fraction) {
        low = 0;
        high = fmin(p->max_fraction, 1);
    } else if (high > 1 << 20) {
        high = 1 << 20;
    }
    if (!(high > low))
        return 0;
    double at = high - low > 100 ? log1p(v - low) / log1p(high - low) : (v - low) / (high - low);
    return fmin(fmax(at, 0), 1);
}

static void draw_slider(struct grid *g, struct rect area, int x, int y, int w, double at)
{
    int knob = 1 + (int)lround(at * (w - 3));
    grid_put(g, area, x, y, ROLE_DIM, 0, "◂");
    for (int i = 1; i < w - 1; i++)
        grid_put(g, area, x + i, y, i == knob ? ROLE_TEXT : ROLE_DIM, 0,
                 i == knob  ? "●"
                 : i < knob ? "━"
                            : "─");
    grid_put(g, area, x + w - 1, y, ROLE_DIM, 0, "▸");
}

static void write_range(const struct masker_param *p, struct buf *out)
{
    if (p->kind == PARAM_CHOICE) {
        for (int i = 0; p->choices[i]; i++)
            buf_printf(out, "%s%s", i ? " | " : "", p->choices[i]);
        return;
    }
    if (p->kind == PARAM_PATH) {
        buf_append_str(out, "a file");
        return;
    }
    buf_printf(out, "%g%s", p->min, p->min_exclusive ? " <" : "");
    if (p->max < 1e9)
        buf_printf(out, " … %s%g", p->max_exclusive ? "< " : "", p->max);
    else
        buf_append_str(out, " …");
    if (p->kind == PARAM_BUDGET)
        buf_append_str(out, " keys, or a share: 5%");
}

void params_draw(const struct app *app, struct grid *g, struct rect area)
{
    const struct stack *s = &app->lanes.lane[app->lanes.current].stack;
    bool any = app->masker_row < stack_n_items(s);
    const struct masker *m = any ? s->items[app->masker_row].masker : NULL;
    char title[64] = "Params";
    if (m) {
        struct stack_list list = stack_list_at(s, stack_list_of_item(s, app->masker_row));
        snprintf(title, sizeof title, "Params: %d %s", app->masker_row - list.first + 1, m->name);
    }
    pane_title_draw(app, g, area, PANE_PARAMS, title, "");
    if (!m) {
        put_wrapped(g, area, 2, 1, ROLE_DIM,
                    app->lanes.current > 0 ? "no masker: a adds one" : "the baseline has none");
        return;
    }
    const struct stack_item *item = &s->items[app->masker_row];
    int slider = area.w >= 32 ? area.w - 22 : 0;
    for (int i = 0; i < m->n_params && 1 + i < area.h; i++) {
        bool on_row = app->focus == PANE_PARAMS && app->param_row == i;
        struct buf value = {0};
        write_value(item, i, &value);
        grid_printf(g, area, 0, 1 + i, ROLE_TEXT, 0, "%s %-9.9s %7.7s", on_row ? "▸" : " ",
                    m->params[i].label, value.data ? value.data : "");
        if (on_row && !app->insert)
            grid_paint(g, area, 0, 1 + i, 19, ROLE_ACCENT, 0);
        if (slider > 4)
            draw_slider(g, area, 20, 1 + i, slider > 14 ? 14 : slider,
                        position(&m->params[i], item->values.param[i]));
        buf_free(&value);
    }
    int y = 2 + m->n_params;
    int row = app->focus == PANE_PARAMS && app->param_row < m->n_params ? app->param_row : 0;
    struct buf range = {0};
    buf_append_str(&range, "range ");
    if (m->n_params > 0) {
        y = put_wrapped(g, area, 2, y, ROLE_DIM, m->params[row].help);
        write_range(&m->params[row], &range);
        y = put_wrapped(g, area, 2, y, ROLE_DIM, range.data);
    }
    if (y + 1 < area.h)
        grid_put(g, area, 2, area.h - 1, ROLE_DIM, 0, "h/l step </> ×2 = type d dflt");
    buf_free(&range);
}
