/* What is legal in a stack but likely not meant. */
#include "engine/attention/stack.h"

#include <string.h>

enum { MANY_KEYS = 1 << 20 }; /* by which sizes are compared while their number is unknown */

static void warn_sampler_not_last(const struct stack *s, struct buf *out)
{
    const struct masker *sampler = NULL;
    for (int i = 0; i < s->n; i++) {
        const struct masker *m = s->items[i].masker;
        if (s->items[i].off || !m->select)
            continue;
        if (sampler) {
            buf_printf(out,
                       "%s is not last: keys it draws keep their weight 1/p and are not offered "
                       "to the maskers after it.\n",
                       sampler->name);
            return;
        }
        if (m->kind == MASKER_SAMPLER)
            sampler = m;
    }
}

static void warn_idle(const struct stack *s, struct buf *out)
{
    for (int i = 0; i < s->n; i++)
        if (!s->items[i].off && !s->items[i].masker->select)
            buf_printf(out, "%s adds nothing: every masker keeps to visible keys.\n",
                       s->items[i].masker->name);
    if (s->n && stack_is_dense(s))
        buf_append_str(out, "No masker is on that keeps keys: attention is dense.\n");
}

static void warn_repeated(const struct stack *s, struct buf *out)
{
    for (int i = 0; i < s->n; i++)
        for (int j = 0; j < i; j++) {
            const struct masker *m = s->items[i].masker;
            if (m != s->items[j].masker || m->kind != MASKER_FIXED || !m->select ||
                s->items[i].off || s->items[j].off)
                continue;
            buf_printf(out, "%s appears twice: only the larger one counts.\n", m->name);
            return;
        }
}

/* A number of keys that it adds, of all: a sampler's is of those that others leave. */
static bool has_budget(const struct stack_item *item)
{
    const struct masker *m = item->masker;
    return !item->off && m->select && m->kind != MASKER_SAMPLER && m->n_params &&
           m->params[0].kind == PARAM_BUDGET;
}

/* A budget that top-p may leave unused. */
static bool is_limit(const struct stack_item *item)
{
    int top_p = masker_param_index(item->masker, "top_p");
    return top_p >= 0 && item->values.param[top_p].value > 0;
}

static bool is_above_all(const struct stack_item *item)
{
    struct budget size = item->values.param[0];
    return size.is_fraction && size.value > 1;
}

static void append_item(const struct stack_item *item, struct buf *out)
{
    buf_printf(out, "%s ", item->masker->name);
    param_write(&item->masker->params[0], item->values.param[0], out);
}

/* A first value that alone keeps every key, whatever their number, or means more than all. */
static void warn_of_everything(const struct stack *s, struct buf *out)
{
    for (int i = 0; i < s->n; i++) {
        const struct stack_item *item = &s->items[i];
        const struct masker *m = item->masker;
        if (has_budget(item) && is_above_all(item)) {
            append_item(item, out);
            buf_printf(out,
                       " is more than all keys%s; a count is written without a point or a %%.\n",
                       is_limit(item) ? "" : ": everything will be dense");
        } else if (!item->off && m->n_params && m->params[0].kind == PARAM_REAL &&
                   m->params[0].max == 1 && item->values.param[0].value == 1) {
            append_item(item, out);
            buf_append_str(out, " keeps every key: everything will be dense.\n");
        }
    }
}

/* Keys by position that another of the same masker keeps as well. */
static bool is_within_another(const struct stack *s, int i, int n_keys)
{
    const struct stack_item *item = &s->items[i];
    int keys = budget_keys(item->values.param[0], n_keys);
    for (int j = 0; j < s->n && item->masker->kind == MASKER_FIXED; j++) {
        int other = budget_keys(s->items[j].values.param[0], n_keys);
        if (j != i && s->items[j].masker == item->masker && !s->items[j].off &&
            (other > keys || (other == keys && j < i)))
            return true;
    }
    return false;
}

/* The budgets that add up, as " + "-separated items; n_keys 0: of fractions alone, as shares. */
struct budget_sum {
    struct buf text;
    double total;
    int n;
};

static struct budget_sum sum_budgets(const struct stack *s, int n_keys)
{
    struct budget_sum sum = {0};
    for (int i = 0; i < s->n; i++) {
        const struct stack_item *item = &s->items[i];
        struct budget size = item->values.param[0];
        if (!has_budget(item) || is_limit(item) || is_above_all(item) || item->masker->overlaps ||
            is_within_another(s, i, n_keys > 0 ? n_keys : MANY_KEYS) ||
            (n_keys == 0 && !size.is_fraction))
            continue;
        buf_append_str(&sum.text, sum.n++ ? " + " : "");
        if (n_keys > 0)
            buf_printf(&sum.text, "%s %d", item->masker->name, budget_keys(size, n_keys));
        else
            append_item(item, &sum.text);
        sum.total += n_keys > 0 ? budget_keys(size, n_keys) : size.value;
    }
    return sum;
}

