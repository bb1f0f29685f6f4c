/* Calls: binding arguments to parameters, and the functions every template has. */
#include <string.h>
#include <time.h>

#include "engine/base/utf8.h"
#include "engine/text/jinja_run.h"

struct jinja_function {
    const char *name;
    struct jinja_value (*call)(struct jinja_run *run, const struct jinja_args *args);
};

/* The index of name among the parameters, or -1. */
static int find_param(const struct jinja_signature *signature, const struct jinja_string *name)
{
    for (int i = 0; i < JINJA_MAX_PARAMS && signature->params[i]; i++)
        if (strlen(signature->params[i]) == name->len &&
            !memcmp(signature->params[i], name->data, name->len))
            return i;
    return -1;
}

void jinja_bind(struct jinja_run *run, const char *what, const struct jinja_signature *signature,
                const struct jinja_args *args, struct jinja_value *values)
{
    int n_params = 0;
    while (n_params < JINJA_MAX_PARAMS && signature->params[n_params])
        n_params++;
    for (int i = 0; i < JINJA_MAX_PARAMS; i++)
        values[i] = (struct jinja_value){.kind = JINJA_ABSENT};
    if (args->n > (size_t)n_params)
        jinja_raise(&run->trap, "%s takes at most %d arguments, %zu were given", what, n_params,
                    args->n);
    for (size_t i = 0; i < args->n; i++)
        values[i] = args->positional[i];
    for (size_t i = 0; i < args->n_named; i++) {
        const struct jinja_string *name = args->names[i];
        int at = signature->positional_only ? -1 : find_param(signature, name);
        if (at < 0)
            jinja_raise(&run->trap, "%s has no argument `%.*s`", what, (int)name->len, name->data);
        if (values[at].kind != JINJA_ABSENT)
            jinja_raise(&run->trap, "%s got its argument `%.*s` twice", what, (int)name->len,
                        name->data);
        values[at] = args->named[i];
    }
    for (int i = 0; i < signature->n_required; i++)
        if (values[i].kind == JINJA_ABSENT)
            jinja_raise(&run->trap, "%s needs its argument `%s`", what, signature->params[i]);
}

static struct jinja_value call_range(struct jinja_run *run, const struct jinja_args *args)
{
    static const struct jinja_signature SIGNATURE = {
        {"start", "stop", "step"}, .n_required = 1, .positional_only = true};
    struct jinja_value values[JINJA_MAX_PARAMS];
    int64_t numbers[3] = {0, 0, 1};
    jinja_bind(run, "range", &SIGNATURE, args, values);
    for (int i = 0; i < 3; i++)
        if (values[i].kind != JINJA_ABSENT && !jinja_is_integral(values[i], &numbers[i]))
            jinja_raise(&run->trap, "range needs integers, not %s", jinja_type_name(values[i]));
    if (values[1].kind == JINJA_ABSENT) {
        numbers[1] = numbers[0];
        numbers[0] = 0;
    }
    int64_t start = numbers[0], stop = numbers[1], step = numbers[2];
    if (step == 0)
        jinja_raise(&run->trap, "the step of a range cannot be 0");
    struct jinja_value range = jinja_sequence_new(run, JINJA_RANGE);
    range.sequence->start = start;
    range.sequence->stop = stop;
    range.sequence->step = step;
    for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
        if (range.sequence->n == JINJA_MAX_RANGE)
            jinja_raise(&run->trap, "a range is longer than %d, the limit", JINJA_MAX_RANGE);
        jinja_push(run, range.sequence, jinja_int(i));
        if (__builtin_add_overflow(i, step, &i))
            break;
    }
    return range;
}

/* Adds what dict(v) would hold: a dict's entries or pairs. */
static void add_entries(struct jinja_run *run, struct jinja_dict *to, struct jinja_value v)
{
    if (v.kind == JINJA_DICT) {
        for (size_t i = 0; i < v.dict->n; i++)
            jinja_dict_set(run, to, v.dict->keys[i], v.dict->values[i]);
        return;
    }
    struct jinja_span pairs = jinja_walk(run, v);
    for (size_t i = 0; i < pairs.n; i++) {
        struct jinja_span pair = jinja_walk(run, pairs.items[i]);
        if (pair.n != 2)
            jinja_raise(&run->trap, "a dict is made of pairs, not of %zu values", pair.n);
        jinja_dict_set(run, to, pair.items[0], pair.items[1]);
    }
}

