/* PQCache on the cpu: of each part of a key the number of the nearest of a few centroids, and
 * scores by what the query's products with the centroids say.
 *
 * Codes lie part by part, each an array over keys, so that scoring runs along keys: a part's table
 * of products lies in registers where it is small enough.
 * Source: Zhang et al. 2024, arXiv 2407.12820. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/index_codes.h"

enum {
    ADD_KEYS = 256,    /* keys of one coding task */
    SCORE_KEYS = 4096, /* keys of one scoring task */
    MAX_CODE_BITS = 12
};

struct codes_job {
    struct device *dev;
    const struct key_index *index;
    const struct attention *att;
    struct attention_shape shape;
    struct key_range added;
    int n_blocks;          /* tasks per head */
    struct selection *sel; /* codes_score */
    float *tables;         /* [n_rows, n_heads, n_parts, padded] */
};

/* --- Memory ---------------------------------------------------------------------------------- */

static size_t n_problems(const struct key_index_config *c)
{
    return (size_t)c->n_layers * (size_t)c->n_kv_heads * (size_t)c->codes.n_parts;
}

/* Given centroids [n_problems, n_centroids, dim], element by element. */
static void take_centroids(struct key_index *index)
{
    const struct key_index_config *c = &index->config;
    size_t n = (size_t)codes_n_centroids(c), padded = (size_t)codes_padded(c);
    size_t dim = (size_t)codes_dim(c);
    for (size_t problem = 0; problem < n_problems(c); problem++) {
        float *to = codes_centroids(index, problem);
        const float *from = c->codes.centroids + problem * n * dim;
        for (size_t d = 0; d < dim; d++)
            for (size_t i = 0; i < padded; i++)
                to[d * padded + i] = i < n ? from[i * dim + d] : INFINITY;
        index->phi[problem] = c->codes.phi ? c->codes.phi[problem] : 0.0f;
    }
}

static bool codes_open(struct key_index *index)
{
    const struct key_index_config *c = &index->config;
    size_t n = n_problems(c), n_floats = (size_t)codes_dim(c) * (size_t)codes_padded(c);
    assert(c->codes.n_parts > 0 && c->head_dim % c->codes.n_parts == 0);
    assert(c->codes.code_bits > 0 && c->codes.code_bits <= MAX_CODE_BITS);
    index->planes = calloc(n * n_floats, sizeof *index->planes);
    index->phi = calloc(n, sizeof *index->phi);
    index->codes = calloc(n * index->stride, (size_t)codes_bytes_of(c));
    index->n_frozen = calloc((size_t)c->n_layers, sizeof *index->n_frozen);
    if (!index->planes || !index->phi || !index->codes || !index->n_frozen)
        return false;
    if (c->codes.centroids)
        take_centroids(index);
    return true;
}

static void codes_close(struct key_index *index)
{
    free(index->planes);
    free(index->phi);
    free(index->codes);
    free(index->n_frozen);
}

static uint64_t codes_bytes(const struct key_index_config *c, size_t stride)
{
    uint64_t each = (uint64_t)codes_dim(c) * (uint64_t)codes_padded(c) * sizeof(float);
    return n_problems(c) * (stride * (uint64_t)codes_bytes_of(c) + each);
}

/* --- Keys ------------------------------------------------------------------------------------ */

/* x [n, codes_dim] = a part of keys [begin, end) of a head; the coordinate that makes inner
 * products distances is left at 0.  Returns n. */
static int load_part(const struct codes_job *job, int kv_head, int part, int begin, int end,
                     float *x)
{
    const struct key_index_config *c = &job->index->config;
    int part_dim = codes_part_dim(c), dim = codes_dim(c), n = 0;
    for (int segment = 0; segment < KV_SEGMENTS; segment++) {
        struct key_run run = attention_run(job->att, &job->shape, kv_head, segment, begin, end);
        for (int key = run.begin; key < run.end; key++, n++) {
            size_t at = (size_t)(key - run.begin) * (size_t)c->head_dim + (size_t)(part * part_dim);
            load_f32(x + (size_t)n * (size_t)dim, run.k, job->att->kv.dtype, at, part_dim);
            if (dim > part_dim)
                x[(size_t)n * (size_t)dim + (size_t)part_dim] = 0.0f;
        }
    }
    return n;
}

static float square_of(const float *x, int n)
{
    float sum = 0.0f;
    for (int i = 0; i < n; i++)
        sum += x[i] * x[i];
    return sum;
}

/* Fills the last coordinate of x [n, dim]: with it all are as far from the origin. */
static void lift(float *x, int n, int dim, float phi)
{
    for (int i = 0; i < n; i++, x += dim)
        x[dim - 1] = sqrtf(fmaxf(0.0f, phi - square_of(x, dim - 1)));
}

