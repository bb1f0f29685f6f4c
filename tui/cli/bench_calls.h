/* Attention calls of all layers over distinct random keys and values: what `bench attention` and
 * `bench select` time, and the cpu backend's answer to one of them. */
#ifndef ATTNSCOPE_TUI_CLI_BENCH_CALLS_H
#define ATTNSCOPE_TUI_CLI_BENCH_CALLS_H

#include "engine/model/kv_cache.h"
#include "tui/cli/bench.h"

struct bench_calls {
    struct bench *bench;
    struct kv_cache cache;
    float *q, *out; /* (device) [n_heads * head_dim] */
    struct step_state *step;
    struct attention_counts *counts;
};

bool bench_calls_open(struct bench_calls *c, struct bench *b, struct error *err);
void bench_calls_close(struct bench_calls *c);
/* One layer's decode call; counts NULL. */
struct attention bench_call(const struct bench_calls *c, int layer);

/* The same call on the cpu backend, from downloaded memory. */
struct bench_reference {
    const struct backend *backend;
    struct device *dev;
    struct attention att;
    struct selection *selection; /* NULL until asked for */
    void *memory[6];
};
bool bench_reference_open(struct bench_reference *r, const struct bench_calls *c, int layer,
                          struct error *err);
void bench_reference_close(struct bench_reference *r);
/* Runs the stack (NULL: dense) on the reference, whose out and selection then hold the answer. */
bool bench_reference_run(struct bench_reference *r, const struct stack *stack, struct error *err);

/* |got - want| / |want|; infinity if a value is not finite. */
double bench_difference(const float *got, const float *want, size_t n);

#endif
