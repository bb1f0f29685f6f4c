/* SOCKET on the device: keys fall into buckets of tables of random planes, the query into each with
 * a probability; a key's score is the sum of its buckets' probabilities times its value's length.
 *
 * The probability of a bucket is looked up five bits at a time: a part's 32 products lie in the 32
 * banks of shared memory, so that lanes that look up different ones do not meet.
 * Source: "SOCKET", arXiv 2602.06283; its closed form. */
#include "kernels/cuda/index_planes.cuh"

#include <stdlib.h>

enum {
    PART_BITS = 5,
    PART = 1 << PART_BITS,
    QUERY_THREADS = 256,
    SCORE_THREADS = 256,
    LANE_KEYS = 4, /* side by side */
    SCORE_KEYS = SCORE_THREADS * LANE_KEYS,
    MAX_HEADS = 4 /* whose parts are in shared memory together */
};

static int n_columns_of(const struct key_index_config *c)
{
    return c->buckets.n_tables * c->buckets.n_bits;
}

static int n_parts_of(const struct key_index_config *c)
{
    return ceil_div(c->buckets.n_bits, PART_BITS);
}

static int code_bytes_of(const struct key_index_config *c)
{
    return c->buckets.n_bits > 16 ? 4 : 2;
}

/* Floats of one query's parts. */
static size_t query_floats(const struct key_index_config *c)
{
    return (size_t)c->buckets.n_tables * (size_t)n_parts_of(c) * PART;
}

/* --- Memory ------------------------------------------------------------------------------------
 */

/* Planes [n_sets, n_planes, head_dim] as columns [n_sets, head_dim, n_planes] in host memory. */
static float *columns_of(const struct key_index_config *c)
{
    size_t n_planes = (size_t)n_columns_of(c), dim = (size_t)c->head_dim;
    size_t n = (size_t)c->buckets.n_planes * n_planes;
    float *to = (float *)malloc(n * dim * sizeof *to);
    for (size_t plane = 0; to && plane < n; plane++)
        for (size_t d = 0; d < dim; d++)
            to[(plane / n_planes * dim + d) * n_planes + plane % n_planes] =
                c->buckets.planes[plane * dim + d];
    return to;
}

static bool buckets_open(struct device *dev, struct key_index *index)
{
    const struct key_index_config *c = &index->config;
    size_t n = (size_t)c->n_layers * (size_t)c->n_kv_heads * index->stride;
    float *columns = columns_of(c);
    if (!columns)
        return false;
    index->planes = planes_upload(dev, columns, (size_t)c->buckets.n_planes * (size_t)c->head_dim,
                                  n_columns_of(c));
    free(columns);
    index->codes = cuda_alloc(dev, n * (size_t)c->buckets.n_tables * (size_t)code_bytes_of(c));
    index->norms = (float *)cuda_alloc(dev, n * sizeof *index->norms);
    index->queries = cuda_alloc(dev, (size_t)PLANES_QUERY_ROWS * (size_t)c->n_heads *
                                         query_floats(c) * sizeof(float));
    return index->planes && index->codes && index->norms && index->queries;
}

static void buckets_close(struct device *dev, struct key_index *index)
{
    cuda_release(dev, index->planes);
    cuda_release(dev, index->codes);
    cuda_release(dev, index->norms);
    cuda_release(dev, index->queries);
}

static uint64_t buckets_bytes(const struct key_index_config *c, size_t stride)
{
    return (uint64_t)c->n_layers * (uint64_t)c->n_kv_heads * stride *
           ((uint64_t)c->buckets.n_tables * (uint64_t)code_bytes_of(c) + sizeof(float));
}

static struct key_planes layer_planes(const struct key_index *index, int layer)
{
    const struct key_index_config *c = &index->config;
    struct key_planes p = {};
    size_t head = (size_t)layer * (size_t)c->n_kv_heads;
    p.n_in = c->head_dim;
    p.n_tables = c->buckets.n_tables;
    p.n_bits = c->buckets.n_bits;
    p.n_columns = planes_padded(n_columns_of(c));
    p.w = index->planes +
          (c->buckets.n_planes > 1 ? (size_t)layer * (size_t)p.n_in * (size_t)p.n_columns : 0);
    p.zero_counts = true;
    p.code_bytes = code_bytes_of(c);
    p.stride = index->stride;
    p.codes =
        (char *)index->codes + head * (size_t)p.n_tables * index->stride * (size_t)p.code_bytes;
    p.norms = index->norms + head * index->stride;
    return p;
}

static void buckets_add(struct device *dev, struct key_index *index, const struct attention *att)
{
    struct planes_job job = {};
    job.att = *att;
    job.planes = layer_planes(index, att->layer);
    job.count = index_count_of(index, att);
    planes_add(dev, &job);
}

/* --- Queries -----------------------------------------------------------------------------------
 */

