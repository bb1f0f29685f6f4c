/* `debug logits`: the logits of given tokens at given positions, for parity with a reference. */
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/json.h"
#include "engine/base/memory.h"
#include "engine/model/kv_cache.h"
#include "engine/model/model.h"
#include "tui/cli/debug.h"
#include "tui/cli/id_list.h"

struct args {
    const char *model, *tokens, *positions;
    struct engine_options engine;
    int n_greedy;
    bool bf16_frequencies;
};

static bool handle(void *user, const char *name, const char *value, struct error *err)
{
    struct args *a = user;
    bool ok = true;
    int64_t n = 0;
    if (!name)
        a->model = value;
    else if (cli_engine_option(&a->engine, name, value, err, &ok))
        return ok;
    else if (strcmp(name, "tokens") == 0)
        a->tokens = value;
    else if (strcmp(name, "positions") == 0)
        a->positions = value;
    else if (strcmp(name, "bf16-frequencies") == 0)
        a->bf16_frequencies = true;
    else if (strcmp(name, "greedy") == 0) {
        ok = cli_int(name, value, 0, 1 << 20, &n, err);
        a->n_greedy = (int)n;
    }
    return ok;
}

/* A model with its cache, ready for one sequence. */
struct runner {
    const struct backend *backend;
    struct device *dev;
    struct model *model;
    struct kv_cache cache;
    struct forward_buffers *buffers;
    struct step_state *step;
    int32_t *tokens;
    float *logits; /* [n_rows, vocab_size] (device) */
    struct pick *pick;
    int n_keys;
};

static bool runner_open(struct runner *r, const struct args *a, const char *folder, int n_rows,
                        struct error *err)
{
    struct device_options options = {.n_threads = a->engine.n_threads,
                                     .exact = a->engine.kv_dtype == DTYPE_F32,
                                     .isa = a->engine.isa};
    char why[512];
    r->dev = backend_open(a->engine.backend, &options, &r->backend, why, sizeof why);
    if (!r->dev)
        return fail_code(err, EXIT_CODE_NO_DEVICE, "no device: %s", why);
    r->model = model_load(folder, r->backend, r->dev, NULL, err);
    if (!r->model)
        return false;
    if (a->bf16_frequencies)
        model_round_frequencies(r->model);
    const struct model_config *c = &r->model->config;
    int capacity = n_rows + a->n_greedy;
    if (c->hard_limit && capacity > c->max_seq_len)
        return fail(err, "%s: %d tokens are more than its %d positions", folder, capacity,
                    c->max_seq_len);
    if (!kv_cache_open(&r->cache, r->backend, r->dev, c, a->engine.kv_dtype, capacity, err))
        return false;
    r->buffers = forward_buffers_open(r->model, n_rows, capacity, err);
    if (!r->buffers)
        return false;
    r->step = r->backend->alloc(r->dev, sizeof *r->step);
    r->tokens = r->backend->alloc(r->dev, (size_t)capacity * sizeof *r->tokens);
    r->pick = r->backend->alloc(r->dev, sizeof *r->pick);
    size_t n_logits;
    if (!size_mul(&n_logits, (size_t)n_rows, (size_t)c->vocab_size * sizeof(float)))
        n_logits = SIZE_MAX;
    r->logits = r->backend->alloc(r->dev, n_logits);
    if (!r->step || !r->tokens || !r->pick || !r->logits)
        return fail_code(err, EXIT_CODE_NO_DEVICE, "out of memory for %zu bytes of logits",
                         n_logits);
    return true;
}

static void runner_close(struct runner *r)
{
    if (!r->dev)
        return;
    void *all[] = {r->step, r->tokens, r->pick, r->logits};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        r->backend->release(r->dev, all[i]);
    forward_buffers_close(r->buffers);
    kv_cache_close(&r->cache);
    model_close(r->model);
    r->backend->close(r->dev);
}

/* Runs ids [n] and leaves the logits of all rows in r->logits. */
static void runner_step(struct runner *r, const int32_t *ids, int n)
{
    struct step_state host = {.n_context = r->n_keys};
    r->backend->upload(r->dev, r->step, &host, sizeof host);
    r->backend->upload(r->dev, r->tokens, ids, (size_t)n * sizeof *ids);
    struct forward_call call = {.buffers = r->buffers,
                                .tokens = r->tokens,
                                .n_rows = n,
                                .context = &r->cache,
                                .step = r->step,
                                .max_keys = r->n_keys + n};
    model_forward(r->model, &call, r->logits, n);
    r->n_keys += n;
}

