/* The filters int, float, round and abs: Python's conversions. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/jinja_filters.h"
#include "engine/text/jinja_text.h"

/* Copies s without the white space around it and without single underscores between digits, as
 * Python's number parsing reads it; false if it is empty, too long or not ASCII. */
static bool plain_number(struct jinja_run *run, const struct jinja_string *s, char *out,
                         size_t size)
{
    const struct jinja_string *trimmed = jinja_strip(run, s, NULL, JINJA_BOTH).string;
    size_t n = 0;
    if (!trimmed->len || trimmed->len >= size)
        return false;
    for (size_t i = 0; i < trimmed->len; i++) {
        char c = trimmed->data[i];
        if (c <= ' ' || c > '~')
            return false;
        if (c == '_') {
            bool between = i > 0 && i + 1 < trimmed->len && trimmed->data[i - 1] != '_' &&
                           strchr("+-.", trimmed->data[i - 1]) == NULL &&
                           strchr("+-._", trimmed->data[i + 1]) == NULL;
            if (!between)
                return false;
            continue;
        }
        out[n++] = c;
    }
    out[n] = 0;
    return true;
}

static int digit_of(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'z' ? c - 'a' + 10 : 99;
}

/* int(text, base): false if it is not one. */
static bool parse_int(struct jinja_run *run, const struct jinja_string *s, int64_t base,
                      int64_t *out)
{
    char plain[1024];
    if (base != 0 && (base < 2 || base > 36))
        return false;
    if (!plain_number(run, s, plain, sizeof plain))
        return false;
    const char *p = plain;
    bool minus = *p == '-';
    if (*p == '-' || *p == '+')
        p++;
    char letter = (char)(*p == '0' ? p[1] | 0x20 : 0);
    int64_t named = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
    if (named && (base == named || base == 0)) {
        p += 2;
        base = named;
    } else if (base == 0) {
        if (*p == '0' && strspn(p, "0") != strlen(p))
            return false;
        base = 10;
    }
    if (!*p)
        return false;
    int64_t value = 0;
    bool overflow = false;
    for (; *p; p++) {
        if (digit_of(*p) >= base)
            return false;
        int64_t digit = minus ? -digit_of(*p) : digit_of(*p);
        overflow |= __builtin_mul_overflow(value, base, &value) ||
                    __builtin_add_overflow(value, digit, &value);
    }
    if (overflow)
        jinja_raise(&run->trap, "the integer %.40s does not fit 64 bits", plain);
    *out = value;
    return true;
}

/* float(text): false if it is not one. */
static bool parse_float(struct jinja_run *run, const struct jinja_string *s, double *out)
{
    char plain[1024], *end;
    if (!plain_number(run, s, plain, sizeof plain))
        return false;
    const char *digits = plain + strspn(plain, "+-");
    /* strtod also reads hexadecimal and nan(...), which Python does not. */
    if (strpbrk(digits, "xX(") || digits - plain > 1)
        return false;
    *out = strtod(plain, &end);
    return !*end && end != plain;
}

static bool int_of_float(struct jinja_run *run, double real, int64_t *out)
{
    if (isnan(real) || isinf(real))
        return false;
    real = trunc(real);
    if (real < -0x1p63 || real >= 0x1p63)
        jinja_raise(&run->trap, "the integer %.0f does not fit 64 bits", real);
    *out = (int64_t)real;
    return true;
}

struct jinja_value jinja_filter_int(struct jinja_run *run, struct jinja_value input,
                                    const struct jinja_value *values)
{
    struct jinja_value fallback = values[0].kind == JINJA_ABSENT ? jinja_int(0) : values[0];
    int64_t integer, base = jinja_option_int(run, values[1], 10, "int's base");
    double real;
    if (jinja_is_integral(input, &integer))
        return jinja_int(integer);
    if (input.kind == JINJA_FLOAT) {
        if (isinf(input.real)) /* Python's int() raises what the filter does not catch */
            jinja_raise(&run->trap, "infinity is not an integer");
        return int_of_float(run, input.real, &integer) ? jinja_int(integer) : fallback;
    }
    if (input.kind == JINJA_UNDEFINED)
        jinja_raise(&run->trap, "%s is undefined, so it is not a number",
                    input.missing ? input.missing : "a value");
    if (input.kind != JINJA_STRING)
        return fallback;
    if (parse_int(run, input.string, base, &integer))
        return jinja_int(integer);
    if (parse_float(run, input.string, &real) && int_of_float(run, real, &integer))
        return jinja_int(integer);
    return fallback;
}

