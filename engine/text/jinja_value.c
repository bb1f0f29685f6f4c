/* Making values, and Python's truth, equality, order and containment. */
#include "engine/text/jinja_value.h"

#include <math.h>
#include <string.h>

#include "engine/base/utf8.h"
#include "engine/text/jinja_run.h"

struct jinja_value jinja_undefined(const char *missing)
{
    return (struct jinja_value){.kind = JINJA_UNDEFINED, .missing = missing};
}

struct jinja_value jinja_none(void)
{
    return (struct jinja_value){.kind = JINJA_NONE};
}

struct jinja_value jinja_bool(bool truth)
{
    return (struct jinja_value){.kind = JINJA_BOOL, .truth = truth};
}

struct jinja_value jinja_int(int64_t integer)
{
    return (struct jinja_value){.kind = JINJA_INT, .integer = integer};
}

struct jinja_value jinja_float(double real)
{
    return (struct jinja_value){.kind = JINJA_FLOAT, .real = real};
}

struct jinja_value jinja_text(struct jinja_run *run, const char *data, size_t len)
{
    struct jinja_string *string = jinja_alloc(&run->arena, sizeof *string);
    jinja_charge(run, len / 256);
    *string = (struct jinja_string){
        .data = len ? data : "", .len = len, .n_chars = len ? utf8_length(data, len) : 0};
    return (struct jinja_value){.kind = JINJA_STRING, .string = string};
}

struct jinja_value jinja_text_of(struct jinja_run *run, const char *terminated)
{
    return jinja_text(run, terminated, strlen(terminated));
}

struct jinja_value jinja_sequence_new(struct jinja_run *run, enum jinja_sequence_kind kind)
{
    struct jinja_sequence *sequence = jinja_alloc(&run->arena, sizeof *sequence);
    sequence->kind = kind;
    return (struct jinja_value){.kind = JINJA_SEQUENCE, .sequence = sequence};
}

void jinja_push(struct jinja_run *run, struct jinja_sequence *to, struct jinja_value item)
{
    if (to->n == to->capacity) {
        size_t capacity = to->capacity ? to->capacity * 2 : 4;
        to->items =
            jinja_grow(&run->arena, to->items, to->capacity * sizeof item, capacity * sizeof item);
        to->capacity = capacity;
        jinja_charge(run, capacity / 16);
    }
    to->items[to->n++] = item;
}

struct jinja_value jinja_pair(struct jinja_run *run, struct jinja_value a, struct jinja_value b)
{
    struct jinja_value pair = jinja_sequence_new(run, JINJA_TUPLE);
    jinja_push(run, pair.sequence, a);
    jinja_push(run, pair.sequence, b);
    return pair;
}

struct jinja_value jinja_dict_new(struct jinja_run *run)
{
    return (struct jinja_value){.kind = JINJA_DICT,
                                .dict = jinja_alloc(&run->arena, sizeof(struct jinja_dict))};
}

static void dict_append(struct jinja_run *run, struct jinja_dict *dict, struct jinja_value key,
                        struct jinja_value value)
{
    if (dict->n == dict->capacity) {
        size_t capacity = dict->capacity ? dict->capacity * 2 : 8;
        size_t old_bytes = dict->capacity * sizeof key, new_bytes = capacity * sizeof key;
        dict->keys = jinja_grow(&run->arena, dict->keys, old_bytes, new_bytes);
        dict->values = jinja_grow(&run->arena, dict->values, old_bytes, new_bytes);
        dict->capacity = capacity;
    }
    dict->keys[dict->n] = key;
    dict->values[dict->n++] = value;
}

struct jinja_value *jinja_dict_find(struct jinja_run *run, const struct jinja_dict *dict,
                                    struct jinja_value key)
{
    if (!jinja_is_hashable(key))
        jinja_raise(&run->trap, "%s cannot be the key of a dict", jinja_type_name(key));
    for (size_t i = 0; i < dict->n; i++)
        if (jinja_equal(run, dict->keys[i], key))
            return &dict->values[i];
    return NULL;
}

struct jinja_value *jinja_dict_find_text(const struct jinja_dict *dict, const char *key, size_t n)
{
    for (size_t i = 0; i < dict->n; i++)
        if (dict->keys[i].kind == JINJA_STRING && dict->keys[i].string->len == n &&
            !memcmp(dict->keys[i].string->data, key, n))
            return &dict->values[i];
    return NULL;
}

