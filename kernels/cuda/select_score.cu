/* True scores: what the oracles rank by.  A stream of all K rows, each read once for all queries of
 * its KV head.
 *
 * The fast way multiplies on the tensor cores without a detour through shared memory: since a dot
 * product does not mind in which order its dimensions come, a lane takes 16 consecutive bytes of a
 * K row as its share of the matrix fragments, and the queries are laid out alike.  A query is split
 * into two bf16 numbers, x = high + low to 2^-17, which take neighbouring columns, so that a score
 * is the sum of two accumulators of one lane.  The plain way does the same in f32. */
#include "kernels/cuda/selection.cuh"

enum {
    SCORE_THREADS = 256,
    SCORE_WARPS = SCORE_THREADS / WARP,
    SCORE_KEYS = 16,   /* of a warp's tile: rows of a matrix */
    TILE_QUERIES = 4,  /* of 8 columns */
    PLAIN_QUERIES = 8, /* that share a K row of the plain way */
    PLAIN_DIMS = 8     /* of a lane: head_dim is at most 256 */
};

/* A scoring launch.  A KV head's queries (row, head of its group) are numbered row by row; block z
 * has those from z * n_queries on, block y is a KV head, block x a share of the keys. */
struct score_job {
    struct attention att;
    struct select_plan plan;
    float *scores; /* [n_rows, n_heads, stride] */
    size_t stride;
    int group, n_queries;
};

/* What a block scores: keys [begin, end), seen by some of its rows. */
struct score_span {
    int begin, end;
    int first_query, n_queries;
};

/* Keys are empty if the plan is full already. */
static __device__ __forceinline__ struct score_span score_span_of(const struct score_job *job,
                                                                  const struct call_shape *shape)
{
    struct score_span s;
    bool chosen;
    int n_all = job->att.n_rows * job->group;
    s.first_query = blockIdx.z * job->n_queries;
    s.n_queries = min(job->n_queries, n_all - s.first_query);
    int last_row = (s.first_query + s.n_queries - 1) / job->group;
    struct row_plan plan =
        resolve_parts(&job->plan, &job->att, shape, s.first_query / job->group, &chosen);
    s.begin = plan.visible.begin;
    s.end = plan.full ? 0 : shape->first_position + last_row + 1;
    return s;
}

/* Where a query's scores go, and the query itself. */
static __device__ __forceinline__ float *query_scores(const struct score_job *job, int query)
{
    int row = query / job->group, head = blockIdx.y * job->group + query % job->group;
    return job->scores + ((size_t)row * (size_t)job->att.n_heads + (size_t)head) * job->stride;
}

static __device__ __forceinline__ const float *query_vector(const struct score_job *job, int query)
{
    int row = query / job->group, head = blockIdx.y * job->group + query % job->group;
    return job->att.q + (size_t)row * (size_t)job->att.q_stride +
           (size_t)head * (size_t)job->att.kv.head_dim;
}

/* One block of the launch counts the K rows that its queries' rows see. */
static __device__ __forceinline__ void count_scored(const struct score_job *job,
                                                    const struct call_shape *shape)
{
    if (!job->att.counts || threadIdx.x + blockIdx.x + blockIdx.y + blockIdx.z > 0)
        return;
    unsigned long long n = 0;
    bool chosen;
    if (resolve_parts(&job->plan, &job->att, shape, 0, &chosen).full)
        return;
    for (int row = 0; row < job->att.n_rows; row++) {
        struct key_range seen = row_visible(&job->att, shape, row);
        n += (unsigned long long)(seen.end - seen.begin);
    }
    job->att.counts->score_rows += n * (unsigned long long)job->att.kv.n_kv_heads;
}

/* --- On the tensor cores ---------------------------------------------------------------------- */

