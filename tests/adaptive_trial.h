/* What tests of adaptive sampling on the cpu backend share. */
#ifndef ATTNSCOPE_TESTS_ADAPTIVE_TRIAL_H
#define ATTNSCOPE_TESTS_ADAPTIVE_TRIAL_H

#include "tests/selection_trial.h"

static inline struct adaptive_sampling sampling_of(struct budget base, double epsilon, double delta)
{
    return (struct adaptive_sampling){
        .base = base, .epsilon = epsilon, .delta = delta, .temperature = 1.0};
}

static inline void select_with(struct trial *t, const struct adaptive_sampling *s, enum share share)
{
    backend_cpu.select_adaptive(t->dev, t->sel, &t->c.att, s, 2, share);
}

/* In f64. */
static inline double exact_score(const struct trial *t, int row, int head, int key)
{
    const struct attention *att = &t->c.att;
    int n_context = att->kv.capacity[KV_CONTEXT], s = key < n_context ? KV_CONTEXT : KV_TAIL;
    int head_dim = att->kv.head_dim, kv_head = head / (t->m.n_heads / t->m.n_kv_heads);
    size_t k = ((size_t)kv_head * (size_t)att->kv.capacity[s] +
                (size_t)(key - (s == KV_TAIL ? n_context : 0))) *
               (size_t)head_dim;
    double z = 0.0;
    for (int d = 0; d < head_dim; d++)
        z += (double)t->c.q[row * att->q_stride + head * head_dim + d] *
             (double)load_as_f32(att->kv.k[s], att->kv.dtype, k + (size_t)d);
    return z * (double)att->scale;
}

#endif
