/* SOCKET on the cpu: keys fall into buckets of tables of random planes, the query into each bucket
 * with a probability; a key's score is the sum of its buckets' probabilities times its value's
 * length.
 *
 * The idea to hold: the probability of a bucket is a product over bits, so that of a few bits
 * together is looked up: a table of 2^BUCKET_PART_BITS products per part of a bucket's number,
 * small enough for registers.  Buckets lie table by table, each an array over keys. Source:
 * "SOCKET", arXiv 2602.06283; its closed form. */
#include <math.h>
#include <stdlib.h>

#include "kernels/cpu/index.h"

enum {
    SCORE_KEYS = 2048, /* keys of one scoring task */
    MAX_BITS = 32
};

struct buckets_job {
    struct device *dev;
    const struct key_index *index;
    const struct attention *att;
    struct attention_shape shape;
    struct key_range added; /* buckets_add */
    int n_blocks;           /* tasks per head */
    struct selection *sel;  /* buckets_score */
    float *parts;           /* [n_rows, n_heads, n_tables, n_parts, BUCKET_PART] */
};

static int n_planes_of(const struct key_index_config *c)
{
    return c->buckets.n_tables * c->buckets.n_bits;
}

static int n_parts_of(const struct key_index_config *c)
{
    return (c->buckets.n_bits + BUCKET_PART_BITS - 1) / BUCKET_PART_BITS;
}

static size_t code_bytes(const struct key_index_config *c)
{
    return c->buckets.n_bits > 16 ? 4 : 2;
}

static size_t kv_head_of(const struct key_index *index, int layer, int kv_head)
{
    return (size_t)layer * (size_t)index->config.n_kv_heads + (size_t)kv_head;
}

/* [n_tables, stride] of one KV head. */
static void *head_codes(const struct key_index *index, int layer, int kv_head)
{
    size_t n = (size_t)index->config.buckets.n_tables * index->stride * code_bytes(&index->config);
    return (char *)index->codes + kv_head_of(index, layer, kv_head) * n;
}

static float *head_norms(const struct key_index *index, int layer, int kv_head)
{
    return index->norms + kv_head_of(index, layer, kv_head) * index->stride;
}

static const float *layer_planes(const struct key_index *index, int layer)
{
    const struct key_index_config *c = &index->config;
    size_t n = (size_t)c->head_dim * (size_t)hash_padded(n_planes_of(c));
    return index->planes + (c->buckets.n_planes > 1 ? (size_t)layer * n : 0);
}

/* --- Memory ---------------------------------------------------------------------------------- */

static bool buckets_open(struct key_index *index)
{
    const struct key_index_config *c = &index->config;
    size_t n = (size_t)c->n_layers * (size_t)c->n_kv_heads * index->stride;
    assert(c->buckets.n_tables > 0 && c->buckets.n_bits > 0 && c->buckets.n_bits <= MAX_BITS);
    assert(c->buckets.n_planes == 1 || c->buckets.n_planes == c->n_layers);
    index->planes =
        index_planes(c->buckets.planes, c->buckets.n_planes, n_planes_of(c), c->head_dim);
    index->zeros = calloc((size_t)hash_padded(n_planes_of(c)), sizeof *index->zeros);
    index->codes = calloc(n * (size_t)c->buckets.n_tables, code_bytes(c));
    index->norms = calloc(n, sizeof *index->norms);
    return index->planes && index->zeros && index->codes && index->norms;
}

static void buckets_close(struct key_index *index)
{
    free(index->planes);
    free(index->zeros);
    free(index->codes);
    free(index->norms);
}

static uint64_t buckets_bytes(const struct key_index_config *c, size_t stride)
{
    return (uint64_t)c->n_layers * (uint64_t)c->n_kv_heads * stride *
           ((uint64_t)c->buckets.n_tables * code_bytes(c) + sizeof(float));
}

/* --- Keys ------------------------------------------------------------------------------------ */

/* Buckets of `key` from its products with the planes. */
static void store_codes(const struct key_index *index, void *codes, int key, const float *products)
{
    int n_bits = index->config.buckets.n_bits;
    for (int table = 0; table < index->config.buckets.n_tables; table++) {
        uint32_t code = 0;
        for (int bit = 0; bit < n_bits; bit++)
            code |= (uint32_t)(products[table * n_bits + bit] >= 0.0f) << bit;
        size_t at = (size_t)table * index->stride + (size_t)key;
        if (n_bits > 16)
            ((uint32_t *)codes)[at] = code;
        else
            ((uint16_t *)codes)[at] = (uint16_t)code;
    }
}

