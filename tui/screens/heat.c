/* A map of one step: layers down, heads across, a figure in each cell; the cursor's head in exact
 * numbers beside it. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tui/format.h"
#include "tui/panes.h"

enum { LABEL_WIDTH = 4, MAX_CELL_WIDTH = 3, DETAIL_WIDTH = 34, MIN_MAP_WIDTH = 24 };

static const char RAMP[ROLE_N_HEAT + 1] = " .:-=+*#%@";

/* The scale of a figure unless it is taken from the values. */
static const struct {
    float low, high;
} fixed_scale[EVIDENCE_N_FIGURES] = {
    [EVIDENCE_RECALL] = {0.5f, 1},
    [EVIDENCE_DENSITY] = {0, 0.25f},
    [EVIDENCE_ERROR] = {0, 0.5f},
    [EVIDENCE_AGREEMENT] = {0, 1},
};

struct map {
    const struct app *app;
    const struct evidence *e, *other; /* other: subtracted; NULL: no difference */
    enum evidence_figure figure;
    float low, high;
};

static float value_at(const struct map *m, int layer, int head)
{
    int i = layer * m->e->n_heads + head;
    return m->e->figures[m->figure][i] - (m->other ? m->other->figures[m->figure][i] : 0);
}

static void find_scale(struct map *m)
{
    float low = fixed_scale[m->figure].low, high = fixed_scale[m->figure].high;
    m->low = m->other ? low - high : low;
    m->high = m->other ? high - low : high;
    if (!m->app->looking.auto_scale)
        return;
    m->low = INFINITY;
    m->high = -INFINITY;
    for (int layer = 0; layer < m->e->n_layers; layer++)
        for (int head = 0; head < m->e->n_heads; head++) {
            float v = value_at(m, layer, head);
            m->low = v < m->low ? v : m->low;
            m->high = v > m->high ? v : m->high;
        }
    if (m->high <= m->low)
        m->high = m->low + 1e-6f;
}

static int step_of(const struct map *m, float value)
{
    float x = (value - m->low) / (m->high - m->low) * ROLE_N_HEAT;
    return x < 0 ? 0 : x >= ROLE_N_HEAT ? ROLE_N_HEAT - 1 : (int)x;
}

/* --- The map ---------------------------------------------------------------------------------- */

static int cell_width(const struct map *m, int width)
{
    int w = (width - LABEL_WIDTH) / m->e->n_heads;
    return w < 1 ? 1 : w > MAX_CELL_WIDTH ? MAX_CELL_WIDTH : w;
}

/* The first of n_shown of n rows or columns, so that the cursor is among them. */
static int first_shown(int cursor, int n_shown, int n)
{
    int first = cursor - n_shown / 2, last = n - n_shown;
    return first > last ? (last < 0 ? 0 : last) : first < 0 ? 0 : first;
}

static void draw_cell(const struct map *m, struct grid *g, struct rect area, int x, int y, int w,
                      int layer, int head)
{
    const struct looking *look = &m->app->looking;
    bool here = layer == look->layer && head == look->head;
    int step = step_of(m, value_at(m, layer, head));
    char text[MAX_CELL_WIDTH + 1] = {0};
    for (int i = 0; i < w; i++)
        text[i] = i + 1 < w || w == 1 ? RAMP[step] : ' ';
    grid_put(g, area, x, y, here ? ROLE_ACCENT : (enum role)(ROLE_HEAT + step), 0, text);
    if (here && (m->app->ascii || m->app->mono))
        grid_put(g, area, x, y, ROLE_TITLE, ATTR_REVERSE, w > 1 ? ">" : "X");
}

static void draw_heads(struct grid *g, struct rect area, int first, int n, int w)
{
    for (int head = first; head < first + n; head++)
        if ((head - first) * w % (w == 1 ? 10 : w * 2) == 0) {
            char text[16];
            snprintf(text, sizeof text, w == 1 ? "H%d" : "%d", head);
            grid_put(g, area, LABEL_WIDTH + (head - first) * w, 0, ROLE_DIM, 0, text);
        }
}

