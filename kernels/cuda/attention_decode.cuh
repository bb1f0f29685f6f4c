/* Decode attention's tiles: how 64 keys lie in shared memory, how they get there, and what a warp
 * does with 16 of them for the queries of one KV head.
 *
 * The queries are the rows of the matrix products, of which there are 16, and a decode step seldom
 * has more than 8 per KV head.  So the tile is narrow (up to 8 queries: row i is what bf16 holds of
 * query i, row i + 8 the rest, to 2^-17 of it) or wide (up to 16 queries, the rest in a second
 * product).  The weights p of a narrow tile are split over rows i and i + 8 in the same way, so
 * that it rounds about as f32 does; those of a wide tile are bf16.  Either way out = p V costs one
 * product per 8 dimensions.
 *
 * Keys of a tile.  ldmatrix reads 8 rows of 16 bytes at once, which must lie in different banks;
 * rows of K are a multiple of 32 bytes apart and would collide.  The keys may be permuted freely,
 * though, if K, V and masks agree.  So a tile is 8 runs of 8 keys; a run is copied in one piece,
 * and each is shifted by 16 bytes against the one before; the 8 rows that are read at once are
 * those of one number in every run, an odd multiple of 16 bytes apart.  Warp w has the keys
 *   8 n + 2 w + j,   n = 0..7, j = 0, 1:
 * columns n of its score matrix j, and rows n + 8 j of the matrix of V.
 *
 * In a warp g = lane / 4 and t = lane % 4: a lane has scores of query g (and g + 8 in a wide tile)
 * with columns n = 2t, 2t + 1 of both matrices, and of these queries' out dimensions 8 i + 2t and
 * 8 i + 2t + 1.  Source: PTX ISA, "Matrix fragments for mma.m16n8k16". */
#ifndef ATTNSCOPE_KERNELS_CUDA_ATTENTION_DECODE_CUH
#define ATTNSCOPE_KERNELS_CUDA_ATTENTION_DECODE_CUH

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/warp_matrix.cuh"

#define DECODE_LOG2_E 1.4426950408889634f

enum {
    DECODE_WARPS = 4, /* that compute; one more copies */
    COMPUTE_THREADS = DECODE_WARPS * WARP,
    DECODE_THREADS = COMPUTE_THREADS + WARP,
    TILE_RUNS = 8,
    RUN_KEYS = 2 * DECODE_WARPS,
    TILE_KEYS = TILE_RUNS * RUN_KEYS,
    NARROW_QUERIES = 8,
    WIDE_QUERIES = 16
};

/* A stage holds a tile's K, then its V, as above. */
template <int DIM> struct tile_layout {
    enum {
        ROW_BYTES = 2 * DIM,
        RUN_PITCH = RUN_KEYS * ROW_BYTES + 16,
        V_BYTES = TILE_RUNS * RUN_PITCH, /* from K to V */
        STAGE_BYTES = 2 * V_BYTES
    };
    static_assert(DIM % 16 == 0 && RUN_PITCH / 16 % 2 == 1, "rows read at once share no bank");
};

/* --- Barriers in shared memory ---------------------------------------------------------------- */

static __device__ __forceinline__ void barrier_open(uint32_t barrier, int n_arrivals)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(n_arrivals) : "memory");
}

/* Makes this thread's barrier_open known to the copy engine. */
static __device__ __forceinline__ void barrier_publish(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

static __device__ __forceinline__ void barrier_arrive(uint32_t barrier)
{
    asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}" ::"r"(barrier)
                 : "memory");
}

/* Waits for the end of the phase of this parity.  A new barrier is in phase 0; the one before, of
 * parity 1, counts as ended. */
static __device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity)
{
    uint32_t done;
    do {
#if __CUDA_ARCH__ >= 900
        asm volatile("{\n.reg .pred p;\n"
                     "mbarrier.try_wait.parity.shared.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n}"
                     : "=r"(done)
                     : "r"(barrier), "r"(parity)
                     : "memory");
#else
        asm volatile("{\n.reg .pred p;\n"
                     "mbarrier.test_wait.parity.shared.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n}"
                     : "=r"(done)
                     : "r"(barrier), "r"(parity)
                     : "memory");
#endif
    } while (!done);
}

/* --- Copying a tile --------------------------------------------------------------------------- */

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

enum { TILE_ARRIVALS = 1 }; /* at a stage's barrier, before its bytes count */