static void warn_budgets(const struct stack *s, int n_keys, struct buf *out)
{
    struct budget_sum sum = sum_budgets(s, n_keys);
    for (int i = 0; i < s->n; i++) {
        const struct stack_item *item = &s->items[i];
        if (!has_budget(item))
            continue;
        int keys = budget_keys(item->values.param[0], n_keys);
        if (n_keys > 0 && keys == 0) {
            append_item(item, out);
            buf_printf(out, " of %d keys is none: it adds nothing.\n", n_keys);
        }
        if (n_keys > 0 && keys >= n_keys && item->masker->overlaps && !is_limit(item) &&
            !is_above_all(item))
            buf_printf(out, "%s %d covers all %d keys: everything will be dense.\n",
                       item->masker->name, keys, n_keys);
    }
    if (n_keys > 0 && sum.n && sum.total >= n_keys)
        buf_printf(out, "%s covers all %d keys: everything will be dense.\n", sum.text.data,
                   n_keys);
    /* Fractions of many keys are cut to whole keys: a sum of just 1 may leave some out. */
    if (n_keys == 0 && (sum.n == 1 ? sum.total >= 1 : sum.total > 1))
        buf_printf(out, "%s covers all keys: everything will be dense.\n", sum.text.data);
    buf_free(&sum.text);
}

/* A masker that does not skip what is kept already: its budget may go where others' has gone. */
static void warn_overlap(const struct stack *s, int n_keys, struct buf *out)
{
    for (int i = 0; i < s->n; i++) {
        const struct stack_item *item = &s->items[i];
        struct buf fixed = {0};
        int n_fixed = 0;
        if (!has_budget(item) || !item->masker->overlaps)
            continue;
        for (int j = 0; j < s->n; j++) {
            const struct stack_item *other = &s->items[j];
            if (other->off || !other->masker->select)
                continue;
            if (j < i && other->masker->kind == MASKER_TOP)
                buf_printf(out, "%s does not skip what %s keeps: %s.\n", item->masker->name,
                           other->masker->name,
                           other->masker->overlaps ? "keys that both choose count once"
                                                   : "put it first");
            if (n_keys == 0 || other->masker->kind != MASKER_FIXED || !has_budget(other))
                continue;
            int keys = budget_keys(other->values.param[0], n_keys);
            buf_printf(&fixed, "%s%s %d", fixed.len ? " + " : "", other->masker->name, keys);
            n_fixed += keys;
        }
        int keys = budget_keys(item->values.param[0], n_keys);
        if (fixed.len && keys > 0 && keys <= n_fixed && n_fixed < n_keys)
            buf_printf(out, "%s does not skip what %s keeps: it may add nothing to it with %d.\n",
                       item->masker->name, fixed.data, keys);
        buf_free(&fixed);
    }
}

static int kept_by(const struct stack *s, const char *masker, int n_keys)
{
    int kept = 0;
    for (int i = 0; i < s->n; i++) {
        int keys = budget_keys(s->items[i].values.param[0], n_keys);
        if (!s->items[i].off && s->items[i].masker == masker_find(masker) && keys > kept)
            kept = keys;
    }
    return kept;
}

/* Keys at either end that a masker leaves to others, of which no masker keeps as many. */
static void warn_left_out(const struct stack *s, int n_keys, struct buf *out)
{
    static const struct {
        const char *param, *keeper, *which;
    } ends[] = {{"init_offset", "sink", "first"}, {"local_offset", "local", "latest"}};
    for (int i = 0; i < s->n; i++)
        for (int end = 0; end < 2; end++) {
            const struct masker *m = s->items[i].masker;
            int param = masker_param_index(m, ends[end].param);
            if (s->items[i].off || param < 0)
                continue;
            int n = n_keys > 0 ? n_keys : MANY_KEYS;
            int left = budget_keys(s->items[i].values.param[param], n);
            if (left > kept_by(s, ends[end].keeper, n) && left < n)
                buf_printf(out,
                           "%s never chooses the %s %d keys, and %s does not keep them all: make "
                           "%s smaller, or %s larger.\n",
                           m->name, ends[end].which, left, ends[end].keeper, ends[end].param,
                           ends[end].keeper);
        }
}

static void warn_sampler_off(const struct stack *s, struct buf *out)
{
    for (int i = 0; i < s->n; i++) {
        const struct masker *m = s->items[i].masker;
        if (!s->items[i].off && m->kind == MASKER_SAMPLER && s->items[i].values.param[0].value == 0)
            buf_printf(out, "%s with %s 0 draws nothing.\n", m->name, m->params[0].name);
    }
}

static void warn_list(const struct stack *s, int n_keys, struct buf *out)
{
    warn_idle(s, out);
    warn_sampler_not_last(s, out);
    warn_sampler_off(s, out);
    warn_left_out(s, n_keys, out);
    warn_repeated(s, out);
    warn_of_everything(s, out);
    warn_budgets(s, n_keys, out);
    warn_overlap(s, n_keys, out);
}

void stack_warn(const struct stack *s, int n_keys, struct buf *out)
{
    for (int i = 0; i <= s->n_groups; i++) {
        struct stack list = stack_of_list(s, i);
        struct buf said = {0};
        warn_list(&list, n_keys, &said);
        for (char *line = said.data; line && *line;) {
            char *end = strchr(line, '\n');
            *end = '\0';
            if (i > 0) {
                buf_append_str(out, "layers ");
                layer_set_write(&s->groups[i - 1].layers, out);
                buf_append_str(out, ": ");
            }
            buf_printf(out, "%s\n", line);
            line = end + 1;
        }
        buf_free(&said);
    }
}
