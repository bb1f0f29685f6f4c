/* True scores: what the oracles rank by.  A stream of all K rows, each read once for all queries of
 * its KV head.
 *
 * The fast way is bounded by that stream: score_ring.cuh brings it into shared memory, and from
 * there it is multiplied on the tensor cores.  A lane's share of a K row (copy_ring.cuh) makes
 * matrix fragments, and the queries are laid out alike.  A query is split into two bf16 numbers, x
 * = high
 * + low to 2^-17, which take neighbouring columns, so that a score is the sum of two accumulators
 * of one lane.  The plain way does the same in f32. */
#include "kernels/cuda/score_ring.cuh"

enum {
    SCORE_QUERIES = 4, /* of 8 columns */
    PLAIN_WARPS = 8,
    PLAIN_THREADS = PLAIN_WARPS * WARP,
    PLAIN_QUERIES = 8, /* that share a K row of the plain way */
    PLAIN_DIMS = 8     /* of a lane: head_dim is at most 256 */
};

/* --- The warps that multiply ------------------------------------------------------------------ */

/* Queries of a KV head as matrices of 8 columns.  Column c of matrix i is query i * SCORE_QUERIES +
 * c / 2 of the set, its high part if c is even.  A lane holds column g, and gets the scores of
 * columns 2t and 2t + 1. */
template <int DIM, int TILES> struct score_queries {
    uint32_t b[TILES][DIM / 16][2];
    float *to[TILES]; /* the scores of query t; NULL: there is none */
};

template <int DIM, int TILES>
static __device__ __forceinline__ void
take_queries(struct score_queries<DIM, TILES> *to, const struct score_job *job,
             const struct score_work *work, int kv_head, int lane)
{
    int g = lane / 4, t = lane % 4;
    float scale = job->att.scale;
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        int query = i * SCORE_QUERIES + g / 2, own = i * SCORE_QUERIES + t;
        bool there = query < work->n_queries;
        const float *q = query_vector(job, kv_head, work->first_query + (there ? query : 0));
        to->to[i] =
            own < work->n_queries ? query_scores(job, kv_head, work->first_query + own) : NULL;
#pragma unroll
        for (int m = 0; m < DIM / 16; m++) {
            float4 x = {};
            uint32_t high[2], low[2];
            if (there)
                x = *(const float4 *)(q + share_dim<DIM>(2 * m, t));
            split_bf16(scale * x.x, scale * x.y, &high[0], &low[0]);
            split_bf16(scale * x.z, scale * x.w, &high[1], &low[1]);
            to->b[i][m][0] = g % 2 ? low[0] : high[0];
            to->b[i][m][1] = g % 2 ? low[1] : high[1];
        }
    }
}

/* The first of a lane's two keys, which are side by side, in a round of a tile: rows g and g + 8 of
 * the warp's matrix. */
static __device__ __forceinline__ int score_key(int round, int warp, int lane)
{
    return (round * SCORE_WARPS + warp) * 16 + lane / 4 * 2;
}

/* scores[i] = those of the lane's two keys by query t of matrix i. */
template <int DIM, int TILES>
static __device__ __forceinline__ void multiply_keys(float2 scores[TILES],
                                                     const struct score_queries<DIM, TILES> *q,
                                                     const uint32_t k[2][DIM / 8])
{
    float d[2][TILES][4] = {}; /* two sums each, so that products wait less for another */
#pragma unroll
    for (int m = 0; m < DIM / 16; m++) {
        uint32_t a[4] = {k[0][2 * m], k[1][2 * m], k[0][2 * m + 1], k[1][2 * m + 1]};
#pragma unroll
        for (int i = 0; i < TILES; i++)
            multiply_add(d[m % 2][i], a, q->b[i][m]);
    }
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        scores[i].x = (d[0][i][0] + d[1][i][0]) + (d[0][i][1] + d[1][i][1]);
        scores[i].y = (d[0][i][2] + d[1][i][2]) + (d[0][i][3] + d[1][i][3]);
    }
}

/* whole: both keys are there, the first is even. */
static __device__ __forceinline__ void store_pair(float *to, int key, float2 scores, bool whole,
                                                  int end)
{
    if (whole) {
        *(float2 *)(to + key) = scores;
        return;
    }
    if (key < end)
        to[key] = scores.x;
    if (key + 1 < end)
        to[key + 1] = scores.y;
}

