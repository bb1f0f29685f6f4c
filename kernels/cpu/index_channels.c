/* DoubleSparsity on the cpu: of each key a few elements per query head, its label, and scores from
 * the labels alone.
 *
 * The idea to hold: labels lie channel by channel, each an array over keys, so that scoring runs
 * along keys.  Below 16 bits a label is its levels, packed into words of 32 bits, and the two ends
 * of its range, which are elements of the key and so exact in the keys' type; with 16 bits it is
 * the elements themselves.
 * Source: Yang et al. 2024, arXiv 2408.07092. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/index.h"
#include "kernels/cpu/index_levels.h"

enum {
    ADD_KEYS = 256,    /* keys of one labelling task */
    SCORE_KEYS = 4096, /* keys of one scoring task */
    MAX_CHANNELS = 1024
};

_Static_assert((int)LABEL_KEYS <= (int)LIST_SLACK, "what lies behind the last key is read");

struct channels_job {
    struct device *dev;
    const struct key_index *index;
    const struct attention *att;
    struct attention_shape shape;
    struct key_range added; /* channels_add */
    int n_blocks;           /* tasks per head */
    struct selection *sel;  /* channels_score */
    float *queries;         /* [n_rows, n_heads, n_channels] labels, over sqrt(n_channels) */
};

static size_t head_of(const struct key_index *index, int layer, int head)
{
    return (size_t)layer * (size_t)index->config.n_heads + (size_t)head;
}

static const int16_t *head_channels(const struct key_index *index, int layer, int head)
{
    return index->channels +
           head_of(index, layer, head) * (size_t)index->config.channels.n_channels;
}

static void *head_values(const struct key_index *index, int layer, int head)
{
    size_t at = head_of(index, layer, head) * (size_t)index->n_values * index->stride;
    return (char *)index->values + at * dtype_bytes(index->config.kv_dtype);
}

/* --- Memory ---------------------------------------------------------------------------------- */

static int n_words_of(const struct key_index_config *c)
{
    if (c->channels.label_bits >= 16)
        return 0;
    return (c->channels.n_channels * label_width(c) + 31) / 32;
}

static int n_values_of(const struct key_index_config *c)
{
    return c->channels.label_bits < 16 ? 2 : c->channels.n_channels;
}

static bool channels_open(struct key_index *index)
{
    const struct key_index_config *c = &index->config;
    const struct key_channels *from = &c->channels;
    size_t n = (size_t)c->n_layers * (size_t)c->n_heads;
    size_t n_channels = n * (size_t)from->n_channels;
    assert(from->n_channels > 0 && from->n_channels <= c->head_dim);
    assert(from->label_bits > 0 && from->label_bits <= 16);
    index->n_words = n_words_of(c);
    index->n_values = n_values_of(c);
    index->channels = calloc(n_channels, sizeof *index->channels);
    if (index->channels)
        memcpy(index->channels, from->channels, n_channels * sizeof *index->channels);
    if (index->n_words)
        index->words = calloc(n * (size_t)index->n_words * index->stride, sizeof *index->words);
    index->values = calloc(n * (size_t)index->n_values * index->stride, dtype_bytes(c->kv_dtype));
    return index->channels && index->values && (index->words || !index->n_words);
}

static void channels_close(struct key_index *index)
{
    free(index->words);
    free(index->channels);
    free(index->values);
}

static uint64_t channels_bytes(const struct key_index_config *c, size_t stride)
{
    return (uint64_t)c->n_layers * (uint64_t)c->n_heads * stride *
           ((uint64_t)n_words_of(c) * sizeof(uint32_t) +
            (uint64_t)n_values_of(c) * dtype_bytes(c->kv_dtype));
}

/* --- Keys ------------------------------------------------------------------------------------ */

/* x, one of the key's elements, into array `which` of values. */
static void store_value(const struct key_index *index, void *values, int which, int key, float x)
{
    store_f32(values, index->config.kv_dtype, (size_t)which * index->stride + (size_t)key, &x, 1);
}

static void store_levels(const struct key_index *index, uint32_t *words, void *values, int key,
                         const float *x)
{
    int n = index->config.channels.n_channels, width = label_width(&index->config);
    struct levels levels = levels_of(x, n, index->config.channels.label_bits);
    store_value(index, values, 0, key, levels.low);
    store_value(index, values, 1, key, levels.high);
    int c = 0;
    for (int w = 0; w < index->n_words; w++) {
        uint32_t word = 0;
        for (int shift = 0; shift < 32 && c < n; shift += width, c++)
            word |= (uint32_t)levels_nearest(&levels, x[c]) << shift;
        words[(size_t)w * index->stride + (size_t)key] = word;
    }
}

/* Labels of keys [begin, end) for one query head. */
static void add_keys(const struct channels_job *job, int head, int begin, int end)
{
    const struct key_index *index = job->index;
    const int16_t *channels = head_channels(index, job->att->layer, head);
    int n = index->config.channels.n_channels;
    uint32_t *words = index_words(index, job->att->layer, head);
    void *values = head_values(index, job->att->layer, head);
    for (int segment = 0; segment < KV_SEGMENTS; segment++) {
        struct key_run run =
            attention_run(job->att, &job->shape, head / job->shape.group, segment, begin, end);
        for (int key = run.begin; key < run.end; key++) {
            size_t row = (size_t)(key - run.begin) * (size_t)job->shape.head_dim;
            float x[MAX_CHANNELS];
            for (int c = 0; c < n; c++)
                x[c] = load_as_f32(run.k, job->att->kv.dtype, row + (size_t)channels[c]);
            if (index->config.channels.label_bits < 16)
                store_levels(index, words, values, key, x);
            else
                for (int c = 0; c < n; c++)
                    store_value(index, values, c, key, x[c]);
        }
    }
}

