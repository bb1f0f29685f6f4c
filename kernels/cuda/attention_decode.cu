/* Dense attention of few query rows, bounded by reading K and V once.
 *
 * The queries of a KV head make a unit (more than a tile holds: several units).  The keys that any
 * row sees, cut into tiles of 64 that never straddle the border of context and tail, times the
 * units give a row of tiles, which the blocks share evenly: one block per multiprocessor, whatever
 * the lengths, which are known to the device alone.  In a block one warp keeps the copies of the
 * next tiles under way in a ring of stages, and 4 warps compute, each with its own 16 keys of a
 * tile and its own running softmax, waiting for nothing but the copies.  A unit's blocks leave
 * parts; the last to arrive merges them, in the order of the blocks. */
#include "kernels/cuda/attention_decode_merge.cuh"
#include "kernels/cuda/attention_paths.cuh"

/* A place in the ring: the phase's parity changes each time round. */
struct ring_place {
    int stage;
    uint32_t parity;
};

static __device__ __forceinline__ void ring_advance(struct ring_place *place, int n_stages)
{
    if (++place->stage == n_stages) {
        place->stage = 0;
        place->parity ^= 1;
    }
}

/* The keys of tile i of a unit, which lie in one segment. */
static __device__ __forceinline__ struct key_range tile_keys(const struct decode_work *work, int i,
                                                             int *segment)
{
    *segment = i < work->context_tiles ? KV_CONTEXT : KV_TAIL;
    struct key_range all = *segment == KV_CONTEXT ? work->context : work->tail;
    struct key_range keys;
    keys.begin = all.begin + (*segment == KV_CONTEXT ? i : i - work->context_tiles) * TILE_KEYS;
    keys.end = min(keys.begin + TILE_KEYS, all.end);
    return keys;
}

/* --- The warp that copies --------------------------------------------------------------------- */

template <int DIM, bool WIDE>
static __device__ __forceinline__ void
decode_copy(const struct decode_call *call, const struct call_shape *shape,
            const struct decode_work *work, const struct decode_memory<DIM, WIDE> *memory)
{
    const struct kv_layer *kv = &call->att.kv;
    int lane = (int)threadIdx.x % WARP;
    struct ring_place place = {0, 1}; /* at first every stage is empty */
    int unit = work->begin / work->unit_tiles, i = work->begin % work->unit_tiles;
    int kv_head = unit_kv_head(call, unit);
    for (int n = work->end - work->begin; n > 0; n--) {
        int segment;
        struct key_range keys = tile_keys(work, i, &segment);
        int row = segment == KV_CONTEXT ? keys.begin : keys.begin - shape->n_context;
        size_t first = (size_t)kv_head * (size_t)kv->capacity[segment] + (size_t)row;
        first *= tile_layout<DIM>::ROW_BYTES;
        barrier_wait(memory->empty + 8 * place.stage, place.parity);
        tile_copy<DIM>(shared_address(memory->stages) +
                           (uint32_t)(place.stage * tile_layout<DIM>::STAGE_BYTES),
                       (const char *)kv->k[segment] + first, (const char *)kv->v[segment] + first,
                       keys.end - keys.begin, memory->full + 8 * place.stage, lane);
        ring_advance(&place, call->n_stages);
        if (++i == work->unit_tiles) {
            i = 0;
            kv_head = unit_kv_head(call, ++unit);
        }
    }
}

/* --- The warps that compute ------------------------------------------------------------------- */

/* Which keys the lane's queries see. */
template <bool WIDE> struct decode_limits {
    struct key_range row[1 + WIDE];
};

/* The unit's queries, and what they see; a query that is not there sees what row 0 does. */
template <int DIM, bool WIDE>
static __device__ __forceinline__ void
take_queries(const struct decode_call *call, const struct call_shape *shape, int unit,
             struct tile_queries<DIM, WIDE> *queries, struct decode_limits<WIDE> *limits)
{
    const struct attention *att = &call->att;
    int lane = (int)threadIdx.x % WARP, kv_head = unit_kv_head(call, unit);
    int first = unit % call->head_units * decode_memory<DIM, WIDE>::QUERIES + lane / 4;
    const float *q[2] = {NULL, NULL};
#pragma unroll
    for (int r = 0; r < 1 + WIDE; r++) {
        int query = first + 8 * r, row = 0;
        if (query < call->n_queries) {
            row = query / call->group;
            int head = kv_head * call->group + query % call->group;
            q[r] = att->q + (size_t)row * (size_t)att->q_stride + (size_t)head * DIM;
        }
        limits->row[r] = row_visible(att, shape, row);
    }
    tile_take_queries<DIM, WIDE>(queries, q[0], q[1], att->scale, lane);
}