static int32_t runner_pick(struct runner *r, int row)
{
    static const struct sampling greedy = {.top_p = 1};
    int vocab_size = r->model->config.vocab_size;
    struct pick pick;
    r->backend->pick(r->dev, r->pick, r->logits + (size_t)row * (size_t)vocab_size, vocab_size,
                     &greedy, r->step);
    r->backend->download(r->dev, &pick, r->pick, sizeof pick);
    return pick.token;
}

static struct json *row_of(struct runner *r, int row, float *host)
{
    size_t n = (size_t)r->model->config.vocab_size;
    r->backend->download(r->dev, host, r->logits + (size_t)row * n, n * sizeof *host);
    struct json *array = json_new_array();
    for (size_t i = 0; i < n; i++)
        json_add_number(array, (double)host[i]);
    return array;
}

static bool run_logits(struct runner *r, const struct args *a, const struct token_list *tokens,
                       struct token_list *positions, struct json *result, struct error *err)
{
    for (size_t i = 0; i < tokens->n; i++)
        if (tokens->ids[i] >= r->model->config.vocab_size)
            return fail_code(err, EXIT_CODE_USAGE,
                             "--tokens: %d is not below the vocabulary's "
                             "size of %d",
                             tokens->ids[i], r->model->config.vocab_size);
    for (size_t i = 0; i < positions->n; i++)
        if ((size_t)positions->ids[i] >= tokens->n)
            return fail_code(err, EXIT_CODE_USAGE, "--positions: %d is not below the %zu tokens",
                             positions->ids[i], tokens->n);
    if (!positions->n)
        token_list_add(positions, (int32_t)tokens->n - 1);
    runner_step(r, tokens->ids, (int)tokens->n);
    char why[512];
    if (!r->backend->sync(r->dev, why, sizeof why))
        return fail_code(err, EXIT_CODE_RUNTIME, "%s", why);
    struct json *at = json_new_array(), *logits = json_new_array(), *greedy = json_new_array();
    float *host = xcalloc((size_t)r->model->config.vocab_size, sizeof *host);
    for (size_t i = 0; i < positions->n; i++) {
        json_add_int(at, positions->ids[i]);
        json_add(logits, row_of(r, positions->ids[i], host));
    }
    free(host);
    json_set(result, "positions", at);
    json_set(result, "logits", logits);
    int row = (int)tokens->n - 1;
    for (int i = 0; i < a->n_greedy; i++) {
        int32_t next = runner_pick(r, row);
        json_add_int(greedy, next);
        runner_step(r, &next, 1);
        row = 0;
    }
    if (a->n_greedy)
        json_set(result, "greedy", greedy);
    else
        json_free(greedy);
    return true;
}

static int run(int argc, char **argv)
{
    struct args a = {0};
    struct error err = {0};
    cli_engine_defaults(&a.engine);
    int code;
    if (!cli_parse(&command_debug_logits, argc, argv, handle, &a, &code))
        return code;
    struct token_list tokens = {0}, positions = {0};
    struct runner r = {0};
    struct buf out = {0};
    struct json *result = json_new_object();
    char *folder = NULL;
    bool ok = a.tokens || fail_code(&err, EXIT_CODE_USAGE, "debug logits needs --tokens");
    ok = ok && id_list_parse(a.tokens, "tokens", &tokens, &err);
    ok = ok && (tokens.n || fail_code(&err, EXIT_CODE_USAGE, "--tokens: no tokens given"));
    ok = ok && (!a.positions || id_list_parse(a.positions, "positions", &positions, &err));
    ok = ok && (folder = cli_model_folder(a.model, &err));
    ok = ok && runner_open(&r, &a, folder, (int)tokens.n, &err) &&
         run_logits(&r, &a, &tokens, &positions, result, &err);
    if (ok) {
        json_write(&out, result, false);
        buf_append_char(&out, '\n');
        ok = cli_write(out.data, out.len, &err);
    }
    runner_close(&r);
    buf_free(&out);
    json_free(result);
    token_list_free(&tokens);
    token_list_free(&positions);
    free(folder);
    return ok ? EXIT_CODE_OK : cli_fail(&err);
}

const struct cli_command command_debug_logits = {
    .name = "debug logits",
    .usage = "[MODEL] --tokens 1,2,3|@FILE [--positions 0,5]",
    .summary = "logits at given positions, as JSON",
    .options = (const struct cli_option[]){{"tokens", "LIST", "token ids, 1,2,3 or @FILE"},
                                           {"positions", "LIST", "positions (default: the last)"},
                                           {"greedy", "N", "also N tokens of greedy continuation"},
                                           {"bf16-frequencies", NULL,
                                            "round RoPE's frequencies as a model cast to bf16"},
                                           CLI_ENGINE_OPTIONS,
                                           {"json", NULL, "JSON (always so)"},
                                           {NULL, NULL, NULL}},
    .max_positional = 1,
    .run = run,
};
