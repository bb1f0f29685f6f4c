/* Decode attention's tiles: how 64 keys lie in shared memory, and what a warp does with 16 of them
 * for the queries of one KV head.
 *
 * The queries are the rows of the matrix products, of which there are 16, and a decode step seldom
 * has more than 8 per KV head.  So the tile is narrow (up to 8 queries: row i is what bf16 holds of
 * query i, row i + 8 the rest, to 2^-17 of it) or wide (up to 16 queries, the rest in a second
 * product).  The weights p of a narrow tile are split over rows i and i + 8 in the same way, so
 * that it rounds about as f32 does; those of a wide tile are bf16.  Either way out = p V costs one
 * product per 8 dimensions.
 *
 * A stage holds the rows of K, then those of V, without padding, so that each comes in one piece
 * (copy_ring.cuh).  Warp w has keys 16 w .. 16 w + 15 in two matrices j of 8, and reads
 * their rows as shares, in whose order of dimensions the queries are laid out.  Of V the product
 * needs pairs of keys: each word of a share, over the warp, is an 8 x 8 matrix of keys and
 * dimensions, which is transposed.
 *
 * In a warp g = lane / 4 and t = lane % 4: a lane has scores of query g (and g + 8 in a wide tile)
 * with keys 2t and 2t + 1 of both matrices, and of these queries' out dimensions share_dim(w, t)
 * and the next for all words w.  Source: PTX ISA, "Matrix fragments for mma.m16n8k16". */
#ifndef ATTNSCOPE_KERNELS_CUDA_ATTENTION_DECODE_CUH
#define ATTNSCOPE_KERNELS_CUDA_ATTENTION_DECODE_CUH

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/copy_ring.cuh"

enum {
    DECODE_WARPS = 4, /* that compute; one more copies */
    COMPUTE_THREADS = DECODE_WARPS * WARP,
    DECODE_THREADS = COMPUTE_THREADS + WARP,
    WARP_KEYS = 16,
    DECODE_KEYS = WARP_KEYS * DECODE_WARPS,
    NARROW_QUERIES = 8,
    WIDE_QUERIES = 16
};

template <int DIM> struct decode_layout {
    enum {
        ROW_BYTES = 2 * DIM,
        V_BYTES = DECODE_KEYS * ROW_BYTES, /* from K to V */
        STAGE_BYTES = 2 * V_BYTES,
        PART = DIM <= 128 ? DIM : 64, /* dimensions whose shares are in registers at once */
        WORDS = PART / 8
    };
};

/* Starts copying the rows of n keys, 1 to DECODE_KEYS, from k and v into a stage; by a whole warp.
 * Missing keys' rows stay as they are. */
template <int DIM>
static __device__ __forceinline__ void decode_copy_tile(uint32_t stage, const char *k,
                                                        const char *v, int n, uint32_t barrier)
{
    typedef decode_layout<DIM> layout;
    copy_expect(barrier, 2 * n * layout::ROW_BYTES);
    copy_rows(stage, k, n * layout::ROW_BYTES, barrier);
    copy_rows(stage + layout::V_BYTES, v, n * layout::ROW_BYTES, barrier);
    copy_close(barrier);
}

/* --- A warp's part of a tile ------------------------------------------------------------------ */

/* Queries of a unit, scaled for powers of two.  low: of a wide tile. */
template <int DIM, bool WIDE> struct decode_queries {
    uint32_t high[DIM / 16][4], low[WIDE ? DIM / 16 : 1][4];
};

/* What a warp has of its queries: queries g and, in a wide tile, g + 8.  A narrow tile's acc has in
 * [2], [3] what the rest of p adds to [0], [1]. */
template <int DIM, bool WIDE> struct decode_state {
    float acc[DIM / 8][4];
    float max[1 + WIDE];
    float sum[1 + WIDE]; /* over this lane's keys alone */
};

/* Scores, then weights: [query g + 8 r][matrix j][key 2t + e]. */
template <bool WIDE> struct decode_scores {
    float z[1 + WIDE][2][2];
};

/* What a lane reads of a warp's keys: of key g of matrix j. */
template <int DIM> struct decode_shares {
    uint32_t word[2][decode_layout<DIM>::WORDS];
};

/* Number in the tile of key e of matrix j. */
static __device__ __forceinline__ int decode_key(int warp, int j, int e)
{
    return WARP_KEYS * warp + 8 * j + e;
}

