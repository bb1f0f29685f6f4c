/* Decode attention: how the tiles are shared out over blocks, and how what the warps of a block and
 * the blocks of a unit have of a query's output is put together. */
#ifndef ATTNSCOPE_KERNELS_CUDA_ATTENTION_DECODE_MERGE_CUH
#define ATTNSCOPE_KERNELS_CUDA_ATTENTION_DECODE_MERGE_CUH

#include "kernels/cuda/attention_decode.cuh"
#include "kernels/cuda/selection.cuh"

enum {
    RING_BYTES = 96 * 1024, /* of copies under way; leaves room for the next kernel's blocks */
    MIN_STAGES = 3,
    MAX_STAGES = 8,
    MAX_QUERIES = 16, /* of a KV head, if there is more than one row */
    SOLO_TILES = 4,   /* so short a unit is one block's work: merging would cost more */
    MERGE_BATCH = 16, /* parts that are read at once: as many blocks as 8 units have each on 132 */
    COMPUTE_BARRIER = 1 /* of bar.sync; 0 is __syncthreads */
};

struct decode_call {
    struct attention att;
    struct select_plan plan; /* of the one row; n = 0: dense */
    int n_unions;            /* of a row: what counts of rows read go by */
    int group;               /* query heads per KV head */
    int n_queries;  /* of a KV head: n_rows * group; query i is row i / group, head i % group */
    int head_units; /* units per KV head */
    int n_units;
    int unit_blocks; /* that share a unit, each with no other; 0: all share all units evenly */
    int n_stages;
    float *part_out;   /* [n_blocks + n_units, queries of a unit, DIM] */
    float2 *part_sum;  /* [n_blocks + n_units, queries of a unit] max and sum */
    uint32_t *tickets; /* [n_units] */
};

/* The shared memory of a block; [W] is DECODE_WARPS, [Q] the queries of a tile.  What the warps
 * have of a unit lies where its tiles were. */
template <int DIM, bool WIDE> struct decode_memory {
    enum {
        QUERIES = WIDE ? WIDE_QUERIES : NARROW_QUERIES,
        /* Of a query's out; the 2 rows that are written at once lie in different banks. */
        OUT_PITCH = DIM + 4,
        OUT_BYTES = DECODE_WARPS * QUERIES * OUT_PITCH * 4,
        SUM_BYTES = DECODE_WARPS * QUERIES * 8,
        BARRIER_BYTES = (2 * MAX_STAGES + 1) * 8,
        FIXED_BYTES = BARRIER_BYTES + 8
    };
    char *stages;   /* [n_stages, STAGE_BYTES] */
    float *out;     /* [W, Q, OUT_PITCH] */
    float2 *sum;    /* [W, Q] max and sum */
    uint32_t full;  /* [MAX_STAGES] barriers: the copies are there */
    uint32_t empty; /* [MAX_STAGES] barriers: every computing thread has done with the stage */
    uint32_t left;  /* a barrier: a unit is finished, its tiles' place free */
    int *is_last;
    int *n_dropped; /* stages that were filled for nothing at first */
};

template <int DIM, bool WIDE>
static __device__ __forceinline__ struct decode_memory<DIM, WIDE> decode_carve(char *p,
                                                                               int n_stages) {
    typedef decode_memory<DIM, WIDE> memory;
    memory m;
    static_assert(memory::OUT_BYTES + memory::SUM_BYTES <=
                      (DIM > 128 ? 1 : MIN_STAGES) * decode_layout<DIM>::STAGE_BYTES,
                  "the stages have room for what the warps have");
    m.stages = p;
    m.out = (float *)p;
    m.sum = (float2 *)(p + memory::OUT_BYTES);
    p += (size_t)n_stages * decode_layout<DIM>::STAGE_BYTES;
    m.full = shared_address(p);
    m.empty = m.full + MAX_STAGES * 8;
    m.left = m.empty + MAX_STAGES * 8;
    m.is_last = (int *)(p + memory::BARRIER_BYTES);
    m.n_dropped = m.is_last + 1;
    return m;
}

/* --- Who does what ---------------------------------------------------------------------------- */

/* Keys of a call as pieces: range r of them in segment s is piece r * KV_SEGMENTS + s. */
enum {
    N_PIECES = (int)MAX_RANGES * (int)KV_SEGMENTS
};

struct decode_work {
    struct key_range piece[N_PIECES]; /* keys, by number; ascending */
    int first_tile[N_PIECES];         /* of a piece; no tile straddles two */
    int unit_tiles;
    int unit, tile; /* this block's first tile, the unit's number `tile` */
    int n_tiles;    /* of this block, which may go on in the units that follow */
    /* Of tiles laid end to end: the first `extra` blocks have share + 1, the others share.  Where
     * units have blocks of their own these are the unit's, of which n_blocks have tiles. */
    int share, extra, n_blocks;
};

