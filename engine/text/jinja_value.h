/* The values of the template language, which are Python's: what they are, when they are equal,
 * how they print.
 *
 * Everything lives in the run's arena and is never freed alone.  Integers are 64 bits; where
 * Python's would grow, an error says so.  Strings are valid UTF-8 and count by code point. */
#ifndef ATTNSCOPE_ENGINE_TEXT_JINJA_VALUE_H
#define ATTNSCOPE_ENGINE_TEXT_JINJA_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/json.h"

struct jinja_run;
struct jinja_filter;
struct jinja_macro;
struct jinja_loop;
struct jinja_method;
struct jinja_function;

enum jinja_kind {
    JINJA_ABSENT, /* an argument that was not given; never reaches a template */
    JINJA_UNDEFINED,
    JINJA_NONE,
    JINJA_BOOL,
    JINJA_INT,
    JINJA_FLOAT,
    JINJA_STRING,
    JINJA_SEQUENCE,
    JINJA_DICT,
    JINJA_NAMESPACE, /* a dict behind attributes */
    JINJA_MACRO,
    JINJA_FUNCTION, /* range, raise_exception, ... */
    JINJA_METHOD,   /* a method with its object */
    JINJA_LOOP
};

struct jinja_value {
    enum jinja_kind kind;
    union {
        bool truth;
        int64_t integer;
        double real;
        const char *missing; /* JINJA_UNDEFINED: what was not found, or NULL */
        struct jinja_string *string;
        struct jinja_sequence *sequence;
        struct jinja_dict *dict; /* also JINJA_NAMESPACE */
        const struct jinja_macro *macro;
        const struct jinja_function *function;
        struct jinja_method *method;
        struct jinja_loop *loop;
    };
};

struct jinja_string {
    const char *data; /* [len], not terminated */
    size_t len;       /* bytes */
    size_t n_chars;   /* code points */
    bool markup;      /* made by `safe`: adding to it escapes the other side */
};

enum jinja_sequence_kind {
    JINJA_LIST,
    JINJA_TUPLE,
    JINJA_RANGE,
    JINJA_KEYS,
    JINJA_VALUES,
    JINJA_ITEMS,
    JINJA_GENERATOR /* what lazy filters give: can be walked once, has no length */
};

struct jinja_sequence {
    enum jinja_sequence_kind kind;
    struct jinja_value *items; /* [n] */
    size_t n, capacity;
    int64_t start, stop, step; /* JINJA_RANGE */
    /* JINJA_GENERATOR: items from pos on are still to come; while filter is set they have not
     * been computed. */
    size_t pos;
    const struct jinja_filter *filter;
    struct jinja_value input;
    const struct jinja_args *args;
};

struct jinja_dict {
    struct jinja_value *keys, *values; /* [n], in the order of insertion */
    size_t n, capacity;
};

struct jinja_args {
    struct jinja_value *positional; /* [n] */
    size_t n;
    const struct jinja_string **names; /* [n_named] */
    struct jinja_value *named;
    size_t n_named;
};

/* Making. */
struct jinja_value jinja_undefined(const char *missing);
struct jinja_value jinja_none(void);
struct jinja_value jinja_bool(bool truth);
struct jinja_value jinja_int(int64_t integer);
struct jinja_value jinja_float(double real);
/* Borrows data, which must be valid UTF-8 and outlive the run. */
struct jinja_value jinja_text(struct jinja_run *run, const char *data, size_t len);
struct jinja_value jinja_text_of(struct jinja_run *run, const char *terminated);
struct jinja_value jinja_sequence_new(struct jinja_run *run, enum jinja_sequence_kind kind);
struct jinja_value jinja_pair(struct jinja_run *run, struct jinja_value a, struct jinja_value b);
void jinja_push(struct jinja_run *run, struct jinja_sequence *to, struct jinja_value item);
struct jinja_value jinja_dict_new(struct jinja_run *run);
/* Raises if key cannot be a key (a list, a dict). */
void jinja_dict_set(struct jinja_run *run, struct jinja_dict *dict, struct jinja_value key,
                    struct jinja_value value);
/* NULL if absent.  The first raises if key cannot be a key. */
struct jinja_value *jinja_dict_find(struct jinja_run *run, const struct jinja_dict *dict,
                                    struct jinja_value key);
struct jinja_value *jinja_dict_find_text(const struct jinja_dict *dict, const char *key, size_t n);
struct jinja_value jinja_from_json(struct jinja_run *run, const struct json *v);

/* Asking. */
bool jinja_is_text(struct jinja_value v, const char *terminated);
bool jinja_is_hashable(struct jinja_value v);
/* bool counts as int, as in Python. */
bool jinja_is_integral(struct jinja_value v, int64_t *out);
bool jinja_is_number(struct jinja_value v, double *out);
const char *jinja_type_name(struct jinja_value v); /* "a list", "an int", "none" */
const char *jinja_type_word(struct jinja_value v); /* "list" */
bool jinja_truth(struct jinja_value v);
bool jinja_same(struct jinja_value a, struct jinja_value b); /* Python's `is` */
bool jinja_equal(struct jinja_run *run, struct jinja_value a, struct jinja_value b);
/* a < b; raises for kinds without an order. */
bool jinja_less(struct jinja_run *run, struct jinja_value a, struct jinja_value b);
/* `item in container`. */
bool jinja_contains(struct jinja_run *run, struct jinja_value container, struct jinja_value item);
size_t jinja_length(struct jinja_run *run, struct jinja_value v);
bool jinja_is_iterable(struct jinja_value v);

struct jinja_span {
    struct jinja_value *items;
    size_t n;
};
/* All items that walking v gives; a generator is used up by it.  Raises if v is not iterable. */
struct jinja_span jinja_walk(struct jinja_run *run, struct jinja_value v);
/* A generator's items are computed if they were not yet. */
void jinja_force(struct jinja_run *run, struct jinja_sequence *generator);

#endif
