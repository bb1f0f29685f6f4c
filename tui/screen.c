/* The whole frame. */
#include "tui/panes.h"

const struct screen *const screens[] = {
    [SCREEN_ANSWERS] = &screen_answers,
    [SCREEN_HEAT] = &screen_heat,
    [SCREEN_CONTEXT] = &screen_context,
    NULL,
};

static void draw_tiny(const struct app *app, struct grid *g, struct rect area)
{
    struct buf status = {0};
    status_write(app, &status);
    grid_printf(g, area, 0, 0, ROLE_WARN, 0, "attnscope: %dx%d is too small (%dx%d): %s",
                app->width, app->height, LAYOUT_MIN_WIDTH, LAYOUT_MIN_HEIGHT,
                status.data ? status.data : "");
    buf_free(&status);
}

/* Where there is no side panel, its focused pane covers the body. */
static void draw_side_popup(const struct app *app, struct grid *g, const struct layout *l)
{
    struct rect area = {0, l->tabs.y, l->width, l->tabs.h + l->body.h};
    bool stack = app->focus == PANE_STACK || app->focus == PANE_PARAMS;
    grid_fill(g, area);
    if (stack) {
        struct rect left = area, right = area;
        left.w = area.w * 45 / 100;
        right.x = left.w + 1;
        right.w = area.w - left.w - 1;
        stack_panel_draw(app, g, left);
        grid_vline(g, (struct rect){left.w, area.y, 1, area.h}, 0, ROLE_DIM);
        params_draw(app, g, right);
    } else {
        struct rect top = area, bottom = area;
        top.h = area.h * 6 / 10;
        bottom.y += top.h;
        bottom.h -= top.h;
        questions_draw(app, g, top);
        lanes_pane_draw(app, g, bottom);
    }
}

void screen_render(const struct app *app, struct grid *g)
{
    struct layout l;
    grid_reset(g, app->width, app->height);
    g->ascii = app->ascii;
    layout_compute(&l, app->width, app->height);
    if (l.tiny) {
        draw_tiny(app, g, l.header);
        return;
    }
    header_draw(app, g, l.header);
    metrics_strip_draw(app, g, l.metrics);
    if (l.stack_line.h > 0)
        stack_line_draw(app, g, l.stack_line);
    if (l.has_side) {
        stack_panel_draw(app, g, l.stack);
        params_draw(app, g, l.params);
        questions_draw(app, g, l.questions);
        lanes_pane_draw(app, g, l.lanes);
        grid_vline(g, l.side_border, 0, ROLE_DIM);
    }
    tabs_draw(app, g, l.tabs);
    screens[app->screen]->draw(app, &l, g);
    divergence_draw(app, g, l.divergence);
    if (l.prompt_rule.h > 0)
        prompt_rule_draw(app, g, l.prompt_rule);
    prompt_draw(app, g, l.prompt);
    key_bar_draw(app, g, l.key_bar);
    if (!l.has_side && app->focus != PANE_ANSWERS)
        draw_side_popup(app, g, &l);
    if (app->palette.open)
        palette_draw(app, g, l.popup);
    if (app->popup.open) {
        g->has_cursor = false;
        popup_draw(app, g, l.popup);
    }
}
