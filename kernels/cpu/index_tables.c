/* MagicPIG on the cpu, its keys: codes by the signs of random planes, in several tables.
 *
 * Codes lie table by table, each an array over keys.  What keys are centred and scaled by is frozen
 * at a layer's first update, so that codes stay comparable; where some of those first keys are
 * forgotten, all keys are coded anew.
 * Source: Chen et al. 2024, arXiv 2410.16179. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/index_tables.h"

enum { MAX_TABLES = 512, MAX_BITS = 64 };

struct tables_job {
    struct device *dev;
    const struct key_index *index;
    const struct attention *att;
    struct attention_shape shape;
    struct key_range added;
    int n_blocks; /* tasks per head */
};

/* --- Memory ---------------------------------------------------------------------------------- */

/* Projections with their columns padded.  NULL: out of memory. */
static float *padded_projections(const struct key_index_config *c)
{
    size_t n_planes = (size_t)tables_n_planes(c), padded = (size_t)hash_padded((int)n_planes);
    size_t n_rows = (size_t)c->n_layers * ((size_t)c->head_dim + 1);
    float *to = calloc(n_rows * padded, sizeof *to);
    for (size_t row = 0; to && row < n_rows; row++)
        memcpy(to + row * padded, c->tables.projections + row * n_planes, n_planes * sizeof *to);
    return to;
}

static bool tables_open(struct key_index *index)
{
    const struct key_index_config *c = &index->config;
    size_t n = (size_t)c->n_layers * (size_t)c->n_kv_heads, dim = (size_t)c->head_dim;
    assert(c->tables.n_tables > 0 && c->tables.n_tables <= MAX_TABLES);
    assert(c->tables.n_bits > 0 && c->tables.n_bits <= MAX_BITS);
    index->planes = padded_projections(c);
    index->zeros = calloc((size_t)hash_padded(tables_n_planes(c)), sizeof *index->zeros);
    index->codes =
        calloc(n * (size_t)c->tables.n_tables * index->stride, (size_t)tables_code_bytes(c));
    index->means = calloc(n * dim, sizeof *index->means);
    index->norms = calloc(n * index->stride, sizeof *index->norms);
    index->radii = calloc(n, sizeof *index->radii);
    index->n_frozen = calloc((size_t)c->n_layers, sizeof *index->n_frozen);
    if (!index->planes || !index->zeros || !index->codes || !index->means || !index->norms ||
        !index->radii || !index->n_frozen)
        return false;
    if (c->tables.mean)
        memcpy(index->means, c->tables.mean, n * dim * sizeof *index->means);
    if (c->tables.norm)
        memcpy(index->radii, c->tables.norm, n * sizeof *index->radii);
    return true;
}

static void tables_close(struct key_index *index)
{
    free(index->planes);
    free(index->zeros);
    free(index->codes);
    free(index->means);
    free(index->norms);
    free(index->radii);
    free(index->n_frozen);
}

static uint64_t tables_bytes(const struct key_index_config *c, size_t stride)
{
    return (uint64_t)c->n_layers * (uint64_t)c->n_kv_heads * stride *
           ((uint64_t)c->tables.n_tables * (uint64_t)tables_code_bytes(c) + sizeof(float));
}

/* --- What keys are centred and scaled by --------------------------------------------------------
 */

/* Calls for every key of [0, n), as f32. */
#define FOR_EACH_KEY(job, kv_head, n, x, body)                                                     \
    for (int segment = 0; segment < KV_SEGMENTS; segment++) {                                      \
        struct key_run run = attention_run((job)->att, &(job)->shape, kv_head, segment, 0, n);     \
        for (int key = run.begin; key < run.end; key++) {                                          \
            load_f32(x, run.k, (job)->att->kv.dtype,                                               \
                     (size_t)(key - run.begin) * (size_t)(job)->shape.head_dim,                    \
                     (job)->shape.head_dim);                                                       \
            body                                                                                   \
        }                                                                                          \
    }

static void find_mean(const struct tables_job *job, int kv_head, float *x, double *sum)
{
    int n = job->added.end, dim = job->shape.head_dim;
    float *mean = tables_mean(job->index, job->att->layer, kv_head);
    memset(sum, 0, (size_t)dim * sizeof *sum);
    FOR_EACH_KEY(job, kv_head, n, x, {
        for (int i = 0; i < dim; i++)
            sum[i] += (double)x[i];
    })
    for (int i = 0; i < dim; i++)
        mean[i] = (float)(sum[i] / n);
}

static float length_from(const float *x, const float *mean, int n)
{
    float sum = 0.0f;
    for (int i = 0; i < n; i++)
        sum += (x[i] - mean[i]) * (x[i] - mean[i]);
    return sqrtf(sum);
}

static void freeze_task(void *user, int kv_head, int thread_index)
{
    const struct tables_job *job = user;
    const struct key_tables *c = &job->index->config.tables;
    size_t dim = (size_t)job->shape.head_dim;
    double *sum = cpu_scratch(job->dev, thread_index, dim * (sizeof(double) + sizeof(float)));
    if (!sum)
        return;
    float *x = (float *)(sum + dim), longest = 0.0f;
    const float *mean = tables_mean(job->index, job->att->layer, kv_head);
    if (!c->mean && c->center != CENTER_NONE)
        find_mean(job, kv_head, x, sum);
    if (c->norm)
        return;
    FOR_EACH_KEY(job, kv_head, job->added.end, x, {
        float length = length_from(x, mean, (int)dim);
        longest = length > longest ? length : longest;
    })
    job->index->radii[tables_head(job->index, job->att->layer, kv_head)] = longest;
}

