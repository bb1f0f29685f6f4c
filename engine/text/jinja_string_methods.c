/* Python's methods of str. */
#include <string.h>

#include "engine/base/utf8.h"
#include "engine/text/jinja_filters.h"
#include "engine/text/jinja_lexer.h"
#include "engine/text/jinja_methods.h"
#include "engine/text/jinja_text.h"

static const struct jinja_string *need_string(struct jinja_run *run, struct jinja_value v,
                                              const char *what)
{
    if (v.kind != JINJA_STRING)
        jinja_raise(&run->trap, "%s needs a string, not %s", what, jinja_type_name(v));
    return v.string;
}

/* The string, or NULL if it was not given or is none. */
static const struct jinja_string *option_string(struct jinja_run *run, struct jinja_value v,
                                                const char *what)
{
    return v.kind == JINJA_ABSENT || v.kind == JINJA_NONE ? NULL : need_string(run, v, what);
}

static struct jinja_value call_strip(struct jinja_run *run, struct jinja_value s,
                                     const struct jinja_value *values)
{
    return jinja_strip(run, s.string, option_string(run, values[0], "strip"), JINJA_BOTH);
}

static struct jinja_value call_lstrip(struct jinja_run *run, struct jinja_value s,
                                      const struct jinja_value *values)
{
    return jinja_strip(run, s.string, option_string(run, values[0], "lstrip"), JINJA_LEFT);
}

static struct jinja_value call_rstrip(struct jinja_run *run, struct jinja_value s,
                                      const struct jinja_value *values)
{
    return jinja_strip(run, s.string, option_string(run, values[0], "rstrip"), JINJA_RIGHT);
}

static struct jinja_value call_split(struct jinja_run *run, struct jinja_value s,
                                     const struct jinja_value *values)
{
    return jinja_split(run, s.string, option_string(run, values[0], "split"),
                       jinja_option_int(run, values[1], -1, "maxsplit"), false);
}

static struct jinja_value call_rsplit(struct jinja_run *run, struct jinja_value s,
                                      const struct jinja_value *values)
{
    return jinja_split(run, s.string, option_string(run, values[0], "rsplit"),
                       jinja_option_int(run, values[1], -1, "maxsplit"), true);
}

static struct jinja_value call_splitlines(struct jinja_run *run, struct jinja_value s,
                                          const struct jinja_value *values)
{
    return jinja_split_lines(run, s.string, jinja_option_truth(values[0], false));
}

/* The part that [start:end] of find, count and startswith leaves; false if it lies outside. */
static bool part_of(struct jinja_run *run, const struct jinja_string *s, struct jinja_value start,
                    struct jinja_value end, size_t *from, size_t *to)
{
    int64_t n = (int64_t)s->n_chars;
    int64_t first = start.kind == JINJA_NONE ? 0 : jinja_option_int(run, start, 0, "a position");
    int64_t last = end.kind == JINJA_NONE ? n : jinja_option_int(run, end, n, "a position");
    if (first < 0)
        first = first + n < 0 ? 0 : first + n;
    if (last < 0)
        last = last + n < 0 ? 0 : last + n;
    if (last > n)
        last = n;
    *from = (size_t)first;
    *to = (size_t)last;
    return first <= last;
}

static bool has_affix(struct jinja_run *run, const struct jinja_string *s,
                      const struct jinja_value *values, const struct jinja_string *affix,
                      bool at_end)
{
    size_t from, to;
    if (!part_of(run, s, values[1], values[2], &from, &to))
        return false;
    from = jinja_byte_offset(run, s, from);
    to = jinja_byte_offset(run, s, to);
    if (affix->len > to - from)
        return false;
    return !memcmp(s->data + (at_end ? to - affix->len : from), affix->data, affix->len);
}

static struct jinja_value call_affix(struct jinja_run *run, struct jinja_value s,
                                     const struct jinja_value *values, bool at_end)
{
    const char *what = at_end ? "endswith" : "startswith";
    if (values[0].kind != JINJA_SEQUENCE || values[0].sequence->kind != JINJA_TUPLE)
        return jinja_bool(
            has_affix(run, s.string, values, need_string(run, values[0], what), at_end));
    for (size_t i = 0; i < values[0].sequence->n; i++)
        if (has_affix(run, s.string, values, need_string(run, values[0].sequence->items[i], what),
                      at_end))
            return jinja_bool(true);
    return jinja_bool(false);
}

static struct jinja_value call_startswith(struct jinja_run *run, struct jinja_value s,
                                          const struct jinja_value *values)
{
    return call_affix(run, s, values, false);
}

