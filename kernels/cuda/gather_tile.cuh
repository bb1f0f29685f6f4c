/* A warp's attention to 16 keys at a time, wherever their rows lie, for up to 8 query heads that
 * share a KV head.
 *
 * The keys are the rows of the matrix products and the heads their columns, so that a group of few
 * heads wastes little: scores^T [16, 8] = K q^T, then out^T [dim, 8] += V^T p^T.  q and p enter as
 * sums of two bf16, which leaves f32's rounding alone.  A warp copies the rows of its own tiles
 * into its own ring of stages and needs no other warp until its keys are done.
 *
 * In a warp g = lane / 4 and t = lane % 4: a lane holds scores of keys g and g + 8 for heads 2t and
 * 2t + 1, and out at dims 16 i + g and 16 i + g + 8 for the same heads. */
#ifndef ATTNSCOPE_KERNELS_CUDA_GATHER_TILE_CUH
#define ATTNSCOPE_KERNELS_CUDA_GATHER_TILE_CUH

#include "kernels/cuda/attention_gather.cuh"
#include "kernels/cuda/warp_matrix.cuh"

enum {
    TILE_ROWS = 16,  /* keys of a tile */
    TILE_HEADS = 8,  /* query heads of a tile */
    TILE_STAGES = 4, /* most stages of a ring */
};

/* A stage holds 16 rows of K, then 16 rows of V.  A row is padded by 16 bytes, so that 8 rows
 * at the same column lie in different banks: a padded row is an odd number of 16 bytes. */
template <int DIM> struct tile_layout {
    enum {
        ROW_BYTES = DIM * 2,
        PITCH = ROW_BYTES + 16,
        V_BYTES = TILE_ROWS * PITCH, /* from K to V */
        STAGE_BYTES = 2 * V_BYTES,
        CHUNKS = DIM / 8 /* of 16 bytes, in a row */
    };
};

/* What goes with a tile's rows in the ring. */
struct tile_marks {
    uint32_t entry[TILE_ROWS]; /* key | bits of the heads that attend to it << KEY_BITS; 0: none */
    uint32_t extra[TILE_ROWS]; /* per key, or per head; the caller's */
};

/* Where rows come from, as addresses: row `key` of a segment is at [segment] + key * ROW_BYTES. */
struct tile_rows {
    uintptr_t k[KV_SEGMENTS], v[KV_SEGMENTS];
    int n_context;
};

template <int DIM> struct tile_state {
    uint32_t q_high[DIM / 16][2], q_low[DIM / 16][2]; /* scaled, for powers of two */
    float acc[DIM / 16][4];
    float max[2], sum[2];  /* of heads 2t, 2t + 1; the sum over this lane's keys alone */
    float mass[2], own[2]; /* probe: the sum over kept keys; the score of the row's own key */
};

template <int DIM>
static __device__ __forceinline__ struct tile_rows
tile_rows_of(const struct attention *att, const struct call_shape *shape, int kv_head)
{
    struct tile_rows rows;
#pragma unroll
    for (int s = 0; s < KV_SEGMENTS; s++) {
        long long first = s == KV_CONTEXT ? 0 : shape->n_context;
        long long offset =
            ((long long)kv_head * att->kv.capacity[s] - first) * tile_layout<DIM>::ROW_BYTES;
        rows.k[s] = (uintptr_t)att->kv.k[s] + (uintptr_t)offset;
        rows.v[s] = (uintptr_t)att->kv.v[s] + (uintptr_t)offset;
    }
    rows.n_context = shape->n_context;
    return rows;
}

/* Starts the copies of a tile's rows; lane r < 16 has row r's entry.  Rows without one are zeros,
 * so that they add nothing.  Chunk i = lane + 32 j of a tile is chunk i % CHUNKS of row i / CHUNKS.
 */
template <int DIM>
static __device__ __forceinline__ void tile_copy(const struct tile_rows *rows, uint32_t stage,
                                                 uint32_t entry, int lane)
{
    typedef tile_layout<DIM> layout;
#pragma unroll
    for (int j = 0; j < layout::CHUNKS / 2; j++) {
        int i = lane + WARP * j, row = i / layout::CHUNKS, chunk = i % layout::CHUNKS;
        uint32_t from = __shfl_sync(0xffffffffu, entry, row);
        uint32_t key = from & KEY_MASK;
        bool there = from != key, tail = (int)key >= rows->n_context;
        uintptr_t offset = (uintptr_t)key * layout::ROW_BYTES + (uintptr_t)chunk * 16;
        uint32_t to = stage + (uint32_t)(row * layout::PITCH + chunk * 16);
        copy_async_16(to, (const void *)((tail ? rows->k[1] : rows->k[0]) + offset), there);
        copy_async_16(to + layout::V_BYTES,
                      (const void *)((tail ? rows->v[1] : rows->v[0]) + offset), there);
    }
}

