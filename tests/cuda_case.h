/* An attention_case (host memory, as the cpu backend takes it) copied to the cuda device. */
#ifndef ATTNSCOPE_TESTS_CUDA_CASE_H
#define ATTNSCOPE_TESTS_CUDA_CASE_H

#include "tests/attention_case.h"
#include "tests/backend_pair.h"

struct cuda_case {
    struct attention att; /* device pointers; otherwise as the case's */
    void *memory[16];
    int n_memory;
};

static inline void *cuda_case_copy(struct cuda_case *c, const void *from, size_t n_bytes)
{
    if (!from || !n_bytes)
        return NULL;
    struct device *dev = pair.dev[PAIR_CUDA];
    void *p = pair.backend[PAIR_CUDA]->alloc(dev, n_bytes);
    assert_non_null(p);
    pair.backend[PAIR_CUDA]->upload(dev, p, from, n_bytes);
    c->memory[c->n_memory++] = p;
    return p;
}

static inline void cuda_case_open(struct cuda_case *out, const struct attention_case *from)
{
    memset(out, 0, sizeof *out);
    out->att = from->att;
    struct attention *att = &out->att;
    size_t row = (size_t)att->kv.head_dim * dtype_bytes(att->kv.dtype);
    for (int s = 0; s < KV_SEGMENTS; s++) {
        size_t n_bytes = (size_t)att->kv.n_kv_heads * (size_t)att->kv.capacity[s] * row;
        att->kv.k[s] = cuda_case_copy(out, from->att.kv.k[s], n_bytes);
        att->kv.v[s] = cuda_case_copy(out, from->att.kv.v[s], n_bytes);
    }
    att->q = cuda_case_copy(out, from->att.q,
                            (size_t)att->n_rows * (size_t)att->q_stride * sizeof(float));
    size_t n_out = case_out_count(from);
    float *poison = malloc(n_out * sizeof *poison);
    assert_non_null(poison);
    for (size_t i = 0; i < n_out; i++)
        poison[i] = NAN;
    att->out = cuda_case_copy(out, poison, n_out * sizeof *poison);
    free(poison);
    att->step = cuda_case_copy(out, from->att.step, sizeof *from->att.step);
    att->counts = cuda_case_copy(out, from->att.counts, sizeof *from->att.counts);
    att->sink_logits =
        cuda_case_copy(out, from->att.sink_logits, (size_t)att->n_heads * sizeof(float));
}

static inline void cuda_case_close(struct cuda_case *c)
{
    for (int i = 0; i < c->n_memory; i++)
        pair.backend[PAIR_CUDA]->release(pair.dev[PAIR_CUDA], c->memory[i]);
}

/* The output on the host; the caller frees. */
static inline float *cuda_case_out(const struct cuda_case *c, const struct attention_case *from)
{
    size_t n_bytes = case_out_count(from) * sizeof(float);
    float *out = malloc(n_bytes);
    assert_non_null(out);
    pair.backend[PAIR_CUDA]->download(pair.dev[PAIR_CUDA], out, c->att.out, n_bytes);
    return out;
}

static inline struct attention_counts cuda_case_counts(const struct cuda_case *c)
{
    struct attention_counts counts;
    pair.backend[PAIR_CUDA]->download(pair.dev[PAIR_CUDA], &counts, c->att.counts, sizeof counts);
    return counts;
}

#endif
