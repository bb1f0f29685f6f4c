/* Scoring's tiles: what a launch scores, how its blocks share the tiles, and how those come into
 * shared memory.
 *
 * The keys of a KV head, cut into tiles that never straddle the border of context and tail, times
 * the KV heads give a row of tiles, which the blocks share evenly, whatever the lengths, which are
 * known to the device alone.  In a block one warp keeps the copies of the next tiles under way in a
 * ring of stages, and the others wait for nothing but those. */
#ifndef ATTNSCOPE_KERNELS_CUDA_SCORE_RING_CUH
#define ATTNSCOPE_KERNELS_CUDA_SCORE_RING_CUH

#include "kernels/cuda/copy_ring.cuh"
#include "kernels/cuda/selection.cuh"

enum {
    SCORE_WARPS = 4, /* that multiply; one more copies */
    SCORE_THREADS = (SCORE_WARPS + 1) * WARP,
    SCORE_RING_BYTES = 96 * 1024, /* of copies under way; leaves room for the next kernel */
    SCORE_MAX_STAGES = 10,
    SCORE_BARRIER_BYTES = 2 * SCORE_MAX_STAGES * 8,
    KEY_ALIGNMENT = 8 /* of the first tile, so that tiles' scores fill whole sectors */
};

/* A scoring launch.  A KV head's queries (row, head of its group) are numbered row by row; set i of
 * them has those from i * n_queries on. */
struct score_job {
    struct attention att;
    struct select_plan plan;
    float *scores; /* [n_rows, n_heads, stride] */
    size_t stride;
    int group, n_queries;
    int n_stages; /* of the ring */
};

/* What a set of queries is scored with: keys [begin, end), seen by some of its rows. */
struct score_span {
    struct key_range keys;
    int first_query, n_queries;
};

/* Keys are empty if the plan is full already. */
static __device__ __forceinline__ struct score_span
score_span_of(const struct score_job *job, const struct call_shape *shape, int set)
{
    struct score_span s;
    bool chosen;
    int n_all = job->att.n_rows * job->group;
    s.first_query = set * job->n_queries;
    s.n_queries = min(job->n_queries, n_all - s.first_query);
    int last_row = (s.first_query + s.n_queries - 1) / job->group;
    struct row_plan plan =
        resolve_parts(&job->plan, &job->att, shape, s.first_query / job->group, &chosen);
    s.keys.begin = plan.visible.begin;
    s.keys.end = plan.full ? s.keys.begin : shape->first_position + last_row + 1;
    s.keys.end = max(s.keys.begin, s.keys.end);
    return s;
}

/* Where a query's scores go, and the query itself. */
static __device__ __forceinline__ float *query_scores(const struct score_job *job, int kv_head,
                                                      int query)
{
    int row = query / job->group, head = kv_head * job->group + query % job->group;
    return job->scores + ((size_t)row * (size_t)job->att.n_heads + (size_t)head) * job->stride;
}

static __device__ __forceinline__ const float *query_vector(const struct score_job *job,
                                                            int kv_head, int query)
{
    int row = query / job->group, head = kv_head * job->group + query % job->group;
    return job->att.q + (size_t)row * (size_t)job->att.q_stride +
           (size_t)head * (size_t)job->att.kv.head_dim;
}

/* Counts the K rows that the call's rows see.  One thread of the launch calls it. */
static __device__ __forceinline__ void count_scored(const struct score_job *job,
                                                    const struct call_shape *shape)
{
    unsigned long long n = 0;
    bool chosen;
    if (!job->att.counts || resolve_parts(&job->plan, &job->att, shape, 0, &chosen).full)
        return;
    for (int row = 0; row < job->att.n_rows; row++) {
        struct key_range seen = row_visible(&job->att, shape, row);
        n += (unsigned long long)(seen.end - seen.begin);
    }
    job->att.counts->score_rows += n * (unsigned long long)job->att.kv.n_kv_heads;
}

/* --- Who does what ---------------------------------------------------------------------------- */

template <int DIM> struct score_layout {
    enum {
        ROW_BYTES = 2 * DIM,
        KEYS = DIM <= 64 ? 128 : 64,        /* large enough that waiting for a tile costs little */
        ROUNDS = KEYS / (16 * SCORE_WARPS), /* of 16 keys, a matrix, per warp */
        STAGE_BYTES = KEYS * ROW_BYTES
    };
};

struct score_work {
    int first_query, n_queries;
    struct key_range context, tail; /* the keys, by number */
    int context_tiles, head_tiles;
    int begin, end; /* this block's tiles; tile i is tile i % head_tiles of head i / head_tiles */
};

