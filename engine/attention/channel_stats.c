#include "engine/attention/channel_stats.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/memory.h"

struct channel_stats {
    const struct backend *backend;
    struct device *dev;
    int n_layers, n_heads, n_kv_heads, head_dim;
    double *sums; /* [n_layers, n_heads, head_dim] of |q k| */
    float *q;     /* [n_heads * head_dim] a row's queries, downloaded */
    float *k;     /* [n_kv_heads, max_rows, head_dim] the call's own keys, downloaded */
    int max_rows;
};

struct channel_stats *channel_stats_open(const struct backend *backend, struct device *dev,
                                         const struct model_config *config, int max_rows)
{
    struct channel_stats *s = xcalloc(1, sizeof *s);
    size_t dim = (size_t)config->head_dim, q_width = (size_t)config->n_heads * dim;
    *s = (struct channel_stats){backend,
                                dev,
                                config->n_layers,
                                config->n_heads,
                                config->n_kv_heads,
                                config->head_dim,
                                .max_rows = max_rows};
    s->sums = xcalloc((size_t)config->n_layers * q_width, sizeof *s->sums);
    s->q = xcalloc(q_width, sizeof *s->q);
    s->k = xcalloc((size_t)config->n_kv_heads * (size_t)max_rows * dim, sizeof *s->k);
    return s;
}

void channel_stats_close(struct channel_stats *s)
{
    if (!s)
        return;
    free(s->sums);
    free(s->q);
    free(s->k);
    free(s);
}

/* --- Measuring ---------------------------------------------------------------------------------
 */

static void download_keys(struct channel_stats *s, const struct attention *att)
{
    struct step_state step;
    s->backend->download(s->dev, &step, att->step, sizeof step);
    assert(!step.append_tail && step.n_tail == 0);
    size_t dim = (size_t)s->head_dim, rows = (size_t)s->max_rows;
    for (size_t head = 0; head < (size_t)s->n_kv_heads; head++) {
        size_t first = head * (size_t)att->kv.capacity[KV_CONTEXT] + (size_t)step.n_context;
        s->backend->download(s->dev, s->k + head * rows * dim,
                             (const float *)att->kv.k[KV_CONTEXT] + first * dim,
                             (size_t)att->n_rows * dim * sizeof *s->k);
    }
}

static void add_row(struct channel_stats *s, int layer, int row)
{
    size_t dim = (size_t)s->head_dim;
    int group = s->n_heads / s->n_kv_heads;
    for (int head = 0; head < s->n_heads; head++) {
        const float *q = s->q + (size_t)head * dim;
        const float *k = s->k + ((size_t)(head / group) * (size_t)s->max_rows + (size_t)row) * dim;
        double *sums = s->sums + ((size_t)layer * (size_t)s->n_heads + (size_t)head) * dim;
        for (size_t d = 0; d < dim; d++)
            sums[d] += fabs((double)q[d] * (double)k[d]);
    }
}

static void attend(void *user, const struct attention *att)
{
    struct channel_stats *s = user;
    assert(att->kv.dtype == DTYPE_F32 && att->n_rows <= s->max_rows && att->layer < s->n_layers);
    download_keys(s, att);
    for (int row = 0; row < att->n_rows; row++) {
        s->backend->download(s->dev, s->q, att->q + (size_t)row * (size_t)att->q_stride,
                             (size_t)s->n_heads * (size_t)s->head_dim * sizeof *s->q);
        add_row(s, att->layer, row);
    }
    s->backend->attend_dense(s->dev, att);
}

struct attention_method channel_stats_method(struct channel_stats *s)
{
    return (struct attention_method){attend, s};
}

/* --- Order -------------------------------------------------------------------------------------
 */

struct ranked_channel {
    double sum;
    int channel;
};

static int by_falling_sum(const void *a, const void *b)
{
    const struct ranked_channel *x = a, *y = b;
    if (x->sum != y->sum)
        return x->sum > y->sum ? -1 : 1;
    return x->channel - y->channel;
}

static struct json *head_to_json(const struct channel_stats *s, int layer, int head,
                                 struct ranked_channel *order)
{
    size_t which = (size_t)layer * (size_t)s->n_heads + (size_t)head;
    struct json *list = json_new_array();
    for (int d = 0; d < s->head_dim; d++)
        order[d] = (struct ranked_channel){s->sums[which * (size_t)s->head_dim + (size_t)d], d};
    qsort(order, (size_t)s->head_dim, sizeof *order, by_falling_sum);
    for (int d = 0; d < s->head_dim; d++)
        json_add_int(list, order[d].channel);
    return list;
}

struct json *channel_stats_to_json(const struct channel_stats *s)
{
    struct json *root = json_new_object();
    struct ranked_channel *order = xcalloc((size_t)s->head_dim, sizeof *order);
    for (int layer = 0; layer < s->n_layers; layer++) {
        char name[64];
        struct json *heads = json_new_array();
        for (int head = 0; head < s->n_heads; head++)
            json_add(heads, head_to_json(s, layer, head, order));
        snprintf(name, sizeof name, "model.layers.%d.self_attn.qk_proj", layer);
        json_set(root, name, heads);
    }
    free(order);
    return root;
}
