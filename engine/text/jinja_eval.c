/* Running statements. */
#include <stdio.h>
#include <string.h>

#include "engine/text/jinja_methods.h"
#include "engine/text/jinja_run.h"
#include "engine/text/jinja_scope.h"

enum flow { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE };

struct jinja_macro {
    const struct jinja_node *node;   /* NODE_MACRO */
    const struct jinja_scope *scope; /* where it was defined */
};

/* A running `for`.  Items pass its filter one at a time, as the body may change what the filter
 * sees; loop.last and loop.nextitem look one ahead, loop.length looks at all. */
struct jinja_loop {
    struct jinja_span source; /* not yet filtered: from pos on */
    size_t pos;
    struct jinja_sequence passed; /* items that passed the filter so far */
    size_t index;                 /* of the current item in passed */
    const struct jinja_node *node;
    const struct jinja_scope *scope; /* around the loop */
    struct jinja_value last_changed; /* the last argument of changed() */
};

static enum flow run_body(struct jinja_run *run, struct jinja_scope *scope,
                          const struct jinja_node *body);

static void assign(struct jinja_run *run, struct jinja_scope *scope,
                   const struct jinja_node *target, struct jinja_value value)
{
    if (target->kind == NODE_NAME) {
        jinja_scope_set(run, scope, target->text, value);
        return;
    }
    if (target->kind == NODE_NAMESPACE_REF) {
        const struct jinja_value *found = jinja_scope_find(run, scope, target->text);
        if (!found || found->kind != JINJA_NAMESPACE)
            jinja_raise(&run->trap, "`%.*s` is not a namespace, so its attributes cannot be set",
                        (int)target->text->len, target->text->data);
        jinja_dict_set(run, found->dict, target->value, value);
        return;
    }
    struct jinja_span items = jinja_walk(run, value);
    size_t n = 0;
    for (const struct jinja_node *item = target->a; item; item = item->next)
        n++;
    if (value.kind == JINJA_UNDEFINED || items.n != n)
        jinja_raise(&run->trap, "%zu values cannot be assigned to %zu names", items.n, n);
    n = 0;
    for (const struct jinja_node *item = target->a; item; item = item->next)
        assign(run, scope, item, items.items[n++]);
}

/* What a body prints, as a string. */
static struct jinja_value capture(struct jinja_run *run, struct jinja_scope *scope,
                                  const struct jinja_node *body)
{
    struct jinja_builder *outer = run->out;
    struct jinja_builder captured = jinja_builder_new(run);
    run->out = &captured;
    run_body(run, scope, body);
    run->out = outer;
    return jinja_built(&captured);
}

/* Lets at least n_wanted items through the filter, if there are so many. */
static void filter_ahead(struct jinja_run *run, struct jinja_loop *loop, size_t n_wanted)
{
    while (loop->passed.n < n_wanted && loop->pos < loop->source.n) {
        struct jinja_value item = loop->source.items[loop->pos++];
        if (loop->node->e) {
            struct jinja_scope *scope = jinja_scope_new(run, loop->scope);
            assign(run, scope, loop->node->a, item);
            if (!jinja_truth(jinja_eval(run, scope, loop->node->e)))
                continue;
            item = jinja_eval(run, scope, loop->node->a); /* [1, 2] for `a, b` becomes (1, 2) */
        }
        jinja_push(run, &loop->passed, item);
    }
}

static struct jinja_value loop_item(const struct jinja_loop *loop, size_t index, const char *name)
{
    return index < loop->passed.n ? loop->passed.items[index] : jinja_undefined(name);
}

