/* Whether a whole forward pass agrees with the cpu backend: a model of one layer of the same shape
 * and the same random weights on both, a short prefill and one decode step with the stack. */
#include <stdlib.h>
#include <string.h>

#include "engine/attention/sparse_attention.h"
#include "engine/base/memory.h"
#include "engine/model/kv_cache.h"
#include "tui/cli/bench.h"
#include "tui/cli/bench_calls.h"

enum { N_PREFILL = 48, N_ALL = N_PREFILL + 1 };

/* Products of prefill round activations to bf16 where the cpu's exact ones do not. */
static const double TOLERANCE = 2e-2;

struct pass {
    const struct backend *backend;
    struct device *dev;
    struct model *model;
    struct forward_buffers *buffers;
    struct kv_cache cache;
    struct sparse_attention *sparse;
    struct step_state *step;
    int32_t *tokens;
    float *logits;
};

static void pass_close(struct pass *p)
{
    if (!p->backend)
        return;
    sparse_attention_close(p->sparse);
    forward_buffers_close(p->buffers);
    kv_cache_close(&p->cache);
    p->backend->release(p->dev, p->step);
    p->backend->release(p->dev, p->tokens);
    p->backend->release(p->dev, p->logits);
    model_close(p->model);
}

static bool pass_open(struct pass *p, const struct bench *b, const struct model_config *config,
                      struct error *err)
{
    p->model = model_random(config, DTYPE_BF16, 1, p->backend, p->dev, err);
    if (!p->model ||
        !kv_cache_open(&p->cache, p->backend, p->dev, config, b->engine.kv_dtype, N_ALL, err))
        return false;
    p->buffers = forward_buffers_open(p->model, N_PREFILL, N_ALL, err);
    if (!p->buffers)
        return false;
    if (b->has_stack) {
        struct masker_model shape = {.config = config, .kv_dtype = b->engine.kv_dtype};
        int layer;
        struct stack stack = bench_checked_stack(b, &layer);
        p->sparse = sparse_attention_open(&stack, p->backend, p->dev, &shape, N_ALL, err);
        if (!p->sparse)
            return false;
    }
    p->step = p->backend->alloc(p->dev, sizeof *p->step);
    p->tokens = p->backend->alloc(p->dev, N_ALL * sizeof *p->tokens);
    p->logits = p->backend->alloc(p->dev, (size_t)config->vocab_size * sizeof *p->logits);
    return (p->step && p->tokens && p->logits) ||
           fail_code(err, EXIT_CODE_NO_DEVICE, "out of memory for the check");
}

static void forward(struct pass *p, int from, int n, bool sparse)
{
    struct step_state step = {.n_context = from};
    p->backend->upload(p->dev, p->step, &step, sizeof step);
    struct forward_call call = {.buffers = p->buffers,
                                .tokens = p->tokens + from,
                                .n_rows = n,
                                .context = &p->cache,
                                .step = p->step,
                                .max_keys = from + n};
    if (sparse && p->sparse)
        call.method = sparse_attention_method(p->sparse);
    model_forward(p->model, &call, p->logits, 1);
}

/* The logits [vocab_size] after the decode step. */
static bool pass_run(struct pass *p, const struct model_config *config, float *logits,
                     struct error *err)
{
    int32_t tokens[N_ALL];
    for (int i = 0; i < N_ALL; i++)
        tokens[i] = (int32_t)(((uint32_t)i * 2654435761u >> 8) % (uint32_t)config->vocab_size);
    p->backend->upload(p->dev, p->tokens, tokens, sizeof tokens);
    forward(p, 0, N_PREFILL, false);
    forward(p, N_PREFILL, 1, true);
    p->backend->download(p->dev, logits, p->logits, (size_t)config->vocab_size * sizeof *logits);
    char why[256] = "";
    return p->backend->sync(p->dev, why, sizeof why) ||
           fail_code(err, EXIT_CODE_RUNTIME, "the device failed: %s", why);
}

bool bench_check_forward(struct bench *b, struct json *result, struct error *err)
{
    struct model_config config = b->config;
    config.n_layers = 1;
    struct device_options options = {.exact = true};
    bool is_cpu = strcmp(b->backend->name, "cpu") == 0;
    options.isa = is_cpu ? DEVICE_ISA_REFERENCE : DEVICE_ISA_AUTO;
    struct pass passes[2] = {{.backend = b->backend, .dev = b->dev}, {0}};
    size_t n = (size_t)config.vocab_size;
    float *logits = xcalloc(2 * n, sizeof *logits);
    char why[256] = "";
    passes[1].dev = backend_open("cpu", &options, &passes[1].backend, why, sizeof why);
    bool ok = passes[1].dev || fail_code(err, EXIT_CODE_NO_DEVICE, "%s", why);
    for (int i = 0; ok && i < 2; i++)
        ok = pass_open(&passes[i], b, &config, err) &&
             pass_run(&passes[i], &config, logits + (size_t)i * n, err);
    if (ok) {
        double difference = bench_difference(logits, logits + n, n);
        json_set_number(result, "one_layer_logits_error", difference);
        if (!(difference <= TOLERANCE))
            ok = fail_code(err, EXIT_CODE_RUNTIME,
                           "the logits of one layer differ from the reference by %.3g, at most "
                           "%.3g is allowed",
                           difference, TOLERANCE);
    }
    pass_close(&passes[0]);
    pass_close(&passes[1]);
    if (passes[1].dev)
        passes[1].backend->close(passes[1].dev);
    free(logits);
    return ok;
}
