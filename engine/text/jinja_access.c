/* v.name, v[key] and v[a:b:c], with Jinja's order of looking: a dot asks the type's methods first
 * and then the keys, a bracket the other way round, and what is not found is undefined. */
#include <stdio.h>
#include <string.h>

#include "engine/base/utf8.h"
#include "engine/text/jinja_run.h"

static struct jinja_value not_found(struct jinja_run *run, struct jinja_value v, const char *name,
                                    size_t n)
{
    const char *type = jinja_type_name(v);
    size_t size = strlen(type) + n + 24;
    char *missing = jinja_alloc(&run->arena, size);
    snprintf(missing, size, "`%.*s` of %s", (int)n, name, type);
    return jinja_undefined(missing);
}

static void refuse_undefined(struct jinja_run *run, struct jinja_value v, const char *what)
{
    if (v.kind == JINJA_UNDEFINED)
        jinja_raise(&run->trap, "%s is undefined, so it has no %s",
                    v.missing ? v.missing : "a value", what);
}

/* Names such as __class__ exist in Python, and its sandbox hides them. */
static bool is_hidden(const struct jinja_string *name)
{
    return name->len > 4 && !memcmp(name->data, "__", 2) &&
           !memcmp(name->data + name->len - 2, "__", 2);
}

/* What getattr would find. */
static bool find_attribute(struct jinja_run *run, struct jinja_value v,
                           const struct jinja_string *name, struct jinja_value *out)
{
    char plain[32];
    if (v.kind == JINJA_NAMESPACE) {
        struct jinja_value *found = jinja_dict_find_text(v.dict, name->data, name->len);
        if (found)
            *out = *found;
        return found != NULL;
    }
    if (v.kind == JINJA_LOOP) {
        if (name->len >= sizeof plain)
            return false;
        memcpy(plain, name->data, name->len);
        plain[name->len] = 0;
        return jinja_loop_attribute(run, v.loop, plain, out);
    }
    return jinja_find_method(run, v, name, out);
}

/* A code point of s by its index, which is in range. */
static struct jinja_value character(struct jinja_run *run, const struct jinja_string *s,
                                    size_t index)
{
    size_t pos = index;
    if (s->n_chars != s->len) {
        jinja_charge(run, index / 64);
        pos = 0;
        for (size_t i = 0; i < index; i++)
            do
                pos++;
            while (((unsigned char)s->data[pos] & 0xC0) == 0x80);
    }
    size_t end = pos + 1;
    while (end < s->len && ((unsigned char)s->data[end] & 0xC0) == 0x80)
        end++;
    return jinja_text(run, s->data + pos, end - pos);
}

/* What subscription would find. */
static bool find_item(struct jinja_run *run, struct jinja_value v, struct jinja_value key,
                      struct jinja_value *out)
{
    int64_t index;
    if (v.kind == JINJA_DICT) {
        struct jinja_value *found =
            jinja_is_hashable(key) ? jinja_dict_find(run, v.dict, key) : NULL;
        if (found)
            *out = *found;
        return found != NULL;
    }
    if (!jinja_is_integral(key, &index))
        return false;
    size_t n;
    if (v.kind == JINJA_STRING)
        n = v.string->n_chars;
    else if (v.kind == JINJA_SEQUENCE && v.sequence->kind <= JINJA_RANGE)
        n = v.sequence->n;
    else
        return false;
    if (index < 0)
        index += (int64_t)n;
    if (index < 0 || index >= (int64_t)n)
        return false;
    *out =
        v.kind == JINJA_STRING ? character(run, v.string, (size_t)index) : v.sequence->items[index];
    return true;
}

struct jinja_value jinja_attribute(struct jinja_run *run, struct jinja_value v,
                                   const struct jinja_string *name)
{
    struct jinja_value found;
    if (is_hidden(name))
        return not_found(run, v, name->data, name->len);
    if (v.kind == JINJA_UNDEFINED)
        jinja_raise(&run->trap, "%s is undefined, so it has no attribute `%.*s`",
                    v.missing ? v.missing : "a value", (int)name->len, name->data);
    if (find_attribute(run, v, name, &found))
        return found;
    if (v.kind == JINJA_DICT) {
        struct jinja_value *item = jinja_dict_find_text(v.dict, name->data, name->len);
        if (item)
            return *item;
    }
    return not_found(run, v, name->data, name->len);
}

struct jinja_value jinja_item(struct jinja_run *run, struct jinja_value v, struct jinja_value key)
{
    struct jinja_value found;
    refuse_undefined(run, v, "items");
    if (find_item(run, v, key, &found))
        return found;
    if (key.kind != JINJA_STRING)
        return not_found(run, v, "an item", strlen("an item"));
    if (!is_hidden(key.string) && find_attribute(run, v, key.string, &found))
        return found;
    return not_found(run, v, key.string->data, key.string->len);
}

