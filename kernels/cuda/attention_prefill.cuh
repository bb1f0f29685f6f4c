/* Prefill attention, what its two kernels share: how a call is cut into blocks of queries and tiles
 * of keys, and how a block's sums become output.
 *
 * A query is one (row, head).  The queries of a KV head are numbered row by row, query i being row
 * i / group and head i % group of the group, and are cut into blocks: a tile of K and V serves all
 * heads of the group at once, a question of few rows fills a block, and the rows of a block lie so
 * close together that few tiles straddle the causal border.  A tile of keys lies in one segment;
 * where it is not full the rest is zeros. */
#ifndef ATTNSCOPE_KERNELS_CUDA_ATTENTION_PREFILL_CUH
#define ATTNSCOPE_KERNELS_CUDA_ATTENTION_PREFILL_CUH

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/attention_paths.cuh"
#include "kernels/cuda/warp_matrix.cuh"

/* The two ways.  Exported, so that tests and benchmarks can hold one against the other; each takes
 * what its _takes says, attention_prefill_mma what attention_prefill_takes does. */
#define PREFILL_EXPORT extern "C" __attribute__((visibility("default")))

/* attention_prefill.cu: mma.sync, any device from sm_80 on. */
PREFILL_EXPORT void attention_prefill_mma(struct device *dev, const struct attention *att);
/* attention_prefill_wgmma.cu: warpgroup products and tensor copies, sm_90 alone. */
PREFILL_EXPORT bool attention_prefill_wgmma_takes(const struct device *dev,
                                                  const struct attention *att);
PREFILL_EXPORT void attention_prefill_wgmma(struct device *dev, const struct attention *att);

/* --- A call ----------------------------------------------------------------------------------- */

/* What a kernel gets by value. */
struct prefill_call {
    struct attention att;
    int group;       /* query heads per KV head */
    int n_queries;   /* of one KV head: n_rows * group */
    int n_blocks;    /* of one KV head */
    int n_splits;    /* parts into which the keys of a block are cut */
    float *part_out; /* [n_splits, n_kv_heads, n_queries, head_dim] if n_splits > 1 */
    float *part_sum; /* [n_splits, n_kv_heads, n_queries, 2]: maximum and sum */
};

/* Scores are in units of log2(e): softmax is taken to base 2. */
static const float PREFILL_LOG2E = 1.44269504f;

/* The maximum before any key: finite, so that differences from it never are NaN. */
static const float PREFILL_NO_MAX = -1e30f;

/* How far a score may rise above the maximum that sums are held against before they are scaled
 * anew: 2^8 keeps weights and sums far from overflow, and the scaling becomes rare. */
static const float PREFILL_SLACK = 8.0f;

/* --- Blocks and tiles ------------------------------------------------------------------------- */

/* A block of queries [first, first + block_m) of a KV head, and the keys it needs, in tiles of one
 * segment each.  It lies in shared memory: registers are for sums. */
struct prefill_block {
    int kv_head, split, first;
    struct call_shape shape;
    struct key_range context, tail; /* key numbers */
    struct key_range open;          /* keys that every row of the block sees */
    int n_context_tiles;
    int tile, end; /* tiles [tile, end) are this split's */
};

/* Keys [key, key + n) of one segment. */
struct prefill_tile {
    int segment, key, n;
};

/* Block `index` of a call: KV heads are next to each other, then splits; the last queries, which
 * see the most keys, come first. */
static __device__ __forceinline__ void prefill_block_start(struct prefill_block *out,
                                                           const struct prefill_call *call,
                                                           int index, int block_m, int block_n)
{
    int n_kv_heads = call->att.kv.n_kv_heads, rest = index / n_kv_heads;
    struct prefill_block b;
    b.kv_head = index % n_kv_heads;
    b.split = rest % call->n_splits;
    b.first = (call->n_blocks - 1 - rest / call->n_splits) * block_m;
    b.shape = call_shape(&call->att);
    int last = min(b.first + block_m, call->n_queries) - 1, border = b.shape.n_context;
    struct key_range low = row_visible(&call->att, &b.shape, b.first / call->group);
    struct key_range high = row_visible(&call->att, &b.shape, last / call->group);
    b.open = {high.begin, low.end};
    b.context = {low.begin, max(min(high.end, border), low.begin)};
    b.tail.begin = max(low.begin, border);
    b.tail.end = max(high.end, b.tail.begin);
    b.n_context_tiles = (b.context.end - b.context.begin + block_n - 1) / block_n;
    int n_tiles = b.n_context_tiles + (b.tail.end - b.tail.begin + block_n - 1) / block_n;
    b.tile = (int)((long long)n_tiles * b.split / call->n_splits);
    b.end = (int)((long long)n_tiles * (b.split + 1) / call->n_splits);
    *out = b;
}

