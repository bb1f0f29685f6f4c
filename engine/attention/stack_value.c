/* A masker's parameters by number: paths beside the values that param_* know. */
#include "engine/attention/stack.h"

#include <stdio.h>
#include <string.h>

void masker_value_write(const struct masker *m, const struct masker_values *values, int i,
                        struct buf *out)
{
    if (m->params[i].kind == PARAM_PATH)
        buf_append_str(out, values->path);
    else
        param_write(&m->params[i], values->param[i], out);
}

bool masker_value_parse(const struct masker *m, struct masker_values *values, int i,
                        const char *text, struct error *err)
{
    if (m->params[i].kind != PARAM_PATH)
        return param_parse(&m->params[i], text, &values->param[i], err);
    if (strlen(text) >= sizeof values->path)
        return fail(err, "%s: a path of %zu bytes is too long, at most %zu", m->params[i].name,
                    strlen(text), sizeof values->path - 1);
    snprintf(values->path, sizeof values->path, "%s", text);
    return true;
}

bool masker_value_is_default(const struct masker *m, const struct masker_values *values, int i)
{
    const struct masker_param *p = &m->params[i];
    if (p->kind == PARAM_PATH)
        return values->path[0] == '\0';
    return values->param[i].value == p->fallback.value &&
           values->param[i].is_fraction == p->fallback.is_fraction;
}
