/* Stacks as values: adding, moving, comparing and checking. */
#include "engine/attention/stack.h"

#include <assert.h>
#include <string.h>

bool stack_add(struct stack *s, const struct masker *m, struct error *err)
{
    if (s->n >= STACK_MAX_MASKERS)
        return fail(err, "%s: a stack holds at most %d maskers; remove one first", m->name,
                    STACK_MAX_MASKERS);
    s->items[s->n++] = (struct stack_item){.masker = m, .values = masker_defaults(m)};
    return true;
}

void stack_remove(struct stack *s, int i)
{
    assert(i >= 0 && i < s->n);
    memmove(&s->items[i], &s->items[i + 1], (size_t)(s->n - i - 1) * sizeof s->items[0]);
    s->n--;
}

void stack_move(struct stack *s, int from, int to)
{
    assert(from >= 0 && from < s->n && to >= 0 && to < s->n);
    struct stack_item moved = s->items[from];
    int step = from < to ? 1 : -1;
    for (int i = from; i != to; i += step)
        s->items[i] = s->items[i + step];
    s->items[to] = moved;
}

bool stack_is_dense(const struct stack *s)
{
    for (int i = 0; i < s->n; i++)
        if (!s->items[i].off && s->items[i].masker->select)
            return false;
    return true;
}

static bool values_equal(const struct masker *m, const struct masker_values *a,
                         const struct masker_values *b)
{
    for (int i = 0; i < m->n_params; i++)
        if (a->param[i].value != b->param[i].value ||
            a->param[i].is_fraction != b->param[i].is_fraction)
            return false;
    return strcmp(a->path, b->path) == 0;
}

bool stack_equal(const struct stack *a, const struct stack *b)
{
    if (a->n != b->n)
        return false;
    for (int i = 0; i < a->n; i++) {
        const struct stack_item *x = &a->items[i], *y = &b->items[i];
        if (x->masker != y->masker || x->off != y->off ||
            !values_equal(x->masker, &x->values, &y->values))
            return false;
    }
    return true;
}

bool stack_reads_all_keys(const struct stack *s)
{
    for (int i = 0; i < s->n; i++)
        if (!s->items[i].off && s->items[i].masker->reads_all_keys)
            return true;
    return false;
}

bool stack_check(const struct stack *s, struct error *err)
{
    const struct masker *sampler = NULL;
    for (int i = 0; i < s->n; i++) {
        const struct masker *m = s->items[i].masker;
        for (int j = 0; j < m->n_params; j++)
            if (!param_check(&m->params[j], s->items[i].values.param[j], err))
                return fail_prefix(err, "%s", m->name);
        if (m->kind != MASKER_SAMPLER || s->items[i].off)
            continue;
        if (sampler)
            return fail(err,
                        "%s: at most one sampling masker is allowed in a stack, and %s is one "
                        "already; remove one or turn it off",
                        m->name, sampler->name);
        sampler = m;
    }
    return true;
}
