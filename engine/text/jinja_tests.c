/* The tests behind `is`. */
#include <string.h>

#include "engine/text/jinja_casing.h"
#include "engine/text/jinja_run.h"

/* argument is JINJA_ABSENT for tests without one. */
struct test {
    const char *name;
    int n_args;
    bool (*holds)(struct jinja_run *run, struct jinja_value v, struct jinja_value argument);
};

static bool is_defined(struct jinja_run *run, struct jinja_value v, struct jinja_value argument)
{
    (void)run, (void)argument;
    return v.kind != JINJA_UNDEFINED;
}

static bool is_undefined(struct jinja_run *run, struct jinja_value v, struct jinja_value argument)
{
    (void)run, (void)argument;
    return v.kind == JINJA_UNDEFINED;
}

static bool is_none(struct jinja_run *run, struct jinja_value v, struct jinja_value argument)
{
    (void)run, (void)argument;
    return v.kind == JINJA_NONE;
}

static bool is_string(struct jinja_run *run, struct jinja_value v, struct jinja_value argument)
{
    (void)run, (void)argument;
    return v.kind == JINJA_STRING;
}

static bool is_boolean(struct jinja_run *run, struct jinja_value v, struct jinja_value argument)
{
    (void)run, (void)argument;
    return v.kind == JINJA_BOOL;
}

static bool is_true(struct jinja_run *run, struct jinja_value v, struct jinja_value argument)
{
    (void)run, (void)argument;
    return v.kind == JINJA_BOOL && v.truth;
}

static bool is_false(struct jinja_run *run, struct jinja_value v, struct jinja_value argument)
{
    (void)run, (void)argument;
    return v.kind == JINJA_BOOL && !v.truth;
}

static bool is_number(struct jinja_run *run, struct jinja_value v, struct jinja_value argument)
{
    double ignored;
    (void)run, (void)argument;
    return jinja_is_number(v, &ignored);
}

static bool is_integer(struct jinja_run *run, struct jinja_value v, struct jinja_value argument)
{
    (void)run, (void)argument;
    return v.kind == JINJA_INT;
}

static bool is_float(struct jinja_run *run, struct jinja_value v, struct jinja_value argument)
{
    (void)run, (void)argument;
    return v.kind == JINJA_FLOAT;
}

static bool is_mapping(struct jinja_run *run, struct jinja_value v, struct jinja_value argument)
{
    (void)run, (void)argument;
    return v.kind == JINJA_DICT;
}

static bool is_iterable(struct jinja_run *run, struct jinja_value v, struct jinja_value argument)
{
    (void)run, (void)argument;
    return jinja_is_iterable(v);
}

/* Jinja asks for a length and subscription, which an undefined value has too. */
static bool is_sequence(struct jinja_run *run, struct jinja_value v, struct jinja_value argument)
{
    (void)run, (void)argument;
    return v.kind == JINJA_UNDEFINED || v.kind == JINJA_STRING || v.kind == JINJA_DICT ||
           (v.kind == JINJA_SEQUENCE && v.sequence->kind <= JINJA_RANGE);
}

static bool is_callable(struct jinja_run *run, struct jinja_value v, struct jinja_value argument)
{
    (void)run, (void)argument;
    return v.kind == JINJA_UNDEFINED || v.kind == JINJA_MACRO || v.kind == JINJA_FUNCTION ||
           v.kind == JINJA_METHOD || v.kind == JINJA_LOOP;
}

static bool is_lower(struct jinja_run *run, struct jinja_value v, struct jinja_value argument)
{
    (void)argument;
    const struct jinja_string *s = jinja_to_text(run, v).string;
    return jinja_is_lower(s->data, s->len);
}

static bool is_upper(struct jinja_run *run, struct jinja_value v, struct jinja_value argument)
{
    (void)argument;
    const struct jinja_string *s = jinja_to_text(run, v).string;
    return jinja_is_upper(s->data, s->len);
}

static bool has_remainder(struct jinja_run *run, struct jinja_value v, struct jinja_value divisor,
                          int64_t wanted)
{
    return jinja_equal(run, jinja_binary(run, JINJA_MODULO, v, divisor), jinja_int(wanted));
}

