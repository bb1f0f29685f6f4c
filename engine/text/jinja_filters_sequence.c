/* Filters on sequences and dicts. */
#include <string.h>

#include "engine/text/jinja_filters.h"
#include "engine/text/jinja_text.h"

/* attribute='a.b.0': the path is followed with subscription; digits are indices.  fallback, if
 * given, stands for each undefined step. */
static struct jinja_value get_path(struct jinja_run *run, struct jinja_value item,
                                   struct jinja_value path, struct jinja_value fallback)
{
    if (path.kind == JINJA_ABSENT || path.kind == JINJA_NONE)
        return item;
    if (path.kind != JINJA_STRING)
        return jinja_item(run, item, path);
    const struct jinja_string *s = path.string;
    for (size_t start = 0; start <= s->len;) {
        const char *dot = memchr(s->data + start, '.', s->len - start);
        size_t end = dot ? (size_t)(dot - s->data) : s->len;
        bool is_index = end > start;
        int64_t index = 0;
        for (size_t i = start; i < end && is_index; i++) {
            is_index = s->data[i] >= '0' && s->data[i] <= '9' && index < INT32_MAX;
            index = index * 10 + (s->data[i] - '0');
        }
        item = jinja_item(
            run, item, is_index ? jinja_int(index) : jinja_text(run, s->data + start, end - start));
        if (item.kind == JINJA_UNDEFINED && fallback.kind != JINJA_ABSENT &&
            fallback.kind != JINJA_NONE)
            item = fallback;
        start = end + 1;
    }
    return item;
}

static struct jinja_value absent(void)
{
    return (struct jinja_value){.kind = JINJA_ABSENT};
}

static struct jinja_value ignore_case(struct jinja_run *run, struct jinja_value v)
{
    return v.kind == JINJA_STRING ? jinja_cased(run, v.string, JINJA_LOWER) : v;
}

struct jinja_value jinja_filter_list(struct jinja_run *run, struct jinja_value input,
                                     const struct jinja_value *values)
{
    (void)values;
    struct jinja_span span = jinja_walk(run, input);
    struct jinja_value list = jinja_sequence_new(run, JINJA_LIST);
    jinja_charge(run, span.n / 16);
    for (size_t i = 0; i < span.n; i++)
        jinja_push(run, list.sequence, span.items[i]);
    return list;
}

struct jinja_value jinja_filter_join(struct jinja_run *run, struct jinja_value input,
                                     const struct jinja_value *values)
{
    struct jinja_span span = jinja_walk(run, input);
    struct jinja_value between =
        values[0].kind == JINJA_ABSENT ? jinja_text(run, "", 0) : jinja_to_text(run, values[0]);
    struct jinja_builder b = jinja_builder_new(run);
    for (size_t i = 0; i < span.n; i++) {
        jinja_charge(run, 1);
        if (i)
            jinja_print(&b, between);
        jinja_print(&b, get_path(run, span.items[i], values[1], absent()));
    }
    return jinja_built(&b);
}

struct jinja_value jinja_filter_first(struct jinja_run *run, struct jinja_value input,
                                      const struct jinja_value *values)
{
    (void)values;
    if (input.kind == JINJA_SEQUENCE && input.sequence->kind == JINJA_GENERATOR) {
        struct jinja_sequence *generator = input.sequence;
        jinja_force(run, generator);
        return generator->pos < generator->n ? generator->items[generator->pos++]
                                             : jinja_undefined("the first item of nothing");
    }
    if (input.kind == JINJA_STRING && input.string->len)
        return jinja_item(run, input, jinja_int(0));
    struct jinja_span span = jinja_walk(run, input);
    return span.n ? span.items[0] : jinja_undefined("the first item of nothing");
}

/* What Python's reversed() takes; the items still in order. */
static bool walk_reversible(struct jinja_run *run, struct jinja_value v, struct jinja_span *out)
{
    bool is_generator = v.kind == JINJA_SEQUENCE && v.sequence->kind == JINJA_GENERATOR;
    if (!jinja_is_iterable(v) || is_generator || v.kind == JINJA_LOOP)
        return false;
    *out = jinja_walk(run, v);
    return true;
}

struct jinja_value jinja_filter_last(struct jinja_run *run, struct jinja_value input,
                                     const struct jinja_value *values)
{
    (void)values;
    struct jinja_span span;
    if (input.kind == JINJA_STRING && input.string->len)
        return jinja_item(run, input, jinja_int(-1));
    if (!walk_reversible(run, input, &span))
        jinja_raise(&run->trap, "%s has no last item: put `|list` before `|last`",
                    jinja_type_name(input));
    return span.n ? span.items[span.n - 1] : jinja_undefined("the last item of nothing");
}