static void draw_map(const struct map *m, struct grid *g, struct rect area)
{
    const struct looking *look = &m->app->looking;
    int w = cell_width(m, area.w), n_rows = area.h - 1;
    int n_columns = (area.w - LABEL_WIDTH) / w;
    n_columns = n_columns < m->e->n_heads ? n_columns : m->e->n_heads;
    n_rows = n_rows < m->e->n_layers ? n_rows : m->e->n_layers;
    int top = first_shown(look->layer, n_rows, m->e->n_layers);
    int left = first_shown(look->head, n_columns, m->e->n_heads);
    draw_heads(g, area, left, n_columns, w);
    for (int i = 0; i < n_rows; i++) {
        int layer = top + i;
        grid_printf(g, area, 0, 1 + i, layer == look->layer ? ROLE_TITLE : ROLE_DIM, 0, "L%02d",
                    layer);
        for (int j = 0; j < n_columns; j++)
            draw_cell(m, g, area, LABEL_WIDTH + j * w, 1 + i, w, layer, left + j);
    }
    if (n_rows < m->e->n_layers || n_columns < m->e->n_heads)
        grid_put_right(g, area, area.w - 1, 0, ROLE_DIM, 0, " more: arrows ");
}

/* --- Numbers ---------------------------------------------------------------------------------- */

static void write_value(struct buf *out, enum evidence_figure figure, float v, bool difference)
{
    if (figure == EVIDENCE_DENSITY)
        buf_printf(out, difference ? "%+.2f%%" : "%.2f%%", 100 * (double)v);
    else
        buf_printf(out, difference ? "%+.3f" : "%.3f", (double)v);
}

/* Lower is worse, but for errors. */
static bool is_worse(enum evidence_figure figure, float a, float b)
{
    return figure == EVIDENCE_ERROR ? a > b : a < b;
}

static void find_worst(const struct map *m, int *layer, int *head)
{
    *layer = *head = 0;
    for (int l = 0; l < m->e->n_layers; l++)
        for (int h = 0; h < m->e->n_heads; h++)
            if (is_worse(m->figure, value_at(m, l, h), value_at(m, *layer, *head))) {
                *layer = l;
                *head = h;
            }
}

static int draw_scale(const struct map *m, struct grid *g, struct rect area, int y)
{
    struct buf low = {0}, high = {0};
    write_value(&low, m->figure, m->low, m->other);
    write_value(&high, m->figure, m->high, m->other);
    int x = grid_printf(g, area, 0, y, ROLE_DIM, 0, "scale %s ", low.data);
    for (int i = 0; i < ROLE_N_HEAT; i++) {
        char text[2] = {RAMP[i], '\0'};
        x = grid_put(g, area, x, y, (enum role)(ROLE_HEAT + i), 0, text);
    }
    grid_printf(g, area, x, y, ROLE_DIM, 0, " %s", high.data);
    buf_free(&low);
    buf_free(&high);
    return y + 1;
}

static void draw_detail(const struct map *m, struct grid *g, struct rect area)
{
    const struct looking *look = &m->app->looking;
    int worst_layer, worst_head, y = 0, i = look->layer * m->e->n_heads + look->head;
    find_worst(m, &worst_layer, &worst_head);
    grid_printf(g, area, 0, y++, ROLE_TITLE, ATTR_BOLD, "▸ L%02d H%02d", look->layer, look->head);
    for (int f = 0; f < EVIDENCE_N_FIGURES; f++, y++) {
        struct buf text = {0};
        bool current = f == (int)m->figure;
        write_value(&text, (enum evidence_figure)f, m->e->figures[f][i], false);
        if (m->other) {
            buf_append_str(&text, "  ");
            write_value(&text, (enum evidence_figure)f,
                        m->e->figures[f][i] - m->other->figures[f][i], true);
        }
        grid_printf(g, area, 1, y, current ? ROLE_TITLE : ROLE_DIM, 0, "%-10s",
                    evidence_figure_name((enum evidence_figure)f));
        grid_put(g, area, 12, y, ROLE_TEXT, current ? ATTR_BOLD : 0, text.data);
        buf_free(&text);
    }
    struct buf worst = {0};
    write_value(&worst, m->figure, value_at(m, worst_layer, worst_head), m->other);
    grid_printf(g, area, 1, y++, ROLE_TEXT, 0, "worst %s  L%02d H%02d  (w)", worst.data,
                worst_layer, worst_head);
    buf_free(&worst);
    y = draw_scale(m, g, area, y + (area.h > 12));
    grid_put(g, area, 0, y++, ROLE_DIM, 0,
             look->auto_scale ? "from the values (A: fixed)" : "fixed (A: from the values)");
    y += area.h > 12;
    grid_put(g, area, 0, y++, ROLE_DIM, 0, "m figure   - difference");
    grid_put(g, area, 0, y++, ROLE_DIM, 0, ", . step   [ ] column");
    grid_put(g, area, 0, y, ROLE_DIM, 0, "Enter shows the head's keys");
}

