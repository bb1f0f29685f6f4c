/* PQCache on the device: of each part of a key the number of the nearest of a few centroids, and
 * scores by what the query's products with the centroids say.
 * Source: Zhang et al. 2024, arXiv 2407.12820. */
#include "kernels/cuda/index_codes.cuh"

#include <stdlib.h>

enum {
    TABLE_THREADS = 256,
    SCORE_THREADS = 256,
    LANE_KEYS = 4, /* side by side */
    SCORE_KEYS = SCORE_THREADS * LANE_KEYS,
    MAX_HEADS = 4, /* whose tables are in shared memory together */
    QUERY_ROWS = 8 /* rows of queries that are scored together */
};

static int dim_of(const struct key_index_config *c)
{
    return c->head_dim / c->codes.n_parts + (c->codes.metric == CODES_INNER);
}

static int padded_of(const struct key_index_config *c)
{
    return ceil_div(1 << c->codes.code_bits, CODES_COLUMNS) * CODES_COLUMNS;
}

static size_t code_bytes_of(const struct key_index_config *c)
{
    return c->codes.code_bits > 8 ? 2 : 1;
}

/* Problems of one layer. */
static size_t problems_of(const struct key_index_config *c)
{
    return (size_t)c->n_kv_heads * (size_t)c->codes.n_parts;
}

static size_t table_floats(const struct key_index_config *c)
{
    return (size_t)c->codes.n_parts * (size_t)padded_of(c);
}

/* --- Memory ------------------------------------------------------------------------------------
 */

/* Given centroids [n, n_centroids, dim] as columns. */
static bool upload_centroids(struct device *dev, struct key_index *index, size_t n)
{
    const struct key_index_config *c = &index->config;
    size_t padded = (size_t)padded_of(c), dim = (size_t)dim_of(c), count = n * dim * padded;
    size_t n_centroids = (size_t)1 << c->codes.code_bits;
    float *host = (float *)malloc(count * sizeof *host);
    for (size_t i = 0; host && i < count; i++) {
        size_t column = i % padded, d = i / padded % dim, problem = i / padded / dim;
        host[i] = column < n_centroids
                      ? c->codes.centroids[(problem * n_centroids + column) * dim + d]
                      : INFINITY;
    }
    if (host)
        cuda_upload(dev, index->planes, host, count * sizeof *host);
    free(host);
    if (c->codes.phi)
        cuda_upload(dev, index->phi, c->codes.phi, n * sizeof(float));
    return host != NULL;
}

static bool codes_open(struct device *dev, struct key_index *index)
{
    const struct key_index_config *c = &index->config;
    size_t layer = problems_of(c), n = (size_t)c->n_layers * layer;
    size_t each = (size_t)dim_of(c) * (size_t)padded_of(c);
    index->planes = (float *)cuda_alloc(dev, n * each * sizeof(float));
    index->phi = (float *)cuda_alloc(dev, n * sizeof(float));
    index->codes = cuda_alloc(dev, n * index->stride * code_bytes_of(c));
    index->n_frozen =
        (int32_t *)cuda_alloc(dev, (size_t)c->n_layers * CODES_STATE * sizeof(int32_t));
    index->queries =
        cuda_alloc(dev, (size_t)QUERY_ROWS * (size_t)c->n_heads * table_floats(c) * sizeof(float));
    index->sums = (unsigned long long *)cuda_alloc(dev, layer * each * sizeof *index->sums);
    index->counts =
        (uint32_t *)cuda_alloc(dev, layer * ((size_t)padded_of(c) + 1) * sizeof *index->counts);
    if (!index->planes || !index->phi || !index->codes || !index->n_frozen || !index->queries ||
        !index->sums || !index->counts)
        return false;
    return !c->codes.centroids || upload_centroids(dev, index, n);
}

static void codes_close(struct device *dev, struct key_index *index)
{
    cuda_release(dev, index->planes);
    cuda_release(dev, index->phi);
    cuda_release(dev, index->codes);
    cuda_release(dev, index->n_frozen);
    cuda_release(dev, index->queries);
    cuda_release(dev, index->sums);
    cuda_release(dev, index->counts);
}

static uint64_t codes_bytes(const struct key_index_config *c, size_t stride)
{
    uint64_t each = (uint64_t)dim_of(c) * (uint64_t)padded_of(c) * sizeof(float);
    return (uint64_t)c->n_layers * problems_of(c) * (stride * code_bytes_of(c) + each);
}