/* d [16, 8] += a [16, 16] b [16, 8], bf16 with f32 sums. */
static __device__ __forceinline__ void multiply_add(float d[4], uint32_t a0, uint32_t a1,
                                                    uint32_t a2, uint32_t a3, uint32_t b0,
                                                    uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* Two numbers' high or low parts in bf16, the first in the lower half. */
static __device__ __forceinline__ uint32_t split_pair(float x, float y, bool low)
{
    __nv_bfloat16 a = __float2bfloat16_rn(x), b = __float2bfloat16_rn(y);
    if (low) {
        a = __float2bfloat16_rn(x - __bfloat162float(a));
        b = __float2bfloat16_rn(y - __bfloat162float(b));
    }
    return (uint32_t)__bfloat16_as_ushort(a) | (uint32_t)__bfloat16_as_ushort(b) << 16;
}

/* Matrix multiplication number m of a K row takes these four of a lane's dimensions, of which
 * there are 8 (or, in a last half step, 4) side by side in each run of 32 (16).  t is the lane's
 * number in its quad. */
template <int DIM> static __device__ __forceinline__ int lane_dims(int m, int t)
{
    bool half = DIM % 32 != 0 && m == DIM / 16 - 1;
    return half ? m * 16 + t * 4 : m / 2 * 32 + t * 8 + m % 2 * 4;
}

/* The query fragments of TILES tiles.  Column c of a tile is query c / 2, its high part if c is
 * even.  Lane (g, t) holds column g. */
template <int DIM, int TILES>
static __device__ __forceinline__ void load_queries(uint32_t b[TILES][DIM / 16][2],
                                                    const struct score_job *job,
                                                    const struct score_span *s)
{
    int g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
    float scale = job->att.scale;
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        int query = tile * TILE_QUERIES + g / 2;
        bool there = query < s->n_queries;
        const float *q = query_vector(job, s->first_query + (there ? query : 0));
#pragma unroll
        for (int m = 0; m < DIM / 16; m++) {
            float4 x = {};
            if (there)
                x = *(const float4 *)(q + lane_dims<DIM>(m, t));
            b[tile][m][0] = split_pair(scale * x.x, scale * x.y, g % 2);
            b[tile][m][1] = split_pair(scale * x.z, scale * x.w, g % 2);
        }
    }
}

/* A lane's share of a K row: 8 dimensions of each run of 32, then 4 of a half run. */
template <int DIM> struct key_share {
    uint32_t pair[DIM / 16][2];
};

template <int DIM>
static __device__ __forceinline__ void load_key(struct key_share<DIM> *out,
                                                const struct score_job *job,
                                                const struct call_shape *shape, int key)
{
    int segment, t = threadIdx.x % 4;
    size_t offset = key_offset(&job->att, shape, blockIdx.y, key, &segment);
    const __nv_bfloat16 *k = (const __nv_bfloat16 *)job->att.kv.k[segment] + offset;
#pragma unroll
    for (int m = 0; m + 1 < DIM / 16; m += 2) {
        uint4 x = __ldcs((const uint4 *)(k + lane_dims<DIM>(m, t)));
        out->pair[m][0] = x.x;
        out->pair[m][1] = x.y;
        out->pair[m + 1][0] = x.z;
        out->pair[m + 1][1] = x.w;
    }
    if (DIM % 32 != 0) {
        uint2 x = __ldcs((const uint2 *)(k + lane_dims<DIM>(DIM / 16 - 1, t)));
        out->pair[DIM / 16 - 1][0] = x.x;
        out->pair[DIM / 16 - 1][1] = x.y;
    }
}

/* This lane's two keys of a tile; those beyond the span are its last. */
template <int DIM>
static __device__ __forceinline__ void
load_tile(struct key_share<DIM> k[2], const struct score_job *job, const struct call_shape *shape,
          const struct score_span *s, int tile)
{
    int key = tile * SCORE_KEYS + (int)threadIdx.x % WARP / 4;
    load_key<DIM>(&k[0], job, shape, min(key, s->end - 1));
    load_key<DIM>(&k[1], job, shape, min(key + 8, s->end - 1));
}

/* A block has a share of the span in tiles of SCORE_KEYS keys, a warp every eighth of them.  Lane
 * (g, t) loads keys g and g + 8 of a tile and ends with their scores by query t of each query
 * tile. */