template <int DIM, int TILES>
static __device__ __forceinline__ void
score_tile(const struct score_queries<DIM, TILES> *q, const struct score_ring *ring,
           struct ring_place place, struct key_range keys, int warp, int lane)
{
    typedef score_layout<DIM> layout;
    uint32_t stage = shared_address(ring->stages + place.stage * layout::STAGE_BYTES);
    bool whole = keys.end - keys.begin == layout::KEYS && keys.begin % 2 == 0;
    barrier_wait(ring->full + 8 * place.stage, place.parity);
#pragma unroll
    for (int round = 0; round < layout::ROUNDS; round++) {
        uint32_t k[2][DIM / 8];
        float2 scores[TILES];
        int key = score_key(round, warp, lane);
        uint32_t row = stage + (uint32_t)(key * layout::ROW_BYTES);
        load_share<DIM, DIM>(k[0], row, lane);
        load_share<DIM, DIM>(k[1], row + layout::ROW_BYTES, lane);
        multiply_keys<DIM, TILES>(scores, q, k);
#pragma unroll
        for (int i = 0; i < TILES; i++)
            if (q->to[i])
                store_pair(q->to[i], keys.begin + key, scores[i], whole, keys.end);
    }
    barrier_arrive(ring->empty + 8 * place.stage); /* what this lane read may be written over */
}

template <int DIM, int TILES>
static __device__ __forceinline__ void
score_multiply(const struct score_job *job, const struct score_work *work,
               const struct score_ring *ring, int warp, int lane)
{
    struct ring_place place = {0, 0};
    int n = work->end - work->begin;
    int kv_head = n > 0 ? work->begin / work->head_tiles : 0;
    int i = work->begin - kv_head * work->head_tiles;
    for (; n > 0; kv_head++) {
        struct score_queries<DIM, TILES> queries;
        take_queries<DIM, TILES>(&queries, job, work, kv_head, lane);
        for (; n > 0 && i < work->head_tiles; n--, i++) {
            int segment;
            struct key_range keys = score_keys<score_layout<DIM>::KEYS>(work, i, &segment);
            score_tile<DIM, TILES>(&queries, ring, place, keys, warp, lane);
            ring_advance(&place, ring->n_stages);
        }
        i = 0;
    }
}

/* --- The kernel ------------------------------------------------------------------------------- */

template <int DIM, int TILES>
static __global__ void __launch_bounds__(SCORE_THREADS, 1)
    score_kernel(const __grid_constant__ struct score_job job)
{
    extern __shared__ __align__(128) char score_shared[];
    int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    struct score_ring ring = ring_open<DIM>(score_shared, job.n_stages);

    dependency_release();
    dependency_wait();
    struct call_shape shape = call_shape(&job.att);
    struct score_work work = score_work_of<score_layout<DIM>::KEYS>(&job, &shape);
    if (warp < SCORE_WARPS) {
        score_multiply<DIM, TILES>(&job, &work, &ring, warp, lane);
        return;
    }
    score_copy<DIM>(&job, &shape, &work, &ring);
    /* The last share has the fewest tiles. */
    if (lane == 0 && blockIdx.x == 0 && blockIdx.y == gridDim.y - 1)
        count_scored(&job, &shape);
}

/* One set of queries, or few, fill the device once, with a block per multiprocessor.  Many do so
 * several times, or a last round could leave most of it idle. */
static int n_tile_shares(const struct device *dev, int n_sets)
{
    return n_sets <= dev->n_sms / 8 ? dev->n_sms / n_sets : ceil_div(4 * dev->n_sms, n_sets);
}

template <int DIM, int TILES> static void launch_score(struct device *dev, struct score_job *job)
{
    const size_t stage = score_layout<DIM>::STAGE_BYTES;
    size_t ring = dev->properties.sharedMemPerBlockOptin - SCORE_BARRIER_BYTES;
    if (ring > SCORE_RING_BYTES)
        ring = SCORE_RING_BYTES;
    size_t n_stages = ring / stage;
    if (n_stages > SCORE_MAX_STAGES)
        n_stages = SCORE_MAX_STAGES;
    job->n_stages = (int)n_stages;
    job->n_queries = TILES * SCORE_QUERIES;
    int n_sets = ceil_div(job->att.n_rows * job->group, job->n_queries);
    dim3 grid((unsigned)n_sets, (unsigned)n_tile_shares(dev, n_sets));
    size_t n_shared = cuda_one_per_sm(dev, n_stages * stage + SCORE_BARRIER_BYTES);
    cuda_allow_shared(dev, score_kernel<DIM, TILES>, n_shared);
    cuda_launch(dev, score_kernel<DIM, TILES>, grid, SCORE_THREADS, n_shared, *job);
}