/* Takes out the scores of keys that a query does not see. */
template <bool WIDE>
static __device__ __forceinline__ void mask_scores(struct tile_scores<WIDE> *scores,
                                                   const struct decode_limits<WIDE> *limits,
                                                   struct key_range keys, int warp, int lane)
{
#pragma unroll
    for (int r = 0; r < 1 + WIDE; r++) {
        int begin = max(limits->row[r].begin, keys.begin);
        int end = min(limits->row[r].end, keys.end);
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                int key = keys.begin + tile_key(warp, lane, j, e);
                if (key < begin || key >= end)
                    scores->z[r][j][e] = -INFINITY;
            }
    }
}

template <int DIM, bool WIDE>
static __device__ __forceinline__ void
decode_compute(const struct decode_call *call, const struct call_shape *shape,
               const struct decode_work *work, const struct decode_memory<DIM, WIDE> *memory)
{
    int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    uint32_t k_offset = tile_k_offset<DIM>(warp, lane), v_offset = tile_v_offset<DIM>(warp, lane);
    struct ring_place place = {0, 0};
    int unit = work->begin / work->unit_tiles, i = work->begin % work->unit_tiles;
    for (int n = work->end - work->begin; n > 0; unit++) {
        struct tile_queries<DIM, WIDE> queries;
        struct decode_limits<WIDE> limits;
        struct tile_state<DIM, WIDE> state;
        take_queries<DIM, WIDE>(call, shape, unit, &queries, &limits);
        tile_start<DIM, WIDE>(&state);
        for (; n > 0 && i < work->unit_tiles; n--, i++) {
            int segment;
            struct key_range keys = tile_keys(work, i, &segment);
            int n_keys = keys.end - keys.begin;
            uint32_t stage = shared_address(memory->stages) +
                             (uint32_t)(place.stage * tile_layout<DIM>::STAGE_BYTES);
            struct tile_scores<WIDE> scores;
            barrier_wait(memory->full + 8 * place.stage, place.parity);
            tile_score<DIM, WIDE>(&scores, &queries, stage + k_offset);
            if (call->att.n_rows > 1 || n_keys < TILE_KEYS)
                mask_scores<WIDE>(&scores, &limits, keys, warp, lane);
            tile_soften<DIM, WIDE>(&state, &scores);
            if (n_keys < TILE_KEYS) {
                uint32_t present[2];
                tile_present(present, n_keys, warp, lane);
                tile_accumulate<DIM, WIDE, true>(&state, &scores, stage + v_offset, present);
            } else {
                tile_accumulate<DIM, WIDE, false>(&state, &scores, stage + v_offset, NULL);
            }
            /* Every lane for itself: what it has read may be written over. */
            barrier_arrive(memory->empty + 8 * place.stage);
            ring_advance(&place, call->n_stages);
        }
        i = 0;
        finish_unit<DIM, WIDE>(call, work, memory, &state, unit);
    }
}

/* --- The kernel ------------------------------------------------------------------------------- */

static __device__ void count_rows(const struct attention *att, const struct call_shape *shape)
{
    unsigned long long n = 0;
    for (int row = 0; row < att->n_rows; row++) {
        struct key_range visible = row_visible(att, shape, row);
        n += (unsigned long long)(visible.end - visible.begin);
    }
    count_dense(att, n);
}

/* Every row is padding. */
static __device__ void clear_out(const struct attention *att, int dim)
{
    size_t n = (size_t)att->n_rows * (size_t)att->n_heads * (size_t)dim;
    size_t step = (size_t)gridDim.x * blockDim.x;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step)
        att->out[i] = 0.0f;
}

template <int DIM, bool WIDE>
static __global__ void __launch_bounds__(DECODE_THREADS, 1)
    decode_kernel(const __grid_constant__ struct decode_call call)
{
    extern __shared__ __align__(128) char decode_shared[];
    struct decode_memory<DIM, WIDE> memory = decode_carve<DIM, WIDE>(decode_shared, call.n_stages);
    int warp = (int)threadIdx.x / WARP;
    if (threadIdx.x == 0) {
        for (int i = 0; i < call.n_stages; i++) {
            barrier_open(memory.full + 8 * i, TILE_ARRIVALS);
            barrier_open(memory.empty + 8 * i, COMPUTE_THREADS);
        }
        barrier_publish();
    }
    __syncthreads();
    dependency_release();
    dependency_wait();
    struct call_shape shape = call_shape(&call.att);
    struct decode_work work = decode_share(&call, &shape);
    if (work.unit_tiles == 0)
        clear_out(&call.att, DIM);
    else if (warp == DECODE_WARPS)
        decode_copy<DIM, WIDE>(&call, &shape, &work, &memory);
    else
        decode_compute<DIM, WIDE>(&call, &shape, &work, &memory);
    /* The last block has the fewest tiles, and its copying warp ends early. */
    if (call.att.counts && blockIdx.x == gridDim.x - 1 && threadIdx.x == COMPUTE_THREADS)
        count_rows(&call.att, &shape);
}