static void store_codes(const struct key_index *index, size_t problem, int first,
                        const uint16_t *nearest, int n)
{
    void *to = codes_of(index, problem);
    for (int i = 0; i < n; i++)
        if (codes_bytes_of(&index->config) == 1)
            ((uint8_t *)to)[first + i] = (uint8_t)nearest[i];
        else
            ((uint16_t *)to)[first + i] = nearest[i];
}

/* Task: one part of one head, all of its keys from first_key on.  The longest of them decides phi.
 */
static void cluster_task(void *user, int task_index, int thread_index)
{
    const struct codes_job *job = user;
    const struct key_index *index = job->index;
    const struct key_index_config *c = &index->config;
    int kv_head = task_index / c->codes.n_parts, part = task_index % c->codes.n_parts;
    int first = c->codes.first_key, n_keys = job->added.end - first, dim = codes_dim(c);
    size_t problem = codes_problem(index, job->att->layer, kv_head, part);
    size_t n_sums = (size_t)codes_n_centroids(c) * (size_t)dim, n = (size_t)n_keys;
    size_t n_bytes = n_sums * sizeof(double) + n * (size_t)dim * sizeof(float) +
                     (size_t)codes_n_centroids(c) * sizeof(int) + n * sizeof(uint16_t);
    double *sums = cpu_scratch(job->dev, thread_index, n_bytes);
    if (!sums)
        return;
    float *x = (float *)(sums + n_sums);
    int *counts = (int *)(x + n * (size_t)dim);
    uint16_t *nearest = (uint16_t *)(counts + codes_n_centroids(c));
    load_part(job, kv_head, part, first, job->added.end, x);
    if (c->codes.metric == CODES_INNER) {
        float phi = 0.0f;
        for (size_t i = 0; i < n; i++)
            phi = fmaxf(phi, square_of(x + i * (size_t)dim, dim - 1));
        index->phi[problem] = phi;
        lift(x, n_keys, dim, phi);
    }
    struct kmeans k = {.points = x,
                       .n = n_keys,
                       .dim = dim,
                       .n_centroids = codes_n_centroids(c),
                       .padded = codes_padded(c),
                       .centroids = codes_centroids(index, problem),
                       .nearest = nearest,
                       .sums = sums,
                       .counts = counts,
                       .max_rounds = c->codes.max_rounds,
                       .seed = c->codes.seed,
                       .layer = (uint32_t)job->att->layer,
                       .kv_head = (uint32_t)kv_head,
                       .part = (uint32_t)part};
    kmeans_run(&k, index_kernels(job->dev->isa));
    store_codes(index, problem, first, nearest, n_keys);
}

/* Task: the codes of a block of new keys of one head. */
static void code_task(void *user, int task_index, int thread_index)
{
    const struct codes_job *job = user;
    const struct key_index *index = job->index;
    const struct key_index_config *c = &index->config;
    int kv_head = task_index / job->n_blocks, block = task_index % job->n_blocks;
    int begin = job->added.begin + block * ADD_KEYS, dim = codes_dim(c);
    int end = min_int(begin + ADD_KEYS, job->added.end);
    size_t n_x = (size_t)ADD_KEYS * (size_t)dim;
    float *x =
        cpu_scratch(job->dev, thread_index, n_x * sizeof(float) + ADD_KEYS * sizeof(uint16_t));
    if (!x)
        return;
    uint16_t *nearest = (uint16_t *)(x + n_x);
    for (int part = 0; part < c->codes.n_parts; part++) {
        size_t problem = codes_problem(index, job->att->layer, kv_head, part);
        int n = load_part(job, kv_head, part, begin, end, x);
        if (c->codes.metric == CODES_INNER)
            lift(x, n, dim, index->phi[problem]);
        index_kernels(job->dev->isa)
            ->nearest(nearest, x, n, dim, codes_centroids(index, problem), codes_padded(c));
        store_codes(index, problem, begin, nearest, n);
    }
}

static void codes_add(struct device *dev, struct key_index *index, const struct attention *att,
                      struct key_range added, int kept)
{
    (void)kept;
    struct codes_job job = {.dev = dev, .index = index, .att = att, .added = added};
    const struct key_codes *c = &index->config.codes;
    int *n_frozen = &index->n_frozen[att->layer], n_tasks = index->config.n_kv_heads;
    job.shape = attention_shape(att);
    bool again = !c->centroids && (*n_frozen == 0 || added.begin < *n_frozen);
    if (again) {
        *n_frozen = added.end - c->first_key >= codes_n_centroids(&index->config) ? added.end : 0;
        if (*n_frozen)
            cpu_parallel(dev, n_tasks * c->n_parts, cluster_task, &job);
        return;
    }
    job.added.begin = max_int(added.begin, c->first_key);
    job.n_blocks = (job.added.end - job.added.begin + ADD_KEYS - 1) / ADD_KEYS;
    if (job.n_blocks > 0)
        cpu_parallel(dev, n_tasks * job.n_blocks, code_task, &job);
}

