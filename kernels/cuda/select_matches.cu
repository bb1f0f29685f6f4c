/* MagicPIG's choice on the device: keys that share the query's code in enough tables, each with the
 * probability of that.
 *
 * A warp looks at 128 keys of a KV head for four of its query heads at a time: all codes once, then
 * the rows of the keys that match, for their true angle.
 * Source: Chen et al. 2024, arXiv 2410.16179. */
#include "kernels/cuda/index_tables.cuh"
#include "kernels/match_probability.h"

enum {
    QUERY_THREADS = 256,
    MATCH_THREADS = 256,
    MATCH_WARPS = MATCH_THREADS / WARP,
    WARP_WORDS = 4, /* bitmap words of keys that a warp looks at */
    WARP_KEYS = 32 * WARP_WORDS,
    MATCH_HEADS = 4 /* heads that a warp looks at together */
};

struct matches_job {
    struct attention att;
    struct selection sel; /* its plan's last part is this masker */
    struct key_planes planes;
    char *queries; /* [n_rows, n_heads] of query_bytes each */
    int first_row; /* of att's rows, those from first_row on */
    int min_hits;
    bool centred;            /* queries are less the mean too */
    bool first, first_drawn; /* the bitmaps, and `drawn` among them, hold nothing yet */
    unsigned long long key_bytes;
};

/* --- Queries -----------------------------------------------------------------------------------
 */

