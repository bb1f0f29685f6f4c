/* Stacks in JSON, in our form and in the reference project's.
 *
 * In both an integer is a count of keys and a number with a point a fraction, so that 1.0 is
 * written "1.0".  What the reference has no word for (share, mass) goes under "attnscope" beside
 * its "params", where its readers do not look. */
#include "engine/attention/stack.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "engine/attention/nearest.h"
#include "engine/attention/stack_names.h"

/* --- Reading ------------------------------------------------------------------------------ */

static bool value_from_json(struct stack_item *item, int i, const struct json *v, struct error *err)
{
    const struct masker_param *p = &item->masker->params[i];
    if (json_string(v))
        return masker_value_parse(item->masker, &item->values, i, json_string(v), err);
    if (p->kind == PARAM_PATH && json_is_null(v))
        return true;
    if (p->kind == PARAM_PATH || p->kind == PARAM_CHOICE || !json_is_number(v))
        return fail(err, "%s must be %s", p->name,
                    p->kind == PARAM_PATH     ? "a path in quotes"
                    : p->kind == PARAM_CHOICE ? "a word in quotes"
                                              : "a number");
    struct budget value = {.value = json_number(v, 0)};
    value.is_fraction = p->kind == PARAM_BUDGET && !json_written_as_int(v);
    if (!param_check(p, value, err))
        return false;
    item->values.param[i] = value;
    return true;
}

static struct stack_item *add_item(struct stack *s, int list, const struct masker *m,
                                   struct error *err)
{
    if (!stack_add_to(s, list, m, err))
        return NULL;
    struct stack_list to = stack_list_at(s, list);
    return &s->items[to.first + to.n - 1];
}

static int reference_param_index(const struct masker *m, const char *name)
{
    for (int i = 0; i < m->n_params; i++)
        if (m->params[i].reference_name && strcmp(m->params[i].reference_name, name) == 0)
            return i;
    return -1;
}

/* One {"masker":"sink","sink_size":4,"off":true}. */
static bool item_from_json(struct stack *s, int list, const struct json *v, struct error *err)
{
    const char *name = json_string(json_get(v, "masker"));
    if (!name)
        return fail(err, "\"masker\" with a masker's name is missing");
    const struct masker *m = masker_find(name);
    if (!m)
        return stack_unknown_masker(name, err);
    struct stack_item *item = add_item(s, list, m, err);
    if (!item)
        return false;
    for (const struct json *c = json_first(v); c; c = json_next(c)) {
        const char *key = json_key(c);
        if (strcmp(key, "masker") == 0)
            continue;
        if (strcmp(key, "off") == 0) {
            if (!json_is_bool(c))
                return fail(err, "%s: \"off\" must be true or false", m->name);
            item->off = json_bool(c, false);
            continue;
        }
        int i = masker_param_index(m, key);
        if (i < 0 ? !stack_unknown_param(m, key, err) : !value_from_json(item, i, c, err))
            return fail_prefix(err, "%s", m->name);
    }
    return true;
}

static bool unknown_type(const char *type, struct error *err)
{
    struct nearest nearest = {.given = type};
    for (const struct masker *const *m = maskers; *m; m++)
        if ((*m)->reference_type)
            nearest_offer(&nearest, (*m)->reference_type);
    if (nearest.best)
        return fail(err, "there is no masker of type \"%.60s\" here; did you mean %s?", type,
                    nearest.best);
    return fail(err, "there is no masker of type \"%.60s\" here", type);
}

static bool is_ignored(const struct masker *m, const char *key)
{
    for (const char *const *name = m->reference_ignored; name && *name; name++)
        if (strcmp(*name, key) == 0)
            return true;
    return false;
}

/* True if v stands for one of the choices. */
static bool bool_from_reference(struct stack_item *item, int i, const struct json *v)
{
    const int *choices = item->masker->params[i].reference_bool;
    if (!choices || !json_is_bool(v))
        return false;
    item->values.param[i] = (struct budget){.value = choices[json_bool(v, false)]};
    return true;
}