bool jinja_loop_attribute(struct jinja_run *run, struct jinja_loop *loop, const char *name,
                          struct jinja_value *out)
{
    size_t index = loop->index;
    bool ahead = !strcmp(name, "last") || !strcmp(name, "nextitem");
    bool all = !strcmp(name, "length") || !strncmp(name, "revindex", strlen("revindex"));
    filter_ahead(run, loop, all ? SIZE_MAX : ahead ? index + 2 : 0);
    const struct {
        const char *name;
        struct jinja_value value;
    } attributes[] = {
        {"index", jinja_int((int64_t)index + 1)},
        {"index0", jinja_int((int64_t)index)},
        {"first", jinja_bool(index == 0)},
        {"last", jinja_bool(index + 1 >= loop->passed.n)},
        {"length", jinja_int((int64_t)loop->passed.n)},
        {"revindex", jinja_int((int64_t)loop->passed.n - (int64_t)index)},
        {"revindex0", jinja_int((int64_t)loop->passed.n - (int64_t)index - 1)},
        {"previtem", index ? loop->passed.items[index - 1] : jinja_undefined("loop.previtem")},
        {"nextitem", loop_item(loop, index + 1, "loop.nextitem")},
        {"depth", jinja_int(1)}, /* grows only in recursive loops */
        {"depth0", jinja_int(0)},
    };
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++) {
        if (strcmp(attributes[i].name, name) != 0)
            continue;
        *out = attributes[i].value;
        return true;
    }
    struct jinja_string text = {.data = name, .len = strlen(name)};
    return jinja_find_method(run, (struct jinja_value){.kind = JINJA_LOOP, .loop = loop}, &text,
                             out);
}

struct jinja_value jinja_loop_cycle(struct jinja_run *run, struct jinja_value loop,
                                    const struct jinja_args *args)
{
    if (!args->n)
        jinja_raise(&run->trap, "loop.cycle needs at least one value");
    return args->positional[loop.loop->index % args->n];
}

struct jinja_value jinja_loop_changed(struct jinja_run *run, struct jinja_value loop,
                                      const struct jinja_args *args)
{
    struct jinja_value now = jinja_sequence_new(run, JINJA_TUPLE);
    for (size_t i = 0; i < args->n; i++)
        jinja_push(run, now.sequence, args->positional[i]);
    bool changed = !jinja_equal(run, loop.loop->last_changed, now);
    loop.loop->last_changed = now;
    return jinja_bool(changed);
}

static struct jinja_string LOOP_NAME = {.data = "loop", .len = 4, .n_chars = 4};

/* The else body runs unless some iteration reached the end of its body: in Jinja a break or
 * continue in each of them brings it too. */
static void run_for(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *node)
{
    bool completed = false;
    struct jinja_loop *loop = jinja_alloc(&run->arena, sizeof *loop);
    *loop = (struct jinja_loop){
        .source = jinja_walk(run, jinja_eval(run, scope, node->b)), .node = node, .scope = scope};
    for (;; loop->index++) {
        filter_ahead(run, loop, loop->index + 1);
        if (loop->index >= loop->passed.n)
            break;
        struct jinja_scope *inner = jinja_scope_new(run, scope);
        jinja_charge(run, 1);
        assign(run, inner, node->a, loop->passed.items[loop->index]);
        jinja_scope_set(run, inner, &LOOP_NAME,
                        (struct jinja_value){.kind = JINJA_LOOP, .loop = loop});
        enum flow flow = run_body(run, inner, node->c);
        completed |= flow == FLOW_ON;
        if (flow == FLOW_BREAK)
            break;
    }
    if (!completed)
        run_body(run, jinja_scope_new(run, scope), node->d);
}

static enum flow run_if(struct jinja_run *run, struct jinja_scope *scope,
                        const struct jinja_node *node)
{
    for (const struct jinja_node *branch = node->a; branch; branch = branch->next)
        if (!branch->a || jinja_truth(jinja_eval(run, scope, branch->a)))
            return run_body(run, scope, branch->b);
    return FLOW_ON;
}

static struct jinja_value new_macro(struct jinja_run *run, const struct jinja_scope *scope,
                                    const struct jinja_node *node)
{
    struct jinja_macro *macro = jinja_alloc(&run->arena, sizeof *macro);
    *macro = (struct jinja_macro){.node = node, .scope = scope};
    return (struct jinja_value){.kind = JINJA_MACRO, .macro = macro};
}

