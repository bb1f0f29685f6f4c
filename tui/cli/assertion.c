/* Assertions: see the header. */
#include "tui/cli/assertion.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"

struct figure {
    const char *name;
    size_t offset; /* of a double in struct lane_metrics */
    bool inverse;  /* the figure is 1 - the member */
};

static const struct figure figures[] = {
    {"density", offsetof(struct lane_metrics, density), false},
    {"read_density", offsetof(struct lane_metrics, read_density), false},
    {"sparsity", offsetof(struct lane_metrics, density), true},
    {"jaccard", offsetof(struct lane_metrics, jaccard), false},
    {"recall", offsetof(struct lane_metrics, recall_mean), false},
    {"recall_worst", offsetof(struct lane_metrics, recall_worst), false},
    {"agreement", offsetof(struct lane_metrics, agreement), false},
    {"kl", offsetof(struct lane_metrics, mean_kl), false},
    {"speedup.attention", offsetof(struct lane_metrics, speedup_attention), false},
    {"speedup.step", offsetof(struct lane_metrics, speedup_step), false},
    {"speedup.answer", offsetof(struct lane_metrics, speedup_answer), false},
    {"step_ms", offsetof(struct lane_metrics, step_ms_per_token), false},
    {"answer_ms", offsetof(struct lane_metrics, answer_ms), false},
    {"ttft_ms", offsetof(struct lane_metrics, ttft_ms), false},
};
enum { N_FIGURES = sizeof figures / sizeof figures[0] };

static const char *const operators[] = {">=", "<=", "==", "!=", ">", "<"};
enum { N_OPERATORS = sizeof operators / sizeof operators[0] };

struct comparison {
    const struct figure *figure;
    int op;
    double value;
};

static double figure_of(const struct figure *f, const struct lane_metrics *m)
{
    double value;
    memcpy(&value, (const char *)m + f->offset, sizeof value);
    return f->inverse ? 1 - value : value;
}

static bool compare(double a, int op, double b)
{
    switch (op) {
    case 0:
        return a >= b;
    case 1:
        return a <= b;
    case 2:
        return a == b;
    case 3:
        return a != b;
    case 4:
        return a > b;
    default:
        return a < b;
    }
}

static bool bad(const char *at, struct error *err)
{
    struct buf names = {0};
    for (int i = 0; i < N_FIGURES; i++)
        buf_printf(&names, "%s%s", i ? ", " : "", figures[i].name);
    fail_code(err, EXIT_CODE_USAGE,
              "--assert: cannot read '%.30s': expected NAME OP NUMBER joined by &&, with NAME one "
              "of %s and OP one of >= <= == != > <",
              at, names.data);
    buf_free(&names);
    return false;
}

/* Reads one comparison and moves *at past it (and past the && that follows). */
static bool parse(const char **at, struct comparison *out, struct error *err)
{
    const char *start = *at + strspn(*at, " ");
    size_t n_name = strcspn(start, " <>=!");
    *out = (struct comparison){.op = -1};
    for (int i = 0; i < N_FIGURES; i++)
        if (strlen(figures[i].name) == n_name && strncmp(figures[i].name, start, n_name) == 0)
            out->figure = &figures[i];
    const char *op = start + n_name + strspn(start + n_name, " ");
    for (int i = 0; i < N_OPERATORS && out->op < 0; i++)
        if (strncmp(op, operators[i], strlen(operators[i])) == 0)
            out->op = i;
    if (!out->figure || out->op < 0)
        return bad(start, err);
    const char *number = op + strlen(operators[out->op]);
    char *end;
    out->value = strtod(number, &end);
    if (end == number)
        return bad(start, err);
    end += strspn(end, " ");
    if (strncmp(end, "&&", 2) == 0)
        end += 2;
    else if (*end)
        return bad(end, err);
    *at = end;
    return true;
}

bool assertion_check(const char *text, struct error *err)
{
    struct comparison c;
    do {
        if (!parse(&text, &c, err))
            return false;
    } while (*text);
    return true;
}

bool assertion_holds(const char *text, struct report *report, struct error *err)
{
    while (*text) {
        struct comparison c;
        if (!parse(&text, &c, err))
            return false;
        for (int q = 0; q < report->request->n_questions; q++) {
            for (int lane = 1; lane < report->request->n_lanes; lane++) {
                double value = figure_of(c.figure, &report_lane(report, q, lane)->metrics);
                if (!compare(value, c.op, c.value))
                    return fail_code(err, EXIT_CODE_ASSERT,
                                     "assertion failed: question %d, lane %s: %s is %g, wanted %s "
                                     "%g",
                                     q + 1, report->request->lanes[lane].name, c.figure->name,
                                     value, operators[c.op], c.value);
            }
        }
    }
    return true;
}
