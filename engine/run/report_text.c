/* The comparison as people read it, in plain lines.  All outside text passes the screen filter. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/base/utf8.h"
#include "engine/run/report.h"
#include "engine/text/screen_text.h"

enum { MIN_WIDTH = 40, MIN_NAME = 12, CELL_MAX = 16 };

struct text_report {
    const struct report *r;
    struct buf *out;
    int width;
    bool ascii;
    bool any_oracle; /* a speed-up was marked: the mark wants its note */
};

/* --- Cells -------------------------------------------------------------------------------- */

/* One column of the table: a fixed width, and what a lane shows there. */
struct column {
    const char *title;
    int width;
    void (*write)(const struct report_lane *lane, char cell[CELL_MAX]);
};

static void write_share(char cell[CELL_MAX], double ratio)
{
    if (ratio < 0)
        snprintf(cell, CELL_MAX, "-");
    else
        snprintf(cell, CELL_MAX, "%.1f%%", 100 * ratio);
}

static void write_factor(char cell[CELL_MAX], double x, bool marked)
{
    if (x <= 0)
        snprintf(cell, CELL_MAX, "-");
    else
        snprintf(cell, CELL_MAX, "%.2fx%s", x, marked ? "*" : "");
}

static void cell_density(const struct report_lane *lane, char cell[CELL_MAX])
{
    write_share(cell, lane->metrics.density);
}

static void cell_read(const struct report_lane *lane, char cell[CELL_MAX])
{
    write_share(cell, lane->metrics.read_density);
}

static void cell_attention(const struct report_lane *lane, char cell[CELL_MAX])
{
    write_factor(cell, lane->metrics.speedup_attention, lane->metrics.reads_all_keys);
}

static void cell_step(const struct report_lane *lane, char cell[CELL_MAX])
{
    write_factor(cell, lane->metrics.speedup_step, lane->metrics.reads_all_keys);
}

static void cell_answer(const struct report_lane *lane, char cell[CELL_MAX])
{
    write_factor(cell, lane->metrics.speedup_answer, lane->metrics.reads_all_keys);
}

static void cell_jaccard(const struct report_lane *lane, char cell[CELL_MAX])
{
    if (lane->metrics.jaccard < 0)
        snprintf(cell, CELL_MAX, "-");
    else
        snprintf(cell, CELL_MAX, "%.2f", lane->metrics.jaccard);
}

static void cell_tokens(const struct report_lane *lane, char cell[CELL_MAX])
{
    snprintf(cell, CELL_MAX, "%zu", lane->n_tokens);
}

static void cell_finish(const struct report_lane *lane, char cell[CELL_MAX])
{
    snprintf(cell, CELL_MAX, "%s", lane->done ? finish_name(lane->finish) : "-");
}

/* In order of importance: what does not fit the width is left out from the right. */
static const struct column columns[] = {
    {"density", 9, cell_density}, {"attention", 10, cell_attention}, {"step", 8, cell_step},
    {"answer", 8, cell_answer},   {"Jaccard", 8, cell_jaccard},      {"tokens", 7, cell_tokens},
    {"finish", 10, cell_finish},  {"rows read", 10, cell_read},
};
enum { N_COLUMNS = sizeof columns / sizeof columns[0] };

/* --- Text --------------------------------------------------------------------------------- */

static int code_width(const char *s, size_t n, int *n_bytes)
{
    uint32_t code_point;
    int n_bad, len = utf8_decode(s, n, &code_point, &n_bad);
    *n_bytes = len > 0 ? len : 1;
    return len > 0 ? screen_text_width(code_point) : 1;
}

static int text_columns(const char *s)
{
    int sum = 0, len;
    for (size_t n = strlen(s); n; s += len, n -= (size_t)len)
        sum += code_width(s, n, &len);
    return sum;
}

/* Outside text on one line; the caller frees. */
static char *filtered(const struct text_report *t, const char *s, size_t n)
{
    struct buf out = {0};
    screen_text_filter(&out, s, n, SCREEN_TEXT_LINE | (t->ascii ? SCREEN_TEXT_ASCII : 0));
    return buf_take(&out);
}