struct jinja_value jinja_filter_reverse(struct jinja_run *run, struct jinja_value input,
                                        const struct jinja_value *values)
{
    (void)values;
    struct jinja_span span;
    if (input.kind == JINJA_STRING) {
        struct jinja_value bounds[3] = {jinja_none(), jinja_none(), jinja_int(-1)};
        return jinja_slice(run, input, bounds);
    }
    bool reversible = walk_reversible(run, input, &span);
    if (!reversible)
        span = jinja_walk(run, input);
    struct jinja_value out = jinja_sequence_new(run, reversible ? JINJA_GENERATOR : JINJA_LIST);
    jinja_charge(run, span.n / 16);
    for (size_t i = span.n; i > 0; i--)
        jinja_push(run, out.sequence, span.items[i - 1]);
    return out;
}

/* Merges keys [from, middle) and [middle, to), which are sorted, through room. */
static void merge(struct jinja_run *run, struct jinja_value (*pairs)[2],
                  struct jinja_value (*room)[2], size_t from, size_t middle, size_t to,
                  bool reversed)
{
    size_t i = from, j = middle, k = from;
    while (k < to) {
        bool take_second = i == middle;
        if (i < middle && j < to)
            take_second = reversed ? jinja_less(run, pairs[i][0], pairs[j][0])
                                   : jinja_less(run, pairs[j][0], pairs[i][0]);
        memcpy(room[k++], pairs[take_second ? j++ : i++], sizeof *room);
    }
    memcpy(pairs + from, room + from, (to - from) * sizeof *pairs);
}

/* Sorts pairs of key and item by key: stable, also when reversed, as Python's. */
static void sort_pairs(struct jinja_run *run, struct jinja_value (*pairs)[2], size_t n,
                       bool reversed)
{
    struct jinja_value(*room)[2] = jinja_alloc_array(&run->arena, n, sizeof *room);
    for (size_t width = 1; width < n; width *= 2)
        for (size_t from = 0; from + width < n; from += 2 * width)
            merge(run, pairs, room, from, from + width, from + 2 * width < n ? from + 2 * width : n,
                  reversed);
}

static struct jinja_value sorted_items(struct jinja_run *run, struct jinja_value (*pairs)[2],
                                       size_t n, bool reversed)
{
    sort_pairs(run, pairs, n, reversed);
    struct jinja_value list = jinja_sequence_new(run, JINJA_LIST);
    for (size_t i = 0; i < n; i++)
        jinja_push(run, list.sequence, pairs[i][1]);
    return list;
}

/* The key of `sort`: a list of the attributes named in 'a,b'. */
static struct jinja_value sort_key(struct jinja_run *run, struct jinja_value item,
                                   struct jinja_value attribute, bool case_sensitive)
{
    struct jinja_value key = jinja_sequence_new(run, JINJA_LIST), paths;
    if (attribute.kind == JINJA_STRING) {
        struct jinja_string comma = {.data = ",", .len = 1, .n_chars = 1};
        paths = jinja_split(run, attribute.string, &comma, -1, false);
    } else {
        paths = jinja_sequence_new(run, JINJA_LIST);
        jinja_push(run, paths.sequence, attribute);
    }
    for (size_t i = 0; i < paths.sequence->n; i++) {
        struct jinja_value part = get_path(run, item, paths.sequence->items[i], absent());
        jinja_push(run, key.sequence, case_sensitive ? part : ignore_case(run, part));
    }
    return key;
}

/* The `reverse` of a sort: as Python's, a bool or an integer that fits a C int, nothing else. */
static bool sort_reversed(struct jinja_run *run, struct jinja_value reverse)
{
    bool fits =
        reverse.kind == JINJA_ABSENT || reverse.kind == JINJA_BOOL ||
        (reverse.kind == JINJA_INT && reverse.integer >= INT32_MIN && reverse.integer <= INT32_MAX);
    if (!fits)
        jinja_raise(&run->trap, "the reverse of a sort is true or false, not %s",
                    jinja_type_name(reverse));
    return jinja_option_truth(reverse, false);
}