struct jinja_value jinja_filter_float(struct jinja_run *run, struct jinja_value input,
                                      const struct jinja_value *values)
{
    double real;
    if (input.kind == JINJA_UNDEFINED)
        jinja_raise(&run->trap, "%s is undefined, so it is not a number",
                    input.missing ? input.missing : "a value");
    if (jinja_is_number(input, &real) ||
        (input.kind == JINJA_STRING && parse_float(run, input.string, &real)))
        return jinja_float(real);
    return values[0].kind == JINJA_ABSENT ? jinja_float(0) : values[0];
}

/* Half to even on the exact binary value: what %.*f does. */
static double round_common(double v, int64_t precision)
{
    char text[512];
    if (!isfinite(v) || precision > 60)
        return v;
    if (precision < -308)
        return copysign(0, v);
    if (precision >= 0) {
        snprintf(text, sizeof text, "%.*f", (int)precision, v);
        return strtod(text, NULL);
    }
    double scale = pow(10, (double)-precision);
    return rint(v / scale) * scale;
}

/* round(int, -n), half to even. */
static int64_t round_int(struct jinja_run *run, int64_t v, int64_t precision)
{
    int64_t scale = 1;
    for (; precision < 0; precision++)
        if (__builtin_mul_overflow(scale, 10, &scale))
            return 0;
    int64_t rest = v % scale, half = scale / 2, down = v - rest;
    if (rest < 0) {
        rest += scale;
        down -= scale;
    }
    bool up = rest > half || (rest == half && scale > 1 && (down / scale) % 2 != 0);
    if (up && __builtin_add_overflow(down, scale, &down))
        jinja_raise(&run->trap, "the rounded integer does not fit 64 bits");
    return down;
}

struct jinja_value jinja_filter_round(struct jinja_run *run, struct jinja_value input,
                                      const struct jinja_value *values)
{
    int64_t precision = jinja_option_int(run, values[0], 0, "round's precision"), integer;
    double real;
    bool common = values[1].kind == JINJA_ABSENT || jinja_is_text(values[1], "common");
    bool up = jinja_is_text(values[1], "ceil");
    if (!common && !up && !jinja_is_text(values[1], "floor"))
        jinja_raise(&run->trap, "round's method is common, ceil or floor");
    if (common && jinja_is_integral(input, &integer))
        return jinja_int(precision >= 0 ? integer : round_int(run, integer, precision));
    if (!jinja_is_number(input, &real))
        jinja_raise(&run->trap, "round needs a number, not %s", jinja_type_name(input));
    if (common)
        return jinja_float(round_common(real, precision));
    double scale = pow(10, (double)precision), scaled = real * scale;
    if (!isfinite(scaled) || scale == 0)
        jinja_raise(&run->trap, "a number of this size cannot be rounded");
    return jinja_float(((up ? ceil(scaled) : floor(scaled)) + 0.0) / scale); /* no -0.0 */
}

struct jinja_value jinja_filter_abs(struct jinja_run *run, struct jinja_value input,
                                    const struct jinja_value *values)
{
    int64_t integer;
    (void)values;
    if (input.kind == JINJA_FLOAT)
        return jinja_float(fabs(input.real));
    if (!jinja_is_integral(input, &integer))
        jinja_raise(&run->trap, "abs needs a number, not %s", jinja_type_name(input));
    return jinja_negate(run, jinja_int(integer), integer < 0);
}