/* --- Scores ---------------------------------------------------------------------------------- */

/* The query's products with all centroids of its head, times scale. */
static void table_task(void *user, int task_index, int thread_index)
{
    (void)thread_index;
    const struct codes_job *job = user;
    const struct key_index *index = job->index;
    const struct key_index_config *c = &index->config;
    int row = task_index / job->att->n_heads, head = task_index % job->att->n_heads;
    int n_parts = c->codes.n_parts, padded = codes_padded(c), part_dim = codes_part_dim(c);
    const float *q = attention_query(job->att, &job->shape, row, head);
    float *table = job->tables + (size_t)task_index * (size_t)n_parts * (size_t)padded;
    for (int part = 0; part < n_parts; part++, table += padded, q += part_dim) {
        const float *centroids = codes_centroids(
            index, codes_problem(index, job->att->layer, head / job->shape.group, part));
        memset(table, 0, (size_t)padded * sizeof *table);
        for (int d = 0; d < part_dim; d++, centroids += padded)
            for (int i = 0; i < codes_n_centroids(c); i++)
                table[i] += q[d] * centroids[i];
        for (int i = 0; i < padded; i++)
            table[i] *= job->att->scale;
    }
}

static void score_task(void *user, int task_index, int thread_index)
{
    (void)thread_index;
    const struct codes_job *job = user;
    const struct key_index_config *c = &job->index->config;
    int head = task_index / job->n_blocks, block = task_index % job->n_blocks;
    size_t bytes = (size_t)codes_bytes_of(c);
    size_t n_table = (size_t)c->codes.n_parts * (size_t)codes_padded(c);
    size_t problem = codes_problem(job->index, job->att->layer, head / job->shape.group, 0);
    for (int row = 0; row < job->att->n_rows; row++) {
        struct key_range visible = job->sel->visible[row];
        int begin = max_int(max_int(visible.begin, c->codes.first_key), block * SCORE_KEYS);
        int end = min_int(visible.end, (block + 1) * SCORE_KEYS);
        if (begin >= end)
            continue;
        struct key_codes_of codes = {
            .codes = (const char *)codes_of(job->index, problem) + (size_t)begin * bytes,
            .wide = bytes == 2,
            .stride = job->index->stride,
            .n_parts = c->codes.n_parts,
            .padded = codes_padded(c),
        };
        index_kernels(job->dev->isa)
            ->score_codes(selection_scores(job->sel, row, head) + begin, &codes,
                          job->tables + selection_slot(job->sel, row, head) * n_table, end - begin);
    }
}

/* Bytes of codes read, told as K rows. */
static void count_scores(const struct codes_job *job)
{
    const struct key_index_config *c = &job->index->config;
    size_t row_bytes = (size_t)c->head_dim * dtype_bytes(c->kv_dtype);
    size_t key_bytes = (size_t)c->n_kv_heads * (size_t)c->codes.n_parts * (size_t)codes_bytes_of(c);
    uint64_t n_bytes = 0;
    for (int row = 0; row < job->sel->n_rows; row++)
        n_bytes += key_bytes * (size_t)(job->sel->visible[row].end - job->sel->visible[row].begin);
    job->att->counts->score_rows += (n_bytes + row_bytes - 1) / row_bytes;
}

static void codes_score(struct device *dev, struct selection *sel, const struct key_index *index,
                        const struct attention *att)
{
    struct codes_job job = {.dev = dev, .index = index, .att = att, .sel = sel};
    const struct key_index_config *c = &index->config;
    int n_queries = att->n_rows * att->n_heads;
    job.shape = attention_shape(att);
    job.tables = cpu_workspace(dev, CPU_WORKSPACE_INDEX,
                               (size_t)n_queries * (size_t)c->codes.n_parts *
                                   (size_t)codes_padded(c) * sizeof *job.tables);
    if (!job.tables)
        return;
    cpu_parallel(dev, n_queries, table_task, &job);
    job.n_blocks = (sel->visible[sel->n_rows - 1].end + SCORE_KEYS - 1) / SCORE_KEYS;
    cpu_parallel(dev, att->n_heads * job.n_blocks, score_task, &job);
    sel->scope.first_key = c->codes.first_key;
    if (att->counts)
        count_scores(&job);
}

const struct index_kind index_codes = {
    .n_entries = index_n_keys,
    .open = codes_open,
    .close = codes_close,
    .bytes = codes_bytes,
    .add = codes_add,
    .score = codes_score,
};