/* The keys that the call reads: what any row sees or, if a plan chooses, its ranges for the one row
 * there is, which attends to its own key where it has none. */
static __device__ __forceinline__ void decode_ranges(const struct decode_call *call,
                                                     const struct call_shape *shape,
                                                     struct key_range range[MAX_RANGES])
{
    range[0].begin = row_visible(&call->att, shape, 0).begin;
    range[0].end = row_visible(&call->att, shape, call->att.n_rows - 1).end;
    range[1] = {0, 0};
    if (call->plan.n == 0)
        return;
    struct row_plan plan = resolve_plan(&call->plan, &call->att, shape, 0);
    if (plan.n_ranges > 0)
        range[0] = plan.range[0];
    else
        range[0].begin = shape->first_position;
    if (plan.n_ranges > 1)
        range[1] = plan.range[1];
}

static __device__ __forceinline__ struct decode_work decode_share(const struct decode_call *call,
                                                                  const struct call_shape *shape)
{
    struct decode_work work;
    struct key_range range[MAX_RANGES];
    decode_ranges(call, shape, range);
    work.unit_tiles = 0;
#pragma unroll
    for (int p = 0; p < N_PIECES; p++) {
        struct key_range from = range[p / (int)KV_SEGMENTS], *piece = &work.piece[p];
        bool tail = p % (int)KV_SEGMENTS == KV_TAIL;
        piece->begin = tail ? max(from.begin, shape->n_context) : from.begin;
        piece->end = max(tail ? from.end : min(from.end, shape->n_context), piece->begin);
        work.first_tile[p] = work.unit_tiles;
        work.unit_tiles += (piece->end - piece->begin + DECODE_KEYS - 1) / DECODE_KEYS;
    }
    bool own = call->unit_blocks > 0, solo = work.unit_tiles <= SOLO_TILES;
    int piece = solo ? work.unit_tiles : 1;            /* short units are shared out whole */
    unsigned n = solo ? 1 : (unsigned)work.unit_tiles; /* pieces of a unit */
    int block = (int)blockIdx.x;
    work.n_blocks = own ? min((int)n, call->unit_blocks) : (int)gridDim.x;
    n *= own ? 1 : (unsigned)call->n_units;
    work.share = (int)(n / (unsigned)work.n_blocks);
    work.extra = (int)n - work.share * work.n_blocks;
    work.n_tiles = block < work.n_blocks ? (work.share + (block < work.extra)) * piece : 0;
    work.unit = (int)blockIdx.y;
    work.tile = (block * work.share + min(block, work.extra)) * piece;
    if (!own && work.unit_tiles > 0) {
        work.unit = work.tile / work.unit_tiles;
        work.tile -= work.unit * work.unit_tiles;
    }
    return work;
}

/* The keys of tile i of a unit, which lie in one segment. */
static __device__ __forceinline__ struct key_range decode_tile_keys(const struct decode_work *work,
                                                                    int i, int *segment)
{
    struct key_range keys = work->piece[0];
    int first = 0;
    *segment = KV_CONTEXT;
#pragma unroll
    for (int p = 1; p < N_PIECES; p++)
        if (i >= work->first_tile[p]) {
            keys = work->piece[p];
            first = work->first_tile[p];
            *segment = p % (int)KV_SEGMENTS;
        }
    keys.begin += (i - first) * DECODE_KEYS;
    keys.end = min(keys.begin + DECODE_KEYS, keys.end);
    return keys;
}

/* A division costs what a hundred cycles do, before the first copy. */
static __device__ __forceinline__ int unit_kv_head(const struct decode_call *call, int unit)
{
    return call->head_units == 1 ? unit : unit / call->head_units;
}

/* The first of a unit's queries, by number in its KV head. */
static __device__ __forceinline__ int unit_query(const struct decode_call *call, int unit,
                                                 int n_queries)
{
    return call->head_units == 1 ? 0 : unit % call->head_units * n_queries;
}

/* The block that has tile i of all, where units are not shared out whole. */
static __device__ __forceinline__ int block_of_tile(const struct decode_work *work, int i)
{
    int first = work->extra * (work->share + 1);
    return i < first ? i / (work->share + 1) : work->extra + (i - first) / work->share;
}

/* The row of a KV head's query. */
static __device__ __forceinline__ int query_row(const struct decode_call *call, int query)
{
    return call->att.n_rows == 1 ? 0 : query / call->group;
}

/* The blocks that have a unit's tiles; n = 1: this one has them all. */
struct unit_blocks {
    int first, n;
};