/* Filtered and cut to the given columns. */
static char *filtered_name(const struct text_report *t, const char *name, int n_columns)
{
    char *text = filtered(t, name, strlen(name));
    if (text_columns(text) <= n_columns)
        return text;
    const char *dots = t->ascii ? "~" : "\xE2\x80\xA6";
    int used = 1, len;
    size_t at = 0, n = strlen(text);
    for (; at < n; at += (size_t)len) {
        used += code_width(text + at, n - at, &len);
        if (used > n_columns)
            break;
    }
    struct buf cut = {0};
    buf_append(&cut, text, at);
    buf_append_str(&cut, dots);
    free(text);
    return buf_take(&cut);
}

static void pad(struct buf *out, int n)
{
    for (int i = 0; i < n; i++)
        buf_append_char(out, ' ');
}

/* Bytes of the next line of text that fit n_columns, broken after the last space that fits. */
static size_t line_length(const char *s, size_t n, int n_columns)
{
    size_t at = 0, space = 0;
    int used = 0, len;
    while (at < n && s[at] != '\n') {
        used += code_width(s + at, n - at, &len);
        if (used > n_columns && at > 0)
            return space ? space : at;
        at += (size_t)len;
        if (s[at - 1] == ' ')
            space = at;
    }
    return at;
}

/* Outside text, wrapped, every line indented. */
static void write_wrapped(struct text_report *t, const char *s, size_t n, int indent)
{
    struct buf text = {0};
    screen_text_filter(&text, s, n, SCREEN_TEXT_NEWLINES | (t->ascii ? SCREEN_TEXT_ASCII : 0));
    int n_columns = t->width - indent;
    for (size_t at = 0; at < text.len;) {
        size_t len = line_length(text.data + at, text.len - at, n_columns);
        size_t shown = len;
        while (shown && text.data[at + shown - 1] == ' ')
            shown--;
        if (shown)
            pad(t->out, indent);
        buf_append(t->out, text.data + at, shown);
        buf_append_char(t->out, '\n');
        at += len;
        if (at < text.len && text.data[at] == '\n')
            at++;
    }
    buf_free(&text);
}

static void write_sentence(struct text_report *t, struct buf *sentence, int indent)
{
    write_wrapped(t, sentence->data ? sentence->data : "", sentence->len, indent);
    buf_free(sentence);
}

/* --- Head --------------------------------------------------------------------------------- */

static void append_count(struct buf *out, uint64_t n)
{
    if (n >= 1000) {
        append_count(out, n / 1000);
        buf_printf(out, ",%03d", (int)(n % 1000));
    } else {
        buf_printf(out, "%d", (int)n);
    }
}

static void write_head(struct text_report *t)
{
    const struct model_info *m = &t->r->model;
    const struct context_info *c = &t->r->context;
    struct buf line = {0};
    if (m->path) {
        buf_printf(&line, "%s (%s, %.1fM parameters, %s) on %s: %s", m->name ? m->name : m->path,
                   m->family, (double)m->n_params * 1e-6, m->dtype, m->backend,
                   m->device ? m->device : "?");
        write_sentence(t, &line, 0);
    }
    if (c->n_tokens || c->kv_bytes) {
        buf_append_str(&line, "context: ");
        append_count(&line, (uint64_t)c->n_tokens);
        buf_printf(&line, " tokens, prefill %.0f ms%s", c->prefill_ms,
                   c->reused ? " (kept from before)" : "");
        write_sentence(t, &line, 0);
    }
    if (c->notice) {
        buf_printf(&line, "note: %s", c->notice);
        write_sentence(t, &line, 0);
    }
    if (t->r->error.text[0]) {
        buf_printf(&line, "error: %s", t->r->error.text);
        write_sentence(t, &line, 0);
    }
}

/* --- A question --------------------------------------------------------------------------- */

static void write_table(struct text_report *t, const struct report_lane *lanes)
{
    const struct request *request = t->r->request;
    int longest = MIN_NAME, n_shown = 0, used = 2;
    for (int i = 0; i < request->n_lanes; i++) {
        char *name = filtered(t, request->lanes[i].name, strlen(request->lanes[i].name));
        int n = text_columns(name);
        longest = n > longest ? n : longest;
        free(name);
    }
    while (n_shown < N_COLUMNS && used + MIN_NAME + columns[n_shown].width <= t->width)
        used += columns[n_shown++].width;
    int name_columns = t->width - used < longest ? t->width - used : longest;

    pad(t->out, 2 + name_columns);
    for (int c = 0; c < n_shown; c++)
        buf_printf(t->out, "%*s", columns[c].width, columns[c].title);
    buf_append_char(t->out, '\n');
    for (int i = 0; i < request->n_lanes; i++) {
        char *name = filtered_name(t, request->lanes[i].name, name_columns);
        buf_printf(t->out, "  %s", name);
        pad(t->out, name_columns - text_columns(name));
        for (int c = 0; c < n_shown; c++) {
            char cell[CELL_MAX];
            columns[c].write(&lanes[i], cell);
            buf_printf(t->out, "%*s", columns[c].width, cell);
        }
        buf_append_char(t->out, '\n');
        t->any_oracle = t->any_oracle || lanes[i].metrics.reads_all_keys;
        free(name);
    }
}

