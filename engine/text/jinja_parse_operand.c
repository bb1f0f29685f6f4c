/* The parser's operands: literals, names, brackets, and what stands behind a value. */
#include <string.h>

#include "engine/text/jinja_parser.h"

static struct jinja_node *parse_postfix(struct jinja_parser *p, struct jinja_node *base,
                                        bool with_filters);

static struct jinja_node *parse_name(struct jinja_parser *p, bool with_namespace)
{
    static const struct {
        const char *name;
        struct jinja_value value;
    } CONSTANTS[] = {
        {"true", {.kind = JINJA_BOOL, .truth = true}},
        {"True", {.kind = JINJA_BOOL, .truth = true}},
        {"false", {.kind = JINJA_BOOL}},
        {"False", {.kind = JINJA_BOOL}},
        {"none", {.kind = JINJA_NONE}},
        {"None", {.kind = JINJA_NONE}},
    };
    for (size_t i = 0; i < sizeof CONSTANTS / sizeof *CONSTANTS; i++) {
        if (!jinja_at_name(&p->current, CONSTANTS[i].name))
            continue;
        struct jinja_node *node = jinja_node_new(p, NODE_CONST);
        node->value = CONSTANTS[i].value;
        jinja_parser_next(p);
        return node;
    }
    struct jinja_node *node = jinja_node_new(p, NODE_NAME);
    if (p->macro) {
        p->macro->uses_varargs |= jinja_at_name(&p->current, "varargs");
        p->macro->uses_kwargs |= jinja_at_name(&p->current, "kwargs");
        p->macro->uses_caller |= jinja_at_name(&p->current, "caller");
    }
    node->text = jinja_expect_name(p);
    if (with_namespace && jinja_skip_operator(p, ".")) {
        node->kind = NODE_NAMESPACE_REF;
        node->value = (struct jinja_value){.kind = JINJA_STRING, .string = jinja_expect_name(p)};
    }
    return node;
}

/* One string, or adjacent ones joined. */
static struct jinja_node *parse_string(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, NODE_CONST);
    char *data = NULL;
    size_t len = 0;
    while (p->current.kind == TOKEN_STRING) {
        data = jinja_grow(p->arena, data, len, len + p->current.len + 1);
        memcpy(data + len, p->current.text, p->current.len);
        len += p->current.len;
        jinja_parser_next(p);
    }
    node->value =
        (struct jinja_value){.kind = JINJA_STRING, .string = jinja_parser_text(p, data, len)};
    return node;
}

static struct jinja_node *parse_number(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, NODE_CONST);
    if (p->current.kind == TOKEN_FLOAT)
        node->value = (struct jinja_value){.kind = JINJA_FLOAT, .real = p->current.real};
    else
        node->value = (struct jinja_value){.kind = JINJA_INT, .integer = p->current.integer};
    jinja_parser_next(p);
    return node;
}

/* a, b, ... until end, which is passed; a comma may stand before it. */
static struct jinja_node *parse_items(struct jinja_parser *p, const char *end, bool pairs)
{
    struct jinja_node *first = NULL, **last = &first;
    while (!jinja_at_operator(&p->current, end)) {
        if (first) {
            jinja_expect_operator(p, ",");
            if (jinja_at_operator(&p->current, end))
                break;
        }
        struct jinja_node *item = jinja_parse_expression(p);
        if (pairs) {
            struct jinja_node *pair = jinja_node_new(p, NODE_PAIR);
            pair->a = item;
            jinja_expect_operator(p, ":");
            pair->b = jinja_parse_expression(p);
            item = pair;
        }
        *last = item;
        last = &item->next;
    }
    jinja_parser_next(p);
    return first;
}

struct jinja_node *jinja_parse_primary(struct jinja_parser *p, bool with_namespace)
{
    struct jinja_node *node;
    switch (p->current.kind) {
    case TOKEN_NAME:
        return parse_name(p, with_namespace);
    case TOKEN_STRING:
        return parse_string(p);
    case TOKEN_INTEGER:
    case TOKEN_FLOAT:
        return parse_number(p);
    default:
        break;
    }
    jinja_enter(p);
    if (jinja_skip_operator(p, "(")) {
        node = jinja_parse_comma_list(p, NULL, jinja_parse_expression, true);
        jinja_expect_operator(p, ")");
    } else if (jinja_skip_operator(p, "[")) {
        node = jinja_node_new(p, NODE_LIST);
        node->a = parse_items(p, "]", false);
    } else if (jinja_skip_operator(p, "{")) {
        node = jinja_node_new(p, NODE_DICT);
        node->a = parse_items(p, "}", true);
    } else {
        jinja_fail_unexpected(p, "an expression");
    }
    jinja_leave(p);
    return node;
}

