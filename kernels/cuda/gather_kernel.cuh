/* Attention of bf16 keys and values to items (attention_gather.cuh), divided evenly over the
 * device.
 *
 * The keys of an item are cut into tiles of 16.  Few items share out the blocks, one block per
 * multiprocessor, by their numbers of tiles; many items have one block each.  A block's tiles go to
 * its warps in turn.  Lengths are known on the device alone, so every warp works the division out
 * for itself.  An item of several blocks is put together from their parts by the last of them.
 *
 * A short call is mostly waiting.  So a block that starts early resolves the plan by the lengths as
 * they stand, and only then waits. */
#ifndef ATTNSCOPE_KERNELS_CUDA_GATHER_KERNEL_CUH
#define ATTNSCOPE_KERNELS_CUDA_GATHER_KERNEL_CUH

#include "kernels/cuda/attention_gather.cuh"
#include "kernels/cuda/gather_join.cuh"
#include "kernels/cuda/gather_marks.cuh"
#include "kernels/cuda/gather_tile.cuh"

enum {
    GATHER_WARPS = 8,  /* most warps of a block */
    GATHER_STAGES = 2, /* least of a warp's ring */
    GATHER_ITEMS = 32  /* most items that share out the blocks; a lane each divides them */
};

struct gather_shared {
    struct gather_share share[GATHER_WARPS]; /* the block's, as each warp found it */
    struct tile_marks marks[GATHER_WARPS][TILE_STAGES];
    struct query_sums sums[GATHER_WARPS][TILE_HEADS];
    bool is_last;
};

/* Before the warps' memory. */
enum { GATHER_SHARED_BYTES = (sizeof(struct gather_shared) + 127) / 128 * 128 };

/* --- The division of the work ------------------------------------------------------------ */

/* A division costs what a hundred cycles do; that of unsigned numbers is the shorter. */
static __device__ __forceinline__ int tiles_ceil_div(int n, int by)
{
    return (int)((unsigned)(n + by - 1) / (unsigned)by);
}

/* The first tile of part i of n. */
static __device__ __forceinline__ int part_begin(int n_tiles, int i, int n)
{
    unsigned each = (unsigned)n_tiles / (unsigned)n;
    return (int)each * i + min(i, n_tiles - (int)each * n);
}

/* The item of a lane of a warp that divides the work: one per lane, or the block's only one in lane
 * 0; -1: none. */
static __device__ __forceinline__ int lane_item(const struct gather_job *job, int lane)
{
    if (job->split)
        return lane < job->n_items ? lane : -1;
    return lane == 0 ? (int)blockIdx.x : -1;
}

/* Keys in the list of a lane's item. */
template <bool PROBE>
static __device__ __forceinline__ int lane_list(const struct gather_job *job, int index)
{
    return !PROBE && job->sel.listed && index >= 0 ? job->sel.n_list[index] : 0;
}

/* A lane's item but for its list. */
template <bool PROBE>
static __device__ __forceinline__ struct gather_item
lane_plan(const struct gather_job *job, const struct call_shape *shape, int index)
{
    struct gather_item item = {};
    if (index < 0)
        return item;
    int row = index / job->sel.n_unions;
    struct row_plan plan = resolve_plan(&job->sel.plan, &job->att, shape, row);
    return gather_find_item<PROBE>(job, shape, &plan, 0, index);
}

/* Finds the block's share.  A warp calls it, with lane_item, lane_plan and lane_list of its lanes;
 * the lane whose item the block has writes *share, the warp's own. */
template <bool PROBE>
static __device__ __forceinline__ void
gather_divide(const struct gather_job *job, int index, const struct gather_item *plan, int n_list,
              int n_warps, int lane, struct gather_share *share)
{
    int n_keys = plan->n_keys + (plan->full ? 0 : n_list);
    /* One tile even without keys: its block writes the zeros. */
    int n_tiles = index < 0 ? 0 : max(1, (n_keys + TILE_ROWS - 1) / TILE_ROWS), n_blocks;
    int block = job->split ? blockIdx.x : 0, n_items = job->n_items;
    __syncwarp(); /* *share may have been read */
    if (lane == 0)
        share->n_blocks = 0;
    __syncwarp();
    if (job->split) {
        /* So many tiles per block that the blocks suffice, however the items' last ones are filled;
         * no fewer than a block has warps. */
        int n_all = (int)__reduce_add_sync(0xffffffffu, (unsigned)n_tiles);
        int n_each = max(n_warps, tiles_ceil_div(n_all, (int)gridDim.x - n_items));
        n_blocks = tiles_ceil_div(n_tiles, n_each);
    } else {
        n_blocks = lane == 0;
    }
    int up_to = n_blocks; /* blocks of this item and those before it */
#pragma unroll
    for (int offset = 1; offset < WARP; offset *= 2) {
        int before = __shfl_up_sync(0xffffffffu, up_to, offset);
        up_to += lane >= offset ? before : 0;
    }
    int first = up_to - n_blocks;
    if (block >= first && block < up_to) {
        share->item = *plan;
        share->item.n_keys = n_keys;
        share->begin = part_begin(n_tiles, block - first, n_blocks);
        share->end = part_begin(n_tiles, block - first + 1, n_blocks);
        share->first_block = first;
        share->n_blocks = n_blocks;
    }
    __syncwarp();
}

