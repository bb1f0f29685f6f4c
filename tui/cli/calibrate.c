/* `attnscope calibrate`: measures on a text what a masker must know of a model beforehand.
 *
 * double-sparsity: the text is prefilled once, densely and with keys in f32, and the file of
 * channels goes to standard output. */
#include <stdlib.h>
#include <string.h>

#include "engine/attention/channel_stats.h"
#include "engine/base/buf.h"
#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/model/kv_cache.h"
#include "engine/model/model.h"
#include "engine/run/context.h"
#include "engine/text/tokenizer.h"
#include "tui/cli/commands.h"
#include "tui/cli/debug.h"

#define MAX_TEXT_BYTES (UINT64_C(1) << 30)

enum { DEFAULT_TOKENS = 4096, MOST_TOKENS = 1 << 20 };

struct args {
    const char *masker, *model, *text;
    struct engine_options engine;
    int max_tokens;
};

static bool handle(void *user, const char *name, const char *value, struct error *err)
{
    struct args *a = user;
    bool ok = true;
    int64_t n = 0;
    if (!name && !a->masker)
        a->masker = value;
    else if (!name)
        a->model = value;
    else if (cli_engine_option(&a->engine, name, value, err, &ok))
        return ok;
    else if (strcmp(name, "text") == 0)
        a->text = value;
    else if (strcmp(name, "max-tokens") == 0) {
        ok = cli_int(name, value, 1, MOST_TOKENS, &n, err);
        a->max_tokens = (int)n;
    }
    return ok;
}

static bool check_args(const struct args *a, struct error *err)
{
    if (!a->masker)
        return fail_code(err, EXIT_CODE_USAGE,
                         "calibrate needs the name of a masker: double-sparsity");
    if (strcmp(a->masker, "double-sparsity") != 0)
        return fail_code(err, EXIT_CODE_USAGE,
                         "calibrate: there is nothing to calibrate of \"%.40s\"; double-sparsity "
                         "is what can be",
                         a->masker);
    return a->text ||
           fail_code(err, EXIT_CODE_USAGE,
                     "calibrate needs --text FILE, a text like those the model will read");
}

/* The first tokens of the text, as many as asked for. */
static bool read_tokens(const struct args *a, const char *folder, struct token_list *out,
                        struct error *err)
{
    struct buf text = {0};
    struct tokenizer *t = tokenizer_open(folder, err);
    bool ok = t && (strcmp(a->text, "-") == 0
                        ? file_read_fd(&text, 0, "standard input", MAX_TEXT_BYTES, err)
                        : file_read(&text, a->text, MAX_TEXT_BYTES, err));
    ok = ok && tokenizer_encode(t, text.data ? text.data : "", text.len, TOKENIZE_PLAIN, out, err);
    if (ok && out->n == 0)
        ok = fail(err, "%s: the text is empty", a->text);
    if (ok && out->n > (size_t)a->max_tokens)
        out->n = (size_t)a->max_tokens;
    buf_free(&text);
    tokenizer_close(t);
    return ok;
}

/* A model with a cache for one sequence, and what is measured. */
struct runner {
    const struct backend *backend;
    struct device *dev;
    struct model *model;
    struct kv_cache cache;
    struct forward_buffers *buffers;
    struct step_state *step; /* (device) */
    int32_t *tokens;         /* (device) */
    struct channel_stats *stats;
};

static bool runner_open(struct runner *r, const struct args *a, const char *folder,
                        struct token_list *tokens, struct error *err)
{
    struct device_options options = {
        .n_threads = a->engine.n_threads, .exact = true, .isa = a->engine.isa};
    char why[512];
    r->dev = backend_open(a->engine.backend, &options, &r->backend, why, sizeof why);
    if (!r->dev)
        return fail_code(err, EXIT_CODE_NO_DEVICE, "no device: %s", why);
    r->model = model_load(folder, r->backend, r->dev, NULL, err);
    if (!r->model)
        return false;
    const struct model_config *c = &r->model->config;
    if (tokens->n > (size_t)c->max_seq_len)
        tokens->n = (size_t)c->max_seq_len;
    int n = (int)tokens->n, max_rows = r->model->max_rows < n ? r->model->max_rows : n;
    if (!kv_cache_open(&r->cache, r->backend, r->dev, c, DTYPE_F32, n, err))
        return false;
    r->buffers = forward_buffers_open(r->model, max_rows, n, err);
    if (!r->buffers)
        return false;
    r->step = r->backend->alloc(r->dev, sizeof *r->step);
    r->tokens = r->backend->alloc(r->dev, (size_t)max_rows * sizeof *r->tokens);
    if (!r->step || !r->tokens)
        return fail_code(err, EXIT_CODE_NO_DEVICE, "out of memory for %d tokens", n);
    r->stats = channel_stats_open(r->backend, r->dev, c, max_rows);
    return true;
}

