/* From template source to tokens, with Jinja's rules for white space around tags (trim_blocks and
 * lstrip_blocks on).  Source: jinja2/lexer.py 3.1. */
#ifndef ATTNSCOPE_ENGINE_TEXT_JINJA_LEXER_H
#define ATTNSCOPE_ENGINE_TEXT_JINJA_LEXER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/text/jinja_arena.h"

enum jinja_token_kind {
    TOKEN_END,
    TOKEN_DATA,
    TOKEN_PRINT_BEGIN,
    TOKEN_PRINT_END,
    TOKEN_BLOCK_BEGIN,
    TOKEN_BLOCK_END,
    TOKEN_NAME,
    TOKEN_STRING,
    TOKEN_INTEGER,
    TOKEN_FLOAT,
    TOKEN_OPERATOR
};

struct jinja_token {
    enum jinja_token_kind kind;
    int line;
    const char *text; /* [len]: data, name, operator, or string with its escapes decoded */
    size_t len;
    int64_t integer;
    double real;
};

#define JINJA_MAX_BRACKETS 256

struct jinja_lexer {
    struct jinja_trap *trap;
    struct jinja_arena *arena;
    const char *source; /* [n], newlines normalised */
    size_t n, pos;
    int line;
    enum jinja_token_kind inside; /* TOKEN_DATA, TOKEN_PRINT_BEGIN or TOKEN_BLOCK_BEGIN */
    bool begin_pending;           /* inside was entered, its token not yet given */
    char brackets[JINJA_MAX_BRACKETS];
    size_t n_brackets;
};

/* Copies source [n bytes of valid UTF-8] into the arena.  Errors raise. */
void jinja_lexer_init(struct jinja_lexer *lexer, const char *source, size_t n,
                      struct jinja_arena *arena);
struct jinja_token jinja_lexer_next(struct jinja_lexer *lexer);

/* Python's str.isspace for one code point, which regular expressions call \s. */
bool jinja_is_space(uint32_t code_point);

#endif