/* Block (set of queries, share of the tiles): sets that read the same tiles do so side by side. */
template <int KEYS>
static __device__ __forceinline__ struct score_work score_work_of(const struct score_job *job,
                                                                  const struct call_shape *shape)
{
    struct score_work work;
    struct score_span s = score_span_of(job, shape, (int)blockIdx.x);
    int begin = s.keys.begin, end = s.keys.end, border = shape->n_context;
    if (begin == end)
        begin = end = 0;
    work.first_query = s.first_query;
    work.n_queries = s.n_queries;
    work.context.begin = begin < border ? begin / KEY_ALIGNMENT * KEY_ALIGNMENT : border;
    work.context.end = max(work.context.begin, min(end, border));
    work.tail.begin = max(begin, border);
    work.tail.end = max(end, work.tail.begin);
    work.context_tiles = (work.context.end - work.context.begin + KEYS - 1) / KEYS;
    work.head_tiles = work.context_tiles + (work.tail.end - work.tail.begin + KEYS - 1) / KEYS;
    unsigned n = (unsigned)job->att.kv.n_kv_heads * (unsigned)work.head_tiles;
    int block = (int)blockIdx.y, share = (int)(n / gridDim.y), extra = (int)(n % gridDim.y);
    work.begin = block * share + min(block, extra);
    work.end = work.begin + share + (block < extra);
    return work;
}

/* The keys of tile i of a KV head, which lie in one segment. */
template <int KEYS>
static __device__ __forceinline__ struct key_range score_keys(const struct score_work *work, int i,
                                                              int *segment)
{
    *segment = i < work->context_tiles ? KV_CONTEXT : KV_TAIL;
    struct key_range all = *segment == KV_CONTEXT ? work->context : work->tail;
    struct key_range keys;
    keys.begin = all.begin + (*segment == KV_CONTEXT ? i : i - work->context_tiles) * KEYS;
    keys.end = min(keys.begin + KEYS, all.end);
    return keys;
}

/* --- The ring --------------------------------------------------------------------------------- */

struct score_ring {
    const char *stages; /* [n_stages, STAGE_BYTES] */
    uint32_t full;      /* [SCORE_MAX_STAGES] barriers: the copies are there */
    uint32_t empty;     /* [SCORE_MAX_STAGES] barriers: every warp that multiplies is done */
    int n_stages;
};

/* The block's ring, ready for use. */
template <int DIM>
static __device__ __forceinline__ struct score_ring ring_open(const char *shared, int n_stages)
{
    struct score_ring ring;
    ring.stages = shared;
    ring.full = shared_address(shared + n_stages * score_layout<DIM>::STAGE_BYTES);
    ring.empty = ring.full + SCORE_MAX_STAGES * 8;
    ring.n_stages = n_stages;
    if (threadIdx.x == 0) {
        for (int i = 0; i < n_stages; i++) {
            barrier_open(ring.full + 8 * i, COPY_ARRIVALS);
            barrier_open(ring.empty + 8 * i, SCORE_WARPS * WARP);
        }
        barrier_publish();
    }
    __syncthreads();
    return ring;
}

/* --- The warp that copies --------------------------------------------------------------------- */

/* Copies the block's tiles, each as soon as its stage is free. */
template <int DIM>
static __device__ __forceinline__ void
score_copy(const struct score_job *job, const struct call_shape *shape,
           const struct score_work *work, const struct score_ring *ring)
{
    typedef score_layout<DIM> layout;
    const struct kv_layer *kv = &job->att.kv;
    struct ring_place place = {0, 1};               /* at first every stage is empty */
    uint64_t policy = cache_policy(gridDim.x == 1); /* scores, which are read next, stay */
    int kv_head = work->head_tiles > 0 ? work->begin / work->head_tiles : 0;
    int i = work->begin - kv_head * work->head_tiles;
    for (int n = work->end - work->begin; n > 0; n--) {
        int segment;
        struct key_range keys = score_keys<layout::KEYS>(work, i, &segment);
        int row = segment == KV_CONTEXT ? keys.begin : keys.begin - shape->n_context;
        size_t first = (size_t)kv_head * (size_t)kv->capacity[segment] + (size_t)row;
        barrier_wait(ring->empty + 8 * place.stage, place.parity);
        uint32_t full = ring->full + 8 * place.stage;
        int n_bytes = (keys.end - keys.begin) * layout::ROW_BYTES;
        copy_expect(full, n_bytes);
        copy_rows_by(shared_address(ring->stages + place.stage * layout::STAGE_BYTES),
                     (const char *)kv->k[segment] + first * layout::ROW_BYTES, n_bytes, full,
                     policy);
        copy_close(full);
        ring_advance(&place, ring->n_stages);
        if (++i == work->head_tiles) {
            i = 0;
            kv_head++;
        }
    }
}

#endif
