/* The indexes over keys that a stack's maskers ask for, one per masker in the stack.
 *
 * An index has room for all layers of the model, as backends open it, but is brought up to date
 * only in the layers whose list has its masker. */
#ifndef ATTNSCOPE_ENGINE_ATTENTION_STACK_INDEX_H
#define ATTNSCOPE_ENGINE_ATTENTION_STACK_INDEX_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/attention/stack.h"
#include "engine/base/error.h"
#include "kernels/backend.h"

struct stack_index {
    const struct backend *backend; /* borrowed, with dev */
    struct device *dev;
    struct key_index *slot[STACK_MAX_MASKERS];  /* by item; NULL where a masker asks for none */
    float logit_scale[STACK_MAX_MASKERS];       /* as struct masker_call has it */
    struct layer_set layers[STACK_MAX_MASKERS]; /* of the item's list */
};

/* Opens them, empty, for one lane of up to max_keys keys; maskers that are off get none.  On
 * failure nothing is held and err says which masker: its backend has not what it needs, its file
 * cannot be used, or memory is short. */
bool stack_index_open(struct stack_index *out, const struct stack *stack,
                      const struct backend *backend, struct device *dev,
                      const struct masker_model *model, int max_keys, struct error *err);
void stack_index_close(struct stack_index *s);

/* index_update of those that the call's layer uses. */
void stack_index_update(const struct stack_index *s, const struct attention *att);

/* About the bytes of device memory that open takes; what cannot be opened counts nothing. */
uint64_t stack_index_bytes(const struct stack *stack, const struct backend *backend,
                           struct device *dev, const struct masker_model *model, int max_keys);

#endif