static struct jinja_value call_endswith(struct jinja_run *run, struct jinja_value s,
                                        const struct jinja_value *values)
{
    return call_affix(run, s, values, true);
}

static struct jinja_value call_replace(struct jinja_run *run, struct jinja_value s,
                                       const struct jinja_value *values)
{
    return jinja_replace(run, s.string, need_string(run, values[0], "replace"),
                         need_string(run, values[1], "replace"),
                         jinja_option_int(run, values[2], -1, "replace's count"));
}

static struct jinja_value call_upper(struct jinja_run *run, struct jinja_value s,
                                     const struct jinja_value *values)
{
    (void)values;
    return jinja_cased(run, s.string, JINJA_UPPER);
}

static struct jinja_value call_lower(struct jinja_run *run, struct jinja_value s,
                                     const struct jinja_value *values)
{
    (void)values;
    return jinja_cased(run, s.string, JINJA_LOWER);
}

static struct jinja_value call_title(struct jinja_run *run, struct jinja_value s,
                                     const struct jinja_value *values)
{
    (void)values;
    return jinja_cased(run, s.string, JINJA_TITLE);
}

static struct jinja_value call_capitalize(struct jinja_run *run, struct jinja_value s,
                                          const struct jinja_value *values)
{
    (void)values;
    return jinja_cased(run, s.string, JINJA_CAPITALIZE);
}

static struct jinja_value call_swapcase(struct jinja_run *run, struct jinja_value s,
                                        const struct jinja_value *values)
{
    (void)values;
    return jinja_cased(run, s.string, JINJA_SWAP);
}

static struct jinja_value call_join(struct jinja_run *run, struct jinja_value s,
                                    const struct jinja_value *values)
{
    struct jinja_span span = jinja_walk(run, values[0]);
    struct jinja_builder b = jinja_builder_new(run);
    for (size_t i = 0; i < span.n; i++) {
        jinja_charge(run, 1);
        need_string(run, span.items[i], "join");
        if (i)
            jinja_print(&b, s);
        jinja_print(&b, span.items[i]);
    }
    return jinja_built(&b);
}

static int64_t find(struct jinja_run *run, struct jinja_value s, const struct jinja_value *values,
                    bool last)
{
    size_t from, to;
    const struct jinja_string *part = need_string(run, values[0], "find");
    if (!part_of(run, s.string, values[1], values[2], &from, &to))
        return -1;
    return jinja_find(run, s.string, part, from, to, last);
}

static struct jinja_value call_find(struct jinja_run *run, struct jinja_value s,
                                    const struct jinja_value *values)
{
    return jinja_int(find(run, s, values, false));
}

static struct jinja_value call_rfind(struct jinja_run *run, struct jinja_value s,
                                     const struct jinja_value *values)
{
    return jinja_int(find(run, s, values, true));
}

static struct jinja_value found_or_raise(struct jinja_run *run, int64_t index)
{
    if (index < 0)
        jinja_raise(&run->trap, "index: the part is not in the string");
    return jinja_int(index);
}

static struct jinja_value call_index(struct jinja_run *run, struct jinja_value s,
                                     const struct jinja_value *values)
{
    return found_or_raise(run, find(run, s, values, false));
}

static struct jinja_value call_rindex(struct jinja_run *run, struct jinja_value s,
                                      const struct jinja_value *values)
{
    return found_or_raise(run, find(run, s, values, true));
}

static struct jinja_value call_count(struct jinja_run *run, struct jinja_value s,
                                     const struct jinja_value *values)
{
    const struct jinja_string *part = need_string(run, values[0], "count");
    size_t from, to;
    int64_t n = 0;
    if (!part_of(run, s.string, values[1], values[2], &from, &to) || from > s.string->n_chars)
        return jinja_int(0);
    if (!part->len)
        return jinja_int((int64_t)(to - from) + 1);
    const char *at = s.string->data + jinja_byte_offset(run, s.string, from);
    const char *end = s.string->data + jinja_byte_offset(run, s.string, to);
    jinja_charge(run, (size_t)(end - at) / 64);
    for (; (at = memmem(at, (size_t)(end - at), part->data, part->len)); at += part->len)
        n++;
    return jinja_int(n);
}

static struct jinja_value call_removeprefix(struct jinja_run *run, struct jinja_value s,
                                            const struct jinja_value *values)
{
    const struct jinja_string *part = need_string(run, values[0], "removeprefix");
    if (part->len > s.string->len || memcmp(s.string->data, part->data, part->len) != 0)
        return s;
    return jinja_text(run, s.string->data + part->len, s.string->len - part->len);
}

