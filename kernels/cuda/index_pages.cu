/* Quest on the device: bounds of pages of keys, and the score that no key of the page can pass.
 *
 * The idea to hold: sum_d max(q_d lo_d, q_d hi_d) = q- lo + q+ hi with q- = min(q, 0) and
 * q+ = max(q, 0), so that a page is a row of 2 head_dim numbers, lo then hi, and pages are scored
 * as keys are: on the tensor cores, a query split into two bf16 numbers that take neighbouring
 * columns.  Rows come from memory straight into matrix fragments, since the order of a sum's terms
 * is free.
 * Source: Tang et al. 2024, arXiv 2406.10774. */
#include "kernels/cuda/index.cuh"
#include "kernels/cuda/index_levels.cuh"
#include "kernels/cuda/warp_matrix.cuh"

/* --- Memory ------------------------------------------------------------------------------------
 */

static size_t pages_n_entries(const struct key_index_config *c)
{
    return (size_t)ceil_div(c->max_keys, c->pages.page_size);
}

/* Bounds that are keys' own elements are exact in their type; rounded ones are not. */
static enum dtype bounds_of(const struct key_index_config *c)
{
    return c->pages.label_bits < 16 ? DTYPE_F32 : c->kv_dtype;
}

static uint64_t pages_bytes(const struct key_index_config *c, size_t stride)
{
    return (uint64_t)c->n_layers * (uint64_t)c->n_kv_heads * stride * 2 * (uint64_t)c->head_dim *
           dtype_bytes(bounds_of(c));
}

static bool pages_open(struct device *dev, struct key_index *index)
{
    const struct key_index_config *c = &index->config;
    assert(c->pages.page_size > 0 && c->pages.label_bits > 0 && c->pages.label_bits <= 16);
    index->bounds = bounds_of(c);
    index->pages = cuda_alloc(dev, pages_bytes(c, index->stride));
    return index->pages != NULL;
}

static void pages_close(struct device *dev, struct key_index *index)
{
    cuda_release(dev, index->pages);
}

/* The bounds of one layer. */
static void *layer_pages(const struct key_index *index, int layer)
{
    size_t n = (size_t)layer * (size_t)index->config.n_kv_heads * index->stride * 2 *
               (size_t)index->config.head_dim;
    return (char *)index->pages + n * dtype_bytes(index->bounds);
}

/* --- Keys --------------------------------------------------------------------------------------
 */

enum { ADD_THREADS = 128, MAX_DIM = 1024 };

struct pages_add_job {
    struct attention att;
    struct index_count count;
    void *pages; /* [n_kv_heads, stride, 2 head_dim] of the layer */
    size_t stride;
    int page_size, label_bits;
};

/* lo and hi, widened by element d of keys [begin, end). */
template <typename number>
static __device__ __forceinline__ void widen(float *lo, float *hi, const struct pages_add_job *job,
                                             const struct call_shape *shape, int kv_head, int begin,
                                             int end, int d)
{
#pragma unroll 8
    for (int key = begin; key < end; key++) {
        int segment;
        size_t offset = key_offset(&job->att, shape, kv_head, key, &segment);
        float x = to_f32(((const number *)job->att.kv.k[segment])[offset + (size_t)d]);
        *lo = x < *lo ? x : *lo;
        *hi = x > *hi ? x : *hi;
    }
}

/* The least x and the largest y of all threads.  scratch [2, WARP]. */
static __device__ __forceinline__ void block_ends(float *x, float *y, float *scratch)
{
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    float least = -warp_max(-*x), most = warp_max(*y);
    __syncthreads();
    if (lane == 0) {
        scratch[warp] = least;
        scratch[WARP + warp] = most;
    }
    __syncthreads();
    bool there = lane < ADD_THREADS / WARP;
    *x = -warp_max(there ? -scratch[lane] : -INFINITY);
    *y = warp_max(there ? scratch[WARP + lane] : -INFINITY);
}

