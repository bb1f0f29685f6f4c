/* The tree of a compiled template.
 *
 * Operators of one precedence and everything behind a value (.x, [i], (args), |filter, is test)
 * are flat lists of links, so that only real nesting makes the tree deep.  Lists hang together by
 * next. */
#ifndef ATTNSCOPE_ENGINE_TEXT_JINJA_AST_H
#define ATTNSCOPE_ENGINE_TEXT_JINJA_AST_H

#include <stdbool.h>

#include "engine/text/jinja_value.h"

enum jinja_operator {
    JINJA_ADD,
    JINJA_SUBTRACT,
    JINJA_MULTIPLY,
    JINJA_DIVIDE,
    JINJA_FLOOR_DIVIDE,
    JINJA_MODULO,
    JINJA_POWER,
    JINJA_EQUAL,
    JINJA_NOT_EQUAL,
    JINJA_LESS,
    JINJA_LESS_EQUAL,
    JINJA_GREATER,
    JINJA_GREATER_EQUAL,
    JINJA_IN,
    JINJA_NOT_IN
};

enum jinja_node_kind {
    /* Statements: what a, b, ... hold. */
    NODE_TEXT,         /* text */
    NODE_PRINT,        /* a: expression */
    NODE_IF,           /* a: list of NODE_BRANCH */
    NODE_BRANCH,       /* a: test or NULL, b: body */
    NODE_FOR,          /* a: target, b: iterable, c: body, d: else body, e: filter or NULL */
    NODE_SET,          /* a: target, b: expression */
    NODE_SET_BLOCK,    /* a: target, b: list of NODE_FILTER or NULL, c: body */
    NODE_MACRO,        /* text: name, a: list of NODE_PARAM, b: body, flags */
    NODE_CALL_BLOCK,   /* a: postfix ending in a call, b: NODE_MACRO of the body */
    NODE_FILTER_BLOCK, /* a: list of NODE_FILTER, b: body */
    NODE_WITH,         /* a: list of NODE_SET, b: body */
    NODE_GENERATION,   /* b: body */
    NODE_BREAK,
    NODE_CONTINUE,
    NODE_PARAM, /* text: name, a: default or NULL */
    /* Expressions. */
    NODE_CONST,         /* value */
    NODE_NAME,          /* text */
    NODE_NAMESPACE_REF, /* text: the namespace, value: the attribute; only as a target */
    NODE_LIST,          /* a: items */
    NODE_TUPLE,         /* a: items; also a target */
    NODE_DICT,          /* a: list of NODE_PAIR */
    NODE_PAIR,          /* a: key, b: value */
    NODE_COND,          /* a: test, b: then, c: else or NULL */
    NODE_AND,           /* a: operands */
    NODE_OR,            /* a: operands */
    NODE_CONCAT,        /* a: operands */
    NODE_NOT,           /* a */
    NODE_SIGN,          /* a, op: JINJA_ADD or JINJA_SUBTRACT */
    NODE_ARITHMETIC,    /* a: first, b: list of NODE_OPERAND, from left to right */
    NODE_COMPARE,       /* a: first, b: list of NODE_OPERAND, chained as in Python */
    NODE_OPERAND,       /* op, a */
    NODE_POSTFIX,       /* a: base, b: list of the links below */
    NODE_ATTRIBUTE,     /* text */
    NODE_ITEM,          /* a: key */
    NODE_SLICE,         /* a, b, c: start, stop, step, each or NULL */
    NODE_CALL,          /* a: list of NODE_ARGUMENT */
    NODE_FILTER,        /* text, a: list of NODE_ARGUMENT */
    NODE_TEST,          /* text, a: list of NODE_ARGUMENT, negated */
    NODE_ARGUMENT       /* text: its name or NULL, a; op: MULTIPLY for *a, POWER for **a */
};

struct jinja_node {
    enum jinja_node_kind kind;
    enum jinja_operator op;
    int line;
    bool negated;
    bool uses_varargs, uses_kwargs, uses_caller; /* NODE_MACRO: names that its body mentions */
    struct jinja_string *text;
    struct jinja_value value;
    struct jinja_node *a, *b, *c, *d, *e, *next;
};

#endif
