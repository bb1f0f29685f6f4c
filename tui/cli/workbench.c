/* `attnscope [MODEL]` and `attnscope resume`: the way into the full-screen program. */
#include "tui/workbench.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/memory.h"
#include "tui/cli/commands.h"
#include "tui/cli/debug.h"
#include "tui/cli/request_args.h"

struct args {
    const char *model, *session;
    struct engine_options engine;
    struct request_args request;
    bool ascii, auto_restart;
    int color;
    const char *theme;
    char **restart_args; /* what a restart gives to `resume`: "--threads=2"; NULL-terminated */
    size_t n_restart_args, restart_capacity;
};

static void args_free(struct args *a)
{
    request_args_free(&a->request);
    for (size_t i = 0; i < a->n_restart_args; i++)
        free(a->restart_args[i]);
    free(a->restart_args);
}

static void keep_for_restart(struct args *a, const char *name, const char *value)
{
    struct buf arg = {0};
    buf_printf(&arg, "--%s%s%s", name, value ? "=" : "", value ? value : "");
    a->restart_args = array_grow(a->restart_args, &a->restart_capacity, a->n_restart_args + 2,
                                 sizeof *a->restart_args);
    a->restart_args[a->n_restart_args++] = buf_take(&arg);
    a->restart_args[a->n_restart_args] = NULL;
}

static bool handle(void *user, const char *name, const char *value, struct error *err)
{
    static const char *const colors[] = {"auto", "never", "16", "256", NULL};
    static const enum color_mode modes[] = {COLOR_AUTO, COLOR_NEVER, COLOR_16, COLOR_256};
    struct args *a = user;
    bool ok = true;
    int choice = 0;
    if (!name) {
        a->model = value;
        return true;
    }
    if (request_args_option(&a->request, name, value, &ok, err))
        return ok;
    if (strcmp(name, "ascii") == 0) {
        a->ascii = true;
    } else if (strcmp(name, "auto-restart") == 0) {
        a->auto_restart = true;
    } else if (strcmp(name, "theme") == 0) {
        ok = cli_choice(name, value, theme_names, &choice, err);
        a->theme = ok ? theme_names[choice] : NULL;
    } else if (strcmp(name, "color") == 0) {
        ok = cli_choice(name, value, colors, &choice, err);
        a->color = modes[choice];
    } else {
        cli_engine_option(&a->engine, name, value, err, &ok);
    }
    keep_for_restart(a, name, value);
    return ok;
}

static bool start(struct args *a, struct session *session, int *code, struct error *err)
{
    const struct request *r = a->request.request;
    char *folder = NULL;
    if (!request_args_complete(&a->request, err)) {
        session_free(session);
        return false;
    }
    if (a->model && !(folder = cli_model_folder(a->model, err))) {
        session_free(session);
        return false;
    }
    struct workbench_options options = {
        .model = folder,
        .engine = a->engine,
        .sample = a->request.sample,
        .context = a->request.sample ? NULL : r->context,
        .n_context = r->n_context,
        .context_origin = a->request.context_origin,
        .questions = (const char *const *)r->questions,
        .n_questions = a->request.sample ? 0 : r->n_questions,
        .lanes = r->lanes,
        .n_lanes = r->n_lanes > 1 || a->request.baseline_given ? r->n_lanes : 0,
        .max_tokens = r->max_tokens,
        .max_context = r->max_context,
        .keep = r->keep,
        .keep_given = r->keep_given,
        .setup = r->setup,
        .forced = r->forced,
        .seed = r->seed,
        .answer_prefix = r->answer_prefix,
        .sampling = r->sampling,
        .resume = session,
        .auto_restart = a->auto_restart,
        .restart_args = (const char *const *)a->restart_args,
        .ascii = a->ascii,
        .color = (enum color_mode)a->color,
        .theme = a->theme,
    };
    *code = workbench_run(&options);
    free(folder);
    return true;
}

static int run_workbench(int argc, char **argv)
{
    struct args a = {0};
    struct error err = {0};
    int code = EXIT_CODE_OK;
    cli_engine_defaults(&a.engine);
    request_args_init(&a.request);
    if (cli_parse(&command_workbench, argc, argv, handle, &a, &code) &&
        !start(&a, NULL, &code, &err))
        code = cli_fail(&err);
    args_free(&a);
    return code;
}

static bool handle_resume(void *user, const char *name, const char *value, struct error *err)
{
    struct args *a = user;
    if (name)
        return handle(user, name, value, err);
    a->session = value;
    return true;
}

/* SESSION is a path, or a name in the sessions folder; nothing is the newest. */
static struct session *find_session(const char *name, struct error *err)
{
    if (name && strchr(name, '/'))
        return session_read(name, err);
    struct session *found = NULL;
    struct session_entry *entries;
    size_t n = session_list(&entries);
    size_t i = 0;
    while (name && i < n && strcmp(entries[i].name, name) != 0)
        i++;
    if (i < n)
        found = session_read(entries[i].path, err);
    else if (name)
        found = session_read(name, err);
    else
        fail(err, "there is no session to resume yet; start one with: attnscope");
    session_list_free(entries, n);
    return found;
}

static int run_resume(int argc, char **argv)
{
    struct args a = {0};
    struct error err = {0};
    int code = EXIT_CODE_OK;
    cli_engine_defaults(&a.engine);
    request_args_init(&a.request);
    if (cli_parse(&command_resume, argc, argv, handle_resume, &a, &code)) {
        struct session *session = find_session(a.session, &err);
        if (!session || !start(&a, session, &code, &err))
            code = cli_fail(&err);
    }
    args_free(&a);
    return code;
}

#define SCREEN_OPTIONS                                                                             \
    {"auto-restart", NULL, "if the GPU fails, restart on the same session without asking"},        \
        {"ascii", NULL, "only ASCII on the screen"},                                               \
        {"theme", "dark|light|colour-blind|mono", "colours (default: as the settings say)"},       \
    {                                                                                              \
        "color", "auto|never|16|256", "colours (auto: what the terminal has; NO_COLOR: none)"      \
    }

const struct cli_command command_workbench = {
    .name = "",
    .usage = "[MODEL] [OPTION]...",
    .summary = "the workbench: dense and sparse answers side by side (other commands: --help)",
    .options =
        (const struct cli_option[]){
            CLI_REQUEST_OPTIONS, CLI_ENGINE_OPTIONS, SCREEN_OPTIONS, {NULL, NULL, NULL}},
    .max_positional = 1,
    .run = run_workbench,
};

const struct cli_command command_resume = {
    .name = "resume",
    .usage = "[SESSION] [OPTION]...",
    .summary = "go on with a session (a path, a name, or nothing: the newest)",
    .options = (const struct cli_option[]){CLI_ENGINE_OPTIONS, SCREEN_OPTIONS, {NULL, NULL, NULL}},
    .max_positional = 1,
    .run = run_resume,
};
