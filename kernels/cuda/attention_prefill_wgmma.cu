/* Prefill attention by warpgroup products, for sm_90 alone (in its sm_90a code).
 *
 * A block of three warpgroups owns 128 queries.  The first copies tiles of K and V, 128 keys each,
 * through the tensor copy engine into rings of stages; each of the others owns 64 queries, with
 * their scores and sums of values in registers.  Products run on their own: while a tile's softmax
 * is taken, the values of the tile before are being summed; and the two take turns, so that one's
 * softmax falls into the other's products.
 * Source: Shah et al. 2024 (FlashAttention-3). */
#include <cudaTypedefs.h>

#include "kernels/cuda/attention_prefill.cuh"
#include "kernels/cuda/warpgroup_matrix.cuh"

enum {
    GROUP_THREADS = 4 * WARP,
    N_OWNERS = 2,    /* warpgroups that own queries */
    OWNED_ROWS = 64, /* queries of each */
    BLOCK_M = N_OWNERS * OWNED_ROWS,
    BLOCK_N = 128,
    N_THREADS = (1 + N_OWNERS) * GROUP_THREADS,
    OWNER_WARPS = N_OWNERS * 4,
    /* Registers per thread: 128 * (24 + 2 * 240) are the 64 Ki of a multiprocessor. */
    COPY_REGISTERS = 24,
    OWNER_REGISTERS = 240,
    PANEL_COLUMNS = 64
};

/* Barriers among threads. */
enum {
    MEET_QUERIES = 1, /* and the next: the threads of one owner */
    MEET_OWNERS = MEET_QUERIES + 2,
    MEET_TURN = MEET_OWNERS + 1 /* and the next: it is this owner's turn */
};

enum { MATRIX_K, MATRIX_V, N_MATRICES };

struct wgmma_call {
    CUtensorMap map[N_MATRICES][KV_SEGMENTS];
    struct prefill_call call;
};