/* One of the parts of [a:b:c], or NULL if it is left out. */
static struct jinja_node *parse_bound(struct jinja_parser *p)
{
    bool is_empty = jinja_at_operator(&p->current, ":") || jinja_at_operator(&p->current, "]") ||
                    jinja_at_operator(&p->current, ",");
    return is_empty ? NULL : jinja_parse_expression(p);
}

static struct jinja_node *parse_subscript_part(struct jinja_parser *p)
{
    struct jinja_node *start = parse_bound(p);
    if (start && !jinja_at_operator(&p->current, ":"))
        return start;
    struct jinja_node *slice = jinja_node_new(p, NODE_SLICE);
    jinja_expect_operator(p, ":");
    slice->a = start;
    slice->b = parse_bound(p);
    if (jinja_skip_operator(p, ":"))
        slice->c = parse_bound(p);
    return slice;
}

/* [key], [a:b] or [k1, k2], which is a tuple as key. */
static struct jinja_node *parse_subscript(struct jinja_parser *p)
{
    struct jinja_node *link = jinja_node_new(p, NODE_ITEM);
    struct jinja_node *first = NULL, **last = &first;
    size_t n = 0;
    bool has_slice = false;
    jinja_parser_next(p);
    while (!jinja_at_operator(&p->current, "]")) {
        if (first)
            jinja_expect_operator(p, ",");
        *last = parse_subscript_part(p);
        has_slice |= (*last)->kind == NODE_SLICE;
        last = &(*last)->next;
        n++;
    }
    jinja_parser_next(p);
    if (n == 1 && has_slice)
        return first;
    if (has_slice)
        jinja_raise(p->trap, "a slice among several keys is not supported");
    link->a = first;
    if (n != 1) {
        link->a = jinja_node_new(p, NODE_TUPLE);
        link->a->a = first;
    }
    return link;
}

static struct jinja_node *parse_dot(struct jinja_parser *p)
{
    jinja_parser_next(p);
    struct jinja_node *link = jinja_node_new(p, NODE_ATTRIBUTE);
    if (p->current.kind == TOKEN_INTEGER) {
        link->kind = NODE_ITEM;
        link->a = parse_number(p);
    } else {
        link->text = jinja_expect_name(p);
    }
    return link;
}

static struct jinja_node *parse_argument(struct jinja_parser *p, bool *has_name)
{
    struct jinja_node *argument = jinja_node_new(p, NODE_ARGUMENT);
    if (jinja_skip_operator(p, "*")) {
        argument->op = JINJA_MULTIPLY;
    } else if (jinja_skip_operator(p, "**")) {
        argument->op = JINJA_POWER;
        *has_name = true;
    } else if (p->current.kind == TOKEN_NAME && jinja_at_operator(jinja_parser_look(p), "=")) {
        argument->text = jinja_expect_name(p);
        jinja_parser_next(p);
        *has_name = true;
    } else if (*has_name) {
        jinja_raise(p->trap, "an argument without a name follows one with a name");
    }
    argument->a = jinja_parse_expression(p);
    return argument;
}

static bool has_argument(const struct jinja_node *args, const struct jinja_string *name)
{
    for (; args; args = args->next)
        if (args->text && args->text->len == name->len &&
            !memcmp(args->text->data, name->data, name->len))
            return true;
    return false;
}

/* (a, b=1) */
static struct jinja_node *parse_arguments(struct jinja_parser *p)
{
    struct jinja_node *first = NULL, **last = &first;
    bool has_name = false;
    jinja_enter(p);
    jinja_expect_operator(p, "(");
    while (!jinja_at_operator(&p->current, ")")) {
        if (first) {
            jinja_expect_operator(p, ",");
            if (jinja_at_operator(&p->current, ")"))
                break;
        }
        struct jinja_node *argument = parse_argument(p, &has_name);
        if (argument->text && has_argument(first, argument->text))
            jinja_raise(p->trap, "the argument `%.*s` is given twice", (int)argument->text->len,
                        argument->text->data);
        *last = argument;
        last = &argument->next;
    }
    jinja_parser_next(p);
    jinja_leave(p);
    return first;
}

