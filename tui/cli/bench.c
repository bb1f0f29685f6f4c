/* `attnscope bench decode|prefill|attention`: any known shape with seeded random weights; each
 * figure beside the limit of this machine, measured in the same run. */
#include "tui/cli/bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/attention/stack_reuse.h"
#include "engine/base/memory.h"
#include "engine/model/kv_cache.h"
#include "presets/preset.h"
#include "tui/cli/commands.h"

struct bench_kind {
    const char *name;
    const char *shape; /* default */
    int ctx, n_repeats;
    bool (*run)(struct bench *b, struct json *result, struct error *err);
};

static const struct bench_kind kinds[] = {
    {"decode", "llama-3.2-1b", 16, 24, bench_decode},
    {"prefill", "embedded", 4096, 1, bench_prefill},
    {"attention", "llama-3.2-1b", 8192, 20, bench_attention},
    {"select", "llama-3.2-1b", 8192, 20, bench_select},
    {"gemv", "llama-3.2-1b", 1, 20, bench_gemv},
    {NULL, NULL, 0, 0, NULL},
};

struct bench_args {
    struct bench bench;
    const struct bench_kind *kind;
};

double bench_now_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e6 + (double)ts.tv_nsec * 1e-3;
}

struct step_state *bench_step(struct bench *b, int n_context)
{
    struct step_state *step = b->backend->alloc(b->dev, sizeof *step);
    if (step) {
        struct step_state host = {.n_context = n_context, .append_tail = 0, .seed = 1};
        b->backend->upload(b->dev, step, &host, sizeof host);
    }
    return step;
}

bool bench_fill_cache(struct bench *b, struct kv_cache *out, int n_more, struct error *err)
{
    if (!kv_cache_open(out, b->backend, b->dev, &b->config, b->engine.kv_dtype, b->ctx + n_more,
                       err))
        return false;
    size_t n = (size_t)out->bytes / dtype_bytes(out->dtype);
    b->backend->fill_random(b->dev, out->memory, n, out->dtype, sqrtf(3.0f), 12345);
    return true;
}

static bool handle(void *user, const char *name, const char *value, struct error *err)
{
    struct bench_args *args = user;
    struct bench *b = &args->bench;
    bool ok = true;
    int64_t n = 0;
    if (!name) {
        for (const struct bench_kind *k = kinds; k->name && !args->kind; k++)
            if (strcmp(k->name, value) == 0)
                args->kind = k;
        return args->kind ||
               fail(err, "unknown benchmark '%s': decode, prefill, attention, select or gemv",
                    value);
    }
    if (cli_engine_option(&b->engine, name, value, err, &ok))
        return ok;
    if (strcmp(name, "shape") == 0) {
        b->shape = value;
    } else if (strcmp(name, "ctx") == 0) {
        ok = cli_int(name, value, 1, 1 << 24, &n, err);
        b->ctx = (int)n;
    } else if (strcmp(name, "repeat") == 0) {
        ok = cli_int(name, value, 1, BENCH_MAX_REPEATS, &n, err);
        b->n_repeats = (int)n;
    } else if (strcmp(name, "chunk") == 0) {
        ok = cli_int(name, value, 1, 1 << 16, &n, err);
        b->chunk = (int)n;
    } else if (strcmp(name, "stack") == 0) {
        ok = preset_stack(&b->stack, value, err);
        b->has_stack = true;
    } else if (strcmp(name, "json") == 0) {
        b->as_json = true;
    }
    return ok;
}

struct stack bench_checked_stack(const struct bench *b, int *layer)
{
    for (int i = 0; i <= b->stack.n_groups; i++) {
        struct layer_set layers = stack_list_layers(&b->stack, i);
        *layer = layer_set_first(&layers);
        bool used = *layer >= 0 && *layer < b->config.n_layers;
        if (used && !stack_layer_is_dense(&b->stack, *layer) &&
            !stack_reuse_in_layer(&b->stack, *layer))
            return stack_of_list(&b->stack, i);
    }
    *layer = 0;
    return (struct stack){0};
}