static float length_of(const void *v, enum dtype dtype, size_t at, int n)
{
    float sum = 0.0f;
    for (int i = 0; i < n; i++) {
        float x = load_as_f32(v, dtype, at + (size_t)i);
        sum = fmaf(x, x, sum);
    }
    return sqrtf(sum);
}

/* Keys [begin, end), at most HASH_ROWS, of one KV head. */
static void add_keys(const struct buckets_job *job, int kv_head, int begin, int end, float *x,
                     float *products)
{
    const struct key_index *index = job->index;
    int layer = job->att->layer, head_dim = job->shape.head_dim;
    int n_planes = n_planes_of(&index->config), padded = hash_padded(n_planes);
    void *codes = head_codes(index, layer, kv_head);
    float *norms = head_norms(index, layer, kv_head);
    enum dtype dtype = job->att->kv.dtype;
    for (int segment = 0; segment < KV_SEGMENTS; segment++) {
        struct key_run run = attention_run(job->att, &job->shape, kv_head, segment, begin, end);
        int n = run.end - run.begin;
        if (n <= 0)
            continue;
        load_f32(x, run.k, dtype, 0, n * head_dim);
        index_kernels(job->dev->isa)
            ->linear(products, x, layer_planes(index, layer), DTYPE_F32, index->zeros, n, head_dim,
                     padded);
        for (int i = 0; i < n; i++) {
            store_codes(index, codes, run.begin + i, products + (size_t)i * (size_t)padded);
            norms[run.begin + i] = length_of(run.v, dtype, (size_t)i * (size_t)head_dim, head_dim);
        }
    }
}

static void add_task(void *user, int task_index, int thread_index)
{
    const struct buckets_job *job = user;
    int kv_head = task_index / job->n_blocks, block = task_index % job->n_blocks;
    int begin = job->added.begin + block * HASH_ROWS;
    size_t padded = (size_t)hash_padded(n_planes_of(&job->index->config));
    size_t n = HASH_ROWS * ((size_t)job->shape.head_dim + padded);
    float *x = cpu_scratch(job->dev, thread_index, n * sizeof *x);
    if (x)
        add_keys(job, kv_head, begin, min_int(begin + HASH_ROWS, job->added.end), x,
                 x + HASH_ROWS * (size_t)job->shape.head_dim);
}

static void buckets_add(struct device *dev, struct key_index *index, const struct attention *att,
                        struct key_range added, int kept)
{
    (void)kept;
    struct buckets_job job = {.dev = dev, .index = index, .att = att, .added = added};
    job.shape = attention_shape(att);
    job.n_blocks = (added.end - added.begin + HASH_ROWS - 1) / HASH_ROWS;
    cpu_parallel(dev, index->config.n_kv_heads * job.n_blocks, add_task, &job);
}

/* --- Scores ---------------------------------------------------------------------------------- */

/* part [BUCKET_PART] = products of the probabilities of n bits, from bit `first` on: of bit p,
 * which is set with probability sigmoid(2 h_p / tau). */
static void fill_part(float *part, const float *h, float tau, int n)
{
    part[0] = 1.0f;
    for (int bit = 0; bit < n; bit++) {
        float set = 1.0f / (1.0f + expf(-2.0f * h[bit] / tau));
        float unset = 1.0f / (1.0f + expf(2.0f * h[bit] / tau));
        for (int i = 0; i < 1 << bit; i++) {
            part[i + (1 << bit)] = part[i] * set;
            part[i] *= unset;
        }
    }
    for (int i = 1 << n; i < BUCKET_PART; i++)
        part[i] = 0.0f; /* no bucket has such a number */
}

