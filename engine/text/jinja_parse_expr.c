/* The parser's expressions: operators from the loosest binding to the tightest, comma lists and
 * targets. */
#include "engine/text/jinja_parser.h"

struct operator_name {
    const char *text;
    enum jinja_operator op;
};

static const struct operator_name SUMS[] = {{"+", JINJA_ADD}, {"-", JINJA_SUBTRACT}, {0}};
static const struct operator_name PRODUCTS[] = {{"*", JINJA_MULTIPLY},
                                                {"/", JINJA_DIVIDE},
                                                {"//", JINJA_FLOOR_DIVIDE},
                                                {"%", JINJA_MODULO},
                                                {0}};
static const struct operator_name POWERS[] = {{"**", JINJA_POWER}, {0}};
static const struct operator_name COMPARISONS[] = {{"==", JINJA_EQUAL},
                                                   {"!=", JINJA_NOT_EQUAL},
                                                   {"<", JINJA_LESS},
                                                   {"<=", JINJA_LESS_EQUAL},
                                                   {">", JINJA_GREATER},
                                                   {">=", JINJA_GREATER_EQUAL},
                                                   {0}};

static bool skip_any(struct jinja_parser *p, const struct operator_name *names,
                     enum jinja_operator *op)
{
    for (; names->text; names++) {
        if (!jinja_skip_operator(p, names->text))
            continue;
        *op = names->op;
        return true;
    }
    return false;
}

/* Operands of one precedence, joined from left to right. */
static struct jinja_node *parse_chain(struct jinja_parser *p, const struct operator_name *names,
                                      struct jinja_node *(*parse)(struct jinja_parser *p))
{
    struct jinja_node *first = parse(p), *chain = NULL, **last = NULL;
    enum jinja_operator op;
    while (skip_any(p, names, &op)) {
        if (!chain) {
            chain = jinja_node_new(p, NODE_ARITHMETIC);
            chain->a = first;
            last = &chain->b;
        }
        *last = jinja_node_new(p, NODE_OPERAND);
        (*last)->op = op;
        (*last)->a = parse(p);
        last = &(*last)->next;
    }
    return chain ? chain : first;
}

static struct jinja_node *parse_signed(struct jinja_parser *p)
{
    return jinja_parse_unary(p, true);
}

static struct jinja_node *parse_power(struct jinja_parser *p)
{
    return parse_chain(p, POWERS, parse_signed);
}

static struct jinja_node *parse_product(struct jinja_parser *p)
{
    return parse_chain(p, PRODUCTS, parse_power);
}

static bool skip_tilde(struct jinja_parser *p)
{
    return jinja_skip_operator(p, "~");
}

static bool skip_and(struct jinja_parser *p)
{
    return jinja_skip_name(p, "and");
}

static bool skip_or(struct jinja_parser *p)
{
    return jinja_skip_name(p, "or");
}

/* Operands between which skip finds its operator, as one flat node. */
static struct jinja_node *parse_list_of(struct jinja_parser *p, enum jinja_node_kind kind,
                                        bool (*skip)(struct jinja_parser *p),
                                        struct jinja_node *(*parse)(struct jinja_parser *p))
{
    struct jinja_node *first = parse(p), *node = NULL, **last = &first->next;
    while (skip(p)) {
        if (!node) {
            node = jinja_node_new(p, kind);
            node->a = first;
        }
        *last = parse(p);
        last = &(*last)->next;
    }
    return node ? node : first;
}

static struct jinja_node *parse_concat(struct jinja_parser *p)
{
    return parse_list_of(p, NODE_CONCAT, skip_tilde, parse_product);
}

static struct jinja_node *parse_sum(struct jinja_parser *p)
{
    return parse_chain(p, SUMS, parse_concat);
}

static bool skip_comparison(struct jinja_parser *p, enum jinja_operator *op)
{
    if (skip_any(p, COMPARISONS, op))
        return true;
    if (jinja_skip_name(p, "in")) {
        *op = JINJA_IN;
        return true;
    }
    if (!jinja_at_name(&p->current, "not") || !jinja_at_name(jinja_parser_look(p), "in"))
        return false;
    jinja_parser_next(p);
    jinja_parser_next(p);
    *op = JINJA_NOT_IN;
    return true;
}

