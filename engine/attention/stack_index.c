#include "engine/attention/stack_index.h"

#include <stdlib.h>

static bool asks_for_index(const struct stack_item *item)
{
    return !item->off && item->masker->index;
}

static struct key_index_config shape_of(const struct masker_model *model, int max_keys)
{
    const struct model_config *c = model->config;
    return (struct key_index_config){.n_layers = c->n_layers,
                                     .n_heads = c->n_heads,
                                     .n_kv_heads = c->n_kv_heads,
                                     .head_dim = c->head_dim,
                                     .max_keys = max_keys,
                                     .kv_dtype = model->kv_dtype};
}

static bool check_backend(const struct stack_item *item, const struct backend *backend,
                          struct error *err)
{
    const struct masker *m = item->masker;
    const char *missing = m->missing ? m->missing(&item->values, backend) : NULL;
    return item->off || !missing ||
           fail_code(err, EXIT_CODE_NO_DEVICE,
                     "%s: %s is not there on the %s backend; leave it out, or use --backend cpu",
                     m->name, missing, backend->name);
}

static bool open_slot(struct stack_index *s, int i, const struct stack_item *item,
                      const struct masker_model *model, int max_keys, struct error *err)
{
    const struct masker *m = item->masker;
    struct key_index_config config = shape_of(model, max_keys);
    void *held = NULL;
    char why[256] = "";
    if (!m->index(&item->values, model, &config, &held, err))
        return fail_prefix(err, "%s", m->name);
    s->logit_scale[i] = m->logit_scale ? m->logit_scale(&config) : 1.0f;
    s->slot[i] = s->backend->index_open(s->dev, &config, why, sizeof why);
    free(held);
    return s->slot[i] || fail_code(err, EXIT_CODE_NO_DEVICE, "%s: %s", m->name, why);
}

bool stack_index_open(struct stack_index *out, const struct stack *stack,
                      const struct backend *backend, struct device *dev,
                      const struct masker_model *model, int max_keys, struct error *err)
{
    struct stack_index s = {.backend = backend, .dev = dev};
    for (int i = 0; i < stack_n_items(stack); i++) {
        const struct stack_item *item = &stack->items[i];
        bool ok = check_backend(item, backend, err);
        if (ok && asks_for_index(item)) {
            s.layers[i] = stack_list_layers(stack, stack_list_of_item(stack, i));
            ok = open_slot(&s, i, item, model, max_keys, err);
        }
        if (!ok) {
            stack_index_close(&s);
            return false;
        }
    }
    *out = s;
    return true;
}

void stack_index_close(struct stack_index *s)
{
    for (int i = 0; i < STACK_MAX_MASKERS; i++)
        if (s->slot[i]) {
            s->backend->index_close(s->dev, s->slot[i]);
            s->slot[i] = NULL;
        }
}

void stack_index_update(const struct stack_index *s, const struct attention *att)
{
    for (int i = 0; i < STACK_MAX_MASKERS; i++)
        if (s->slot[i] && layer_set_has(&s->layers[i], att->layer))
            s->backend->index_update(s->dev, s->slot[i], att);
}

uint64_t stack_index_bytes(const struct stack *stack, const struct backend *backend,
                           struct device *dev, const struct masker_model *model, int max_keys)
{
    uint64_t n_bytes = 0;
    for (int i = 0; i < stack_n_items(stack); i++) {
        struct key_index_config config = shape_of(model, max_keys);
        struct error err;
        if (asks_for_index(&stack->items[i]) &&
            stack->items[i].masker->index(&stack->items[i].values, model, &config, NULL, &err))
            n_bytes += backend->index_bytes(dev, &config);
    }
    return n_bytes;
}
