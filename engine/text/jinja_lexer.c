/* The lexer.  Outside of tags it looks for the next opening delimiter and trims the text before
 * it; inside it reads one token at a time. */
#include "engine/text/jinja_lexer.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "engine/base/utf8.h"
#include "engine/text/jinja_literal.h"

bool jinja_is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

/* Copies with every line end as \n, less one at the very end. */
void jinja_lexer_init(struct jinja_lexer *lexer, const char *source, size_t n,
                      struct jinja_arena *arena)
{
    char *copy = jinja_alloc(arena, n + 1);
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        if (source[i] == '\r' && i + 1 < n && source[i + 1] == '\n')
            continue;
        copy[len++] = source[i] == '\r' ? '\n' : source[i];
    }
    if (len && copy[len - 1] == '\n')
        len--;
    *lexer = (struct jinja_lexer){.trap = arena->trap,
                                  .arena = arena,
                                  .source = copy,
                                  .n = len,
                                  .line = 1,
                                  .inside = TOKEN_DATA};
}

/* Length of the white space character at pos, or 0. */
static size_t space_at(const struct jinja_lexer *l, size_t pos)
{
    uint32_t c;
    int n_bad;
    if (pos >= l->n)
        return 0;
    int len = utf8_decode(l->source + pos, l->n - pos, &c, &n_bad);
    return len > 0 && jinja_is_space(c) ? (size_t)len : 0;
}

static size_t skip_space(const struct jinja_lexer *l, size_t pos)
{
    size_t len;
    while ((len = space_at(l, pos)))
        pos += len;
    return pos;
}

/* End of source[start, end) without the white space before end. */
static size_t strip_right(const struct jinja_lexer *l, size_t start, size_t end)
{
    while (end > start) {
        size_t last = end - 1;
        while (last > start && ((unsigned char)l->source[last] & 0xC0) == 0x80)
            last--;
        if (!space_at(l, last))
            break;
        end = last;
    }
    return end;
}

static bool starts_with(const struct jinja_lexer *l, size_t pos, const char *what)
{
    size_t n = strlen(what);
    return l->n - pos >= n && !memcmp(l->source + pos, what, n);
}

/* Moves to pos and counts the lines passed. */
static void advance(struct jinja_lexer *l, size_t pos)
{
    for (; l->pos < pos; l->pos++)
        if (l->source[l->pos] == '\n')
            l->line++;
}

/* Where the text before a tag ends, by the sign behind its delimiter: '-' strips all white space,
 * '+' keeps it, and nothing strips blanks that are alone before a block or comment on its line. */
static size_t text_end(const struct jinja_lexer *l, size_t start, size_t end, char sign,
                       bool is_print)
{
    if (sign == '-')
        return strip_right(l, start, end);
    if (sign == '+' || is_print)
        return end;
    size_t line_start = end;
    while (line_start > start && l->source[line_start - 1] != '\n')
        line_start--;
    bool at_line_start = line_start > start || start == 0 || l->source[start - 1] == '\n';
    if (at_line_start && skip_space(l, line_start) >= end)
        return line_start;
    return end;
}

/* If a closing delimiter ("%}", "#}", "}}") stands at pos, with its sign and what it swallows,
 * the position after it; else 0.  Only blocks and comments swallow a newline and know '+'. */
static size_t close_at(const struct jinja_lexer *l, size_t pos, const char *delimiter)
{
    bool is_print = delimiter[0] == '}';
    char sign = pos < l->n ? l->source[pos] : 0;
    if (sign == '-' && starts_with(l, pos + 1, delimiter))
        return skip_space(l, pos + 3);
    if (sign == '+' && !is_print && starts_with(l, pos + 1, delimiter))
        return pos + 3;
    if (pos >= l->n || !starts_with(l, pos, delimiter))
        return 0;
    pos += 2;
    return !is_print && pos < l->n && l->source[pos] == '\n' ? pos + 1 : pos;
}

static char sign_at(const struct jinja_lexer *l, size_t pos)
{
    char c = pos < l->n ? l->source[pos] : 0;
    return c == '-' || c == '+' ? c : 0;
}

/* If a block tag of only this word opens at pos, the position after the word and its white
 * space; else 0. */
static size_t word_tag_at(const struct jinja_lexer *l, size_t pos, const char *word)
{
    if (!starts_with(l, pos, "{%"))
        return 0;
    pos += sign_at(l, pos + 2) ? 3 : 2;
    pos = skip_space(l, pos);
    if (!starts_with(l, pos, word))
        return 0;
    return skip_space(l, pos + strlen(word));
}