/* Adds the call's items to its counts: the last block those of all that share out the blocks.  One
 * warp of a block calls it. */
static __device__ __forceinline__ void gather_count_items(const struct gather_job *job,
                                                          const struct call_shape *shape, int lane)
{
    int index = lane_item(job, lane);
    if (!job->att.counts || index < 0 || (job->split && blockIdx.x < gridDim.x - 1))
        return;
    int n_list = lane_list<false>(job, index);
    struct row_plan plan =
        resolve_plan(&job->sel.plan, &job->att, shape, index / job->sel.n_unions);
    struct gather_item item = gather_find_item<false>(job, shape, &plan, n_list, index);
    gather_count(job, &plan, &item, n_list);
}

/* --- A warp's tiles ---------------------------------------------------------------------- */

/* Waits for the oldest of n_stages groups of copies, all lanes'. */
static __device__ __forceinline__ void gather_wait(int n_stages)
{
    if (n_stages == 4)
        copy_async_wait<3>();
    else if (n_stages == 3)
        copy_async_wait<2>();
    else
        copy_async_wait<1>();
    __syncwarp();
}

/* The marks of the tiles that fill a ring, and of the one after them. */
struct gather_marks {
    struct gather_mark of[TILE_STAGES], next;
};

template <bool PROBE>
static __device__ __forceinline__ struct gather_marks
gather_find_marks(const struct gather_keys *keys, int n_stages, int first, int step, int lane)
{
    struct gather_marks marks;
#pragma unroll
    for (int i = 0; i < TILE_STAGES; i++)
        marks.of[i] = gather_find_mark<PROBE>(keys, first + min(i, n_stages) * step, lane);
    marks.next = gather_find_mark<PROBE>(keys, first + n_stages * step, lane);
    return marks;
}

/* Fills the warp's stages with tiles first, first + step, ... */
template <int DIM>
static __device__ __forceinline__ void
gather_fill(const struct tile_rows *rows, const struct gather_marks *from, uint32_t ring,
            struct tile_marks *marks, int n_stages, int first, int step, int end, int lane)
{
#pragma unroll
    for (int i = 0; i < TILE_STAGES; i++) {
        if (i >= n_stages)
            continue;
        gather_write_mark(&marks[i], &from->of[i], lane);
        if (first + i * step < end)
            tile_copy<DIM>(rows, ring + i * tile_layout<DIM>::STAGE_BYTES, from->of[i].entry, lane);
        copy_async_commit();
    }
}

/* Attends to tiles first, first + step, ... below end of an item, all with keys.  *n_kept: the kept
 * keys of head lane % TILE_HEADS (probe). */
template <int DIM, int SETS, bool PROBE>
static __device__ __forceinline__ void
gather_attend(const struct gather_job *job, struct tile_state<DIM, SETS> *state,
              const struct tile_rows *rows, const struct gather_keys *keys, uint32_t ring,
              struct tile_marks *marks, int first, int step, int end, int *n_kept)
{
    int lane = threadIdx.x % WARP, n_stages = job->n_stages, stage = 0;
    const float *q = job->att.q + (size_t)keys->item.row * job->att.q_stride +
                     (size_t)keys->item.first_head * DIM;
    struct gather_bias<SETS> bias;
    struct gather_mark next = {};
    if (first < end) {
        struct gather_marks from = gather_find_marks<PROBE>(keys, n_stages, first, step, lane);
        /* Queries are asked for with the marks: behind the rows they would come much later. */
        tile_start<DIM, SETS>(state, q, job->sel.union_heads, job->att.scale * LOG2_E, lane);
        if (!PROBE)
            gather_find_bias<SETS>(&bias, job, &keys->item, lane);
        gather_fill<DIM>(rows, &from, ring, marks, n_stages, first, step, end, lane);
        next = from.next;
    } else {
        tile_empty<DIM, SETS>(state);
    }
    for (int tile = first; tile < end; tile += step) {
        uint32_t at = ring + stage * tile_layout<DIM>::STAGE_BYTES;
        struct tile_marks *here = &marks[stage];
        float s[SETS][2];
        gather_wait(n_stages);
        tile_scores<DIM, SETS>(s, state, at, lane);
        if (PROBE) {
            *n_kept += __popc(here->extra[lane % TILE_HEADS]);
            gather_note<DIM, SETS>(state, s, here, keys->item.position, lane);
        } else if ((tile + 1) * TILE_ROWS > keys->item.n_ranged) {
            gather_weigh<SETS>(s, here, keys->list_drawn, &bias, lane);
        }
        tile_soften<DIM, SETS, PROBE>(state, s);
        if (PROBE)
            gather_add_mass<DIM, SETS>(state, s, here, lane);
        tile_accumulate<DIM, SETS>(state, s, at, lane);
        __syncwarp(); /* all lanes are done with the stage */
        gather_write_mark(here, &next, lane);
        if (tile + n_stages * step < end)
            tile_copy<DIM>(rows, at, next.entry, lane);
        copy_async_commit();
        next = gather_find_mark<PROBE>(keys, tile + (n_stages + 1) * step, lane);
        stage = stage + 1 == n_stages ? 0 : stage + 1;
    }
    copy_async_wait<0>();
    __syncwarp();
}