/* A block's memory: queries of each owner, stages of K, stages of V, barriers and the block. */
template <int HEAD_DIM> struct wgmma_layout {
    enum {
        STAGES = HEAD_DIM == 64 ? 4 : 2,
        QUERY_BYTES = (int)prefill_matrix<HEAD_DIM, OWNED_ROWS>::N_BYTES,
        TILE_BYTES = (int)prefill_matrix<HEAD_DIM, BLOCK_N>::N_BYTES,
        TILES_AT = N_OWNERS * QUERY_BYTES,
        BARRIERS_AT = TILES_AT + N_MATRICES * STAGES * TILE_BYTES,
        BLOCK_AT = BARRIERS_AT + N_MATRICES * STAGES * 2 * 8,
        N_BYTES = BLOCK_AT + sizeof(struct prefill_block)
    };
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* --- Stages ----------------------------------------------------------------------------------- */

/* Tile i of a block, counted from its first, lies in stage i % STAGES; the stage's barriers "full"
 * and "empty" are then in their phase i / STAGES.   memory: the block's, shared. */
template <int HEAD_DIM>
static __device__ __forceinline__ uint32_t stage_tile(uint32_t memory, int matrix, int i)
{
    typedef wgmma_layout<HEAD_DIM> layout;
    return memory + layout::TILES_AT +
           (matrix * layout::STAGES + i % layout::STAGES) * layout::TILE_BYTES;
}

template <int HEAD_DIM>
static __device__ __forceinline__ uint32_t stage_full(uint32_t memory, int matrix, int i)
{
    typedef wgmma_layout<HEAD_DIM> layout;
    return memory + layout::BARRIERS_AT + (matrix * layout::STAGES + i % layout::STAGES) * 16;
}

template <int HEAD_DIM>
static __device__ __forceinline__ uint32_t stage_empty(uint32_t memory, int matrix, int i)
{
    return stage_full<HEAD_DIM>(memory, matrix, i) + 8;
}

template <int HEAD_DIM> static __device__ __forceinline__ uint32_t stage_parity(int i)
{
    return (uint32_t)(i / wgmma_layout<HEAD_DIM>::STAGES) & 1;
}

template <int HEAD_DIM>
static __device__ __forceinline__ void wait_full(uint32_t memory, int matrix, int i)
{
    barrier_wait(stage_full<HEAD_DIM>(memory, matrix, i), stage_parity<HEAD_DIM>(i));
}

/* One lane of each owner's warp says that the warp is done with the tile. */
template <int HEAD_DIM>
static __device__ __forceinline__ void leave_stage(uint32_t memory, int matrix, int i)
{
    if (threadIdx.x % WARP == 0)
        barrier_arrive(stage_empty<HEAD_DIM>(memory, matrix, i));
}

template <int HEAD_DIM> static __device__ __forceinline__ void init_stages(uint32_t memory)
{
    for (int matrix = 0; matrix < N_MATRICES; matrix++)
        for (int i = 0; i < wgmma_layout<HEAD_DIM>::STAGES; i++) {
            barrier_init(stage_full<HEAD_DIM>(memory, matrix, i), 1);
            barrier_init(stage_empty<HEAD_DIM>(memory, matrix, i), OWNER_WARPS);
        }
    barrier_init_fence();
}

/* --- Copying ---------------------------------------------------------------------------------- */

/* A whole tile, panel by panel; rows beyond the segment's capacity become zeros. */
template <int HEAD_DIM>
static __device__ __forceinline__ void copy_tile(const CUtensorMap *map, uint32_t memory,
                                                 int matrix, int i, int row, int kv_head)
{
    typedef wgmma_layout<HEAD_DIM> layout;
    uint32_t full = stage_full<HEAD_DIM>(memory, matrix, i);
    /* A stage is empty from the start: its phase before the first counts as ended. */
    barrier_wait(stage_empty<HEAD_DIM>(memory, matrix, i), stage_parity<HEAD_DIM>(i) ^ 1);
    barrier_arrive_expect(full, layout::TILE_BYTES);
#pragma unroll
    for (int panel = 0; panel < HEAD_DIM / PANEL_COLUMNS; panel++)
        copy_box(stage_tile<HEAD_DIM>(memory, matrix, i) +
                     panel * prefill_matrix<HEAD_DIM, BLOCK_N>::PANEL_BYTES,
                 map, panel * PANEL_COLUMNS, row, kv_head, full);
}

/* One thread copies all tiles of the block. */
template <int HEAD_DIM>
static __device__ __forceinline__ void
copy_tiles(const struct wgmma_call *call, const struct prefill_block *block, uint32_t memory)
{
    int first = block->tile, n = block->end - first, kv_head = block->kv_head;
    for (int i = 0; i < n; i++) {
        struct prefill_tile at = prefill_tile(block, first + i, BLOCK_N);
        bool tail = at.segment == KV_TAIL;
        int row = tail ? at.key - block->shape.n_context : at.key;
        copy_tile<HEAD_DIM>(tail ? &call->map[MATRIX_K][KV_TAIL] : &call->map[MATRIX_K][KV_CONTEXT],
                            memory, MATRIX_K, i, row, kv_head);
        copy_tile<HEAD_DIM>(tail ? &call->map[MATRIX_V][KV_TAIL] : &call->map[MATRIX_V][KV_CONTEXT],
                            memory, MATRIX_V, i, row, kv_head);
    }
}

/* --- An owner's work -------------------------------------------------------------------------- */

/* s = q k^T, under way as one group of products. */
template <int HEAD_DIM>
static __device__ __forceinline__ void start_scores(float (&s)[BLOCK_N / 8][4], uint64_t q,
                                                    uint64_t k)
{
    registers_settle(s);
    products_fence();
#pragma unroll
    for (int step = 0; step < HEAD_DIM / 16; step++) {
        /* 16 columns are 32 bytes of a line of 128 */
        int line = step % 4 * 32, panel = step / 4;
        multiply_rows(
            s, descriptor_at(q, panel * prefill_matrix<HEAD_DIM, OWNED_ROWS>::PANEL_BYTES + line),
            descriptor_at(k, panel * prefill_matrix<HEAD_DIM, BLOCK_N>::PANEL_BYTES + line),
            step > 0);
    }
    products_commit();
}

/* o += p v, the same. */
template <int HEAD_DIM>
static __device__ __forceinline__ void start_values(float (&o)[HEAD_DIM / 8][4],
                                                    uint32_t (&p)[BLOCK_N / 16][4], uint64_t v)
{
    registers_settle(o);
    registers_settle(p);
    products_fence();
#pragma unroll
    for (int step = 0; step < BLOCK_N / 16; step++) /* 16 keys are 16 lines */
        multiply_columns(o, p[step], descriptor_at(v, step * 16 * 128));
    products_commit();
}

/* What a tile of V holds beyond its keys may be anything, and nothing times it must be nothing.
 * All owners' threads take part. */
template <int HEAD_DIM>
static __device__ __forceinline__ void clear_values(unsigned char *shared, uint32_t memory, int i,
                                                    int n)
{
    unsigned char *tile = shared + (stage_tile<HEAD_DIM>(memory, MATRIX_V, i) - memory);
    constexpr int CHUNKS = HEAD_DIM / 8;
    wait_full<HEAD_DIM>(memory, MATRIX_V, i);
    for (int at = n * CHUNKS + threadIdx.x - GROUP_THREADS; at < BLOCK_N * CHUNKS;
         at += N_OWNERS * GROUP_THREADS)
        *(uint4 *)(tile + prefill_offset<HEAD_DIM, BLOCK_N>(at / CHUNKS, at % CHUNKS)) =
            make_uint4(0, 0, 0, 0);
    shared_fence();
    threads_meet(MEET_OWNERS, N_OWNERS * GROUP_THREADS);
}

/* A finished tile of scores becomes maxima, sums and weights.  True if values that were summed
 * before are to be multiplied by scale. */
template <int HEAD_DIM>
static __device__ __forceinline__ bool
soften_scores(struct prefill_warp<HEAD_DIM, 1, BLOCK_N> &w, float (&scale)[1][2],
              const struct prefill_call *call, const struct prefill_block *block,
              const struct prefill_tile *tile, int first)
{
    if (prefill_on_border(block, tile, BLOCK_N))
        prefill_hide(w, call, block, tile, first);
    bool raised = prefill_raise(w, scale);
    prefill_weigh(w);
    return raised;
}

/* The walk over n > 0 tiles.  first: the warp's first query. */
template <int HEAD_DIM>
static __device__ __forceinline__ void
attend_tiles(struct prefill_warp<HEAD_DIM, 1, BLOCK_N> &w, const struct prefill_call *call,
             const struct prefill_block *block, unsigned char *shared, int owner, int first)
{
    typedef wgmma_layout<HEAD_DIM> layout;
    uint32_t memory = shared_address(shared), p[BLOCK_N / 16][4];
    int first_tile = block->tile, n = block->end - first_tile;
    uint64_t q = matrix_descriptor(memory + owner * layout::QUERY_BYTES, 16);
    float scale[1][2];

    wait_full<HEAD_DIM>(memory, MATRIX_K, 0);
    start_scores<HEAD_DIM>(w.s[0], q,
                           matrix_descriptor(stage_tile<HEAD_DIM>(memory, MATRIX_K, 0), 16));
    if (owner == 1 && n > 1)
        threads_pass(MEET_TURN, N_OWNERS * GROUP_THREADS); /* owner 0 is the first to go */
    products_wait<0>();
    registers_settle(w.s[0]);
    leave_stage<HEAD_DIM>(memory, MATRIX_K, 0);
    struct prefill_tile tile = prefill_tile(block, first_tile, BLOCK_N);
    soften_scores(w, scale, call, block, &tile, first);
#pragma unroll
    for (int j = 0; j < BLOCK_N / 16; j++)
        prefill_pack(p[j], w, 0, j);

    for (int i = 1; i < n; i++) {
        if (tile.n < BLOCK_N)
            clear_values<HEAD_DIM>(shared, memory, i - 1, tile.n);
        wait_full<HEAD_DIM>(memory, MATRIX_K, i);
        threads_meet(MEET_TURN + owner, N_OWNERS * GROUP_THREADS);
        start_scores<HEAD_DIM>(w.s[0], q,
                               matrix_descriptor(stage_tile<HEAD_DIM>(memory, MATRIX_K, i), 16));
        wait_full<HEAD_DIM>(memory, MATRIX_V, i - 1);
        start_values<HEAD_DIM>(w.o[0], p,
                               matrix_descriptor(stage_tile<HEAD_DIM>(memory, MATRIX_V, i - 1),
                                                 prefill_matrix<HEAD_DIM, BLOCK_N>::PANEL_BYTES));
        if (owner == 0 || i + 1 < n)
            threads_pass(MEET_TURN + 1 - owner, N_OWNERS * GROUP_THREADS);
        products_wait<1>();
        registers_settle(w.s[0]);
        leave_stage<HEAD_DIM>(memory, MATRIX_K, i);
        tile = prefill_tile(block, first_tile + i, BLOCK_N);
        bool raised = soften_scores(w, scale, call, block, &tile, first);
        compute_first(w.sum[0][0] + w.sum[0][1]);
        products_wait<0>();
        registers_settle(w.o[0]);
        leave_stage<HEAD_DIM>(memory, MATRIX_V, i - 1);
        if (raised)
            prefill_rescale(w, scale);
#pragma unroll
        for (int j = 0; j < BLOCK_N / 16; j++)
            prefill_pack(p[j], w, 0, j);
    }

    if (tile.n < BLOCK_N)
        clear_values<HEAD_DIM>(shared, memory, n - 1, tile.n);
    wait_full<HEAD_DIM>(memory, MATRIX_V, n - 1);
    start_values<HEAD_DIM>(w.o[0], p,
                           matrix_descriptor(stage_tile<HEAD_DIM>(memory, MATRIX_V, n - 1),
                                             prefill_matrix<HEAD_DIM, BLOCK_N>::PANEL_BYTES));
    products_wait<0>();
    registers_settle(w.o[0]);
}

template <int HEAD_DIM>
static __device__ __forceinline__ void own_queries(const struct prefill_call *call,
                                                   const struct prefill_block *block,
                                                   unsigned char *shared)
{
    int owner = threadIdx.x / GROUP_THREADS - 1, thread = threadIdx.x % GROUP_THREADS;
    int first = block->first + owner * OWNED_ROWS;
    struct prefill_warp<HEAD_DIM, 1, BLOCK_N> w;
    prefill_clear(w);
    if (block->tile < block->end) {
        prefill_stage_queries<HEAD_DIM, OWNED_ROWS, GROUP_THREADS>(
            shared + owner * wgmma_layout<HEAD_DIM>::QUERY_BYTES, call, block->kv_head, first,
            thread);
        shared_fence();
        threads_meet(MEET_QUERIES + owner, GROUP_THREADS);
        attend_tiles(w, call, block, shared, owner, first + thread / WARP * 16);
    }
    prefill_finish(w, call, block->kv_head, 0, first + thread / WARP * 16);
}

#endif

/* --- The kernel ------------------------------------------------------------------------------- */

/* One block per block of queries and KV head; the last queries, which see the most keys, first. */
template <int HEAD_DIM>
static __global__ void __launch_bounds__(N_THREADS, 1)
    prefill_wgmma_kernel(const __grid_constant__ struct wgmma_call call)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    typedef wgmma_layout<HEAD_DIM> layout;
    extern __shared__ __align__(1024) unsigned char prefill_memory[];
    struct prefill_block *block = (struct prefill_block *)(prefill_memory + layout::BLOCK_AT);
    uint32_t memory = shared_address(prefill_memory);
    if (threadIdx.x == 0)
        init_stages<HEAD_DIM>(memory);
    dependency_wait();
    if (threadIdx.x == 0)
        prefill_block_start(block, &call.call, blockIdx.x, BLOCK_M, BLOCK_N);
    __syncthreads();
    dependency_release();
    if (threadIdx.x < GROUP_THREADS) {
        registers_leave<COPY_REGISTERS>();
        if (threadIdx.x == 0)
            copy_tiles<HEAD_DIM>(&call, block, memory);
    } else {
        registers_take<OWNER_REGISTERS>();
        own_queries<HEAD_DIM>(&call.call, block, prefill_memory);
    }
#else
    asm volatile("trap;"); /* only sm_90a code has a body, and only sm_90 is given the kernel */
#endif
}