/* --- Codes -------------------------------------------------------------------------------------
 */

static uint64_t code_of(const float *products, int n_bits)
{
    uint64_t code = 0;
    for (int bit = 0; bit < n_bits; bit++)
        code |= (uint64_t)(products[bit] > 0.0f) << bit;
    return code;
}

static const float *layer_planes(const struct key_index *index, int layer)
{
    const struct key_index_config *c = &index->config;
    return index->planes +
           (size_t)layer * ((size_t)c->head_dim + 1) * (size_t)hash_padded(tables_n_planes(c));
}

void tables_encode(const struct key_index *index, enum cpu_isa isa, int layer, const float *x,
                   float *products, uint64_t *codes)
{
    const struct key_index_config *c = &index->config;
    index_kernels(isa)->linear(products, x, layer_planes(index, layer), DTYPE_F32, index->zeros, 1,
                               c->head_dim + 1, hash_padded(tables_n_planes(c)));
    for (int table = 0; table < c->tables.n_tables; table++)
        codes[table] = code_of(products + table * c->tables.n_bits, c->tables.n_bits);
}

/* x [head_dim + 1] = the key on a sphere of radius N: centred, and lengthened by one coordinate;
 * shortened where it is longer.  Returns its length before. */
static float lift(float *x, const float *mean, float radius, int dim)
{
    float length = length_from(x, mean, dim);
    float scale = length > radius ? radius / length : 1.0f;
    for (int i = 0; i < dim; i++)
        x[i] = (x[i] - mean[i]) * scale;
    x[dim] = length < radius ? sqrtf(radius * radius - length * length) : 0.0f;
    return length;
}

static void store_codes(const struct key_index *index, void *codes, int key, const float *products)
{
    const struct key_tables *c = &index->config.tables;
    for (int table = 0; table < c->n_tables; table++) {
        uint64_t code = code_of(products + table * c->n_bits, c->n_bits);
        size_t at = (size_t)table * index->stride + (size_t)key;
        switch (tables_code_bytes(&index->config)) {
        case 2:
            ((uint16_t *)codes)[at] = (uint16_t)code;
            break;
        case 4:
            ((uint32_t *)codes)[at] = (uint32_t)code;
            break;
        default:
            ((uint64_t *)codes)[at] = code;
        }
    }
}

/* Keys [begin, end), at most HASH_ROWS, of one KV head. */
static void add_keys(const struct tables_job *job, int kv_head, int begin, int end, float *x,
                     float *products)
{
    const struct key_index *index = job->index;
    int layer = job->att->layer, dim = job->shape.head_dim;
    int padded = hash_padded(tables_n_planes(&index->config));
    const float *mean = tables_mean(index, layer, kv_head);
    float radius = index->radii[tables_head(index, layer, kv_head)];
    float *norms = tables_norms(index, layer, kv_head);
    for (int segment = 0; segment < KV_SEGMENTS; segment++) {
        struct key_run run = attention_run(job->att, &job->shape, kv_head, segment, begin, end);
        int n = run.end - run.begin;
        if (n <= 0)
            continue;
        for (int i = 0; i < n; i++) {
            float *to = x + (size_t)i * ((size_t)dim + 1);
            load_f32(to, run.k, job->att->kv.dtype, (size_t)i * (size_t)dim, dim);
            norms[run.begin + i] = lift(to, mean, radius, dim);
        }
        index_kernels(job->dev->isa)
            ->linear(products, x, layer_planes(index, layer), DTYPE_F32, index->zeros, n, dim + 1,
                     padded);
        for (int i = 0; i < n; i++)
            store_codes(index, tables_codes(index, layer, kv_head), run.begin + i,
                        products + (size_t)i * (size_t)padded);
    }
}

static void add_task(void *user, int task_index, int thread_index)
{
    const struct tables_job *job = user;
    int kv_head = task_index / job->n_blocks, block = task_index % job->n_blocks;
    int begin = job->added.begin + block * HASH_ROWS;
    size_t n_in = (size_t)job->shape.head_dim + 1;
    size_t padded = (size_t)hash_padded(tables_n_planes(&job->index->config));
    float *x = cpu_scratch(job->dev, thread_index, HASH_ROWS * (n_in + padded) * sizeof *x);
    if (x)
        add_keys(job, kv_head, begin, min_int(begin + HASH_ROWS, job->added.end), x,
                 x + HASH_ROWS * n_in);
}

static void tables_add(struct device *dev, struct key_index *index, const struct attention *att,
                       struct key_range added, int kept)
{
    (void)kept;
    struct tables_job job = {.dev = dev, .index = index, .att = att, .added = added};
    job.shape = attention_shape(att);
    if (added.end == 0)
        return;
    int *n_frozen = &index->n_frozen[att->layer];
    if (added.begin < *n_frozen || *n_frozen == 0) {
        job.added.begin = 0;
        *n_frozen = added.end;
        cpu_parallel(dev, index->config.n_kv_heads, freeze_task, &job);
    }
    job.n_blocks = (job.added.end - job.added.begin + HASH_ROWS - 1) / HASH_ROWS;
    cpu_parallel(dev, index->config.n_kv_heads * job.n_blocks, add_task, &job);
}

const struct index_kind index_tables = {
    .n_entries = index_n_keys,
    .open = tables_open,
    .close = tables_close,
    .bytes = tables_bytes,
    .add = tables_add,
};
