#include "engine/attention/stack_names.h"

#include "engine/attention/nearest.h"
#include "engine/base/buf.h"

static bool unknown(const char *what, const struct nearest *nearest, struct buf *list,
                    struct error *err)
{
    if (nearest->best)
        fail(err, "there is no %s \"%.60s\"; did you mean %s? (there are: %s)", what,
             nearest->given, nearest->best, list->data);
    else
        fail(err, "there is no %s \"%.60s\"; there are: %s", what, nearest->given, list->data);
    buf_free(list);
    return false;
}

bool stack_unknown_masker(const char *name, struct error *err)
{
    struct nearest nearest = {.given = name};
    struct buf list = {0};
    for (const struct masker *const *m = maskers; *m; m++) {
        nearest_offer(&nearest, (*m)->name);
        buf_printf(&list, "%s%s", list.len ? ", " : "", (*m)->name);
    }
    return unknown("masker", &nearest, &list, err);
}

bool stack_unknown_param(const struct masker *m, const char *name, struct error *err)
{
    struct nearest nearest = {.given = name};
    struct buf list = {0};
    if (!m->n_params)
        return fail(err, "it has no parameters, got \"%.60s\"", name);
    for (int i = 0; i < m->n_params; i++) {
        nearest_offer(&nearest, m->params[i].name);
        buf_printf(&list, "%s%s", list.len ? ", " : "", m->params[i].name);
    }
    return unknown("parameter", &nearest, &list, err);
}

bool stack_fail_in_layers(const char *names, struct error *err)
{
    return *names ? fail_prefix(err, "layers %.40s", names) : fail_prefix(err, "layers");
}
