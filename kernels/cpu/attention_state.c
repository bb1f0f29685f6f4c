/* Queries that share blocks of keys: the running softmax of the row way, and the merging of parts
 * of either way. */
#include "kernels/cpu/attention.h"

#include <assert.h>
#include <math.h>
#include <string.h>

size_t row_state_bytes(int padded_dim)
{
    size_t n_floats = (size_t)ROW_QUERIES * (2 * (size_t)padded_dim + ROW_KEYS);
    return (sizeof(struct row_state) + CPU_ALIGN) + n_floats * sizeof(float);
}

struct row_state *row_state_start(void *scratch, const struct attention_kernels *kernels,
                                  int padded_dim)
{
    struct row_state *state = scratch;
    state->kernels = kernels;
    state->n_queries = 0;
    state->padded_dim = padded_dim;
    state->limited = false;
    state->s = (float *)((char *)scratch + (sizeof *state + CPU_ALIGN - 1) / CPU_ALIGN * CPU_ALIGN);
    state->q = state->s + (size_t)ROW_QUERIES * ROW_KEYS;
    state->acc = state->q + (size_t)ROW_QUERIES * (size_t)padded_dim;
    return state;
}

void row_state_add_query(struct row_state *state, const struct attention *att,
                         const struct attention_shape *shape, int row, int head)
{
    int at = state->n_queries++;
    assert(at < ROW_QUERIES);
    const float *from = attention_query(att, shape, row, head);
    float *q = state->q + (size_t)at * (size_t)state->padded_dim;
    for (int d = 0; d < shape->head_dim; d++)
        q[d] = from[d] * att->scale;
    for (int d = shape->head_dim; d < state->padded_dim; d++)
        q[d] = 0.0f;
    memset(state->acc + (size_t)at * (size_t)state->padded_dim, 0,
           (size_t)state->padded_dim * sizeof(float));
    state->max[at] = -INFINITY;
    state->sum[at] = 0.0f;
    state->visible[at] = attention_visible(att, shape, row);
    if (at > 0 && (state->visible[at].begin != state->visible[0].begin ||
                   state->visible[at].end != state->visible[0].end))
        state->limited = true;
}

/* Scores outside of the query's own range become -inf; the block is keys [first, first + n). */
static void limit(float *s, int first, int n, struct key_range visible)
{
    int begin = min_int(max_int(visible.begin - first, 0), n);
    int end = max_int(min_int(visible.end - first, n), begin);
    for (int j = 0; j < begin; j++)
        s[j] = -INFINITY;
    for (int j = end; j < n; j++)
        s[j] = -INFINITY;
}

/* Block [at, at + n) of a run or of a list. */
static struct row_list block_of(const struct row_list *all, const void *base, int at, int n)
{
    struct row_list block = *all;
    block.base = base;
    block.n = n;
    if (all->index)
        block.index = all->index + at;
    else
        block.base =
            (const char *)base + (size_t)at * (size_t)all->head_dim * dtype_bytes(all->dtype);
    return block;
}

/* Keys of one segment: all->index or contiguous, all->n of them; bits may be NULL. */
static void attend_rows(struct row_state *state, const struct row_list *all, const void *k,
                        const void *v, int first, const struct row_bits *bits)
{
    const struct attention_kernels *kernels = state->kernels;
    int n_queries = state->n_queries;
    bool biased = bits && (bits->bits || bits->bias || bits->constant != 0.0f);
    float scale[ROW_QUERIES];
    for (int at = 0; at < all->n; at += ROW_KEYS) {
        int n = min_int(ROW_KEYS, all->n - at), n_padded = round_up(n, 16);
        int next = at + n, n_next = min_int(ROW_KEYS, all->n - next);
        struct row_list k_rows = block_of(all, k, at, n), v_rows = block_of(all, v, at, n);
        struct row_list k_next = block_of(all, k, next, n_next);
        bool scattered = all->index != NULL;
        kernels->scores(state->s, state->q, state->padded_dim, n_queries, &k_rows, &v_rows);
        for (int i = 0; i < n_queries; i++) {
            float *s = state->s + (size_t)i * ROW_KEYS;
            if (state->limited && !scattered)
                limit(s, first + at, n, state->visible[i]);
            if (biased)
                kernels->keep_bits(s, bits->bits ? bits->bits + at : NULL, i,
                                   bits->bias ? bits->bias + (size_t)i * bits->bias_stride + at
                                              : NULL,
                                   bits->constant, n);
            scale[i] = kernels->soften(s, n_padded, &state->max[i], &state->sum[i]);
        }
        kernels->accumulate(state->acc, scale, state->s, state->padded_dim, n_queries, &v_rows,
                            n_next > 0 ? &k_next : NULL);
    }
}