/* --- The kernel -------------------------------------------------------------------------- */

/* A warp's tiles of the block's share, and what they add up to, into its memory and shared->sums.
 */
template <int DIM, int SETS, bool PROBE>
static __device__ __forceinline__ void
gather_run_warp(const struct gather_job *job, const struct call_shape *shape,
                struct gather_shared *shared, char *memory, int warp, int n_warps, int lane)
{
    const struct gather_share *share = &shared->share[warp];
    struct gather_keys keys = gather_keys_of<PROBE>(job, share, lane);
    struct tile_rows rows = tile_rows_of<DIM>(&job->att, shape, share->item.kv_head);
    struct tile_state<DIM, SETS> state;
    int n_kept = 0, end = keys.limit > 0 ? share->end : share->begin;
    gather_attend<DIM, SETS, PROBE>(job, &state, &rows, &keys, shared_address(memory),
                                    shared->marks[warp], share->begin + warp, n_warps, end,
                                    &n_kept);
    tile_finish<DIM, SETS, PROBE>(&state, (float *)memory, lane);
#pragma unroll
    for (int n = 0; n < SETS; n++) {
        int head = SET_HEADS * n + lane % SET_HEADS;
        float kept = PROBE ? (float)__shfl_sync(0xffffffffu, n_kept, head) : 0;
        struct query_sums sums = {state.max[n], state.sum[n], state.mass[n], state.own[n], kept};
        if (lane < SET_HEADS)
            shared->sums[warp][head] = sums;
    }
}

/* Once the block's warps are done: puts the item together as far as the block can.   outs: the
 * warps' memory, warp_bytes each */
template <int DIM, bool PROBE>
static __device__ __forceinline__ void gather_join(const struct gather_job *job,
                                                   struct gather_shared *shared, char *outs,
                                                   size_t warp_bytes, int warp, int n_warps)
{
    const struct gather_share *share = &shared->share[warp];
    float *factors = (float *)(outs + warp * warp_bytes);
    bool whole = share->n_blocks == 1;
    for (int head = warp; head < job->sel.union_heads; head += n_warps)
        join_warps<DIM, PROBE>(job, &share->item, shared->sums, outs, warp_bytes, head, whole);
    if (whole || !part_is_last(&job->tickets[share->item.index], share->n_blocks, &shared->is_last))
        return;
    for (int head = warp; head < job->sel.union_heads; head += n_warps)
        join_blocks<DIM, PROBE>(job, &share->item, factors, head, share->first_block,
                                share->n_blocks);
}

/* Blocks that fit into the registers of a multiprocessor: a half that is left lets the next kernel,
 * or a second block, start beside this one. */
template <int DIM, int SETS> static constexpr int gather_blocks(void)
{
    return SETS * DIM <= 128 ? 2 : 1;
}

/* The blocks share out the items if split, else have one each. */
template <int DIM, int SETS, bool PROBE>
static __global__ void __launch_bounds__((int)GATHER_WARPS *WARP, gather_blocks<DIM, SETS>())
    gather_kernel(const __grid_constant__ struct gather_job job)
{
    extern __shared__ __align__(128) char dynamic_shared[];
    struct gather_shared *shared = (struct gather_shared *)dynamic_shared;
    char *memory = dynamic_shared + GATHER_SHARED_BYTES;
    size_t warp_bytes = (size_t)job.n_stages * tile_layout<DIM>::STAGE_BYTES;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, n_warps = blockDim.x / WARP;
    struct gather_share *share = &shared->share[warp];
    dependency_release();

    int index = lane_item(&job, lane);
    struct call_shape guess = call_shape(&job.att);
    struct gather_item plan = lane_plan<PROBE>(&job, &guess, index);
    dependency_wait();
    struct call_shape shape = call_shape(&job.att);
    int n_list = lane_list<PROBE>(&job, index);
    if (__any_sync(0xffffffffu, !call_shape_same(&shape, &guess)))
        plan = lane_plan<PROBE>(&job, &shape, index);
    gather_divide<PROBE>(&job, index, &plan, n_list, n_warps, lane, share);
    if (share->n_blocks > 0)
        gather_run_warp<DIM, SETS, PROBE>(&job, &shape, shared, memory + warp * warp_bytes, warp,
                                          n_warps, lane);
    if (!PROBE && warp == n_warps - 1)
        gather_count_items(&job, &shape, lane);
    __syncthreads();
    if (share->n_blocks > 0)
        gather_join<DIM, PROBE>(&job, shared, memory, warp_bytes, warp, n_warps);
}

