/* The rules of a stack: values in their bounds, one sampler to a list, and layers that take over
 * only what an earlier layer has chosen. */
#include "engine/attention/stack.h"

#include "engine/attention/stack_names.h"

static bool check_values(const struct stack_item *item, struct error *err)
{
    const struct masker *m = item->masker;
    for (int i = 0; i < m->n_params; i++)
        if (!param_check(&m->params[i], item->values.param[i], err))
            return fail_prefix(err, "%s", m->name);
    return true;
}

/* The layer that an item takes over; -1: none. */
static int source_of(const struct stack_item *item)
{
    bool takes = !item->off && item->masker->source_layer;
    return takes ? item->masker->source_layer(&item->values) : -1;
}

/* first: the lowest layer of the item's list; -1: no layer has it. */
static bool check_source(const struct stack *s, const struct stack_item *item, int first,
                         struct error *err)
{
    int source = source_of(item);
    if (source < 0 || first < 0)
        return true;
    if (source >= first)
        return fail(err,
                    "%s: layer %d does not come before layer %d, which is to take its selection "
                    "over; name an earlier layer, or give layer %d a group of its own (layers %d: "
                    "...)",
                    item->masker->name, source, first, first, first);
    return !stack_layer_is_dense(s, source) ||
           fail(err,
                "%s: layer %d is dense and has no selection to take over; name a layer with "
                "maskers",
                item->masker->name, source);
}

/* The sampler whose keys an item has in the end: itself, or one of its source's. */
static const struct masker *sampler_of(const struct stack *s, const struct stack_item *item)
{
    if (!item->off && item->masker->kind == MASKER_SAMPLER)
        return item->masker;
    int source = source_of(item);
    if (source < 0)
        return NULL;
    int layers_list = stack_list_of_layer(s, source);
    struct stack_list list = stack_list_at(s, layers_list);
    const struct masker *sampler = NULL;
    for (int i = list.first; i < list.first + list.n && !sampler; i++)
        sampler = sampler_of(s, &s->items[i]); /* ends: sources come before those that name them */
    return sampler;
}

static bool check_one_sampler(const struct stack *s, struct stack_list list, struct error *err)
{
    const struct stack_item *before = NULL;
    for (int i = list.first; i < list.first + list.n; i++) {
        const struct stack_item *item = &s->items[i];
        if (!sampler_of(s, item))
            continue;
        if (before)
            return fail(err,
                        "%s: at most one sampling masker is allowed in a stack, and %s %s already; "
                        "remove one or turn it off",
                        item->masker->name, before->masker->name,
                        source_of(before) >= 0 ? "draws keys" : "is one");
        before = item;
    }
    return true;
}

static bool fail_in_layers(const struct stack *s, int list, struct error *err)
{
    struct buf layers = {0};
    if (list == 0)
        return false;
    layer_set_write(&s->groups[list - 1].layers, &layers);
    stack_fail_in_layers(layers.data, err);
    buf_free(&layers);
    return false;
}

bool stack_check(const struct stack *s, struct error *err)
{
    for (int i = 0; i <= s->n_groups; i++) {
        struct stack_list list = stack_list_at(s, i);
        struct layer_set layers = stack_list_layers(s, i);
        int first = layer_set_first(&layers);
        for (int j = list.first; j < list.first + list.n; j++)
            if (!check_values(&s->items[j], err) || !check_source(s, &s->items[j], first, err))
                return fail_in_layers(s, i, err);
    }
    for (int i = 0; i <= s->n_groups; i++)
        if (!check_one_sampler(s, stack_list_at(s, i), err))
            return fail_in_layers(s, i, err);
    return true;
}

bool stack_check_layers(const struct stack *s, int n_layers, struct error *err)
{
    for (int i = 0; i < s->n_groups; i++) {
        int last = layer_set_last(&s->groups[i].layers);
        if (last < n_layers)
            continue;
        return fail_code(err, EXIT_CODE_USAGE,
                         "the stack names layer %d, but this model has %d layers, 0 to %d; name "
                         "only those",
                         last, n_layers, n_layers - 1);
    }
    return true;
}
