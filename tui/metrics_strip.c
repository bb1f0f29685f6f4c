/* The figures of the current sparse column against dense: fixed places and widths, so that nothing
 * jumps while they change; a dash stands for what is not known. */
#include <stdio.h>
#include <string.h>

#include "tui/format.h"
#include "tui/panes.h"

enum { MANY_KEYS = 1000 }; /* from here the context is about all that an answer sees */

struct strip {
    struct grid *g;
    struct rect area;
    int x, y;
    bool stale;
};

/* One label and its value, if both fit on the line. */
static void put(struct strip *s, enum role label_role, const char *label, const char *value,
                const char *unit)
{
    int w = grid_text_width(s->g, label) + grid_text_width(s->g, value) +
            grid_text_width(s->g, unit) + 3;
    if (s->x + w > s->area.w)
        return;
    enum role role = s->stale ? ROLE_DIM : ROLE_TEXT;
    int x = grid_put(s->g, s->area, s->x, s->y, s->stale ? ROLE_DIM : label_role, 0, label);
    x = grid_put(s->g, s->area, x + 1, s->y, role, s->stale ? 0 : ATTR_BOLD, value);
    x = grid_put(s->g, s->area, x, s->y, ROLE_DIM, 0, unit);
    s->x = x + 2;
}

static void put_rate(struct strip *s, const struct app *app, int lane)
{
    bool stale = false;
    const struct report_lane *r = app_result(app, app->current_question, lane, &stale, NULL);
    char label[16];
    if (lane == 0)
        snprintf(label, sizeof label, "DENSE");
    else
        snprintf(label, sizeof label, "%c SPARSE", lanes_letter(lane));
    s->stale = stale;
    put(s, role_of_lane(lane), label, format_rate(app_tokens_per_s(r)).text, " t/s");
}

/* few_tokens: measured over so short an answer that chance may rule. */
static void put_speedups(struct strip *s, const struct lane_metrics *m, bool few_tokens)
{
    struct figure step = format_factor(m ? m->speedup_step : 0);
    struct figure attention = format_factor(m ? m->speedup_attention : 0);
    struct figure answer = format_factor(m ? m->speedup_answer : 0);
    if (m && m->reads_all_keys) {
        static const char sim[] = "SIM reads all keys: no speed-up ";
        s->x = grid_put(s->g, s->area, s->x, s->y, ROLE_WARN, 0, sim);
        s->x += 2;
        return;
    }
    int x = s->x;
    bool dim = s->stale || few_tokens;
    const struct {
        const char *value, *unit;
    } parts[] = {{step.text, " step "}, {attention.text, " attn "}, {answer.text, " answer"}};
    for (int i = 0; i < 3; i++) {
        x = grid_put(s->g, s->area, x, s->y, dim ? ROLE_DIM : ROLE_TEXT, dim ? 0 : ATTR_BOLD,
                     parts[i].value);
        x = grid_put(s->g, s->area, x, s->y, ROLE_DIM, 0, parts[i].unit);
    }
    if (few_tokens && x + 12 <= s->area.w)
        x = grid_put(s->g, s->area, x + 1, s->y, ROLE_WARN, 0, "few tokens");
    s->x = x + 2;
}

static void put_quality(struct strip *s, const struct app *app, const struct lane_metrics *m)
{
    char text[64];
    put(s, ROLE_TEXT, "sparsity", format_share(m ? 1 - m->density : -1).text, "");
    snprintf(text, sizeof text, " of %s", format_count((uint64_t)app_n_keys(app)).text);
    put(s, ROLE_TEXT, "kept", format_share(m ? m->density : -1).text,
        app_n_keys(app) >= MANY_KEYS ? text : "");
    text[0] = '\0';
    if (m && m->recall_worst >= 0)
        snprintf(text, sizeof text, " min %s L%dH%d", format_ratio(m->recall_worst).text,
                 m->recall_worst_layer, m->recall_worst_head);
    put(s, ROLE_TEXT, "recall", format_ratio(m ? m->recall_mean : -1).text, text);
}

static void put_more(struct strip *s, const struct app *app, const struct lane_metrics *m)
{
    char text[64];
    if (app->forced) {
        put(s, ROLE_TEXT, "agreement", format_ratio(m ? m->agreement : -1).text, "");
        put(s, ROLE_TEXT, "KL", format_ratio(m ? m->mean_kl : -1).text, "");
    }
    if (m && m->kv_bytes_per_step_dense > 0) {
        snprintf(text, sizeof text, "/%s", format_bytes((double)m->kv_bytes_per_step_dense).text);
        put(s, ROLE_TEXT, "KV/step", format_bytes((double)m->kv_bytes_per_step).text, text);
    }
    if (m && m->ttft_ms > 0) {
        snprintf(text, sizeof text, "%.0f", m->ttft_ms);
        put(s, ROLE_TEXT, "TTFT", text, " ms");
    }
    if (m && m->index_build_ms > 0) {
        snprintf(text, sizeof text, "%.1f", m->index_build_ms);
        put(s, ROLE_TEXT, "index", text, " ms");
    }
}

void metrics_strip_draw(const struct app *app, struct grid *g, struct rect area)
{
    int lane = app_figures_lane(app);
    bool stale = false;
    const struct report_lane *r =
        lane > 0 ? app_result(app, app->current_question, lane, &stale, NULL) : NULL;
    const struct lane_metrics *m = r && r->n_tokens > 0 ? &r->metrics : NULL;
    struct strip s = {.g = g, .area = area, .x = 1};
    put_rate(&s, app, 0);
    if (lane > 0)
        put_rate(&s, app, lane);
    const struct report_lane *dense = app_result(app, app->current_question, 0, &s.stale, NULL);
    s.stale = stale;
    put_speedups(&s, m,
                 m && dense && dense->done && r->done &&
                     (r->n_tokens < APP_FEW_TOKENS || dense->n_tokens < APP_FEW_TOKENS));
    if (area.h < 2)
        return;
    if (area.w >= 100)
        put(&s, ROLE_TEXT, "Jaccard", format_ratio(m ? m->jaccard : -1).text, "");
    put_more(&s, app, m);
    s.x = 1;
    s.y = 1;
    put_quality(&s, app, m);
    if (area.w < 100)
        put(&s, ROLE_TEXT, "J", format_ratio(m ? m->jaccard : -1).text, "");
}
