/* Prefill attention by mma.sync, for every device from sm_80 on.
 *
 * A block of 4 warps owns a block of queries and walks over its tiles of keys; a warp owns 16 or 32
 * of the queries, their scores of the tile and their sums of values, all in registers.  32 queries
 * per warp matter: every fragment of K and V then serves two products, and shared memory, which
 * could not feed the tensor cores with 16, is busy half of the time.  Tiles come by asynchronous
 * copies into two stages: while one is worked on the next is under way, with one barrier per tile.
 * Two blocks share a multiprocessor, so that one's softmax runs beside the other's products.
 * Source: Dao 2023 (FlashAttention-2). */
#ifndef ATTNSCOPE_KERNELS_CUDA_ATTENTION_PREFILL_MMA_CUH
#define ATTNSCOPE_KERNELS_CUDA_ATTENTION_PREFILL_MMA_CUH

#include "kernels/cuda/attention_prefill.cuh"
#include "kernels/cuda/warp_matrix.cuh"

enum {
    PREFILL_WARPS = 4,
    PREFILL_THREADS = PREFILL_WARPS * WARP,
    PREFILL_STAGES = 2,
    PREFILL_RESIDENT = 2 /* blocks per multiprocessor */
};

/* --- Tiles ------------------------------------------------------------------------------------ */

/* A block's memory: queries, a tile of K and one of V for each stage, and the block itself. */
template <int HEAD_DIM, int M_TILES, int BLOCK_N> struct prefill_layout {
    enum {
        BLOCK_M = PREFILL_WARPS * M_TILES * 16,
        TILE_BYTES = prefill_matrix<HEAD_DIM, BLOCK_N>::N_BYTES,
        STAGE_BYTES = 2 * TILE_BYTES,
        QUERY_BYTES = prefill_matrix<HEAD_DIM, BLOCK_M>::N_BYTES,
        BLOCK_AT = QUERY_BYTES + PREFILL_STAGES * STAGE_BYTES,
        N_BYTES = BLOCK_AT + sizeof(struct prefill_block)
    };
};

/* n rows, contiguous in global memory, into a tile; zeros after them.  A thread's chunks are evenly
 * spaced on both sides, so that one address on each serves them all. */
template <int HEAD_DIM, int BLOCK_N>
static __device__ __forceinline__ void prefill_load_rows(uint32_t to, const unsigned char *from,
                                                         int n)
{
    typedef prefill_matrix<HEAD_DIM, BLOCK_N> matrix;
    constexpr int LINE = matrix::IN_PANELS ? 8 : HEAD_DIM / 8; /* chunks that lie together */
    constexpr int N_PANELS = HEAD_DIM / 8 / LINE, ROWS = PREFILL_THREADS / LINE;
    constexpr int N = (BLOCK_N + ROWS - 1) / ROWS;
    uint32_t row = threadIdx.x / LINE, chunk = threadIdx.x % LINE;
    to += prefill_offset<HEAD_DIM, BLOCK_N>(row, chunk);
    from += row * (HEAD_DIM * 2) + chunk * 16;
    n -= (int)row;
    if (PREFILL_THREADS % LINE != 0 && row >= ROWS)
        return;
#pragma unroll
    for (int i = 0; i < N; i++)
#pragma unroll
        for (int panel = 0; panel < N_PANELS; panel++)
            if (BLOCK_N % ROWS == 0 || (int)row + i * ROWS < BLOCK_N)
                copy_async_16(to + i * ROWS * matrix::PITCH + panel * matrix::PANEL_BYTES,
                              from + i * ROWS * HEAD_DIM * 2 + panel * 128, i * ROWS < n);
}

template <int HEAD_DIM, int BLOCK_N>
static __device__ __forceinline__ void
prefill_load_tile(uint32_t to, const struct prefill_call *call, const struct prefill_block *block,
                  int tile)
{
    const struct kv_layer *kv = &call->att.kv;
    struct prefill_tile at = prefill_tile(block, tile, BLOCK_N);
    bool tail = at.segment == KV_TAIL;
    int row = tail ? at.key - block->shape.n_context : at.key;
    size_t capacity = (size_t)(tail ? kv->capacity[KV_TAIL] : kv->capacity[KV_CONTEXT]);
    size_t offset = ((size_t)block->kv_head * capacity + (size_t)row) * (HEAD_DIM * 2);
    const void *k = tail ? kv->k[KV_TAIL] : kv->k[KV_CONTEXT];
    const void *v = tail ? kv->v[KV_TAIL] : kv->v[KV_CONTEXT];
    prefill_load_rows<HEAD_DIM, BLOCK_N>(to, (const unsigned char *)k + offset, at.n);
    prefill_load_rows<HEAD_DIM, BLOCK_N>(to + prefill_matrix<HEAD_DIM, BLOCK_N>::N_BYTES,
                                         (const unsigned char *)v + offset, at.n);
}

/* --- A warp's work on one tile ---------------------------------------------------------------- */