template <int DIM, int TILES>
__global__ void __launch_bounds__(SCORE_THREADS)
    score_kernel(const __grid_constant__ struct score_job job)
{
    int lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    uint32_t b[TILES][DIM / 16][2];
    float *to[TILES];

    dependency_wait();
    dependency_release();
    struct call_shape shape = call_shape(&job.att);
    struct score_span s = score_span_of(&job, &shape);
    count_scored(&job, &shape);
    if (s.begin >= s.end)
        return;
    int first = s.begin / SCORE_KEYS;
    long long n = (s.end + SCORE_KEYS - 1) / SCORE_KEYS - first;
    int tile = first + (int)(n * blockIdx.x / gridDim.x) + (int)threadIdx.x / WARP;
    int end = first + (int)(n * (blockIdx.x + 1) / gridDim.x);
    load_queries<DIM, TILES>(b, &job, &s);
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        int query = i * TILE_QUERIES + t;
        to[i] = query < s.n_queries ? query_scores(&job, s.first_query + query) + g : NULL;
    }
    struct key_share<DIM> k[2];
    if (tile < end)
        load_tile<DIM>(k, &job, &shape, &s, tile);
    for (; tile < end; tile += SCORE_WARPS) {
        int key = tile * SCORE_KEYS;
        struct key_share<DIM> next[2] = {
        };
        if (tile + SCORE_WARPS < end) /* on its way while this tile is multiplied */
            load_tile<DIM>(next, &job, &shape, &s, tile + SCORE_WARPS);
        float d[TILES][4] = {};
#pragma unroll
        for (int m = 0; m < DIM / 16; m++)
#pragma unroll
            for (int i = 0; i < TILES; i++)
                multiply_add(d[i], k[0].pair[m][0], k[1].pair[m][0], k[0].pair[m][1],
                             k[1].pair[m][1], b[i][m][0], b[i][m][1]);
#pragma unroll
        for (int i = 0; i < TILES; i++) {
            if (to[i]) {
                to[i][key] = d[i][0] + d[i][1];
                to[i][key + 8] = d[i][2] + d[i][3];
            }
        }
        k[0] = next[0];
        k[1] = next[1];
    }
}

/* Fills the device once. */
template <int DIM, int TILES> static void launch_score(struct device *dev, struct score_job *job)
{
    const struct attention *att = &job->att;
    int n_per_sm = 0;
    if (!CUDA_CALL(dev, cudaOccupancyMaxActiveBlocksPerMultiprocessor(
                            &n_per_sm, score_kernel<DIM, TILES>, SCORE_THREADS, 0)))
        return;
    job->n_queries = TILES * TILE_QUERIES;
    int n_z = ceil_div(att->n_rows * job->group, job->n_queries);
    int n_x = dev->n_sms * n_per_sm / (att->kv.n_kv_heads * n_z);
    int most = ceil_div(att->max_keys, SCORE_KEYS * SCORE_WARPS);
    n_x = n_x < 1 ? 1 : n_x < most ? n_x : most;
    dim3 grid((unsigned)n_x, (unsigned)att->kv.n_kv_heads, (unsigned)n_z);
    cuda_launch(dev, score_kernel<DIM, TILES>, grid, SCORE_THREADS, 0, *job);
}

template <int DIM> static void choose_tiles(struct device *dev, struct score_job *job)
{
    int n = job->att.n_rows * job->group;
    if (n <= TILE_QUERIES)
        launch_score<DIM, 1>(dev, job);
    else if (n <= 2 * TILE_QUERIES || DIM > 128)
        launch_score<DIM, 2>(dev, job);
    else
        launch_score<DIM, (DIM > 128 ? 2 : 4)>(dev, job);
}

/* --- The plain way ----------------------------------------------------------------------------
 */

/* Block z has up to PLAIN_QUERIES queries; a warp has every eighth key of the block's share, a lane
 * every 32nd dimension. */
