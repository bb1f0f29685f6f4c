/* A recursive descent over the bytes that remembers only the keys of the objects it is inside, so
 * that a key that comes twice is found whatever escapes spell it. */
#include "engine/base/json_scan.h"

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/memory.h"
#include "engine/base/utf8.h"

/* One member name of an open object, decoded, in scan.names. */
struct key {
    uint64_t hash;
    size_t begin, len; /* in scan.names */
    size_t at;         /* in the text */
};

struct scan {
    const char *text;
    size_t n, at;
    const char *name;
    struct error *err;
    int depth;
    struct key *keys; /* of all open objects, innermost last */
    size_t n_keys, keys_capacity;
    struct buf names;
};

static bool fail_at(const struct scan *s, size_t at, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static bool fail_at(const struct scan *s, size_t at, const char *format, ...)
{
    size_t line = 1, line_begin = 0;
    for (size_t i = 0; i < at && i < s->n; i++)
        if (s->text[i] == '\n') {
            line++;
            line_begin = i + 1;
        }
    char what[256];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return fail(s->err, "%s: line %zu, column %zu: %s", s->name, line,
                utf8_length(s->text + line_begin, at - line_begin) + 1, what);
}

/* The next byte, or 0 at the end; a NUL byte is refused wherever it is met. */
static char peek(const struct scan *s)
{
    return s->at < s->n ? s->text[s->at] : '\0';
}

static bool fail_expected(const struct scan *s, const char *expected)
{
    if (s->at >= s->n)
        return fail_at(s, s->at, "the text ends where %s is expected", expected);
    unsigned char c = (unsigned char)s->text[s->at];
    if (c < 0x20 || c >= 0x7F)
        return fail_at(s, s->at, "expected %s, found the byte 0x%02x", expected, c);
    return fail_at(s, s->at, "expected %s, found '%c'", expected, c);
}

static void skip_space(struct scan *s)
{
    while (s->at < s->n && memchr(" \t\r\n", s->text[s->at], 4))
        s->at++;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static void skip_digits(struct scan *s)
{
    while (is_digit(peek(s)))
        s->at++;
}

static bool scan_number(struct scan *s)
{
    size_t begin = s->at;
    if (peek(s) == '-')
        s->at++;
    if (!is_digit(peek(s)))
        return fail_expected(s, "a digit");
    if (peek(s) == '0') {
        s->at++;
        if (is_digit(peek(s)))
            return fail_at(s, begin, "a number begins with a needless 0");
    }
    skip_digits(s);
    if (peek(s) == '.') {
        s->at++;
        if (!is_digit(peek(s)))
            return fail_expected(s, "a digit after the point");
        skip_digits(s);
    }
    if (peek(s) == 'e' || peek(s) == 'E') {
        s->at++;
        if (peek(s) == '+' || peek(s) == '-')
            s->at++;
        if (!is_digit(peek(s)))
            return fail_expected(s, "a digit of the exponent");
        skip_digits(s);
    }
    size_t len = s->at - begin;
    if (len > JSON_MAX_NUMBER)
        return fail_at(s, begin, "a number of %zu characters; at most %d are read", len,
                       JSON_MAX_NUMBER);
    char literal[JSON_MAX_NUMBER + 1] = {0};
    memcpy(literal, s->text + begin, len);
    if (isinf(strtod(literal, NULL)))
        return fail_at(s, begin, "the number %s is too large", literal);
    return true;
}

/* Four hex digits at the scanner's place, or -1. */
static int32_t scan_hex4(struct scan *s)
{
    int32_t value = 0;
    for (int i = 0; i < 4; i++, s->at++) {
        char c = peek(s);
        int digit = is_digit(c) ? c - '0' : (c | 0x20) - 'a' + 10;
        if (!is_digit(c) && ((c | 0x20) < 'a' || (c | 0x20) > 'f'))
            return -1;
        value = value << 4 | digit;
    }
    return value;
}

/* After `\u`; decoded may be NULL. */
static bool scan_unicode_escape(struct scan *s, struct buf *decoded)
{
    size_t begin = s->at - 2;
    int32_t c = scan_hex4(s);
    if (c < 0)
        return fail_at(s, begin, "\\u wants four hexadecimal digits");
    if (c == 0)
        return fail_at(s, begin, "\\u0000 is not accepted in a string");
    if (c >= 0xDC00 && c <= 0xDFFF)
        return fail_at(s, begin, "half of a surrogate pair");
    if (c >= 0xD800 && c <= 0xDBFF) {
        if (s->n - s->at < 6 || s->text[s->at] != '\\' || s->text[s->at + 1] != 'u')
            return fail_at(s, begin, "half of a surrogate pair");
        s->at += 2;
        int32_t low = scan_hex4(s);
        if (low < 0xDC00 || low > 0xDFFF)
            return fail_at(s, begin, "half of a surrogate pair");
        c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
    }
    if (decoded)
        buf_append_utf8(decoded, (uint32_t)c);
    return true;
}

static bool scan_escape(struct scan *s, struct buf *decoded)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    s->at++;
    char c = peek(s);
    const char *found = c ? strchr(from, c) : NULL;
    if (!found && c != 'u')
        return fail_at(s, s->at - 1, "an unknown escape in a string");
    s->at++;
    if (c == 'u')
        return scan_unicode_escape(s, decoded);
    if (decoded)
        buf_append_char(decoded, to[found - from]);
    return true;
}

/* At the opening quote.  Appends the decoded text to decoded unless that is NULL. */
static bool scan_string(struct scan *s, struct buf *decoded)
{
    size_t begin = s->at++;
    for (;;) {
        size_t plain = s->at;
        while (s->at < s->n && (unsigned char)s->text[s->at] >= 0x20 && s->text[s->at] != '"' &&
               s->text[s->at] != '\\')
            s->at++;
        if (decoded)
            buf_append(decoded, s->text + plain, s->at - plain);
        if (s->at >= s->n)
            return fail_at(s, begin, "a string without its closing quote");
        if (s->text[s->at] == '"') {
            s->at++;
            return true;
        }
        if (s->text[s->at] != '\\')
            return fail_at(s, s->at, "the control character 0x%02x must be escaped in a string",
                           (unsigned char)s->text[s->at]);
        if (!scan_escape(s, decoded))
            return false;
    }
}

/* A total order in which equal names are neighbours, the earlier place first. */
static int compare_keys(const void *a, const void *b, void *names)
{
    const struct key *x = a, *y = b;
    if (x->hash != y->hash)
        return x->hash < y->hash ? -1 : 1;
    if (x->len != y->len)
        return x->len < y->len ? -1 : 1;
    const char *text = ((struct buf *)names)->data;
    int order = memcmp(text + x->begin, text + y->begin, x->len);
    return order ? order : (x->at > y->at) - (x->at < y->at);
}

static bool check_unique(struct scan *s, size_t first)
{
    struct key *keys = s->keys + first;
    size_t n = s->n_keys - first;
    if (n < 2)
        return true;
    qsort_r(keys, n, sizeof *keys, compare_keys, &s->names);
    for (size_t i = 1; i < n; i++) {
        const struct key *a = &keys[i - 1], *b = &keys[i];
        if (a->hash == b->hash && a->len == b->len &&
            memcmp(s->names.data + a->begin, s->names.data + b->begin, a->len) == 0)
            return fail_at(s, b->at, "the key \"%.*s\" comes twice in one object",
                           (int)(b->len < 80 ? b->len : 80), s->names.data + b->begin);
    }
    return true;
}

static bool scan_key(struct scan *s)
{
    if (peek(s) != '"')
        return fail_expected(s, "a key in quotes");
    struct key key = {.begin = s->names.len, .at = s->at};
    if (!scan_string(s, &s->names))
        return false;
    key.len = s->names.len - key.begin;
    key.hash = 14695981039346656037u;
    for (size_t i = 0; i < key.len; i++)
        key.hash = (key.hash ^ (unsigned char)s->names.data[key.begin + i]) * 1099511628211u;
    s->keys = array_grow(s->keys, &s->keys_capacity, s->n_keys + 1, sizeof *s->keys);
    s->keys[s->n_keys++] = key;
    skip_space(s);
    if (peek(s) != ':')
        return fail_expected(s, "':'");
    s->at++;
    skip_space(s);
    return true;
}

static bool scan_value(struct scan *s);

/* The inside of an object or an array, up to and including its closing bracket. */
static bool scan_children(struct scan *s, bool is_object)
{
    char close = is_object ? '}' : ']';
    skip_space(s);
    if (peek(s) == close) {
        s->at++;
        return true;
    }
    for (;;) {
        if (is_object && !scan_key(s))
            return false;
        if (!scan_value(s))
            return false;
        skip_space(s);
        if (peek(s) == close) {
            s->at++;
            return true;
        }
        if (peek(s) != ',')
            return fail_expected(s, is_object ? "',' or '}'" : "',' or ']'");
        s->at++;
        skip_space(s);
    }
}

static bool scan_container(struct scan *s, bool is_object)
{
    if (s->depth >= JSON_MAX_DEPTH)
        return fail_at(s, s->at, "nested deeper than %d levels", JSON_MAX_DEPTH);
    s->depth++;
    s->at++;
    size_t first_key = s->n_keys, first_name = s->names.len;
    if (!scan_children(s, is_object) || !check_unique(s, first_key))
        return false;
    s->n_keys = first_key;
    s->names.len = first_name;
    s->depth--;
    return true;
}

static bool scan_word(struct scan *s, const char *word)
{
    size_t len = strlen(word);
    if (s->n - s->at < len || memcmp(s->text + s->at, word, len) != 0)
        return fail_expected(s, "a value");
    s->at += len;
    return true;
}

static bool scan_value(struct scan *s)
{
    switch (peek(s)) {
    case '{':
        return scan_container(s, true);
    case '[':
        return scan_container(s, false);
    case '"':
        return scan_string(s, NULL);
    case 't':
        return scan_word(s, "true");
    case 'f':
        return scan_word(s, "false");
    case 'n':
        return scan_word(s, "null");
    default:
        if (peek(s) != '-' && !is_digit(peek(s)))
            return fail_expected(s, "a value");
        return scan_number(s);
    }
}

static bool scan_document(struct scan *s)
{
    size_t bad_at;
    if (!utf8_valid(s->text, s->n, &bad_at))
        return fail_at(s, bad_at, "the byte 0x%02x is not valid UTF-8",
                       (unsigned char)s->text[bad_at]);
    if (s->n >= 3 && memcmp(s->text, "\xEF\xBB\xBF", 3) == 0)
        return fail_at(s, 0, "the text begins with a byte-order mark; save it without");
    skip_space(s);
    if (!scan_value(s))
        return false;
    skip_space(s);
    if (s->at < s->n)
        return fail_expected(s, "nothing more after the value");
    return true;
}

bool json_scan(const char *text, size_t n, const char *name, struct error *err)
{
    struct scan s = {.text = text, .n = n, .name = name, .err = err};
    bool ok = scan_document(&s);
    free(s.keys);
    buf_free(&s.names);
    return ok;
}
