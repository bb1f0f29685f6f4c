/* Finding and calling methods.  Names that would change a list or a dict are found and give
 * undefined, as in Jinja's immutable sandbox. */
#include "engine/text/jinja_methods.h"

#include <stdio.h>
#include <string.h>

#include "engine/text/jinja_filters.h"

static struct jinja_value view(struct jinja_run *run, struct jinja_value dict,
                               enum jinja_sequence_kind kind)
{
    struct jinja_value out = jinja_sequence_new(run, kind);
    jinja_charge(run, dict.dict->n / 16);
    for (size_t i = 0; i < dict.dict->n; i++) {
        struct jinja_value key = dict.dict->keys[i], value = dict.dict->values[i];
        jinja_push(run, out.sequence,
                   kind == JINJA_KEYS     ? key
                   : kind == JINJA_VALUES ? value
                                          : jinja_pair(run, key, value));
    }
    return out;
}

static struct jinja_value dict_items(struct jinja_run *run, struct jinja_value dict,
                                     const struct jinja_value *values)
{
    (void)values;
    return view(run, dict, JINJA_ITEMS);
}

static struct jinja_value dict_keys(struct jinja_run *run, struct jinja_value dict,
                                    const struct jinja_value *values)
{
    (void)values;
    return view(run, dict, JINJA_KEYS);
}

static struct jinja_value dict_values(struct jinja_run *run, struct jinja_value dict,
                                      const struct jinja_value *values)
{
    (void)values;
    return view(run, dict, JINJA_VALUES);
}

static struct jinja_value dict_get(struct jinja_run *run, struct jinja_value dict,
                                   const struct jinja_value *values)
{
    struct jinja_value *found = jinja_dict_find(run, dict.dict, values[0]);
    if (found)
        return *found;
    return values[1].kind == JINJA_ABSENT ? jinja_none() : values[1];
}

static struct jinja_value dict_copy(struct jinja_run *run, struct jinja_value dict,
                                    const struct jinja_value *values)
{
    (void)run, (void)values;
    return dict; /* nothing can change either */
}

static struct jinja_value sequence_count(struct jinja_run *run, struct jinja_value v,
                                         const struct jinja_value *values)
{
    int64_t n = 0;
    for (size_t i = 0; i < v.sequence->n; i++)
        n += jinja_equal(run, v.sequence->items[i], values[0]);
    return jinja_int(n);
}

static size_t bound(struct jinja_run *run, struct jinja_value value, size_t n, size_t fallback)
{
    int64_t i = jinja_option_int(run, value, (int64_t)fallback, "a position");
    if (i < 0)
        i += (int64_t)n;
    return i < 0 ? 0 : (size_t)i < n ? (size_t)i : n;
}

static struct jinja_value sequence_index(struct jinja_run *run, struct jinja_value v,
                                         const struct jinja_value *values)
{
    size_t n = v.sequence->n, end = bound(run, values[2], n, n);
    for (size_t i = bound(run, values[1], n, 0); i < end; i++)
        if (jinja_equal(run, v.sequence->items[i], values[0]))
            return jinja_int((int64_t)i);
    jinja_raise(&run->trap, "index: the value is not in the %s", jinja_type_word(v));
}

static struct jinja_value list_copy(struct jinja_run *run, struct jinja_value v,
                                    const struct jinja_value *values)
{
    return jinja_filter_list(run, v, values);
}

static const struct jinja_method_entry DICT_METHODS[] = {
    {"items", .call = dict_items},
    {"keys", .call = dict_keys},
    {"values", .call = dict_values},
    {"get", {{"key", "default"}, .n_required = 1, .positional_only = true}, .call = dict_get},
    {"copy", .call = dict_copy},
    {.name = "fromkeys"},
    {.name = NULL},
};

static const struct jinja_method_entry LIST_METHODS[] = {
    {"count", {{"value"}, .n_required = 1, .positional_only = true}, .call = sequence_count},
    {"index",
     {{"value", "start", "stop"}, .n_required = 1, .positional_only = true},
     .call = sequence_index},
    {"copy", .call = list_copy},
    {.name = NULL},
};

