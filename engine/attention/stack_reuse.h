/* The selections that later layers take over, of the step that is being computed.
 *
 * One row each: maskers with a source_layer work in steps of one row.  A step's layers run in
 * order, so that what a layer finds here was chosen a few layers ago, by the same step. */
#ifndef ATTNSCOPE_ENGINE_ATTENTION_STACK_REUSE_H
#define ATTNSCOPE_ENGINE_ATTENTION_STACK_REUSE_H

#include <stdbool.h>

#include "engine/attention/stack.h"
#include "engine/base/error.h"
#include "engine/model/config.h"
#include "kernels/backend.h"

struct stack_reuse {
    const struct backend *backend; /* borrowed, with dev */
    struct device *dev;
    int n;
    int layer[STACK_MAX_MASKERS]; /* that some other layer takes over */
    struct selection *selection[STACK_MAX_MASKERS];
};

/* Opens one selection for each layer that is taken over, for calls of up to max_keys keys.  On
 * failure nothing is held and err says why: the backend cannot, or memory is short. */
bool stack_reuse_open(struct stack_reuse *out, const struct stack *stack,
                      const struct backend *backend, struct device *dev,
                      const struct model_config *config, int max_keys, struct error *err);
void stack_reuse_close(struct stack_reuse *r);

/* Where a layer's selection is kept; NULL: no other layer takes it over. */
struct selection *stack_reuse_of_layer(const struct stack_reuse *r, int layer);
/* What an item takes over; NULL: it chooses by itself. */
const struct selection *stack_reuse_of_item(const struct stack_reuse *r,
                                            const struct stack_item *item);

/* Layers that others take over: selections that open takes. */
int stack_reuse_count(const struct stack *stack);
/* Whether a masker of the layer's list takes another layer over. */
bool stack_reuse_in_layer(const struct stack *stack, int layer);

#endif