struct buckets_job {
    struct attention att;
    struct select_plan plan;
    struct key_planes planes;
    int n_parts, first_row; /* of att's rows, those from first_row on */
    float tau;
    float *parts;  /* [n_rows, n_heads, n_tables, n_parts, PART] */
    float *scores; /* [all rows, n_heads, score_stride] */
    size_t score_stride;
    unsigned long long key_bytes; /* read for all heads */
};

/* Entry i of the part of n bits whose planes' h begin at `h`: a product over bits. */
static __device__ __forceinline__ float part_entry(const float *h, float tau, int n, int i)
{
    float product = 1.0f;
    for (int bit = 0; bit < n; bit++) {
        float side = i >> bit & 1 ? -2.0f : 2.0f;
        product *= 1.0f / (1.0f + expf(side * h[bit] / tau));
    }
    return i >> n ? 0.0f : product; /* no bucket has a number beyond */
}

/* Block (head, row). */
__global__ void __launch_bounds__(QUERY_THREADS)
    buckets_query_kernel(const __grid_constant__ struct buckets_job job)
{
    extern __shared__ __align__(16) float query[]; /* [planes_row], then h [n_tables n_bits] */
    const struct key_planes *p = &job.planes;
    int head = blockIdx.x, row = blockIdx.y, n_columns = p->n_tables * p->n_bits;
    float *h = query + planes_row(p->n_in), root = sqrtf((float)p->n_in);
    dependency_release();
    dependency_wait();
    struct call_shape shape = call_shape(&job.att);
    bool chosen;
    if (resolve_parts(&job.plan, &job.att, &shape, job.first_row + row, &chosen).full)
        return;
    if (threadIdx.x + blockIdx.x + blockIdx.y + (unsigned)job.first_row == 0)
        index_count_scores(&job.att, index_seen_keys(&job.att, &shape), job.key_bytes);
    const float *q = job.att.q + (size_t)(job.first_row + row) * (size_t)job.att.q_stride +
                     (size_t)head * p->n_in;
    for (int d = threadIdx.x; d < p->n_in; d += QUERY_THREADS)
        query[d] = q[d];
    __syncthreads();
    for (int i = threadIdx.x; i < n_columns; i += QUERY_THREADS)
        h[i] = __fdiv_rn(tanhf(plane_product(p, query, i)), root);
    __syncthreads();
    int n_entries = p->n_tables * job.n_parts * PART;
    float *parts =
        job.parts + ((size_t)row * (size_t)job.att.n_heads + (size_t)head) * (size_t)n_entries;
    for (int i = threadIdx.x; i < n_entries; i += QUERY_THREADS) {
        int part = i / PART, table = part / job.n_parts;
        int first = part % job.n_parts * PART_BITS;
        parts[i] = part_entry(h + table * p->n_bits + first, job.tau,
                              min((int)PART_BITS, p->n_bits - first), i % PART);
    }
}

/* --- Scores ------------------------------------------------------------------------------------
 */

static __device__ __forceinline__ void four_codes(uint32_t code[LANE_KEYS], const uint16_t *from)
{
    uint2 x = __ldcg((const uint2 *)from);
    code[0] = x.x & 0xffffu;
    code[1] = x.x >> 16;
    code[2] = x.y & 0xffffu;
    code[3] = x.y >> 16;
}

static __device__ __forceinline__ void four_codes(uint32_t code[LANE_KEYS], const uint32_t *from)
{
    *(uint4 *)code = __ldcg((const uint4 *)from);
}

/* sum [HEADS, LANE_KEYS] over tables for the thread's keys from `key` on. */
template <int HEADS, typename number>
static __device__ __forceinline__ void
sum_buckets(float sum[HEADS][LANE_KEYS], const struct buckets_job *job, const number *codes,
            const float *parts, int n_entries)
{
#pragma unroll
    for (int h = 0; h < HEADS; h++)
#pragma unroll
        for (int i = 0; i < LANE_KEYS; i++)
            sum[h][i] = 0.0f;
#pragma unroll 2
    for (int table = 0; table < job->planes.n_tables; table++) {
        uint32_t code[LANE_KEYS];
        float product[HEADS][LANE_KEYS];
        four_codes(code, codes + (size_t)table * job->planes.stride);
        for (int p = 0; p < job->n_parts; p++, parts += PART)
#pragma unroll
            for (int h = 0; h < HEADS; h++)
#pragma unroll
                for (int i = 0; i < LANE_KEYS; i++) {
                    float x = parts[h * n_entries + (code[i] >> p * PART_BITS & (PART - 1))];
                    product[h][i] = p == 0 ? x : product[h][i] * x;
                }
#pragma unroll
        for (int h = 0; h < HEADS; h++)
#pragma unroll
            for (int i = 0; i < LANE_KEYS; i++)
                sum[h][i] += product[h][i];
    }
}

