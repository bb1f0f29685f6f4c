/* Stacks: ordered lists of maskers with their parameters, in memory, in the short form, in our
 * JSON and in the reference project's.
 *
 * A stack has one list for all layers, and may have groups of layers with a list of their own.  It
 * is a value: copy it by assignment.  An empty list (or one with all maskers off) is dense
 * attention. */
#ifndef ATTNSCOPE_ENGINE_ATTENTION_STACK_H
#define ATTNSCOPE_ENGINE_ATTENTION_STACK_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/attention/layer_set.h"
#include "engine/attention/masker.h"
#include "engine/base/buf.h"
#include "engine/base/error.h"
#include "engine/base/json.h"

enum {
    STACK_MAX_MASKERS = 24, /* of all lists together */
    STACK_MAX_GROUPS = 8,
    STACK_NAME_MAX = 64
};

struct stack_item {
    const struct masker *masker;
    struct masker_values values;
    bool off; /* kept in the list but not used */
};

struct layer_group {
    struct layer_set layers;
    int n; /* maskers of its list; 0: these layers are dense */
};

struct stack {
    char name[STACK_NAME_MAX]; /* a preset's name, or "" */
    int n;                     /* maskers of the list for all layers that no group has */
    int n_groups;
    struct layer_group groups[STACK_MAX_GROUPS];
    struct stack_item items[STACK_MAX_MASKERS]; /* that list, then each group's */
};

/* One list of a stack: items [first, first + n). */
struct stack_list {
    int first, n;
};

/* Lists by number: 0 is for all layers that no group has, 1 + i is group i's. */
int stack_n_items(const struct stack *s); /* of all lists */
struct stack_list stack_list_at(const struct stack *s, int list);
int stack_list_of_layer(const struct stack *s, int layer);
int stack_list_of_item(const struct stack *s, int item);
struct layer_set stack_list_layers(const struct stack *s, int list);
/* Whether the list of a layer keeps every visible key. */
bool stack_layer_is_dense(const struct stack *s, int layer);
/* One list as a stack of its own, for all layers. */
struct stack stack_of_list(const struct stack *s, int list);

/* Adds a masker with its default values to the list for all layers, or to any; false if the stack
 * is full. */
bool stack_add(struct stack *s, const struct masker *m, struct error *err);
bool stack_add_to(struct stack *s, int list, const struct masker *m, struct error *err);
/* Adds a group with an empty list.  False: there are too many, or a layer is in another group. */
bool stack_add_group(struct stack *s, const struct layer_set *layers, struct error *err);
void stack_remove(struct stack *s, int item);
void stack_move(struct stack *s, int from, int to);             /* within one list */
bool stack_is_dense(const struct stack *s);                     /* in every layer */
bool stack_equal(const struct stack *a, const struct stack *b); /* less the name */
bool stack_reads_all_keys(const struct stack *s);

/* Checks values and rules (at most one sampler in a list; a masker that takes an earlier layer's
 * selection over names one that chooses); err says which layers, which masker, which parameter, the
 * range.  All that parse a stack call it. */
bool stack_check(const struct stack *s, struct error *err);
/* Whether a model has the layers that the groups name. */
bool stack_check_layers(const struct stack *s, int n_layers, struct error *err);
/* Appends one sentence per line about what is legal but likely unwanted ("the sampler is not
 * last", "sink 128 + local 128 covers all 240 keys: everything will be dense"); n_keys 0: unknown.
 */
void stack_warn(const struct stack *s, int n_keys, struct buf *out);

/* What a person types: a short form "sink:4,local:64,oracle-topk:5%:share=group", or inline JSON
 * of either form.  A bare integer counts keys; a % or a decimal is a fraction.  Groups of layers
 * follow: "hash:5%; layers 0-1: dense; layers 6,9-11: sink:4,local:64". */
bool stack_parse(struct stack *out, const char *text, struct error *err);
/* name in messages. */
bool stack_from_json(struct stack *out, const struct json *v, const char *name, struct error *err);
/* Our form {"name":...,"stack":[{"masker":"sink","sink_size":4},...]}, or only what is under
 * "stack".  With groups that is {"maskers":[...],"layers":[{"layers":"0-1","maskers":[...]},...]}
 * in place of the array. */
struct json *stack_to_json(const struct stack *s);
struct json *stack_items_to_json(const struct stack *s);
/* The reference's {"masker_configs":[{"type":"SinkMaskerConfig","params":{...}}]}, of a stack that
 * stack_has_reference_form accepts: one without groups. */
struct json *stack_to_reference_json(const struct stack *s);
bool stack_has_reference_form(const struct stack *s, struct error *err);
/* The short form, defaults of further parameters left out; "dense" if empty. */
void stack_write_short(const struct stack *s, struct buf *out);

/* Parameter i of a masker, of any kind: as people write it and back, checked; whether it is the
 * default.  What follows is the same for single values of all kinds but paths. */
void masker_value_write(const struct masker *m, const struct masker_values *values, int i,
                        struct buf *out);
bool masker_value_parse(const struct masker *m, struct masker_values *values, int i,
                        const char *text, struct error *err);
bool masker_value_is_default(const struct masker *m, const struct masker_values *values, int i);

/* One value as people write it: "128", "5%", "0.9", "group"; and back, checked. */
void param_write(const struct masker_param *p, struct budget value, struct buf *out);
bool param_parse(const struct masker_param *p, const char *text, struct budget *out,
                 struct error *err);
bool param_check(const struct masker_param *p, struct budget value, struct error *err);
/* One step up or down (direction +1, -1), or doubled / halved (+2, -2), kept within bounds. */
struct budget param_step(const struct masker_param *p, struct budget value, int direction);

#endif