static struct jinja_value call_dict(struct jinja_run *run, const struct jinja_args *args)
{
    struct jinja_value dict = jinja_dict_new(run);
    if (args->n > 1)
        jinja_raise(&run->trap, "dict takes at most 1 argument without a name");
    if (args->n == 1)
        add_entries(run, dict.dict, args->positional[0]);
    for (size_t i = 0; i < args->n_named; i++)
        jinja_dict_set(run, dict.dict, jinja_text(run, args->names[i]->data, args->names[i]->len),
                       args->named[i]);
    return dict;
}

static struct jinja_value call_namespace(struct jinja_run *run, const struct jinja_args *args)
{
    struct jinja_value space = call_dict(run, args);
    space.kind = JINJA_NAMESPACE;
    return space;
}

static struct jinja_value call_raise_exception(struct jinja_run *run, const struct jinja_args *args)
{
    static const struct jinja_signature SIGNATURE = {{"message"}, .n_required = 1};
    struct jinja_value values[JINJA_MAX_PARAMS];
    jinja_bind(run, "raise_exception", &SIGNATURE, args, values);
    struct jinja_value text = jinja_to_text(run, values[0]);
    jinja_raise(&run->trap, "the template refuses these messages: %.*s",
                text.string->len < 512 ? (int)text.string->len : 512, text.string->data);
}

static struct jinja_value call_strftime_now(struct jinja_run *run, const struct jinja_args *args)
{
    static const struct jinja_signature SIGNATURE = {{"format"}, .n_required = 1};
    struct jinja_value values[JINJA_MAX_PARAMS];
    struct tm local;
    char format[256], text[2048];
    time_t now = (time_t)run->now_unix_s;
    jinja_bind(run, "strftime_now", &SIGNATURE, args, values);
    if (values[0].kind != JINJA_STRING || values[0].string->len + 2 > sizeof format)
        jinja_raise(&run->trap, "strftime_now needs a format of at most %zu bytes",
                    sizeof format - 2);
    if (!localtime_r(&now, &local))
        jinja_raise(&run->trap, "the time %lld is no date", run->now_unix_s);
    /* The blank tells an empty result from one that did not fit. */
    size_t n = values[0].string->len;
    memcpy(format, values[0].string->data, n);
    memcpy(format + n, " ", 2);
    size_t n_text = strftime(text, sizeof text, format, &local);
    if (!n_text || !utf8_valid(text, n_text, NULL))
        jinja_raise(&run->trap, "strftime_now's format gives no text");
    struct jinja_builder b = jinja_builder_new(run);
    jinja_put(&b, text, n_text - 1);
    return jinja_built(&b);
}

static const struct jinja_function FUNCTIONS[] = {
    {"range", call_range},
    {"dict", call_dict},
    {"namespace", call_namespace},
    {"raise_exception", call_raise_exception},
    {"strftime_now", call_strftime_now},
};

struct jinja_value jinja_builtin(const struct jinja_string *name)
{
    for (size_t i = 0; i < sizeof FUNCTIONS / sizeof *FUNCTIONS; i++)
        if (strlen(FUNCTIONS[i].name) == name->len &&
            !memcmp(FUNCTIONS[i].name, name->data, name->len))
            return (struct jinja_value){.kind = JINJA_FUNCTION, .function = &FUNCTIONS[i]};
    return jinja_undefined(NULL);
}

struct jinja_value jinja_call(struct jinja_run *run, struct jinja_value callee,
                              const struct jinja_args *args)
{
    jinja_charge(run, 1);
    if (callee.kind == JINJA_MACRO)
        return jinja_call_macro(run, callee.macro, args);
    if (callee.kind == JINJA_FUNCTION)
        return callee.function->call(run, args);
    if (callee.kind == JINJA_METHOD)
        return jinja_call_method(run, callee.method, args);
    if (callee.kind == JINJA_UNDEFINED && callee.missing)
        jinja_raise(&run->trap, "%s is undefined, so it cannot be called", callee.missing);
    jinja_raise(&run->trap, "%s cannot be called", jinja_type_name(callee));
}