/* Where a lane's first row begins, from the stage's begin; its other one is 8 rows on. */
template <int DIM> static __device__ __forceinline__ uint32_t decode_row(int warp, int lane)
{
    return (uint32_t)(decode_key(warp, 0, lane / 4) * decode_layout<DIM>::ROW_BYTES);
}

/* Part number `part` of the lane's rows.   rows: the lane's first, of K or V */
template <int DIM>
static __device__ __forceinline__ void decode_load(struct decode_shares<DIM> *to, uint32_t rows,
                                                   int part, int lane)
{
    typedef decode_layout<DIM> layout;
#pragma unroll
    for (int j = 0; j < 2; j++)
        load_share<DIM, layout::PART>(
            to->word[j], rows + (uint32_t)(8 * j * layout::ROW_BYTES + part * layout::PART * 2),
            lane);
}

/* q0, q1 [DIM]: queries g and g + 8; NULL: none (zeros), as q1 is for a narrow tile. */
template <int DIM, bool WIDE>
static __device__ __forceinline__ void decode_take_queries(struct decode_queries<DIM, WIDE> *to,
                                                           const float *q0, const float *q1,
                                                           float scale, int lane)
{
    float4 x[DIM / 16], y[WIDE ? DIM / 16 : 1];
    scale *= LOG2_E;
#pragma unroll
    for (int i = 0; i < DIM / 16; i++) {
        int d = share_dim<DIM>(2 * i, lane % 4);
        x[i] = q0 ? *(const float4 *)(q0 + d) : make_float4(0, 0, 0, 0);
        if (WIDE)
            y[WIDE ? i : 0] = q1 ? *(const float4 *)(q1 + d) : make_float4(0, 0, 0, 0);
    }
#pragma unroll
    for (int i = 0; i < DIM / 16; i++) {
        uint32_t low[2], *high = to->high[i];
        split_bf16(x[i].x * scale, x[i].y * scale, &high[0], &low[0]);
        split_bf16(x[i].z * scale, x[i].w * scale, &high[2], &low[1]);
        if (!WIDE) {
            high[1] = low[0];
            high[3] = low[1];
            continue;
        }
        uint32_t *rest = to->low[WIDE ? i : 0];
        float4 z = y[WIDE ? i : 0];
        rest[0] = low[0];
        rest[2] = low[1];
        split_bf16(z.x * scale, z.y * scale, &high[1], &rest[1]);
        split_bf16(z.z * scale, z.w * scale, &high[3], &rest[3]);
    }
}

template <int DIM, bool WIDE>
static __device__ __forceinline__ void decode_begin(struct decode_state<DIM, WIDE> *state)
{
#pragma unroll
    for (int i = 0; i < DIM / 8; i++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            state->acc[i][e] = 0.0f;
#pragma unroll
    for (int r = 0; r < 1 + WIDE; r++) {
        state->max[r] = -INFINITY;
        state->sum[r] = 0.0f;
    }
}

/* Products of queries with keys as they add up: [chain][j], two sums each, so that products wait
 * less for another. */
struct decode_products {
    float s[2][2][4];
};

/* Adds those of part number `part` of the lane's rows of K. */
template <int DIM, bool WIDE>
static __device__ __forceinline__ void decode_multiply(struct decode_products *to,
                                                       const struct decode_queries<DIM, WIDE> *q,
                                                       const struct decode_shares<DIM> *k, int part)
{
    typedef decode_layout<DIM> layout;
#pragma unroll
    for (int m = 0; m < layout::PART / 16; m++) {
        int i = part * (layout::PART / 16) + m;
#pragma unroll
        for (int j = 0; j < 2; j++) {
            multiply_add(to->s[m % 2][j], q->high[i], k->word[j] + 2 * m);
            if (WIDE)
                multiply_add(to->s[m % 2][j], q->low[WIDE ? i : 0], k->word[j] + 2 * m);
        }
    }
}

template <bool WIDE>
static __device__ __forceinline__ void decode_sum_products(struct decode_scores<WIDE> *to,
                                                           const struct decode_products *from)
{
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float first = from->s[0][j][e] + from->s[1][j][e];
            float second = from->s[0][j][e + 2] + from->s[1][j][e + 2];
            to->z[0][j][e] = WIDE ? first : first + second;
            if (WIDE)
                to->z[WIDE][j][e] = second;
        }
}