/* Takes the queries of n_heads heads, q [n_heads, DIM], and empties the sums. */
template <int DIM>
static __device__ __forceinline__ void tile_start(struct tile_state<DIM> *state, const float *q,
                                                  int n_heads, float scale, int lane)
{
    int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < DIM / 16; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float2 x = {};
            if (g < n_heads)
                x = *(const float2 *)(q + (size_t)g * DIM + 16 * i + 8 * half + 2 * t);
            split_bf16(x.x * scale, x.y * scale, &state->q_high[i][half], &state->q_low[i][half]);
        }
#pragma unroll
    for (int i = 0; i < DIM / 16; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            state->acc[i][j] = 0;
#pragma unroll
    for (int j = 0; j < 2; j++) {
        state->max[j] = state->own[j] = -INFINITY;
        state->sum[j] = state->mass[j] = 0;
    }
}

/* s: keys g, g, g + 8, g + 8 with heads 2t, 2t + 1, 2t, 2t + 1. */
template <int DIM>
static __device__ __forceinline__ void tile_scores(float s[4], const struct tile_state<DIM> *state,
                                                   uint32_t stage, int lane)
{
    /* Matrices of K: keys 0..7 and 8..15 at dims 0..7, then at dims 8..15. */
    uint32_t at = stage + (uint32_t)((lane % 16) * tile_layout<DIM>::PITCH + lane / 16 * 16);
    float low[4] = {};
#pragma unroll
    for (int j = 0; j < 4; j++)
        s[j] = 0;
#pragma unroll
    for (int i = 0; i < DIM / 16; i++) {
        uint32_t k[4];
        load_matrices(k, at + 32 * i);
        multiply_add(s, k, state->q_high[i]);
        multiply_add(low, k, state->q_low[i]);
    }
#pragma unroll
    for (int j = 0; j < 4; j++)
        s[j] += low[j];
}

/* Raises the maxima to these scores, scales what was summed before, and turns the scores into
 * 2^(s - max), whose sums it adds. */
template <int DIM, bool PROBE>
static __device__ __forceinline__ void tile_soften(struct tile_state<DIM> *state, float s[4])
{
    float factor[2];
    bool raised = false;
#pragma unroll
    for (int j = 0; j < 2; j++) {
        float top = fmaxf(s[j], s[j + 2]);
#pragma unroll
        for (int offset = 4; offset < WARP; offset *= 2)
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
        top = fmaxf(top, state->max[j]);
        raised = raised || top > state->max[j];
        float base = top == -INFINITY ? 0.0f : top; /* a head without keys so far */
        factor[j] = exp2_fast(state->max[j] - base);
        s[j] = exp2_fast(s[j] - base);
        s[j + 2] = exp2_fast(s[j + 2] - base);
        state->max[j] = top;
        state->sum[j] = state->sum[j] * factor[j] + (s[j] + s[j + 2]);
        if (PROBE)
            state->mass[j] *= factor[j];
    }
    if (!__any_sync(0xffffffffu, raised))
        return;
#pragma unroll
    for (int i = 0; i < DIM / 16; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            state->acc[i][j] *= factor[j % 2];
}

/* acc += p v, where p is the weights in the place of the scores. */
template <int DIM>
static __device__ __forceinline__ void tile_accumulate(struct tile_state<DIM> *state,
                                                       const float p[4], uint32_t stage, int lane)
{
    /* Matrices of V, transposed: dims 0..7 and 8..15 of keys 0..7, then of keys 8..15. */
    uint32_t at =
        stage + tile_layout<DIM>::V_BYTES +
        (uint32_t)((lane % 8 + lane / 16 * 8) * tile_layout<DIM>::PITCH + lane / 8 % 2 * 16);
    uint32_t high[2], low[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        split_bf16(p[2 * half], p[2 * half + 1], &high[half], &low[half]);
        high[half] = transpose_matrix(high[half]);
        low[half] = transpose_matrix(low[half]);
    }
#pragma unroll
    for (int i = 0; i < DIM / 16; i++) {
        uint32_t v[4];
        load_matrices_transposed(v, at + 32 * i);
        multiply_add(state->acc[i], v, high);
        multiply_add(state->acc[i], v, low);
    }
}

/* Adds up what the lanes of a head hold of its sums, and lays its out [TILE_HEADS, DIM + 4] into
 * the warp's own memory. */
template <int DIM, bool PROBE>
static __device__ __forceinline__ void tile_finish(struct tile_state<DIM> *state, float *out,
                                                   int lane)
{
    int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
        for (int offset = 4; offset < WARP; offset *= 2) {
            state->sum[j] += __shfl_xor_sync(0xffffffffu, state->sum[j], offset);
            if (!PROBE)
                continue;
            state->mass[j] += __shfl_xor_sync(0xffffffffu, state->mass[j], offset);
            state->own[j] =
                fmaxf(state->own[j], __shfl_xor_sync(0xffffffffu, state->own[j], offset));
        }
#pragma unroll
    for (int i = 0; i < DIM / 16; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            out[(2 * t + j % 2) * (DIM + 4) + 16 * i + g + j / 2 * 8] = state->acc[i][j];
}

#endif
