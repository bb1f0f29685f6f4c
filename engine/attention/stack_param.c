/* Values of maskers' parameters: how they are written, read, checked and stepped.
 *
 * The idea to hold: a number without a point is a count and one with a point, a percent sign or a
 * slash is a fraction, and that difference survives every form a stack is written in. */
#include "engine/attention/stack.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/attention/nearest.h"

enum { NUMBER_MAX = 64 }; /* bytes of a number that a person types */

/* --- Writing ------------------------------------------------------------------------------ */

/* Appends 0.d1d2d3... * 10^point without an exponent. */
static void append_plain(struct buf *out, const char *digits, int point)
{
    int n = (int)strlen(digits);
    if (point <= 0)
        buf_append_char(out, '0');
    for (int i = 0; i < point; i++)
        buf_append_char(out, i < n ? digits[i] : '0');
    if (n <= point)
        return;
    buf_append_char(out, '.');
    for (int i = point; i < 0; i++)
        buf_append_char(out, '0');
    buf_append_str(out, digits + (point > 0 ? point : 0));
}

/* Appends value * 10^shift in the fewest digits that read back as value. */
static void append_shortest(struct buf *out, double value, int shift)
{
    char text[NUMBER_MAX];
    for (int precision = 0; precision < 17; precision++) {
        snprintf(text, sizeof text, "%.*e", precision, fabs(value));
        if (strtod(text, NULL) == fabs(value))
            break;
    }
    char digits[NUMBER_MAX];
    int n = 0;
    const char *c = text;
    for (; *c && *c != 'e'; c++)
        if (isdigit((unsigned char)*c))
            digits[n++] = *c;
    digits[n] = '\0';
    int exponent = *c == 'e' ? atoi(c + 1) : 0;
    if (value < 0)
        buf_append_char(out, '-');
    append_plain(out, value == 0 ? "0" : digits, value == 0 ? 1 : exponent + 1 + shift);
}

void param_write(const struct masker_param *p, struct budget value, struct buf *out)
{
    if (p->kind == PARAM_PATH)
        return;
    if (p->kind == PARAM_CHOICE) {
        buf_append_str(out, p->choices[(int)value.value]);
    } else if (p->kind == PARAM_BUDGET && value.is_fraction) {
        append_shortest(out, value.value, 2);
        buf_append_char(out, '%');
    } else {
        append_shortest(out, value.value, 0);
    }
}

/* --- Reading ------------------------------------------------------------------------------ */

/* A number as people type it; fraction: it had a point, a slash, a percent sign or an exponent. */
struct typed_number {
    double value;
    bool fraction, percent;
};

/* Digits with at most one point, and an exponent where asked for; no sign, hex, inf or nan. */
static bool plain_number(const char *text, bool with_exponent)
{
    int n_digits = 0, n_points = 0;
    const char *c = text;
    for (; isdigit((unsigned char)*c) || *c == '.'; c++)
        *c == '.' ? n_points++ : n_digits++;
    if (!n_digits || n_points > 1)
        return false;
    if (with_exponent && (*c == 'e' || *c == 'E')) {
        c++;
        c += *c == '-' || *c == '+';
        if (!isdigit((unsigned char)*c))
            return false;
        while (isdigit((unsigned char)*c))
            c++;
    }
    return *c == '\0';
}

static bool read_ratio(char *text, char *slash, struct typed_number *out)
{
    *slash = '\0';
    if (!plain_number(text, false) || !plain_number(slash + 1, false))
        return false;
    double below = strtod(slash + 1, NULL);
    if (below == 0)
        return false;
    *out = (struct typed_number){.value = strtod(text, NULL) / below, .fraction = true};
    return true;
}

/* "4k" is 4096, as context lengths are spoken of. */
static bool read_suffixed(char *text, size_t n, struct typed_number *out)
{
    char last = n ? (char)tolower((unsigned char)text[n - 1]) : '\0';
    if (last == 'k' || last == 'm') {
        text[n - 1] = '\0';
        if (!plain_number(text, false))
            return false;
        out->value = strtod(text, NULL) * (last == 'k' ? 1024 : 1024 * 1024);
        return true;
    }
    if (last == '%') {
        text[n - 1] = '\0';
        if (!plain_number(text, false))
            return false;
        memcpy(text + n - 1, "e-2", sizeof "e-2"); /* exact, where a division by 100 is not */
        *out = (struct typed_number){strtod(text, NULL), true, true};
        return true;
    }
    return false;
}

static bool read_number(const char *given, struct typed_number *out)
{
    char text[NUMBER_MAX + sizeof "e-2"];
    size_t n = strlen(given);
    if (n >= NUMBER_MAX)
        return false;
    memcpy(text, given, n + 1);
    bool negative = text[0] == '-';
    char *start = text + (negative || text[0] == '+');
    n -= (size_t)(start - text);
    char *slash = strchr(start, '/');
    *out = (struct typed_number){0};
    bool ok = true;
    if (slash) {
        ok = read_ratio(start, slash, out);
    } else if (plain_number(start, true)) {
        out->value = strtod(start, NULL);
        out->fraction = strpbrk(start, ".eE") != NULL;
    } else {
        ok = read_suffixed(start, n, out);
    }
    if (negative)
        out->value = -out->value;
    return ok;
}

static bool parse_choice(const struct masker_param *p, const char *text, struct budget *out,
                         struct error *err)
{
    struct nearest nearest = {.given = text};
    struct buf words = {0};
    for (int i = 0; p->choices[i]; i++) {
        if (strcmp(p->choices[i], text) == 0) {
            *out = (struct budget){.value = i};
            buf_free(&words);
            return true;
        }
        nearest_offer(&nearest, p->choices[i]);
        buf_printf(&words, "%s%s", i ? ", " : "", p->choices[i]);
    }
    fail(err, "%s must be one of %s, got \"%.40s\"", p->name, words.data, text);
    buf_free(&words);
    return false;
}

