/* Where the current column first leaves the dense answer, and why that may be; n and N go through
 * all differences. */
#include <stdio.h>
#include <string.h>

#include "tui/format.h"
#include "tui/panes.h"

struct place {
    const struct report_lane *dense, *lane;
    const struct token_diff *diff;
    int at; /* report's lane */
};

static bool find_place(const struct app *app, struct place *p)
{
    bool stale = false;
    *p = (struct place){0};
    int lane = app_figures_lane(app);
    if (lane == 0)
        return false;
    p->lane = app_result(app, app->current_question, lane, &stale, &p->at);
    p->dense = app_result(app, app->current_question, 0, &stale, NULL);
    if (!p->lane || !p->dense || p->at == 0)
        return false;
    p->diff = &app->questions[app->current_question].diffs[p->at];
    return true;
}

/* Text of tokens [from, from + n) of an answer, quoted, cut to a few words. */
static void write_tokens(const struct report_lane *r, int from, int n, struct buf *out)
{
    enum { MAX_BYTES = 48 };
    size_t n_tokens = r->n_tokens;
    size_t start = from <= 0                  ? 0
                   : (size_t)from <= n_tokens ? r->tokens[from - 1].text_end
                                              : r->answer.len;
    size_t end = n <= 0                           ? start
                 : (size_t)(from + n) <= n_tokens ? r->tokens[from + n - 1].text_end
                                                  : r->answer.len;
    if (n <= 0) {
        buf_append_str(out, "(nothing)");
        return;
    }
    buf_append_char(out, '"');
    if (end > start && r->answer.data)
        buf_append(out, r->answer.data + start, end - start > MAX_BYTES ? MAX_BYTES : end - start);
    buf_append_str(out, end - start > MAX_BYTES ? "…\"" : "\"");
}

static void write_side(struct buf *out, const char *name, const char *text, double prob)
{
    if (text)
        buf_printf(out, "%s \"%s\" p%.2f", name, text, prob);
    else
        buf_printf(out, "%s (end)", name);
}

/* Of the first difference the engine knows the probabilities and the margin. */
static void write_first(const struct divergence *d, char letter, struct buf *out)
{
    char name[2] = {letter, '\0'};
    buf_printf(out, "≠ #%d  ", d->index);
    write_side(out, "dense", d->base_text, d->base_prob);
    buf_append_str(out, " → ");
    write_side(out, name, d->lane_text, d->lane_prob);
    buf_printf(out, "  Δlogit %s%.2f", d->margin_is_bound ? "≥" : "", d->margin);
    if (d->near_tie)
        buf_append_str(out, "  near-tie");
}

static void write_later(const struct place *p, int index, char letter, struct buf *out)
{
    const struct diff_run *run = &p->diff->runs[index];
    buf_printf(out, "≠ #%d  dense ", run->base);
    write_tokens(p->dense, run->base, run->n_base, out);
    buf_printf(out, " → %c ", letter);
    write_tokens(p->lane, run->lane, run->n_lane, out);
}

static void draw_detail(struct grid *g, struct rect area, const struct place *p,
                        const struct divergence *d)
{
    struct buf text = {0};
    int n_before = d->index < 6 ? d->index : 6;
    if (n_before > 0) {
        buf_append_str(&text, "after ");
        write_tokens(p->dense, d->index - n_before, n_before, &text);
        buf_append_str(&text, "   ");
    }
    if (d->near_tie)
        buf_append_str(&text, "margin below 0.1: rounding alone could flip it.   ");
    const struct lane_metrics *m = &p->lane->metrics;
    int worst = -1;
    for (int i = 0; m->layers && i < m->n_layers; i++)
        if (m->layers[i].n_rows > 0 &&
            (worst < 0 || m->layers[i].output_error > m->layers[worst].output_error))
            worst = i;
    if (worst >= 0)
        buf_printf(&text, "largest output error: L%d %.3f", m->layers[worst].layer,
                   m->layers[worst].output_error);
    grid_put(g, area, 1, 2, ROLE_DIM, 0, text.data ? text.data : "");
    buf_free(&text);
}

void divergence_draw(const struct app *app, struct grid *g, struct rect area)
{
    struct place p;
    bool found = find_place(app, &p);
    int lane = app_figures_lane(app), line = 0;
    int n = found ? p.diff->n : 0;
    int index = n > 0 && app->diff_index < n ? app->diff_index : 0;
    if (area.h > 1) {
        grid_hline(g, area, 0, ROLE_DIM);
        if (n > 0)
            grid_printf(g, area, 1, 0, ROLE_DIM, 0, " Divergence %c %d/%d ", lanes_letter(lane),
                        index + 1, n);
        else
            grid_put(g, area, 1, 0, ROLE_DIM, 0, " Divergence ");
        grid_put_right(g, area, area.w - 1, 0, ROLE_DIM, 0, " n/N next/prev ");
        line = 1;
    }
    enum role notice_role;
    const char *notice = app_notice(app, area.w - 2, &notice_role);
    if (notice && area.h == 1) { /* no rule of its own on small windows */
        grid_put(g, area, 1, line, notice_role, 0, notice);
        return;
    }
    struct buf text = {0};
    enum role role = ROLE_TEXT;
    const struct divergence *d = found ? &p.lane->metrics.divergence : NULL;
    if (n > 0 && index == 0 && d->index >= 0) {
        write_first(d, lanes_letter(lane), &text);
        role = d->near_tie ? ROLE_WARN : ROLE_TEXT;
    } else if (n > 0) {
        write_later(&p, index, lanes_letter(lane), &text);
    } else if (found && p.lane->n_tokens > 0 && p.dense->n_tokens > 0) {
        bool over = p.lane->done && p.dense->done;
        buf_printf(&text,
                   over ? "= %c gives the same %zu tokens as dense" : "= no difference so far",
                   lanes_letter(lane), p.lane->n_tokens);
        role = ROLE_OK;
    } else {
        buf_append_str(&text, "no answers to compare yet");
        role = ROLE_DIM;
    }
    grid_put(g, area, 1, line, role, 0, text.data);
    if (n > 0 && area.h == 1) {
        char count[40];
        snprintf(count, sizeof count, "  %d/%d n/N", index + 1, n);
        grid_put_right(g, area, area.w - 1, line, ROLE_DIM, 0, count);
    }
    if (area.h > 2 && n > 0 && index == 0 && d->index >= 0)
        draw_detail(g, area, &p, d);
    buf_free(&text);
}