/* This block's number among all; grid (blocks of a unit, units), or (blocks, 1) where they share.
 */
static __device__ __forceinline__ int part_number(void)
{
    return (int)(blockIdx.y * gridDim.x + blockIdx.x);
}

/* n_before, n: tiles of the unit before this block's and this block's. */
static __device__ __forceinline__ struct unit_blocks unit_blocks_of(const struct decode_call *call,
                                                                    const struct decode_work *work,
                                                                    int unit, int n_before, int n)
{
    struct unit_blocks blocks = {part_number(), 1};
    int begin = unit * work->unit_tiles, end = begin + work->unit_tiles;
    if (n_before == 0 && n == work->unit_tiles)
        return blocks;
    if (call->unit_blocks > 0) {
        blocks.first = unit * call->unit_blocks;
        blocks.n = work->n_blocks;
        return blocks;
    }
    blocks.first = block_of_tile(work, begin);
    blocks.n = block_of_tile(work, end - 1) - blocks.first + 1;
    return blocks;
}

/* --- Merging ---------------------------------------------------------------------------------- */

/* Waits for the warps that compute. */
static __device__ __forceinline__ void compute_sync(void)
{
    asm volatile("bar.sync %0, %1;" ::"n"((int)COMPUTE_BARRIER), "n"((int)COMPUTE_THREADS)
                 : "memory");
}

/* Four dimensions of a query's out, not yet divided by the sum. */
struct decode_sum {
    float4 out;
    float max, sum;
};

/* 2^(max - top), 0 for what has no keys. */
static __device__ __forceinline__ float decode_factor(float max, float top)
{
    return max == -INFINITY ? 0.0f : exp2_fast(max - top);
}

static __device__ __forceinline__ void add_scaled(float4 *to, float factor, float4 x)
{
    to->x += factor * x.x;
    to->y += factor * x.y;
    to->z += factor * x.z;
    to->w += factor * x.w;
}

/* Writes 4 dimensions from d of a unit's query to the output.  The sink logit is one more key,
 * without a value. */
template <int DIM>
static __device__ __forceinline__ void write_out(const struct decode_call *call, int kv_head,
                                                 int query, int d, struct decode_sum sum)
{
    const struct attention *att = &call->att;
    int row = query_row(call, query), head = kv_head * call->group + query - row * call->group;
    float factor = 0.0f; /* a row of padding sees nothing */
    if (sum.sum != 0.0f && !att->sink_logits) {
        factor = 1.0f / sum.sum;
    } else if (sum.sum != 0.0f) {
        float sink = att->sink_logits[head] * LOG2_E, top = fmaxf(sink, sum.max);
        factor = exp2_fast(sum.max - top);
        factor /= sum.sum * factor + exp2_fast(sink - top);
    }
    float4 out = {sum.out.x * factor, sum.out.y * factor, sum.out.z * factor, sum.out.w * factor};
    float *to = att->out + ((size_t)row * (size_t)att->n_heads + (size_t)head) * DIM + d;
    *(float4 *)to = out;
}

/* Lays down what a warp has of the unit's n queries. */
template <int DIM, bool WIDE>
static __device__ __forceinline__ void store_warp(const struct decode_memory<DIM, WIDE> *memory,
                                                  struct decode_state<DIM, WIDE> *state, int n)
{
    typedef struct decode_memory<DIM, WIDE> layout;
    int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP, t = lane % 4;
    compute_sync(); /* the other warps' last tiles lie there */
#pragma unroll
    for (int r = 0; r < 1 + WIDE; r++) {
        float sum = state->sum[r];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        int query = lane / 4 + 8 * r;
        if (query >= n)
            continue;
        int slot = warp * layout::QUERIES + query;
        if (t == 0)
            memory->sum[slot] = make_float2(state->max[r], sum);
        float *out = memory->out + slot * layout::OUT_PITCH;
#pragma unroll
        for (int w = 0; w < DIM / 8; w += 2) {
            const float *a = state->acc[w], *b = state->acc[w + 1];
            *(float4 *)(out + share_dim<DIM>(w, t)) =
                WIDE ? make_float4(a[2 * r], a[2 * r + 1], b[2 * r], b[2 * r + 1])
                     : make_float4(a[0] + a[2], a[1] + a[3], b[0] + b[2], b[1] + b[3]);
        }
    }
}

