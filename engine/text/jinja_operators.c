/* + - * / // % ** and comparisons, as Python computes them, within 64 bits. */
#include <math.h>
#include <string.h>

#include "engine/text/jinja_run.h"

static const char *operator_text(enum jinja_operator op)
{
    static const char *const TEXTS[] = {
        "+", "-", "*", "/", "//", "%", "**", "==", "!=", "<", "<=", ">", ">=", "in", "not in"};
    return TEXTS[op];
}

static void raise_operands(struct jinja_run *run, enum jinja_operator op, struct jinja_value a,
                           struct jinja_value b) __attribute__((noreturn));
static void raise_operands(struct jinja_run *run, enum jinja_operator op, struct jinja_value a,
                           struct jinja_value b)
{
    struct jinja_value v = a.kind == JINJA_UNDEFINED ? a : b;
    if (v.kind == JINJA_UNDEFINED && v.missing)
        jinja_raise(&run->trap, "%s is undefined, so `%s` cannot use it", v.missing,
                    operator_text(op));
    jinja_raise(&run->trap, "`%s` cannot join %s and %s", operator_text(op), jinja_type_name(a),
                jinja_type_name(b));
}

static void raise_overflow(struct jinja_run *run, enum jinja_operator op) __attribute__((noreturn));
static void raise_overflow(struct jinja_run *run, enum jinja_operator op)
{
    jinja_raise(&run->trap, "the result of `%s` does not fit a 64-bit integer", operator_text(op));
}

static int64_t int_power(struct jinja_run *run, int64_t base, int64_t exponent)
{
    int64_t result = 1;
    while (exponent > 0) {
        if ((exponent & 1) && __builtin_mul_overflow(result, base, &result))
            raise_overflow(run, JINJA_POWER);
        exponent >>= 1;
        if (exponent && __builtin_mul_overflow(base, base, &base))
            raise_overflow(run, JINJA_POWER);
    }
    return result;
}