static bool params_from_reference(struct stack_item *item, const struct json *params, bool ours,
                                  struct error *err)
{
    const struct masker *m = item->masker;
    for (const struct json *c = json_first(params); c; c = json_next(c)) {
        const char *key = json_key(c);
        /* The reference's dataclasses carry their search grids along. */
        if (!ours && (strcmp(key, "type") == 0 || strcmp(key, "search_space") == 0))
            continue;
        if (!ours && is_ignored(m, key))
            continue;
        int i = ours ? masker_param_index(m, key) : reference_param_index(m, key);
        if (!ours && i >= 0 && bool_from_reference(item, i, c))
            continue;
        if (i < 0 ? !stack_unknown_param(m, key, err) : !value_from_json(item, i, c, err))
            return fail_prefix(err, "%s", m->name);
    }
    return true;
}

/* One {"type":"SinkMaskerConfig","params":{"sink_size":128}}, or with the parameters beside the
 * type as the reference's own dumps have them. */
static bool item_from_reference(struct stack *s, int list, const struct json *v, struct error *err)
{
    const char *type = json_string(json_get(v, "type"));
    if (!type)
        return fail(err, "\"type\" with a masker's type is missing");
    const struct masker *m = masker_find_reference(type);
    if (!m)
        m = masker_find(type);
    if (!m)
        return unknown_type(type, err);
    const struct json *params = json_get(v, "params");
    if (params && !json_is_object(params))
        return fail(err, "%s: \"params\" must be an object", type);
    struct stack_item *item = add_item(s, list, m, err);
    if (!item)
        return false;
    return params_from_reference(item, params ? params : v, false, err) &&
           params_from_reference(item, params ? json_get(v, "attnscope") : NULL, true, err);
}

/* Where the maskers of all layers are, the groups of layers (NULL: none), and which form it is;
 * false with a sentence if v has none. */
static bool find_lists(const struct json *v, const struct json **items, const struct json **groups,
                       bool *is_reference, struct error *err)
{
    const struct json *search = json_get(v, "sparse_config"); /* results of its searches */
    const struct json *root = json_is_object(search) ? search : v;
    const struct json *body =
        json_is_array(root) || json_get(root, "maskers") ? root : json_get(root, "stack");
    *items = json_get(root, "masker_configs");
    *is_reference = *items != NULL;
    *groups = NULL;
    if (!*is_reference && json_is_object(body)) {
        *items = json_get(body, "maskers");
        *groups = json_get(body, "layers");
    } else if (!*is_reference) {
        *items = body;
    }
    if (!json_is_array(*items))
        return fail(err, "a stack is an array of maskers, {\"stack\":[...]}, "
                         "{\"maskers\":[...],\"layers\":[...]} or {\"masker_configs\":[...]}");
    return !*groups || json_is_array(*groups) ||
           fail(err, "\"layers\" must be an array of {\"layers\":\"0-1\",\"maskers\":[...]}");
}

static bool list_from_json(struct stack *s, int list, const struct json *items, bool is_reference,
                           struct error *err)
{
    int i = 1;
    for (const struct json *item = json_first(items); item; item = json_next(item), i++) {
        bool typed = is_reference || json_get(item, "type");
        bool ok = json_is_object(item) ? true : fail(err, "it must be an object");
        if (!ok ||
            !(typed ? item_from_reference(s, list, item, err) : item_from_json(s, list, item, err)))
            return fail_prefix(err, "masker %d", i);
    }
    return true;
}

/* One {"layers":"0-1,16","maskers":[...]}. */
static bool group_from_json(struct stack *s, const struct json *v, struct error *err)
{
    const char *names = json_string(json_get(v, "layers"));
    const struct json *items = json_get(v, "maskers");
    if (!names || !json_is_array(items))
        return fail(err, "a group of layers is {\"layers\":\"0-1\",\"maskers\":[...]}");
    for (const struct json *c = json_first(v); c; c = json_next(c))
        if (strcmp(json_key(c), "layers") != 0 && strcmp(json_key(c), "maskers") != 0)
            return fail(err, "a group of layers has no \"%.60s\", only \"layers\" and \"maskers\"",
                        json_key(c));
    struct layer_set layers;
    bool ok = layer_set_parse(&layers, names, err) && stack_add_group(s, &layers, err) &&
              list_from_json(s, s->n_groups, items, false, err);
    return ok || stack_fail_in_layers(names, err);
}