/* Takes the named argument out of left [args->n_named flags], if it is there. */
static bool take_named(const struct jinja_args *args, bool *left, const struct jinja_string *name,
                       struct jinja_value *out)
{
    for (size_t i = 0; i < args->n_named; i++) {
        if (!left[i] || args->names[i]->len != name->len ||
            memcmp(args->names[i]->data, name->data, name->len) != 0)
            continue;
        left[i] = false;
        *out = args->named[i];
        return true;
    }
    return false;
}

/* Gives each parameter its argument, its default, or undefined. */
static size_t bind_params(struct jinja_run *run, struct jinja_scope *scope,
                          const struct jinja_node *params, const struct jinja_args *args,
                          bool *left)
{
    size_t n = 0;
    for (const struct jinja_node *param = params; param; param = param->next, n++) {
        struct jinja_value value;
        if (n < args->n)
            value = args->positional[n];
        else if (!take_named(args, left, param->text, &value))
            value = param->a ? jinja_eval(run, scope, param->a)
                             : jinja_undefined("a macro's parameter without a value");
        jinja_scope_set(run, scope, param->text, value);
    }
    return n;
}

static struct jinja_string CALLER_NAME = {.data = "caller", .len = 6, .n_chars = 6};
static struct jinja_string VARARGS_NAME = {.data = "varargs", .len = 7, .n_chars = 7};
static struct jinja_string KWARGS_NAME = {.data = "kwargs", .len = 6, .n_chars = 6};

/* What is left over goes to caller, kwargs and varargs where the body mentions them; anything
 * else left is an error. */
static void bind_rest(struct jinja_run *run, struct jinja_scope *scope,
                      const struct jinja_node *node, const struct jinja_args *args, bool *left,
                      size_t n_params)
{
    struct jinja_value caller = jinja_undefined("`caller`");
    if (node->uses_caller) {
        take_named(args, left, &CALLER_NAME, &caller);
        jinja_scope_set(run, scope, &CALLER_NAME, caller);
    }
    struct jinja_value kwargs = jinja_dict_new(run);
    for (size_t i = 0; i < args->n_named; i++) {
        if (!left[i])
            continue;
        if (!node->uses_kwargs)
            jinja_raise(&run->trap, "the macro `%.*s` has no parameter `%.*s`",
                        (int)node->text->len, node->text->data, (int)args->names[i]->len,
                        args->names[i]->data);
        jinja_dict_set(run, kwargs.dict, jinja_text(run, args->names[i]->data, args->names[i]->len),
                       args->named[i]);
    }
    if (node->uses_kwargs)
        jinja_scope_set(run, scope, &KWARGS_NAME, kwargs);
    if (args->n > n_params && !node->uses_varargs)
        jinja_raise(&run->trap, "the macro `%.*s` takes %zu values, %zu were given",
                    (int)node->text->len, node->text->data, n_params, args->n);
    if (!node->uses_varargs)
        return;
    struct jinja_value varargs = jinja_sequence_new(run, JINJA_TUPLE);
    for (size_t i = n_params; i < args->n; i++)
        jinja_push(run, varargs.sequence, args->positional[i]);
    jinja_scope_set(run, scope, &VARARGS_NAME, varargs);
}

struct jinja_value jinja_call_macro(struct jinja_run *run, const struct jinja_macro *macro,
                                    const struct jinja_args *args)
{
    struct jinja_scope *scope = jinja_scope_new(run, macro->scope);
    bool *left = jinja_alloc(&run->arena, args->n_named);
    memset(left, true, args->n_named);
    if (++run->macro_depth > JINJA_MAX_MACRO_DEPTH)
        jinja_raise(&run->trap, "macros call each other more than %d deep, the limit",
                    JINJA_MAX_MACRO_DEPTH);
    size_t n_params = bind_params(run, scope, macro->node->a, args, left);
    bind_rest(run, scope, macro->node, args, left, n_params);
    struct jinja_value text = capture(run, scope, macro->node->b);
    run->macro_depth--;
    return text;
}

/* What a block gives must be text already. */
static void print_text(struct jinja_run *run, struct jinja_value v)
{
    if (v.kind != JINJA_STRING)
        jinja_raise(&run->trap, "a block gives %s where it must give a string", jinja_type_name(v));
    jinja_print(run->out, v);
}