static void skip_comment(struct jinja_lexer *l, size_t pos)
{
    size_t body = pos + (sign_at(l, pos + 2) ? 3 : 2);
    for (size_t i = body; i < l->n; i++) {
        size_t end = close_at(l, i, "#}");
        if (end) {
            advance(l, end);
            return;
        }
    }
    jinja_raise(l->trap, "a comment is not closed: `#}` is missing");
}

static struct jinja_token data_token(const struct jinja_lexer *l, size_t start, size_t end)
{
    return (struct jinja_token){
        .kind = TOKEN_DATA, .line = l->line, .text = l->source + start, .len = end - start};
}

/* The text of a raw block whose opening tag has just been passed. */
static struct jinja_token raw_token(struct jinja_lexer *l)
{
    size_t start = l->pos;
    for (size_t i = start; i < l->n; i++) {
        size_t after_word = word_tag_at(l, i, "endraw");
        size_t end = after_word ? close_at(l, after_word, "%}") : 0;
        if (!end)
            continue;
        struct jinja_token token =
            data_token(l, start, text_end(l, start, i, sign_at(l, i + 2), false));
        advance(l, end);
        return token;
    }
    jinja_raise(l->trap, "a raw block is not closed: `{%% endraw %%}` is missing");
}

/* If a raw block opens at pos, the position after its tag; a newline there belongs to it. */
static size_t raw_at(const struct jinja_lexer *l, size_t pos)
{
    size_t after_word = word_tag_at(l, pos, "raw");
    if (!after_word)
        return 0;
    if (starts_with(l, after_word, "-%}"))
        return skip_space(l, after_word + 3);
    return starts_with(l, after_word, "%}") ? after_word + 2 : 0;
}

static size_t find_tag(const struct jinja_lexer *l, size_t pos)
{
    for (; pos + 1 < l->n; pos++)
        if (l->source[pos] == '{' && strchr("{%#", l->source[pos + 1]) && l->source[pos + 1])
            return pos;
    return l->n;
}

static struct jinja_token begin_token(struct jinja_lexer *l)
{
    l->begin_pending = false;
    return (struct jinja_token){.kind = l->inside, .line = l->line};
}

/* Text up to the next tag, or, if the tag is next, its beginning. */
static struct jinja_token next_outside(struct jinja_lexer *l)
{
    for (;;) {
        size_t start = l->pos, tag = find_tag(l, start);
        if (start == l->n)
            return (struct jinja_token){.kind = TOKEN_END, .line = l->line};
        if (tag == l->n) {
            struct jinja_token rest = data_token(l, start, l->n);
            advance(l, l->n);
            return rest;
        }
        bool is_print = l->source[tag + 1] == '{';
        char sign = sign_at(l, tag + 2);
        size_t end = text_end(l, start, tag, sign, is_print);
        struct jinja_token text = data_token(l, start, end);
        size_t raw = raw_at(l, tag);
        advance(l, tag);
        if (raw) {
            if (text.len) { /* the tag stands first next time: nothing is left to trim */
                l->trap->line = l->line;
                return text;
            }
            advance(l, raw);
            l->trap->line = l->line;
            return raw_token(l);
        }
        l->trap->line = l->line;
        if (l->source[tag + 1] == '#') {
            skip_comment(l, tag);
        } else {
            l->inside = is_print ? TOKEN_PRINT_BEGIN : TOKEN_BLOCK_BEGIN;
            l->begin_pending = true;
            advance(l, tag + (sign ? 3 : 2));
        }
        if (text.len)
            return text;
        if (l->begin_pending)
            return begin_token(l);
    }
}

/* Letters, digits and the underscore, as \w in a regular expression. */
static size_t word_char_at(const struct jinja_lexer *l, size_t pos)
{
    uint32_t c;
    int n_bad;
    if (pos >= l->n)
        return 0;
    int len = utf8_decode(l->source + pos, l->n - pos, &c, &n_bad);
    if (len <= 0)
        return 0;
    if (c == '_')
        return (size_t)len;
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    bool is_letter = category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
    bool is_number = category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
    return is_letter || is_number ? (size_t)len : 0;
}