/* rows: the lane's first of K. */
template <int DIM, bool WIDE>
static __device__ __forceinline__ void decode_score(struct decode_scores<WIDE> *to,
                                                    const struct decode_queries<DIM, WIDE> *q,
                                                    uint32_t rows, int lane)
{
    struct decode_products products = {};
#pragma unroll
    for (int part = 0; part < DIM / decode_layout<DIM>::PART; part++) {
        struct decode_shares<DIM> k;
        decode_load<DIM>(&k, rows, part, lane);
        decode_multiply<DIM, WIDE>(&products, q, &k, part);
    }
    decode_sum_products<WIDE>(to, &products);
}

/* Raises the maxima to these scores, scales what was summed before, and turns the scores into
 * weights 2^(z - max), whose sums it adds. */
template <int DIM, bool WIDE>
static __device__ __forceinline__ void decode_soften(struct decode_state<DIM, WIDE> *state,
                                                     struct decode_scores<WIDE> *scores)
{
    float factor[2] = {1.0f, 1.0f};
    bool raised = false;
#pragma unroll
    for (int r = 0; r < 1 + WIDE; r++) {
        float(*z)[2] = scores->z[r];
        float top = fmaxf(fmaxf(z[0][0], z[0][1]), fmaxf(z[1][0], z[1][1]));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        raised = raised || top > state->max[r];
        top = fmaxf(top, state->max[r]);
        float base = top == -INFINITY ? 0.0f : top; /* nothing visible so far */
        factor[r] = exp2_fast(state->max[r] - base);
        float sum = 0.0f;
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int e = 0; e < 2; e++)
                sum += z[j][e] = exp2_fast(z[j][e] - base);
        state->max[r] = top;
        state->sum[r] = state->sum[r] * factor[r] + sum;
    }
    if (!__any_sync(0xffffffffu, raised))
        return;
#pragma unroll
    for (int i = 0; i < DIM / 8; i++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            state->acc[i][e] *= factor[WIDE ? e / 2 : 0];
}

/* The weights as fragments: those of a narrow tile with what bf16 leaves of them in rows g + 8. */
template <bool WIDE>
static __device__ __forceinline__ void decode_weights(uint32_t p[4],
                                                      const struct decode_scores<WIDE> *weights)
{
#pragma unroll
    for (int j = 0; j < 2; j++) {
        const float *w = weights->z[0][j];
        if (WIDE) {
            p[2 * j] = pack_bf16(w[0], w[1]);
            p[2 * j + 1] = pack_bf16(weights->z[WIDE][j][0], weights->z[WIDE][j][1]);
        } else {
            split_bf16(w[0], w[1], &p[2 * j], &p[2 * j + 1]);
        }
    }
}

/* acc += p V, of part number `part` of the lane's rows of V.  there: the lane's key of matrix j is;
 * rows of others may be no numbers, which even a weight of 0 would let through. */
template <int DIM, bool WIDE>
static __device__ __forceinline__ void
decode_add(struct decode_state<DIM, WIDE> *state, const uint32_t p[4],
           const struct decode_shares<DIM> *v, int part, const bool there[2])
{
    typedef decode_layout<DIM> layout;
#pragma unroll
    for (int w = 0; w < layout::WORDS; w++) {
        uint32_t b[2];
#pragma unroll
        for (int j = 0; j < 2; j++)
            b[j] = transpose_matrix(there[j] ? v->word[j][w] : 0);
        multiply_add(state->acc[part * layout::WORDS + w], p, b);
    }
}

/* first: part 0 of V;  rows: the lane's first row of V;  n_keys of the tile are there. */
template <int DIM, bool WIDE>
static __device__ __forceinline__ void
decode_accumulate(struct decode_state<DIM, WIDE> *state, const struct decode_scores<WIDE> *weights,
                  const struct decode_shares<DIM> *first, uint32_t rows, int n_keys, int warp,
                  int lane)
{
    uint32_t p[4];
    bool there[2] = {decode_key(warp, 0, lane / 4) < n_keys,
                     decode_key(warp, 1, lane / 4) < n_keys};
    decode_weights<WIDE>(p, weights);
    decode_add<DIM, WIDE>(state, p, first, 0, there);
#pragma unroll
    for (int part = 1; part < DIM / decode_layout<DIM>::PART; part++) {
        struct decode_shares<DIM> v;
        decode_load<DIM>(&v, rows, part, lane);
        decode_add<DIM, WIDE>(state, p, &v, part, there);
    }
}

#endif