/* Arrives, and lets the phase end only when n_bytes have been copied. */
static __device__ __forceinline__ void barrier_expect(uint32_t barrier, int n_bytes)
{
    asm volatile("{\n.reg .b64 state;\n"
                 "mbarrier.arrive.expect_tx.shared.b64 state, [%0], %1;\n}" ::"r"(barrier),
                 "r"(n_bytes)
                 : "memory");
}

/* n_bytes, a multiple of 16, by the copy engine; the barrier counts them as they come. */
static __device__ __forceinline__ void copy_bulk(uint32_t to, const void *from, int n_bytes,
                                                 uint32_t barrier)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(n_bytes), "r"(barrier)
                 : "memory");
}

/* Starts copying the rows of n keys, 1 to TILE_KEYS, from k and v into a stage; by a whole warp.
 * Lane i < 16 copies run i % 8 of K or V.  Missing keys' rows stay as they are. */
template <int DIM>
static __device__ __forceinline__ void tile_copy(uint32_t stage, const char *k, const char *v,
                                                 int n, uint32_t barrier, int lane)
{
    typedef tile_layout<DIM> layout;
    if (lane == 0)
        barrier_expect(barrier, 2 * n * layout::ROW_BYTES);
    __syncwarp();
    int run = lane % TILE_RUNS, n_keys = min(n - run * RUN_KEYS, (int)RUN_KEYS);
    if (lane >= 2 * TILE_RUNS || n_keys <= 0)
        return;
    const char *from = lane < TILE_RUNS ? k : v;
    uint32_t to = stage + (lane < TILE_RUNS ? 0 : layout::V_BYTES);
    copy_bulk(to + (uint32_t)(run * layout::RUN_PITCH), from + run * RUN_KEYS * layout::ROW_BYTES,
              n_keys * layout::ROW_BYTES, barrier);
}

#else

enum { TILE_ARRIVALS = WARP };

template <int DIM>
static __device__ __forceinline__ void tile_copy(uint32_t stage, const char *k, const char *v,
                                                 int n, uint32_t barrier, int lane)
{
    typedef tile_layout<DIM> layout;
    const int chunks = layout::ROW_BYTES / 16;
#pragma unroll 8
    for (int i = lane; i < n * chunks; i += WARP) {
        int key = i / chunks, column = i % chunks * 16;
        uint32_t from = (uint32_t)(key * layout::ROW_BYTES + column);
        uint32_t to = stage + from + (uint32_t)(key / RUN_KEYS * 16);
        copy_async_16(to, k + from, true);
        copy_async_16(to + layout::V_BYTES, v + from, true);
    }
    /* Arrives once this thread's copies are there. */
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}

#endif

/* --- A warp's part of a tile ------------------------------------------------------------------ */

/* Queries of a unit, scaled for powers of two.  low: of a wide tile. */
template <int DIM, bool WIDE> struct tile_queries {
    uint32_t high[DIM / 16][4], low[WIDE ? DIM / 16 : 1][4];
};

/* What a warp has of its queries: queries g and, in a wide tile, g + 8.  A narrow tile's acc has in
 * [2], [3] what the rest of p adds to [0], [1]. */
template <int DIM, bool WIDE> struct tile_state {
    float acc[DIM / 8][4];
    float max[1 + WIDE];
    float sum[1 + WIDE]; /* over this lane's keys alone */
};

/* Scores, then weights: [query g + 8 r][matrix j][column 2t + e]. */
template <bool WIDE> struct tile_scores {
    float z[1 + WIDE][2][2];
};

/* Number in the tile of a lane's key of matrix j and column 2t + e. */
static __device__ __forceinline__ int tile_key(int warp, int lane, int j, int e)
{
    return RUN_KEYS * (2 * (lane % 4) + e) + 2 * warp + j;
}

/* Where a lane points ldmatrix in K (matrices: j = 0 at dimensions 0..7 and 8..15, then j = 1) and
 * in V (dimensions 0..7 of j = 0 and 1, then dimensions 8..15), from the stage's begin. */
template <int DIM> static __device__ __forceinline__ uint32_t tile_k_offset(int warp, int lane)
{
    typedef tile_layout<DIM> layout;
    int j = lane / 16, half = lane / 8 % 2;
    return (uint32_t)(lane % 8 * layout::RUN_PITCH + (2 * warp + j) * layout::ROW_BYTES +
                      half * 16);
}