void jinja_dict_set(struct jinja_run *run, struct jinja_dict *dict, struct jinja_value key,
                    struct jinja_value value)
{
    struct jinja_value *found = jinja_dict_find(run, dict, key);
    if (found)
        *found = value;
    else
        dict_append(run, dict, key, value);
}

struct jinja_value jinja_from_json(struct jinja_run *run, const struct json *v)
{
    int64_t integer;
    if (json_is_bool(v))
        return jinja_bool(json_bool(v, false));
    if (json_is_number(v)) {
        bool is_int = json_written_as_int(v) && json_int(v, INT64_MIN, INT64_MAX, &integer);
        return is_int ? jinja_int(integer) : jinja_float(json_number(v, 0));
    }
    if (json_is_string(v))
        return jinja_text_of(run, json_string(v));
    if (json_is_array(v)) {
        struct jinja_value list = jinja_sequence_new(run, JINJA_LIST);
        for (const struct json *child = json_first(v); child; child = json_next(child))
            jinja_push(run, list.sequence, jinja_from_json(run, child));
        return list;
    }
    if (json_is_object(v)) {
        struct jinja_value dict = jinja_dict_new(run);
        for (const struct json *child = json_first(v); child; child = json_next(child))
            dict_append(run, dict.dict, jinja_text_of(run, json_key(child)),
                        jinja_from_json(run, child));
        return dict;
    }
    return jinja_none();
}

bool jinja_is_text(struct jinja_value v, const char *terminated)
{
    return v.kind == JINJA_STRING && v.string->len == strlen(terminated) &&
           !memcmp(v.string->data, terminated, v.string->len);
}

bool jinja_is_hashable(struct jinja_value v)
{
    if (v.kind == JINJA_DICT)
        return false;
    if (v.kind != JINJA_SEQUENCE)
        return true;
    if (v.sequence->kind != JINJA_TUPLE)
        return v.sequence->kind == JINJA_RANGE || v.sequence->kind == JINJA_GENERATOR;
    for (size_t i = 0; i < v.sequence->n; i++)
        if (!jinja_is_hashable(v.sequence->items[i]))
            return false;
    return true;
}

bool jinja_is_integral(struct jinja_value v, int64_t *out)
{
    if (v.kind == JINJA_BOOL)
        *out = v.truth;
    else if (v.kind == JINJA_INT)
        *out = v.integer;
    else
        return false;
    return true;
}

bool jinja_is_number(struct jinja_value v, double *out)
{
    int64_t integer;
    if (v.kind == JINJA_FLOAT)
        *out = v.real;
    else if (jinja_is_integral(v, &integer))
        *out = (double)integer;
    else
        return false;
    return true;
}

const char *jinja_type_name(struct jinja_value v)
{
    static const char *const SEQUENCES[] = {"a list",      "a tuple",       "a range",
                                            "a dict_keys", "a dict_values", "a dict_items",
                                            "a generator"};
    switch (v.kind) {
    case JINJA_ABSENT:
    case JINJA_UNDEFINED:
        return "an undefined value";
    case JINJA_NONE:
        return "none";
    case JINJA_BOOL:
        return "a bool";
    case JINJA_INT:
        return "an int";
    case JINJA_FLOAT:
        return "a float";
    case JINJA_STRING:
        return "a string";
    case JINJA_SEQUENCE:
        return SEQUENCES[v.sequence->kind];
    case JINJA_DICT:
        return "a dict";
    case JINJA_NAMESPACE:
        return "a namespace";
    case JINJA_MACRO:
        return "a macro";
    case JINJA_FUNCTION:
        return "a function";
    case JINJA_METHOD:
        return "a method";
    case JINJA_LOOP:
        return "a loop";
    }
    return "a value";
}

const char *jinja_type_word(struct jinja_value v)
{
    const char *name = jinja_type_name(v), *blank = strchr(name, ' ');
    return blank ? blank + 1 : name;
}

bool jinja_truth(struct jinja_value v)
{
    switch (v.kind) {
    case JINJA_ABSENT:
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        return false;
    case JINJA_BOOL:
        return v.truth;
    case JINJA_INT:
        return v.integer != 0;
    case JINJA_FLOAT:
        return v.real != 0;
    case JINJA_STRING:
        return v.string->len > 0;
    case JINJA_SEQUENCE:
        return v.sequence->kind == JINJA_GENERATOR || v.sequence->n > 0;
    case JINJA_DICT:
        return v.dict->n > 0;
    default:
        return true;
    }
}