/* {% call macro(x) %}body{% endcall %}: the macro gets the body as the macro `caller`. */
static void run_call(struct jinja_run *run, struct jinja_scope *scope,
                     const struct jinja_node *node)
{
    struct jinja_value v = jinja_eval(run, scope, node->a->a);
    const struct jinja_node *link = node->a->b;
    struct jinja_node last = {0};
    for (; link->next; link = link->next) {
        last = *link;
        last.next = NULL;
        v = jinja_eval_filters(run, scope, &last, v);
    }
    const struct jinja_args *given = jinja_eval_args(run, scope, link->a);
    struct jinja_args args = *given;
    args.names = jinja_alloc_array(&run->arena, args.n_named + 1, sizeof *args.names);
    args.named = jinja_alloc_array(&run->arena, args.n_named + 1, sizeof *args.named);
    for (size_t i = 0; i < given->n_named; i++) {
        args.names[i] = given->names[i];
        args.named[i] = given->named[i];
    }
    args.names[args.n_named] = &CALLER_NAME;
    args.named[args.n_named++] = new_macro(run, scope, node->b);
    print_text(run, jinja_call(run, v, &args));
}

static void run_with(struct jinja_run *run, struct jinja_scope *scope,
                     const struct jinja_node *node)
{
    struct jinja_scope *inner = jinja_scope_new(run, scope);
    for (const struct jinja_node *set = node->a; set; set = set->next)
        assign(run, inner, set->a, jinja_eval(run, scope, set->b));
    run_body(run, inner, node->b);
}

static enum flow run_statement(struct jinja_run *run, struct jinja_scope *scope,
                               const struct jinja_node *node)
{
    struct jinja_value value;
    switch (node->kind) {
    case NODE_TEXT:
        jinja_put(run->out, node->text->data, node->text->len);
        return FLOW_ON;
    case NODE_PRINT:
        jinja_print(run->out, jinja_eval(run, scope, node->a));
        return FLOW_ON;
    case NODE_IF:
        return run_if(run, scope, node);
    case NODE_FOR:
        run_for(run, scope, node);
        return FLOW_ON;
    case NODE_SET:
        assign(run, scope, node->a, jinja_eval(run, scope, node->b));
        return FLOW_ON;
    case NODE_SET_BLOCK:
        value = capture(run, jinja_scope_new(run, scope), node->c);
        assign(run, scope, node->a, jinja_eval_filters(run, scope, node->b, value));
        return FLOW_ON;
    case NODE_MACRO:
        jinja_scope_set(run, scope, node->text, new_macro(run, scope, node));
        return FLOW_ON;
    case NODE_CALL_BLOCK:
        run_call(run, scope, node);
        return FLOW_ON;
    case NODE_FILTER_BLOCK:
        value = capture(run, jinja_scope_new(run, scope), node->b);
        print_text(run, jinja_eval_filters(run, scope, node->a, value));
        return FLOW_ON;
    case NODE_WITH:
        run_with(run, scope, node);
        return FLOW_ON;
    case NODE_GENERATION:
        jinja_print(run->out, capture(run, jinja_scope_new(run, scope), node->b));
        return FLOW_ON;
    case NODE_BREAK:
        return FLOW_BREAK;
    default: /* NODE_CONTINUE */
        return FLOW_CONTINUE;
    }
}

static enum flow run_body(struct jinja_run *run, struct jinja_scope *scope,
                          const struct jinja_node *body)
{
    enum flow flow = FLOW_ON;
    jinja_descend(run);
    for (; body && flow == FLOW_ON; body = body->next) {
        run->trap.line = body->line;
        jinja_charge(run, 1);
        flow = run_statement(run, scope, body);
    }
    jinja_ascend(run);
    return flow;
}

void jinja_run_template(struct jinja_run *run, const struct jinja_node *body,
                        const struct json *variables)
{
    struct jinja_scope *scope = jinja_scope_new(run, NULL);
    for (const struct json *v = json_first(variables); v; v = json_next(v))
        jinja_scope_set(run, scope, jinja_text_of(run, json_key(v)).string,
                        jinja_from_json(run, v));
    run_body(run, scope, body);
}