/* Tuples and ranges: as lists, less copy. */
static const struct jinja_method_entry TUPLE_METHODS[] = {
    {"count", {{"value"}, .n_required = 1, .positional_only = true}, .call = sequence_count},
    {"index",
     {{"value", "start", "stop"}, .n_required = 1, .positional_only = true},
     .call = sequence_index},
    {.name = NULL},
};

static const struct jinja_method_entry LOOP_METHODS[] = {
    {"cycle", .call_raw = jinja_loop_cycle},
    {"changed", .call_raw = jinja_loop_changed},
    {.name = NULL},
};

static const struct jinja_method_entry NO_METHODS[] = {{.name = NULL}};

static const char *const DICT_CHANGES[] = {"clear", "pop", "popitem", "setdefault", "update", NULL};
static const char *const LIST_CHANGES[] = {"append", "clear",   "extend", "insert", "pop",
                                           "remove", "reverse", "sort",   NULL};
static const char *const NO_CHANGES[] = {NULL};

static const struct jinja_method_entry *methods_of(struct jinja_value v)
{
    if (v.kind == JINJA_STRING)
        return JINJA_STRING_METHODS;
    if (v.kind == JINJA_DICT)
        return DICT_METHODS;
    if (v.kind == JINJA_LOOP)
        return LOOP_METHODS;
    if (v.kind != JINJA_SEQUENCE)
        return NO_METHODS;
    if (v.sequence->kind == JINJA_LIST)
        return LIST_METHODS;
    return v.sequence->kind <= JINJA_RANGE ? TUPLE_METHODS : NO_METHODS;
}

static const char *const *changes_of(struct jinja_value v)
{
    if (v.kind == JINJA_DICT)
        return DICT_CHANGES;
    return v.kind == JINJA_SEQUENCE && v.sequence->kind == JINJA_LIST ? LIST_CHANGES : NO_CHANGES;
}

static bool is_name(const struct jinja_string *name, const char *text)
{
    return strlen(text) == name->len && !memcmp(text, name->data, name->len);
}

bool jinja_find_method(struct jinja_run *run, struct jinja_value v, const struct jinja_string *name,
                       struct jinja_value *out)
{
    for (const struct jinja_method_entry *entry = methods_of(v); entry->name; entry++) {
        if (!is_name(name, entry->name))
            continue;
        struct jinja_method *method = jinja_alloc(&run->arena, sizeof *method);
        *method = (struct jinja_method){.entry = entry, .object = v};
        *out = (struct jinja_value){.kind = JINJA_METHOD, .method = method};
        return true;
    }
    for (const char *const *change = changes_of(v); *change; change++)
        if (is_name(name, *change)) {
            *out = jinja_undefined("a method that changes its object (templates may not)");
            return true;
        }
    return false;
}

/* What a method of a `safe` string gives is safe too. */
static struct jinja_value keep_markup(struct jinja_run *run, struct jinja_value object,
                                      struct jinja_value result)
{
    if (object.kind != JINJA_STRING || !object.string->markup)
        return result;
    if (result.kind == JINJA_STRING) {
        result = jinja_text(run, result.string->data, result.string->len);
        result.string->markup = true;
    } else if (result.kind == JINJA_SEQUENCE) {
        for (size_t i = 0; i < result.sequence->n; i++)
            result.sequence->items[i] = keep_markup(run, object, result.sequence->items[i]);
    }
    return result;
}

struct jinja_value jinja_call_method(struct jinja_run *run, const struct jinja_method *method,
                                     const struct jinja_args *args)
{
    const struct jinja_method_entry *entry = method->entry;
    struct jinja_value values[JINJA_MAX_PARAMS];
    char what[64];
    snprintf(what, sizeof what, "%s.%s", jinja_type_word(method->object), entry->name);
    if (entry->call_raw)
        return entry->call_raw(run, method->object, args);
    if (!entry->call)
        jinja_raise(&run->trap, "the method %s is not supported", what);
    jinja_bind(run, what, &entry->signature, args, values);
    return keep_markup(run, method->object, entry->call(run, method->object, values));
}
