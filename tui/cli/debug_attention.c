/* `debug attention`: a stack on one recorded attention call. */
#include <stdlib.h>
#include <string.h>

#include "engine/attention/attention_case.h"
#include "presets/preset.h"
#include "tui/cli/debug.h"

struct args {
    struct attention_case_options options;
    struct engine_options engine;
    struct stack stack;
    bool has_stack;
};

static bool handle(void *user, const char *name, const char *value, struct error *err)
{
    struct args *a = user;
    bool ok = true;
    int64_t n = 0;
    if (cli_engine_option(&a->engine, name, value, err, &ok))
        return ok;
    if (strcmp(name, "tensors") == 0) {
        a->options.tensors = value;
    } else if (strcmp(name, "case") == 0) {
        a->options.name = value;
    } else if (strcmp(name, "out") == 0) {
        a->options.out = value;
    } else if (strcmp(name, "stack") == 0) {
        ok = preset_stack(&a->stack, value, err);
        a->has_stack = ok;
    } else if (strcmp(name, "compat") == 0) {
        a->options.compat = true;
    } else if (strcmp(name, "seed") == 0) {
        ok = cli_int(name, value, 0, INT64_MAX, &n, err);
        a->options.seed = (uint64_t)n;
    }
    return ok;
}

static int run(int argc, char **argv)
{
    struct args a = {0};
    struct error err = {0};
    cli_engine_defaults(&a.engine);
    int code;
    if (!cli_parse(&command_debug_attention, argc, argv, handle, &a, &code))
        return code;
    if (!a.options.tensors || !a.options.name || !a.options.out || !a.has_stack) {
        fail_code(&err, EXIT_CODE_USAGE,
                  "debug attention needs --tensors, --case, --stack and --out");
        return cli_fail(&err);
    }
    a.options.stack = &a.stack;
    a.options.backend = a.engine.backend;
    a.options.n_threads = a.engine.n_threads;
    return attention_case_run(&a.options, &err) ? EXIT_CODE_OK : cli_fail(&err);
}

const struct cli_command command_debug_attention = {
    .name = "debug attention",
    .usage = "--tensors F --case NAME --stack S --out O",
    .summary = "run a stack on recorded q, k, v; write its selection and output",
    .options =
        (const struct cli_option[]){
            {"tensors", "F", "safetensors with NAME/q, NAME/k, NAME/v (and NAME/allowed)"},
            {"case", "NAME", "the case in it"},
            {"stack", "S", "preset, file, JSON or short form"},
            {"out", "O", "safetensors file to write: ptr, col, val, out"},
            {"compat", NULL, "as the reference where it differs"},
            {"seed", "N", "seed of samplers"},
            CLI_ENGINE_OPTIONS,
            {NULL, NULL, NULL}},
    .run = run,
};
