/* `attnscope models`: what the HuggingFace cache holds, and why a folder cannot be loaded. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/model/hub.h"
#include "engine/text/screen_text.h"
#include "tui/cli/commands.h"

static bool handle(void *user, const char *name, const char *value, struct error *err)
{
    (void)value;
    (void)err;
    if (name && strcmp(name, "json") == 0)
        *(bool *)user = true;
    return true;
}

static struct json *model_to_json(const struct hub_model *m)
{
    struct json *o = json_new_object();
    json_set_string(o, "name", m->name);
    json_set_string(o, "folder", m->folder ? m->folder : "");
    json_set_string(o, "revision", m->revision);
    json_set_string(o, "architecture", m->architecture ? m->architecture : "");
    json_set_string(o, "dtype", m->dtype ? m->dtype : "");
    json_set_int(o, "params", (int64_t)m->n_params);
    json_set_int(o, "bytes", (int64_t)m->n_bytes);
    json_set_int(o, "layers", m->n_layers);
    json_set_int(o, "heads", m->n_heads);
    json_set_int(o, "kv_heads", m->n_kv_heads);
    json_set_int(o, "max_context", m->max_seq_len);
    json_set_int(o, "kv_bytes_per_token", (int64_t)m->kv_bytes_per_token);
    json_set_bool(o, "loadable", !m->problem);
    if (m->problem)
        json_set_string(o, "problem", m->problem);
    return o;
}

static void write_line(struct buf *out, const struct hub_model *m)
{
    char *name = screen_text_name(m->name, 48);
    if (m->problem) {
        char *problem = screen_text_name(m->problem, 0);
        buf_printf(out, "%-40s  not loadable: %s\n", name, problem);
        free(problem);
    } else {
        char *dtype = screen_text_name(m->dtype ? m->dtype : "?", 12);
        buf_printf(out, "%-40s %7.2fB %-9s %3dL %3dH/%dKV %8.2f GiB  window %d\n", name,
                   (double)m->n_params * 1e-9, dtype, m->n_layers, m->n_heads, m->n_kv_heads,
                   (double)m->n_bytes / (1 << 30), m->max_seq_len);
        free(dtype);
    }
    free(name);
}

static int run(int argc, char **argv)
{
    bool as_json = false;
    int code;
    if (!cli_parse(&command_models, argc, argv, handle, &as_json, &code))
        return code;
    struct hub_list list = {0};
    struct buf out = {0};
    struct error err = {0};
    hub_scan(&list);
    if (as_json) {
        struct json *array = json_new_array();
        for (size_t i = 0; i < list.n; i++)
            json_add(array, model_to_json(&list.models[i]));
        json_write(&out, array, true);
        buf_append_char(&out, '\n');
        json_free(array);
    } else {
        for (size_t i = 0; i < list.n; i++)
            write_line(&out, &list.models[i]);
        if (!list.n)
            buf_append_str(&out,
                           "No models in the HuggingFace cache ($HF_HUB_CACHE, $HF_HOME/hub, "
                           "~/.cache/huggingface/hub).\nGet one with: hf download ORG/NAME\n");
    }
    bool ok = cli_write(out.data, out.len, &err);
    buf_free(&out);
    hub_list_free(&list);
    return ok ? EXIT_CODE_OK : cli_fail(&err);
}

const struct cli_command command_models = {
    .name = "models",
    .usage = "[--json]",
    .summary = "list the models in the HuggingFace cache, and why one cannot be loaded",
    .options = (const struct cli_option[]){{"json", NULL, "one JSON array"}, {NULL, NULL, NULL}},
    .run = run,
};