static __device__ __forceinline__ struct prefill_tile
prefill_tile(const struct prefill_block *block, int tile, int block_n)
{
    bool tail = tile >= block->n_context_tiles;
    int key = tail ? block->tail.begin + (tile - block->n_context_tiles) * block_n
                   : block->context.begin + tile * block_n;
    int end = tail ? block->tail.end : block->context.end;
    struct prefill_tile out = {tail ? KV_TAIL : KV_CONTEXT, key, min(block_n, end - key)};
    return out;
}

/* Whether some row of the block does not see some key of the tile. */
static __device__ __forceinline__ bool
prefill_on_border(const struct prefill_block *block, const struct prefill_tile *tile, int block_n)
{
    return tile->n < block_n || tile->key < block->open.begin ||
           tile->key + block_n > block->open.end;
}

/* The keys of a tile that a query sees, counted from the tile's first. */
static __device__ __forceinline__ struct key_range
prefill_visible(const struct prefill_call *call, const struct prefill_block *block,
                const struct prefill_tile *tile, int query)
{
    struct key_range range = row_visible(&call->att, &block->shape, query / call->group);
    range.begin -= tile->key;
    range.end = min(range.end - tile->key, tile->n);
    return range;
}

/* --- Sums into output ------------------------------------------------------------------------- */

/* What a query's sum of values is to be multiplied by: one over the sum of its weights, the sink's
 * among them.  0 where there is nothing to attend to. */
static __device__ __forceinline__ float prefill_factor(const struct prefill_call *call, int head,
                                                       float max, float sum)
{
    if (sum == 0.0f)
        return 0.0f;
    if (!call->att.sink_logits)
        return 1.0f / sum;
    float sink = call->att.sink_logits[head] * PREFILL_LOG2E, most = fmaxf(max, sink);
    float scale = exp2f(max - most);
    return scale / (sum * scale + exp2f(sink - most));
}

static __device__ __forceinline__ int prefill_head(const struct prefill_call *call, int kv_head,
                                                   int query)
{
    return kv_head * call->group + query % call->group;
}

/* The output of one query, [head_dim]. */
static __device__ __forceinline__ float *prefill_out(const struct prefill_call *call, int kv_head,
                                                     int query)
{
    size_t row = (size_t)(query / call->group);
    return call->att.out +
           (row * (size_t)call->att.n_heads + (size_t)prefill_head(call, kv_head, query)) *
               (size_t)call->att.kv.head_dim;
}

/* Number of a query among the parts of one split. */
static __device__ __forceinline__ size_t prefill_part(const struct prefill_call *call, int split,
                                                      int kv_head, int query)
{
    return ((size_t)split * (size_t)call->att.kv.n_kv_heads + (size_t)kv_head) *
               (size_t)call->n_queries +
           (size_t)query;
}

/* --- Matrices in shared memory ---------------------------------------------------------------- */

/* N_ROWS rows of HEAD_DIM bf16, in chunks of 16 bytes.  Eight rows' chunks at the same place are
 * read at once and must lie in different banks.  Where rows are whole lines of 8 chunks, the matrix
 * is cut into panels of one line per row, in which the number of a chunk is xored with the row's:
 * what tensor copies and warpgroup products call a 128-byte swizzle.  Else rows are one chunk
 * longer, an odd number of them. */
template <int HEAD_DIM, int N_ROWS> struct prefill_matrix {
    enum {
        IN_PANELS = HEAD_DIM % 64 == 0,
        PITCH = IN_PANELS ? 128 : HEAD_DIM * 2 + 16, /* bytes from row to row */
        PANEL_BYTES = N_ROWS * 128,
        N_BYTES = IN_PANELS ? HEAD_DIM / 64 * PANEL_BYTES : N_ROWS * PITCH
    };
};

template <int HEAD_DIM, int N_ROWS>
static __device__ __forceinline__ uint32_t prefill_offset(uint32_t row, uint32_t chunk)
{
    typedef prefill_matrix<HEAD_DIM, N_ROWS> matrix;
    if (matrix::IN_PANELS)
        return chunk / 8 * matrix::PANEL_BYTES + row * 128 + (chunk % 8 ^ row % 8) * 16;
    return row * matrix::PITCH + chunk * 16;
}

