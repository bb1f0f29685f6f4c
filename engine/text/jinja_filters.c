/* The table of filters, and those on text and single values. */
#include "engine/text/jinja_filters.h"

#include <string.h>

#include "engine/base/utf8.h"
#include "engine/text/jinja_text.h"

bool jinja_option_truth(struct jinja_value value, bool fallback)
{
    return value.kind == JINJA_ABSENT ? fallback : jinja_truth(value);
}

int64_t jinja_option_int(struct jinja_run *run, struct jinja_value value, int64_t fallback,
                         const char *what)
{
    int64_t integer = fallback;
    if (value.kind != JINJA_ABSENT && !jinja_is_integral(value, &integer))
        jinja_raise(&run->trap, "%s is an integer, not %s", what, jinja_type_name(value));
    return integer;
}

static struct jinja_value apply_length(struct jinja_run *run, struct jinja_value input,
                                       const struct jinja_value *values)
{
    (void)values;
    return jinja_int((int64_t)jinja_length(run, input));
}

static struct jinja_value apply_string(struct jinja_run *run, struct jinja_value input,
                                       const struct jinja_value *values)
{
    (void)values;
    return jinja_to_text(run, input);
}

static struct jinja_value apply_safe(struct jinja_run *run, struct jinja_value input,
                                     const struct jinja_value *values)
{
    (void)values;
    struct jinja_string *text = jinja_to_text(run, input).string;
    struct jinja_value out = jinja_text(run, text->data, text->len);
    out.string->markup = true;
    return out;
}

static struct jinja_value cased(struct jinja_run *run, struct jinja_value input, enum jinja_case to)
{
    return jinja_cased(run, jinja_to_text(run, input).string, to);
}

static struct jinja_value apply_upper(struct jinja_run *run, struct jinja_value input,
                                      const struct jinja_value *values)
{
    (void)values;
    return cased(run, input, JINJA_UPPER);
}

static struct jinja_value apply_lower(struct jinja_run *run, struct jinja_value input,
                                      const struct jinja_value *values)
{
    (void)values;
    return cased(run, input, JINJA_LOWER);
}

static struct jinja_value apply_capitalize(struct jinja_run *run, struct jinja_value input,
                                           const struct jinja_value *values)
{
    (void)values;
    return cased(run, input, JINJA_CAPITALIZE);
}

