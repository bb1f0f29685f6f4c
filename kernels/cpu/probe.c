/* What a selection lost: per (row, head) the dense softmax mass on attended keys, and the distance
 * of the output from dense attention.
 *
 * The mass is a share of the keys' mass: a sink logit takes part in both outputs, but not in the
 * recall, so that recall 1 always means that nothing was left out.  A head's own key, where it had
 * to stand in for an empty selection, counts as attended. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/selection.h"

struct probe_job {
    struct device *dev;
    const struct attention *att;
    const struct selection *sel;
    const struct attention_probe *out;
    struct attention_shape shape;
};

/* Walks a row's selected keys upwards, for all queries of a union. */
struct selected_walk {
    const struct row_ranges *ranges;
    const struct key_union *list;
    int at; /* next list entry */
};

/* Bits of the queries that attend to key; keys are asked for in ascending order. */
static uint32_t attended(struct selected_walk *walk, int key)
{
    if (selection_in_ranges(walk->ranges, key))
        return UINT32_MAX;
    const struct key_union *list = walk->list;
    while (walk->at < list->n && (int)list->keys[walk->at] < key)
        walk->at++;
    if (walk->at == list->n || (int)list->keys[walk->at] != key)
        return 0;
    return list->bits.bits ? list->bits.bits[walk->at] : UINT32_MAX;
}

/* Adds the weights of the n keys from `first` on that each query attends to. */
static void add_attended(struct selected_walk *walk, const struct row_state *state, int first,
                         int n, double *mass)
{
    for (int j = 0; j < n; j++) {
        uint32_t bits = attended(walk, first + j);
        for (int i = 0; bits && i < state->n_queries; i++)
            if (bits >> i & 1)
                mass[i] += (double)state->s[(size_t)i * ROW_KEYS + (size_t)j];
    }
}

/* Dense attention of the state's queries with one segment's keys, and the mass of those attended
 * to, relative to the state's maximum as its sums are. */
static void attend_and_weigh(const struct probe_job *job, struct row_state *state,
                             struct key_run run, struct selected_walk *walk, double *mass)
{
    const struct attention_kernels *kernels = state->kernels;
    struct row_list rows = {.dtype = job->att->kv.dtype, .head_dim = job->shape.head_dim};
    size_t row_bytes = (size_t)rows.head_dim * dtype_bytes(rows.dtype);
    float scale[ROW_QUERIES];
    for (int key = run.begin; key < run.end; key += ROW_KEYS) {
        size_t offset = (size_t)(key - run.begin) * row_bytes;
        rows.n = min_int(ROW_KEYS, run.end - key);
        rows.base = (const char *)run.k + offset;
        kernels->scores(state->s, state->q, state->padded_dim, state->n_queries, &rows, NULL);
        for (int i = 0; i < state->n_queries; i++) {
            scale[i] = kernels->soften(state->s + (size_t)i * ROW_KEYS, round_up(rows.n, 16),
                                       &state->max[i], &state->sum[i]);
            mass[i] *= (double)scale[i];
        }
        if (walk)
            add_attended(walk, state, key, rows.n, mass);
        rows.base = (const char *)run.v + offset;
        kernels->accumulate(state->acc, scale, state->s, state->padded_dim, state->n_queries, &rows,
                            NULL);
    }
}

/* error [2] = |out - dense|^2, |dense|^2. */
static void measure_error(const struct probe_job *job, const struct row_state *state, int query,
                          int row, int head, float *error)
{
    const float *out = attention_out(job->att, &job->shape, row, head);
    const float *acc = state->acc + (size_t)query * (size_t)state->padded_dim;
    double difference = 0.0, dense = 0.0;
    float factor = state->sum[query] > 0.0f
                       ? attention_factor(job->att, head, state->max[query], state->sum[query])
                       : 0.0f;
    for (int d = 0; d < job->shape.head_dim; d++) {
        double o = (double)(acc[d] * factor), delta = (double)out[d] - o;
        difference += delta * delta;
        dense += o * o;
    }
    error[0] = (float)difference;
    error[1] = (float)dense;
}

static void probe_task(void *user, int task_index, int thread_index)
{
    const struct probe_job *job = user;
    const struct selection *sel = job->sel;
    int n_unions = selection_n_unions(sel);
    int row = task_index / n_unions, which = task_index % n_unions;
    int first_head = which * sel->union_heads, kv_head = first_head / sel->group;
    void *scratch = cpu_scratch(job->dev, thread_index, row_state_bytes(job->shape.padded_dim));
    if (!scratch)
        return;
    struct row_state *state =
        row_state_start(scratch, attention_kernels(job->dev->isa), job->shape.padded_dim);
    for (int i = 0; i < sel->union_heads; i++)
        row_state_add_query(state, job->att, &job->shape, row, first_head + i);
    struct selected_walk walk = {&sel->ranges[row], selection_union(sel, row, which), 0};
    double mass[ROW_QUERIES] = {0};
    struct key_range seen = sel->visible[row];
    for (int segment = 0; segment < KV_SEGMENTS; segment++)
        attend_and_weigh(
            job, state,
            attention_run(job->att, &job->shape, kv_head, segment, seen.begin, seen.end),
            sel->full ? NULL : &walk, mass);
    for (int i = 0; i < sel->union_heads; i++) {
        size_t slot = selection_slot(sel, row, first_head + i);
        double recall = sel->full || state->sum[i] <= 0.0f ? 1.0 : mass[i] / (double)state->sum[i];
        job->out->recall[slot] = (float)(recall < 1.0 ? recall : 1.0);
        measure_error(job, state, i, row, first_head + i, job->out->error + 2 * slot);
    }
}

void cpu_probe(struct device *dev, const struct attention *att, const struct selection *sel,
               const struct attention_probe *out)
{
    if (cpu_failed(dev))
        return;
    assert(att->n_rows == sel->n_rows);
    struct probe_job job = {
        .dev = dev, .att = att, .sel = sel, .out = out, .shape = attention_shape(att)};
    cpu_parallel(dev, att->n_rows * selection_n_unions(sel), probe_task, &job);
}
