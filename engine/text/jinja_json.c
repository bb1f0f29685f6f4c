/* The filter tojson: Python's json.dumps with ensure_ascii off, as transformers replaces Jinja's
 * own, which escapes HTML. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/utf8.h"
#include "engine/text/jinja_run.h"

enum { OPTION_ENSURE_ASCII, OPTION_INDENT, OPTION_SEPARATORS, OPTION_SORT_KEYS };

struct style {
    bool ensure_ascii, sort_keys, has_indent;
    struct jinja_value indent, item_separator, key_separator; /* strings */
};

static void write_value(struct jinja_builder *b, const struct style *style, struct jinja_value v,
                        int level);

static void write_unicode_escape(struct jinja_builder *b, uint32_t c)
{
    char text[16];
    if (c >= 0x10000) {
        c -= 0x10000;
        snprintf(text, sizeof text, "\\u%04x\\u%04x", 0xD800 + (c >> 10), 0xDC00 + (c & 0x3FF));
    } else {
        snprintf(text, sizeof text, "\\u%04x", c);
    }
    jinja_put_text(b, text);
}

static void write_string(struct jinja_builder *b, const struct style *style,
                         const struct jinja_string *s)
{
    static const char SPECIAL[] = "\"\\\n\r\t\f\b", LETTERS[] = "\"\\nrtfb";
    jinja_put(b, "\"", 1);
    for (size_t i = 0; i < s->len;) {
        uint32_t c;
        int n_bad;
        i += (size_t)utf8_decode(s->data + i, s->len - i, &c, &n_bad);
        const char *special = c && c < 0x80 ? strchr(SPECIAL, (int)c) : NULL;
        if (special) {
            jinja_put(b, (char[]){'\\', LETTERS[special - SPECIAL]}, 2);
        } else if (c < 0x20 || (style->ensure_ascii && c > 0x7E)) {
            write_unicode_escape(b, c);
        } else {
            jinja_put_code_point(b, c);
        }
    }
    jinja_put(b, "\"", 1);
}

static void write_newline(struct jinja_builder *b, const struct style *style, int level)
{
    if (!style->has_indent)
        return;
    jinja_put(b, "\n", 1);
    for (int i = 0; i < level; i++)
        jinja_print(b, style->indent);
}

static void write_float(struct jinja_builder *b, double v)
{
    if (isnan(v) || isinf(v))
        jinja_put_text(b, isnan(v) ? "NaN" : v < 0 ? "-Infinity" : "Infinity");
    else
        jinja_print_repr(b, jinja_float(v));
}

static void write_list(struct jinja_builder *b, const struct style *style,
                       const struct jinja_sequence *s, int level)
{
    jinja_put(b, "[", 1);
    for (size_t i = 0; i < s->n; i++) {
        if (i)
            jinja_print(b, style->item_separator);
        write_newline(b, style, level + 1);
        write_value(b, style, s->items[i], level + 1);
    }
    if (s->n)
        write_newline(b, style, level);
    jinja_put(b, "]", 1);
}

static void write_key(struct jinja_builder *b, const struct style *style, struct jinja_value key)
{
    if (key.kind == JINJA_STRING) {
        write_string(b, style, key.string);
        return;
    }
    if (key.kind != JINJA_NONE && key.kind != JINJA_BOOL && key.kind != JINJA_INT &&
        key.kind != JINJA_FLOAT)
        jinja_raise(&b->run->trap, "tojson cannot write %s as a key", jinja_type_name(key));
    jinja_put(b, "\"", 1);
    write_value(b, style, key, 0);
    jinja_put(b, "\"", 1);
}

static struct jinja_dict *sorted_by_key(struct jinja_run *run, const struct jinja_dict *dict)
{
    struct jinja_dict *sorted = jinja_alloc(&run->arena, sizeof *sorted);
    sorted->keys = jinja_alloc_array(&run->arena, dict->n, sizeof *sorted->keys);
    sorted->values = jinja_alloc_array(&run->arena, dict->n, sizeof *sorted->values);
    for (; sorted->n < dict->n; sorted->n++) {
        size_t at = sorted->n;
        for (; at > 0 && jinja_less(run, dict->keys[sorted->n], sorted->keys[at - 1]); at--) {
            sorted->keys[at] = sorted->keys[at - 1];
            sorted->values[at] = sorted->values[at - 1];
        }
        sorted->keys[at] = dict->keys[sorted->n];
        sorted->values[at] = dict->values[sorted->n];
    }
    return sorted;
}