static void append_side(struct text_report *t, struct buf *line, int32_t id, const char *text,
                        float prob)
{
    if (id < 0) {
        buf_append_str(line, "the end");
        return;
    }
    char *shown = filtered(t, text ? text : "", text ? strlen(text) : 0);
    buf_printf(line, "\"%s\" (p %.3f)", shown, (double)prob);
    free(shown);
}

static void write_divergence(struct text_report *t, const struct report_lane *lane,
                             const char *base_name)
{
    const struct divergence *d = &lane->metrics.divergence;
    struct buf line = {0};
    if (d->index < 0) {
        if (!lane->done || lane->finish == FINISH_ERROR || lane->finish == FINISH_CANCELLED)
            return;
        buf_printf(&line, "the same tokens as %s", base_name);
    } else {
        buf_printf(&line, "differs from %s at token %d: ", base_name, d->index + 1);
        append_side(t, &line, d->base_id, d->base_text, d->base_prob);
        buf_append_str(&line, " became ");
        append_side(t, &line, d->lane_id, d->lane_text, d->lane_prob);
        if (d->base_id >= 0 && d->lane_id >= 0)
            buf_printf(&line, ", margin %s%.2f%s", d->margin_is_bound ? "over " : "",
                       (double)d->margin, d->near_tie ? ": a near-tie" : "");
    }
    write_sentence(t, &line, 4);
}

static void write_measures(struct text_report *t, const struct lane_metrics *m)
{
    struct buf line = {0};
    if (m->recall_mean >= 0)
        buf_printf(&line, "mass recall %.3f, worst %.3f (layer %d, head %d)", m->recall_mean,
                   m->recall_worst, m->recall_worst_layer, m->recall_worst_head);
    if (m->agreement >= 0)
        buf_printf(&line, "%sagreement %.1f%%, mean KL %.2g", line.len ? "; " : "",
                   100 * m->agreement, m->mean_kl);
    write_sentence(t, &line, 4);
}

static void write_answers(struct text_report *t, const struct report_lane *lanes)
{
    const struct request *request = t->r->request;
    for (int i = 0; i < request->n_lanes; i++) {
        const struct report_lane *lane = &lanes[i];
        buf_append_char(t->out, '\n');
        write_wrapped(t, request->lanes[i].name, strlen(request->lanes[i].name), 2);
        write_wrapped(t, lane->answer.data ? lane->answer.data : "", lane->answer.len, 4);
        if (lane->error) {
            struct buf line = {0};
            buf_printf(&line, "error: %s", lane->error);
            write_sentence(t, &line, 4);
        }
        if (i > 0) {
            write_divergence(t, lane, request->lanes[0].name);
            write_measures(t, &lane->metrics);
        }
    }
}

void report_write_text(const struct report *r, int width, bool ascii, struct buf *out)
{
    struct text_report t = {r, out, width < MIN_WIDTH ? MIN_WIDTH : width, ascii, false};
    write_head(&t);
    for (int q = 0; q < r->request->n_questions; q++) {
        const struct report_lane *lanes = &r->lanes[q * r->request->n_lanes];
        struct buf title = {0};
        buf_printf(&title, "%d. %s", q + 1, r->request->questions[q]);
        buf_append_char(out, '\n');
        write_sentence(&t, &title, 0);
        write_table(&t, lanes);
        write_answers(&t, lanes);
    }
    struct buf note = {0};
    if (t.any_oracle)
        buf_append_str(&note, "\n* reads every key to choose: its speed-up says nothing about a "
                              "method that does not.");
    write_sentence(&t, &note, 0);
    if (r->cancelled)
        buf_append_str(out, "\nThe run was cancelled: answers are partial.\n");
}