/* Block (share of the keys, heads, row): HEADS heads of one KV head. */
template <int HEADS, typename number>
__global__ void __launch_bounds__(SCORE_THREADS)
    buckets_score_kernel(const __grid_constant__ struct buckets_job job)
{
    extern __shared__ __align__(16) float parts[]; /* [HEADS, n_entries] */
    const struct key_planes *p = &job.planes;
    int head = (int)blockIdx.y * HEADS, row = blockIdx.z, n_heads = job.att.n_heads;
    int kv_head = head / (n_heads / job.att.kv.n_kv_heads);
    int n_entries = p->n_tables * job.n_parts * PART;
    dependency_release();
    dependency_wait();
    struct call_shape shape = call_shape(&job.att);
    bool chosen;
    struct row_plan plan = resolve_parts(&job.plan, &job.att, &shape, job.first_row + row, &chosen);
    if (plan.full)
        return;
    const float *from =
        job.parts + ((size_t)row * (size_t)n_heads + (size_t)head) * (size_t)n_entries;
    for (int i = threadIdx.x; i < HEADS * n_entries; i += SCORE_THREADS)
        parts[i] = __ldcg(from + i);
    __syncthreads();
    const number *codes =
        (const number *)p->codes + (size_t)kv_head * (size_t)p->n_tables * p->stride;
    float *scores = job.scores + ((size_t)(job.first_row + row) * (size_t)n_heads + (size_t)head) *
                                     job.score_stride;
    for (int key = (int)(blockIdx.x * SCORE_KEYS + threadIdx.x * LANE_KEYS); key < plan.visible.end;
         key += (int)gridDim.x * SCORE_KEYS) {
        float sum[HEADS][LANE_KEYS];
        float4 norm = __ldcg((const float4 *)(p->norms + (size_t)kv_head * p->stride + key));
        sum_buckets<HEADS, number>(sum, &job, codes + key, parts, n_entries);
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            float4 out = {norm.x * sum[h][0], norm.y * sum[h][1], norm.z * sum[h][2],
                          norm.w * sum[h][3]};
            *(float4 *)(scores + (size_t)h * job.score_stride + key) = out;
        }
    }
}

template <typename number>
static void launch_score(struct device *dev, const struct buckets_job *job, int n_rows)
{
    const struct attention *att = &job->att;
    size_t each = (size_t)job->planes.n_tables * (size_t)job->n_parts * PART * sizeof(float);
    size_t room = dev->properties.sharedMemPerBlockOptin;
    int group = att->n_heads / att->kv.n_kv_heads, n_heads = MAX_HEADS;
    while (n_heads > 1 && (group % n_heads != 0 || (size_t)n_heads * each > room / 2))
        n_heads /= 2;
    void (*kernel)(struct buckets_job) = n_heads == 4   ? buckets_score_kernel<4, number>
                                         : n_heads == 2 ? buckets_score_kernel<2, number>
                                                        : buckets_score_kernel<1, number>;
    int n_blocks = att->n_heads / n_heads, n = ceil_div(att->max_keys, SCORE_KEYS);
    int most = ceil_div(4 * dev->n_sms, n_blocks * n_rows);
    dim3 grid((unsigned)(n < most ? n : most), (unsigned)n_blocks, (unsigned)n_rows);
    cuda_allow_shared(dev, kernel, (size_t)n_heads * each);
    cuda_launch(dev, kernel, grid, SCORE_THREADS, (size_t)n_heads * each, *job);
}

static void buckets_score(struct device *dev, struct selection *sel, const struct key_index *index,
                          const struct attention *att)
{
    const struct key_index_config *c = &index->config;
    struct buckets_job job = {};
    job.att = *att;
    job.plan = sel->plan;
    job.planes = layer_planes(index, att->layer);
    job.n_parts = n_parts_of(c);
    job.tau = c->buckets.tau;
    job.parts = (float *)index->queries;
    job.scores = sel->scores;
    job.score_stride = sel->stride;
    job.key_bytes = (unsigned long long)c->n_kv_heads *
                    ((size_t)c->buckets.n_tables * (size_t)job.planes.code_bytes + sizeof(float));
    size_t n_bytes = (size_t)(planes_row(c->head_dim) + n_columns_of(c)) * sizeof(float);
    cuda_allow_shared(dev, buckets_query_kernel, n_bytes);
    for (; job.first_row < att->n_rows; job.first_row += PLANES_QUERY_ROWS) {
        int left = att->n_rows - job.first_row;
        int n_rows = left < PLANES_QUERY_ROWS ? left : (int)PLANES_QUERY_ROWS;
        cuda_launch(dev, buckets_query_kernel, dim3((unsigned)att->n_heads, (unsigned)n_rows),
                    QUERY_THREADS, n_bytes, job);
        if (job.planes.code_bytes == 2)
            launch_score<uint16_t>(dev, &job, n_rows);
        else
            launch_score<uint32_t>(dev, &job, n_rows);
    }
    sel->late->scope.again = true;
}

const struct index_kind index_buckets = {index_n_keys,  buckets_open, buckets_close,
                                         buckets_bytes, buckets_add,  buckets_score};
