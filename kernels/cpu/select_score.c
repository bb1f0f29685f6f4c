/* True scores: what the oracles rank by, and the measure of what other maskers estimate. */
#include "kernels/cpu/selection.h"

#include <string.h>

enum { SCORE_KEYS = 512 /* keys of one scoring task: its K rows stay in the cache for all rows */ };

struct score_job {
    struct device *dev;
    struct selection *sel;
    const struct attention *att;
    struct attention_shape shape;
    int begin, n_blocks; /* keys from begin on, SCORE_KEYS per block */
};

/* Scores of one row's queries, `head` being the first, with the keys of one segment. */
static void score_row(const struct score_job *job, struct row_state *state, int row, int head,
                      struct key_run run)
{
    struct row_list k = {.dtype = job->att->kv.dtype, .head_dim = job->shape.head_dim};
    size_t row_bytes = (size_t)k.head_dim * dtype_bytes(k.dtype);
    for (int key = run.begin; key < run.end; key += ROW_KEYS) {
        k.base = (const char *)run.k + (size_t)(key - run.begin) * row_bytes;
        k.n = min_int(ROW_KEYS, run.end - key);
        struct row_list next = k;
        next.base = (const char *)k.base + (size_t)k.n * row_bytes;
        next.n = min_int(ROW_KEYS, run.end - key - k.n);
        state->kernels->scores(state->s, state->q, state->padded_dim, state->n_queries, &k,
                               next.n > 0 ? &next : NULL);
        for (int i = 0; i < state->n_queries; i++)
            memcpy(selection_scores(job->sel, row, head + i) + key, state->s + (size_t)i * ROW_KEYS,
                   (size_t)k.n * sizeof(float));
    }
}

static void score_task(void *user, int task_index, int thread_index)
{
    const struct score_job *job = user;
    const struct attention *att = job->att;
    const struct attention_shape *shape = &job->shape;
    int kv_head = task_index / job->n_blocks;
    int begin = job->begin + task_index % job->n_blocks * SCORE_KEYS, end = begin + SCORE_KEYS;
    void *scratch = cpu_scratch(job->dev, thread_index, row_state_bytes(shape->padded_dim));
    if (!scratch)
        return;
    for (int row = 0; row < att->n_rows; row++) {
        struct key_range visible = job->sel->visible[row];
        for (int first = 0; first < shape->group; first += ROW_QUERIES) {
            struct row_state *state =
                row_state_start(scratch, attention_kernels(job->dev->isa), shape->padded_dim);
            for (int i = first; i < min_int(first + ROW_QUERIES, shape->group); i++)
                row_state_add_query(state, att, shape, row, kv_head * shape->group + i);
            for (int segment = 0; segment < KV_SEGMENTS; segment++)
                score_row(job, state, row, kv_head * shape->group + first,
                          attention_run(att, shape, kv_head, segment, max_int(begin, visible.begin),
                                        min_int(end, visible.end)));
        }
    }
}

void cpu_score_exact(struct device *dev, struct selection *sel, const struct attention *att)
{
    if (selection_skips(dev, sel, att))
        return;
    sel->scope = (struct choice_scope){0};
    struct score_job job = {.dev = dev, .sel = sel, .att = att, .shape = attention_shape(att)};
    /* Both limits rise from row to row. */
    job.begin = sel->visible[0].begin;
    int n_keys = sel->visible[sel->n_rows - 1].end - job.begin;
    job.n_blocks = (n_keys + SCORE_KEYS - 1) / SCORE_KEYS;
    cpu_parallel(dev, job.n_blocks * sel->n_kv_heads, score_task, &job);
    for (int row = 0; att->counts && row < sel->n_rows; row++)
        att->counts->score_rows +=
            (uint64_t)(sel->visible[row].end - sel->visible[row].begin) * (uint64_t)sel->n_kv_heads;
}