bool param_parse(const struct masker_param *p, const char *text, struct budget *out,
                 struct error *err)
{
    if (p->kind == PARAM_CHOICE)
        return parse_choice(p, text, out, err);
    struct typed_number number;
    bool ok = read_number(text, &number);
    if (p->kind == PARAM_BUDGET) {
        if (!ok)
            return fail(err,
                        "%s: \"%.40s\" is not a size; write a count of keys (128, 4k) or a "
                        "fraction of them (5%%, 0.05, 1/32)",
                        p->name, text);
        struct budget value = {.is_fraction = number.fraction, .value = number.value};
        if (!param_check(p, value, err))
            return false;
        *out = value;
        return true;
    }
    if (!ok || (number.percent && p->max > 1) || (number.fraction && p->kind == PARAM_COUNT))
        return fail(err, "%s: \"%.40s\" is not a %snumber", p->name, text,
                    p->kind == PARAM_COUNT ? "whole " : "");
    struct budget value = {.value = number.value};
    if (!param_check(p, value, err))
        return false;
    *out = value;
    return true;
}

/* --- Checking ----------------------------------------------------------------------------- */

static bool check_budget(const struct masker_param *p, struct budget value, struct error *err)
{
    double v = value.value;
    bool positive = p->min > 0;
    if (!isfinite(v) || v < 0 || (positive && v == 0))
        return fail(err,
                    "%s must be %s 0, got %g; write a count of keys (128, 4k) or a fraction of "
                    "them (5%%, 0.05, 1/32)",
                    p->name, positive ? ">" : ">=", v);
    if (value.is_fraction && (v < p->min_fraction || v > p->max_fraction))
        return fail(err, "%s as a fraction must be in range [%g, %g], got %g", p->name,
                    p->min_fraction, p->max_fraction, v);
    if (!value.is_fraction && (v < p->min || v > p->max || v != floor(v)))
        return fail(err, "%s as a count must be a whole number in range [%.0f, %.0f], got %.15g",
                    p->name, p->min, p->max, v);
    return true;
}

bool param_check(const struct masker_param *p, struct budget value, struct error *err)
{
    double v = value.value;
    if (p->kind == PARAM_BUDGET)
        return check_budget(p, value, err);
    if (p->kind == PARAM_CHOICE) {
        int n = 0;
        while (p->choices[n])
            n++;
        if (v >= 0 && v < n && v == floor(v))
            return true;
        return fail(err, "%s: there is no choice %g", p->name, v);
    }
    if (p->kind == PARAM_PATH)
        return true;
    if (p->kind == PARAM_COUNT && v != floor(v))
        return fail(err, "%s must be a whole number, got %.15g", p->name, v);
    if (!isfinite(v) || v > p->max || v < p->min || (p->min_exclusive && v == p->min) ||
        (p->max_exclusive && v == p->max))
        return fail(err, "%s must be in range %c%g, %g%c, got %.15g", p->name,
                    p->min_exclusive ? '(' : '[', p->min, p->max, p->max_exclusive ? ')' : ']', v);
    return true;
}

/* --- Stepping ----------------------------------------------------------------------------- */

static double clamp(double v, double low, double high)
{
    return v < low ? low : v > high ? high : v;
}

/* The next multiple of step above or below v. */
static double next_multiple(double v, double step, int direction)
{
    double steps = v / step;
    double near = round(steps);
    if (fabs(steps - near) < 1e-6) /* v is a multiple but for rounding */
        return (near + direction) * step;
    return (direction > 0 ? ceil(steps) : floor(steps)) * step;
}

static double stepped(double v, double step, int direction)
{
    if (direction == 2)
        return v * 2;
    if (direction == -2)
        return v / 2;
    return next_multiple(v, step, direction);
}

/* One step is 1 % of the keys, or 0.1 % where little is kept. */
static double step_fraction(double v, int direction)
{
    bool fine = direction > 0 ? v < 0.01 - 1e-9 : v < 0.01 + 1e-9;
    return stepped(v, fine ? 0.001 : 0.01, direction);
}

/* Decimals of a stepped fraction or real: keeps 0.3 from becoming 0.30000000000000004. */
static double rounded(double v)
{
    return round(v * 1e6) / 1e6;
}

struct budget param_step(const struct masker_param *p, struct budget value, int direction)
{
    struct budget out = value;
    if (p->kind == PARAM_PATH)
        return out;
    if (p->kind == PARAM_CHOICE) {
        int n = 0;
        while (p->choices[n])
            n++;
        out.value = ((int)value.value + (direction > 0 ? 1 : n - 1)) % n;
    } else if (p->kind == PARAM_BUDGET && value.is_fraction) {
        double low = p->min_fraction > 0.001 || p->min == 0 ? p->min_fraction : 0.001;
        double high = p->max_fraction < 1 ? p->max_fraction : 1;
        out.value = clamp(rounded(step_fraction(value.value, direction)), low, high);
    } else if (p->kind == PARAM_BUDGET) {
        out.value = clamp(floor(stepped(value.value, p->step, direction)), p->min, p->max);
    } else if (p->kind == PARAM_COUNT) {
        out.value = clamp(floor(stepped(value.value, p->step, direction)), p->min, p->max);
    } else {
        double low = p->min_exclusive ? p->min + p->step / 10 : p->min;
        double high = p->max_exclusive ? p->max - p->step / 10 : p->max;
        out.value = clamp(rounded(stepped(value.value, p->step, direction)), low, high);
    }
    return out;
}