struct slice {
    int64_t start, step;
    size_t n;
};

static bool has_bound(struct jinja_run *run, struct jinja_value bound, int64_t *out)
{
    if (bound.kind == JINJA_NONE)
        return false;
    if (!jinja_is_integral(bound, out))
        jinja_raise(&run->trap, "a slice needs integers, not %s", jinja_type_name(bound));
    return true;
}

static int64_t clamp(int64_t i, int64_t length, int64_t low, int64_t high)
{
    if (i < 0)
        i += length; /* cannot wrap: i < 0 <= length */
    return i < low ? low : i > high ? high : i;
}

/* Python's slice.indices. */
static struct slice resolve_slice(struct jinja_run *run, const struct jinja_value bounds[3],
                                  size_t length)
{
    int64_t n = (int64_t)length, start, stop, step = 1;
    if (has_bound(run, bounds[2], &step) && step == 0)
        jinja_raise(&run->trap, "the step of a slice cannot be 0");
    if (step < -INT64_MAX)
        step = -INT64_MAX;
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? n - 1 : n;
    start = has_bound(run, bounds[0], &start) ? clamp(start, n, low, high) : step < 0 ? high : low;
    stop = has_bound(run, bounds[1], &stop) ? clamp(stop, n, low, high) : step < 0 ? low : high;
    struct slice slice = {.start = start, .step = step};
    if (step > 0 && start < stop)
        slice.n = (size_t)((stop - start - 1) / step + 1);
    else if (step < 0 && start > stop)
        slice.n = (size_t)((start - stop - 1) / -step + 1);
    return slice;
}

static struct jinja_value slice_string(struct jinja_run *run, const struct jinja_string *s,
                                       struct slice slice)
{
    /* Where each character begins, and the end. */
    size_t *starts = NULL;
    if (s->n_chars != s->len) {
        size_t n = 0;
        starts = jinja_alloc_array(&run->arena, s->n_chars + 1, sizeof *starts);
        for (size_t i = 0; i < s->len; i++)
            if (((unsigned char)s->data[i] & 0xC0) != 0x80)
                starts[n++] = i;
        starts[n] = s->len;
        jinja_charge(run, s->len / 64);
    }
    if (slice.step == 1 && slice.n) {
        size_t from = (size_t)slice.start, to = from + slice.n;
        return starts ? jinja_text(run, s->data + starts[from], starts[to] - starts[from])
                      : jinja_text(run, s->data + from, slice.n);
    }
    struct jinja_builder b = jinja_builder_new(run);
    jinja_charge(run, slice.n / 16);
    for (size_t i = 0; i < slice.n; i++) {
        size_t at = (size_t)(slice.start + (int64_t)i * slice.step);
        if (starts)
            jinja_put(&b, s->data + starts[at], starts[at + 1] - starts[at]);
        else
            jinja_put(&b, s->data + at, 1);
    }
    return jinja_built(&b);
}

static struct jinja_value slice_sequence(struct jinja_run *run, const struct jinja_sequence *s,
                                         struct slice slice)
{
    struct jinja_value out = jinja_sequence_new(run, s->kind);
    jinja_charge(run, slice.n / 16);
    for (size_t i = 0; i < slice.n; i++)
        jinja_push(run, out.sequence, s->items[slice.start + (int64_t)i * slice.step]);
    return out;
}

struct jinja_value jinja_slice(struct jinja_run *run, struct jinja_value v,
                               const struct jinja_value bounds[3])
{
    refuse_undefined(run, v, "slices");
    if (v.kind == JINJA_STRING) {
        struct jinja_value out =
            slice_string(run, v.string, resolve_slice(run, bounds, v.string->n_chars));
        out.string->markup = v.string->markup;
        return out;
    }
    if (v.kind != JINJA_SEQUENCE || v.sequence->kind > JINJA_RANGE)
        jinja_raise(&run->trap, "%s cannot be sliced", jinja_type_name(v));
    const struct jinja_sequence *s = v.sequence;
    struct slice slice = resolve_slice(run, bounds, s->n);
    struct jinja_value out = slice_sequence(run, s, slice);
    if (s->kind == JINJA_RANGE) {
        int64_t stop;
        /* A range's slice is a range; its stop is where slice.indices would stop. */
        bool backwards = slice.step < 0;
        int64_t n = (int64_t)s->n, low = backwards ? -1 : 0, high = backwards ? n - 1 : n;
        stop = has_bound(run, bounds[1], &stop) ? clamp(stop, n, low, high)
               : backwards                      ? low
                                                : high;
        out.sequence->start = s->start + slice.start * s->step;
        out.sequence->stop = s->start + stop * s->step;
        if (__builtin_mul_overflow(s->step, slice.step, &out.sequence->step))
            jinja_raise(&run->trap, "the step of a range does not fit 64 bits");
    }
    return out;
}