static struct jinja_token name_token(struct jinja_lexer *l)
{
    size_t end = l->pos, len;
    while ((len = word_char_at(l, end)))
        end += len;
    struct jinja_token token = {
        .kind = TOKEN_NAME, .line = l->line, .text = l->source + l->pos, .len = end - l->pos};
    advance(l, end);
    return token;
}

static struct jinja_token string_token(struct jinja_lexer *l)
{
    char quote = l->source[l->pos];
    size_t start = l->pos + 1, end = start;
    while (end < l->n && l->source[end] != quote)
        end += l->source[end] == '\\' ? 2 : 1;
    if (end >= l->n)
        jinja_raise(l->trap, "a string is not closed: %c is missing", quote);
    struct jinja_token token = {.kind = TOKEN_STRING, .line = l->line};
    token.text = jinja_decode_string(l->arena, l->source + start, end - start, &token.len);
    advance(l, end + 1);
    return token;
}

static struct jinja_token number_token(struct jinja_lexer *l)
{
    struct jinja_token token = {.line = l->line};
    bool after_dot = l->pos > 0 && l->source[l->pos - 1] == '.';
    bool is_float = false;
    size_t len = jinja_read_number(l->trap, l->source + l->pos, l->n - l->pos, !after_dot,
                                   &token.integer, &token.real, &is_float);
    token.kind = is_float ? TOKEN_FLOAT : TOKEN_INTEGER;
    token.text = l->source + l->pos;
    token.len = len;
    advance(l, l->pos + len);
    return token;
}

/* Closing brackets must match; a closing delimiter only counts when none is open. */
static void balance(struct jinja_lexer *l, char c)
{
    static const char OPENING[] = "([{", CLOSING[] = ")]}";
    const char *opened = strchr(OPENING, c), *closed = strchr(CLOSING, c);
    if (opened) {
        if (l->n_brackets == JINJA_MAX_BRACKETS)
            jinja_raise(l->trap, "brackets are nested more than %d deep, the limit",
                        JINJA_MAX_BRACKETS);
        l->brackets[l->n_brackets++] = CLOSING[opened - OPENING];
    } else if (closed) {
        if (!l->n_brackets)
            jinja_raise(l->trap, "unexpected `%c`", c);
        char expected = l->brackets[--l->n_brackets];
        if (expected != c)
            jinja_raise(l->trap, "unexpected `%c`, expected `%c`", c, expected);
    }
}

static struct jinja_token operator_token(struct jinja_lexer *l)
{
    static const char *const LONG[] = {"//", "**", "==", "!=", ">=", "<="};
    size_t len = 0;
    for (size_t i = 0; i < sizeof LONG / sizeof *LONG; i++)
        if (starts_with(l, l->pos, LONG[i]))
            len = 2;
    char c = l->source[l->pos];
    if (!len && c && strchr("+-/*%~[](){}><=.:|,;", c))
        len = 1;
    if (!len)
        jinja_raise(l->trap, "unexpected character 0x%02X in an expression", (unsigned char)c);
    if (len == 1)
        balance(l, c);
    struct jinja_token token = {
        .kind = TOKEN_OPERATOR, .line = l->line, .text = l->source + l->pos, .len = len};
    advance(l, l->pos + len);
    return token;
}

static struct jinja_token next_inside(struct jinja_lexer *l)
{
    bool is_print = l->inside == TOKEN_PRINT_BEGIN;
    for (;;) {
        size_t end = l->n_brackets ? 0 : close_at(l, l->pos, is_print ? "}}" : "%}");
        if (end) {
            struct jinja_token token = {.kind = is_print ? TOKEN_PRINT_END : TOKEN_BLOCK_END,
                                        .line = l->line};
            advance(l, end);
            l->inside = TOKEN_DATA;
            return token;
        }
        size_t after_space = skip_space(l, l->pos);
        if (after_space == l->pos)
            break;
        advance(l, after_space);
    }
    l->trap->line = l->line;
    if (l->pos == l->n)
        return (struct jinja_token){.kind = TOKEN_END, .line = l->line};
    char c = l->source[l->pos];
    if (c >= '0' && c <= '9')
        return number_token(l);
    if (c == '\'' || c == '"')
        return string_token(l);
    return word_char_at(l, l->pos) ? name_token(l) : operator_token(l);
}

struct jinja_token jinja_lexer_next(struct jinja_lexer *l)
{
    l->trap->line = l->line;
    if (l->begin_pending)
        return begin_token(l);
    return l->inside == TOKEN_DATA ? next_outside(l) : next_inside(l);
}
