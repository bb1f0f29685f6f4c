/* The answers side by side: one column per lane that fits, each with its title, the question, and
 * the answer as it streams. */
#include <stdio.h>
#include <string.h>

#include "tui/format.h"
#include "tui/panes.h"
#include "tui/rich.h"

enum { TITLE_ROWS = 1 };

static bool in_runs(const struct token_diff *d, int token, bool base, int *run)
{
    while (*run < d->n) {
        const struct diff_run *r = &d->runs[*run];
        int start = base ? r->base : r->lane, n = base ? r->n_base : r->n_lane;
        if (token < start)
            return false;
        if (token < start + n)
            return true;
        (*run)++;
    }
    return false;
}

/* One piece of an answer.  A mark begins at the first word, not at the space before it. */
static void append_piece(const struct app *app, struct rich *out, const char *text, size_t n,
                         bool marked, bool base)
{
    bool literal = app->ascii || app->mono; /* marks where neither colour nor underline is sure */
    enum role differs = base ? ROLE_ONLY_DENSE : ROLE_ONLY_SPARSE;
    size_t n_spaces = marked ? strspn(text, " ") : 0;
    if (n_spaces > n)
        n_spaces = n;
    rich_append(out, text, n_spaces, ROLE_TEXT, 0);
    text += n_spaces;
    n -= n_spaces;
    if (marked && literal)
        rich_append_str(out, base ? "{" : "[", differs, 0);
    rich_append(out, text, n, marked ? differs : ROLE_TEXT, marked ? ATTR_UNDERLINE : 0);
    if (marked && literal)
        rich_append_str(out, base ? "}" : "]", differs, 0);
}

/* The answer's tokens, those that differ marked; *glyph_of_token (if not NULL) becomes the first
 * glyph of that token. */
static void append_answer(const struct app *app, const struct report_lane *r,
                          const struct token_diff *d, bool base, struct rich *out, int token,
                          size_t *glyph_of_token)
{
    size_t from = 0, i = 0;
    int run = 0;
    while (i < r->n_tokens) {
        /* As many tokens as look alike make one piece: a filter sees whole words. */
        bool marked = d && in_runs(d, (int)i, base, &run);
        size_t j = i + 1;
        int next = run;
        while (j < r->n_tokens && (d && in_runs(d, (int)j, base, &next)) == marked &&
               (int)j != token)
            j++;
        if (glyph_of_token && (int)i == token)
            *glyph_of_token = out->n;
        size_t end = r->tokens[j - 1].text_end;
        if (r->answer.data && end > from)
            append_piece(app, out, r->answer.data + from, end - from, marked, base);
        from = end;
        i = j;
    }
    if (r->answer.data && r->answer.len > from) /* an unfinished character's replacement */
        rich_append(out, r->answer.data + from, r->answer.len - from, ROLE_TEXT, 0);
}

static void build(const struct app *app, int lane, struct rich *out, int token,
                  size_t *glyph_of_token)
{
    if (app->current_question >= app->n_questions) {
        rich_append_str(out, "Press i and type a question, or paste a context.", ROLE_DIM, 0);
        return;
    }
    const struct question *q = &app->questions[app->current_question];
    char number[16];
    snprintf(number, sizeof number, "Q%d ", app->current_question + 1);
    rich_append_str(out, number, ROLE_TITLE, ATTR_BOLD);
    rich_append_str(out, q->text, ROLE_DIM, 0);
    rich_append_str(out, "\n\n", ROLE_TEXT, 0);

    bool stale = false;
    int at = 0;
    const struct report_lane *r = app_result(app, app->current_question, lane, &stale, &at);
    if (!r) {
        rich_append_str(out, q->report ? "not run with this stack yet: press r" : "press r to ask",
                        ROLE_DIM, 0);
        return;
    }
    /* Dense is marked against the column that is looked at. */
    int against = at;
    bool unused = false;
    if (lane == 0 &&
        !app_result(app, app->current_question, app_figures_lane(app), &unused, &against))
        against = 0;
    const struct token_diff *d = against > 0 ? &q->diffs[against] : NULL;
    append_answer(app, r, d, lane == 0, out, token, glyph_of_token);
    if (!r->done && app->running == app->current_question)
        rich_append_str(out, "▌", role_of_lane(lane), 0);
    if (r->done && r->finish == FINISH_ERROR) {
        rich_append_str(out, "\n✗ ", ROLE_ERROR, 0);
        rich_append_str(out, r->error ? r->error : "failed", ROLE_ERROR, 0);
    } else if (r->done && r->n_tokens == 0) {
        rich_append_str(out, "(no answer)", ROLE_DIM, 0);
    }
}

