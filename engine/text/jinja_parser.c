/* The parser's statements, and what both of its files use. */
#include "engine/text/jinja_parser.h"

#include <string.h>

#include "engine/base/utf8.h"
#include "engine/text/jinja_run.h"

struct jinja_node *jinja_node_new(struct jinja_parser *p, enum jinja_node_kind kind)
{
    if (++p->n_nodes > JINJA_MAX_NODES)
        jinja_raise(p->trap, "the template has more than %d parts, the limit", JINJA_MAX_NODES);
    struct jinja_node *node = jinja_alloc(p->arena, sizeof *node);
    node->kind = kind;
    node->line = p->current.line;
    return node;
}

struct jinja_string *jinja_parser_text(struct jinja_parser *p, const char *data, size_t n)
{
    struct jinja_string *text = jinja_alloc(p->arena, sizeof *text);
    *text = (struct jinja_string){.data = data, .len = n, .n_chars = utf8_length(data, n)};
    return text;
}

void jinja_parser_next(struct jinja_parser *p)
{
    p->current = p->has_ahead ? p->ahead : jinja_lexer_next(&p->lexer);
    p->has_ahead = false;
    p->trap->line = p->current.line;
}

const struct jinja_token *jinja_parser_look(struct jinja_parser *p)
{
    if (!p->has_ahead)
        p->ahead = jinja_lexer_next(&p->lexer);
    p->has_ahead = true;
    p->trap->line = p->current.line;
    return &p->ahead;
}

static bool token_is(const struct jinja_token *token, enum jinja_token_kind kind, const char *text)
{
    return token->kind == kind && token->len == strlen(text) &&
           !memcmp(token->text, text, token->len);
}

bool jinja_at_name(const struct jinja_token *token, const char *name)
{
    return token_is(token, TOKEN_NAME, name);
}

bool jinja_at_operator(const struct jinja_token *token, const char *text)
{
    return token_is(token, TOKEN_OPERATOR, text);
}

bool jinja_skip_name(struct jinja_parser *p, const char *name)
{
    bool found = jinja_at_name(&p->current, name);
    if (found)
        jinja_parser_next(p);
    return found;
}

bool jinja_skip_operator(struct jinja_parser *p, const char *text)
{
    bool found = jinja_at_operator(&p->current, text);
    if (found)
        jinja_parser_next(p);
    return found;
}

void jinja_fail_unexpected(struct jinja_parser *p, const char *wanted)
{
    const struct jinja_token *t = &p->current;
    switch (t->kind) {
    case TOKEN_END:
        jinja_raise(p->trap, "expected %s, found the end of the template", wanted);
    case TOKEN_PRINT_END:
        jinja_raise(p->trap, "expected %s, found `}}`", wanted);
    case TOKEN_BLOCK_END:
        jinja_raise(p->trap, "expected %s, found `%%}`", wanted);
    default:
        jinja_raise(p->trap, "expected %s, found `%.*s`", wanted, (int)(t->len < 40 ? t->len : 40),
                    t->len ? t->text : "");
    }
}

void jinja_expect_operator(struct jinja_parser *p, const char *text)
{
    char wanted[8] = "`";
    if (!jinja_skip_operator(p, text))
        jinja_fail_unexpected(p, strcat(strcat(wanted, text), "`"));
}

struct jinja_string *jinja_expect_name(struct jinja_parser *p)
{
    if (p->current.kind != TOKEN_NAME)
        jinja_fail_unexpected(p, "a name");
    struct jinja_string *name = jinja_parser_text(p, p->current.text, p->current.len);
    jinja_parser_next(p);
    return name;
}

void jinja_enter(struct jinja_parser *p)
{
    if (++p->nesting > JINJA_MAX_NESTING)
        jinja_raise(p->trap, "the template is nested more than %d deep, the limit",
                    JINJA_MAX_NESTING);
}

void jinja_leave(struct jinja_parser *p)
{
    p->nesting--;
}

static void expect_block_end(struct jinja_parser *p)
{
    if (p->current.kind != TOKEN_BLOCK_END)
        jinja_fail_unexpected(p, "`%}`");
    jinja_parser_next(p);
}

static struct jinja_node *parse_statement(struct jinja_parser *p);

static bool at_any(const struct jinja_parser *p, const char *const *names)
{
    for (; names && *names; names++)
        if (jinja_at_name(&p->current, *names))
            return true;
    return false;
}

/* Statements up to a block tag that begins with one of the names, which stays current; with names
 * NULL, up to the end. */
