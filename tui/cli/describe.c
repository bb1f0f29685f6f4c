#include "tui/cli/describe.h"

#include <string.h>

#include "engine/attention/stack.h"

enum { WIDTH = 80, INDENT = 4, NO_BOUND = 1000000 /* of a budget: no need to name it */ };

static const char *const kinds[] = {
    [MASKER_FIXED] = "keys by position",
    [MASKER_TOP] = "keys by score",
    [MASKER_SAMPLER] = "keys by chance, weighted by 1/p; one such masker in a stack",
};

/* --- A parameter in words ------------------------------------------------------------------- */

static void append_bounds(const struct masker_param *p, struct buf *out)
{
    if (p->max >= NO_BOUND)
        buf_printf(out, "%s %g", p->min_exclusive ? "above" : "from", p->min);
    else if (p->min_exclusive)
        buf_printf(out, "above %g to %s%g", p->min, p->max_exclusive ? "below " : "", p->max);
    else
        buf_printf(out, "%g to %s%g", p->min, p->max_exclusive ? "below " : "", p->max);
}

static void append_budget(const struct masker_param *p, struct buf *out)
{
    buf_append_str(out, "a count of keys, ");
    append_bounds(p, out);
    buf_append_str(out, ", or a share of them, ");
    if (p->max_fraction < NO_BOUND)
        buf_printf(out, "%g to %g", p->min_fraction, p->max_fraction);
    else
        buf_printf(out, "%s %g", p->min > 0 && p->min_fraction == 0 ? "above" : "from",
                   p->min_fraction);
}

/* What a parameter takes: kind, range and unit. */
static void append_values(const struct masker_param *p, struct buf *out)
{
    switch (p->kind) {
    case PARAM_BUDGET:
        append_budget(p, out);
        break;
    case PARAM_CHOICE:
        for (int i = 0; p->choices[i]; i++)
            buf_printf(out, "%s%s", i ? ", " : "one of ", p->choices[i]);
        break;
    case PARAM_PATH:
        buf_append_str(out, "a file's path");
        break;
    case PARAM_REAL:
    case PARAM_COUNT:
        buf_append_str(out, p->kind == PARAM_COUNT ? "a whole number, " : "a number, ");
        append_bounds(p, out);
        if (p->unit)
            buf_printf(out, " %s", p->unit);
        break;
    }
}

static void append_default(const struct masker_param *p, struct buf *out)
{
    if (p->kind == PARAM_PATH)
        buf_append_str(out, "none");
    else
        param_write(p, p->fallback, out);
}

static const char *choice_of(const struct masker *m)
{
    return m->overlaps ? "keys by score, also among those kept already" : kinds[m->kind];
}

/* The types of the reference project's configs that mean this masker. */
static void append_types(const struct masker *m, const char *quote, struct buf *out)
{
    const char *const none[] = {NULL};
    if (!m->reference_type) {
        buf_append_str(out, "none");
        return;
    }
    buf_printf(out, "%s%s%s", quote, m->reference_type, quote);
    for (const char *const *a = m->reference_aliases ? m->reference_aliases : none; *a; a++)
        buf_printf(out, ", %s%s%s", quote, *a, quote);
}

/* --- For a terminal ------------------------------------------------------------------------- */

/* Words of text in lines of WIDTH, each after indent blanks. */
static void append_wrapped(struct buf *out, const char *text, size_t indent)
{
    size_t column = 0;
    while (*text) {
        size_t n = strcspn(text, " ");
        if (column > 0 && column + 1 + n > WIDTH) {
            buf_append_char(out, '\n');
            column = 0;
        }
        buf_printf(out, "%*s%.*s", column ? 1 : (int)indent, "", (int)n, text);
        column += (column ? 1 : indent) + n;
        text += n + strspn(text + n, " ");
    }
    buf_append_char(out, '\n');
}

static void append_field(struct buf *out, const char *name, const char *text)
{
    struct buf line = {0};
    buf_printf(&line, "%s: %s", name, text);
    append_wrapped(out, line.data, INDENT);
    buf_free(&line);
}

static void append_param(const struct masker_param *p, struct buf *out)
{
    struct buf line = {0};
    buf_append_char(out, '\n');
    buf_printf(&line, "%s: default ", p->name);
    append_default(p, &line);
    if (p->reference_name)
        buf_printf(&line, "; in the reference's configs: %s", p->reference_name);
    append_wrapped(out, line.data, INDENT);
    buf_clear(&line);
    append_values(p, &line);
    append_wrapped(out, p->help, 2 * INDENT);
    append_wrapped(out, line.data, 2 * INDENT);
    buf_free(&line);
}

void describe_maskers_text(struct buf *out)
{
    for (const struct masker *const *m = maskers; *m; m++) {
        struct buf types = {0};
        append_types(*m, "", &types);
        buf_printf(out, "%s%s: %s\n", m == maskers ? "" : "\n", (*m)->name, (*m)->title);
        append_wrapped(out, (*m)->summary, INDENT);
        append_field(out, "chooses", choice_of(*m));
        append_field(out, "cost", (*m)->cost);
        append_field(out, "source", (*m)->source);
        append_field(out, "type in the reference's configs", types.data);
        for (int i = 0; i < (*m)->n_params; i++)
            append_param(&(*m)->params[i], out);
        buf_free(&types);
    }
}

/* --- As a page ------------------------------------------------------------------------------ */

static void append_cell(struct buf *out, const char *text)
{
    buf_append_str(out, " ");
    for (; *text; text++)
        buf_printf(out, *text == '|' ? "\\%c" : "%c", *text);
    buf_append_str(out, " |");
}

static void append_row(const struct masker_param *p, struct buf *out)
{
    struct buf values = {0}, fallback = {0};
    append_values(p, &values);
    append_default(p, &fallback);
    buf_printf(out, "| `%s` |", p->name);
    append_cell(out, values.data);
    append_cell(out, fallback.data);
    if (p->reference_name)
        buf_printf(out, " `%s` |", p->reference_name);
    else
        buf_append_str(out, " |");
    append_cell(out, p->help);
    buf_append_char(out, '\n');
    buf_free(&values);
    buf_free(&fallback);
}

void describe_maskers_markdown(struct buf *out)
{
    buf_append_str(out, "# Maskers\n\n"
                        "What a stack can be made of. `attnscope stacks --describe --markdown` "
                        "writes this page from the maskers' own descriptors.\n");
    for (const struct masker *const *m = maskers; *m; m++) {
        buf_printf(out, "\n## %s: `%s`\n\n%s\n\n", (*m)->title, (*m)->name, (*m)->summary);
        buf_printf(out, "- Chooses: %s\n- Cost: %s\n- Source: %s\n", choice_of(*m), (*m)->cost,
                   (*m)->source);
        buf_append_str(out, "- Type in the reference's configs: ");
        append_types(*m, "`", out);
        buf_append_char(out, '\n');
        if ((*m)->n_params)
            buf_append_str(out, "\n| parameter | takes | default | in the reference's configs | "
                                "meaning |\n|---|---|---|---|---|\n");
        for (int i = 0; i < (*m)->n_params; i++)
            append_row(&(*m)->params[i], out);
    }
}
