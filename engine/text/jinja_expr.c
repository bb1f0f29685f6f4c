/* Evaluating expressions. */
#include <stdio.h>
#include <string.h>

#include "engine/text/jinja_run.h"
#include "engine/text/jinja_scope.h"

static bool eval_truth(struct jinja_run *run, const struct jinja_scope *scope,
                       const struct jinja_node *node)
{
    return jinja_truth(jinja_eval(run, scope, node));
}

/* What `x` is called in messages about it. */
static struct jinja_value undefined_name(struct jinja_run *run, const struct jinja_string *name)
{
    char *missing = jinja_alloc(&run->arena, name->len + 3);
    snprintf(missing, name->len + 3, "`%.*s`", (int)name->len, name->data);
    return jinja_undefined(missing);
}

static struct jinja_value eval_name(struct jinja_run *run, const struct jinja_scope *scope,
                                    const struct jinja_string *name)
{
    const struct jinja_value *found = jinja_scope_find(run, scope, name);
    if (found)
        return *found;
    struct jinja_value builtin = jinja_builtin(name);
    return builtin.kind == JINJA_UNDEFINED ? undefined_name(run, name) : builtin;
}

static struct jinja_value eval_items(struct jinja_run *run, const struct jinja_scope *scope,
                                     const struct jinja_node *node)
{
    struct jinja_value out =
        jinja_sequence_new(run, node->kind == NODE_LIST ? JINJA_LIST : JINJA_TUPLE);
    for (const struct jinja_node *item = node->a; item; item = item->next)
        jinja_push(run, out.sequence, jinja_eval(run, scope, item));
    return out;
}

static struct jinja_value eval_dict(struct jinja_run *run, const struct jinja_scope *scope,
                                    const struct jinja_node *node)
{
    struct jinja_value out = jinja_dict_new(run);
    for (const struct jinja_node *pair = node->a; pair; pair = pair->next) {
        struct jinja_value key = jinja_eval(run, scope, pair->a);
        jinja_dict_set(run, out.dict, key, jinja_eval(run, scope, pair->b));
    }
    return out;
}

/* The first operand that decides, or the last. */
static struct jinja_value eval_and_or(struct jinja_run *run, const struct jinja_scope *scope,
                                      const struct jinja_node *node)
{
    struct jinja_value value = jinja_none();
    for (const struct jinja_node *operand = node->a; operand; operand = operand->next) {
        value = jinja_eval(run, scope, operand);
        if (jinja_truth(value) == (node->kind == NODE_OR))
            break;
    }
    return value;
}

static struct jinja_value eval_concat(struct jinja_run *run, const struct jinja_scope *scope,
                                      const struct jinja_node *node)
{
    struct jinja_builder b = jinja_builder_new(run);
    for (const struct jinja_node *operand = node->a; operand; operand = operand->next)
        jinja_print(&b, jinja_eval(run, scope, operand));
    return jinja_built(&b);
}

static struct jinja_value eval_arithmetic(struct jinja_run *run, const struct jinja_scope *scope,
                                          const struct jinja_node *node)
{
    struct jinja_value left = jinja_eval(run, scope, node->a);
    for (const struct jinja_node *operand = node->b; operand; operand = operand->next)
        left = jinja_binary(run, operand->op, left, jinja_eval(run, scope, operand->a));
    return left;
}

/* a < b < c is (a < b) and (b < c), with b evaluated once. */
static struct jinja_value eval_compare(struct jinja_run *run, const struct jinja_scope *scope,
                                       const struct jinja_node *node)
{
    struct jinja_value left = jinja_eval(run, scope, node->a);
    for (const struct jinja_node *operand = node->b; operand; operand = operand->next) {
        struct jinja_value right = jinja_eval(run, scope, operand->a);
        if (!jinja_compare(run, operand->op, left, right))
            return jinja_bool(false);
        left = right;
    }
    return jinja_bool(true);
}

static struct jinja_value eval_cond(struct jinja_run *run, const struct jinja_scope *scope,
                                    const struct jinja_node *node)
{
    if (eval_truth(run, scope, node->a))
        return jinja_eval(run, scope, node->b);
    return node->c ? jinja_eval(run, scope, node->c) : jinja_undefined("an `if` without `else`");
}

static struct jinja_value eval_slice(struct jinja_run *run, const struct jinja_scope *scope,
                                     const struct jinja_node *link, struct jinja_value v)
{
    struct jinja_value bounds[3] = {
        link->a ? jinja_eval(run, scope, link->a) : jinja_none(),
        link->b ? jinja_eval(run, scope, link->b) : jinja_none(),
        link->c ? jinja_eval(run, scope, link->c) : jinja_none(),
    };
    return jinja_slice(run, v, bounds);
}