static struct jinja_node *parse_body(struct jinja_parser *p, const char *const *names)
{
    struct jinja_node *first = NULL, **end = &first;
    for (;;) {
        struct jinja_node *node;
        if (p->current.kind == TOKEN_END) {
            if (names)
                jinja_raise(p->trap, "the template ends before `{%% %s %%}`", names[0]);
            return first;
        }
        if (p->current.kind == TOKEN_DATA) {
            node = jinja_node_new(p, NODE_TEXT);
            node->text = jinja_parser_text(p, p->current.text, p->current.len);
            jinja_parser_next(p);
        } else if (p->current.kind == TOKEN_PRINT_BEGIN) {
            jinja_parser_next(p);
            node = jinja_node_new(p, NODE_PRINT);
            node->a = jinja_parse_tuple(p, true);
            if (p->current.kind != TOKEN_PRINT_END)
                jinja_fail_unexpected(p, "`}}`");
            jinja_parser_next(p);
        } else {
            jinja_parser_next(p);
            if (at_any(p, names))
                return first;
            node = parse_statement(p);
            expect_block_end(p);
        }
        *end = node;
        end = &node->next;
    }
}

/* The body of a block whose opening tag ends here. */
static struct jinja_node *parse_block(struct jinja_parser *p, const char *const *names)
{
    jinja_skip_operator(p, ":");
    expect_block_end(p);
    return parse_body(p, names);
}

/* As parse_block, and passes the closing name. */
static struct jinja_node *parse_whole_block(struct jinja_parser *p, const char *name)
{
    struct jinja_node *body = parse_block(p, (const char *const[]){name, NULL});
    jinja_parser_next(p);
    return body;
}

/* A body whose text is kept back; a jump out of it would lose the text. */
static struct jinja_node *parse_captured_block(struct jinja_parser *p, const char *name)
{
    int n_loops = p->n_loops;
    p->n_loops = 0;
    struct jinja_node *body = parse_whole_block(p, name);
    p->n_loops = n_loops;
    return body;
}

static struct jinja_node *parse_if(struct jinja_parser *p)
{
    static const char *const ENDS[] = {"endif", "elif", "else", NULL};
    struct jinja_node *node = jinja_node_new(p, NODE_IF), **end = &node->a;
    for (;;) {
        struct jinja_node *branch = *end = jinja_node_new(p, NODE_BRANCH);
        end = &branch->next;
        branch->a = jinja_parse_tuple(p, false);
        branch->b = parse_block(p, ENDS);
        if (jinja_skip_name(p, "elif"))
            continue;
        if (jinja_skip_name(p, "else")) {
            *end = jinja_node_new(p, NODE_BRANCH);
            (*end)->b = parse_whole_block(p, "endif");
        } else {
            jinja_parser_next(p);
        }
        return node;
    }
}

static struct jinja_node *parse_for(struct jinja_parser *p)
{
    static const char *const ENDS[] = {"endfor", "else", NULL};
    struct jinja_node *node = jinja_node_new(p, NODE_FOR);
    node->a = jinja_parse_target(p, "in", false);
    if (!jinja_skip_name(p, "in"))
        jinja_fail_unexpected(p, "`in`");
    node->b = jinja_parse_tuple(p, false);
    if (jinja_skip_name(p, "if"))
        node->e = jinja_parse_expression(p);
    if (jinja_at_name(&p->current, "recursive"))
        jinja_raise(p->trap, "`for ... recursive` is not supported: use a macro");
    p->n_loops++;
    node->c = parse_block(p, ENDS);
    p->n_loops--;
    if (jinja_skip_name(p, "else"))
        node->d = parse_whole_block(p, "endfor");
    else
        jinja_parser_next(p);
    return node;
}

static struct jinja_node *parse_set(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, NODE_SET);
    node->a = jinja_parse_target(p, NULL, true);
    if (jinja_skip_operator(p, "=")) {
        node->b = jinja_parse_tuple(p, true);
        return node;
    }
    node->kind = NODE_SET_BLOCK;
    node->b = jinja_parse_filters(p, false);
    node->c = parse_captured_block(p, "endset");
    return node;
}

/* (a, b=1): the parameters of a macro or call block. */
static struct jinja_node *parse_params(struct jinja_parser *p)
{
    struct jinja_node *first = NULL, **end = &first;
    bool has_default = false;
    jinja_expect_operator(p, "(");
    while (!jinja_at_operator(&p->current, ")")) {
        if (first)
            jinja_expect_operator(p, ",");
        struct jinja_node *param = *end = jinja_node_new(p, NODE_PARAM);
        end = &param->next;
        param->text = jinja_expect_name(p);
        if (jinja_skip_operator(p, "=")) {
            has_default = true;
            param->a = jinja_parse_expression(p);
        } else if (has_default) {
            jinja_raise(p->trap, "a parameter without a default follows one with a default");
        }
    }
    jinja_parser_next(p);
    return first;
}