/* --- The call --------------------------------------------------------------------------------- */

template <int DIM, bool WIDE>
static void decode_launch(struct device *dev, struct decode_call *call)
{
    typedef decode_memory<DIM, WIDE> memory;
    const size_t stage = tile_layout<DIM>::STAGE_BYTES;
    size_t ring = dev->properties.sharedMemPerBlockOptin - memory::FIXED_BYTES;
    if (ring > RING_BYTES)
        ring = RING_BYTES;
    size_t n_stages = ring / stage;
    if (n_stages > MAX_STAGES)
        n_stages = MAX_STAGES;
    size_t n_slots = (size_t)dev->n_sms + (size_t)call->n_units;
    size_t n_parts = n_slots * memory::QUERIES;
    call->n_stages = (int)n_stages;
    call->part_out = (float *)cuda_workspace(dev, WORKSPACE_ATTENTION,
                                             n_parts * (DIM * sizeof(float) + sizeof(float2)));
    call->tickets =
        (uint32_t *)cuda_workspace(dev, WORKSPACE_TICKETS, N_TICKETS * sizeof(uint32_t));
    if (dev->failed)
        return;
    call->part_sum = (float2 *)(call->part_out + n_parts * DIM);
    size_t n_shared = cuda_one_per_sm(dev, n_stages * stage + memory::FIXED_BYTES);
    cuda_allow_shared(dev, decode_kernel<DIM, WIDE>, n_shared);
    cuda_launch(dev, decode_kernel<DIM, WIDE>, dim3((unsigned)dev->n_sms), dim3(DECODE_THREADS),
                n_shared, *call);
}

/* A wide tile has too many registers at 256 dimensions, and rounds its weights. */
template <int DIM> static void decode_width(struct device *dev, struct decode_call *call)
{
    bool wide = DIM <= 128 && call->n_queries > NARROW_QUERIES && !dev->options.exact;
    call->head_units = ceil_div(call->n_queries, wide ? (int)WIDE_QUERIES : (int)NARROW_QUERIES);
    call->n_units = call->head_units * call->att.kv.n_kv_heads;
    assert(call->n_units <= N_TICKETS);
    if (wide)
        decode_launch<DIM <= 128 ? DIM : 128, true>(dev, call);
    else
        decode_launch<DIM, false>(dev, call);
}

static bool is_aligned(const void *p, size_t to)
{
    return (uintptr_t)p % to == 0;
}

bool attention_decode_takes(const struct attention *att)
{
    const struct kv_layer *kv = &att->kv;
    int dim = kv->head_dim, n_queries = att->n_rows * (att->n_heads / kv->n_kv_heads);
    if (kv->dtype != DTYPE_BF16 || (att->n_rows > 1 && n_queries > MAX_QUERIES))
        return false;
    for (int s = 0; s < KV_SEGMENTS; s++)
        if (!is_aligned(kv->k[s], 16) || !is_aligned(kv->v[s], 16))
            return false;
    return is_aligned(att->q, sizeof(float2)) && att->q_stride % 2 == 0 &&
           is_aligned(att->out, sizeof(float4)) &&
           (dim == 64 || dim == 80 || dim == 96 || dim == 128 || dim == 256);
}

void attention_decode(struct device *dev, const struct attention *att)
{
    struct decode_call call = {};
    assert(attention_decode_takes(att));
    if (dev->failed)
        return;
    call.att = *att;
    call.group = att->n_heads / att->kv.n_kv_heads;
    call.n_queries = att->n_rows * call.group;
    switch (att->kv.head_dim) {
    case 64:
        decode_width<64>(dev, &call);
        break;
    case 80:
        decode_width<80>(dev, &call);
        break;
    case 96:
        decode_width<96>(dev, &call);
        break;
    case 128:
        decode_width<128>(dev, &call);
        break;
    default:
        decode_width<256>(dev, &call);
    }
}

size_t attention_decode_workspace_bytes(const struct device *dev, const struct workspace_need *need)
{
    int n_kv_heads = need->n_kv_heads > 0 ? need->n_kv_heads : 1;
    int n_queries = ceil_div(need->n_heads, n_kv_heads);
    if (n_queries < MAX_QUERIES)
        n_queries = MAX_QUERIES;
    size_t n_units = (size_t)n_kv_heads * (size_t)ceil_div(n_queries, NARROW_QUERIES);
    return ((size_t)dev->n_sms + n_units) * WIDE_QUERIES *
           ((size_t)need->head_dim * sizeof(float) + sizeof(float2));
}