static struct jinja_node *parse_compare(struct jinja_parser *p)
{
    struct jinja_node *first = parse_sum(p), *chain = NULL, **last = NULL;
    enum jinja_operator op;
    while (skip_comparison(p, &op)) {
        if (!chain) {
            chain = jinja_node_new(p, NODE_COMPARE);
            chain->a = first;
            last = &chain->b;
        }
        *last = jinja_node_new(p, NODE_OPERAND);
        (*last)->op = op;
        (*last)->a = parse_sum(p);
        last = &(*last)->next;
    }
    return chain ? chain : first;
}

static struct jinja_node *parse_not(struct jinja_parser *p)
{
    if (!jinja_at_name(&p->current, "not"))
        return parse_compare(p);
    jinja_enter(p);
    struct jinja_node *node = jinja_node_new(p, NODE_NOT);
    jinja_parser_next(p);
    node->a = parse_not(p);
    jinja_leave(p);
    return node;
}

static struct jinja_node *parse_and(struct jinja_parser *p)
{
    return parse_list_of(p, NODE_AND, skip_and, parse_not);
}

struct jinja_node *jinja_parse_or(struct jinja_parser *p)
{
    jinja_enter(p);
    struct jinja_node *node = parse_list_of(p, NODE_OR, skip_or, parse_and);
    jinja_leave(p);
    return node;
}

struct jinja_node *jinja_parse_expression(struct jinja_parser *p)
{
    int n_entered = 0;
    struct jinja_node *node = jinja_parse_or(p);
    while (jinja_skip_name(p, "if")) {
        struct jinja_node *cond = jinja_node_new(p, NODE_COND);
        jinja_enter(p);
        n_entered++;
        cond->b = node;
        cond->a = jinja_parse_or(p);
        if (jinja_skip_name(p, "else"))
            cond->c = jinja_parse_expression(p);
        node = cond;
    }
    p->nesting -= n_entered;
    return node;
}

/* True where a comma list may end after a comma. */
static bool at_list_end(const struct jinja_parser *p, const char *end_name)
{
    return p->current.kind == TOKEN_PRINT_END || p->current.kind == TOKEN_BLOCK_END ||
           jinja_at_operator(&p->current, ")") ||
           (end_name && jinja_at_name(&p->current, end_name));
}

/* One item as it is, or a tuple if there is a comma. */
struct jinja_node *jinja_parse_comma_list(struct jinja_parser *p, const char *end_name,
                                          struct jinja_node *(*parse)(struct jinja_parser *p),
                                          bool may_be_empty)
{
    struct jinja_node *first = NULL, **last = &first;
    bool is_tuple = false;
    while (!at_list_end(p, end_name)) {
        *last = parse(p);
        last = &(*last)->next;
        if (!jinja_skip_operator(p, ","))
            break;
        is_tuple = true;
    }
    if (!is_tuple && first)
        return first;
    if (!is_tuple && !may_be_empty)
        jinja_fail_unexpected(p, "an expression");
    struct jinja_node *tuple = jinja_node_new(p, NODE_TUPLE);
    tuple->a = first;
    return tuple;
}

struct jinja_node *jinja_parse_tuple(struct jinja_parser *p, bool inline_if)
{
    return jinja_parse_comma_list(p, NULL, inline_if ? jinja_parse_expression : jinja_parse_or,
                                  false);
}

static struct jinja_node *parse_plain_target(struct jinja_parser *p)
{
    return jinja_parse_primary(p, false);
}

static struct jinja_node *parse_namespace_target(struct jinja_parser *p)
{
    return jinja_parse_primary(p, true);
}

static void check_target(struct jinja_parser *p, const struct jinja_node *target)
{
    if (target->kind == NODE_TUPLE)
        for (const struct jinja_node *item = target->a; item; item = item->next)
            check_target(p, item);
    else if (target->kind != NODE_NAME && target->kind != NODE_NAMESPACE_REF)
        jinja_raise(p->trap, "only names and namespace attributes can be assigned to");
}

struct jinja_node *jinja_parse_target(struct jinja_parser *p, const char *end_name,
                                      bool with_namespace)
{
    struct jinja_node *target = jinja_parse_comma_list(
        p, end_name, with_namespace ? parse_namespace_target : parse_plain_target, false);
    check_target(p, target);
    return target;
}