/* The body of a macro or call block.  Loops outside are not its own. */
static void parse_macro_body(struct jinja_parser *p, struct jinja_node *macro, const char *end)
{
    struct jinja_node *outer = p->macro;
    int n_loops = p->n_loops;
    p->macro = macro;
    p->n_loops = 0;
    macro->b = parse_whole_block(p, end);
    p->macro = outer;
    p->n_loops = n_loops;
    if (outer) { /* Jinja's search for these names goes into inner macros too */
        outer->uses_varargs |= macro->uses_varargs;
        outer->uses_kwargs |= macro->uses_kwargs;
        outer->uses_caller |= macro->uses_caller;
    }
}

static struct jinja_node *parse_macro(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, NODE_MACRO);
    node->text = jinja_expect_name(p);
    node->a = parse_params(p);
    parse_macro_body(p, node, "endmacro");
    return node;
}

static struct jinja_node *parse_call(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, NODE_CALL_BLOCK);
    node->b = jinja_node_new(p, NODE_MACRO);
    node->b->text = jinja_parser_text(p, "caller", strlen("caller"));
    if (jinja_at_operator(&p->current, "("))
        node->b->a = parse_params(p);
    node->a = jinja_parse_expression(p);
    const struct jinja_node *last = node->a->kind == NODE_POSTFIX ? node->a->b : NULL;
    while (last && last->next)
        last = last->next;
    if (!last || last->kind != NODE_CALL)
        jinja_raise(p->trap, "`call` needs a call, such as {%% call macro(x) %%}");
    parse_macro_body(p, node->b, "endcall");
    return node;
}

static struct jinja_node *parse_filter_block(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, NODE_FILTER_BLOCK);
    node->a = jinja_parse_filters(p, true);
    node->b = parse_captured_block(p, "endfilter");
    return node;
}

static struct jinja_node *parse_with(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, NODE_WITH), **end = &node->a;
    while (p->current.kind != TOKEN_BLOCK_END) {
        if (node->a)
            jinja_expect_operator(p, ",");
        struct jinja_node *set = *end = jinja_node_new(p, NODE_SET);
        end = &set->next;
        set->a = jinja_parse_target(p, NULL, false);
        jinja_expect_operator(p, "=");
        set->b = jinja_parse_expression(p);
    }
    node->b = parse_whole_block(p, "endwith");
    return node;
}

/* transformers marks the assistant's tokens with this block; the text is the same. */
static struct jinja_node *parse_generation(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, NODE_GENERATION);
    node->b = parse_captured_block(p, "endgeneration");
    return node;
}

static struct jinja_node *parse_jump(struct jinja_parser *p, enum jinja_node_kind kind)
{
    if (!p->n_loops)
        jinja_raise(p->trap, "`%s` stands outside of a loop, or in a set or filter block of it",
                    kind == NODE_BREAK ? "break" : "continue");
    return jinja_node_new(p, kind);
}

static struct jinja_node *parse_break(struct jinja_parser *p)
{
    return parse_jump(p, NODE_BREAK);
}

static struct jinja_node *parse_continue(struct jinja_parser *p)
{
    return parse_jump(p, NODE_CONTINUE);
}

static const struct {
    const char *name;
    struct jinja_node *(*parse)(struct jinja_parser *p);
} STATEMENTS[] = {
    {"if", parse_if},       {"for", parse_for},
    {"set", parse_set},     {"macro", parse_macro},
    {"call", parse_call},   {"filter", parse_filter_block},
    {"with", parse_with},   {"generation", parse_generation},
    {"break", parse_break}, {"continue", parse_continue},
};

/* Statements of the whole language that a chat template cannot have: it is one file. */
static const char *const REFUSED[] = {"include",    "extends", "import", "from", "block",
                                      "autoescape", "trans",   "do",     "debug"};

static struct jinja_node *parse_statement(struct jinja_parser *p)
{
    if (p->current.kind != TOKEN_NAME)
        jinja_fail_unexpected(p, "a statement's name");
    for (size_t i = 0; i < sizeof REFUSED / sizeof *REFUSED; i++)
        if (jinja_at_name(&p->current, REFUSED[i]))
            jinja_raise(p->trap, "`{%% %s %%}` is not supported in chat templates", REFUSED[i]);
    for (size_t i = 0; i < sizeof STATEMENTS / sizeof *STATEMENTS; i++) {
        if (!jinja_at_name(&p->current, STATEMENTS[i].name))
            continue;
        jinja_enter(p);
        jinja_parser_next(p);
        struct jinja_node *node = STATEMENTS[i].parse(p);
        jinja_leave(p);
        return node;
    }
    jinja_raise(p->trap, "unknown statement `{%% %.*s %%}`",
                (int)(p->current.len < 40 ? p->current.len : 40), p->current.text);
}

struct jinja_node *jinja_parse(struct jinja_parser *p, const char *source, size_t n,
                               struct jinja_arena *arena)
{
    *p = (struct jinja_parser){.trap = arena->trap, .arena = arena};
    jinja_lexer_init(&p->lexer, source, n, arena);
    jinja_parser_next(p);
    return parse_body(p, NULL);
}