static struct layer_codes layer_codes_of(const struct key_index *index, int layer)
{
    const struct key_index_config *c = &index->config;
    struct layer_codes of = {};
    size_t first = (size_t)layer * problems_of(c);
    of.n_parts = c->codes.n_parts;
    of.part_dim = c->head_dim / c->codes.n_parts;
    of.dim = dim_of(c);
    of.n_centroids = 1 << c->codes.code_bits;
    of.padded = padded_of(c);
    of.first_key = c->codes.first_key;
    of.max_rounds = c->codes.max_rounds;
    of.lifted = c->codes.metric == CODES_INNER;
    of.given = c->codes.centroids != NULL;
    of.seed = c->codes.seed;
    of.centroids = index->planes + first * (size_t)of.dim * (size_t)of.padded;
    of.phi = index->phi + first;
    of.stride = index->stride;
    of.wide = code_bytes_of(c) == 2;
    of.codes = (char *)index->codes + first * of.stride * code_bytes_of(c);
    of.state = index->n_frozen + layer * CODES_STATE;
    of.sums = index->sums;
    of.counts = index->counts;
    of.done = index->counts + problems_of(c) * (size_t)of.padded;
    return of;
}

static void codes_add(struct device *dev, struct key_index *index, const struct attention *att)
{
    struct codes_job job = {};
    job.att = *att;
    job.of = layer_codes_of(index, att->layer);
    job.count = index_count_of(index, att);
    codes_update(dev, &job);
}

/* --- Scores ------------------------------------------------------------------------------------
 */

struct codes_score_job {
    struct attention att;
    struct select_plan plan;
    struct layer_codes of;
    int first_row; /* of att's rows, those from first_row on */
    float *tables; /* [n_rows, n_heads, n_parts, padded] */
    float *scores; /* [all rows, n_heads, score_stride] */
    size_t score_stride;
    unsigned long long key_bytes; /* read for all heads */
};

/* Block (head, row): the query's products with its head's centroids, times scale. */
__global__ void __launch_bounds__(TABLE_THREADS)
    codes_table_kernel(const __grid_constant__ struct codes_score_job job)
{
    extern __shared__ __align__(16) float query[]; /* [head_dim] */
    const struct layer_codes *of = &job.of;
    int head = blockIdx.x, row = blockIdx.y, dim = job.att.kv.head_dim;
    int kv_head = head / (job.att.n_heads / job.att.kv.n_kv_heads);
    int n = of->n_parts * of->padded;
    dependency_release();
    dependency_wait();
    struct call_shape shape = call_shape(&job.att);
    bool chosen;
    if (resolve_parts(&job.plan, &job.att, &shape, job.first_row + row, &chosen).full)
        return;
    if (threadIdx.x + blockIdx.x + blockIdx.y + (unsigned)job.first_row == 0)
        index_count_scores(&job.att, index_seen_keys(&job.att, &shape), job.key_bytes);
    for (int d = threadIdx.x; d < dim; d += TABLE_THREADS)
        query[d] = job.att.q[(size_t)(job.first_row + row) * (size_t)job.att.q_stride +
                             (size_t)(head * dim + d)];
    __syncthreads();
    float *table = job.tables + ((size_t)row * (size_t)job.att.n_heads + (size_t)head) * (size_t)n;
    for (int i = threadIdx.x; i < n; i += TABLE_THREADS) {
        int part = i / of->padded, c = i % of->padded;
        const float *centroids = of->centroids + ((size_t)kv_head * of->n_parts + (size_t)part) *
                                                     (size_t)of->dim * of->padded;
        float sum = 0.0f;
        for (int d = 0; c < of->n_centroids && d < of->part_dim; d++)
            sum = fmaf(query[part * of->part_dim + d],
                       __ldcg(centroids + (size_t)d * of->padded + c), sum);
        table[i] = sum * job.att.scale;
    }
}

static __device__ __forceinline__ void four_codes(uint32_t code[LANE_KEYS], const uint8_t *from)
{
    uint32_t x = __ldcg((const uint32_t *)from);
#pragma unroll
    for (int i = 0; i < LANE_KEYS; i++)
        code[i] = x >> 8 * i & 0xffu;
}

static __device__ __forceinline__ void four_codes(uint32_t code[LANE_KEYS], const uint16_t *from)
{
    uint2 x = __ldcg((const uint2 *)from);
    code[0] = x.x & 0xffffu;
    code[1] = x.x >> 16;
    code[2] = x.y & 0xffffu;
    code[3] = x.y >> 16;
}

/* Block (share of the keys, heads, row): HEADS heads of one KV head, their tables in shared memory
 * unless HEADS is 0, which is one head by memory. */