/* bounds [dim], rounded over their range.  All threads. */
static __device__ __forceinline__ void round_bounds(float *bounds, int dim, int n_bits,
                                                    float *scratch)
{
    float low = INFINITY, high = -INFINITY;
    for (int d = threadIdx.x; d < dim; d += ADD_THREADS) {
        low = fminf(low, bounds[d]);
        high = fmaxf(high, bounds[d]);
    }
    block_ends(&low, &high, scratch);
    struct levels l = levels_between(low, high, n_bits);
    for (int d = threadIdx.x; d < dim; d += ADD_THREADS)
        bounds[d] = levels_value(&l, levels_nearest(&l, bounds[d]));
}

static __device__ __forceinline__ void store(float *to, float x)
{
    *to = x;
}

static __device__ __forceinline__ void store(__nv_bfloat16 *to, float x)
{
    *to = __float2bfloat16_rn(x); /* exact: it is a key's */
}

/* Block (share of the pages, KV head); a thread has every 128th element.  bound: of pages. */
template <typename number, typename bound>
__global__ void __launch_bounds__(ADD_THREADS)
    pages_add_kernel(const __grid_constant__ struct pages_add_job job)
{
    __shared__ float bounds[2 * MAX_DIM], scratch[2 * WARP];
    int kv_head = blockIdx.y, dim = job.att.kv.head_dim, kept;
    dependency_release();
    dependency_wait();
    struct call_shape shape = call_shape(&job.att);
    struct key_range added = index_added(&job.count, &shape, &kept);
    /* Rounded bounds, and those of keys that are forgotten, cannot be widened. */
    bool widens = kept == added.begin && job.label_bits >= 16;
    int n_pages = (added.end + job.page_size - 1) / job.page_size;
    for (int page = added.begin / job.page_size + (int)blockIdx.x; page < n_pages;
         page += (int)gridDim.x) {
        int first = page * job.page_size, end = min(first + job.page_size, added.end);
        bool keep = widens && added.begin > first;
        bound *to = (bound *)job.pages + ((size_t)kv_head * job.stride + (size_t)page) * 2 * dim;
        for (int d = threadIdx.x; d < dim; d += ADD_THREADS) {
            float lo = keep ? to_f32(to[d]) : INFINITY;
            float hi = keep ? to_f32(to[dim + d]) : -INFINITY;
            widen<number>(&lo, &hi, &job, &shape, kv_head, keep ? added.begin : first, end, d);
            bounds[d] = lo;
            bounds[dim + d] = hi;
        }
        if (job.label_bits < 16) {
            round_bounds(bounds, dim, job.label_bits, scratch);
            round_bounds(bounds + dim, dim, job.label_bits, scratch);
        }
        /* Each is rounded over its own range, so that one may come to lie on the other's side. */
        for (int d = threadIdx.x; d < dim; d += ADD_THREADS) {
            store(to + d, fminf(bounds[d], bounds[dim + d]));
            store(to + dim + d, fmaxf(bounds[d], bounds[dim + d]));
        }
    }
    index_finish(&job.count, &shape);
}

static void pages_add(struct device *dev, struct key_index *index, const struct attention *att)
{
    struct pages_add_job job = {};
    int page_size = index->config.pages.page_size, n_kv_heads = att->kv.n_kv_heads;
    assert(att->kv.head_dim <= MAX_DIM);
    job.att = *att;
    job.count = index_count_of(index, att);
    job.pages = layer_pages(index, att->layer);
    job.stride = index->stride;
    job.page_size = page_size;
    job.label_bits = index->config.pages.label_bits;
    /* A step has its rows' pages; a context has many, whose blocks fill the device. */
    int n_rows = att->n_rows_total ? att->n_rows_total : att->n_rows;
    int n = ceil_div(n_rows > 0 ? n_rows : att->max_keys, page_size) + 1;
    int most = ceil_div(16 * dev->n_sms, n_kv_heads);
    dim3 grid((unsigned)(n < most ? n : most), (unsigned)n_kv_heads);
    if (att->kv.dtype == DTYPE_F32)
        cuda_launch(dev, pages_add_kernel<float, float>, grid, ADD_THREADS, 0, job);
    else if (index->bounds == DTYPE_F32)
        cuda_launch(dev, pages_add_kernel<__nv_bfloat16, float>, grid, ADD_THREADS, 0, job);
    else
        cuda_launch(dev, pages_add_kernel<__nv_bfloat16, __nv_bfloat16>, grid, ADD_THREADS, 0, job);
}

