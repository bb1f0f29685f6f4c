/* Attention as the formula has it: plain loops in f64, one (row, head) after the other.  What the
 * fast ways are tested against, and what runs where the processor has no vector instructions. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/selection.h"

/* One query's running softmax. */
struct query_sum {
    const struct attention *att;
    const struct attention_shape *shape;
    const float *q;
    int head;
    double max, sum;
    float *out; /* [head_dim], sum of exp(z - max) v until finished */
};

static struct query_sum query_start(const struct attention *att,
                                    const struct attention_shape *shape, int row, int head)
{
    struct query_sum query = {.att = att,
                              .shape = shape,
                              .q = attention_query(att, shape, row, head),
                              .head = head,
                              .max = -INFINITY,
                              .out = attention_out(att, shape, row, head)};
    memset(query.out, 0, (size_t)shape->head_dim * sizeof *query.out);
    return query;
}

static struct key_run one_key(const struct query_sum *query, int key)
{
    enum kv_segment segment = key < query->shape->n_context ? KV_CONTEXT : KV_TAIL;
    return attention_run(query->att, query->shape, query->head / query->shape->group, segment, key,
                         key + 1);
}

/* Attends to one key, with weight exp(bias). */
static void query_add(struct query_sum *query, int key, double bias)
{
    struct key_run run = one_key(query, key);
    enum dtype dtype = query->att->kv.dtype;
    int head_dim = query->shape->head_dim;
    double z = 0.0;
    for (int d = 0; d < head_dim; d++)
        z += (double)query->q[d] * (double)load_as_f32(run.k, dtype, (size_t)d);
    z = z * (double)query->att->scale + bias;
    double max = z > query->max ? z : query->max;
    double scale = exp(query->max - max), weight = exp(z - max);
    query->sum = query->sum * scale + weight;
    for (int d = 0; d < head_dim; d++)
        query->out[d] = (float)((double)query->out[d] * scale +
                                weight * (double)load_as_f32(run.v, dtype, (size_t)d));
    query->max = max;
}

static void query_finish(struct query_sum *query)
{
    double sum = query->sum, scale = 1.0;
    if (sum == 0.0)
        return;
    if (query->att->sink_logits) { /* a logit without a value */
        double sink = (double)query->att->sink_logits[query->head];
        double max = sink > query->max ? sink : query->max;
        scale = exp(query->max - max);
        sum = sum * scale + exp(sink - max);
    }
    for (int d = 0; d < query->shape->head_dim; d++)
        query->out[d] = (float)((double)query->out[d] * scale / sum);
}

void attention_reference_dense(const struct attention *att)
{
    struct attention_shape shape = attention_shape(att);
    for (int row = 0; row < att->n_rows; row++) {
        struct key_range visible = attention_visible(att, &shape, row);
        for (int head = 0; head < att->n_heads; head++) {
            struct query_sum query = query_start(att, &shape, row, head);
            for (int key = visible.begin; key < visible.end; key++)
                query_add(&query, key, 0.0);
            query_finish(&query);
        }
    }
}

void attention_reference_selected(const struct attention *att, const struct selection *sel)
{
    struct attention_shape shape = attention_shape(att);
    for (int row = 0; row < att->n_rows; row++)
        for (int head = 0; head < att->n_heads; head++) {
            struct query_sum query = query_start(att, &shape, row, head);
            const struct row_ranges *ranges = &sel->ranges[row];
            for (int i = 0; i < ranges->n; i++)
                for (int key = ranges->range[i].begin; key < ranges->range[i].end; key++)
                    query_add(&query, key, 0.0);
            int from = selection_list_head(sel, head);
            const struct key_list *list = selection_list(sel, row, from);
            const uint32_t *keys = selection_keys(sel, row, from);
            const float *probs = selection_probs(sel, row, from);
            for (int i = 0; i < list->n; i++)
                query_add(&query, (int)keys[i],
                          -log((double)(list->mixed ? probs[i] : list->prob)));
            if (ranges->n == 0 && list->n == 0)
                query_add(&query, selection_position(sel, row), 0.0);
            query_finish(&query);
        }
}

/* --- The row way's inner loops in plain C, for scores and probes ----------------------------- */

static size_t row_number(const struct row_list *rows, int i)
{
    return rows->index ? rows->index[i] - rows->first : (size_t)i;
}

static void scores(float *s, const float *q, int padded_dim, int n_queries,
                   const struct row_list *k, const struct row_list *ahead)
{
    (void)ahead;
    for (int h = 0; h < n_queries; h++)
        for (int j = 0; j < round_up(k->n, 16); j++) {
            float sum = j < k->n ? 0.0f : -INFINITY;
            for (int d = 0; j < k->n && d < k->head_dim; d++)
                sum += q[h * padded_dim + d] *
                       load_as_f32(k->base, k->dtype,
                                   row_number(k, j) * (size_t)k->head_dim + (size_t)d);
            s[h * ROW_KEYS + j] = sum;
        }
}

static void keep_bits(float *s, const uint32_t *bits, int head, const float *bias, float constant,
                      int n)
{
    for (int j = 0; j < n; j++)
        s[j] = !bits || bits[j] >> head & 1 ? s[j] + (bias ? bias[j] : constant) : -INFINITY;
}

static float soften(float *s, int n, float *max, float *sum)
{
    float old = *max, now = old, total = 0.0f;
    for (int j = 0; j < n; j++)
        now = s[j] > now ? s[j] : now;
    for (int j = 0; j < n; j++)
        total += s[j] = now == -INFINITY ? 0.0f : expf(s[j] - now);
    float scale = old == now ? 1.0f : expf(old - now);
    *max = now;
    *sum = *sum * scale + total;
    return scale;
}

static void accumulate(float *acc, const float *scale, const float *p, int padded_dim,
                       int n_queries, const struct row_list *v, const struct row_list *ahead)
{
    (void)ahead;
    for (int h = 0; h < n_queries; h++)
        for (int d = 0; d < v->head_dim; d++) {
            float sum = acc[h * padded_dim + d] * scale[h];
            for (int j = 0; j < v->n; j++)
                sum += p[h * ROW_KEYS + j] *
                       load_as_f32(v->base, v->dtype,
                                   row_number(v, j) * (size_t)v->head_dim + (size_t)d);
            acc[h * padded_dim + d] = sum;
        }
}

static void ordered_scores(float *s, const float *q, float scale, const struct row_list *k)
{
    static const int apart[] = {2, 1, 4, 8};
    for (int j = 0; j < k->n; j++) {
        size_t row = row_number(k, j) * (size_t)k->head_dim;
        float sum[16] = {0};
        for (int d = 0; d < k->head_dim; d++)
            sum[d % 16] = fmaf(q[d], load_as_f32(k->base, k->dtype, row + (size_t)d), sum[d % 16]);
        for (int step = 0; step < 4; step++)
            for (int i = 0; i < 16; i++)
                if (!(i & apart[step]))
                    sum[i] += sum[i + apart[step]];
        s[j] = scale * sum[0];
    }
}

const struct attention_kernels attention_kernels_reference = {scores, keep_bits, soften, accumulate,
                                                              ordered_scores};
