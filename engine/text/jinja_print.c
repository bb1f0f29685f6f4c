/* Python's str and repr, byte for byte. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "engine/base/utf8.h"
#include "engine/text/jinja_run.h"

/* The shortest digits that read back as v, as Python writes them: with an exponent below 1e-4 and
 * from 1e16 on, and always with a point or an exponent. */
static void print_float(struct jinja_builder *b, double v)
{
    char digits[40], text[64];
    if (isnan(v) || isinf(v)) {
        jinja_put_text(b, isnan(v) ? "nan" : v < 0 ? "-inf" : "inf");
        return;
    }
    int precision = 0;
    do
        snprintf(digits, sizeof digits, "%.*e", precision, v);
    while (strtod(digits, NULL) != v && ++precision < 17);
    int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent < -4 || exponent >= 16) {
        *strchr(digits, 'e') = 0;
        snprintf(text, sizeof text, "%se%c%02d", digits, exponent < 0 ? '-' : '+', abs(exponent));
    } else {
        int n_decimals = precision - exponent;
        snprintf(text, sizeof text, "%.*f", n_decimals < 1 ? 1 : n_decimals, v);
    }
    jinja_put_text(b, text);
}

/* str.isprintable for one code point. */
static bool is_printable(uint32_t c)
{
    if (c < 0x7F)
        return c >= 0x20;
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
        return false;
    default:
        return true;
    }
}

static void print_repr_char(struct jinja_builder *b, uint32_t c, char quote)
{
    char text[16];
    const char *simple = c == '\n' ? "\\n" : c == '\r' ? "\\r" : c == '\t' ? "\\t" : NULL;
    if (simple) {
        jinja_put_text(b, simple);
    } else if (c == (unsigned char)quote || c == '\\') {
        jinja_put(b, "\\", 1);
        jinja_put_code_point(b, c);
    } else if (is_printable(c)) {
        jinja_put_code_point(b, c);
    } else {
        snprintf(text, sizeof text, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
        jinja_put_text(b, text);
    }
}

static void print_repr_string(struct jinja_builder *b, const struct jinja_string *s)
{
    bool has_single = memchr(s->data, '\'', s->len) != NULL;
    bool has_double = memchr(s->data, '"', s->len) != NULL;
    char quote = has_single && !has_double ? '"' : '\'';
    if (s->markup)
        jinja_put_text(b, "Markup(");
    jinja_put(b, &quote, 1);
    for (size_t i = 0; i < s->len;) {
        uint32_t c;
        int n_bad;
        i += (size_t)utf8_decode(s->data + i, s->len - i, &c, &n_bad);
        print_repr_char(b, c, quote);
    }
    jinja_put(b, &quote, 1);
    if (s->markup)
        jinja_put(b, ")", 1);
}

static void print_items(struct jinja_builder *b, const struct jinja_sequence *s)
{
    for (size_t i = 0; i < s->n; i++) {
        if (i)
            jinja_put(b, ", ", 2);
        jinja_print_repr(b, s->items[i]);
    }
}

static void print_range(struct jinja_builder *b, const struct jinja_sequence *s)
{
    char text[80];
    if (s->step == 1)
        snprintf(text, sizeof text, "range(%lld, %lld)", (long long)s->start, (long long)s->stop);
    else
        snprintf(text, sizeof text, "range(%lld, %lld, %lld)", (long long)s->start,
                 (long long)s->stop, (long long)s->step);
    jinja_put_text(b, text);
}

static void print_sequence(struct jinja_builder *b, const struct jinja_sequence *s)
{
    static const char *const OPEN[] = {"[",           "(", "", "dict_keys([", "dict_values([",
                                       "dict_items(["};
    static const char *const CLOSE[] = {"]", ")", "", "])", "])", "])"};
    if (s->kind == JINJA_RANGE) {
        print_range(b, s);
        return;
    }
    if (s->kind == JINJA_GENERATOR) {
        jinja_put_text(b, "<generator object>");
        return;
    }
    jinja_put_text(b, OPEN[s->kind]);
    print_items(b, s);
    if (s->kind == JINJA_TUPLE && s->n == 1)
        jinja_put(b, ",", 1);
    jinja_put_text(b, CLOSE[s->kind]);
}

static void print_dict(struct jinja_builder *b, const struct jinja_dict *dict)
{
    jinja_put(b, "{", 1);
    for (size_t i = 0; i < dict->n; i++) {
        if (i)
            jinja_put(b, ", ", 2);
        jinja_print_repr(b, dict->keys[i]);
        jinja_put(b, ": ", 2);
        jinja_print_repr(b, dict->values[i]);
    }
    jinja_put(b, "}", 1);
}

void jinja_print_repr(struct jinja_builder *b, struct jinja_value v)
{
    char text[32];
    jinja_descend(b->run);
    switch (v.kind) {
    case JINJA_ABSENT:
    case JINJA_UNDEFINED:
        jinja_put_text(b, "Undefined");
        break;
    case JINJA_NONE:
        jinja_put_text(b, "None");
        break;
    case JINJA_BOOL:
        jinja_put_text(b, v.truth ? "True" : "False");
        break;
    case JINJA_INT:
        snprintf(text, sizeof text, "%lld", (long long)v.integer);
        jinja_put_text(b, text);
        break;
    case JINJA_FLOAT:
        print_float(b, v.real);
        break;
    case JINJA_STRING:
        print_repr_string(b, v.string);
        break;
    case JINJA_SEQUENCE:
        print_sequence(b, v.sequence);
        break;
    case JINJA_DICT:
        print_dict(b, v.dict);
        break;
    case JINJA_NAMESPACE:
        jinja_put_text(b, "<Namespace ");
        print_dict(b, v.dict);
        jinja_put(b, ">", 1);
        break;
    default:
        jinja_put(b, "<", 1);
        jinja_put_text(b, jinja_type_word(v));
        jinja_put(b, ">", 1);
    }
    jinja_ascend(b->run);
}

void jinja_print(struct jinja_builder *b, struct jinja_value v)
{
    if (v.kind == JINJA_STRING)
        jinja_put(b, v.string->data, v.string->len);
    else if (v.kind != JINJA_UNDEFINED)
        jinja_print_repr(b, v);
}

struct jinja_value jinja_to_text(struct jinja_run *run, struct jinja_value v)
{
    if (v.kind == JINJA_STRING)
        return v;
    struct jinja_builder b = jinja_builder_new(run);
    jinja_print(&b, v);
    return jinja_built(&b);
}