static struct jinja_value call_removesuffix(struct jinja_run *run, struct jinja_value s,
                                            const struct jinja_value *values)
{
    const struct jinja_string *part = need_string(run, values[0], "removesuffix");
    size_t rest = s.string->len - part->len;
    if (part->len > s.string->len || memcmp(s.string->data + rest, part->data, part->len) != 0)
        return s;
    return jinja_text(run, s.string->data, rest);
}

/* True if the string is not empty and every code point is of the class. */
static struct jinja_value all_are(const struct jinja_string *s, bool (*is)(uint32_t c))
{
    for (size_t i = 0; i < s->len;) {
        uint32_t c;
        int n_bad;
        i += (size_t)utf8_decode(s->data + i, s->len - i, &c, &n_bad);
        if (!is(c))
            return jinja_bool(false);
    }
    return jinja_bool(s->len > 0);
}

static struct jinja_value call_isdigit(struct jinja_run *run, struct jinja_value s,
                                       const struct jinja_value *values)
{
    (void)run, (void)values;
    return all_are(s.string, jinja_is_digit);
}

static struct jinja_value call_isalpha(struct jinja_run *run, struct jinja_value s,
                                       const struct jinja_value *values)
{
    (void)run, (void)values;
    return all_are(s.string, jinja_is_alpha);
}

static struct jinja_value call_isalnum(struct jinja_run *run, struct jinja_value s,
                                       const struct jinja_value *values)
{
    (void)run, (void)values;
    return all_are(s.string, jinja_is_alnum);
}

static struct jinja_value call_isspace(struct jinja_run *run, struct jinja_value s,
                                       const struct jinja_value *values)
{
    (void)run, (void)values;
    return all_are(s.string, jinja_is_space);
}

static struct jinja_value call_isascii(struct jinja_run *run, struct jinja_value s,
                                       const struct jinja_value *values)
{
    (void)run, (void)values;
    return jinja_bool(s.string->len == s.string->n_chars);
}

static struct jinja_value call_isupper(struct jinja_run *run, struct jinja_value s,
                                       const struct jinja_value *values)
{
    (void)run, (void)values;
    return jinja_bool(jinja_is_upper(s.string->data, s.string->len));
}

static struct jinja_value call_islower(struct jinja_run *run, struct jinja_value s,
                                       const struct jinja_value *values)
{
    (void)run, (void)values;
    return jinja_bool(jinja_is_lower(s.string->data, s.string->len));
}

/* Fills up to width; left_share says how much of the room is on the left. */
static struct jinja_value pad(struct jinja_run *run, const struct jinja_string *s,
                              const struct jinja_value *values, enum jinja_side text_side)
{
    int64_t width = jinja_option_int(run, values[0], 0, "the width");
    struct jinja_string blank = {.data = " ", .len = 1, .n_chars = 1};
    const struct jinja_string *fill = option_string(run, values[1], "the fill character");
    fill = fill ? fill : &blank;
    if (fill->n_chars != 1)
        jinja_raise(&run->trap, "the fill character is one character");
    int64_t room = width - (int64_t)s->n_chars > 0 ? width - (int64_t)s->n_chars : 0;
    int64_t left = text_side == JINJA_LEFT    ? 0
                   : text_side == JINJA_RIGHT ? room
                                              : room / 2 + (room & width & 1);
    struct jinja_builder b = jinja_builder_new(run);
    for (int64_t i = 0; i < room; i++) {
        if (i == left)
            jinja_put(&b, s->data, s->len);
        jinja_put(&b, fill->data, fill->len);
    }
    if (left >= room)
        jinja_put(&b, s->data, s->len);
    return jinja_built(&b);
}

static struct jinja_value call_ljust(struct jinja_run *run, struct jinja_value s,
                                     const struct jinja_value *values)
{
    return pad(run, s.string, values, JINJA_LEFT);
}

static struct jinja_value call_rjust(struct jinja_run *run, struct jinja_value s,
                                     const struct jinja_value *values)
{
    return pad(run, s.string, values, JINJA_RIGHT);
}

static struct jinja_value call_center(struct jinja_run *run, struct jinja_value s,
                                      const struct jinja_value *values)
{
    return pad(run, s.string, values, JINJA_BOTH);
}

