/* The keys of one head in one step: a map of all of them, and a window of their text with what was
 * kept, by which masker, and which heavy keys were missed. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "tui/format.h"
#include "tui/panes.h"
#include "tui/screens/context_text.h"

static const char RAMP[ROLE_N_HEAT + 1] = " .:-=+*#%@";

struct view {
    const struct app *app;
    const struct evidence *e;
    struct context_marks marks;
    int lane, cursor;
};

/* --- Which masker
 * --------------------------------------------------------------------------------- */

/* The stack that the evidence is of: the run's, not the one that is edited since. */
static const struct stack *stack_of(const struct view *v)
{
    struct evidence_id id;
    const struct question *q = &v->app->questions[v->app->current_question];
    return app_evidence_id(v->app, v->lane, &id) ? &q->report->request->lanes[id.lane].stack : NULL;
}

static const char *masker_of(const struct view *v, int kept_by)
{
    const struct stack *s = stack_of(v);
    if (kept_by == EVIDENCE_KEPT_DENSELY)
        return "dense attention";
    struct stack_list list = stack_list_at(s, stack_list_of_layer(s, v->e->head.layer));
    return kept_by - 1 < list.n ? s->items[list.first + kept_by - 1].masker->name : "?";
}

/* --- Rows
 * ------------------------------------------------------------------------------------------ */

static void draw_title(const struct view *v, struct grid *g, struct rect area, int step)
{
    const struct head_evidence *head = &v->e->head;
    int x = evidence_title_draw(v->app, g, area, v->lane, step);
    x = grid_printf(g, area, x, 0, ROLE_TITLE, 0, "  L%02d H%02d", head->layer, head->head);
    x = grid_printf(g, area, x, 0, ROLE_TEXT, 0, "  kept %s/%s",
                    format_count((uint64_t)head->n_kept).text,
                    format_count((uint64_t)v->e->n_keys).text);
    grid_printf(g, area, x, 0, v->marks.n_missed ? ROLE_MISSED : ROLE_OK, 0,
                "  missed %d (mass %.3f)", v->marks.n_missed, v->marks.missed_mass);
}

/* Each cell is the heaviest of its keys, on a logarithmic scale; what is missed there shows before
 * what is kept. */
static void draw_minimap(const struct view *v, struct grid *g, struct rect area)
{
    int n = v->e->n_keys, width = area.w - 2;
    for (int x = 0; x < width; x++) {
        int from = (int)((int64_t)x * n / width), to = (int)((int64_t)(x + 1) * n / width);
        float most = 0;
        bool kept = false, missed = false;
        for (int j = from; j < (to > from ? to : from + 1) && j < n; j++) {
            most = v->e->head.weight[j] > most ? v->e->head.weight[j] : most;
            kept |= v->e->head.kept_by[j] != 0;
            missed |= v->marks.missed[j];
        }
        float level = most > 0 ? (log10f(most) + 5) / 5 * ROLE_N_HEAT : 0;
        int step = level < 0 ? 0 : level >= ROLE_N_HEAT ? ROLE_N_HEAT - 1 : (int)level;
        char text[2] = {RAMP[step] == ' ' && kept ? '.' : RAMP[step], '\0'};
        grid_put(g, area, 1 + x, 0,
                 missed ? ROLE_MISSED
                 : kept ? ROLE_KEPT
                        : ROLE_DIM,
                 missed ? ATTR_UNDERLINE : 0, text);
    }
    int at = (int)((int64_t)v->cursor * width / n);
    grid_put(g, area, 1 + at, 1, ROLE_TITLE, ATTR_BOLD, "▴");
    grid_put(g, area, at > 4 ? 1 : 4, 1, ROLE_DIM, 0, at > 4 ? "0" : "");
    struct figure last = format_count((uint64_t)n - 1);
    if (at < width - (int)strlen(last.text) - 2)
        grid_put_right(g, area, area.w - 1, 1, ROLE_DIM, 0, last.text);
}

static void draw_cursor(const struct view *v, struct grid *g, struct rect area, int y)
{
    const struct head_evidence *head = &v->e->head;
    int key = v->cursor, rank = evidence_rank(v->e, key);
    uint32_t from = key ? v->e->text_end[key - 1] : 0, to = v->e->text_end[key];
    struct buf text = {0};
    buf_append(&text, v->e->text + from, to - from);
    int x = grid_printf(g, area, 1, y, ROLE_TEXT, 0, "%s \"%s\"", format_count((uint64_t)key).text,
                        text.data ? text.data : "");
    x = grid_printf(g, area, x, y, ROLE_TEXT, 0, "  weight %.4f rank %d  ",
                    (double)head->weight[key], rank + 1);
    if (head->kept_by[key])
        x = grid_printf(g, area, x, y, ROLE_KEPT, 0, "kept by %s",
                        masker_of(v, head->kept_by[key]));
    else
        x = grid_put(g, area, x, y, v->marks.missed[key] ? ROLE_MISSED : ROLE_DIM, 0,
                     v->marks.missed[key] ? "MISSED" : "not kept");
    if (head->kept_by[key] && head->prob[key] < 1)
        x = grid_printf(g, area, x, y, ROLE_KEPT, 0, " (p %.3f)", (double)head->prob[key]);
    grid_printf(g, area, x, y, ROLE_DIM, 0, "  in %d/%d heads", head->n_heads[key], v->e->n_heads);
    buf_free(&text);
}

static void draw_legend(const struct view *v, struct grid *g, struct rect area, int y)
{
    int x = grid_put(g, area, 1, y, ROLE_KEPT, 0, "«kept»");
    x = grid_put(g, area, x + 1, y, ROLE_MISSED, 0, "{missed}");
    grid_printf(g, area, x + 1, y, ROLE_DIM, 0,
                "n N missed  f %s  / search  # go to  J K layer  < > head  , . step",
                v->app->looking.only_kept ? "all" : "only kept");
}

static void draw(const struct app *app, const struct layout *l, struct grid *g)
{
    struct view v = {.app = app, .lane = app_figures_lane(app)};
    struct evidence_id id;
    v.e = app_evidence(app, v.lane, false);
    if (!v.e || !app_evidence_id(app, v.lane, &id)) {
        evidence_nothing_draw(app, g, l->body);
        return;
    }
    context_marks_find(&v.marks, v.e);
    v.cursor = app_looked_key(app, v.e);
    struct rect area = l->body, text = l->body;
    draw_title(&v, g, area, id.step);
    struct rect map = {area.x, area.y + 1, area.w, 2};
    draw_minimap(&v, g, map);
    text.y += 3;
    text.h -= 5;
    context_text_draw(app, v.e, &v.marks, v.cursor, g, text);
    draw_cursor(&v, g, area, area.h - 2);
    draw_legend(&v, g, area, area.h - 1);
    context_marks_free(&v.marks);
}

const struct screen screen_context = {
    .title = "Context",
    .help = "The keys of one head: kept, and heavy ones that were missed.",
    .draw = draw,
};
