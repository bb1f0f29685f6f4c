/* The lists at the bottom of the side panel: questions, and columns. */
#include <stdio.h>

#include "tui/format.h"
#include "tui/panes.h"

static const char *state_mark(enum question_state state)
{
    static const char *const marks[] = {
        [QUESTION_NEW] = " ",  [QUESTION_QUEUED] = "·",  [QUESTION_RUNNING] = "●",
        [QUESTION_DONE] = "✓", [QUESTION_PARTIAL] = "~", [QUESTION_FAILED] = "✗",
    };
    return marks[state];
}

static enum role state_role(enum question_state state)
{
    return state == QUESTION_DONE     ? ROLE_OK
           : state == QUESTION_FAILED ? ROLE_ERROR
           : state == QUESTION_NEW    ? ROLE_DIM
                                      : ROLE_WARN;
}

void questions_draw(const struct app *app, struct grid *g, struct rect area)
{
    char title[48];
    snprintf(title, sizeof title, "Questions %d/%d",
             app->n_questions ? app->current_question + 1 : 0, app->n_questions);
    pane_title_draw(app, g, area, PANE_QUESTIONS, title, " F7 ");
    int rows = area.h - 1;
    int top = app->current_question >= rows ? app->current_question - rows + 1 : 0;
    for (int i = top; i < app->n_questions && i - top < rows; i++) {
        const struct question *q = &app->questions[i];
        struct rect row = {area.x, area.y + 1 + i - top, area.w, 1};
        bool current = i == app->current_question;
        bool stale = false;
        const struct report_lane *r = app_result(app, i, app_figures_lane(app), &stale, NULL);
        bool has_jaccard = r && r->n_tokens > 0 && app->lanes.n > 1;
        struct rect text = {row.x, row.y, row.w - (has_jaccard ? 8 : 1), 1};
        int x = grid_printf(g, text, 0, 0, ROLE_TEXT, 0, "%s%2d ", current ? "▸" : " ", i + 1);
        x = grid_printf(g, text, x, 0, state_role(q->state), 0, "%s ", state_mark(q->state));
        grid_put(g, text, x, 0, current ? ROLE_TEXT : ROLE_DIM, 0, q->text);
        if (has_jaccard)
            grid_printf(g, row, row.w - 7, 0, ROLE_DIM, 0, "J%s",
                        format_ratio(r->metrics.jaccard).text);
        if (current && app->focus == PANE_QUESTIONS && !app->insert)
            grid_paint(g, row, 0, 0, area.w - 1, ROLE_ACCENT, 0);
    }
    if (app->n_questions == 0)
        grid_put(g, area, 2, 1, ROLE_DIM, 0, "i types the first question");
}

void lanes_pane_draw(const struct app *app, struct grid *g, struct rect area)
{
    pane_title_draw(app, g, area, PANE_LANES, "Columns", " [ ] ");
    int rows = area.h - 1, current = app->lanes.current;
    int top = current >= rows ? current - rows + 1 : 0;
    for (int i = top; i < app->lanes.n && i - top < rows; i++) {
        struct rect row = {area.x, area.y + 1 + i - top, area.w, 1};
        struct rect name = {row.x, row.y, row.w - 12, 1};
        bool stale = false;
        const struct report_lane *r = app_result(app, app->current_question, i, &stale, NULL);
        grid_printf(g, name, 0, 0, role_of_lane(i), 0, "%s %c %s", i == current ? "▸" : " ",
                    lanes_letter(i), app->lanes.lane[i].name);
        grid_printf(g, row, row.w - 11, 0, ROLE_DIM, 0, "%s t/s",
                    format_rate(stale ? 0 : app_tokens_per_s(r)).text);
        if (i == current && app->focus == PANE_LANES && !app->insert)
            grid_paint(g, row, 0, 0, area.w - 1, ROLE_ACCENT, 0);
    }
    if (app->lanes.n - top < rows)
        grid_put(g, area, 2, 1 + app->lanes.n - top, ROLE_DIM, 0, "+ add a column (c)");
}