void row_state_attend_run(struct row_state *state, const struct attention *att,
                          const struct attention_shape *shape, int kv_head, int begin, int end)
{
    for (int segment = 0; segment < KV_SEGMENTS; segment++) {
        struct key_run run = attention_run(att, shape, kv_head, segment, begin, end);
        struct row_list all = {
            .dtype = att->kv.dtype, .head_dim = shape->head_dim, .n = run.end - run.begin};
        if (all.n > 0)
            attend_rows(state, &all, run.k, run.v, run.begin, NULL);
    }
}

/* The first of n ascending numbers that is not below `limit`. */
static int lower_bound(const uint32_t *index, int n, uint32_t below)
{
    int begin = 0;
    while (n > 0) {
        int half = n / 2;
        if (index[begin + half] < below) {
            begin += half + 1;
            n -= half + 1;
        } else {
            n = half;
        }
    }
    return begin;
}

void row_state_attend_list(struct row_state *state, const struct attention *att,
                           const struct attention_shape *shape, int kv_head, const uint32_t *index,
                           const struct row_bits *bits, int n)
{
    int n_first = lower_bound(index, n, (uint32_t)shape->n_context);
    for (int segment = 0; segment < KV_SEGMENTS; segment++) {
        int at = segment == KV_CONTEXT ? 0 : n_first;
        struct key_run run = attention_run(att, shape, kv_head, segment, 0, shape->n_keys);
        struct row_list all = {.index = index + at,
                               .first = (uint32_t)run.begin,
                               .dtype = att->kv.dtype,
                               .head_dim = shape->head_dim,
                               .n = segment == KV_CONTEXT ? n_first : n - n_first};
        struct row_bits part = *bits;
        if (part.bits)
            part.bits += at;
        if (part.bias)
            part.bias += at;
        if (all.n > 0)
            attend_rows(state, &all, run.k, run.v, 0, &part);
    }
}

void row_state_store(const struct row_state *state, int query, float *part)
{
    size_t n = (size_t)state->padded_dim;
    memcpy(part, state->acc + (size_t)query * n, n * sizeof *part);
    part[n] = state->max[query];
    part[n + 1] = state->sum[query];
}

void row_state_finish(const struct row_state *state, int query, const struct attention *att,
                      const struct attention_shape *shape, int row, int head)
{
    const float *acc = state->acc + (size_t)query * (size_t)state->padded_dim;
    float *out = attention_out(att, shape, row, head);
    float factor = state->sum[query] > 0.0f
                       ? attention_factor(att, head, state->max[query], state->sum[query])
                       : 0.0f; /* a row of padding sees nothing */
    for (int d = 0; d < shape->head_dim; d++)
        out[d] = acc[d] * factor;
}

void attention_merge(const struct attention *att, float *out, int head, const float *parts,
                     int n_parts, size_t part_stride, int padded_dim)
{
    int head_dim = att->kv.head_dim;
    bool any = false;
    float max = -INFINITY, sum = 0.0f;
    for (int i = 0; i < n_parts; i++) {
        float part_max = parts[(size_t)i * part_stride + (size_t)padded_dim];
        any = any || part_max > -INFINITY;
        max = part_max > max ? part_max : max;
    }
    if (att->sink_logits && att->sink_logits[head] > max)
        max = att->sink_logits[head];
    memset(out, 0, (size_t)head_dim * sizeof *out);
    if (!any) /* a row of padding sees nothing: zeros */
        return;
    if (att->sink_logits)
        sum = expf(att->sink_logits[head] - max);
    for (int i = 0; i < n_parts; i++) {
        const float *part = parts + (size_t)i * part_stride;
        float scale = expf(part[padded_dim] - max);
        sum += scale * part[padded_dim + 1];
        for (int d = 0; d < head_dim; d++)
            out[d] += scale * part[d];
    }
    float inverse = 1.0f / sum;
    for (int d = 0; d < head_dim; d++)
        out[d] *= inverse;
}
