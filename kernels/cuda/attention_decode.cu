/* Attention of few query rows to ranges of keys, bounded by reading their K and V once.
 *
 * The queries of a KV head make a unit (more than a tile holds: several units).  The keys that any
 * row sees, or those of a plan's ranges, are cut into tiles of 64 that never straddle the border of
 * context and tail.  There is one block per multiprocessor, whatever the lengths, which are known
 * to the device alone: where units divide the blocks well each has its own, otherwise the blocks
 * share all units' tiles, laid end to end.  In a block one warp keeps the copies of the next tiles
 * under way in a ring of stages, and 4 warps compute, each with its own 16 keys of a tile and its
 * own running softmax, waiting for nothing but the copies.  A unit's blocks leave parts; the
 * last to arrive merges them, in the order of the blocks.
 *
 * A short call is mostly waiting.  So before its turn a block divides the work by the lengths as
 * they stand and fills the ring, as far as rows are older than the step. */
#include "kernels/cuda/attention_decode_merge.cuh"
#include "kernels/cuda/attention_paths.cuh"

/* --- The warp that copies --------------------------------------------------------------------- */

/* Where the copying warp is: at tile i of a unit, with n_left tiles to go. */
struct decode_copier {
    struct ring_place place;
    int unit, i, kv_head, n_left;
};

static __device__ __forceinline__ void copier_start(struct decode_copier *copier,
                                                    const struct decode_call *call,
                                                    const struct decode_work *work)
{
    copier->unit = work->unit;
    copier->i = work->tile;
    copier->kv_head = unit_kv_head(call, work->unit);
    copier->n_left = work->n_tiles;
}

/* Starts the copy of the next tile, as soon as its stage is free. */
template <int DIM, bool WIDE>
static __device__ __forceinline__ void
copier_next(struct decode_copier *copier, const struct decode_call *call,
            const struct call_shape *shape, const struct decode_work *work,
            const struct decode_memory<DIM, WIDE> *memory)
{
    const struct kv_layer *kv = &call->att.kv;
    struct ring_place *place = &copier->place;
    int segment;
    if (copier->i == 0 && copier->unit > work->unit) /* the stages are used to finish a unit */
        barrier_wait(memory->left, (uint32_t)(copier->unit - work->unit - 1) % 2);
    struct key_range keys = decode_tile_keys(work, copier->i, &segment);
    int row = segment == KV_CONTEXT ? keys.begin : keys.begin - shape->n_context;
    size_t first = (size_t)copier->kv_head * (size_t)kv->capacity[segment] + (size_t)row;
    first *= decode_layout<DIM>::ROW_BYTES;
    barrier_wait(memory->empty + 8 * place->stage, place->parity);
    decode_copy_tile<DIM>(
        shared_address(memory->stages) + (uint32_t)(place->stage * decode_layout<DIM>::STAGE_BYTES),
        (const char *)kv->k[segment] + first, (const char *)kv->v[segment] + first,
        keys.end - keys.begin, memory->full + 8 * place->stage);
    ring_advance(place, call->n_stages);
    copier->n_left--;
    if (++copier->i == work->unit_tiles) {
        copier->i = 0;
        copier->kv_head = unit_kv_head(call, ++copier->unit);
    }
}

/* Before the call's turn: fills the ring with the first tiles by the lengths as they stand, as long
 * as their rows are older than the step (see dependency_wait).  Returns how many those are. */
template <int DIM, bool WIDE>
static __device__ __forceinline__ int
copier_early(struct decode_copier *copier, const struct decode_call *call,
             const struct call_shape *guess, const struct decode_work *work,
             const struct decode_memory<DIM, WIDE> *memory)
{
    int n = 0;
    if (!call_shape_fits(guess, &call->att))
        return 0;
    for (; n < call->n_stages && copier->n_left > 0; n++) {
        int segment;
        if (copier->unit > work->unit ||
            decode_tile_keys(work, copier->i, &segment).end > guess->first_position)
            break;
        copier_next<DIM, WIDE>(copier, call, guess, work, memory);
    }
    return n;
}

/* --- The warps that compute ------------------------------------------------------------------- */

/* The first of the lane's queries in a unit. */
template <int DIM, bool WIDE>
static __device__ __forceinline__ int lane_query(const struct decode_call *call, int unit)
{
    return unit_query(call, unit, decode_memory<DIM, WIDE>::QUERIES) + (int)threadIdx.x % WARP / 4;
}

/* Where the lane's queries are, g and g + 8 of a unit; NULL: there is none. */
struct query_pair {
    const float *q[2];
};