template <int DIM, bool WIDE>
static __device__ __forceinline__ struct decode_sum
merge_warps(const struct decode_memory<DIM, WIDE> *memory, int query, int d)
{
    typedef struct decode_memory<DIM, WIDE> layout;
    struct decode_sum all = {{0.0f, 0.0f, 0.0f, 0.0f}, -INFINITY, 0.0f};
    float2 part[DECODE_WARPS];
#pragma unroll
    for (int w = 0; w < DECODE_WARPS; w++) {
        part[w] = memory->sum[w * layout::QUERIES + query];
        all.max = fmaxf(all.max, part[w].x);
    }
#pragma unroll
    for (int w = 0; w < DECODE_WARPS; w++) {
        float factor = decode_factor(part[w].x, all.max);
        const float *out = memory->out + (w * layout::QUERIES + query) * layout::OUT_PITCH + d;
        all.sum += factor * part[w].y;
        add_scaled(&all.out, factor, *(const float4 *)out);
    }
    return all;
}

/* The n parts of a query from slot `first` on, read past L1, which does not know what other blocks
 * wrote.  All of a batch are asked for at once: waiting is what this costs. */
template <int DIM, bool WIDE>
static __device__ __forceinline__ struct decode_sum merge_parts(const struct decode_call *call,
                                                                int first, int n, int query, int d)
{
    const size_t stride = WIDE ? WIDE_QUERIES : NARROW_QUERIES;
    struct decode_sum all = {{0.0f, 0.0f, 0.0f, 0.0f}, -INFINITY, 0.0f};
    for (int from = 0; from < n; from += MERGE_BATCH) {
        float2 part[MERGE_BATCH];
        float4 out[MERGE_BATCH];
#pragma unroll
        for (int i = 0; i < MERGE_BATCH; i++) {
            size_t at = (size_t)(first + min(from + i, n - 1)) * stride + (size_t)query;
            part[i] = __ldcg(call->part_sum + at);
            out[i] = __ldcg((const float4 *)(call->part_out + at * DIM + d));
        }
        float top = all.max;
#pragma unroll
        for (int i = 0; i < MERGE_BATCH; i++)
            top = fmaxf(top, part[i].x);
        float factor = decode_factor(all.max, top);
        all.out = make_float4(all.out.x * factor, all.out.y * factor, all.out.z * factor,
                              all.out.w * factor);
        all.max = top;
        all.sum *= factor;
#pragma unroll
        for (int i = 0; i < MERGE_BATCH; i++) {
            factor = from + i < n ? decode_factor(part[i].x, top) : 0.0f;
            all.sum += factor * part[i].y;
            add_scaled(&all.out, factor, out[i]);
        }
    }
    return all;
}

/* A block has done its tiles of a unit: the unit's output if these are all, else a part, and the
 * output if it is the last.  A thread has 4 dimensions of a query at a time. */
template <int DIM, bool WIDE>
static __device__ __forceinline__ void
finish_unit(const struct decode_call *call, const struct decode_memory<DIM, WIDE> *memory,
            struct decode_state<DIM, WIDE> *state, int unit, struct unit_blocks blocks)
{
    typedef struct decode_memory<DIM, WIDE> layout;
    int kv_head = unit_kv_head(call, unit);
    int first_query = unit_query(call, unit, layout::QUERIES);
    int n = min((int)layout::QUERIES, call->n_queries - first_query);
    store_warp<DIM, WIDE>(memory, state, n);
    compute_sync();
    for (int i = (int)threadIdx.x; i < n * (DIM / 4); i += COMPUTE_THREADS) {
        int query = i / (DIM / 4), d = i % (DIM / 4) * 4;
        struct decode_sum sum = merge_warps<DIM, WIDE>(memory, query, d);
        if (blocks.n == 1) {
            write_out<DIM>(call, kv_head, first_query + query, d, sum);
            continue;
        }
        /* block + unit: no two blocks' parts share a slot, a unit's parts lie side by side. */
        size_t at = (size_t)(part_number() + unit) * layout::QUERIES + (size_t)query;
        *(float4 *)(call->part_out + at * DIM + d) = sum.out;
        if (d == 0)
            call->part_sum[at] = make_float2(sum.max, sum.sum);
    }
    compute_sync(); /* the parts are written, and the warps' sums may be overwritten */
    if (blocks.n == 1)
        return;
    if (threadIdx.x == 0) {
        bool last = ticket_take(call->tickets + unit) == (uint32_t)blocks.n - 1;
        *memory->is_last = last;
        if (last)
            call->tickets[unit] = 0;
    }
    compute_sync();
    if (!*memory->is_last)
        return;
    for (int i = (int)threadIdx.x; i < n * (DIM / 4); i += COMPUTE_THREADS) {
        int query = i / (DIM / 4), d = i % (DIM / 4) * 4;
        struct decode_sum sum =
            merge_parts<DIM, WIDE>(call, blocks.first + unit, blocks.n, query, d);
        write_out<DIM>(call, kv_head, first_query + query, d, sum);
    }
}

#endif