bool jinja_same(struct jinja_value a, struct jinja_value b)
{
    if (a.kind != b.kind)
        return false;
    switch (a.kind) {
    case JINJA_ABSENT:
    case JINJA_NONE:
        return true;
    case JINJA_UNDEFINED:
        return a.missing == b.missing;
    case JINJA_BOOL:
        return a.truth == b.truth;
    case JINJA_INT:
        return a.integer == b.integer;
    case JINJA_FLOAT:
        return a.real == b.real;
    default:
        return a.string == b.string; /* every other member is a pointer too */
    }
}

static bool strings_equal(const struct jinja_string *a, const struct jinja_string *b)
{
    return a->len == b->len && !memcmp(a->data, b->data, a->len);
}

/* Items are equal if they are the same or compare equal. */
static bool items_equal(struct jinja_run *run, const struct jinja_value *a,
                        const struct jinja_value *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!jinja_equal(run, a[i], b[i]))
            return false;
    return true;
}

static bool has_item(struct jinja_run *run, const struct jinja_value *items, size_t n,
                     struct jinja_value item)
{
    for (size_t i = 0; i < n; i++)
        if (jinja_equal(run, items[i], item))
            return true;
    return false;
}

static bool sequences_equal(struct jinja_run *run, const struct jinja_sequence *a,
                            const struct jinja_sequence *b)
{
    bool a_is_set = a->kind == JINJA_KEYS || a->kind == JINJA_ITEMS;
    bool b_is_set = b->kind == JINJA_KEYS || b->kind == JINJA_ITEMS;
    if (a == b)
        return true;
    if (a_is_set && b_is_set) {
        for (size_t i = 0; i < a->n; i++)
            if (!has_item(run, b->items, b->n, a->items[i]))
                return false;
        return a->n == b->n;
    }
    bool is_plain = a->kind == JINJA_LIST || a->kind == JINJA_TUPLE || a->kind == JINJA_RANGE;
    return a->kind == b->kind && is_plain && a->n == b->n &&
           items_equal(run, a->items, b->items, a->n);
}

static bool dicts_equal(struct jinja_run *run, const struct jinja_dict *a,
                        const struct jinja_dict *b)
{
    if (a == b)
        return true;
    if (a->n != b->n)
        return false;
    for (size_t i = 0; i < a->n; i++) {
        struct jinja_value *other = jinja_dict_find(run, b, a->keys[i]);
        if (!other || !jinja_equal(run, a->values[i], *other))
            return false;
    }
    return true;
}

/* An int against a float without rounding the int. */
static bool int_equals_float(int64_t integer, double real)
{
    return real >= -0x1p63 && real < 0x1p63 && real == trunc(real) && (int64_t)real == integer;
}

static bool numbers_equal(struct jinja_value a, struct jinja_value b)
{
    int64_t i, j;
    bool a_is_int = jinja_is_integral(a, &i), b_is_int = jinja_is_integral(b, &j);
    if (a_is_int && b_is_int)
        return i == j;
    if (a_is_int)
        return int_equals_float(i, b.real);
    return b_is_int ? int_equals_float(j, a.real) : a.real == b.real;
}

bool jinja_equal(struct jinja_run *run, struct jinja_value a, struct jinja_value b)
{
    double ignored;
    jinja_descend(run);
    bool equal;
    if (jinja_is_number(a, &ignored) && jinja_is_number(b, &ignored))
        equal = numbers_equal(a, b);
    else if (a.kind != b.kind)
        equal = false;
    else if (a.kind == JINJA_UNDEFINED)
        equal = true;
    else if (a.kind == JINJA_STRING)
        equal = strings_equal(a.string, b.string);
    else if (a.kind == JINJA_SEQUENCE)
        equal = sequences_equal(run, a.sequence, b.sequence);
    else if (a.kind == JINJA_DICT)
        equal = dicts_equal(run, a.dict, b.dict);
    else
        equal = jinja_same(a, b);
    jinja_ascend(run);
    return equal;
}

static bool strings_less(const struct jinja_string *a, const struct jinja_string *b)
{
    size_t n = a->len < b->len ? a->len : b->len;
    int order = memcmp(a->data, b->data, n); /* UTF-8 sorts as its code points do */
    return order ? order < 0 : a->len < b->len;
}

static bool sequences_less(struct jinja_run *run, const struct jinja_sequence *a,
                           const struct jinja_sequence *b)
{
    for (size_t i = 0; i < a->n && i < b->n; i++)
        if (!jinja_equal(run, a->items[i], b->items[i]))
            return jinja_less(run, a->items[i], b->items[i]);
    return a->n < b->n;
}