template <typename number>
__global__ void __launch_bounds__(SCORE_THREADS)
    plain_kernel(const __grid_constant__ struct score_job job)
{
    __shared__ float q[PLAIN_QUERIES][PLAIN_DIMS * WARP];
    int lane = threadIdx.x % WARP, dim = job.att.kv.head_dim;

    dependency_wait();
    dependency_release();
    struct call_shape shape = call_shape(&job.att);
    struct score_span s = score_span_of(&job, &shape);
    count_scored(&job, &shape);
    if (s.begin >= s.end)
        return;
    for (int i = threadIdx.x; i < PLAIN_QUERIES * PLAIN_DIMS * WARP; i += SCORE_THREADS) {
        int query = i / (PLAIN_DIMS * WARP), d = i % (PLAIN_DIMS * WARP);
        q[query][d] = query < s.n_queries && d < dim
                          ? job.att.scale * query_vector(&job, s.first_query + query)[d]
                          : 0.0f;
    }
    __syncthreads();
    int first = s.begin / SCORE_KEYS * SCORE_KEYS;
    long long n = (s.end + SCORE_KEYS - 1) / SCORE_KEYS * SCORE_KEYS - first;
    int key = first + (int)(n * blockIdx.x / gridDim.x) + (int)threadIdx.x / WARP;
    int end = first + (int)(n * (blockIdx.x + 1) / gridDim.x);
    float *to = lane < s.n_queries ? query_scores(&job, s.first_query + lane) : NULL;
    for (; key < end; key += SCORE_WARPS) {
        int segment;
        size_t offset = key_offset(&job.att, &shape, blockIdx.y, min(key, s.end - 1), &segment);
        const number *k = (const number *)job.att.kv.k[segment] + offset;
        float x[PLAIN_DIMS], score = 0.0f;
#pragma unroll
        for (int i = 0; i < PLAIN_DIMS; i++)
            x[i] = i * WARP + lane < dim ? to_f32(k[i * WARP + lane]) : 0.0f;
#pragma unroll
        for (int query = 0; query < PLAIN_QUERIES; query++) {
            float sum = 0.0f;
#pragma unroll
            for (int i = 0; i < PLAIN_DIMS; i++)
                sum = fmaf(q[query][i * WARP + lane], x[i], sum);
            sum = warp_sum(sum);
            score = lane == query ? sum : score;
        }
        if (to)
            to[key] = score;
    }
}

static void launch_plain(struct device *dev, struct score_job *job)
{
    const struct attention *att = &job->att;
    job->n_queries = PLAIN_QUERIES;
    int n_z = ceil_div(att->n_rows * job->group, PLAIN_QUERIES);
    int n_x = dev->n_sms * 4 / (att->kv.n_kv_heads * n_z);
    int most = ceil_div(att->max_keys, SCORE_WARPS);
    n_x = n_x < 1 ? 1 : n_x < most ? n_x : most;
    dim3 grid((unsigned)n_x, (unsigned)att->kv.n_kv_heads, (unsigned)n_z);
    if (att->kv.dtype == DTYPE_F32)
        cuda_launch(dev, plain_kernel<float>, grid, SCORE_THREADS, 0, *job);
    else
        cuda_launch(dev, plain_kernel<__nv_bfloat16>, grid, SCORE_THREADS, 0, *job);
}

void cuda_score_exact(struct device *dev, struct selection *sel, const struct attention *att)
{
    assert(att->n_rows == sel->n_rows && att->kv.head_dim <= PLAIN_DIMS * WARP);
    struct score_job job = {};
    job.att = *att;
    job.plan = sel->plan;
    job.scores = sel->scores;
    job.stride = sel->stride;
    job.group = sel->group;
    bool aligned = (uintptr_t)att->q % sizeof(float4) == 0 && att->q_stride % 4 == 0;
    int dim = att->kv.dtype == DTYPE_BF16 && aligned ? att->kv.head_dim : 0;
    switch (dim) {
    case 64:
        return choose_tiles<64>(dev, &job);
    case 80:
        return choose_tiles<80>(dev, &job);
    case 96:
        return choose_tiles<96>(dev, &job);
    case 128:
        return choose_tiles<128>(dev, &job);
    case 256:
        return choose_tiles<256>(dev, &job);
    default:
        return launch_plain(dev, &job);
    }
}
