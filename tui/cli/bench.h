/* What the benchmarks share: options, an open device, a model with random weights, and the
 * machine's own limits measured in the same run. */
#ifndef ATTNSCOPE_TUI_CLI_BENCH_H
#define ATTNSCOPE_TUI_CLI_BENCH_H

#include <stdbool.h>

#include "engine/attention/stack.h"
#include "engine/base/error.h"
#include "engine/base/json.h"
#include "engine/model/model.h"
#include "engine/run/engine.h"

enum { BENCH_MAX_REPEATS = 100000 };

struct bench {
    struct engine_options engine;
    const char *shape;  /* "llama-3.2-1b" */
    int ctx;            /* tokens already in the cache; of a prefill: tokens to prefill */
    int n_repeats;      /* steps, or pairs of calls */
    int chunk;          /* rows of a prefill call; 0: as the engine does it */
    struct stack stack; /* of the sparse side */
    bool has_stack;
    bool as_json;

    struct model_config config;
    const struct backend *backend;
    struct device *dev;
    double bytes_per_s; /* read bandwidth, measured in this run */
    double flops_per_s; /* peak of the products, measured in this run */
};

/* Each runs one benchmark on the open device and sets figures in result. */
bool bench_decode(struct bench *b, struct json *result, struct error *err);
bool bench_prefill(struct bench *b, struct json *result, struct error *err);
bool bench_attention(struct bench *b, struct json *result, struct error *err);
bool bench_select(struct bench *b, struct json *result, struct error *err);
bool bench_gemv(struct bench *b, struct json *result, struct error *err);

/* What of the stack the checks hold against the cpu backend: the first of its lists that is not
 * dense and chooses by itself, and the first layer that has it; dense and layer 0 where there is
 * none. */
struct stack bench_checked_stack(const struct bench *b, int *layer);

/* Holds a forward pass of one layer against the cpu backend; false if it differs. */
bool bench_check_forward(struct bench *b, struct json *result, struct error *err);

/* A cache of b->ctx + n_more tokens with random keys and values of unit variance. */
struct kv_cache;
bool bench_fill_cache(struct bench *b, struct kv_cache *out, int n_more, struct error *err);
/* Sets the device's step state: n_context keys, nothing in the tail. */
struct step_state *bench_step(struct bench *b, int n_context);
double bench_now_us(void);

#endif