/* --- Scores: what both ways share --------------------------------------------------------------
 */

enum {
    SCORE_WARPS = 16, /* whose tiles on their way keep the memory busy */
    SCORE_THREADS = SCORE_WARPS * WARP,
    SCORE_QUERIES = 4, /* of a block, which goes through the pages for them */
    TILE_PAGES = 16    /* of a warp at a time */
};

struct pages_score_job {
    struct attention att;
    struct select_plan plan;
    float *scores; /* [n_rows, n_heads, score_stride] */
    size_t score_stride;
    const void *pages; /* [n_kv_heads, stride, 2 head_dim] of the layer */
    size_t stride;
    int page_size, group;
};

/* Queries of a KV head (row, head of its group) are numbered row by row. */
struct page_query {
    const float *q;
    float *scores;
};

static __device__ __forceinline__ struct page_query query_of(const struct pages_score_job *job,
                                                             int kv_head, int query)
{
    int row = query / job->group, head = kv_head * job->group + query % job->group;
    struct page_query out = {
        job->att.q + (size_t)row * job->att.q_stride + (size_t)head * job->att.kv.head_dim,
        job->scores + ((size_t)row * job->att.n_heads + (size_t)head) * job->score_stride};
    return out;
}

/* Element i of a query's 2 head_dim: q- then q+, scaled. */
static __device__ __forceinline__ float half_of_query(const struct pages_score_job *job,
                                                      const float *q, int i)
{
    int dim = job->att.kv.head_dim;
    float x = job->att.scale * q[i < dim ? i : i - dim];
    return i < dim ? fminf(x, 0.0f) : fmaxf(x, 0.0f);
}

/* One thread of the launch. */
static __device__ __forceinline__ void count_pages(const struct pages_score_job *job,
                                                   const struct call_shape *shape, size_t each)
{
    unsigned long long n = 0;
    for (int row = 0; row < job->att.n_rows; row++) {
        struct key_range seen = row_visible(&job->att, shape, row);
        if (seen.begin < seen.end)
            n += (unsigned long long)((seen.end - 1) / job->page_size -
                                      seen.begin / job->page_size + 1);
    }
    index_count_scores(&job->att, n, (unsigned long long)job->att.kv.n_kv_heads * each);
}

/* Pages that are there; 0 if the call is full without them.  All threads. */
static __device__ __forceinline__ int
pages_to_score(const struct pages_score_job *job, const struct call_shape *shape, size_t page_bytes)
{
    bool chosen;
    if (resolve_parts(&job->plan, &job->att, shape, 0, &chosen).full)
        return 0;
    if (threadIdx.x + blockIdx.x + blockIdx.y + blockIdx.z == 0)
        count_pages(job, shape, page_bytes);
    return (shape->n_keys + job->page_size - 1) / job->page_size;
}

/* --- Scores on the tensor cores ------------------------------------------------------------------
 */

/* A lane's part of a row of bounds: of every 32 numbers the eight from 8 (lane % 4) on, which make
 * two products' fragments.  CHUNKS = 2 head_dim / 32. */
template <int CHUNKS> struct page_queries {
    uint32_t b[CHUNKS][4]; /* of column lane / 4: query column / 2, its high part if it is even */
};

