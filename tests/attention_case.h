/* One attention call with random queries, keys and values, for the tests and benchmarks of the cpu
 * backend. */
#ifndef ATTNSCOPE_TESTS_ATTENTION_CASE_H
#define ATTNSCOPE_TESTS_ATTENTION_CASE_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"
#include "kernels/cpu/convert.h"

struct case_shape {
    int n_rows, n_keys; /* K: keys with the call's own rows */
    int n_heads, n_kv_heads, head_dim;
    enum dtype dtype;
    int n_tail; /* of the K - n_rows keys before the call; with 0 the rows go to the context */
    int window, first_key;
    bool sink;
};

struct attention_case {
    struct attention att;
    struct step_state step;
    struct attention_counts counts;
    float *q, *out, *sink_logits;
    void *k[KV_SEGMENTS], *v[KV_SEGMENTS];
};

static inline uint32_t case_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

/* Roughly normal, mean 0, variance 1. */
static inline float case_normal(uint64_t *state)
{
    float sum = -6.0f;
    for (int i = 0; i < 12; i++)
        sum += (float)case_random(state) * 0x1p-31f;
    return sum;
}

static inline void *case_rows(size_t n, enum dtype dtype, uint64_t *random)
{
    void *p = calloc(n, dtype_bytes(dtype));
    for (size_t i = 0; i < n; i++) {
        float x = case_normal(random);
        if (dtype == DTYPE_BF16)
            ((uint16_t *)p)[i] = f32_to_bf16(x);
        else
            ((float *)p)[i] = x;
    }
    return p;
}

/* The KV buffers end exactly where the keys do, so that reading further is an error that a
 * sanitizer sees.  q has a gap between rows. */
static inline void case_open(struct attention_case *c, const struct case_shape *shape,
                             uint64_t seed)
{
    uint64_t random = seed * 2654435761u + 12345;
    size_t q_stride = (size_t)shape->n_heads * (size_t)shape->head_dim + 24;
    int n_before = shape->n_keys - shape->n_rows;
    int n_tail = shape->n_tail ? shape->n_tail + shape->n_rows : 0;
    int capacity[KV_SEGMENTS] = {shape->n_keys - n_tail, n_tail};
    memset(c, 0, sizeof *c);
    c->step = (struct step_state){.n_context = n_before - shape->n_tail,
                                  .n_tail = shape->n_tail,
                                  .append_tail = shape->n_tail > 0,
                                  .seed = seed};
    c->q = case_rows((size_t)shape->n_rows * q_stride, DTYPE_F32, &random);
    c->out = calloc((size_t)shape->n_rows * (size_t)shape->n_heads, (size_t)shape->head_dim * 4);
    for (int s = 0; s < KV_SEGMENTS; s++) {
        size_t n = (size_t)shape->n_kv_heads * (size_t)capacity[s] * (size_t)shape->head_dim;
        c->k[s] = n ? case_rows(n, shape->dtype, &random) : NULL;
        c->v[s] = n ? case_rows(n, shape->dtype, &random) : NULL;
    }
    if (shape->sink) {
        c->sink_logits = calloc((size_t)shape->n_heads, sizeof(float));
        for (int h = 0; h < shape->n_heads; h++)
            c->sink_logits[h] = 3.0f * case_normal(&random);
    }
    c->att = (struct attention){.out = c->out,
                                .q = c->q,
                                .q_stride = (int)q_stride,
                                .n_rows = shape->n_rows,
                                .n_heads = shape->n_heads,
                                .kv = {.k = {c->k[0], c->k[1]},
                                       .v = {c->v[0], c->v[1]},
                                       .capacity = {capacity[0], capacity[1]},
                                       .dtype = shape->dtype,
                                       .n_kv_heads = shape->n_kv_heads,
                                       .head_dim = shape->head_dim},
                                .step = &c->step,
                                .counts = &c->counts,
                                .sink_logits = c->sink_logits,
                                .scale = 1.0f / sqrtf((float)shape->head_dim),
                                .window = shape->window,
                                .first_key = shape->first_key,
                                .layer = 3,
                                .max_keys = shape->n_keys};
}

static inline void case_close(struct attention_case *c)
{
    free(c->q);
    free(c->out);
    free(c->sink_logits);
    for (int s = 0; s < KV_SEGMENTS; s++) {
        free(c->k[s]);
        free(c->v[s]);
    }
}

static inline size_t case_out_count(const struct attention_case *c)
{
    return (size_t)c->att.n_rows * (size_t)c->att.n_heads * (size_t)c->att.kv.head_dim;
}

/* |a - b| / |b|. */
static inline double relative_error(const float *a, const float *b, size_t n)
{
    double difference = 0.0, norm = 0.0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)a[i] - (double)b[i];
        difference += d * d;
        norm += (double)b[i] * (double)b[i];
    }
    return norm > 0.0 ? sqrt(difference / norm) : sqrt(difference);
}

#endif
