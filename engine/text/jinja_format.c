/* Python's % on strings: '%s has %d' % (a, b), and '%(name)s' % {...}. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/text/jinja_run.h"

/* The flags, width and precision of one conversion. */
struct conversion {
    bool left, zero, plus, blank, alternate;
    int width, precision; /* precision -1: not given */
    char letter;
};

struct formatter {
    struct jinja_run *run;
    struct jinja_builder out;
    const char *data; /* [len] of the format */
    size_t len, pos;
    struct jinja_value values;
    size_t n_used;
    bool by_name;
};

#define MAX_WIDTH 10000

static char peek(const struct formatter *f)
{
    if (f->pos >= f->len)
        jinja_raise(&f->run->trap, "a format ends behind its %%");
    return f->data[f->pos];
}

static int read_number(struct formatter *f)
{
    int number = 0;
    while (peek(f) >= '0' && peek(f) <= '9') {
        number = number * 10 + (f->data[f->pos++] - '0');
        if (number > MAX_WIDTH)
            jinja_raise(&f->run->trap, "a format's width is more than %d, the limit", MAX_WIDTH);
    }
    return number;
}

/* The next value of the tuple, or the only value. */
static struct jinja_value next_value(struct formatter *f)
{
    bool is_tuple = f->values.kind == JINJA_SEQUENCE && f->values.sequence->kind == JINJA_TUPLE;
    size_t n = is_tuple ? f->values.sequence->n : 1;
    if (f->n_used >= n)
        jinja_raise(&f->run->trap, "a format has more conversions than the %zu values given", n);
    struct jinja_value v = is_tuple ? f->values.sequence->items[f->n_used] : f->values;
    f->n_used++;
    return v;
}

/* %(name)s */
static struct jinja_value named_value(struct formatter *f)
{
    size_t start = ++f->pos;
    while (peek(f) != ')')
        f->pos++;
    size_t n = f->pos++ - start;
    if (f->values.kind != JINJA_DICT)
        jinja_raise(&f->run->trap, "a format with names needs a dict");
    struct jinja_value *found = jinja_dict_find_text(f->values.dict, f->data + start, n);
    if (!found)
        jinja_raise(&f->run->trap, "a format's name `%.*s` is not in the dict", (int)n,
                    f->data + start);
    f->by_name = true;
    return *found;
}

static struct conversion read_conversion(struct formatter *f)
{
    struct conversion c = {.precision = -1};
    for (;; f->pos++) {
        char flag = peek(f);
        if (flag == '-')
            c.left = true;
        else if (flag == '0')
            c.zero = true;
        else if (flag == '+')
            c.plus = true;
        else if (flag == ' ')
            c.blank = true;
        else if (flag == '#')
            c.alternate = true;
        else
            break;
    }
    c.width = read_number(f);
    if (peek(f) == '.') {
        f->pos++;
        c.precision = read_number(f);
    }
    c.letter = peek(f);
    f->pos++;
    return c;
}

static void put_padded(struct formatter *f, const struct conversion *c, struct jinja_value text)
{
    size_t n_chars = text.string->n_chars, width = (size_t)c->width;
    size_t pad = width > n_chars ? width - n_chars : 0;
    if (c->left)
        jinja_print(&f->out, text);
    for (size_t i = 0; i < pad; i++)
        jinja_put(&f->out, " ", 1);
    if (!c->left)
        jinja_print(&f->out, text);
}

static void put_text(struct formatter *f, const struct conversion *c, struct jinja_value v)
{
    struct jinja_builder b = jinja_builder_new(f->run);
    if (c->letter == 's')
        jinja_print(&b, v);
    else
        jinja_print_repr(&b, v);
    struct jinja_value text = jinja_built(&b);
    if (c->precision >= 0) {
        struct jinja_value bounds[3] = {jinja_none(), jinja_int(c->precision), jinja_none()};
        text = jinja_slice(f->run, text, bounds);
    }
    put_padded(f, c, text);
}

/* Numbers go through C's printf, which agrees with Python on these letters. */
static void put_number(struct formatter *f, const struct conversion *c, struct jinja_value v)
{
    char spec[32], text[MAX_WIDTH + 400];
    int64_t integer;
    double real;
    bool is_integer = strchr("diu", c->letter) != NULL;
    if (!jinja_is_number(v, &real))
        jinja_raise(&f->run->trap, "the conversion %%%c needs a number, not %s", c->letter,
                    jinja_type_name(v));
    if (is_integer && !jinja_is_integral(v, &integer)) {
        if (!isfinite(real) || fabs(real) >= 0x1p63)
            jinja_raise(&f->run->trap, "the conversion %%%c got a number that is no integer",
                        c->letter);
        integer = (int64_t)real;
    }
    snprintf(spec, sizeof spec, "%%%s%s%s%s%s*.*%s", c->left ? "-" : "", c->zero ? "0" : "",
             c->plus ? "+" : "", c->blank ? " " : "", c->alternate && !is_integer ? "#" : "",
             is_integer ? "lld" : (char[]){c->letter, 0});
    if (is_integer) /* Python pads with zeros even when a precision is given */
        snprintf(text, sizeof text, spec, c->width, c->precision, (long long)integer);
    else
        snprintf(text, sizeof text, spec, c->width, c->precision, real);
    jinja_put_text(&f->out, text);
}

static void put_conversion(struct formatter *f)
{
    bool named = peek(f) == '(';
    struct jinja_value v = named ? named_value(f) : jinja_none();
    struct conversion c = read_conversion(f);
    if (c.letter == '%') {
        jinja_put(&f->out, "%", 1);
        return;
    }
    if (!strchr("srdiufFeEgG", c.letter) || !c.letter)
        jinja_raise(&f->run->trap, "the conversion %%%c is not supported", c.letter);
    if (!named)
        v = next_value(f);
    if (c.letter == 's' || c.letter == 'r')
        put_text(f, &c, v);
    else
        put_number(f, &c, v);
}

struct jinja_value jinja_format(struct jinja_run *run, const struct jinja_string *format,
                                struct jinja_value values)
{
    struct formatter f = {.run = run,
                          .out = jinja_builder_new(run),
                          .data = format->data,
                          .len = format->len,
                          .values = values};
    while (f.pos < f.len) {
        const char *percent = memchr(f.data + f.pos, '%', f.len - f.pos);
        size_t end = percent ? (size_t)(percent - f.data) : f.len;
        jinja_put(&f.out, f.data + f.pos, end - f.pos);
        f.pos = end;
        if (percent) {
            f.pos++;
            put_conversion(&f);
        }
    }
    bool is_tuple = values.kind == JINJA_SEQUENCE && values.sequence->kind == JINJA_TUPLE;
    /* What has subscription may stay unused: Python takes it for a mapping. */
    bool is_list = values.kind == JINJA_SEQUENCE &&
                   (values.sequence->kind == JINJA_LIST || values.sequence->kind == JINJA_RANGE);
    bool may_be_unused =
        values.kind == JINJA_DICT || values.kind == JINJA_UNDEFINED || is_list || f.by_name;
    size_t n = is_tuple ? values.sequence->n : 1;
    if (f.n_used < n && !may_be_unused)
        jinja_raise(&run->trap, "a format uses %zu of %zu values", f.n_used, n);
    return jinja_built(&f.out);
}