/* s = q k^T.   q, k: this lane's addresses of fragment 0. */
template <int HEAD_DIM, int M_TILES, int BLOCK_N>
static __device__ __forceinline__ void
prefill_score(struct prefill_warp<HEAD_DIM, M_TILES, BLOCK_N> &w, uint32_t q, uint32_t k)
{
    constexpr int ROWS_16 = 16 * prefill_matrix<HEAD_DIM, BLOCK_N>::PITCH;
    constexpr int BLOCK_M = prefill_layout<HEAD_DIM, M_TILES, BLOCK_N>::BLOCK_M;
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int n = 0; n < BLOCK_N / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                w.s[m][n][i] = 0.0f;
#pragma unroll
    for (int step = 0; step < HEAD_DIM / 16; step++) {
        uint32_t a[M_TILES][4], b[4];
#pragma unroll
        for (int m = 0; m < M_TILES; m++)
            load_matrices(a[m], prefill_step<HEAD_DIM, BLOCK_M>(q, step) + m * ROWS_16);
#pragma unroll
        for (int n = 0; n < BLOCK_N / 16; n++) {
            load_matrices(b, prefill_step<HEAD_DIM, BLOCK_N>(k, step) + n * ROWS_16);
#pragma unroll
            for (int m = 0; m < M_TILES; m++) {
                multiply_add(w.s[m][2 * n], a[m], b);
                multiply_add(w.s[m][2 * n + 1], a[m], b + 2);
            }
        }
    }
}

/* o += s v.   v: this lane's address of fragment 0. */
template <int HEAD_DIM, int M_TILES, int BLOCK_N>
static __device__ __forceinline__ void
prefill_accumulate(struct prefill_warp<HEAD_DIM, M_TILES, BLOCK_N> &w, uint32_t v)
{
    constexpr int ROWS_16 = 16 * prefill_matrix<HEAD_DIM, BLOCK_N>::PITCH;
#pragma unroll
    for (int n = 0; n < BLOCK_N / 16; n++) {
        uint32_t p[M_TILES][4], b[4];
#pragma unroll
        for (int m = 0; m < M_TILES; m++)
            prefill_pack(p[m], w, m, n);
#pragma unroll
        for (int step = 0; step < HEAD_DIM / 16; step++) {
            load_matrices_transposed(b, prefill_step<HEAD_DIM, BLOCK_N>(v, step) + n * ROWS_16);
#pragma unroll
            for (int m = 0; m < M_TILES; m++) {
                multiply_add(w.o[m][2 * step], p[m], b);
                multiply_add(w.o[m][2 * step + 1], p[m], b + 2);
            }
        }
    }
}

/* --- The kernel ------------------------------------------------------------------------------- */

/* One block per block of queries, split and KV head; the last queries, which see the most keys,
 * first.  16 * M_TILES queries per warp. */
template <int HEAD_DIM, int M_TILES, int BLOCK_N>
static __global__ void __launch_bounds__(PREFILL_THREADS, PREFILL_RESIDENT)
    prefill_mma_kernel(const __grid_constant__ struct prefill_call call)
{
    typedef prefill_layout<HEAD_DIM, M_TILES, BLOCK_N> layout;
    constexpr int STAGE_BYTES = layout::STAGE_BYTES;
    extern __shared__ __align__(1024) unsigned char prefill_memory[];
    struct prefill_block *block = (struct prefill_block *)(prefill_memory + layout::BLOCK_AT);
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    uint32_t queries = shared_address(prefill_memory), stages = queries + layout::QUERY_BYTES;

    dependency_wait();
    if (threadIdx.x == 0)
        prefill_block_start(block, &call, blockIdx.x, layout::BLOCK_M, BLOCK_N);
    __syncthreads();
    int tile = block->tile, first = block->first + warp * M_TILES * 16;
    if (tile < block->end) {
        prefill_load_tile<HEAD_DIM, BLOCK_N>(stages, &call, block, tile);
        copy_async_commit();
        prefill_stage_queries<HEAD_DIM, layout::BLOCK_M, PREFILL_THREADS>(
            prefill_memory, &call, block->kv_head, block->first, threadIdx.x);
    }
    dependency_release();

    /* Fragments of q and v are 2 x 2 matrices with the rows first, those of k with them last. */
    int row = lane % 8, upper = lane / 8 % 2, last = lane / 16;
    uint32_t q = queries + prefill_offset<HEAD_DIM, layout::BLOCK_M>(
                               warp * M_TILES * 16 + row + 8 * upper, last);
    uint32_t k = prefill_offset<HEAD_DIM, BLOCK_N>(row + 8 * last, upper);
    uint32_t v = prefill_offset<HEAD_DIM, BLOCK_N>(row + 8 * upper, last) + layout::TILE_BYTES;
    struct prefill_warp<HEAD_DIM, M_TILES, BLOCK_N> w;
    prefill_clear(w);
    bool idle = first >= call.n_queries; /* then the warp only copies */
    uint32_t stage = 0;                  /* offset of the tile that is worked on */
    for (; tile < block->end; tile++, stage ^= STAGE_BYTES) {
        copy_async_wait<0>();
        __syncthreads(); /* the tile is there, and all are done with the other stage */
        if (tile + 1 < block->end)
            prefill_load_tile<HEAD_DIM, BLOCK_N>(stages + (stage ^ STAGE_BYTES), &call, block,
                                                 tile + 1);
        copy_async_commit();
        if (idle)
            continue;
        prefill_score(w, q, stages + stage + k);
        struct prefill_tile at = prefill_tile(block, tile, BLOCK_N);
        if (prefill_on_border(block, &at, BLOCK_N))
            prefill_hide(w, &call, block, &at, first);
        float scale[M_TILES][2];
        if (prefill_raise(w, scale))
            prefill_rescale(w, scale);
        prefill_weigh(w);
        prefill_accumulate(w, stages + stage + v);
    }
    prefill_finish(w, &call, block->kv_head, block->split, first);
}

#endif