/* --- The host's side -------------------------------------------------------------------------- */

/* The driver's function that describes tensors to the copy engine; NULL (latched) without it. */
static PFN_cuTensorMapEncodeTiled_v12000 find_encode(struct device *dev)
{
    static void *found; /* one thread at a time calls a device; all find the same */
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSuccess;
    if (!found && !dev->failed &&
        CUDA_CALL(dev, cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000,
                                                        cudaEnableDefault, &result)) &&
        !found)
        cuda_fail(dev, "the NVIDIA driver is older than tensor copies");
    return (PFN_cuTensorMapEncodeTiled_v12000)found;
}

/* rows [n_kv_heads, capacity, head_dim] in boxes of one panel of a tile. */
static bool describe_rows(struct device *dev, PFN_cuTensorMapEncodeTiled_v12000 encode,
                          const struct kv_layer *kv, const void *rows, int capacity,
                          CUtensorMap *map)
{
    cuuint64_t row_bytes = (cuuint64_t)kv->head_dim * 2;
    cuuint64_t size[3] = {(cuuint64_t)kv->head_dim, (cuuint64_t)capacity,
                          (cuuint64_t)kv->n_kv_heads};
    cuuint64_t stride[2] = {row_bytes, row_bytes * (cuuint64_t)capacity};
    cuuint32_t box[3] = {PANEL_COLUMNS, BLOCK_N, 1}, step[3] = {1, 1, 1};
    CUresult result = encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, (void *)rows, size, stride,
                             box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS)
        cuda_fail(dev, "the driver refuses to describe keys and values (error %d)", (int)result);
    return result == CUDA_SUCCESS;
}