static void add_task(void *user, int task_index, int thread_index)
{
    (void)thread_index;
    const struct channels_job *job = user;
    int head = task_index / job->n_blocks, block = task_index % job->n_blocks;
    int begin = job->added.begin + block * ADD_KEYS;
    add_keys(job, head, begin, min_int(begin + ADD_KEYS, job->added.end));
}

static void channels_add(struct device *dev, struct key_index *index, const struct attention *att,
                         struct key_range added, int kept)
{
    (void)kept;
    struct channels_job job = {.dev = dev, .index = index, .att = att, .added = added};
    job.shape = attention_shape(att);
    assert(index->config.channels.n_channels <= MAX_CHANNELS);
    assert(index->config.kv_dtype == att->kv.dtype);
    job.n_blocks = (added.end - added.begin + ADD_KEYS - 1) / ADD_KEYS;
    cpu_parallel(dev, index->config.n_heads * job.n_blocks, add_task, &job);
}

/* --- Scores ---------------------------------------------------------------------------------- */

static void label_query(const struct channels_job *job, int row, int head)
{
    const struct key_channels *c = &job->index->config.channels;
    const int16_t *channels = head_channels(job->index, job->att->layer, head);
    const float *q = attention_query(job->att, &job->shape, row, head);
    float *to = job->queries + selection_slot(job->sel, row, head) * (size_t)c->n_channels;
    for (int i = 0; i < c->n_channels; i++)
        to[i] = q[channels[i]];
    if (c->label_bits < 16)
        levels_round(to, c->n_channels, c->label_bits);
    for (int i = 0; i < c->n_channels; i++)
        to[i] /= sqrtf((float)c->n_channels);
}

static struct key_labels head_labels(const struct channels_job *job, int head)
{
    const struct key_index *index = job->index;
    const struct key_channels *c = &index->config.channels;
    return (struct key_labels){.words = index_words(index, job->att->layer, head),
                               .values = head_values(index, job->att->layer, head),
                               .dtype = index->config.kv_dtype,
                               .stride = index->stride,
                               .n_channels = c->n_channels,
                               .n_bits = c->label_bits,
                               .width = label_width(&index->config)};
}

static void score_task(void *user, int task_index, int thread_index)
{
    (void)thread_index;
    const struct channels_job *job = user;
    int head = task_index / job->n_blocks, block = task_index % job->n_blocks;
    size_t n_channels = (size_t)job->index->config.channels.n_channels;
    const struct key_labels labels = head_labels(job, head);
    for (int row = 0; row < job->att->n_rows; row++) {
        struct key_range visible = job->sel->visible[row];
        int begin = max_int(visible.begin, block * SCORE_KEYS);
        int end = min_int(visible.end, (block + 1) * SCORE_KEYS);
        if (begin >= end)
            continue;
        struct key_labels from = labels;
        from.words = labels.words ? labels.words + begin : NULL;
        from.values = (const char *)labels.values + (size_t)begin * dtype_bytes(labels.dtype);
        index_kernels(job->dev->isa)
            ->score_labels(selection_scores(job->sel, row, head) + begin, &from,
                           job->queries + selection_slot(job->sel, row, head) * n_channels,
                           end - begin);
    }
}

/* Bytes of labels read, told as K rows. */
static void count_scores(const struct channels_job *job)
{
    const struct key_index *index = job->index;
    size_t value_bytes = dtype_bytes(index->config.kv_dtype);
    size_t row_bytes = (size_t)job->shape.head_dim * value_bytes;
    size_t key_bytes = (size_t)job->att->n_heads * ((size_t)index->n_values * value_bytes +
                                                    (size_t)index->n_words * sizeof(uint32_t));
    uint64_t n_bytes = 0;
    for (int row = 0; row < job->sel->n_rows; row++)
        n_bytes += key_bytes * (size_t)(job->sel->visible[row].end - job->sel->visible[row].begin);
    job->att->counts->score_rows += (n_bytes + row_bytes - 1) / row_bytes;
}

static void channels_score(struct device *dev, struct selection *sel, const struct key_index *index,
                           const struct attention *att)
{
    struct channels_job job = {.dev = dev, .index = index, .att = att, .sel = sel};
    size_t n = (size_t)att->n_rows * (size_t)att->n_heads;
    job.shape = attention_shape(att);
    n *= (size_t)index->config.channels.n_channels;
    job.queries = cpu_workspace(dev, CPU_WORKSPACE_INDEX, n * sizeof *job.queries);
    if (!job.queries)
        return;
    for (int row = 0; row < att->n_rows; row++)
        for (int head = 0; head < att->n_heads; head++)
            label_query(&job, row, head);
    job.n_blocks = (sel->visible[sel->n_rows - 1].end + SCORE_KEYS - 1) / SCORE_KEYS;
    cpu_parallel(dev, att->n_heads * job.n_blocks, score_task, &job);
    if (att->counts)
        count_scores(&job);
}

const struct index_kind index_channels = {
    .n_entries = index_n_keys,
    .open = channels_open,
    .close = channels_close,
    .bytes = channels_bytes,
    .add = channels_add,
    .score = channels_score,
};