template <int CHUNKS>
static __device__ __forceinline__ void take_queries(struct page_queries<CHUNKS> *to,
                                                    const struct pages_score_job *job, int kv_head,
                                                    int first, int n, int lane)
{
    int column = lane / 4, query = column / 2;
    bool there = query < n;
    const float *q = query_of(job, kv_head, first + (there ? query : 0)).q;
    int dim = job->att.kv.head_dim;
    float scale = there ? job->att.scale : 0.0f;
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        int d = i * 32 + lane % 4 * 8; /* all eight in one half */
        float x[8];
        *(float4 *)x = *(const float4 *)(q + (d < dim ? d : d - dim));
        *(float4 *)(x + 4) = *(const float4 *)(q + (d < dim ? d : d - dim) + 4);
#pragma unroll
        for (int j = 0; j < 8; j++)
            x[j] = d < dim ? fminf(scale * x[j], 0.0f) : fmaxf(scale * x[j], 0.0f);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint32_t high, low;
            split_bf16(x[2 * j], x[2 * j + 1], &high, &low);
            to->b[i][j] = column % 2 ? low : high;
        }
    }
}

/* scores of pages lane / 4 and lane / 4 + 8 of the tile by query lane % 4. */
template <int CHUNKS>
static __device__ __forceinline__ float2 score_tile(const struct page_queries<CHUNKS> *q,
                                                    const uint4 *row, const uint4 *row_8)
{
    uint4 k[2][CHUNKS];
    float sum[2][4] = {};
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        k[0][i] = __ldcg(row + i * 4);
        k[1][i] = __ldcg(row_8 + i * 4);
    }
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        uint32_t a[4] = {k[0][i].x, k[1][i].x, k[0][i].y, k[1][i].y};
        uint32_t b[4] = {k[0][i].z, k[1][i].z, k[0][i].w, k[1][i].w};
        multiply_add(sum[0], a, q->b[i]);
        multiply_add(sum[1], b, q->b[i] + 2);
    }
    return make_float2((sum[0][0] + sum[1][0]) + (sum[0][1] + sum[1][1]),
                       (sum[0][2] + sum[1][2]) + (sum[0][3] + sum[1][3]));
}

/* Block (share of the pages, KV head, set of queries). */
template <int CHUNKS>
__global__ void __launch_bounds__(SCORE_THREADS, 1)
    pages_score_kernel(const __grid_constant__ struct pages_score_job job)
{
    enum { ROW = 4 * CHUNKS /* of 16 bytes each */ };
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, kv_head = blockIdx.y;
    int first = (int)blockIdx.z * SCORE_QUERIES;
    int n = min((int)SCORE_QUERIES, job.att.n_rows * job.group - first);
    dependency_release();
    dependency_wait();
    struct call_shape shape = call_shape(&job.att);
    int n_pages = pages_to_score(&job, &shape, ROW * sizeof(uint4));
    int page = ((int)blockIdx.x * SCORE_WARPS + warp) * TILE_PAGES;
    if (page >= n_pages)
        return;
    const uint4 *pages = (const uint4 *)job.pages + (size_t)kv_head * job.stride * ROW;
    struct page_queries<CHUNKS> queries;
    take_queries<CHUNKS>(&queries, &job, kv_head, first, n, lane);
    float *to = lane % 4 < n ? query_of(&job, kv_head, first + lane % 4).scores : NULL;
    for (; page < n_pages; page += (int)gridDim.x * SCORE_WARPS * TILE_PAGES) {
        int own = page + lane / 4;
        const uint4 *row = pages + (size_t)min(own, n_pages - 1) * ROW + lane % 4;
        const uint4 *row_8 = pages + (size_t)min(own + 8, n_pages - 1) * ROW + lane % 4;
        float2 s = score_tile<CHUNKS>(&queries, row, row_8);
        if (to && own < n_pages)
            to[own] = s.x;
        if (to && own + 8 < n_pages)
            to[own + 8] = s.y;
    }
}

template <int CHUNKS>
static void launch_score(struct device *dev, const struct pages_score_job *job)
{
    int n_pages = ceil_div(job->att.max_keys, job->page_size), n_kv_heads = job->att.kv.n_kv_heads;
    int n_sets = ceil_div(job->att.n_rows * job->group, SCORE_QUERIES);
    int n = ceil_div(n_pages, SCORE_WARPS * TILE_PAGES);
    int most = dev->n_sms / (n_kv_heads * n_sets);
    n = most < 1 ? 1 : n < most ? n : most;
    dim3 grid((unsigned)n, (unsigned)n_kv_heads, (unsigned)n_sets);
    cuda_launch(dev, pages_score_kernel<CHUNKS>, grid, SCORE_THREADS, 0, *job);
}