static void add_named(struct jinja_run *run, struct jinja_args *args, size_t *capacity,
                      const struct jinja_string *name, struct jinja_value value)
{
    for (size_t i = 0; i < args->n_named; i++)
        if (args->names[i]->len == name->len &&
            !memcmp(args->names[i]->data, name->data, name->len))
            jinja_raise(&run->trap, "the argument `%.*s` is given twice", (int)name->len,
                        name->data);
    if (args->n_named == *capacity) {
        size_t wanted = *capacity * 2 + 4;
        args->names = jinja_grow(&run->arena, args->names, *capacity * sizeof *args->names,
                                 wanted * sizeof *args->names);
        args->named = jinja_grow(&run->arena, args->named, *capacity * sizeof *args->named,
                                 wanted * sizeof *args->named);
        *capacity = wanted;
    }
    args->names[args->n_named] = name;
    args->named[args->n_named++] = value;
}

/* **v */
static void add_all_named(struct jinja_run *run, struct jinja_args *args, size_t *capacity,
                          struct jinja_value v)
{
    if (v.kind != JINJA_DICT)
        jinja_raise(&run->trap, "`**` needs a dict, not %s", jinja_type_name(v));
    for (size_t i = 0; i < v.dict->n; i++) {
        if (v.dict->keys[i].kind != JINJA_STRING)
            jinja_raise(&run->trap, "the keys behind `**` must be strings");
        add_named(run, args, capacity, v.dict->keys[i].string, v.dict->values[i]);
    }
}

const struct jinja_args *jinja_eval_args(struct jinja_run *run, const struct jinja_scope *scope,
                                         const struct jinja_node *node)
{
    static const struct jinja_args NONE;
    if (!node)
        return &NONE;
    struct jinja_args *args = jinja_alloc(&run->arena, sizeof *args);
    struct jinja_sequence positional = {0};
    size_t capacity = 0;
    for (; node; node = node->next) {
        struct jinja_value value = jinja_eval(run, scope, node->a);
        if (node->op == JINJA_POWER) {
            add_all_named(run, args, &capacity, value);
        } else if (node->op == JINJA_MULTIPLY) {
            struct jinja_span span = jinja_walk(run, value);
            for (size_t i = 0; i < span.n; i++)
                jinja_push(run, &positional, span.items[i]);
        } else if (node->text) {
            add_named(run, args, &capacity, node->text, value);
        } else {
            jinja_push(run, &positional, value);
        }
    }
    args->positional = positional.items;
    args->n = positional.n;
    return args;
}

static struct jinja_value eval_link(struct jinja_run *run, const struct jinja_scope *scope,
                                    const struct jinja_node *link, struct jinja_value v)
{
    switch (link->kind) {
    case NODE_ATTRIBUTE:
        return jinja_attribute(run, v, link->text);
    case NODE_ITEM:
        return jinja_item(run, v, jinja_eval(run, scope, link->a));
    case NODE_SLICE:
        return eval_slice(run, scope, link, v);
    case NODE_CALL:
        return jinja_call(run, v, jinja_eval_args(run, scope, link->a));
    case NODE_FILTER:
        return jinja_apply_filter(run, link->text, v, jinja_eval_args(run, scope, link->a));
    default:
        return jinja_bool(jinja_apply_test(run, link->text, v,
                                           jinja_eval_args(run, scope, link->a)) != link->negated);
    }
}

struct jinja_value jinja_eval_filters(struct jinja_run *run, const struct jinja_scope *scope,
                                      const struct jinja_node *chain, struct jinja_value input)
{
    for (; chain; chain = chain->next) {
        run->trap.line = chain->line;
        jinja_charge(run, 1);
        input = eval_link(run, scope, chain, input);
    }
    return input;
}

static struct jinja_value eval_node(struct jinja_run *run, const struct jinja_scope *scope,
                                    const struct jinja_node *node)
{
    switch (node->kind) {
    case NODE_CONST:
        return node->value;
    case NODE_NAME:
        return eval_name(run, scope, node->text);
    case NODE_LIST:
    case NODE_TUPLE:
        return eval_items(run, scope, node);
    case NODE_DICT:
        return eval_dict(run, scope, node);
    case NODE_COND:
        return eval_cond(run, scope, node);
    case NODE_AND:
    case NODE_OR:
        return eval_and_or(run, scope, node);
    case NODE_NOT:
        return jinja_bool(!eval_truth(run, scope, node->a));
    case NODE_CONCAT:
        return eval_concat(run, scope, node);
    case NODE_SIGN:
        return jinja_negate(run, jinja_eval(run, scope, node->a), node->op == JINJA_SUBTRACT);
    case NODE_ARITHMETIC:
        return eval_arithmetic(run, scope, node);
    case NODE_COMPARE:
        return eval_compare(run, scope, node);
    default: /* NODE_POSTFIX */
        return jinja_eval_filters(run, scope, node->b, jinja_eval(run, scope, node->a));
    }
}

struct jinja_value jinja_eval(struct jinja_run *run, const struct jinja_scope *scope,
                              const struct jinja_node *node)
{
    jinja_descend(run);
    run->trap.line = node->line;
    struct jinja_value value = eval_node(run, scope, node);
    jinja_ascend(run);
    return value;
}
