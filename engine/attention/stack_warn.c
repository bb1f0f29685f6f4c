/* What is legal in a stack but likely not meant. */
#include "engine/attention/stack.h"

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

static bool has_budget(const struct stack_item *item)
{
    const struct masker *m = item->masker;
    return !item->off && m->select && m->n_params && m->params[0].kind == PARAM_BUDGET;
}

static void warn_budgets(const struct stack *s, int n_keys, struct buf *out)
{
    struct buf sum = {0};
    double total = 0;
    int n = 0;
    for (int i = 0; i < s->n; i++) {
        const struct stack_item *item = &s->items[i];
        if (!has_budget(item))
            continue;
        struct budget size = item->values.param[0];
        int keys = budget_keys(size, n_keys);
        if (keys == 0) {
            buf_printf(out, "%s ", item->masker->name);
            param_write(&item->masker->params[0], size, out);
            buf_printf(out, " of %d keys is none: it adds nothing.\n", n_keys);
        }
        total += keys;
        buf_printf(&sum, "%s%s %d", n++ ? " + " : "", item->masker->name, keys);
    }
    if (n && total >= n_keys)
        buf_printf(out, "%s cover%s all %d keys: everything is dense.\n", sum.data,
                   n > 1 ? "" : "s", n_keys);
    buf_free(&sum);
}

static void warn_large_fractions(const struct stack *s, struct buf *out)
{
    for (int i = 0; i < s->n; i++) {
        struct budget size = s->items[i].values.param[0];
        if (!has_budget(&s->items[i]) || !size.is_fraction || size.value < 1)
            continue;
        buf_printf(out, "%s ", s->items[i].masker->name);
        param_write(&s->items[i].masker->params[0], size, out);
        buf_append_str(out, " keeps every key: everything is dense.\n");
    }
}

void stack_warn(const struct stack *s, int n_keys, struct buf *out)
{
    warn_idle(s, out);
    warn_sampler_not_last(s, out);
    warn_repeated(s, out);
    if (n_keys > 0)
        warn_budgets(s, n_keys, out);
    else
        warn_large_fractions(s, out);
}
