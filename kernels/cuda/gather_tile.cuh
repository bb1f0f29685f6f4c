/* A warp's attention to 16 keys at a time, wherever their rows lie, for up to 8 query heads that
 * share a KV head.
 *
 * The keys are the rows of the matrix products, so that a group of few heads wastes little: scores
 * [16, 8] = K q, then out^T [dim, 8] += V^T p.  q and p enter as sums of two bf16, which leaves
 * f32's rounding alone, and the two take neighbouring columns: 4 heads fill the 8 columns of a
 * matrix, and SETS matrices have up to 4 SETS heads.  A warp copies the rows of its own tiles into
 * its own ring of stages and needs no other warp until its keys are done.
 *
 * In a warp g = lane / 4 and t = lane % 4: a lane holds scores of keys g and g + 8 for head 4 n + t
 * in [n], and out at dims 16 i + g and 16 i + g + 8 for the same heads. */
#ifndef ATTNSCOPE_KERNELS_CUDA_GATHER_TILE_CUH
#define ATTNSCOPE_KERNELS_CUDA_GATHER_TILE_CUH

#include "kernels/cuda/attention_gather.cuh"
#include "kernels/cuda/warp_matrix.cuh"

enum {
    TILE_ROWS = 16, /* keys of a tile */
    TILE_HEADS = 8, /* most query heads of a tile */
    SET_HEADS = 4,  /* of them in one matrix */
    TILE_STAGES = 4 /* most stages of a ring */
};

/* The reference of weights before any key: below every score. */
#define TILE_LOWEST -1e30f
/* By how much a score may exceed the reference, in powers of two, before that follows. */
#define TILE_LAG 8.0f

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
    uint32_t entry[TILE_ROWS]; /* key | bits of the heads that attend to it << KEY_BITS */
    uint32_t extra[TILE_ROWS]; /* per key, or per head; the caller's */
};

/* Where rows come from, as addresses: row `key` of a segment is at [segment] + key * ROW_BYTES. */
struct tile_rows {
    uintptr_t k[KV_SEGMENTS], v[KV_SEGMENTS];
    int n_context;
};