template <int DIM, bool WIDE>
static __device__ __forceinline__ struct query_pair lane_queries(const struct decode_call *call,
                                                                 int unit)
{
    const struct attention *att = &call->att;
    int kv_head = unit_kv_head(call, unit), first = lane_query<DIM, WIDE>(call, unit);
    struct query_pair pair = {{NULL, NULL}};
#pragma unroll
    for (int r = 0; r < 1 + WIDE; r++) {
        int query = first + 8 * r;
        if (query >= call->n_queries || unit >= call->n_units)
            continue;
        int row = query_row(call, query), head = kv_head * call->group + query - row * call->group;
        pair.q[r] = att->q + (size_t)row * (size_t)att->q_stride + (size_t)head * DIM;
    }
    return pair;
}

template <int DIM, bool WIDE>
static __device__ __forceinline__ void take_queries(struct decode_queries<DIM, WIDE> *queries,
                                                    const struct decode_call *call,
                                                    struct query_pair from)
{
    decode_take_queries<DIM, WIDE>(queries, from.q[0], from.q[1], call->att.scale,
                                   (int)threadIdx.x % WARP);
}

/* Takes out the scores of keys that are not there or that a query does not see.  first: the lane's
 * first query; one that is not there sees what row 0 does. */
template <bool WIDE>
static __device__ __forceinline__ void
mask_scores(struct decode_scores<WIDE> *scores, const struct decode_call *call,
            const struct call_shape *shape, int first, struct key_range keys, int warp, int lane)
{
#pragma unroll
    for (int r = 0; r < 1 + WIDE; r++) {
        int query = first + 8 * r, begin = keys.begin, end = keys.end;
        if (call->att.n_rows > 1) {
            int row = query < call->n_queries ? query_row(call, query) : 0;
            struct key_range seen = row_visible(&call->att, shape, row);
            begin = max(begin, seen.begin);
            end = min(end, seen.end);
        }
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                int key = keys.begin + decode_key(warp, j, 2 * (lane % 4) + e);
                if (key < begin || key >= end)
                    scores->z[r][j][e] = -INFINITY;
            }
    }
}

/* A warp's part of one tile, which is there.   stage: where it begins;  first: lane_query */
template <int DIM, bool WIDE>
static __device__ __forceinline__ void
compute_tile(const struct decode_call *call, const struct call_shape *shape,
             const struct decode_queries<DIM, WIDE> *queries, struct decode_state<DIM, WIDE> *state,
             uint32_t stage, struct key_range keys, int first)
{
    int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    int n_keys = keys.end - keys.begin;
    uint32_t rows = stage + decode_row<DIM>(warp, lane);
    struct decode_scores<WIDE> scores;
    struct decode_shares<DIM> v;
    decode_score<DIM, WIDE>(&scores, queries, rows, lane);
    rows += decode_layout<DIM>::V_BYTES;
    decode_load<DIM>(&v, rows, 0, lane);
    if (call->att.n_rows > 1 || n_keys < DECODE_KEYS)
        mask_scores<WIDE>(&scores, call, shape, first, keys, warp, lane);
    decode_soften<DIM, WIDE>(state, &scores);
    decode_accumulate<DIM, WIDE>(state, &scores, &v, rows, n_keys, warp, lane);
}

/* Every lane for itself: what it has read may be written over. */
template <int DIM, bool WIDE>
static __device__ __forceinline__ void leave_stage(const struct decode_call *call,
                                                   const struct decode_memory<DIM, WIDE> *memory,
                                                   struct ring_place *place)
{
    barrier_arrive(memory->empty + 8 * place->stage);
    ring_advance(place, call->n_stages);
}

/* queries: those of the block's first unit. */
template <int DIM, bool WIDE>
static __device__ __forceinline__ void
decode_compute(const struct decode_call *call, const struct call_shape *shape,
               const struct decode_work *work, const struct decode_memory<DIM, WIDE> *memory,
               struct decode_queries<DIM, WIDE> *queries)
{
    struct ring_place place = {0, 0};
    int n_left = work->n_tiles, tile = work->tile;
    for (int n = *memory->n_dropped; n > 0; n--)
        leave_stage<DIM, WIDE>(call, memory, &place);
    for (int unit = work->unit; n_left > 0; unit++, tile = 0) {
        struct decode_state<DIM, WIDE> state;
        int n = min(n_left, work->unit_tiles - tile), first = lane_query<DIM, WIDE>(call, unit);
        struct unit_blocks blocks = unit_blocks_of(call, work, unit, tile, n);
        if (unit > work->unit)
            take_queries<DIM, WIDE>(queries, call, lane_queries<DIM, WIDE>(call, unit));
        decode_begin<DIM, WIDE>(&state);
        n_left -= n;
        for (; n > 0; n--, tile++) {
            int segment;
            struct key_range keys = decode_tile_keys(work, tile, &segment);
            uint32_t stage = shared_address(memory->stages) +
                             (uint32_t)(place.stage * decode_layout<DIM>::STAGE_BYTES);
            barrier_wait(memory->full + 8 * place.stage, place.parity);
            compute_tile<DIM, WIDE>(call, shape, queries, &state, stage, keys, first);
            leave_stage<DIM, WIDE>(call, memory, &place);
        }
        finish_unit<DIM, WIDE>(call, memory, &state, unit, blocks);
        if (n_left > 0)
            barrier_arrive_written(memory->left);
    }
}

