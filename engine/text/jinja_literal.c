/* Literals, by the regular expressions of jinja2/lexer.py and Python's unicode-escape codec. */
#include "engine/text/jinja_literal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/utf8.h"

static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return 99;
}

/* Reads exactly n_digits hexadecimal digits behind the letter at s[0]. */
static uint32_t read_hex(struct jinja_trap *trap, const char *s, size_t n, size_t n_digits)
{
    uint32_t value = 0;
    for (size_t i = 1; i <= n_digits; i++) {
        if (i >= n || digit_value(s[i]) > 15)
            jinja_raise(trap, "the escape \\%c needs %zu hexadecimal digits", s[0], n_digits);
        value = value << 4 | (uint32_t)digit_value(s[i]);
    }
    if (value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF))
        jinja_raise(trap, "the escape \\%c%X is not a character", s[0], value);
    return value;
}

/* A backslash before a character past ASCII stays, and the character becomes its escape's
 * letters: the codec sees "\\xe9", a backslash and "xe9". */
static size_t put_escaped_non_ascii(char *out, const char *s, size_t n, size_t *len)
{
    uint32_t c;
    int n_bad;
    size_t n_used = (size_t)utf8_decode(s, n, &c, &n_bad);
    *len = (size_t)sprintf(out, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
    return n_used;
}

/* Decodes the escape behind a backslash; returns the bytes used and sets *len to those written
 * (at most 10). */
static size_t decode_escape(struct jinja_trap *trap, const char *s, size_t n, char *out,
                            size_t *len)
{
    static const char NAMES[] = "\\'\"abfnrtv", CODES[] = "\\'\"\a\b\f\n\r\t\v";
    const char *simple = s[0] ? strchr(NAMES, s[0]) : NULL;
    *len = 1;
    if (simple) {
        out[0] = CODES[simple - NAMES];
        return 1;
    }
    if (s[0] == '\n') {
        *len = 0;
        return 1;
    }
    if (s[0] >= '0' && s[0] <= '7') {
        uint32_t value = 0;
        size_t i = 0;
        for (; i < 3 && i < n && s[i] >= '0' && s[i] <= '7'; i++)
            value = value * 8 + (uint32_t)(s[i] - '0');
        *len = utf8_encode(out, value);
        return i;
    }
    if (s[0] == 'x' || s[0] == 'u' || s[0] == 'U') {
        size_t n_digits = s[0] == 'x' ? 2 : s[0] == 'u' ? 4 : 8;
        *len = utf8_encode(out, read_hex(trap, s, n, n_digits));
        return n_digits + 1;
    }
    if (s[0] == 'N')
        jinja_raise(trap, "character names (\\N{...}) are not supported: write the character");
    if ((unsigned char)s[0] >= 0x80)
        return put_escaped_non_ascii(out, s, n, len);
    out[0] = '\\';
    out[1] = s[0];
    *len = 2;
    return 1;
}

const char *jinja_decode_string(struct jinja_arena *arena, const char *s, size_t n, size_t *len)
{
    /* The longest growth: a backslash and two bytes become the six of \u0123. */
    char *out = jinja_alloc(arena, n * 3 + 16);
    size_t n_out = 0;
    for (size_t i = 0; i < n;) {
        if (s[i] != '\\') {
            out[n_out++] = s[i++];
            continue;
        }
        size_t n_written;
        i++;
        i += decode_escape(arena->trap, s + i, n - i, out + n_out, &n_written);
        n_out += n_written;
    }
    *len = n_out;
    return out;
}

/* Length of digits of a base, single underscores between them (or before, if leading). */
static size_t digits(const char *s, size_t n, int base, bool leading)
{
    size_t len = 0;
    for (;;) {
        size_t at = len;
        if (at < n && s[at] == '_' && (len || leading))
            at++;
        if (at >= n || digit_value(s[at]) >= base)
            return len;
        len = at + 1;
    }
}

/* Length of an integer: 0b1, 0o7, 0xf, 10, 0. */
static size_t integer_length(const char *s, size_t n, int *base)
{
    *base = 10;
    if (n > 2 && s[0] == '0') {
        char letter = (char)(s[1] | 0x20);
        int wanted = letter == 'b' ? 2 : letter == 'o' ? 8 : letter == 'x' ? 16 : 0;
        size_t len = wanted ? digits(s + 2, n - 2, wanted, true) : 0;
        if (len) {
            *base = wanted;
            return len + 2;
        }
    }
    return s[0] == '0' ? digits(s, n, 1, false) : digits(s, n, 10, false);
}

/* Length of a float: digits, then a fraction or an exponent or both; else 0. */
static size_t float_length(const char *s, size_t n)
{
    size_t whole = digits(s, n, 10, false), len = whole;
    if (len < n && s[len] == '.') {
        size_t fraction = digits(s + len + 1, n - len - 1, 10, false);
        if (!fraction)
            return 0;
        len += 1 + fraction;
    }
    if (len < n && (s[len] | 0x20) == 'e') {
        size_t at = len + 1;
        if (at < n && (s[at] == '+' || s[at] == '-'))
            at++;
        size_t exponent = digits(s + at, n - at, 10, false);
        if (exponent)
            return at + exponent;
    }
    return len > whole ? len : 0;
}

size_t jinja_read_number(struct jinja_trap *trap, const char *s, size_t n, bool may_be_float,
                         int64_t *integer, double *real, bool *is_float)
{
    char plain[400];
    int base;
    size_t n_plain = 0;
    size_t len = may_be_float ? float_length(s, n) : 0;
    *is_float = len > 0;
    if (!len)
        len = integer_length(s, n, &base);
    if (len >= sizeof plain)
        jinja_raise(trap, "a number of %zu digits is too long", len);
    for (size_t i = *is_float || base == 10 ? 0 : 2; i < len; i++)
        if (s[i] != '_')
            plain[n_plain++] = s[i];
    plain[n_plain] = 0;
    if (*is_float) {
        *real = strtod(plain, NULL);
        return len;
    }
    *integer = 0;
    for (size_t i = 0; i < n_plain; i++)
        if (__builtin_mul_overflow(*integer, (int64_t)base, integer) ||
            __builtin_add_overflow(*integer, (int64_t)digit_value(plain[i]), integer))
            jinja_raise(trap, "the integer %s does not fit 64 bits", plain);
    return len;
}
