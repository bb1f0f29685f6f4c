/* The short form of a stack: "sink:4,local:64,oracle-topk:5%:share=group; layers 0-1: dense".
 *
 *   stack  = list {";" "layers" layer ["-" layer] {"," layer ["-" layer]} ":" list}
 *   list   = "dense" | item {"," item}
 *   item   = masker [":" main value] {":" parameter "=" value}
 *
 * A backslash before "," ":" ";" or a backslash makes it part of a value: paths may have them. */
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
        if (strchr(",:;\\", *text))
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

static bool parse_item(struct stack *s, int list, char *text, struct error *err)
{
    char *rest = text;
    char *name = trimmed(next_part(&rest, ':'));
    if (!*name)
        return fail(err, "a masker's name is missing before or after a comma");
    const struct masker *m = masker_find(name);
    if (!m)
        return stack_unknown_masker(name, err);
    if (!stack_add_to(s, list, m, err))
        return false;
    uint32_t given = 0;
    struct stack_list to = stack_list_at(s, list);
    for (bool first = true; rest; first = false) {
        char *field = trimmed(next_part(&rest, ':'));
        if (!parse_field(&s->items[to.first + to.n - 1], field, first, &given, err))
            return fail_prefix(err, "%s", m->name);
    }
    return true;
}

static bool parse_list(struct stack *s, int list, char *text, struct error *err)
{
    text = trimmed(text);
    if (strcmp(text, "dense") == 0)
        return true;
    if (!*text)
        return fail(err, "no masker is named; write dense, or maskers as in sink:4,local:64");
    for (char *rest = text; rest;)
        if (!parse_item(s, list, next_part(&rest, ','), err))
            return false;
    return true;
}

/* "layers 0-1: dense" */
static bool parse_group(struct stack *s, char *text, struct error *err)
{
    static const char word[] = "layers";
    const size_t n = sizeof word - 1;
    text = trimmed(text);
    char *rest = text;
    char *head = next_part(&rest, ':');
    if (strncmp(head, word, n) != 0 || (head[n] && !isspace((unsigned char)head[n])) || !rest)
        return fail(err,
                    "after a semicolon comes a group of layers, as in layers 0-1: dense, got "
                    "\"%.40s\"",
                    head);
    struct layer_set layers;
    char *names = trimmed(head + n);
    bool ok = layer_set_parse(&layers, names, err) && stack_add_group(s, &layers, err) &&
              parse_list(s, s->n_groups, rest, err);
    return ok || stack_fail_in_layers(names, err);
}

static bool parse_short(struct stack *out, char *text, struct error *err)
{
    struct stack s = {0};
    char *rest = text;
    if (!parse_list(&s, 0, next_part(&rest, ';'), err))
        return false;
    while (rest)
        if (!parse_group(&s, next_part(&rest, ';'), err))
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

static void write_item(const struct stack_item *item, struct buf *out)
{
    buf_append_str(out, item->masker->name);
    for (int i = 0; i < item->masker->n_params; i++) {
        const struct masker_param *p = &item->masker->params[i];
        if (i > 0 && masker_value_is_default(item->masker, &item->values, i))
            continue;
        buf_append_char(out, ':');
        if (i > 0)
            buf_printf(out, "%s=", p->name);
        struct buf value = {0};
        masker_value_write(item->masker, &item->values, i, &value);
        append_escaped(out, value.data ? value.data : "");
        buf_free(&value);
    }
}

void stack_write_short(const struct stack *s, struct buf *out)
{
    for (int i = 0; i <= s->n_groups; i++) {
        struct stack_list list = stack_list_at(s, i);
        bool any = false;
        if (i > 0) {
            buf_append_str(out, "; layers ");
            layer_set_write(&s->groups[i - 1].layers, out);
            buf_append_str(out, ": ");
        }
        for (int j = list.first; j < list.first + list.n; j++) {
            if (s->items[j].off)
                continue;
            if (any)
                buf_append_char(out, ',');
            any = true;
            write_item(&s->items[j], out);
        }
        if (!any)
            buf_append_str(out, "dense");
    }
}
