/* Stacks: ordered lists of maskers with their parameters, in memory, in the short form, in our
 * JSON and in the reference project's.
 *
 * A stack is a value: copy it by assignment.  An empty stack (or one with all maskers off) is
 * dense attention. */
#ifndef ATTNSCOPE_ENGINE_ATTENTION_STACK_H
#define ATTNSCOPE_ENGINE_ATTENTION_STACK_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/attention/masker.h"
#include "engine/base/buf.h"
#include "engine/base/error.h"
#include "engine/base/json.h"

enum { STACK_MAX_MASKERS = 16, STACK_NAME_MAX = 64 };

struct stack_item {
    const struct masker *masker;
    struct masker_values values;
    bool off; /* kept in the list but not used */
};

struct stack {
    char name[STACK_NAME_MAX]; /* a preset's name, or "" */
    int n;
    struct stack_item items[STACK_MAX_MASKERS];
};

/* Adds a masker with its default values; false if the stack is full. */
bool stack_add(struct stack *s, const struct masker *m, struct error *err);
void stack_remove(struct stack *s, int i);
void stack_move(struct stack *s, int from, int to);
bool stack_is_dense(const struct stack *s);
bool stack_equal(const struct stack *a, const struct stack *b); /* less the name */
bool stack_reads_all_keys(const struct stack *s);

/* Checks values and rules (at most one sampler); err says which masker, which parameter, the
 * range.  All that parse a stack call it. */
bool stack_check(const struct stack *s, struct error *err);
/* Appends one sentence per line about what is legal but likely unwanted ("the sampler is not
 * last", "sink 128 + local 128 covers all 240 keys: everything will be dense"); n_keys 0: unknown.
 */
void stack_warn(const struct stack *s, int n_keys, struct buf *out);

/* What a person types: a short form "sink:4,local:64,oracle-topk:5%:share=group", or inline JSON
 * of either form.  A bare integer counts keys; a % or a decimal is a fraction. */
bool stack_parse(struct stack *out, const char *text, struct error *err);
/* name in messages. */
bool stack_from_json(struct stack *out, const struct json *v, const char *name, struct error *err);
/* Our form {"name":...,"stack":[{"masker":"sink","sink_size":4},...]}, or with only the array. */
struct json *stack_to_json(const struct stack *s);
struct json *stack_items_to_json(const struct stack *s);
/* The reference's {"masker_configs":[{"type":"SinkMaskerConfig","params":{...}}]}. */
struct json *stack_to_reference_json(const struct stack *s);
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