/* True for what Jinja's title sees between words; unlike Python's, an apostrophe is not. */
static bool is_word_border(uint32_t c)
{
    return c == '-' || c == '(' || c == '{' || c == '[' || c == '<' || (c >= 9 && c <= 13) ||
           (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

static struct jinja_value apply_title(struct jinja_run *run, struct jinja_value input,
                                      const struct jinja_value *values)
{
    (void)values;
    const struct jinja_string *s = jinja_to_text(run, input).string;
    struct jinja_builder b = jinja_builder_new(run);
    for (size_t i = 0; i < s->len;) {
        uint32_t c;
        int n_bad;
        size_t first = (size_t)utf8_decode(s->data + i, s->len - i, &c, &n_bad), end = i + first;
        if (is_word_border(c)) {
            jinja_put(&b, s->data + i, first);
            i = end;
            continue;
        }
        while (end < s->len) {
            size_t len = (size_t)utf8_decode(s->data + end, s->len - end, &c, &n_bad);
            if (is_word_border(c))
                break;
            end += len;
        }
        jinja_put_cased(&b, s->data + i, first, JINJA_UPPER);
        jinja_put_cased(&b, s->data + i + first, end - i - first, JINJA_LOWER);
        i = end;
    }
    return jinja_built(&b);
}

static struct jinja_value apply_trim(struct jinja_run *run, struct jinja_value input,
                                     const struct jinja_value *values)
{
    const struct jinja_string *set = NULL;
    if (values[0].kind == JINJA_STRING)
        set = values[0].string;
    else if (values[0].kind != JINJA_ABSENT && values[0].kind != JINJA_NONE)
        jinja_raise(&run->trap, "trim takes a string, not %s", jinja_type_name(values[0]));
    return jinja_strip(run, jinja_to_text(run, input).string, set, JINJA_BOTH);
}

static struct jinja_value apply_replace(struct jinja_run *run, struct jinja_value input,
                                        const struct jinja_value *values)
{
    int64_t count = -1;
    if (values[2].kind != JINJA_NONE)
        count = jinja_option_int(run, values[2], -1, "replace's count");
    return jinja_replace(run, jinja_to_text(run, input).string,
                         jinja_to_text(run, values[0]).string, jinja_to_text(run, values[1]).string,
                         count);
}

static struct jinja_value apply_default(struct jinja_run *run, struct jinja_value input,
                                        const struct jinja_value *values)
{
    if (input.kind == JINJA_UNDEFINED ||
        (jinja_option_truth(values[1], false) && !jinja_truth(input)))
        return values[0].kind == JINJA_ABSENT ? jinja_text(run, "", 0) : values[0];
    return input;
}

/* The text one level is indented by. */
static struct jinja_string *indention(struct jinja_run *run, struct jinja_value width)
{
    if (width.kind == JINJA_STRING)
        return width.string;
    struct jinja_builder b = jinja_builder_new(run);
    for (int64_t n = jinja_option_int(run, width, 4, "indent's width"); n > 0; n--)
        jinja_put(&b, " ", 1);
    return jinja_built(&b).string;
}

static struct jinja_value apply_indent(struct jinja_run *run, struct jinja_value input,
                                       const struct jinja_value *values)
{
    if (input.kind != JINJA_STRING)
        jinja_raise(&run->trap, "indent needs a string, not %s", jinja_type_name(input));
    const struct jinja_string *indent = indention(run, values[0]);
    bool first = jinja_option_truth(values[1], false), blank = jinja_option_truth(values[2], false);
    struct jinja_builder with_end = jinja_builder_new(run), b = jinja_builder_new(run);
    jinja_print(&with_end, input);
    jinja_put(&with_end, "\n", 1);
    struct jinja_sequence *lines =
        jinja_split_lines(run, jinja_built(&with_end).string, false).sequence;
    for (size_t i = 0; i < lines->n; i++) {
        if (i)
            jinja_put(&b, "\n", 1);
        if (i ? blank || lines->items[i].string->len : first)
            jinja_put(&b, indent->data, indent->len);
        jinja_print(&b, lines->items[i]);
    }
    return jinja_built(&b);
}

static struct jinja_value apply_attr(struct jinja_run *run, struct jinja_value input,
                                     const struct jinja_value *values)
{
    struct jinja_value found;
    if (values[0].kind != JINJA_STRING)
        jinja_raise(&run->trap, "attr needs a name, not %s", jinja_type_name(values[0]));
    if (input.kind == JINJA_DICT) /* methods only: keys are not attributes */
        return jinja_find_method(run, input, values[0].string, &found) ? found
                                                                       : jinja_undefined(NULL);
    return jinja_attribute(run, input, values[0].string);
}

static const struct jinja_filter FILTERS[] = {
    {"length", .apply = apply_length},
    {"count", .apply = apply_length},
    {"string", .apply = apply_string},
    {"safe", .apply = apply_safe},
    {"tojson", .apply = jinja_to_json,
     .signature = {{"ensure_ascii", "indent", "separators", "sort_keys"}}},
    {"upper", .apply = apply_upper},
    {"lower", .apply = apply_lower},
    {"capitalize", .apply = apply_capitalize},
    {"title", .apply = apply_title},
    {"trim", .apply = apply_trim, .signature = {{"chars"}}},
    {"replace", .apply = apply_replace, .signature = {{"old", "new", "count"}, .n_required = 2}},
    {"default", .apply = apply_default, .signature = {{"default_value", "boolean"}}},
    {"d", .apply = apply_default, .signature = {{"default_value", "boolean"}}},
    {"indent", .apply = apply_indent, .signature = {{"width", "first", "blank"}}},
    {"attr", .apply = apply_attr, .signature = {{"name"}, .n_required = 1}},
    {"int", .apply = jinja_filter_int, .signature = {{"default", "base"}}},
    {"float", .apply = jinja_filter_float, .signature = {{"default"}}},
    {"round", .apply = jinja_filter_round, .signature = {{"precision", "method"}}},
    {"abs", .apply = jinja_filter_abs},
    {"list", .apply = jinja_filter_list},
    {"join", .apply = jinja_filter_join, .signature = {{"d", "attribute"}}},
    {"first", .apply = jinja_filter_first},
    {"last", .apply = jinja_filter_last},
    {"reverse", .apply = jinja_filter_reverse},
    {"sort", .apply = jinja_filter_sort, .signature = {{"reverse", "case_sensitive", "attribute"}}},
    {"dictsort", .apply = jinja_filter_dictsort,
     .signature = {{"case_sensitive", "by", "reverse"}}},
    {"unique", .apply = jinja_filter_unique, .signature = {{"case_sensitive", "attribute"}},
     .lazy = true},
    {"items", .apply = jinja_filter_items, .lazy = true},
    {"min", .apply = jinja_filter_min, .signature = {{"case_sensitive", "attribute"}}},
    {"max", .apply = jinja_filter_max, .signature = {{"case_sensitive", "attribute"}}},
    {"sum", .apply = jinja_filter_sum, .signature = {{"attribute", "start"}}},
    {"map", .apply_raw = jinja_filter_map, .lazy = true},
    {"select", .apply_raw = jinja_filter_select, .lazy = true},
    {"reject", .apply_raw = jinja_filter_reject, .lazy = true},
    {"selectattr", .apply_raw = jinja_filter_selectattr, .lazy = true},
    {"rejectattr", .apply_raw = jinja_filter_rejectattr, .lazy = true},
};

static struct jinja_value apply(struct jinja_run *run, const struct jinja_filter *filter,
                                struct jinja_value input, const struct jinja_args *args)
{
    struct jinja_value values[JINJA_MAX_PARAMS];
    if (filter->apply_raw)
        return filter->apply_raw(run, input, args);
    jinja_bind(run, filter->name, &filter->signature, args, values);
    return filter->apply(run, input, values);
}

void jinja_force(struct jinja_run *run, struct jinja_sequence *generator)
{
    const struct jinja_filter *filter = generator->filter;
    if (!filter)
        return;
    jinja_descend(run);
    generator->filter = NULL;
    struct jinja_value list = apply(run, filter, generator->input, generator->args);
    generator->items = list.sequence->items;
    generator->n = list.sequence->n;
    jinja_ascend(run);
}

struct jinja_value jinja_apply_filter(struct jinja_run *run, const struct jinja_string *name,
                                      struct jinja_value input, const struct jinja_args *args)
{
    struct jinja_value values[JINJA_MAX_PARAMS];
    jinja_charge(run, 1);
    for (size_t i = 0; i < sizeof FILTERS / sizeof *FILTERS; i++) {
        const struct jinja_filter *filter = &FILTERS[i];
        if (strlen(filter->name) != name->len || memcmp(filter->name, name->data, name->len) != 0)
            continue;
        if (!filter->lazy)
            return apply(run, filter, input, args);
        if (!filter->apply_raw) /* wrong arguments are an error at once */
            jinja_bind(run, filter->name, &filter->signature, args, values);
        struct jinja_value generator = jinja_sequence_new(run, JINJA_GENERATOR);
        generator.sequence->filter = filter;
        generator.sequence->input = input;
        generator.sequence->args = args;
        return generator;
    }
    jinja_raise(&run->trap, "the filter `%.*s` is not supported", (int)name->len, name->data);
}