bool stack_from_json(struct stack *out, const struct json *v, const char *name, struct error *err)
{
    struct stack s = {0};
    bool is_reference;
    const struct json *items, *groups;
    bool ok = find_lists(v, &items, &groups, &is_reference, err) &&
              list_from_json(&s, 0, items, is_reference, err);
    for (const struct json *group = json_first(groups); ok && group; group = json_next(group))
        ok = group_from_json(&s, group, err);
    if (!ok || !stack_check(&s, err))
        return fail_prefix(err, "%s", name);
    const char *title = json_string(json_get(v, "name"));
    if (title)
        snprintf(s.name, sizeof s.name, "%s", title);
    *out = s;
    return true;
}

/* --- Writing ------------------------------------------------------------------------------ */

static void set_value(struct json *object, const char *key, const struct stack_item *item, int i)
{
    const struct masker_param *p = &item->masker->params[i];
    struct budget value = item->values.param[i];
    if (p->kind == PARAM_PATH)
        json_set_string(object, key, item->values.path);
    else if (p->kind == PARAM_CHOICE)
        json_set_string(object, key, p->choices[(int)value.value]);
    else if (p->kind == PARAM_COUNT || (p->kind == PARAM_BUDGET && !value.is_fraction))
        json_set_int(object, key, (int64_t)value.value);
    else
        json_set_number(object, key, value.value);
}

static struct json *list_to_json(const struct stack *s, int which)
{
    struct json *items = json_new_array();
    struct stack_list list = stack_list_at(s, which);
    for (int i = list.first; i < list.first + list.n; i++) {
        const struct stack_item *item = &s->items[i];
        struct json *v = json_new_object();
        json_set_string(v, "masker", item->masker->name);
        for (int j = 0; j < item->masker->n_params; j++)
            set_value(v, item->masker->params[j].name, item, j);
        if (item->off)
            json_set_bool(v, "off", true);
        json_add(items, v);
    }
    return items;
}

struct json *stack_items_to_json(const struct stack *s)
{
    if (!s->n_groups)
        return list_to_json(s, 0);
    struct json *v = json_new_object(), *groups = json_new_array();
    for (int i = 0; i < s->n_groups; i++) {
        struct json *group = json_new_object();
        struct buf layers = {0};
        layer_set_write(&s->groups[i].layers, &layers);
        json_set_string(group, "layers", layers.data);
        json_set(group, "maskers", list_to_json(s, 1 + i));
        json_add(groups, group);
        buf_free(&layers);
    }
    json_set(v, "maskers", list_to_json(s, 0));
    json_set(v, "layers", groups);
    return v;
}

struct json *stack_to_json(const struct stack *s)
{
    struct json *v = json_new_object();
    if (s->name[0])
        json_set_string(v, "name", s->name);
    json_set(v, "stack", stack_items_to_json(s));
    return v;
}

static struct json *item_to_reference(const struct stack_item *item)
{
    const struct masker *m = item->masker;
    struct json *v = json_new_object(), *params = json_new_object(), *extras = json_new_object();
    json_set_string(v, "type", m->reference_type);
    for (int j = 0; j < m->n_params; j++) {
        const struct masker_param *p = &m->params[j];
        int value = (int)item->values.param[j].value;
        bool is_bool = p->reference_name && p->reference_bool;
        if (is_bool)
            json_set_bool(params, p->reference_name, value != p->reference_bool[0]);
        else if (p->reference_name)
            set_value(params, p->reference_name, item, j);
        if (is_bool ? value != p->reference_bool[0] && value != p->reference_bool[1]
                    : !p->reference_name && !masker_value_is_default(m, &item->values, j))
            set_value(extras, p->name, item, j);
    }
    json_set(v, "params", params);
    if (json_first(extras))
        json_set(v, "attnscope", extras);
    else
        json_free(extras);
    return v;
}

bool stack_has_reference_form(const struct stack *s, struct error *err)
{
    return !s->n_groups ||
           fail(err, "the reference project's form has one list of maskers for all layers; a stack "
                     "with groups of layers cannot be written in it");
}

struct json *stack_to_reference_json(const struct stack *s)
{
    assert(stack_has_reference_form(s, NULL));
    struct json *v = json_new_object(), *items = json_new_array();
    for (int i = 0; i < s->n; i++)
        if (!s->items[i].off && s->items[i].masker->reference_type)
            json_add(items, item_to_reference(&s->items[i]));
    json_set(v, "masker_configs", items);
    return v;
}