static bool is_odd(struct jinja_run *run, struct jinja_value v, struct jinja_value argument)
{
    (void)argument;
    return has_remainder(run, v, jinja_int(2), 1);
}

static bool is_even(struct jinja_run *run, struct jinja_value v, struct jinja_value argument)
{
    (void)argument;
    return has_remainder(run, v, jinja_int(2), 0);
}

static bool is_divisible(struct jinja_run *run, struct jinja_value v, struct jinja_value argument)
{
    return has_remainder(run, v, argument, 0);
}

static bool is_same(struct jinja_run *run, struct jinja_value v, struct jinja_value argument)
{
    (void)run;
    return jinja_same(v, argument);
}

static bool is_equal(struct jinja_run *run, struct jinja_value v, struct jinja_value argument)
{
    return jinja_compare(run, JINJA_EQUAL, v, argument);
}

static bool is_not_equal(struct jinja_run *run, struct jinja_value v, struct jinja_value argument)
{
    return jinja_compare(run, JINJA_NOT_EQUAL, v, argument);
}

static bool is_less(struct jinja_run *run, struct jinja_value v, struct jinja_value argument)
{
    return jinja_compare(run, JINJA_LESS, v, argument);
}

static bool is_less_equal(struct jinja_run *run, struct jinja_value v, struct jinja_value argument)
{
    return jinja_compare(run, JINJA_LESS_EQUAL, v, argument);
}

static bool is_greater(struct jinja_run *run, struct jinja_value v, struct jinja_value argument)
{
    return jinja_compare(run, JINJA_GREATER, v, argument);
}

static bool is_greater_equal(struct jinja_run *run, struct jinja_value v,
                             struct jinja_value argument)
{
    return jinja_compare(run, JINJA_GREATER_EQUAL, v, argument);
}

static bool is_in(struct jinja_run *run, struct jinja_value v, struct jinja_value argument)
{
    return jinja_contains(run, argument, v);
}

static const struct test TESTS[] = {
    {"defined", 0, is_defined},
    {"undefined", 0, is_undefined},
    {"none", 0, is_none},
    {"string", 0, is_string},
    {"boolean", 0, is_boolean},
    {"true", 0, is_true},
    {"false", 0, is_false},
    {"number", 0, is_number},
    {"integer", 0, is_integer},
    {"float", 0, is_float},
    {"mapping", 0, is_mapping},
    {"iterable", 0, is_iterable},
    {"sequence", 0, is_sequence},
    {"callable", 0, is_callable},
    {"lower", 0, is_lower},
    {"upper", 0, is_upper},
    {"odd", 0, is_odd},
    {"even", 0, is_even},
    {"divisibleby", 1, is_divisible},
    {"sameas", 1, is_same},
    {"==", 1, is_equal},
    {"eq", 1, is_equal},
    {"equalto", 1, is_equal},
    {"!=", 1, is_not_equal},
    {"ne", 1, is_not_equal},
    {"<", 1, is_less},
    {"lt", 1, is_less},
    {"lessthan", 1, is_less},
    {"<=", 1, is_less_equal},
    {"le", 1, is_less_equal},
    {">", 1, is_greater},
    {"gt", 1, is_greater},
    {"greaterthan", 1, is_greater},
    {">=", 1, is_greater_equal},
    {"ge", 1, is_greater_equal},
    {"in", 1, is_in},
};

bool jinja_apply_test(struct jinja_run *run, const struct jinja_string *name,
                      struct jinja_value input, const struct jinja_args *args)
{
    static const struct jinja_value ABSENT = {.kind = JINJA_ABSENT};
    jinja_charge(run, 1);
    for (size_t i = 0; i < sizeof TESTS / sizeof *TESTS; i++) {
        const struct test *test = &TESTS[i];
        if (strlen(test->name) != name->len || memcmp(test->name, name->data, name->len) != 0)
            continue;
        if (args->n != (size_t)test->n_args || args->n_named)
            jinja_raise(&run->trap, "the test `%s` takes %d arguments, %zu were given", test->name,
                        test->n_args, args->n + args->n_named);
        return test->holds(run, input, args->n ? args->positional[0] : ABSENT);
    }
    jinja_raise(&run->trap, "the test `%.*s` is not supported", (int)name->len, name->data);
}