/* From the address of chunk 0 or 1 of a row to that of the chunk 2 `step` further. */
template <int HEAD_DIM, int N_ROWS>
static __device__ __forceinline__ uint32_t prefill_step(uint32_t address, int step)
{
    typedef prefill_matrix<HEAD_DIM, N_ROWS> matrix;
    if (matrix::IN_PANELS)
        return (address ^ (uint32_t)(step % 4 * 32)) + (uint32_t)(step / 4 * matrix::PANEL_BYTES);
    return address + (uint32_t)(step * 32);
}

/* N_ROWS queries from `first` on into shared memory: bf16, times scale * log2(e); zeros beyond the
 * last.  Called by N_THREADS threads, each with its number. */
template <int HEAD_DIM, int N_ROWS, int N_THREADS>
static __device__ __forceinline__ void prefill_stage_queries(unsigned char *to,
                                                             const struct prefill_call *call,
                                                             int kv_head, int first, int thread)
{
    constexpr int CHUNKS = HEAD_DIM / 8;
    constexpr int N = N_ROWS * CHUNKS / N_THREADS, BATCH = 4;
    const struct attention *att = &call->att;
    float scale = att->scale * PREFILL_LOG2E;
#pragma unroll 1
    for (int done = 0; done < N; done += BATCH) {
        float4 x[BATCH][2];
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            int at = thread + (done + i) * N_THREADS, query = first + at / CHUNKS;
            x[i][0] = x[i][1] = make_float4(0, 0, 0, 0);
            if (done + i >= N || query >= call->n_queries)
                continue;
            const float4 *q =
                (const float4 *)(att->q + (size_t)(query / call->group) * (size_t)att->q_stride +
                                 (size_t)prefill_head(call, kv_head, query) * HEAD_DIM +
                                 at % CHUNKS * 8);
            x[i][0] = q[0];
            x[i][1] = q[1];
        }
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            int at = thread + (done + i) * N_THREADS;
            if (done + i >= N)
                continue;
            uint4 packed = {pack_bf16(x[i][0].x * scale, x[i][0].y * scale),
                            pack_bf16(x[i][0].z * scale, x[i][0].w * scale),
                            pack_bf16(x[i][1].x * scale, x[i][1].y * scale),
                            pack_bf16(x[i][1].z * scale, x[i][1].w * scale)};
            *(uint4 *)(to + prefill_offset<HEAD_DIM, N_ROWS>(at / CHUNKS, at % CHUNKS)) = packed;
        }
    }
}

/* --- A warp's softmax ------------------------------------------------------------------------- */

/* What a warp owns.  With g = lane / 4 and t = lane % 4 a lane holds, of its queries 16 m + g and
 * 16 m + 8 + g, the columns 8 n + 2 t and + 1: s of the scores, later weights, and o of the sums of
 * values.  sum is of these columns alone until the end. */
template <int HEAD_DIM, int M_TILES, int BLOCK_N> struct prefill_warp {
    float s[M_TILES][BLOCK_N / 8][4];
    float o[M_TILES][HEAD_DIM / 8][4];
    float max[M_TILES][2], sum[M_TILES][2];
};

/* Keys that a query does not see weigh nothing.   first: the warp's first query. */
template <int HEAD_DIM, int M_TILES, int BLOCK_N>
static __device__ __forceinline__ void
prefill_hide(struct prefill_warp<HEAD_DIM, M_TILES, BLOCK_N> &w, const struct prefill_call *call,
             const struct prefill_block *block, const struct prefill_tile *tile, int first)
{
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            struct key_range visible =
                prefill_visible(call, block, tile, first + 16 * m + 8 * half + lane / 4);
            int begin = visible.begin - lane % 4 * 2, end = visible.end - lane % 4 * 2;
#pragma unroll
            for (int n = 0; n < BLOCK_N / 8; n++)
#pragma unroll
                for (int i = 0; i < 2; i++)
                    if (8 * n + i < begin || 8 * n + i >= end)
                        w.s[m][n][2 * half + i] = -INFINITY;
        }
}

/* Raises the maxima once some score outgrows its own by the slack.  True, for the whole warp, if
 * so: then what was summed of values is to be multiplied by scale. */
