#include "engine/attention/stack_reuse.h"

static bool takes_over(const struct stack_item *item)
{
    return !item->off && item->masker->source_layer;
}

/* Fills layer [STACK_MAX_MASKERS] with the layers that are taken over, each once. */
static int source_layers(const struct stack *stack, int *layer)
{
    int n = 0;
    for (int i = 0; i < stack_n_items(stack); i++) {
        if (!takes_over(&stack->items[i]))
            continue;
        int source = stack->items[i].masker->source_layer(&stack->items[i].values), j = 0;
        while (j < n && layer[j] != source)
            j++;
        layer[j] = source;
        n += j == n;
    }
    return n;
}

int stack_reuse_count(const struct stack *stack)
{
    int layer[STACK_MAX_MASKERS];
    return source_layers(stack, layer);
}

bool stack_reuse_in_layer(const struct stack *stack, int layer)
{
    struct stack_list list = stack_list_at(stack, stack_list_of_layer(stack, layer));
    for (int i = list.first; i < list.first + list.n; i++)
        if (takes_over(&stack->items[i]))
            return true;
    return false;
}

static const char *first_that_takes_over(const struct stack *stack)
{
    int i = 0;
    while (!takes_over(&stack->items[i]))
        i++;
    return stack->items[i].masker->name;
}

bool stack_reuse_open(struct stack_reuse *out, const struct stack *stack,
                      const struct backend *backend, struct device *dev,
                      const struct model_config *config, int max_keys, struct error *err)
{
    struct stack_reuse r = {.backend = backend, .dev = dev};
    int n = source_layers(stack, r.layer);
    for (; r.n < n; r.n++) {
        r.selection[r.n] =
            backend->selection_open(dev, 1, config->n_heads, config->n_kv_heads, max_keys);
        if (!r.selection[r.n]) {
            stack_reuse_close(&r);
            return fail_code(err, EXIT_CODE_NO_DEVICE,
                             "%s: no memory to keep the selections of %d layers of %d keys; "
                             "shorten the context",
                             first_that_takes_over(stack), n, max_keys);
        }
    }
    *out = r;
    return true;
}

void stack_reuse_close(struct stack_reuse *r)
{
    while (r->n > 0)
        r->backend->selection_close(r->dev, r->selection[--r->n]);
}

struct selection *stack_reuse_of_layer(const struct stack_reuse *r, int layer)
{
    for (int i = 0; i < r->n; i++)
        if (r->layer[i] == layer)
            return r->selection[i];
    return NULL;
}

const struct selection *stack_reuse_of_item(const struct stack_reuse *r,
                                            const struct stack_item *item)
{
    if (!takes_over(item))
        return NULL;
    return stack_reuse_of_layer(r, item->masker->source_layer(&item->values));
}