template <int HEAD_DIM> static void launch(struct device *dev, const struct wgmma_call *call)
{
    constexpr int N_BYTES = wgmma_layout<HEAD_DIM>::N_BYTES;
    int n_units = call->call.n_blocks * call->call.att.kv.n_kv_heads;
    cuda_allow_shared(dev, prefill_wgmma_kernel<HEAD_DIM>, N_BYTES);
    cuda_launch(dev, prefill_wgmma_kernel<HEAD_DIM>, n_units, N_THREADS, N_BYTES, *call);
}

void attention_prefill_wgmma(struct device *dev, const struct attention *att)
{
    const struct kv_layer *kv = &att->kv;
    struct wgmma_call call = {};
    assert(attention_prefill_wgmma_takes(dev, att));
    PFN_cuTensorMapEncodeTiled_v12000 encode = find_encode(dev);
    if (dev->failed)
        return;
    for (int s = 0; s < KV_SEGMENTS; s++)
        if (kv->capacity[s] > 0 &&
            (!describe_rows(dev, encode, kv, kv->k[s], kv->capacity[s], &call.map[MATRIX_K][s]) ||
             !describe_rows(dev, encode, kv, kv->v[s], kv->capacity[s], &call.map[MATRIX_V][s])))
            return;
    call.call.att = *att;
    call.call.group = att->n_heads / kv->n_kv_heads;
    call.call.n_queries = att->n_rows * call.call.group;
    call.call.n_blocks = ceil_div(call.call.n_queries, BLOCK_M);
    call.call.n_splits = 1;
    if (kv->head_dim == 64)
        launch<64>(dev, &call);
    else
        launch<128>(dev, &call);
}

/* Keys are not split: there must be a block for every multiprocessor. */
bool attention_prefill_wgmma_takes(const struct device *dev, const struct attention *att)
{
    int d = att->kv.head_dim, group = att->n_heads / att->kv.n_kv_heads;
    long long n_blocks = ((long long)att->n_rows * group + BLOCK_M - 1) / BLOCK_M;
    return dev->arch == 90 && attention_prefill_takes(att) && (d == 64 || d == 128) &&
           n_blocks * att->kv.n_kv_heads >= dev->n_sms;
}