/* --- Scores, the plain way ---------------------------------------------------------------------
 */

/* Block (share of the pages, KV head, set of queries); a warp has a page at a time. */
template <typename bound>
__global__ void __launch_bounds__(SCORE_THREADS)
    pages_plain_kernel(const __grid_constant__ struct pages_score_job job)
{
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, kv_head = blockIdx.y;
    int width = 2 * job.att.kv.head_dim, first = (int)blockIdx.z * SCORE_QUERIES;
    int n = min((int)SCORE_QUERIES, job.att.n_rows * job.group - first);
    dependency_release();
    dependency_wait();
    struct call_shape shape = call_shape(&job.att);
    int n_pages = pages_to_score(&job, &shape, (size_t)width * sizeof(bound));
    const bound *pages = (const bound *)job.pages + (size_t)kv_head * job.stride * (size_t)width;
    for (int page = (int)blockIdx.x * SCORE_WARPS + warp; page < n_pages;
         page += (int)gridDim.x * SCORE_WARPS) {
        float sum[SCORE_QUERIES] = {};
        for (int d = lane; d < width; d += WARP) {
            float x = to_f32(pages[(size_t)page * width + d]);
#pragma unroll
            for (int i = 0; i < SCORE_QUERIES; i++)
                if (i < n)
                    sum[i] = fmaf(half_of_query(&job, query_of(&job, kv_head, first + i).q, d), x,
                                  sum[i]);
        }
#pragma unroll
        for (int i = 0; i < SCORE_QUERIES; i++) {
            float score = warp_sum(sum[i]);
            if (i < n && lane == 0)
                query_of(&job, kv_head, first + i).scores[page] = score;
        }
    }
}

static void launch_plain(struct device *dev, const struct pages_score_job *job, enum dtype bounds)
{
    int n_pages = ceil_div(job->att.max_keys, job->page_size), n_kv_heads = job->att.kv.n_kv_heads;
    int n_sets = ceil_div(job->att.n_rows * job->group, SCORE_QUERIES);
    int n = ceil_div(n_pages, SCORE_WARPS), most = ceil_div(8 * dev->n_sms, n_kv_heads * n_sets);
    dim3 grid((unsigned)(n < most ? n : most), (unsigned)n_kv_heads, (unsigned)n_sets);
    if (bounds == DTYPE_F32)
        cuda_launch(dev, pages_plain_kernel<float>, grid, SCORE_THREADS, 0, *job);
    else
        cuda_launch(dev, pages_plain_kernel<__nv_bfloat16>, grid, SCORE_THREADS, 0, *job);
}

static void pages_score(struct device *dev, struct selection *sel, const struct key_index *index,
                        const struct attention *att)
{
    struct pages_score_job job = {};
    job.att = *att;
    job.plan = sel->plan;
    job.scores = sel->scores;
    job.score_stride = sel->stride;
    job.pages = layer_pages(index, att->layer);
    job.stride = index->stride;
    job.page_size = index->config.pages.page_size;
    job.group = sel->group;
    bool aligned = (uintptr_t)att->q % sizeof(float4) == 0 && att->q_stride % 4 == 0;
    switch (index->bounds == DTYPE_BF16 && aligned ? att->kv.head_dim : 0) {
    case 64:
        return launch_score<4>(dev, &job);
    case 80:
        return launch_score<5>(dev, &job);
    case 96:
        return launch_score<6>(dev, &job);
    case 128:
        return launch_score<8>(dev, &job);
    default:
        return launch_plain(dev, &job, index->bounds);
    }
}

const struct index_kind index_pages = {pages_n_entries, pages_open, pages_close,
                                       pages_bytes,     pages_add,  pages_score};