struct jinja_value jinja_filter_sort(struct jinja_run *run, struct jinja_value input,
                                     const struct jinja_value *values)
{
    struct jinja_span span = jinja_walk(run, input);
    struct jinja_value(*pairs)[2] = jinja_alloc_array(&run->arena, span.n, sizeof *pairs);
    for (size_t i = 0; i < span.n; i++) {
        pairs[i][0] = sort_key(run, span.items[i], values[2], jinja_option_truth(values[1], false));
        pairs[i][1] = span.items[i];
    }
    return sorted_items(run, pairs, span.n, sort_reversed(run, values[0]));
}

struct jinja_value jinja_filter_dictsort(struct jinja_run *run, struct jinja_value input,
                                         const struct jinja_value *values)
{
    bool case_sensitive = jinja_option_truth(values[0], false);
    bool by_value = jinja_is_text(values[1], "value");
    if (values[1].kind != JINJA_ABSENT && !by_value && !jinja_is_text(values[1], "key"))
        jinja_raise(&run->trap, "dictsort sorts by 'key' or 'value'");
    if (input.kind != JINJA_DICT)
        jinja_raise(&run->trap, "dictsort needs a dict, not %s", jinja_type_name(input));
    const struct jinja_dict *dict = input.dict;
    struct jinja_value(*pairs)[2] = jinja_alloc_array(&run->arena, dict->n, sizeof *pairs);
    for (size_t i = 0; i < dict->n; i++) {
        struct jinja_value key = by_value ? dict->values[i] : dict->keys[i];
        pairs[i][0] = case_sensitive ? key : ignore_case(run, key);
        pairs[i][1] = jinja_pair(run, dict->keys[i], dict->values[i]);
    }
    return sorted_items(run, pairs, dict->n, sort_reversed(run, values[2]));
}

struct jinja_value jinja_filter_unique(struct jinja_run *run, struct jinja_value input,
                                       const struct jinja_value *values)
{
    struct jinja_span span = jinja_walk(run, input);
    struct jinja_dict *seen = jinja_dict_new(run).dict;
    struct jinja_value list = jinja_sequence_new(run, JINJA_LIST);
    for (size_t i = 0; i < span.n; i++) {
        struct jinja_value key = get_path(run, span.items[i], values[1], absent());
        if (!jinja_option_truth(values[0], false))
            key = ignore_case(run, key);
        if (jinja_dict_find(run, seen, key))
            continue;
        jinja_dict_set(run, seen, key, jinja_none());
        jinja_push(run, list.sequence, span.items[i]);
    }
    return list;
}

struct jinja_value jinja_filter_items(struct jinja_run *run, struct jinja_value input,
                                      const struct jinja_value *values)
{
    (void)values;
    struct jinja_value list = jinja_sequence_new(run, JINJA_LIST);
    if (input.kind == JINJA_UNDEFINED)
        return list;
    if (input.kind != JINJA_DICT)
        jinja_raise(&run->trap, "items needs a dict, not %s", jinja_type_name(input));
    for (size_t i = 0; i < input.dict->n; i++)
        jinja_push(run, list.sequence, jinja_pair(run, input.dict->keys[i], input.dict->values[i]));
    return list;
}

static struct jinja_value extreme(struct jinja_run *run, struct jinja_value input,
                                  const struct jinja_value *values, bool greatest)
{
    struct jinja_span span = jinja_walk(run, input);
    struct jinja_value best = jinja_undefined("the extreme of nothing"), best_key = best;
    for (size_t i = 0; i < span.n; i++) {
        struct jinja_value key = get_path(run, span.items[i], values[1], absent());
        if (!jinja_option_truth(values[0], false))
            key = ignore_case(run, key);
        if (i > 0 && !(greatest ? jinja_less(run, best_key, key) : jinja_less(run, key, best_key)))
            continue;
        best = span.items[i];
        best_key = key;
    }
    return best;
}

struct jinja_value jinja_filter_min(struct jinja_run *run, struct jinja_value input,
                                    const struct jinja_value *values)
{
    return extreme(run, input, values, false);
}

struct jinja_value jinja_filter_max(struct jinja_run *run, struct jinja_value input,
                                    const struct jinja_value *values)
{
    return extreme(run, input, values, true);
}

struct jinja_value jinja_filter_sum(struct jinja_run *run, struct jinja_value input,
                                    const struct jinja_value *values)
{
    struct jinja_span span = jinja_walk(run, input);
    struct jinja_value sum = values[1].kind == JINJA_ABSENT ? jinja_int(0) : values[1];
    if (sum.kind == JINJA_STRING)
        jinja_raise(&run->trap, "sum cannot add strings: use `|join`");
    for (size_t i = 0; i < span.n; i++)
        sum = jinja_binary(run, JINJA_ADD, sum, get_path(run, span.items[i], values[0], absent()));
    return sum;
}