/* --- The kernel ------------------------------------------------------------------------------- */

/* Adds a call with a plan to its counts, whose row sees n_visible keys. */
static __device__ void count_ranges(const struct decode_call *call, const struct call_shape *shape,
                                    unsigned long long n_visible)
{
    const struct attention *att = &call->att;
    struct attention_counts *counts = att->counts;
    struct row_plan plan = resolve_plan(&call->plan, att, shape, 0);
    unsigned long long n_ranged = 0, n_heads = (unsigned long long)att->n_heads;
    unsigned long long n_kv_heads = (unsigned long long)att->kv.n_kv_heads;
    for (int i = 0; i < plan.n_ranges; i++)
        n_ranged += (unsigned long long)(plan.range[i].end - plan.range[i].begin);
    bool rescued = !plan.full && n_ranged == 0;
    counts->selected += (plan.full ? n_visible : n_ranged + rescued) * n_heads;
    counts->visible += n_visible * n_heads;
    counts->rows_read += plan.full ? n_visible * n_kv_heads
                                   : (n_ranged + rescued) * (unsigned long long)call->n_unions;
    counts->rows_visible += n_visible * n_kv_heads;
    counts->rescued += rescued ? n_heads : 0;
    counts->full += plan.full;
    counts->calls++;
}

/* Adds the call to its counts.  One thread of the launch calls it. */
static __device__ void count_rows(const struct decode_call *call, const struct call_shape *shape)
{
    const struct attention *att = &call->att;
    unsigned long long n = 0;
    for (int row = 0; row < att->n_rows; row++) {
        struct key_range visible = row_visible(att, shape, row);
        n += (unsigned long long)(visible.end - visible.begin);
    }
    if (call->plan.n == 0)
        count_dense(att, n);
    else
        count_ranges(call, shape, n);
}

/* Every row is padding. */
static __device__ void clear_out(const struct attention *att, int dim)
{
    size_t n = (size_t)att->n_rows * (size_t)att->n_heads * (size_t)dim;
    size_t step = (size_t)gridDim.x * gridDim.y * COMPUTE_THREADS;
    for (size_t i = (size_t)part_number() * COMPUTE_THREADS + threadIdx.x; i < n; i += step)
        att->out[i] = 0.0f;
}

/* By the copying warp, a barrier per lane. */
template <int DIM, bool WIDE>
static __device__ __forceinline__ void open_barriers(const struct decode_memory<DIM, WIDE> *memory,
                                                     int n_stages)
{
    int lane = (int)threadIdx.x % WARP, stage = lane % MAX_STAGES;
    if (lane < 2 * MAX_STAGES && stage < n_stages)
        barrier_open((lane < MAX_STAGES ? memory->full : memory->empty) + 8 * stage,
                     lane < MAX_STAGES ? (int)COPY_ARRIVALS : (int)COMPUTE_THREADS);
    if (lane == 2 * MAX_STAGES)
        barrier_open(memory->left, COMPUTE_THREADS);
    barrier_publish();
    __syncwarp();
}

/* Before the call's turn the copying warp begins by a guess. */
template <int DIM, bool WIDE>
static __device__ __forceinline__ int
copier_open(struct decode_copier *copier, const struct decode_call *call,
            const struct call_shape *guess, const struct decode_work *work,
            const struct decode_memory<DIM, WIDE> *memory)
{
    open_barriers<DIM, WIDE>(memory, call->n_stages);
    copier->place.stage = 0;
    copier->place.parity = 1; /* at first every stage is empty */
    copier_start(copier, call, work);
    return copier_early<DIM, WIDE>(copier, call, guess, work, memory);
}

/* At the call's turn it drops the n_early tiles if the guess was wrong, and says so. */
template <int DIM, bool WIDE>
static __device__ __forceinline__ void
copier_check(struct decode_copier *copier, const struct decode_call *call, bool wrong, int n_early,
             const struct decode_work *work, const struct decode_memory<DIM, WIDE> *memory)
{
    *memory->n_dropped = wrong ? n_early : 0;
    if (!wrong)
        return;
    copier_start(copier, call, work);
    for (int i = 0; i < n_early; i++) /* or the block might end before they have come */
        barrier_wait(memory->full + 8 * i, 0);
}

