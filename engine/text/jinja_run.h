/* One rendering: its memory, its budgets, and the functions that the interpreter's files offer
 * each other.  Used by one thread. */
#ifndef ATTNSCOPE_ENGINE_TEXT_JINJA_RUN_H
#define ATTNSCOPE_ENGINE_TEXT_JINJA_RUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/text/jinja_arena.h"
#include "engine/text/jinja_ast.h"
#include "engine/text/jinja_value.h"

/* The budgets; each runs out with an error of its own. */
#define JINJA_MAX_SOURCE_BYTES ((size_t)1 << 20)
#define JINJA_MAX_NODES 100000
#define JINJA_MAX_NESTING 200
#define JINJA_MAX_STEPS 20000000u
#define JINJA_MAX_MACRO_DEPTH 100
#define JINJA_MAX_EVAL_DEPTH 2500 /* nesting times macro depth, held so that the stack suffices */
#define JINJA_MAX_RANGE 100000
#define JINJA_MAX_OUTPUT_BYTES ((size_t)64 << 20)
#define JINJA_MAX_STRING_BYTES ((size_t)16 << 20)
#define JINJA_MAX_MEMORY_BYTES ((size_t)256 << 20)
#define JINJA_MAX_SECONDS 2

/* A string being written.  Raises past its limit. */
struct jinja_builder {
    struct jinja_run *run;
    char *data;
    size_t len, capacity, limit_bytes;
};

struct jinja_scope;

struct jinja_run {
    struct jinja_trap trap;
    struct jinja_arena arena;
    struct jinja_builder *out; /* where `{{ }}` prints: the page, a macro's text, a block's text */
    long long now_unix_s;
    uint64_t steps, next_clock_step;
    int64_t deadline_ns;
    int depth, macro_depth;
};

/* Counts work; raises when the steps or the time run out. */
void jinja_charge(struct jinja_run *run, size_t n);

/* Bracket every function that can call itself on data. */
void jinja_descend(struct jinja_run *run);
void jinja_ascend(struct jinja_run *run);

/* jinja_builder.c */
struct jinja_builder jinja_builder_new(struct jinja_run *run);
void jinja_put(struct jinja_builder *b, const char *data, size_t n);
void jinja_put_text(struct jinja_builder *b, const char *terminated);
void jinja_put_code_point(struct jinja_builder *b, uint32_t code_point);
struct jinja_value jinja_built(struct jinja_builder *b);

/* jinja_print.c: Python's str, repr and json.dumps. */
void jinja_print(struct jinja_builder *b, struct jinja_value v);
void jinja_print_repr(struct jinja_builder *b, struct jinja_value v);
struct jinja_value jinja_to_text(struct jinja_run *run, struct jinja_value v);
struct jinja_value jinja_to_json(struct jinja_run *run, struct jinja_value v,
                                 const struct jinja_value *options);

/* jinja_expr.c */
struct jinja_value jinja_eval(struct jinja_run *run, const struct jinja_scope *scope,
                              const struct jinja_node *node);
/* Applies a chain of filters whose innermost input is input. */
struct jinja_value jinja_eval_filters(struct jinja_run *run, const struct jinja_scope *scope,
                                      const struct jinja_node *chain, struct jinja_value input);
const struct jinja_args *jinja_eval_args(struct jinja_run *run, const struct jinja_scope *scope,
                                         const struct jinja_node *args);

/* jinja_operators.c */
struct jinja_value jinja_binary(struct jinja_run *run, enum jinja_operator op, struct jinja_value a,
                                struct jinja_value b);
struct jinja_value jinja_negate(struct jinja_run *run, struct jinja_value v, bool minus);
bool jinja_compare(struct jinja_run *run, enum jinja_operator op, struct jinja_value a,
                   struct jinja_value b);
/* Python's % on a string. */
struct jinja_value jinja_format(struct jinja_run *run, const struct jinja_string *format,
                                struct jinja_value values);

/* jinja_access.c: v.name, v[key], v[a:b:c]. */
struct jinja_value jinja_attribute(struct jinja_run *run, struct jinja_value v,
                                   const struct jinja_string *name);
struct jinja_value jinja_item(struct jinja_run *run, struct jinja_value v, struct jinja_value key);
struct jinja_value jinja_slice(struct jinja_run *run, struct jinja_value v,
                               const struct jinja_value bounds[3]);

/* jinja_call.c */
struct jinja_value jinja_call(struct jinja_run *run, struct jinja_value callee,
                              const struct jinja_args *args);
struct jinja_value jinja_builtin(const struct jinja_string *name);

/* The parameters of a filter, test, function or method, as Python binds them. */
#define JINJA_MAX_PARAMS 5
struct jinja_signature {
    const char *params[JINJA_MAX_PARAMS]; /* NULL-terminated unless full */
    int n_required;
    bool positional_only;
};
/* Fills values [JINJA_MAX_PARAMS]; what was not given is JINJA_ABSENT.  what is for messages. */
void jinja_bind(struct jinja_run *run, const char *what, const struct jinja_signature *signature,
                const struct jinja_args *args, struct jinja_value *values);

/* jinja_eval.c */
/* Runs a whole template; variables are its outermost names. */
void jinja_run_template(struct jinja_run *run, const struct jinja_node *body,
                        const struct json *variables);
/* The loop's attribute; false if it has none of that name. */
bool jinja_loop_attribute(struct jinja_run *run, struct jinja_loop *loop, const char *name,
                          struct jinja_value *out);
struct jinja_value jinja_call_macro(struct jinja_run *run, const struct jinja_macro *macro,
                                    const struct jinja_args *args);

struct jinja_method {
    const struct jinja_method_entry *entry;
    struct jinja_value object;
};

/* jinja_filters*.c, jinja_tests.c, jinja_methods.c */
struct jinja_value jinja_apply_filter(struct jinja_run *run, const struct jinja_string *name,
                                      struct jinja_value input, const struct jinja_args *args);
bool jinja_apply_test(struct jinja_run *run, const struct jinja_string *name,
                      struct jinja_value input, const struct jinja_args *args);
/* True, with *out the method or undefined, if v's Python type has an attribute of that name. */
bool jinja_find_method(struct jinja_run *run, struct jinja_value v, const struct jinja_string *name,
                       struct jinja_value *out);
struct jinja_value jinja_call_method(struct jinja_run *run, const struct jinja_method *method,
                                     const struct jinja_args *args);

#endif