/* --- The launch -------------------------------------------------------------------------- */

/* The warps and stages of a block: warps first, since each hides what the others wait for.  Where
 * every item has its own block, two blocks share a multiprocessor.  Returns warps. */
template <int DIM> static int gather_rings(const struct device *dev, struct gather_job *job)
{
    size_t stage = tile_layout<DIM>::STAGE_BYTES, room = dev->properties.sharedMemPerBlockOptin;
    size_t half =
        dev->properties.sharedMemPerMultiprocessor / 2 - dev->properties.reservedSharedMemPerBlock;
    room = (job->split || half > room ? room : half) - GATHER_SHARED_BYTES;
    int n_warps = GATHER_WARPS;
    job->n_stages = job->split ? (int)GATHER_STAGES : (int)TILE_STAGES;
    while (n_warps > 1 && GATHER_STAGES * n_warps * stage > room)
        n_warps /= 2;
    while (job->n_stages > GATHER_STAGES && job->n_stages * n_warps * stage > room)
        job->n_stages--;
    return n_warps;
}

template <int DIM, int SETS, bool PROBE>
static void gather_launch(struct device *dev, struct gather_job *job)
{
    int n_warps = gather_rings<DIM>(dev, job);
    size_t n_shared =
        GATHER_SHARED_BYTES + (size_t)n_warps * job->n_stages * tile_layout<DIM>::STAGE_BYTES;
    if (job->split)
        n_shared = cuda_one_per_sm(dev, n_shared);
    cuda_allow_shared(dev, gather_kernel<DIM, SETS, PROBE>, n_shared);
    cuda_launch(dev, gather_kernel<DIM, SETS, PROBE>, dim3(job->split ? dev->n_sms : job->n_items),
                dim3(n_warps * WARP), n_shared, *job);
}

template <int DIM, bool PROBE>
static void gather_choose_sets(struct device *dev, struct gather_job *job)
{
    if (job->sel.union_heads <= SET_HEADS)
        gather_launch<DIM, 1, PROBE>(dev, job);
    else
        gather_launch<DIM, 2, PROBE>(dev, job);
}

/* Whether gather_start takes the call. */
static inline bool gather_takes(const struct attention *att)
{
    int dim = att->kv.head_dim;
    uintptr_t addresses = (uintptr_t)att->out;
    for (int s = 0; s < KV_SEGMENTS; s++)
        addresses |= (uintptr_t)att->kv.k[s] | (uintptr_t)att->kv.v[s];
    return att->kv.dtype == DTYPE_BF16 && addresses % 16 == 0 && (uintptr_t)att->q % 16 == 0 &&
           att->q_stride % 4 == 0 &&
           (dim == 64 || dim == 80 || dim == 96 || dim == 128 || dim == 256);
}

static inline size_t gather_part_bytes(const struct device *dev, int head_dim)
{
    return (size_t)dev->n_sms * TILE_HEADS * (size_t)(head_dim + PART_SUMS) * sizeof(float);
}

template <bool PROBE> static void gather_start(struct device *dev, struct gather_job *job)
{
    int dim = job->att.kv.head_dim;
    job->split = job->n_items <= GATHER_ITEMS && 2 * job->n_items <= dev->n_sms;
    if (job->split) {
        job->parts = (float *)cuda_workspace(dev, WORKSPACE_ATTENTION, gather_part_bytes(dev, dim));
        job->tickets =
            (uint32_t *)cuda_workspace(dev, WORKSPACE_TICKETS, N_TICKETS * sizeof *job->tickets);
    }
    if (dev->failed)
        return;
    if (dim == 64)
        gather_choose_sets<64, PROBE>(dev, job);
    else if (dim == 80)
        gather_choose_sets<80, PROBE>(dev, job);
    else if (dim == 96)
        gather_choose_sets<96, PROBE>(dev, job);
    else if (dim == 128)
        gather_choose_sets<128, PROBE>(dev, job);
    else
        gather_choose_sets<256, PROBE>(dev, job);
}

#endif