template <int DIM, bool WIDE>
static __global__ void __launch_bounds__(DECODE_THREADS, 1)
    decode_kernel(const __grid_constant__ struct decode_call call)
{
    extern __shared__ __align__(128) char decode_shared[];
    struct decode_memory<DIM, WIDE> memory = decode_carve<DIM, WIDE>(decode_shared, call.n_stages);
    bool copies = (int)threadIdx.x / WARP == DECODE_WARPS;
    struct decode_copier copier;
    struct decode_queries<DIM, WIDE> queries;
    dependency_release();
    struct call_shape guess = call_shape(&call.att);
    if (copies) /* the same guess in all its lanes */
        guess = call_shape_agreed(guess);
    struct decode_work work = decode_share(&call, &guess);
    struct query_pair from = lane_queries<DIM, WIDE>(&call, work.unit);
    int n_early = 0;
    if (copies)
        n_early = copier_open<DIM, WIDE>(&copier, &call, &guess, &work, &memory);
    dependency_wait();
    struct call_shape shape = call_shape(&call.att);
    if (!copies)
        take_queries<DIM, WIDE>(&queries, &call, from);
    bool wrong = !call_shape_same(&shape, &guess);
    if (wrong)
        work = decode_share(&call, &shape);
    if (copies)
        copier_check<DIM, WIDE>(&copier, &call, wrong, n_early, &work, &memory);
    else if (wrong)
        take_queries<DIM, WIDE>(&queries, &call, lane_queries<DIM, WIDE>(&call, work.unit));
    __syncthreads(); /* the barriers and n_dropped are there */
    if (!copies) {
        if (work.unit_tiles == 0)
            clear_out(&call.att, DIM);
        else
            decode_compute<DIM, WIDE>(&call, &shape, &work, &memory, &queries);
        return;
    }
    while (copier.n_left > 0)
        copier_next<DIM, WIDE>(&copier, &call, &shape, &work, &memory);
    /* The last block has the fewest tiles. */
    if (call.att.counts && part_number() == (int)(gridDim.x * gridDim.y) - 1 &&
        threadIdx.x == COMPUTE_THREADS)
        count_rows(&call, &shape);
}

/* --- The call --------------------------------------------------------------------------------- */

/* Blocks per unit where that leaves few multiprocessors idle, which costs nothing, as the others
 * can read as fast as memory gives; else 0. */
static int own_blocks(const struct device *dev, int n_units)
{
    int n = dev->n_sms / n_units;
    return n_units * n * 8 >= dev->n_sms * 7 ? n : 0;
}

template <int DIM, bool WIDE>
static void decode_launch(struct device *dev, struct decode_call *call)
{
    typedef decode_memory<DIM, WIDE> memory;
    const size_t stage = decode_layout<DIM>::STAGE_BYTES;
    size_t n_stages = RING_BYTES / stage;
    if (n_stages < MIN_STAGES)
        n_stages = MIN_STAGES;
    if (n_stages > MAX_STAGES)
        n_stages = MAX_STAGES;
    while (n_stages * stage + memory::FIXED_BYTES > dev->properties.sharedMemPerBlockOptin)
        n_stages--; /* wide rows on a small device */
    call->unit_blocks = own_blocks(dev, call->n_units);
    dim3 grid(call->unit_blocks > 0 ? call->unit_blocks : dev->n_sms,
              call->unit_blocks > 0 ? call->n_units : 1);
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
    cuda_launch(dev, decode_kernel<DIM, WIDE>, grid, dim3(DECODE_THREADS), n_shared, *call);
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
    return is_aligned(att->q, sizeof(float4)) && att->q_stride % 4 == 0 &&
           is_aligned(att->out, sizeof(float4)) &&
           (dim == 64 || dim == 80 || dim == 96 || dim == 128 || dim == 256);
}

/* plan: of a single row's ranges, for which n_unions counts; NULL: dense. */
static void decode_start(struct device *dev, const struct attention *att,
                         const struct select_plan *plan, int n_unions)
{
    struct decode_call call = {};
    assert(attention_decode_takes(att));
    if (dev->failed)
        return;
    call.att = *att;
    if (plan)
        call.plan = *plan;
    call.n_unions = n_unions;
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

void attention_decode(struct device *dev, const struct attention *att)
{
    decode_start(dev, att, NULL, 0);
}

void attention_decode_ranges(struct device *dev, const struct attention *att,
                             const struct selection *sel)
{
    assert(att->n_rows == 1 && !sel->listed && sel->plan.n > 0);
    decode_start(dev, att, &sel->plan, sel->n_unions);
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
