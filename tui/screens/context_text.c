/* Only what is near the cursor is laid out, so that a context of any length costs the same. */
#include "tui/screens/context_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "tui/rich.h"

enum {
    MAX_NUMBER_WIDTH = 8,
    KEYS_PER_CELL = 1, /* a token is about one cell at least */
    MIN_KEYS = 256
};

enum mark { MARK_NONE, MARK_KEPT, MARK_MISSED };

/* Keys [first, last) as one text. */
struct window {
    int first, last;
    struct rich text;
    size_t *glyph; /* [last - first] where a key's text begins */
    struct rich_lines lines;
};

void context_marks_find(struct context_marks *out, const struct evidence *e)
{
    int heaviest[CONTEXT_HEAVY_KEYS];
    *out = (struct context_marks){.missed = xcalloc((size_t)e->n_keys, sizeof *out->missed)};
    out->n_heavy = evidence_heaviest(e, CONTEXT_HEAVY_KEYS, heaviest);
    for (int i = 0; i < out->n_heavy; i++) {
        int key = heaviest[i];
        if (e->head.kept_by[key] || e->head.weight[key] * (float)e->n_keys <= 1)
            continue;
        out->missed[key] = true;
        out->n_missed++;
        out->missed_mass += e->head.weight[key];
    }
}

void context_marks_free(struct context_marks *m)
{
    free(m->missed);
}

static enum mark mark_of(const struct evidence *e, const struct context_marks *m, int key)
{
    return m->missed[key] ? MARK_MISSED : e->head.kept_by[key] ? MARK_KEPT : MARK_NONE;
}

static enum role role_of(enum mark mark)
{
    return mark == MARK_MISSED ? ROLE_MISSED : mark == MARK_KEPT ? ROLE_KEPT : ROLE_TEXT;
}

static void append_bracket(struct rich *text, enum mark mark, bool opens)
{
    if (mark == MARK_KEPT)
        rich_append_str(text, opens ? "«" : "»", ROLE_KEPT, 0);
    else if (mark == MARK_MISSED)
        rich_append_str(text, opens ? "{" : "}", ROLE_MISSED, 0);
}

static const char *key_text(const struct evidence *e, int key, size_t *n)
{
    uint32_t from = key ? e->text_end[key - 1] : 0;
    *n = e->text_end[key] - from;
    return e->text + from;
}

/* The space before a word stays before its mark. */
static void append_key(struct rich *text, const struct evidence *e, int key, enum mark before,
                       enum mark mark, bool cursor)
{
    size_t n, n_spaces = 0;
    const char *s = key_text(e, key, &n);
    if (mark != before) {
        append_bracket(text, before, false);
        while (n_spaces < n && s[n_spaces] == ' ')
            n_spaces++;
        rich_append(text, s, n_spaces, ROLE_TEXT, 0);
        append_bracket(text, mark, true);
    }
    rich_append(text, s + n_spaces, n - n_spaces, cursor ? ROLE_ACCENT : role_of(mark),
                (mark == MARK_MISSED ? ATTR_BOLD : 0) | (cursor ? ATTR_REVERSE : 0));
}

static void window_make(struct window *w, const struct app *app, const struct evidence *e,
                        const struct context_marks *marks, int cursor, struct rect area)
{
    int width = area.w - MAX_NUMBER_WIDTH - 1, reach = KEYS_PER_CELL * area.w * area.h;
    reach = reach < MIN_KEYS ? MIN_KEYS : reach;
    bool only_kept = app->looking.only_kept, skipped = false;
    enum mark before = MARK_NONE;
    if (only_kept) /* most keys are left out */
        reach = e->n_keys;
    *w = (struct window){.first = cursor > reach ? cursor - reach : 0,
                         .last = cursor + reach < e->n_keys ? cursor + reach : e->n_keys};
    w->glyph = xcalloc((size_t)(w->last - w->first) + 1, sizeof *w->glyph);
    for (int key = w->first; key < w->last; key++) {
        enum mark mark = mark_of(e, marks, key);
        w->glyph[key - w->first] = w->text.n;
        if (only_kept && mark == MARK_NONE && key != cursor) {
            if (!skipped) {
                append_bracket(&w->text, before, false);
                rich_append_str(&w->text, " … ", ROLE_DIM, 0);
            }
            before = MARK_NONE;
            skipped = true;
            continue;
        }
        skipped = false;
        append_key(&w->text, e, key, before, mark, key == cursor);
        before = mark;
    }
    append_bracket(&w->text, before, false);
    rich_wrap(&w->text, width > 1 ? width : 1, &w->lines);
}

static void window_free(struct window *w)
{
    rich_lines_free(&w->lines);
    rich_free(&w->text);
    free(w->glyph);
}

/* The first key that begins at a glyph or after it. */
static int key_at(const struct window *w, size_t glyph)
{
    int low = w->first, high = w->last - 1;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (w->glyph[middle - w->first] < glyph)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void context_text_draw(const struct app *app, const struct evidence *e,
                       const struct context_marks *marks, int cursor, struct grid *g,
                       struct rect area)
{
    struct window w;
    if (area.h < 1 || area.w < MAX_NUMBER_WIDTH + 8)
        return;
    window_make(&w, app, e, marks, cursor, area);
    int at = (int)rich_line_of(&w.lines, w.glyph[cursor - w.first]);
    int last = (int)w.lines.n - area.h, top = at - area.h / 2;
    top = top > last ? last : top;
    top = top < 0 ? 0 : top;
    struct rect text = {area.x + MAX_NUMBER_WIDTH + 1, area.y, area.w - MAX_NUMBER_WIDTH - 1,
                        area.h};
    for (int i = 0; i < area.h && top + i < (int)w.lines.n; i++) {
        char number[32];
        snprintf(number, sizeof number, "%d", key_at(&w, w.lines.lines[top + i].first));
        grid_put_right(g, area, MAX_NUMBER_WIDTH, i, ROLE_DIM, 0, number);
        rich_draw_line(g, text, i, &w.text, w.lines.lines[top + i]);
    }
    window_free(&w);
}

int context_text_move(const struct app *app, const struct evidence *e, int cursor, int by,
                      struct rect area)
{
    struct window w;
    struct context_marks marks;
    context_marks_find(&marks, e);
    window_make(&w, app, e, &marks, cursor, area);
    size_t glyph = w.glyph[cursor - w.first];
    int line = (int)rich_line_of(&w.lines, glyph), to = line + by, n = (int)w.lines.n;
    to = to < 0 ? 0 : to >= n ? n - 1 : to;
    size_t along = glyph - w.lines.lines[line].first, length = w.lines.lines[to].n;
    int key = key_at(&w, w.lines.lines[to].first + (along < length ? along : length));
    window_free(&w);
    context_marks_free(&marks);
    return key == cursor && to != line ? cursor + (by > 0) - (by < 0) : key;
}