template <int HEAD_DIM, int M_TILES, int BLOCK_N>
static __device__ __forceinline__ bool
prefill_raise(struct prefill_warp<HEAD_DIM, M_TILES, BLOCK_N> &w, float (&scale)[M_TILES][2])
{
    bool outgrown = false;
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float high = -INFINITY;
#pragma unroll
            for (int n = 0; n < BLOCK_N / 8; n++)
                high = fmaxf(high, fmaxf(w.s[m][n][2 * half], w.s[m][n][2 * half + 1]));
            high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 1));
            high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 2));
            scale[m][half] = high; /* the maximum, until it is known whether to rescale */
            outgrown = outgrown || high > w.max[m][half] + PREFILL_SLACK;
        }
    if (!__any_sync(0xffffffffu, outgrown))
        return false;
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float max = fmaxf(w.max[m][half], scale[m][half]);
            scale[m][half] = exp2_fast(w.max[m][half] - max);
            w.max[m][half] = max;
            w.sum[m][half] *= scale[m][half];
        }
    return true;
}

template <int HEAD_DIM, int M_TILES, int BLOCK_N>
static __device__ __forceinline__ void
prefill_rescale(struct prefill_warp<HEAD_DIM, M_TILES, BLOCK_N> &w,
                const float (&scale)[M_TILES][2])
{
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int d = 0; d < HEAD_DIM / 8; d++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                w.o[m][d][i] *= scale[m][i / 2];
}

/* Scores become weights 2^(s - max). */
template <int HEAD_DIM, int M_TILES, int BLOCK_N>
static __device__ __forceinline__ void
prefill_weigh(struct prefill_warp<HEAD_DIM, M_TILES, BLOCK_N> &w)
{
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int n = 0; n < BLOCK_N / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                w.s[m][n][i] = exp2_fast(w.s[m][n][i] - w.max[m][i / 2]);
                w.sum[m][i / 2] += w.s[m][n][i];
            }
}

/* The weights of keys [16 n, 16 n + 16) for queries [16 m, 16 m + 16) as a fragment of a product.
 */
template <int HEAD_DIM, int M_TILES, int BLOCK_N>
static __device__ __forceinline__ void
prefill_pack(uint32_t (&p)[4], const struct prefill_warp<HEAD_DIM, M_TILES, BLOCK_N> &w, int m,
             int n)
{
#pragma unroll
    for (int i = 0; i < 4; i++)
        p[i] = pack_bf16(w.s[m][2 * n + i / 2][i % 2 * 2], w.s[m][2 * n + i / 2][i % 2 * 2 + 1]);
}

/* Nothing summed so far. */
template <int HEAD_DIM, int M_TILES, int BLOCK_N>
static __device__ __forceinline__ void
prefill_clear(struct prefill_warp<HEAD_DIM, M_TILES, BLOCK_N> &w)
{
#pragma unroll
    for (int m = 0; m < M_TILES; m++) {
        w.max[m][0] = w.max[m][1] = PREFILL_NO_MAX;
        w.sum[m][0] = w.sum[m][1] = 0.0f;
#pragma unroll
        for (int d = 0; d < HEAD_DIM / 8; d++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                w.o[m][d][i] = 0.0f;
    }
}

/* A query's sums go to the output, or to its part if the keys are split.  first: the warp's first
 * query. */
template <int HEAD_DIM, int M_TILES, int BLOCK_N>
static __device__ __forceinline__ void
prefill_finish(struct prefill_warp<HEAD_DIM, M_TILES, BLOCK_N> &w, const struct prefill_call *call,
               int kv_head, int split, int first)
{
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int query = first + 16 * m + 8 * half + lane / 4;
            float sum = w.sum[m][half], max = w.max[m][half];
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            if (query >= call->n_queries)
                continue;
            float *out, factor = 1.0f;
            if (call->n_splits > 1) {
                size_t part = prefill_part(call, split, kv_head, query);
                if (lane % 4 == 0)
                    *(float2 *)(call->part_sum + 2 * part) = make_float2(max, sum);
                if (sum == 0.0f) /* the merge does not look at it */
                    continue;
                out = call->part_out + part * HEAD_DIM;
            } else {
                factor = prefill_factor(call, prefill_head(call, kv_head, query), max, sum);
                out = prefill_out(call, kv_head, query);
            }
#pragma unroll
            for (int d = 0; d < HEAD_DIM / 8; d++)
                *(float2 *)(out + 8 * d + lane % 4 * 2) =
                    make_float2(w.o[m][d][2 * half] * factor, w.o[m][d][2 * half + 1] * factor);
        }
}

#endif