/* Division that rounds down, as Python's; b is not 0. */
static int64_t floor_divide(struct jinja_run *run, int64_t a, int64_t b)
{
    if (a == INT64_MIN && b == -1)
        raise_overflow(run, JINJA_FLOOR_DIVIDE);
    int64_t quotient = a / b;
    return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

static int64_t floor_modulo(int64_t a, int64_t b)
{
    if (b == -1)
        return 0;
    int64_t remainder = a % b;
    return remainder && (remainder < 0) != (b < 0) ? remainder + b : remainder;
}

static struct jinja_value float_binary(struct jinja_run *run, enum jinja_operator op, double x,
                                       double y);

static struct jinja_value int_binary(struct jinja_run *run, enum jinja_operator op, int64_t a,
                                     int64_t b)
{
    int64_t result;
    switch (op) {
    case JINJA_ADD:
        if (__builtin_add_overflow(a, b, &result))
            raise_overflow(run, op);
        return jinja_int(result);
    case JINJA_SUBTRACT:
        if (__builtin_sub_overflow(a, b, &result))
            raise_overflow(run, op);
        return jinja_int(result);
    case JINJA_MULTIPLY:
        if (__builtin_mul_overflow(a, b, &result))
            raise_overflow(run, op);
        return jinja_int(result);
    case JINJA_POWER:
        return b < 0 ? float_binary(run, op, (double)a, (double)b)
                     : jinja_int(int_power(run, a, b));
    case JINJA_DIVIDE:
        return float_binary(run, op, (double)a, (double)b);
    default:
        break;
    }
    if (b == 0)
        jinja_raise(&run->trap, "division by zero");
    return jinja_int(op == JINJA_MODULO ? floor_modulo(a, b) : floor_divide(run, a, b));
}

/* Python's float // and %: the remainder has the divisor's sign. */
static void float_divmod(double x, double y, double *quotient, double *remainder)
{
    double mod = fmod(x, y), div = (x - mod) / y;
    if (mod != 0) {
        if ((y < 0) != (mod < 0)) {
            mod += y;
            div -= 1;
        }
    } else {
        mod = copysign(0, y);
    }
    if (div != 0) {
        double floored = floor(div);
        div = div - floored > 0.5 ? floored + 1 : floored;
    } else {
        div = copysign(0, x / y);
    }
    *quotient = div;
    *remainder = mod;
}

static struct jinja_value float_power(struct jinja_run *run, double x, double y)
{
    if (x == 0 && y < 0)
        jinja_raise(&run->trap, "0 cannot be raised to a negative power");
    if (x < 0 && isfinite(x) && isfinite(y) && y != floor(y))
        jinja_raise(&run->trap, "a negative number to a fractional power is complex");
    double result = pow(x, y);
    if (isinf(result) && isfinite(x) && isfinite(y))
        jinja_raise(&run->trap, "the result of `**` is too large");
    return jinja_float(result);
}

static struct jinja_value float_binary(struct jinja_run *run, enum jinja_operator op, double x,
                                       double y)
{
    double quotient, remainder;
    switch (op) {
    case JINJA_ADD:
        return jinja_float(x + y);
    case JINJA_SUBTRACT:
        return jinja_float(x - y);
    case JINJA_MULTIPLY:
        return jinja_float(x * y);
    case JINJA_POWER:
        return float_power(run, x, y);
    default:
        break;
    }
    if (y == 0)
        jinja_raise(&run->trap, "division by zero");
    if (op == JINJA_DIVIDE)
        return jinja_float(x / y);
    float_divmod(x, y, &quotient, &remainder);
    return jinja_float(op == JINJA_MODULO ? remainder : quotient);
}

static void put_escaped(struct jinja_builder *b, const struct jinja_string *s)
{
    static const char SPECIAL[] = "&<>'\"";
    static const char *const ESCAPES[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    for (size_t i = 0; i < s->len; i++) {
        const char *special = s->data[i] ? strchr(SPECIAL, s->data[i]) : NULL;
        if (special)
            jinja_put_text(b, ESCAPES[special - SPECIAL]);
        else
            jinja_put(b, &s->data[i], 1);
    }
}

static struct jinja_value join_strings(struct jinja_run *run, const struct jinja_string *a,
                                       const struct jinja_string *b)
{
    struct jinja_builder out = jinja_builder_new(run);
    bool markup = a->markup || b->markup;
    const struct jinja_string *parts[] = {a, b};
    for (int i = 0; i < 2; i++) {
        if (markup && !parts[i]->markup)
            put_escaped(&out, parts[i]);
        else
            jinja_put(&out, parts[i]->data, parts[i]->len);
    }
    struct jinja_value joined = jinja_built(&out);
    joined.string->markup = markup;
    return joined;
}

static bool is_concrete(struct jinja_value v, enum jinja_sequence_kind kind)
{
    return v.kind == JINJA_SEQUENCE && v.sequence->kind == kind;
}

static void push_all(struct jinja_run *run, struct jinja_sequence *to,
                     const struct jinja_sequence *from)
{
    jinja_charge(run, from->n / 16);
    for (size_t i = 0; i < from->n; i++)
        jinja_push(run, to, from->items[i]);
}

static struct jinja_value repeat(struct jinja_run *run, struct jinja_value v, int64_t times)
{
    if (v.kind == JINJA_STRING) {
        struct jinja_builder b = jinja_builder_new(run);
        for (int64_t i = 0; v.string->len && i < times; i++) {
            jinja_charge(run, 1);
            jinja_put(&b, v.string->data, v.string->len);
        }
        struct jinja_value text = jinja_built(&b);
        text.string->markup = v.string->markup;
        return text;
    }
    struct jinja_value out = jinja_sequence_new(run, v.sequence->kind);
    for (int64_t i = 0; v.sequence->n && i < times; i++) {
        jinja_charge(run, 1);
        push_all(run, out.sequence, v.sequence);
    }
    return out;
}

static bool is_repeatable(struct jinja_value v)
{
    return v.kind == JINJA_STRING || is_concrete(v, JINJA_LIST) || is_concrete(v, JINJA_TUPLE);
}

struct jinja_value jinja_binary(struct jinja_run *run, enum jinja_operator op, struct jinja_value a,
                                struct jinja_value b)
{
    int64_t i, j;
    double x, y;
    if (jinja_is_integral(a, &i) && jinja_is_integral(b, &j))
        return int_binary(run, op, i, j);
    if (jinja_is_number(a, &x) && jinja_is_number(b, &y))
        return float_binary(run, op, x, y);
    if (op == JINJA_ADD && a.kind == JINJA_STRING && b.kind == JINJA_STRING)
        return join_strings(run, a.string, b.string);
    if (op == JINJA_ADD && ((is_concrete(a, JINJA_LIST) && is_concrete(b, JINJA_LIST)) ||
                            (is_concrete(a, JINJA_TUPLE) && is_concrete(b, JINJA_TUPLE)))) {
        struct jinja_value out = jinja_sequence_new(run, a.sequence->kind);
        push_all(run, out.sequence, a.sequence);
        push_all(run, out.sequence, b.sequence);
        return out;
    }
    if (op == JINJA_MULTIPLY && is_repeatable(a) && jinja_is_integral(b, &j))
        return repeat(run, a, j);
    if (op == JINJA_MULTIPLY && is_repeatable(b) && jinja_is_integral(a, &i))
        return repeat(run, b, i);
    if (op == JINJA_MODULO && a.kind == JINJA_STRING)
        return jinja_format(run, a.string, b);
    raise_operands(run, op, a, b);
}

struct jinja_value jinja_negate(struct jinja_run *run, struct jinja_value v, bool minus)
{
    int64_t integer;
    if (v.kind == JINJA_FLOAT)
        return jinja_float(minus ? -v.real : v.real);
    if (!jinja_is_integral(v, &integer))
        jinja_raise(&run->trap, "%s has no sign", jinja_type_name(v));
    if (minus && integer == INT64_MIN)
        raise_overflow(run, JINJA_SUBTRACT);
    return jinja_int(minus ? -integer : integer);
}

bool jinja_compare(struct jinja_run *run, enum jinja_operator op, struct jinja_value a,
                   struct jinja_value b)
{
    double x, y;
    switch (op) {
    case JINJA_EQUAL:
        return jinja_equal(run, a, b);
    case JINJA_NOT_EQUAL:
        return !jinja_equal(run, a, b);
    case JINJA_IN:
        return jinja_contains(run, b, a);
    case JINJA_NOT_IN:
        return !jinja_contains(run, b, a);
    case JINJA_LESS:
        return jinja_less(run, a, b);
    case JINJA_GREATER:
        return jinja_less(run, b, a);
    default:
        break;
    }
    if (jinja_is_number(a, &x) && jinja_is_number(b, &y) && (isnan(x) || isnan(y)))
        return false;
    return op == JINJA_LESS_EQUAL ? !jinja_less(run, b, a) : !jinja_less(run, a, b);
}