static void query_task(void *user, int task_index, int thread_index)
{
    const struct buckets_job *job = user;
    const struct key_index_config *c = &job->index->config;
    const struct key_buckets *b = &c->buckets;
    int row = task_index / job->att->n_heads, head = task_index % job->att->n_heads;
    int n_planes = n_planes_of(c), n_parts = n_parts_of(c);
    float *h = cpu_scratch(job->dev, thread_index, (size_t)hash_padded(n_planes) * sizeof *h);
    if (!h)
        return;
    index_kernels(job->dev->isa)
        ->linear(h, attention_query(job->att, &job->shape, row, head),
                 layer_planes(job->index, job->att->layer), DTYPE_F32, job->index->zeros, 1,
                 c->head_dim, hash_padded(n_planes));
    for (int i = 0; i < n_planes; i++)
        h[i] = tanhf(h[i]) / sqrtf((float)c->head_dim);
    float *part = job->parts + selection_slot(job->sel, row, head) * (size_t)b->n_tables *
                                   (size_t)n_parts * BUCKET_PART;
    for (int table = 0; table < b->n_tables; table++)
        for (int first = 0; first < b->n_bits; first += BUCKET_PART_BITS, part += BUCKET_PART)
            fill_part(part, h + table * b->n_bits + first, b->tau,
                      min_int(BUCKET_PART_BITS, b->n_bits - first));
}

static void score_task(void *user, int task_index, int thread_index)
{
    (void)thread_index;
    const struct buckets_job *job = user;
    const struct key_index *index = job->index;
    int head = task_index / job->n_blocks, block = task_index % job->n_blocks;
    int layer = job->att->layer, kv_head = head / job->shape.group;
    size_t part_floats =
        (size_t)index->config.buckets.n_tables * (size_t)n_parts_of(&index->config) * BUCKET_PART;
    for (int row = 0; row < job->att->n_rows; row++) {
        struct key_range visible = job->sel->visible[row];
        int begin = max_int(visible.begin, block * SCORE_KEYS);
        int end = min_int(visible.end, (block + 1) * SCORE_KEYS);
        if (begin >= end)
            continue;
        size_t bytes = code_bytes(&index->config);
        struct key_buckets_of codes = {
            .codes = (const char *)head_codes(index, layer, kv_head) + (size_t)begin * bytes,
            .wide = bytes == 4,
            .stride = index->stride,
            .n_tables = index->config.buckets.n_tables,
            .n_parts = n_parts_of(&index->config),
        };
        index_kernels(job->dev->isa)
            ->score_buckets(selection_scores(job->sel, row, head) + begin, &codes,
                            job->parts + selection_slot(job->sel, row, head) * part_floats,
                            head_norms(index, layer, kv_head) + begin, end - begin);
    }
}

/* Bytes of buckets and lengths read, told as K rows. */
static void count_scores(const struct buckets_job *job)
{
    const struct key_index_config *c = &job->index->config;
    size_t row_bytes = (size_t)c->head_dim * dtype_bytes(c->kv_dtype);
    size_t key_bytes =
        (size_t)c->n_kv_heads * ((size_t)c->buckets.n_tables * code_bytes(c) + sizeof(float));
    uint64_t n_bytes = 0;
    for (int row = 0; row < job->sel->n_rows; row++)
        n_bytes += key_bytes * (size_t)(job->sel->visible[row].end - job->sel->visible[row].begin);
    job->att->counts->score_rows += (n_bytes + row_bytes - 1) / row_bytes;
}

static void buckets_score(struct device *dev, struct selection *sel, const struct key_index *index,
                          const struct attention *att)
{
    struct buckets_job job = {.dev = dev, .index = index, .att = att, .sel = sel};
    const struct key_index_config *c = &index->config;
    int n_queries = att->n_rows * att->n_heads;
    job.shape = attention_shape(att);
    job.parts = cpu_workspace(dev, CPU_WORKSPACE_INDEX,
                              (size_t)n_queries * (size_t)c->buckets.n_tables *
                                  (size_t)n_parts_of(c) * BUCKET_PART * sizeof *job.parts);
    if (!job.parts)
        return;
    cpu_parallel(dev, n_queries, query_task, &job);
    job.n_blocks = (sel->visible[sel->n_rows - 1].end + SCORE_KEYS - 1) / SCORE_KEYS;
    cpu_parallel(dev, att->n_heads * job.n_blocks, score_task, &job);
    sel->scope.again = true;
    if (att->counts)
        count_scores(&job);
}

const struct index_kind index_buckets = {
    .n_entries = index_n_keys,
    .open = buckets_open,
    .close = buckets_close,
    .bytes = buckets_bytes,
    .add = buckets_add,
    .score = buckets_score,
};