template <int DIM> static void choose_tiles(struct device *dev, struct score_job *job)
{
    int n = job->att.n_rows * job->group;
    if (n <= SCORE_QUERIES)
        launch_score<DIM, 1>(dev, job);
    else if (n <= 2 * SCORE_QUERIES || DIM > 128)
        launch_score<DIM, 2>(dev, job);
    else
        launch_score<DIM, (DIM > 128 ? 2 : 4)>(dev, job);
}

/* --- The plain way ---------------------------------------------------------------------------- */

/* Block (share of the keys, KV head, set of up to PLAIN_QUERIES queries); a warp has every eighth
 * key of the share, a lane every 32nd dimension. */
template <typename number>
__global__ void __launch_bounds__(PLAIN_THREADS)
    plain_kernel(const __grid_constant__ struct score_job job)
{
    __shared__ float q[PLAIN_QUERIES][PLAIN_DIMS * WARP];
    int lane = threadIdx.x % WARP, dim = job.att.kv.head_dim;

    dependency_wait();
    dependency_release();
    struct call_shape shape = call_shape(&job.att);
    struct score_span s = score_span_of(&job, &shape, (int)blockIdx.z);
    int kv_head = (int)blockIdx.y;
    if (threadIdx.x + blockIdx.x + blockIdx.y + blockIdx.z == 0)
        count_scored(&job, &shape);
    for (int i = threadIdx.x; i < PLAIN_QUERIES * PLAIN_DIMS * WARP; i += PLAIN_THREADS) {
        int query = i / (PLAIN_DIMS * WARP), d = i % (PLAIN_DIMS * WARP);
        q[query][d] = query < s.n_queries && d < dim
                          ? job.att.scale * query_vector(&job, kv_head, s.first_query + query)[d]
                          : 0.0f;
    }
    __syncthreads();
    long long n = s.keys.end - s.keys.begin;
    int key = s.keys.begin + (int)(n * blockIdx.x / gridDim.x) + (int)threadIdx.x / WARP;
    int end = s.keys.begin + (int)(n * (blockIdx.x + 1) / gridDim.x);
    float *to = lane < s.n_queries ? query_scores(&job, kv_head, s.first_query + lane) : NULL;
    for (; key < end; key += PLAIN_WARPS) {
        int segment;
        size_t offset = key_offset(&job.att, &shape, kv_head, key, &segment);
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
    int most = ceil_div(att->max_keys, PLAIN_WARPS);
    n_x = n_x < 1 ? 1 : n_x < most ? n_x : most;
    dim3 grid((unsigned)n_x, (unsigned)att->kv.n_kv_heads, (unsigned)n_z);
    if (att->kv.dtype == DTYPE_F32)
        cuda_launch(dev, plain_kernel<float>, grid, PLAIN_THREADS, 0, *job);
    else
        cuda_launch(dev, plain_kernel<__nv_bfloat16>, grid, PLAIN_THREADS, 0, *job);
}

/* Whether the fast way's copies and loads are aligned. */
static bool is_aligned(const struct attention *att)
{
    const struct kv_layer *kv = &att->kv;
    return (uintptr_t)kv->k[KV_CONTEXT] % 16 == 0 && (uintptr_t)kv->k[KV_TAIL] % 16 == 0 &&
           (uintptr_t)att->q % sizeof(float4) == 0 && att->q_stride % 4 == 0;
}

void cuda_score_exact(struct device *dev, struct selection *sel, const struct attention *att)
{
    assert(att->n_rows == sel->n_rows && att->kv.head_dim <= PLAIN_DIMS * WARP);
    selection_catch_up(dev, sel);
    sel->late->levels.write = NULL;
    sel->late->scope = {};
    struct score_job job = {};
    job.att = *att;
    job.plan = sel->plan;
    job.scores = sel->scores;
    job.stride = sel->stride;
    job.group = sel->group;
    int dim = att->kv.dtype == DTYPE_BF16 && is_aligned(att) ? att->kv.head_dim : 0;
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