bool jinja_less(struct jinja_run *run, struct jinja_value a, struct jinja_value b)
{
    int64_t i, j;
    double x, y;
    jinja_descend(run);
    bool less = false;
    if (jinja_is_integral(a, &i) && jinja_is_integral(b, &j))
        less = i < j;
    else if (jinja_is_number(a, &x) && jinja_is_number(b, &y))
        less = x < y;
    else if (a.kind == JINJA_STRING && b.kind == JINJA_STRING)
        less = strings_less(a.string, b.string);
    else if (a.kind == JINJA_SEQUENCE && b.kind == JINJA_SEQUENCE &&
             a.sequence->kind == b.sequence->kind &&
             (a.sequence->kind == JINJA_LIST || a.sequence->kind == JINJA_TUPLE))
        less = sequences_less(run, a.sequence, b.sequence);
    else
        jinja_raise(&run->trap, "%s and %s have no order", jinja_type_name(a), jinja_type_name(b));
    jinja_ascend(run);
    return less;
}

bool jinja_contains(struct jinja_run *run, struct jinja_value container, struct jinja_value item)
{
    if (container.kind == JINJA_STRING) {
        if (item.kind != JINJA_STRING)
            jinja_raise(&run->trap, "`in` a string needs a string, not %s", jinja_type_name(item));
        const struct jinja_string *s = container.string, *part = item.string;
        jinja_charge(run, s->len / 256);
        return memmem(s->data, s->len, part->data, part->len) != NULL;
    }
    if (container.kind == JINJA_DICT)
        return jinja_dict_find(run, container.dict, item) != NULL;
    if (container.kind == JINJA_SEQUENCE && container.sequence->kind == JINJA_GENERATOR) {
        struct jinja_sequence *generator = container.sequence;
        jinja_force(run, generator);
        while (generator->pos < generator->n)
            if (jinja_equal(run, generator->items[generator->pos++], item))
                return true;
        return false;
    }
    if (!jinja_is_iterable(container))
        jinja_raise(&run->trap, "`in` needs something to look in, not %s",
                    jinja_type_name(container));
    struct jinja_span span = jinja_walk(run, container);
    return has_item(run, span.items, span.n, item);
}

size_t jinja_length(struct jinja_run *run, struct jinja_value v)
{
    struct jinja_value length;
    if (v.kind == JINJA_UNDEFINED)
        return 0;
    if (v.kind == JINJA_STRING)
        return v.string->n_chars;
    if (v.kind == JINJA_DICT)
        return v.dict->n;
    if (v.kind == JINJA_SEQUENCE && v.sequence->kind != JINJA_GENERATOR)
        return v.sequence->n;
    if (v.kind == JINJA_LOOP && jinja_loop_attribute(run, v.loop, "length", &length))
        return (size_t)length.integer;
    jinja_raise(&run->trap, "%s has no length", jinja_type_name(v));
}

bool jinja_is_iterable(struct jinja_value v)
{
    return v.kind == JINJA_UNDEFINED || v.kind == JINJA_STRING || v.kind == JINJA_SEQUENCE ||
           v.kind == JINJA_DICT || v.kind == JINJA_LOOP;
}

static struct jinja_span string_characters(struct jinja_run *run, const struct jinja_string *s)
{
    struct jinja_value *items = jinja_alloc_array(&run->arena, s->n_chars, sizeof *items);
    size_t n = 0;
    for (size_t i = 0; i < s->len;) {
        uint32_t c;
        int n_bad;
        size_t len = (size_t)utf8_decode(s->data + i, s->len - i, &c, &n_bad);
        items[n++] = jinja_text(run, s->data + i, len);
        jinja_charge(run, 1);
        i += len;
    }
    return (struct jinja_span){items, n};
}

struct jinja_span jinja_walk(struct jinja_run *run, struct jinja_value v)
{
    if (v.kind == JINJA_UNDEFINED)
        return (struct jinja_span){NULL, 0};
    if (v.kind == JINJA_STRING)
        return string_characters(run, v.string);
    if (v.kind == JINJA_DICT)
        return (struct jinja_span){v.dict->keys, v.dict->n};
    if (v.kind != JINJA_SEQUENCE)
        jinja_raise(&run->trap, "%s cannot be walked through", jinja_type_name(v));
    struct jinja_sequence *sequence = v.sequence;
    if (sequence->kind != JINJA_GENERATOR)
        return (struct jinja_span){sequence->items, sequence->n};
    jinja_force(run, sequence);
    size_t pos = sequence->pos;
    sequence->pos = sequence->n;
    return (struct jinja_span){sequence->n ? sequence->items + pos : NULL, sequence->n - pos};
}
