/* From tokens to the tree.  Source: jinja2/parser.py 3.1. */
#ifndef ATTNSCOPE_ENGINE_TEXT_JINJA_PARSER_H
#define ATTNSCOPE_ENGINE_TEXT_JINJA_PARSER_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/text/jinja_ast.h"
#include "engine/text/jinja_lexer.h"

struct jinja_parser {
    struct jinja_trap *trap;
    struct jinja_arena *arena;
    struct jinja_lexer lexer;
    struct jinja_token current, ahead;
    bool has_ahead;
    int n_nodes, nesting, n_loops;
    struct jinja_node *macro; /* whose body is being parsed, or NULL */
};

/* Parses a whole template into a list of statements (NULL if it is empty).  Errors raise. */
struct jinja_node *jinja_parse(struct jinja_parser *parser, const char *source, size_t n,
                               struct jinja_arena *arena);

/* The rest is shared by the parser's files. */
struct jinja_node *jinja_node_new(struct jinja_parser *p, enum jinja_node_kind kind);
struct jinja_string *jinja_parser_text(struct jinja_parser *p, const char *data, size_t n);
void jinja_parser_next(struct jinja_parser *p);
const struct jinja_token *jinja_parser_look(struct jinja_parser *p);
bool jinja_at_name(const struct jinja_token *token, const char *name);
bool jinja_at_operator(const struct jinja_token *token, const char *text);
bool jinja_skip_name(struct jinja_parser *p, const char *name);
bool jinja_skip_operator(struct jinja_parser *p, const char *text);
void jinja_expect_operator(struct jinja_parser *p, const char *text);
struct jinja_string *jinja_expect_name(struct jinja_parser *p);
void jinja_fail_unexpected(struct jinja_parser *p, const char *wanted) __attribute__((noreturn));
/* Brackets every rule that can contain itself. */
void jinja_enter(struct jinja_parser *p);
void jinja_leave(struct jinja_parser *p);

/* Expressions. */
struct jinja_node *jinja_parse_expression(struct jinja_parser *p);
/* An expression without a bare `if`, for `for ... if` and `if`. */
struct jinja_node *jinja_parse_or(struct jinja_parser *p);
/* One operand with everything behind it: -a.b(c)|d. */
struct jinja_node *jinja_parse_unary(struct jinja_parser *p, bool with_filters);
/* A literal, a name (or ns.name, if with_namespace) or something in brackets. */
struct jinja_node *jinja_parse_primary(struct jinja_parser *p, bool with_namespace);
/* One item, or with a comma a tuple of them; end_name ends it, or NULL. */
struct jinja_node *jinja_parse_comma_list(struct jinja_parser *p, const char *end_name,
                                          struct jinja_node *(*parse)(struct jinja_parser *p),
                                          bool may_be_empty);
/* `a` or `a, b`; inline_if as above. */
struct jinja_node *jinja_parse_tuple(struct jinja_parser *p, bool inline_if);
/* `a`, `a, b` or `ns.a`; end_name ends it, or NULL. */
struct jinja_node *jinja_parse_target(struct jinja_parser *p, const char *end_name,
                                      bool with_namespace);
/* Zero or more `|filter`s; if inline_first the first stands without its bar. */
struct jinja_node *jinja_parse_filters(struct jinja_parser *p, bool inline_first);

#endif
