/* `attnscope stacks`: the presets and the maskers they are made of. */
#include <stdlib.h>
#include <string.h>

#include "engine/attention/stack.h"
#include "engine/base/json.h"
#include "engine/text/screen_text.h"
#include "presets/preset.h"
#include "tui/cli/commands.h"
#include "tui/cli/describe.h"

struct args {
    const char *spec; /* one stack to show; NULL: all that there are */
    bool as_json, describe, markdown;
};

static bool handle(void *user, const char *name, const char *value, struct error *err)
{
    struct args *a = user;
    (void)err;
    if (!name)
        a->spec = value;
    else if (strcmp(name, "json") == 0)
        a->as_json = true;
    else if (strcmp(name, "describe") == 0)
        a->describe = true;
    else
        a->markdown = true;
    return true;
}

static bool check(const struct args *a, struct error *err)
{
    if (a->markdown && !a->describe)
        return fail_code(err, EXIT_CODE_USAGE, "--markdown goes with --describe; add it");
    if (a->describe && a->as_json)
        return fail_code(err, EXIT_CODE_USAGE,
                         "--describe and --json exclude each other; --json holds the same");
    if (a->describe && a->spec)
        return fail_code(err, EXIT_CODE_USAGE, "--describe is of all maskers; leave out \"%.60s\"",
                         a->spec);
    return true;
}

static void write_budget(const struct masker_param *p, struct budget value, struct json *o,
                         const char *key)
{
    struct buf text = {0};
    param_write(p, value, &text);
    json_set_string(o, key, text.data ? text.data : "");
    buf_free(&text);
}

static struct json *masker_to_json(const struct masker *m)
{
    struct json *o = json_new_object(), *params = json_new_array();
    json_set_string(o, "masker", m->name);
    json_set_string(o, "title", m->title);
    json_set_string(o, "summary", m->summary);
    json_set_string(o, "cost", m->cost);
    json_set_string(o, "source", m->source);
    json_set_bool(o, "reads_all_keys", m->reads_all_keys);
    for (int i = 0; i < m->n_params; i++) {
        struct json *p = json_new_object();
        json_set_string(p, "name", m->params[i].name);
        json_set_string(p, "help", m->params[i].help);
        if (m->params[i].unit)
            json_set_string(p, "unit", m->params[i].unit);
        write_budget(&m->params[i], m->params[i].fallback, p, "default");
        json_add(params, p);
    }
    json_set(o, "params", params);
    return o;
}

static struct json *all_to_json(const struct preset_list *list)
{
    struct json *o = json_new_object(), *stacks = json_new_array(), *all = json_new_array();
    for (size_t i = 0; i < list->n; i++) {
        struct stack stack;
        struct json *entry;
        if (!preset_stack(&stack, list->entries[i].name, NULL))
            continue;
        entry = stack_to_json(&stack);
        json_set_string(entry, "title", list->entries[i].title);
        json_set_string(entry, "source", list->entries[i].source);
        json_add(stacks, entry);
    }
    for (const struct masker *const *m = maskers; *m; m++)
        json_add(all, masker_to_json(*m));
    json_set(o, "stacks", stacks);
    json_set(o, "maskers", all);
    return o;
}

static void write_text(const struct preset_list *list, struct buf *out)
{
    int width = 15; /* of the names */
    for (size_t i = 0; i < list->n; i++)
        if ((int)strlen(list->entries[i].name) > width)
            width = (int)strlen(list->entries[i].name);
    buf_append_str(out, "Presets (--stack NAME):\n");
    for (size_t i = 0; i < list->n; i++) {
        struct stack stack;
        struct buf form = {0};
        if (!preset_stack(&stack, list->entries[i].name, NULL))
            continue;
        stack_write_short(&stack, &form);
        char *title = screen_text_name(list->entries[i].title, 0);
        buf_printf(out, "  %-*s %s\n  %*s %s\n", width, list->entries[i].name, form.data, width, "",
                   title);
        free(title);
        buf_free(&form);
    }
    buf_append_str(out, "\nMaskers (--stack NAME:VALUE:PARAM=VALUE,...; layers 0-1,5: ...):\n");
    for (const struct masker *const *m = maskers; *m; m++) {
        buf_printf(out, "  %-15s %s  [%s]\n", (*m)->name, (*m)->summary, (*m)->cost);
        for (int i = 0; i < (*m)->n_params; i++) {
            const struct masker_param *p = &(*m)->params[i];
            struct buf value = {0};
            param_write(p, p->fallback, &value);
            buf_printf(out, "  %15s %s (default %s): %s\n", "", p->name,
                       value.data ? value.data : "none", p->help);
            buf_free(&value);
        }
    }
}

/* One stack in its notations: the short form, ours and the reference project's. */
static bool show_one(const struct args *a, struct buf *out, struct error *err)
{
    struct stack stack;
    struct buf form = {0}, warnings = {0};
    struct error no_reference = {0};
    if (!preset_stack(&stack, a->spec, err))
        return false;
    stack_write_short(&stack, &form);
    stack_warn(&stack, 0, &warnings);
    struct json *o = json_new_object();
    json_set_string(o, "short", form.data);
    json_set(o, "stack", stack_items_to_json(&stack));
    if (stack_has_reference_form(&stack, &no_reference))
        json_set(o, "reference", stack_to_reference_json(&stack));
    else
        json_set_string(o, "reference_refused", no_reference.text);
    if (a->as_json) {
        json_write(out, o, true);
    } else {
        buf_printf(out, "%s\n%s", form.data, warnings.len ? warnings.data : "");
        json_write(out, json_get(o, "stack"), false);
        buf_append_char(out, '\n');
        if (no_reference.text[0])
            buf_append_str(out, no_reference.text);
        else
            json_write(out, json_get(o, "reference"), false);
    }
    buf_append_char(out, '\n');
    json_free(o);
    buf_free(&form);
    buf_free(&warnings);
    return true;
}

static void show_all(const struct args *a, struct buf *out)
{
    struct preset_list list = preset_list_stacks();
    if (a->as_json) {
        struct json *o = all_to_json(&list);
        json_write(out, o, true);
        buf_append_char(out, '\n');
        json_free(o);
    } else {
        write_text(&list, out);
    }
    preset_list_free(&list);
}

static int run(int argc, char **argv)
{
    struct args a = {0};
    int code;
    if (!cli_parse(&command_stacks, argc, argv, handle, &a, &code))
        return code;
    struct error err = {0};
    struct buf out = {0};
    bool ok = check(&a, &err);
    if (!ok)
        return cli_fail(&err);
    if (a.markdown)
        describe_maskers_markdown(&out);
    else if (a.describe)
        describe_maskers_text(&out);
    else if (a.spec)
        ok = show_one(&a, &out, &err);
    else
        show_all(&a, &out);
    ok = ok && cli_write(out.data, out.len, &err);
    buf_free(&out);
    return ok ? EXIT_CODE_OK : cli_fail(&err);
}

const struct cli_command command_stacks = {
    .name = "stacks",
    .usage = "[S] [--json | --describe [--markdown]]",
    .summary = "list stacks and maskers, or show one stack in all notations",
    .options = (const struct cli_option[]){{"json", NULL, "one JSON object"},
                                           {"describe", NULL, "every masker and its parameters"},
                                           {"markdown", NULL, "describe as docs/maskers.md does"},
                                           {NULL, NULL, NULL}},
    .max_positional = 1,
    .run = run,
};