static void runner_close(struct runner *r)
{
    if (!r->dev)
        return;
    channel_stats_close(r->stats);
    r->backend->release(r->dev, r->step);
    r->backend->release(r->dev, r->tokens);
    forward_buffers_close(r->buffers);
    kv_cache_close(&r->cache);
    model_close(r->model);
    r->backend->close(r->dev);
}

static bool prefill(struct runner *r, const struct token_list *tokens, struct error *err)
{
    int n = (int)tokens->n, rows;
    char why[512];
    for (int done = 0; done < n; done += rows) {
        rows = context_chunk_rows(r->model, done);
        rows = rows < n - done ? rows : n - done;
        struct step_state host = {.n_context = done};
        r->backend->upload(r->dev, r->step, &host, sizeof host);
        r->backend->upload(r->dev, r->tokens, tokens->ids + done,
                           (size_t)rows * sizeof *tokens->ids);
        struct forward_call call = {.buffers = r->buffers,
                                    .tokens = r->tokens,
                                    .n_rows = rows,
                                    .context = &r->cache,
                                    .step = r->step,
                                    .method = channel_stats_method(r->stats),
                                    .max_keys = done + rows};
        model_forward(r->model, &call, NULL, 0);
        if (!r->backend->sync(r->dev, why, sizeof why))
            return fail_code(err, EXIT_CODE_RUNTIME, "%s", why);
    }
    return true;
}

static bool write_channels(const struct channel_stats *stats, struct error *err)
{
    struct json *root = channel_stats_to_json(stats);
    struct buf out = {0};
    json_write(&out, root, false);
    buf_append_char(&out, '\n');
    bool ok = cli_write(out.data, out.len, err);
    buf_free(&out);
    json_free(root);
    return ok;
}

static int run(int argc, char **argv)
{
    struct args a = {.max_tokens = DEFAULT_TOKENS};
    struct error err = {0};
    struct token_list tokens = {0};
    struct runner r = {0};
    int code;
    cli_engine_defaults(&a.engine);
    if (!cli_parse(&command_calibrate, argc, argv, handle, &a, &code))
        return code;
    char *folder = NULL;
    bool ok = check_args(&a, &err) && (folder = cli_model_folder(a.model, &err)) &&
              read_tokens(&a, folder, &tokens, &err) &&
              runner_open(&r, &a, folder, &tokens, &err) && prefill(&r, &tokens, &err) &&
              write_channels(r.stats, &err);
    runner_close(&r);
    token_list_free(&tokens);
    free(folder);
    return ok ? EXIT_CODE_OK : cli_fail(&err);
}

const struct cli_command command_calibrate = {
    .name = "calibrate",
    .usage = "double-sparsity [MODEL] --text FILE [OPTION]...",
    .summary = "measure on a text what a masker must know of a model",
    .examples = "  attnscope calibrate double-sparsity MODEL --text book.txt > channels.json\n"
                "  attnscope ask MODEL --sample paris "
                "--stack double-sparsity:10%:channels=channels.json\n",
    .options =
        (const struct cli_option[]){
            {"text", "FILE", "a text like those the model will read; - for stdin"},
            {"max-tokens", "N", "read at most the first N tokens of it (default 4096)"},
            {"backend", "auto|cpu|cuda", "the backend (auto: the first that works)"},
            {"threads", "N", "processor threads (default: all)"},
            {"isa", "auto|reference|avx2|avx512", "the newest instruction set to use"},
            {NULL, NULL, NULL}},
    .max_positional = 2,
    .run = run,
};
