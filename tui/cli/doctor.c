/* `attnscope doctor`: what this machine and terminal offer, and why something is not used. */
#include <langinfo.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/model/hub.h"
#include "presets/preset.h"
#include "tui/cli/commands.h"
#include "tui/cli/debug.h"

struct args {
    struct engine_options engine;
    bool as_json;
};

static bool handle(void *user, const char *name, const char *value, struct error *err)
{
    struct args *a = user;
    bool ok = true;
    if (name && strcmp(name, "json") == 0)
        a->as_json = true;
    else if (name)
        cli_engine_option(&a->engine, name, value, err, &ok);
    return ok;
}

/* The device that would be used; gpu says which GPU it is, or why none is. */
static void examine_device(struct json *o, const struct args *a, bool *ok)
{
    struct device_options options = {.n_threads = a->engine.n_threads, .isa = a->engine.isa};
    const struct backend *backend;
    char why[512], no_gpu[600];
    struct device *dev = backend_open(a->engine.backend, &options, &backend, why, sizeof why);
    if (!dev) {
        json_set_string(o, "device_problem", why);
        *ok = false;
        return;
    }
    struct device_info info;
    backend->describe(dev, &info);
    json_set_string(o, "backend", backend->name);
    json_set_string(o, "device", info.name);
    json_set_int(o, "threads", info.n_threads);
    json_set_number(o, "memory_gib", (double)info.total_bytes / (1 << 30));
    json_set_number(o, "memory_free_gib", (double)info.free_bytes / (1 << 30));
    backend->close(dev);
    bool is_gpu = strcmp(backend->name, "cuda") == 0;
    snprintf(no_gpu, sizeof no_gpu, "not used: %s",
             why[0] ? why : "the cpu backend was asked for (--backend)");
    json_set_string(o, "gpu", is_gpu ? info.name : no_gpu);
}

static void examine_terminal(struct json *o)
{
    const char *term = getenv("TERM"), *no_color = getenv("NO_COLOR");
    json_set_string(o, "term", term ? term : "(not set)");
    json_set_bool(o, "stdin_is_terminal", isatty(STDIN_FILENO));
    json_set_bool(o, "stdout_is_terminal", isatty(STDOUT_FILENO));
    json_set_string(o, "character_set", nl_langinfo(CODESET));
    json_set_bool(o, "no_color", no_color && *no_color);
    json_set_bool(o, "over_ssh", getenv("SSH_CONNECTION") != NULL);
#ifdef ATTNSCOPE_LIBEDIT
    json_set_string(o, "line_editor", "libedit (BSD)");
#else
    json_set_string(o, "line_editor", "GNU readline (GPL-3)");
#endif
}

static void examine_files(struct json *o, bool *ok)
{
    struct error err = {0};
    char *folder = cli_model_folder(NULL, &err);
    json_set_string(o, "embedded_model", folder ? folder : err.text);
    *ok = *ok && folder;
    free(folder);
    struct hub_list list = {0};
    hub_scan(&list);
    size_t n_broken = 0;
    for (size_t i = 0; i < list.n; i++)
        n_broken += list.models[i].problem != NULL;
    json_set_int(o, "cached_models", (int64_t)list.n);
    json_set_int(o, "cached_models_not_loadable", (int64_t)n_broken);
    hub_list_free(&list);
    char *state = path_xdg("XDG_STATE_HOME", ".local/state");
    char *sessions = path_join(state, "attnscope");
    bool writable = path_make_folders(sessions, &err) && access(sessions, W_OK) == 0;
    json_set_string(o, "sessions_folder", sessions);
    json_set_bool(o, "sessions_folder_writable", writable);
    free(sessions);
    free(state);
}

static int run(int argc, char **argv)
{
    struct args a = {0};
    struct error err = {0};
    cli_engine_defaults(&a.engine);
    int code;
    if (!cli_parse(&command_doctor, argc, argv, handle, &a, &code))
        return code;
    struct buf out = {0};
    bool healthy = true;
    struct json *o = json_new_object();
    json_set_string(o, "attnscope", ATTNSCOPE_VERSION);
    examine_device(o, &a, &healthy);
    examine_terminal(o);
    examine_files(o, &healthy);
    if (a.as_json) {
        json_write(&out, o, true);
        buf_append_char(&out, '\n');
    } else {
        cli_append_fields(&out, o);
    }
    json_free(o);
    bool ok = cli_write(out.data, out.len, &err);
    buf_free(&out);
    if (!ok)
        return cli_fail(&err);
    return healthy ? EXIT_CODE_OK : EXIT_CODE_INVALID;
}

const struct cli_command command_doctor = {
    .name = "doctor",
    .usage = "[--json]",
    .summary = "show what this machine and terminal offer, and what is wrong",
    .options = (const struct cli_option[]){CLI_ENGINE_OPTIONS,
                                           {"json", NULL, "one JSON object"},
                                           {NULL, NULL, NULL}},
    .run = run,
};