template <int HEADS, typename number>
__global__ void __launch_bounds__(SCORE_THREADS)
    codes_score_kernel(const __grid_constant__ struct codes_score_job job)
{
    enum { N = HEADS > 0 ? HEADS : 1 };
    extern __shared__ __align__(16) float shared[]; /* [HEADS, n_parts, padded] */
    const struct layer_codes *of = &job.of;
    int head = (int)blockIdx.y * N, row = blockIdx.z, n_heads = job.att.n_heads;
    int kv_head = head / (n_heads / job.att.kv.n_kv_heads), n = of->n_parts * of->padded;
    dependency_release();
    dependency_wait();
    struct call_shape shape = call_shape(&job.att);
    bool chosen;
    struct row_plan plan = resolve_parts(&job.plan, &job.att, &shape, job.first_row + row, &chosen);
    if (plan.full)
        return;
    const float *tables = job.tables + ((size_t)row * (size_t)n_heads + (size_t)head) * (size_t)n;
    for (int i = threadIdx.x; i < HEADS * n; i += SCORE_THREADS)
        shared[i] = __ldcg(tables + i);
    __syncthreads();
    const float *table = HEADS > 0 ? shared : tables;
    const number *codes = (const number *)of->codes + (size_t)kv_head * of->n_parts * of->stride;
    float *scores = job.scores + ((size_t)(job.first_row + row) * (size_t)n_heads + (size_t)head) *
                                     job.score_stride;
    for (int key = (int)(blockIdx.x * SCORE_KEYS + threadIdx.x * LANE_KEYS); key < plan.visible.end;
         key += (int)gridDim.x * SCORE_KEYS) {
        float sum[N][LANE_KEYS] = {};
#pragma unroll 4
        for (int part = 0; part < of->n_parts; part++) {
            uint32_t code[LANE_KEYS];
            four_codes(code, codes + (size_t)part * of->stride + key);
#pragma unroll
            for (int h = 0; h < N; h++)
#pragma unroll
                for (int i = 0; i < LANE_KEYS; i++)
                    sum[h][i] += table[h * n + part * of->padded + (int)code[i]];
        }
#pragma unroll
        for (int h = 0; h < N; h++)
            *(float4 *)(scores + (size_t)h * job.score_stride + key) =
                make_float4(sum[h][0], sum[h][1], sum[h][2], sum[h][3]);
    }
}

template <typename number>
static void launch_score(struct device *dev, const struct codes_score_job *job, int n_rows)
{
    const struct attention *att = &job->att;
    size_t each = (size_t)job->of.n_parts * (size_t)job->of.padded * sizeof(float);
    size_t room = dev->properties.sharedMemPerBlockOptin;
    int group = att->n_heads / att->kv.n_kv_heads, n_heads = MAX_HEADS;
    while (n_heads > 1 && (group % n_heads != 0 || (size_t)n_heads * each > room / 2))
        n_heads /= 2;
    void (*kernel)(struct codes_score_job) = n_heads == 4   ? codes_score_kernel<4, number>
                                             : n_heads == 2 ? codes_score_kernel<2, number>
                                             : each <= room ? codes_score_kernel<1, number>
                                                            : codes_score_kernel<0, number>;
    size_t n_bytes = each <= room ? (size_t)n_heads * each : 0;
    int n_blocks = att->n_heads / n_heads, n = ceil_div(att->max_keys, SCORE_KEYS);
    int most = ceil_div(4 * dev->n_sms, n_blocks * n_rows);
    dim3 grid((unsigned)(n < most ? n : most), (unsigned)n_blocks, (unsigned)n_rows);
    cuda_allow_shared(dev, kernel, n_bytes);
    cuda_launch(dev, kernel, grid, SCORE_THREADS, n_bytes, *job);
}

static void codes_score(struct device *dev, struct selection *sel, const struct key_index *index,
                        const struct attention *att)
{
    const struct key_index_config *c = &index->config;
    struct codes_score_job job = {};
    job.att = *att;
    job.plan = sel->plan;
    job.of = layer_codes_of(index, att->layer);
    job.tables = (float *)index->queries;
    job.scores = sel->scores;
    job.score_stride = sel->stride;
    job.key_bytes = (unsigned long long)problems_of(c) * code_bytes_of(c);
    size_t n_bytes = (size_t)c->head_dim * sizeof(float);
    for (; job.first_row < att->n_rows; job.first_row += QUERY_ROWS) {
        int left = att->n_rows - job.first_row, n_rows = left < QUERY_ROWS ? left : (int)QUERY_ROWS;
        cuda_launch(dev, codes_table_kernel, dim3((unsigned)att->n_heads, (unsigned)n_rows),
                    TABLE_THREADS, n_bytes, job);
        if (job.of.wide)
            launch_score<uint16_t>(dev, &job, n_rows);
        else
            launch_score<uint8_t>(dev, &job, n_rows);
    }
    sel->late->scope.first_key = c->codes.first_key;
}

const struct index_kind index_codes = {index_n_keys, codes_open, codes_close,
                                       codes_bytes,  codes_add,  codes_score};