template <int DIM> static __device__ __forceinline__ uint32_t tile_v_offset(int warp, int lane)
{
    typedef tile_layout<DIM> layout;
    int j = lane / 8 % 2, half = lane / 16;
    return (uint32_t)(layout::V_BYTES + lane % 8 * layout::RUN_PITCH +
                      (2 * warp + j) * layout::ROW_BYTES + half * 16);
}

/* q0, q1 [DIM]: queries g and g + 8; NULL: none (zeros), as q1 is for a narrow tile. */
template <int DIM, bool WIDE>
static __device__ __forceinline__ void tile_take_queries(struct tile_queries<DIM, WIDE> *to,
                                                         const float *q0, const float *q1,
                                                         float scale, int lane)
{
    int t = lane % 4;
    scale *= DECODE_LOG2_E;
#pragma unroll
    for (int i = 0; i < DIM / 16; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int d = 16 * i + 8 * half + 2 * t;
            float2 x = {0.0f, 0.0f}, y = {0.0f, 0.0f};
            if (q0)
                x = *(const float2 *)(q0 + d);
            if (WIDE && q1)
                y = *(const float2 *)(q1 + d);
            uint32_t x_low, y_low;
            split_bf16(x.x * scale, x.y * scale, &to->high[i][2 * half], &x_low);
            if (!WIDE) {
                to->high[i][2 * half + 1] = x_low;
                continue;
            }
            split_bf16(y.x * scale, y.y * scale, &to->high[i][2 * half + 1], &y_low);
            to->low[WIDE ? i : 0][2 * half] = x_low;
            to->low[WIDE ? i : 0][2 * half + 1] = y_low;
        }
}

template <int DIM, bool WIDE>
static __device__ __forceinline__ void tile_start(struct tile_state<DIM, WIDE> *state)
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

/* k: the stage's begin + tile_k_offset. */
template <int DIM, bool WIDE>
static __device__ __forceinline__ void
tile_score(struct tile_scores<WIDE> *to, const struct tile_queries<DIM, WIDE> *q, uint32_t k)
{
    float s[2][2][4] = {}; /* [chain][j]: two sums each, so that products wait less for another */
#pragma unroll
    for (int i = 0; i < DIM / 16; i++) {
        uint32_t b[4];
        load_matrices(b, k + 32 * i);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            multiply_add(s[i % 2][j], q->high[i], b + 2 * j);
            if (WIDE)
                multiply_add(s[i % 2][j], q->low[WIDE ? i : 0], b + 2 * j);
        }
    }
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float first = s[0][j][e] + s[1][j][e], second = s[0][j][e + 2] + s[1][j][e + 2];
            to->z[0][j][e] = WIDE ? first : first + second;
            if (WIDE)
                to->z[WIDE][j][e] = second;
        }
}

/* Raises the maxima to these scores, scales what was summed before, and turns the scores into
 * weights 2^(z - max), whose sums it adds. */
template <int DIM, bool WIDE>
static __device__ __forceinline__ void tile_soften(struct tile_state<DIM, WIDE> *state,
                                                   struct tile_scores<WIDE> *scores)
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

/* The words of V that are keys of a tile of n keys, for matrices j = 0 and 1. */
static __device__ __forceinline__ void tile_present(uint32_t present[2], int n, int warp, int lane)
{
#pragma unroll
    for (int j = 0; j < 2; j++)
        present[j] = (tile_key(warp, lane, j, 0) < n ? 0x0000ffffu : 0) |
                     (tile_key(warp, lane, j, 1) < n ? 0xffff0000u : 0);
}

/* acc += p V.  v: the stage's begin + tile_v_offset.  SHORT: keys are missing, whose rows may be no
 * numbers, which even a weight of 0 would let through. */
template <int DIM, bool WIDE, bool SHORT>
static __device__ __forceinline__ void tile_accumulate(struct tile_state<DIM, WIDE> *state,
                                                       const struct tile_scores<WIDE> *weights,
                                                       uint32_t v, const uint32_t present[2])
{
    uint32_t p[4];
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
#pragma unroll
    for (int i = 0; i < DIM / 16; i++) {
        uint32_t b[4];
        load_matrices_transposed(b, v + 32 * i);
        if (SHORT)
#pragma unroll
            for (int word = 0; word < 4; word++)
                b[word] &= present[word % 2];
        multiply_add(state->acc[2 * i], p, b);
        multiply_add(state->acc[2 * i + 1], p, b + 2);
    }
}

#endif