static void write_dict(struct jinja_builder *b, const struct style *style,
                       const struct jinja_dict *dict, int level)
{
    if (style->sort_keys)
        dict = sorted_by_key(b->run, dict);
    jinja_put(b, "{", 1);
    for (size_t i = 0; i < dict->n; i++) {
        if (i)
            jinja_print(b, style->item_separator);
        write_newline(b, style, level + 1);
        write_key(b, style, dict->keys[i]);
        jinja_print(b, style->key_separator);
        write_value(b, style, dict->values[i], level + 1);
    }
    if (dict->n)
        write_newline(b, style, level);
    jinja_put(b, "}", 1);
}

static void write_value(struct jinja_builder *b, const struct style *style, struct jinja_value v,
                        int level)
{
    bool is_array = v.kind == JINJA_SEQUENCE &&
                    (v.sequence->kind == JINJA_LIST || v.sequence->kind == JINJA_TUPLE);
    jinja_descend(b->run);
    if (v.kind == JINJA_NONE)
        jinja_put_text(b, "null");
    else if (v.kind == JINJA_BOOL)
        jinja_put_text(b, v.truth ? "true" : "false");
    else if (v.kind == JINJA_INT)
        jinja_print_repr(b, v);
    else if (v.kind == JINJA_FLOAT)
        write_float(b, v.real);
    else if (v.kind == JINJA_STRING)
        write_string(b, style, v.string);
    else if (v.kind == JINJA_DICT)
        write_dict(b, style, v.dict, level);
    else if (is_array)
        write_list(b, style, v.sequence, level);
    else
        jinja_raise(&b->run->trap, "tojson cannot write %s", jinja_type_name(v));
    jinja_ascend(b->run);
}

/* indent=4 or indent='  ': what one level is indented by. */
static struct jinja_value indent_text(struct jinja_run *run, struct jinja_value indent)
{
    int64_t width;
    struct jinja_builder b = jinja_builder_new(run);
    if (indent.kind == JINJA_STRING)
        return indent;
    if (!jinja_is_integral(indent, &width))
        jinja_raise(&run->trap, "tojson's indent is a number or a string, not %s",
                    jinja_type_name(indent));
    for (int64_t i = 0; i < width; i++)
        jinja_put(&b, " ", 1);
    return jinja_built(&b);
}

struct jinja_value jinja_to_json(struct jinja_run *run, struct jinja_value v,
                                 const struct jinja_value *options)
{
    struct style style = {.ensure_ascii = jinja_truth(options[OPTION_ENSURE_ASCII]),
                          .sort_keys = jinja_truth(options[OPTION_SORT_KEYS])};
    struct jinja_value indent = options[OPTION_INDENT], separators = options[OPTION_SEPARATORS];
    style.has_indent = indent.kind != JINJA_ABSENT && indent.kind != JINJA_NONE;
    if (style.has_indent)
        style.indent = indent_text(run, indent);
    style.item_separator = jinja_text_of(run, style.has_indent ? "," : ", ");
    style.key_separator = jinja_text_of(run, ": ");
    if (separators.kind != JINJA_ABSENT && separators.kind != JINJA_NONE) {
        struct jinja_span pair = jinja_walk(run, separators);
        if (pair.n != 2 || pair.items[0].kind != JINJA_STRING || pair.items[1].kind != JINJA_STRING)
            jinja_raise(&run->trap, "tojson's separators are two strings");
        style.item_separator = pair.items[0];
        style.key_separator = pair.items[1];
    }
    struct jinja_builder b = jinja_builder_new(run);
    write_value(&b, &style, v, 0);
    return jinja_built(&b);
}