static struct jinja_node *parse_filter(struct jinja_parser *p)
{
    struct jinja_node *link = jinja_node_new(p, NODE_FILTER);
    link->text = jinja_expect_name(p);
    if (jinja_at_operator(&p->current, "("))
        link->a = parse_arguments(p);
    return link;
}

struct jinja_node *jinja_parse_filters(struct jinja_parser *p, bool inline_first)
{
    struct jinja_node *first = NULL, **last = &first;
    while (inline_first || jinja_skip_operator(p, "|")) {
        inline_first = false;
        *last = parse_filter(p);
        last = &(*last)->next;
    }
    return first;
}

/* True if what follows `is name` is its argument: a value, unless it is a word of the expression
 * around. */
static bool at_test_argument(const struct jinja_parser *p)
{
    const struct jinja_token *t = &p->current;
    if (t->kind == TOKEN_NAME)
        return !jinja_at_name(t, "else") && !jinja_at_name(t, "or") && !jinja_at_name(t, "and");
    return t->kind == TOKEN_STRING || t->kind == TOKEN_INTEGER || t->kind == TOKEN_FLOAT ||
           jinja_at_operator(t, "[") || jinja_at_operator(t, "{");
}

static struct jinja_node *parse_test(struct jinja_parser *p)
{
    jinja_parser_next(p);
    struct jinja_node *link = jinja_node_new(p, NODE_TEST);
    link->negated = jinja_skip_name(p, "not");
    link->text = jinja_expect_name(p);
    if (jinja_at_operator(&p->current, "(")) {
        link->a = parse_arguments(p);
    } else if (at_test_argument(p)) {
        if (jinja_at_name(&p->current, "is"))
            jinja_raise(p->trap, "tests cannot be chained: write `x is a and x is b`");
        link->a = jinja_node_new(p, NODE_ARGUMENT);
        link->a->a = parse_postfix(p, jinja_parse_primary(p, false), false);
    }
    return link;
}

/* The next link behind a value, or NULL. */
static struct jinja_node *parse_link(struct jinja_parser *p, bool with_filters)
{
    if (jinja_at_operator(&p->current, "."))
        return with_filters ? NULL : parse_dot(p);
    if (jinja_at_operator(&p->current, "["))
        return with_filters ? NULL : parse_subscript(p);
    if (jinja_at_operator(&p->current, "(")) {
        struct jinja_node *call = jinja_node_new(p, NODE_CALL);
        call->a = parse_arguments(p);
        return call;
    }
    if (!with_filters)
        return NULL;
    if (jinja_skip_operator(p, "|"))
        return parse_filter(p);
    return jinja_at_name(&p->current, "is") ? parse_test(p) : NULL;
}

/* Everything behind base: first .x [i] (), then, if with_filters, |filter, is test and (). */
static struct jinja_node *parse_postfix(struct jinja_parser *p, struct jinja_node *base,
                                        bool with_filters)
{
    struct jinja_node *first = NULL, **last = &first;
    for (int phase = 0; phase <= (with_filters ? 1 : 0); phase++) {
        while ((*last = parse_link(p, phase == 1)))
            last = &(*last)->next;
    }
    if (!first)
        return base;
    struct jinja_node *node = jinja_node_new(p, NODE_POSTFIX);
    node->a = base;
    node->b = first;
    return node;
}

/* Filters behind a sign belong to the whole: -x|abs is (-x)|abs. */
struct jinja_node *jinja_parse_unary(struct jinja_parser *p, bool with_filters)
{
    struct jinja_node *node;
    bool minus = jinja_at_operator(&p->current, "-");
    if (minus || jinja_at_operator(&p->current, "+")) {
        jinja_enter(p);
        node = jinja_node_new(p, NODE_SIGN);
        node->op = minus ? JINJA_SUBTRACT : JINJA_ADD;
        jinja_parser_next(p);
        node->a = jinja_parse_unary(p, false);
        jinja_leave(p);
    } else {
        node = jinja_parse_primary(p, false);
    }
    return parse_postfix(p, node, with_filters);
}