/* The arguments behind the first n. */
static struct jinja_args rest_of(const struct jinja_args *args, size_t n)
{
    struct jinja_args rest = *args;
    rest.positional = args->n > n ? args->positional + n : NULL;
    rest.n = args->n > n ? args->n - n : 0;
    return rest;
}

static const struct jinja_value *find_named(const struct jinja_args *args, const char *name)
{
    for (size_t i = 0; i < args->n_named; i++)
        if (args->names[i]->len == strlen(name) &&
            !memcmp(args->names[i]->data, name, args->names[i]->len))
            return &args->named[i];
    return NULL;
}

static struct jinja_value map_attribute(struct jinja_run *run, struct jinja_span span,
                                        const struct jinja_args *args)
{
    const struct jinja_value *attribute = find_named(args, "attribute");
    const struct jinja_value *fallback = find_named(args, "default");
    struct jinja_value list = jinja_sequence_new(run, JINJA_LIST);
    if (args->n_named > (fallback ? 2u : 1u))
        jinja_raise(&run->trap, "map(attribute=...) takes only `default` besides");
    for (size_t i = 0; i < span.n; i++)
        jinja_push(run, list.sequence,
                   get_path(run, span.items[i], *attribute, fallback ? *fallback : absent()));
    return list;
}

struct jinja_value jinja_filter_map(struct jinja_run *run, struct jinja_value input,
                                    const struct jinja_args *args)
{
    struct jinja_value list = jinja_sequence_new(run, JINJA_LIST);
    if (!jinja_truth(input))
        return list;
    struct jinja_span span = jinja_walk(run, input);
    if (!args->n && find_named(args, "attribute"))
        return map_attribute(run, span, args);
    if (!args->n || args->positional[0].kind != JINJA_STRING)
        jinja_raise(&run->trap, "map needs the name of a filter, or attribute='...'");
    struct jinja_args *rest = jinja_alloc(&run->arena, sizeof *rest);
    *rest = rest_of(args, 1);
    for (size_t i = 0; i < span.n; i++)
        jinja_push(run, list.sequence,
                   jinja_apply_filter(run, args->positional[0].string, span.items[i], rest));
    return list;
}

/* select, reject and their attr forms: keeps the items whose value passes the test. */
static struct jinja_value keep(struct jinja_run *run, struct jinja_value input,
                               const struct jinja_args *args, bool wanted, bool by_attribute)
{
    struct jinja_value list = jinja_sequence_new(run, JINJA_LIST);
    size_t n_before = by_attribute ? 1 : 0;
    if (!jinja_truth(input))
        return list;
    if (args->n < n_before)
        jinja_raise(&run->trap, "the name of an attribute is missing");
    struct jinja_span span = jinja_walk(run, input);
    bool has_test = args->n > n_before;
    if (has_test && args->positional[n_before].kind != JINJA_STRING)
        jinja_raise(&run->trap, "the name of a test is a string");
    struct jinja_args rest = rest_of(args, n_before + 1);
    for (size_t i = 0; i < span.n; i++) {
        struct jinja_value value = by_attribute
                                       ? get_path(run, span.items[i], args->positional[0], absent())
                                       : span.items[i];
        bool passes = has_test
                          ? jinja_apply_test(run, args->positional[n_before].string, value, &rest)
                          : jinja_truth(value);
        if (passes == wanted)
            jinja_push(run, list.sequence, span.items[i]);
    }
    return list;
}

struct jinja_value jinja_filter_select(struct jinja_run *run, struct jinja_value input,
                                       const struct jinja_args *args)
{
    return keep(run, input, args, true, false);
}

struct jinja_value jinja_filter_reject(struct jinja_run *run, struct jinja_value input,
                                       const struct jinja_args *args)
{
    return keep(run, input, args, false, false);
}

struct jinja_value jinja_filter_selectattr(struct jinja_run *run, struct jinja_value input,
                                           const struct jinja_args *args)
{
    return keep(run, input, args, true, true);
}

struct jinja_value jinja_filter_rejectattr(struct jinja_run *run, struct jinja_value input,
                                           const struct jinja_args *args)
{
    return keep(run, input, args, false, true);
}