static __device__ __forceinline__ double warp_sum_double(double x)
{
    for (int offset = WARP / 2; offset > 0; offset /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}

/* Element d of a query as the planes meet it. */
static __device__ __forceinline__ float query_element(const struct matches_job *job, int row,
                                                      int head, int d)
{
    int dim = job->att.kv.head_dim, kv_head = head / job->sel.group;
    float q = job->att.q[(size_t)row * (size_t)job->att.q_stride + (size_t)(head * dim + d)];
    return job->centred ? q - job->planes.means[(size_t)kv_head * dim + d] : q;
}

/* Block (head, row). */
__global__ void __launch_bounds__(QUERY_THREADS)
    matches_query_kernel(const __grid_constant__ struct matches_job job)
{
    extern __shared__ __align__(16) float x[]; /* [planes_row], then a byte per plane */
    const struct key_planes *p = &job.planes;
    uint8_t *sides = (uint8_t *)(x + planes_row(p->n_in));
    int head = blockIdx.x, dim = job.att.kv.head_dim, lane = threadIdx.x % WARP;
    dependency_release();
    dependency_wait();
    struct call_shape shape = call_shape(&job.att);
    if (threadIdx.x + blockIdx.x + blockIdx.y + (unsigned)job.first_row == 0)
        index_count_scores(&job.att, index_seen_keys(&job.att, &shape), job.key_bytes);
    for (int d = threadIdx.x; d <= dim; d += QUERY_THREADS)
        x[d] = d < dim ? query_element(&job, job.first_row + (int)blockIdx.y, head, d) : 0.0f;
    __syncthreads();
    struct table_query *to =
        (struct table_query *)(job.queries +
                               ((size_t)blockIdx.y * (size_t)job.att.n_heads + (size_t)head) *
                                   query_bytes(p->n_tables));
    if (threadIdx.x < WARP) {
        const float *mean = p->means + (size_t)(head / job.sel.group) * dim;
        double squares = 0.0, offset = 0.0;
        for (int d = lane; d < dim; d += WARP) {
            squares += (double)x[d] * (double)x[d];
            offset += (double)x[d] * (double)mean[d];
        }
        squares = warp_sum_double(squares);
        offset = warp_sum_double(offset);
        if (lane == 0)
            *to = {sqrt(squares) + 1e-8, offset};
    }
    for (int i = threadIdx.x; i < p->n_tables * p->n_bits; i += QUERY_THREADS)
        sides[i] = plane_sets(p, plane_product(p, x, i));
    __syncthreads();
    for (int table = threadIdx.x; table < p->n_tables; table += QUERY_THREADS)
        ((uint64_t *)(to + 1))[table] = plane_code(p, sides, table);
}

/* --- Matches -----------------------------------------------------------------------------------
 */

/* The queries of a KV head's query heads, in shared memory. */
template <typename number> struct match_shared {
    const struct table_query *query; /* [group] */
    const float *x;                  /* [group, head_dim] */
    const number *codes;             /* [group, n_tables] */
};

/* hits [MATCH_HEADS, WARP_WORDS]: tables in which key 32 i + lane of the warp's keys shares the
 * code of head `first` + h. */
template <typename number>
static __device__ __forceinline__ void
count_hits(int hits[MATCH_HEADS][WARP_WORDS], const struct matches_job *job,
           const struct match_shared<number> *shared, const number *codes, int first)
{
    int n_tables = job->planes.n_tables, lane = threadIdx.x % WARP;
#pragma unroll
    for (int h = 0; h < MATCH_HEADS; h++)
#pragma unroll
        for (int i = 0; i < WARP_WORDS; i++)
            hits[h][i] = 0;
#pragma unroll 4
    for (int table = 0; table < n_tables; table++) {
        number code[WARP_WORDS];
#pragma unroll
        for (int i = 0; i < WARP_WORDS; i++)
            code[i] = __ldcg(codes + (size_t)table * job->planes.stride + 32 * i + lane);
#pragma unroll
        for (int h = 0; h < MATCH_HEADS; h++) {
            number wanted = shared->codes[min(first + h, job->sel.group - 1) * n_tables + table];
#pragma unroll
            for (int i = 0; i < WARP_WORDS; i++)
                hits[h][i] += code[i] == wanted;
        }
    }
}

/* Matches whose probability is still to be found: a lane has one each. */
struct pending {
    int n;
    int head, key; /* the lane's */
    double dot;
};

template <typename number>
static __device__ __forceinline__ void flush(struct pending *pending, const struct matches_job *job,
                                             const struct match_shared<number> *shared, int row,
                                             int kv_head)
{
    const struct key_planes *p = &job->planes;
    int lane = threadIdx.x % WARP, head = kv_head * job->sel.group + pending->head;
    if (lane < pending->n) {
        const struct table_query *q = &shared->query[pending->head];
        double norm = (double)__ldcg(p->norms + (size_t)kv_head * p->stride + pending->key);
        double size = q->length * fmax((double)p->radii[kv_head], norm);
        double cosine = size > 0.0 ? (pending->dot - q->offset) / size : 0.0;
        size_t slot = (size_t)row * (size_t)job->sel.n_heads + (size_t)head;
        job->sel.key_prob[slot * job->sel.stride + (size_t)pending->key] =
            match_probability(p->n_tables, p->n_bits, job->min_hits, cosine);
    }
    pending->n = 0;
    __syncwarp();
}

static __device__ __forceinline__ float row_element(const struct attention *att, int segment,
                                                    size_t at)
{
    return att->kv.dtype == DTYPE_BF16 ? to_f32(((const __nv_bfloat16 *)att->kv.k[segment])[at])
                                       : ((const float *)att->kv.k[segment])[at];
}

/* A key that some of the heads match: its products with them. */
template <typename number>
static __device__ __forceinline__ void
add_matches(struct pending *pending, const struct matches_job *job,
            const struct match_shared<number> *shared, const struct call_shape *shape, int row,
            int kv_head, int key, int first, uint32_t heads)
{
    int lane = threadIdx.x % WARP, dim = job->att.kv.head_dim, segment;
    size_t offset = key_offset(&job->att, shape, kv_head, key, &segment);
    float sum[MATCH_HEADS] = {};
    for (int d = lane; d < dim; d += WARP) {
        float k = row_element(&job->att, segment, offset + (size_t)d);
#pragma unroll
        for (int h = 0; h < MATCH_HEADS; h++)
            if (heads >> h & 1)
                sum[h] = fmaf(shared->x[(first + h) * dim + d], k, sum[h]);
    }
#pragma unroll
    for (int h = 0; h < MATCH_HEADS; h++) {
        if (!(heads >> h & 1))
            continue;
        float dot = warp_sum(sum[h]);
        if (lane == pending->n) {
            pending->head = first + h;
            pending->key = key;
            pending->dot = (double)dot;
        }
        if (++pending->n == WARP)
            flush(pending, job, shared, row, kv_head);
    }
}

/* The words of one head: keys that are open and match.  All lanes get them. */
static __device__ __forceinline__ void put_words(uint32_t matched[WARP_WORDS],
                                                 const struct matches_job *job,
                                                 const struct row_plan *plan, size_t bitmap,
                                                 int word, int n_words)
{
    const struct selection *sel = &job->sel;
#pragma unroll
    for (int i = 0; i < WARP_WORDS; i++) {
        if (word + i >= n_words) {
            matched[i] = 0;
            continue;
        }
        size_t at = bitmap + (size_t)(word + i);
        uint32_t taken = job->first ? 0 : sel->taken[at];
        uint32_t drawn = job->first_drawn ? 0 : sel->drawn[at];
        matched[i] &= open_bits(plan, word + i) & ~(taken | drawn);
        __syncwarp();
        if (threadIdx.x % WARP == 0) {
            if (job->first)
                sel->taken[at] = 0;
            sel->drawn[at] = drawn | matched[i];
        }
    }
}

/* One warp: keys `base` .. base + 127 of a row. Returns how many matches it added. */
template <typename number>
static __device__ __forceinline__ int
match_keys(struct pending *pending, const struct matches_job *job,
           const struct match_shared<number> *shared, const struct call_shape *shape,
           const struct row_plan *plan, int row, int kv_head, int base, int n_words)
{
    const struct key_planes *p = &job->planes;
    const number *codes =
        (const number *)p->codes + (size_t)kv_head * (size_t)p->n_tables * p->stride + base;
    int group = job->sel.group, n = 0;
    for (int first = 0; first < group; first += MATCH_HEADS) {
        int hits[MATCH_HEADS][WARP_WORDS];
        uint32_t matched[MATCH_HEADS][WARP_WORDS];
        count_hits<number>(hits, job, shared, codes, first);
#pragma unroll
        for (int h = 0; h < MATCH_HEADS; h++) {
#pragma unroll
            for (int i = 0; i < WARP_WORDS; i++)
                matched[h][i] =
                    __ballot_sync(0xffffffffu, hits[h][i] >= job->min_hits && first + h < group);
            size_t list =
                (size_t)row * (size_t)job->sel.n_heads + (size_t)(kv_head * group + first + h);
            if (first + h < group)
                put_words(matched[h], job, plan, list * (size_t)job->sel.n_words, base / 32,
                          n_words);
        }
#pragma unroll
        for (int i = 0; i < WARP_WORDS; i++) {
            uint32_t any = 0;
#pragma unroll
            for (int h = 0; h < MATCH_HEADS; h++) {
                any |= matched[h][i];
                n += __popc(matched[h][i]);
            }
            for (; any; any &= any - 1) {
                int bit = __ffs((int)any) - 1;
                uint32_t heads = 0;
#pragma unroll
                for (int h = 0; h < MATCH_HEADS; h++)
                    heads |= (matched[h][i] >> bit & 1) << h;
                add_matches(pending, job, shared, shape, row, kv_head, base + 32 * i + bit, first,
                            heads);
            }
        }
    }
    return n;
}

/* Brings the queries of a KV head into shared memory.  All threads. */
template <typename number>
static __device__ __forceinline__ struct match_shared<number>
load_queries(char *memory, const struct matches_job *job, int row, int kv_head) {
    int group = job->sel.group, n_tables = job->planes.n_tables, dim = job->att.kv.head_dim;
    struct table_query *query = (struct table_query *)memory;
    number *codes = (number *)(query + group);
    float *x = (float *)((uint64_t *)codes + (size_t)group * n_tables);
    const char *from =
        job->queries + ((size_t)row * (size_t)job->att.n_heads + (size_t)(kv_head * group)) *
                           query_bytes(n_tables);
    for (int i = threadIdx.x; i < group * n_tables; i += MATCH_THREADS) {
        const struct table_query *q =
            (const struct table_query *)(from + (size_t)(i / n_tables) * query_bytes(n_tables));
        codes[i] = (number)__ldcg((const unsigned long long *)(q + 1) + i % n_tables);
        if (i % n_tables == 0)
            query[i / n_tables] = {__ldcg(&q->length), __ldcg(&q->offset)};
    }
    for (int i = threadIdx.x; i < group * dim; i += MATCH_THREADS)
        x[i] = query_element(job, job->first_row + row, kv_head *group + i / dim, i % dim);
    __syncthreads();
    return {query, x, codes};
}

static size_t
match_bytes(const struct matches_job *job)
{
    size_t each = query_bytes(job->planes.n_tables) + (size_t)job->att.kv.head_dim * sizeof(float);
    return (size_t)job->sel.group * each;
}

/* Block (share of the keys, KV head, row). */
template <typename number>
__global__ void __launch_bounds__(MATCH_THREADS)
    matches_kernel(const __grid_constant__ struct matches_job job)
{
    extern __shared__ __align__(16) char memory[];
    int kv_head = blockIdx.y, row = job.first_row + (int)blockIdx.z;
    dependency_release();
    dependency_wait();
    struct call_shape shape = call_shape(&job.att);
    struct row_plan plan = resolve_plan(&job.sel.plan, &job.att, &shape, row);
    if (plan.full) /* nobody reads the bitmaps */
        return;
    struct match_shared<number> shared =
        load_queries<number>(memory, &job, (int)blockIdx.z, kv_head);
    struct pending pending = {};
    int n_words = row_words(&shape, row), warp = (int)(threadIdx.x / WARP), n = 0;
    for (int base = ((int)blockIdx.x * MATCH_WARPS + warp) * WARP_KEYS; base < n_words * 32;
         base += (int)gridDim.x * MATCH_WARPS * WARP_KEYS)
        n +=
            match_keys<number>(&pending, &job, &shared, &shape, &plan, row, kv_head, base, n_words);
    flush(&pending, &job, &shared, row, kv_head);
    if (job.att.counts && n > 0 && threadIdx.x % WARP == 0)
        atomicAdd((unsigned long long *)&job.att.counts->score_rows, (unsigned long long)n);
}

template <typename number>
static void launch_matches(struct device *dev, const struct matches_job *job, int n_rows)
{
    int n_kv = job->att.kv.n_kv_heads, n = ceil_div(job->att.max_keys, MATCH_WARPS * WARP_KEYS);
    int most = ceil_div(6 * dev->n_sms, n_kv * n_rows);
    dim3 grid((unsigned)(n < most ? n : most), (unsigned)n_kv, (unsigned)n_rows);
    cuda_allow_shared(dev, matches_kernel<number>, match_bytes(job));
    cuda_launch(dev, matches_kernel<number>, grid, MATCH_THREADS, match_bytes(job), *job);
}

void cuda_select_matches(struct device *dev, struct selection *sel, const struct key_index *index,
                         const struct attention *att)
{
    const struct key_index_config *c = &index->config;
    assert(c->kind == INDEX_TABLES && att->n_rows == sel->n_rows);
    selection_catch_up(dev, sel);
    selection_plan(dev, sel, SELECT_MATCHES, {false, 0});
    struct matches_job job = {};
    job.first = selection_choose(dev, sel, att, SHARE_HEAD);
    job.first_drawn = !sel->sampled;
    selection_mix(dev, sel);
    sel->sampled = true;
    job.att = *att;
    job.sel = *sel;
    job.planes = tables_planes(index, att->layer);
    job.queries = (char *)index->queries;
    job.min_hits = c->tables.min_hits;
    job.centred = c->tables.center == CENTER_BOTH;
    job.key_bytes = (unsigned long long)c->n_kv_heads * (size_t)c->tables.n_tables *
                    (size_t)job.planes.code_bytes;
    size_t n_bytes = (size_t)planes_row(job.planes.n_in) * sizeof(float) +
                     (size_t)(c->tables.n_tables * c->tables.n_bits);
    cuda_allow_shared(dev, matches_query_kernel, n_bytes);
    for (; job.first_row < att->n_rows; job.first_row += PLANES_QUERY_ROWS) {
        int left = att->n_rows - job.first_row;
        int n_rows = left < PLANES_QUERY_ROWS ? left : (int)PLANES_QUERY_ROWS;
        cuda_launch(dev, matches_query_kernel, dim3((unsigned)att->n_heads, (unsigned)n_rows),
                    QUERY_THREADS, n_bytes, job);
        if (job.planes.code_bytes == 2)
            launch_matches<uint16_t>(dev, &job, n_rows);
        else if (job.planes.code_bytes == 4)
            launch_matches<uint32_t>(dev, &job, n_rows);
        else
            launch_matches<unsigned long long>(dev, &job, n_rows);
    }
}