static bool bench_open(struct bench *b, struct json *result, struct error *err)
{
    struct device_options options = {.n_threads = b->engine.n_threads,
                                     .exact = b->engine.kv_dtype == DTYPE_F32,
                                     .isa = b->engine.isa};
    char why[512];
    if (!model_config_shape(&b->config, b->shape, err) ||
        !stack_check_layers(&b->stack, b->config.n_layers, err))
        return false;
    b->dev = backend_open(b->engine.backend, &options, &b->backend, why, sizeof why);
    if (!b->dev)
        return fail_code(err, EXIT_CODE_NO_DEVICE, "no device: %s", why);
    b->bytes_per_s = b->backend->measure_read_bandwidth(b->dev);
    b->flops_per_s = b->backend->measure_peak_flops(b->dev);
    struct device_info info;
    b->backend->describe(b->dev, &info);
    json_set_string(result, "backend", b->backend->name);
    json_set_string(result, "device", info.name);
    json_set_string(result, "shape", b->shape);
    json_set_string(result, "kv", b->engine.kv_dtype == DTYPE_F32 ? "f32" : "bf16");
    json_set_int(result, "ctx", b->ctx);
    json_set_number(result, "bandwidth_gb_s", b->bytes_per_s * 1e-9);
    json_set_number(result, "peak_gflop_s", b->flops_per_s * 1e-9);
    return true;
}

static int run(int argc, char **argv)
{
    struct bench_args args = {0};
    struct bench *b = &args.bench;
    cli_engine_defaults(&b->engine);
    int code;
    if (!cli_parse(&command_bench, argc, argv, handle, &args, &code))
        return code;
    struct error err = {0};
    if (!args.kind) {
        fail_code(&err, EXIT_CODE_USAGE,
                  "bench needs to know what: decode, prefill, attention, select or gemv");
        return cli_fail(&err);
    }
    b->shape = b->shape ? b->shape : args.kind->shape;
    b->ctx = b->ctx ? b->ctx : args.kind->ctx;
    b->n_repeats = b->n_repeats ? b->n_repeats : args.kind->n_repeats;
    struct json *result = json_new_object();
    struct buf out = {0};
    json_set_string(result, "bench", args.kind->name);
    bool ok = bench_open(b, result, &err) && args.kind->run(b, result, &err);
    if (b->dev)
        b->backend->close(b->dev);
    if (ok) {
        if (b->as_json) {
            json_write(&out, result, true);
            buf_append_char(&out, '\n');
        } else {
            cli_append_fields(&out, result);
        }
        ok = cli_write(out.data, out.len, &err);
    }
    buf_free(&out);
    json_free(result);
    return ok ? EXIT_CODE_OK : cli_fail(&err);
}

const struct cli_command command_bench = {
    .name = "bench",
    .usage = "decode|prefill|attention|select|gemv [OPTION]...",
    .summary = "measure a shape with random weights, checked against the cpu backend in the run",
    .examples = "  attnscope bench decode --shape llama-3.2-1b\n"
                "  attnscope bench attention --ctx 8192 --stack sink:4,local:400\n",
    .options =
        (const struct cli_option[]){
            {"shape", "NAME", "llama-3.2-1b, qwen3-0.6b, embedded, ... (a wrong one lists all)"},
            {"ctx", "N", "tokens in the cache; of prefill: tokens to prefill"},
            {"stack", "S", "the sparse side (preset, file, JSON, short form)"},
            {"repeat", "N", "timed steps, or pairs of dense and sparse calls"},
            {"chunk", "N", "prefill: rows of one call (default: as the engine chooses)"},
            CLI_ENGINE_OPTIONS,
            {"json", NULL, "one JSON object"},
            {NULL, NULL, NULL}},
    .max_positional = 1,
    .run = run,
};
