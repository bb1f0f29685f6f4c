/* The prompt line and the key bar. */
#include <stdio.h>
#include <string.h>

#include "engine/base/utf8.h"
#include "engine/text/screen_text.h"
#include "tui/actions.h"
#include "tui/keys.h"
#include "tui/panes.h"

static const char *label_of(enum prompt_purpose purpose)
{
    static const char *const labels[] = {
        [PROMPT_ASK] = "Q> ",
        [PROMPT_EDIT_QUESTION] = "edit Q> ",
        [PROMPT_VALUE] = "value> ",
        [PROMPT_STACK] = "stack> ",
        [PROMPT_CONTEXT] = "context file> ",
        [PROMPT_MODEL] = "model folder> ",
        [PROMPT_PICTURE] = "picture file> ",
        [PROMPT_SEARCH] = "search> ",
        [PROMPT_GO_TO] = "token> ",
    };
    return labels[purpose];
}

static const char *hint_of(enum prompt_purpose purpose)
{
    switch (purpose) {
    case PROMPT_ASK:
        return "Enter ask  Alt-Enter newline  Esc";
    case PROMPT_STACK:
        return "Enter set  Tab completes  Esc";
    case PROMPT_CONTEXT:
    case PROMPT_MODEL:
    case PROMPT_PICTURE:
        return "Enter load  Tab completes  Esc";
    case PROMPT_SEARCH:
    case PROMPT_GO_TO:
        return "Enter go  Esc";
    default:
        return "Enter set  Esc";
    }
}

static int width_to(const struct grid *g, const char *text, size_t n)
{
    char copy[8192];
    if (n >= sizeof copy)
        n = sizeof copy - 1;
    memcpy(copy, text, n);
    copy[n] = '\0';
    return grid_text_width(g, copy);
}

/* The line scrolls sideways so that the cursor stays in sight. */
static void draw_line(const struct app *app, struct grid *g, struct rect area)
{
    const char *line = app->line ? app->line : "";
    int x = grid_put(g, area, 1, 0, ROLE_TITLE, ATTR_BOLD, label_of(app->purpose));
    int hint = grid_text_width(g, hint_of(app->purpose));
    bool show_hint = x + width_to(g, line, strlen(line)) + hint + 3 < area.w;
    struct rect field = {area.x + x, area.y, area.w - x - 1, 1};
    int cursor = width_to(g, line, app->line_cursor);
    int skip = cursor >= field.w ? cursor - field.w + 1 : 0;
    struct rect shifted = field;
    grid_put(g, shifted, -skip, 0, ROLE_TEXT, 0, line);
    if (show_hint)
        grid_put_right(g, area, area.w - 1, 0, ROLE_DIM, 0, hint_of(app->purpose));
    g->has_cursor = true;
    g->cursor_x = field.x + cursor - skip;
    g->cursor_y = field.y;
}

void prompt_draw(const struct app *app, struct grid *g, struct rect area)
{
    if (app->insert) {
        draw_line(app, g, area);
        return;
    }
    int x = grid_put(g, area, 1, 0, ROLE_DIM, 0, "Q> ");
    if (app->draft) {
        grid_put(g, area, x, 0, ROLE_DIM, 0, app->draft);
        return;
    }
    const char *question = app->current_question < app->n_questions
                               ? app->questions[app->current_question].text
                               : NULL;
    x = grid_put(g, area, x, 0, ROLE_DIM, 0, "i types a question");
    if (question && app->running < 0)
        grid_printf(g, area, x, 0, ROLE_DIM, 0, "   r asks: %s", question);
    else if (app->running >= 0)
        grid_put(g, area, x, 0, ROLE_DIM, 0, "   Ctrl-C stops the run");
}

void prompt_rule_draw(const struct app *app, struct grid *g, struct rect area)
{
    enum role notice_role;
    const char *notice = app_notice(app, area.w - 4, &notice_role);
    grid_hline(g, area, 0, ROLE_DIM);
    if (app->matches)
        grid_printf(g, area, 1, 0, ROLE_TEXT, 0, " %s ", app->matches);
    else if (notice)
        grid_printf(g, area, 1, 0, notice_role, 0, " %s ", notice);
    else
        grid_put(g, area, 1, 0, ROLE_DIM, 0,
                 app->insert
                     ? " Prompt ─── Esc normal · @file Tab · /command · Ctrl-X Ctrl-E editor "
                     : " Prompt ─── i insert · Tab pane · : all actions · ? help ");
}

void key_bar_draw(const struct app *app, struct grid *g, struct rect area)
{
    if (app->matches && app->height < 30) {
        grid_put(g, area, 1, 0, ROLE_TEXT, 0, app->matches);
        return;
    }
    int x = 0, n = 0;
    for (const struct action *a = actions; a->name; a++)
        n += a->bar ? grid_text_width(g, a->bar) + 2 + (a->keys[0] - CODE_F0 > 9) : 0;
    int gap = area.w - n >= 10 ? 1 : 0;
    for (const struct action *a = actions; a->name; a++) {
        if (!a->bar)
            continue;
        struct buf key = {0};
        key_write_name(a->keys[0], &key);
        x = grid_put(g, area, x, 0, ROLE_TEXT, ATTR_BOLD, key.data);
        x = grid_put(g, area, x, 0, ROLE_ACCENT, 0, a->bar);
        x += gap;
        buf_free(&key);
    }
}
