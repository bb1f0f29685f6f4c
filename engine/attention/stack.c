/* Stacks as values: adding, moving and comparing. */
#include "engine/attention/stack.h"

#include <assert.h>
#include <string.h>

/* --- Lists -------------------------------------------------------------------------------- */

static int *list_length(struct stack *s, int list)
{
    return list ? &s->groups[list - 1].n : &s->n;
}

struct stack_list stack_list_at(const struct stack *s, int list)
{
    assert(list >= 0 && list <= s->n_groups);
    if (list == 0)
        return (struct stack_list){0, s->n};
    struct stack_list out = {s->n, s->groups[list - 1].n};
    for (int i = 0; i < list - 1; i++)
        out.first += s->groups[i].n;
    return out;
}

int stack_n_items(const struct stack *s)
{
    struct stack_list last = stack_list_at(s, s->n_groups);
    return last.first + last.n;
}

int stack_list_of_layer(const struct stack *s, int layer)
{
    for (int i = 0; i < s->n_groups; i++)
        if (layer_set_has(&s->groups[i].layers, layer))
            return 1 + i;
    return 0;
}

int stack_list_of_item(const struct stack *s, int item)
{
    assert(item >= 0 && item < stack_n_items(s));
    int list = 0;
    for (int end = s->n; item >= end; end += s->groups[list - 1].n)
        list++;
    return list;
}

struct layer_set stack_list_layers(const struct stack *s, int list)
{
    if (list > 0)
        return s->groups[list - 1].layers;
    struct layer_set taken = {0};
    for (int i = 0; i < s->n_groups; i++)
        taken = layer_set_union(&taken, &s->groups[i].layers);
    return layer_set_others(&taken);
}

struct stack stack_of_list(const struct stack *s, int list)
{
    struct stack_list from = stack_list_at(s, list);
    struct stack out = {.n = from.n};
    memcpy(out.items, s->items + from.first, (size_t)from.n * sizeof s->items[0]);
    return out;
}

/* --- Editing ------------------------------------------------------------------------------ */

bool stack_add_to(struct stack *s, int list, const struct masker *m, struct error *err)
{
    int n = stack_n_items(s);
    if (n >= STACK_MAX_MASKERS)
        return fail(err,
                    "%s: a stack holds at most %d maskers, those of its groups of layers "
                    "included; remove one first",
                    m->name, STACK_MAX_MASKERS);
    struct stack_list to = stack_list_at(s, list);
    int at = to.first + to.n;
    memmove(&s->items[at + 1], &s->items[at], (size_t)(n - at) * sizeof s->items[0]);
    s->items[at] = (struct stack_item){.masker = m, .values = masker_defaults(m)};
    ++*list_length(s, list);
    return true;
}

bool stack_add(struct stack *s, const struct masker *m, struct error *err)
{
    return stack_add_to(s, 0, m, err);
}

bool stack_add_group(struct stack *s, const struct layer_set *layers, struct error *err)
{
    assert(layer_set_first(layers) >= 0);
    if (s->n_groups >= STACK_MAX_GROUPS)
        return fail(err, "a stack has at most %d groups of layers; put layers alike into one group",
                    STACK_MAX_GROUPS);
    for (int i = 0; i < s->n_groups; i++) {
        int common = layer_set_common(&s->groups[i].layers, layers);
        if (common >= 0)
            return fail(err, "layer %d is in an earlier group already; leave it in one", common);
    }
    s->groups[s->n_groups++] = (struct layer_group){.layers = *layers};
    return true;
}

void stack_remove(struct stack *s, int item)
{
    int n = stack_n_items(s), list = stack_list_of_item(s, item);
    memmove(&s->items[item], &s->items[item + 1], (size_t)(n - item - 1) * sizeof s->items[0]);
    --*list_length(s, list);
}

void stack_move(struct stack *s, int from, int to)
{
    assert(stack_list_of_item(s, from) == stack_list_of_item(s, to));
    struct stack_item moved = s->items[from];
    int step = from < to ? 1 : -1;
    for (int i = from; i != to; i += step)
        s->items[i] = s->items[i + step];
    s->items[to] = moved;
}

/* --- What a stack is ---------------------------------------------------------------------- */

static bool items_are_dense(const struct stack *s, struct stack_list list)
{
    for (int i = list.first; i < list.first + list.n; i++)
        if (!s->items[i].off && s->items[i].masker->select)
            return false;
    return true;
}

bool stack_is_dense(const struct stack *s)
{
    return items_are_dense(s, (struct stack_list){0, stack_n_items(s)});
}

bool stack_layer_is_dense(const struct stack *s, int layer)
{
    return items_are_dense(s, stack_list_at(s, stack_list_of_layer(s, layer)));
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
    if (a->n != b->n || a->n_groups != b->n_groups)
        return false;
    for (int i = 0; i < a->n_groups; i++)
        if (a->groups[i].n != b->groups[i].n ||
            !layer_set_equal(&a->groups[i].layers, &b->groups[i].layers))
            return false;
    for (int i = 0; i < stack_n_items(a); i++) {
        const struct stack_item *x = &a->items[i], *y = &b->items[i];
        if (x->masker != y->masker || x->off != y->off ||
            !values_equal(x->masker, &x->values, &y->values))
            return false;
    }
    return true;
}

bool stack_reads_all_keys(const struct stack *s)
{
    for (int i = 0; i < stack_n_items(s); i++)
        if (!s->items[i].off && masker_reads_all_keys(s->items[i].masker, &s->items[i].values))
            return true;
    return false;
}