static struct rect text_area(struct rect column)
{
    return (struct rect){column.x + 1, column.y + TITLE_ROWS, column.w - 2, column.h - TITLE_ROWS};
}

int answers_height(struct rect column)
{
    return column.h > TITLE_ROWS ? column.h - TITLE_ROWS : 0;
}

int answers_lines(const struct app *app, int lane, struct rect column)
{
    struct rich text = {0};
    struct rich_lines lines = {0};
    build(app, lane, &text, -1, NULL);
    rich_wrap(&text, text_area(column).w, &lines);
    int n = (int)lines.n;
    rich_lines_free(&lines);
    rich_free(&text);
    return n;
}

/* Following jumps half a page at a time: a line that scrolls costs a whole pane of bytes. */
static int top_of(const struct scroll *s, int n_lines, int height)
{
    int last = n_lines - height;
    if (last <= 0)
        return 0;
    if (s->manual)
        return s->top < last ? s->top : last;
    int half = height / 2 > 0 ? height / 2 : 1;
    return (last + half - 1) / half * half;
}

int answers_top(const struct app *app, int lane, struct rect column)
{
    return top_of(&app->scroll[lane], answers_lines(app, lane, column), answers_height(column));
}

int answers_line_of_token(const struct app *app, int lane, struct rect column, int token)
{
    struct rich text = {0};
    struct rich_lines lines = {0};
    size_t glyph = 0;
    build(app, lane, &text, token, &glyph);
    if (glyph == 0)
        glyph = text.n;
    rich_wrap(&text, text_area(column).w, &lines);
    int line = (int)rich_line_of(&lines, glyph);
    rich_lines_free(&lines);
    rich_free(&text);
    return line;
}

/* "running", "stop", "length", ... */
static const char *state_of(const struct app *app, const struct report_lane *r)
{
    if (!r)
        return "";
    if (r->done)
        return r->finish == FINISH_STOP ? "✓" : finish_name(r->finish);
    return app->running == app->current_question ? "●" : "partial";
}

static void draw_title(const struct app *app, struct grid *g, struct rect column, int lane)
{
    bool stale = false;
    const struct report_lane *r = app_result(app, app->current_question, lane, &stale, NULL);
    bool current = lane == app->lanes.current;
    char right[64] = "";
    if (r)
        snprintf(right, sizeof right, "%s%4d tok %s t/s %s", stale ? "~" : "",
                 app->shown.n_tokens[lane], format_rate(app_tokens_per_s(r)).text,
                 state_of(app, r));
    int w = grid_text_width(g, right);
    struct rect left = {column.x, column.y, column.w - w - 2, 1};
    int attrs = current ? ATTR_BOLD | ATTR_UNDERLINE : ATTR_BOLD;
    int x = grid_put(g, left, 0, 0, role_of_lane(lane), 0, current ? "▸" : " ");
    if (lane == 0)
        grid_put(g, left, x, 0, role_of_lane(lane), attrs, app->lanes.lane[0].name);
    else
        grid_printf(g, left, x, 0, role_of_lane(lane), attrs, "%c %s", lanes_letter(lane),
                    app->lanes.lane[lane].name);
    grid_put_right(g, column, column.w - 1, 0, stale ? ROLE_DIM : ROLE_TEXT, 0, right);
}

static void draw_column(const struct app *app, struct grid *g, struct rect column, int lane)
{
    draw_title(app, g, column, lane);
    struct rect area = text_area(column);
    struct rich text = {0};
    struct rich_lines lines = {0};
    build(app, lane, &text, -1, NULL);
    rich_wrap(&text, area.w, &lines);
    int top = top_of(&app->scroll[lane], (int)lines.n, area.h);
    for (int i = 0; i < area.h && top + i < (int)lines.n; i++)
        rich_draw_line(g, area, i, &text, lines.lines[top + i]);
    if (app->scroll[lane].manual && top + area.h < (int)lines.n)
        grid_put_right(g, column, column.w - 1, column.h - 1, ROLE_DIM, 0, " more G ");
    rich_lines_free(&lines);
    rich_free(&text);
}

static void draw(const struct app *app, const struct layout *l, struct grid *g)
{
    struct layout_columns c;
    layout_columns(&c, l, app->lanes.n, app->lanes.current, app->zoomed);
    for (int i = 0; i < c.n; i++) {
        draw_column(app, g, c.columns[i], c.lanes[i]);
        if (i + 1 < c.n) {
            struct rect border = {c.columns[i].x + c.columns[i].w, l->body.y, 1, l->body.h};
            grid_vline(g, border, 0, ROLE_DIM);
        }
    }
}

const struct screen screen_answers = {
    .title = "Answers",
    .help = "The answers of all columns to the current question.",
    .draw = draw,
};