static struct jinja_value partition(struct jinja_run *run, const struct jinja_string *s,
                                    struct jinja_value separator, bool last)
{
    const struct jinja_string *part = need_string(run, separator, "partition");
    struct jinja_value out = jinja_sequence_new(run, JINJA_TUPLE), empty = jinja_text(run, "", 0);
    struct jinja_value pieces =
        jinja_split(run, s, part, 1, last); /* raises for an empty separator */
    struct jinja_sequence *list = pieces.sequence;
    struct jinja_value whole = jinja_text(run, s->data, s->len);
    bool found = list->n == 2;
    jinja_push(run, out.sequence, found ? list->items[0] : last ? empty : whole);
    jinja_push(run, out.sequence, found ? separator : empty);
    jinja_push(run, out.sequence, found ? list->items[1] : last ? whole : empty);
    return out;
}

static struct jinja_value call_partition(struct jinja_run *run, struct jinja_value s,
                                         const struct jinja_value *values)
{
    return partition(run, s.string, values[0], false);
}

static struct jinja_value call_rpartition(struct jinja_run *run, struct jinja_value s,
                                          const struct jinja_value *values)
{
    return partition(run, s.string, values[0], true);
}

static struct jinja_value call_zfill(struct jinja_run *run, struct jinja_value s,
                                     const struct jinja_value *values)
{
    int64_t width = jinja_option_int(run, values[0], 0, "the width");
    bool has_sign = s.string->len && (s.string->data[0] == '-' || s.string->data[0] == '+');
    struct jinja_builder b = jinja_builder_new(run);
    jinja_put(&b, s.string->data, has_sign);
    for (int64_t i = (int64_t)s.string->n_chars; i < width; i++)
        jinja_put(&b, "0", 1);
    jinja_put(&b, s.string->data + has_sign, s.string->len - has_sign);
    return jinja_built(&b);
}

/* clang-format off */
#define ONE {{"value"}, .n_required = 1, .positional_only = true}
#define OPTIONAL {{"value"}, .n_required = 0, .positional_only = true}
#define PART {{"part", "start", "end"}, .n_required = 1, .positional_only = true}
#define WIDTH {{"width", "fill"}, .n_required = 1, .positional_only = true}
/* clang-format on */

const struct jinja_method_entry JINJA_STRING_METHODS[] = {
    {"strip", OPTIONAL, .call = call_strip},
    {"lstrip", OPTIONAL, .call = call_lstrip},
    {"rstrip", OPTIONAL, .call = call_rstrip},
    {"split", {{"sep", "maxsplit"}, .n_required = 0}, .call = call_split},
    {"rsplit", {{"sep", "maxsplit"}, .n_required = 0}, .call = call_rsplit},
    {"splitlines", {{"keepends"}, .n_required = 0}, .call = call_splitlines},
    {"startswith", PART, .call = call_startswith},
    {"endswith", PART, .call = call_endswith},
    {"replace",
     {{"old", "new", "count"}, .n_required = 2, .positional_only = true},
     .call = call_replace},
    {"upper", .call = call_upper},
    {"lower", .call = call_lower},
    {"title", .call = call_title},
    {"capitalize", .call = call_capitalize},
    {"swapcase", .call = call_swapcase},
    {"join", ONE, .call = call_join},
    {"find", PART, .call = call_find},
    {"rfind", PART, .call = call_rfind},
    {"index", PART, .call = call_index},
    {"rindex", PART, .call = call_rindex},
    {"count", PART, .call = call_count},
    {"removeprefix", ONE, .call = call_removeprefix},
    {"removesuffix", ONE, .call = call_removesuffix},
    {"isdigit", .call = call_isdigit},
    {"isalpha", .call = call_isalpha},
    {"isalnum", .call = call_isalnum},
    {"isspace", .call = call_isspace},
    {"isascii", .call = call_isascii},
    {"isupper", .call = call_isupper},
    {"islower", .call = call_islower},
    {"ljust", WIDTH, .call = call_ljust},
    {"rjust", WIDTH, .call = call_rjust},
    {"center", WIDTH, .call = call_center},
    {"partition", ONE, .call = call_partition},
    {"rpartition", ONE, .call = call_rpartition},
    {"zfill", ONE, .call = call_zfill},
    /* Python has these too. */
    {.name = "casefold"},
    {.name = "encode"},
    {.name = "expandtabs"},
    {.name = "format"},
    {.name = "format_map"},
    {.name = "isdecimal"},
    {.name = "isidentifier"},
    {.name = "isnumeric"},
    {.name = "isprintable"},
    {.name = "istitle"},
    {.name = "maketrans"},
    {.name = "translate"},
    {.name = NULL},
};