/* --- The screen ---------------------------------------------------------------------------------
 */

/* Tokens are quoted in full: the longest are some tens of bytes. */
int evidence_title_draw(const struct app *app, struct grid *g, struct rect area, int lane, int step)
{
    bool stale = false;
    const struct report_lane *r = app_result(app, app->current_question, lane, &stale, NULL);
    const char *name = app->lanes.lane[lane].name;
    int x = grid_printf(g, area, 1, 0, role_of_lane(lane), ATTR_BOLD, "%c", lanes_letter(lane));
    if (area.w >= 100)
        x = grid_printf(g, area, x, 0, role_of_lane(lane), ATTR_BOLD, " %.20s%s", name,
                        strlen(name) > 20 ? "…" : "");
    x = grid_printf(g, area, x, 0, ROLE_TEXT, 0, "  step %d/%d", step, (int)r->n_tokens - 1);
    size_t from = step ? r->tokens[step - 1].text_end : 0, to = r->tokens[step].text_end;
    if (to > from) {
        x = grid_put(g, area, x, 0, ROLE_DIM, 0, " → \"");
        x = grid_put_n(g, area, x, 0, ROLE_TEXT, 0, r->answer.data + from, to - from);
        x = grid_put(g, area, x, 0, ROLE_DIM, 0, "\"");
    }
    return x;
}

static void draw_title(const struct map *m, struct grid *g, struct rect area, int lane, int step)
{
    int x = evidence_title_draw(m->app, g, area, lane, step);
    x = grid_printf(g, area, x, 0, ROLE_TITLE, 0, "  %s", evidence_figure_name(m->figure));
    if (m->other)
        grid_printf(g, area, x, 0, ROLE_TEXT, 0, " less %c's",
                    lanes_letter(app_difference_lane(m->app)));
}

void evidence_nothing_draw(const struct app *app, struct grid *g, struct rect area)
{
    const struct looking *look = &app->looking;
    struct evidence_id id;
    const char *text = "run the question (r): then each step of its answer can be looked at";
    if (app->running >= 0)
        text = "each step of the answer can be looked at when it is done";
    else if (app_evidence_id(app, app_figures_lane(app), &id))
        text = look->why && evidence_id_equal(&look->failed, &id) ? look->why
                                                                  : "computing the step again…";
    grid_put(g, area, 1, 1, ROLE_DIM, 0, text);
}

/* False: its evidence is not there. */
static bool make_map(const struct app *app, struct map *m)
{
    int other = app->looking.difference ? app_difference_lane(app) : -1;
    *m = (struct map){.app = app, .figure = app->looking.figure};
    m->e = app_evidence(app, app_figures_lane(app), true);
    if (!m->e)
        return false;
    m->other = other >= 0 ? app_evidence(app, other, true) : NULL;
    if (m->other && (m->other->n_layers != m->e->n_layers || m->other->n_heads != m->e->n_heads))
        m->other = NULL;
    find_scale(m);
    return true;
}

static void draw(const struct app *app, const struct layout *l, struct grid *g)
{
    struct evidence_id id;
    struct map m;
    int lane = app_figures_lane(app);
    if (!make_map(app, &m) || !app_evidence_id(app, lane, &id)) {
        evidence_nothing_draw(app, g, l->body);
        return;
    }
    struct rect title = l->body, map = l->body, detail = l->body;
    title.h = 1;
    map.y = detail.y = l->body.y + 1;
    map.h = detail.h = l->body.h - 1;
    bool beside = l->body.w >= DETAIL_WIDTH + MIN_MAP_WIDTH;
    if (beside) {
        map.w = l->body.w - DETAIL_WIDTH;
        detail.x = map.x + map.w;
        detail.w = DETAIL_WIDTH;
    }
    draw_title(&m, g, title, lane, id.step);
    map.x++;
    map.w--;
    draw_map(&m, g, map);
    if (beside)
        draw_detail(&m, g, detail);
}

const struct screen screen_heat = {
    .title = "Heat",
    .help = "What each head of each layer kept and missed in one step.",
    .draw = draw,
};

/* --- For the actions
 * ------------------------------------------------------------------------------ */

void heat_find_worst(const struct app *app, int *layer, int *head)
{
    struct map m;
    if (make_map(app, &m))
        find_worst(&m, layer, head);
}