template <int DIM, int SETS> struct tile_state {
    uint32_t q[SETS][DIM / 16][2]; /* scaled, for powers of two */
    float acc[SETS][DIM / 16][4];  /* [2 e], [2 e + 1]: to be added */
    float max[SETS];               /* the reference of weights: no score exceeds it by much */
    float sum[SETS];               /* over this lane's keys alone */
    float mass[SETS], own[SETS];   /* probe: the sum over kept keys; the score of the own key */
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

/* --- Copies ----------------------------------------------------------------------------------- */

/* Where chunk lane + 32 j of a tile lies: the row, and the chunk in it. */
template <int DIM> static __device__ __forceinline__ int2 tile_chunk(int j, int lane)
{
    enum { CHUNKS = tile_layout<DIM>::CHUNKS };
    if constexpr (WARP % CHUNKS == 0)
        return make_int2(lane / CHUNKS + WARP / CHUNKS * j, lane % CHUNKS);
    int i = lane + WARP * j;
    return make_int2(i / CHUNKS, i % CHUNKS);
}

/* MIXED: keys of both segments, or of the tail alone. */
template <int DIM, bool MIXED>
static __device__ __forceinline__ void tile_copy_rows(const struct tile_rows *rows, uint32_t stage,
                                                      uint32_t key, int lane)
{
    typedef tile_layout<DIM> layout;
#pragma unroll
    for (int j = 0; j < layout::CHUNKS / 2; j++) {
        int2 chunk = tile_chunk<DIM>(j, lane);
        uint32_t from = __shfl_sync(0xffffffffu, key, chunk.x);
        bool tail = MIXED && (int)from >= rows->n_context;
        uintptr_t k = tail ? rows->k[KV_TAIL] : rows->k[KV_CONTEXT];
        uintptr_t v = tail ? rows->v[KV_TAIL] : rows->v[KV_CONTEXT];
        uintptr_t offset = (uintptr_t)from * layout::ROW_BYTES;
        uint32_t to = stage + (uint32_t)(chunk.x * layout::PITCH + chunk.y * 16);
        copy_async_16(to, (const void *)(k + chunk.y * 16 + offset), true);
        copy_async_16(to + layout::V_BYTES, (const void *)(v + chunk.y * 16 + offset), true);
    }
}

/* Starts the copies of a tile's rows; lane r % 16 has row r's entry. */
template <int DIM>
static __device__ __forceinline__ void tile_copy(const struct tile_rows *rows, uint32_t stage,
                                                 uint32_t entry, int lane)
{
    uint32_t key = entry & KEY_MASK;
    if (__any_sync(0xffffffffu, (int)key >= rows->n_context))
        tile_copy_rows<DIM, true>(rows, stage, key, lane);
    else
        tile_copy_rows<DIM, false>(rows, stage, key, lane);
}

/* --- Products --------------------------------------------------------------------------------- */

template <int DIM, int SETS>
static __device__ __forceinline__ void tile_empty(struct tile_state<DIM, SETS> *state)
{
#pragma unroll
    for (int n = 0; n < SETS; n++) {
#pragma unroll
        for (int i = 0; i < DIM / 16; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                state->acc[n][i][j] = 0;
        state->max[n] = TILE_LOWEST;
        state->own[n] = -INFINITY;
        state->sum[n] = state->mass[n] = 0;
    }
}

/* Takes the queries of n_heads heads, q [n_heads, DIM], and empties the sums.  Column g of matrix n
 * is the first (g even) or second part of head 4 n + g / 2. */
template <int DIM, int SETS>
static __device__ __forceinline__ void
tile_start(struct tile_state<DIM, SETS> *state, const float *q, int n_heads, float scale, int lane)
{
    int g = lane / 4, t = lane % 4;
    tile_empty<DIM, SETS>(state);
#pragma unroll
    for (int n = 0; n < SETS; n++) {
        int head = SET_HEADS * n + g / 2;
        float2 x[DIM / 8];
#pragma unroll
        for (int i = 0; i < DIM / 8; i++) {
            x[i] = {};
            if (head < n_heads)
                x[i] = *(const float2 *)(q + (size_t)head * DIM + 8 * i + 2 * t);
        }
#pragma unroll
        for (int i = 0; i < DIM / 8; i++) {
            uint32_t high, low;
            split_bf16(x[i].x * scale, x[i].y * scale, &high, &low);
            state->q[n][i / 2][i % 2] = g % 2 ? low : high;
        }
    }
}

/* s[n]: keys g and g + 8 with head 4 n + t. */
template <int DIM, int SETS>
static __device__ __forceinline__ void
tile_scores(float s[SETS][2], const struct tile_state<DIM, SETS> *state, uint32_t stage, int lane)
{
    /* Matrices of K: keys 0..7 and 8..15 at dims 0..7, then at dims 8..15. */
    uint32_t at = stage + (uint32_t)((lane % 16) * tile_layout<DIM>::PITCH + lane / 16 * 16);
    float d[2][SETS][4] = {}; /* two sums each, so that products wait less for another */
#pragma unroll
    for (int i = 0; i < DIM / 16; i++) {
        uint32_t k[4];
        load_matrices(k, at + 32 * i);
#pragma unroll
        for (int n = 0; n < SETS; n++)
            multiply_add(d[i % 2][n], k, state->q[n][i]);
    }
#pragma unroll
    for (int n = 0; n < SETS; n++)
#pragma unroll
        for (int j = 0; j < 2; j++)
            s[n][j] = (d[0][n][2 * j] + d[1][n][2 * j]) + (d[0][n][2 * j + 1] + d[1][n][2 * j + 1]);
}

/* The references follow the scores. */
template <int DIM, int SETS, bool PROBE>
static __device__ void tile_raise(struct tile_state<DIM, SETS> *state, const float s[SETS][2])
{
#pragma unroll
    for (int n = 0; n < SETS; n++) {
        float top = fmaxf(s[n][0], s[n][1]);
#pragma unroll
        for (int offset = 4; offset < WARP; offset *= 2)
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
        top = fmaxf(top, state->max[n]);
        float factor = exp2_fast(state->max[n] - top);
        state->max[n] = top;
        state->sum[n] *= factor;
        if (PROBE)
            state->mass[n] *= factor;
#pragma unroll
        for (int i = 0; i < DIM / 16; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                state->acc[n][i][j] *= factor;
    }
}

/* Turns the scores into weights 2^(s - max), whose sums it adds. */
template <int DIM, int SETS, bool PROBE>
static __device__ __forceinline__ void tile_soften(struct tile_state<DIM, SETS> *state,
                                                   float s[SETS][2])
{
    bool above = false;
#pragma unroll
    for (int n = 0; n < SETS; n++)
        above = above || fmaxf(s[n][0], s[n][1]) > state->max[n] + TILE_LAG;
    if (__any_sync(0xffffffffu, above))
        tile_raise<DIM, SETS, PROBE>(state, s);
#pragma unroll
    for (int n = 0; n < SETS; n++) {
        s[n][0] = exp2_fast(s[n][0] - state->max[n]);
        s[n][1] = exp2_fast(s[n][1] - state->max[n]);
        state->sum[n] += s[n][0] + s[n][1];
    }
}

/* A number as the sum of two bf16, the larger in the low half. */
static __device__ __forceinline__ uint32_t split_one(float x)
{
    uint32_t high = pack_bf16(x, 0.0f);
    return pack_bf16(__uint_as_float(high << 16), x - __uint_as_float(high << 16));
}

/* acc += p v, where p is the weights in the place of the scores. */
template <int DIM, int SETS>
static __device__ __forceinline__ void tile_accumulate(struct tile_state<DIM, SETS> *state,
                                                       const float p[SETS][2], uint32_t stage,
                                                       int lane)
{
    /* Matrices of V, transposed: dims 0..7 and 8..15 of keys 0..7, then of keys 8..15. */
    uint32_t at =
        stage + tile_layout<DIM>::V_BYTES +
        (uint32_t)((lane % 8 + lane / 16 * 8) * tile_layout<DIM>::PITCH + lane / 8 % 2 * 16);
    uint32_t weights[SETS][2];
#pragma unroll
    for (int n = 0; n < SETS; n++)
#pragma unroll
        for (int half = 0; half < 2; half++)
            weights[n][half] = transpose_matrix(split_one(p[n][half]));
#pragma unroll
    for (int i = 0; i < DIM / 16; i++) {
        uint32_t v[4];
        load_matrices_transposed(v, at + 32 * i);
#pragma unroll
        for (int n = 0; n < SETS; n++)
            multiply_add(state->acc[n][i], v, weights[n]);
    }
}

/* Adds up what the lanes of a head hold of its sums, and lays its out [TILE_HEADS, DIM + 4] into
 * the warp's own memory. */
template <int DIM, int SETS, bool PROBE>
static __device__ __forceinline__ void tile_finish(struct tile_state<DIM, SETS> *state, float *out,
                                                   int lane)
{
    int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < SETS; n++) {
#pragma unroll
        for (int offset = 4; offset < WARP; offset *= 2) {
            state->sum[n] += __shfl_xor_sync(0xffffffffu, state->sum[n], offset);
            if (!PROBE)
                continue;
            state->mass[n] += __shfl_xor_sync(0xffffffffu, state->mass[n], offset);
            state->own[n] =
                fmaxf(state->own[n], __shfl_xor_sync(0xffffffffu, state->own[n], offset));
        }
        float *to = out + (SET_HEADS * n + t) * (DIM + 4) + g;
#pragma unroll
        for (int i = 0; i < DIM / 16; i++) {
            to[16 * i] = state->acc[n][i][0] + state->acc[n][i][1];
            to[16 * i + 8] = state->acc[n][i][2] + state->acc[n][i][3];
        }
    }
}

#endif
