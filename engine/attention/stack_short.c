/* The short form of a stack: "sink:4,local:64,oracle-topk:5%:share=group".
 *
 *   stack  = "dense" | item {"," item}
 *   item   = masker [":" main value] {":" parameter "=" value}
 *
 * A backslash before "," ":" or a backslash makes it part of a value: paths may have them. */
#include "engine/attention/stack.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "engine/attention/stack_names.h"
#include "engine/base/memory.h"

enum { MAX_TEXT = 1 << 16 };

/* Trims blanks in place. */
static char *trimmed(char *s)
{
    while (isspace((unsigned char)*s))
        s++;
    size_t n = strlen(s);
    while (n && isspace((unsigned char)s[n - 1]))
        s[--n] = '\0';
    return s;
}

/* As strsep with one separator, less those after a backslash. */
static char *next_part(char **rest, char separator)
{
    char *start = *rest, *c = start;
    while (*c && *c != separator)
        c += *c == '\\' && c[1] ? 2 : 1;
    *rest = *c ? c + 1 : NULL;
    *c = '\0';
    return start;
}

/* Takes the backslashes away, in place. */
static char *unescaped(char *s)
{
    char *to = s;
    for (const char *from = s; *from; from++) {
        if (*from == '\\' && from[1])
            from++;
        *to++ = *from;
    }
    *to = '\0';
    return s;
}

static void append_escaped(struct buf *out, const char *text)
{
    for (; *text; text++) {
        if (strchr(",:\\", *text))
            buf_append_char(out, '\\');
        buf_append_char(out, *text);
    }
}

/* One ":"-separated field after the masker's name: "5%" or "share=group". */
static bool parse_field(struct stack_item *item, char *field, bool first, uint32_t *given,
                        struct error *err)
{
    const struct masker *m = item->masker;
    char *equals = strchr(field, '=');
    int i = 0;
    char *value = field;
    if (equals) {
        *equals = '\0';
        const char *name = trimmed(field);
        i = masker_param_index(m, name);
        if (i < 0)
            return stack_unknown_param(m, name, err);
        value = trimmed(equals + 1);
    } else if (!m->n_params) {
        return fail(err, "it takes no value, got \"%.40s\"", field);
    } else if (!first) {
        return fail(err,
                    "\"%.40s\" has no name; only the first value, %s, goes without: write "
                    "parameter=value",
                    field, m->params[0].name);
    }
    if (*given & 1u << i)
        return fail(err, "%s is given twice", m->params[i].name);
    *given |= 1u << i;
    return masker_value_parse(m, &item->values, i, unescaped(value), err);
}

static bool parse_item(struct stack *s, char *text, struct error *err)
{
    char *rest = text;
    char *name = trimmed(next_part(&rest, ':'));
    if (!*name)
        return fail(err, "a masker's name is missing before or after a comma");
    const struct masker *m = masker_find(name);
    if (!m)
        return stack_unknown_masker(name, err);
    if (!stack_add(s, m, err))
        return false;
    uint32_t given = 0;
    for (bool first = true; rest; first = false) {
        char *field = trimmed(next_part(&rest, ':'));
        if (!parse_field(&s->items[s->n - 1], field, first, &given, err))
            return fail_prefix(err, "%s", m->name);
    }
    return true;
}

static bool parse_short(struct stack *out, char *text, struct error *err)
{
    struct stack s = {0};
    if (strcmp(text, "dense") != 0)
        for (char *rest = text; rest;)
            if (!parse_item(&s, next_part(&rest, ','), err))
                return false;
    if (!stack_check(&s, err))
        return false;
    *out = s;
    return true;
}

bool stack_parse(struct stack *out, const char *text, struct error *err)
{
    size_t n = strlen(text);
    if (n > MAX_TEXT)
        return fail_code(err, EXIT_CODE_USAGE, "a stack of %zu bytes is too long", n);
    char *copy = xstrndup(text, n);
    char *start = trimmed(copy);
    bool ok;
    if (!*start) {
        ok = fail(err, "the stack is empty; write dense, or maskers as in sink:4,local:64");
    } else if (*start == '{' || *start == '[') {
        struct json *v = json_parse(start, strlen(start), "stack", err);
        ok = v && stack_from_json(out, v, "stack", err);
        json_free(v);
    } else {
        ok = parse_short(out, start, err);
    }
    if (!ok && err)
        err->code = EXIT_CODE_USAGE;
    free(copy);
    return ok;
}

void stack_write_short(const struct stack *s, struct buf *out)
{
    bool any = false;
    for (int i = 0; i < s->n; i++) {
        const struct stack_item *item = &s->items[i];
        if (item->off)
            continue;
        buf_printf(out, "%s%s", any ? "," : "", item->masker->name);
        any = true;
        for (int j = 0; j < item->masker->n_params; j++) {
            const struct masker_param *p = &item->masker->params[j];
            if (j > 0 && masker_value_is_default(item->masker, &item->values, j))
                continue;
            buf_append_char(out, ':');
            if (j > 0)
                buf_printf(out, "%s=", p->name);
            struct buf value = {0};
            masker_value_write(item->masker, &item->values, j, &value);
            append_escaped(out, value.data ? value.data : "");
            buf_free(&value);
        }
    }
    if (!any)
        buf_append_str(out, "dense");
}
