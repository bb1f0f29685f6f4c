/* A slice of a row whose orders a block's threads keep in registers, and what becomes of it: bits
 * in the bitmaps, entries in the list.
 *
 * A warp has up to 1024 neighbouring keys, in chunks of 128 of which each lane has four, so that
 * loads are of 16 bytes.  Bits of single keys thus come as a nibble per lane and chunk, bitmaps as
 * a word per lane: an 8 x 8 transpose within each eight lanes leads from one to the other. */
#ifndef ATTNSCOPE_KERNELS_CUDA_SELECT_SLICE_CUH
#define ATTNSCOPE_KERNELS_CUDA_SELECT_SLICE_CUH

#include "kernels/cuda/select_threshold.cuh"

enum { LANE_KEYS = 4, CHUNK_WORDS = LOAD_WORDS, MAX_CHUNKS = 8 };

/* CHUNKS per warp.  HEADS: of a group, whose scores are all fetched at once; 0: any number of
 * heads, fetched when they are added. */
template <int CHUNKS, int HEADS> struct slice_way {
    enum {
        KEYS = CHUNKS * LANE_KEYS,    /* of a lane */
        WORDS = CHUNKS * CHUNK_WORDS, /* of a warp */
        BLOCK_WORDS = WORDS * CHOOSE_WARPS,
        FETCHED = HEADS > 0 ? HEADS : 1
    };
    static_assert(CHUNKS <= (int)MAX_CHUNKS, "a lane has no more than eight nibbles");
};

/* Which keys a choice comes down to: those whose order is above the cut, and the first n_ties of
 * those that equal it. */
struct cut {
    uint32_t order;
    int n_ties, n_equal;
    int n_selected;                   /* by the whole team */
    int ties_before, selected_before; /* in the slices before this block's */
};

/* --- Nibbles and words ------------------------------------------------------------------------ */

/* Nibble j of lane 8g + i becomes nibble i of lane 8g + j. */
static __device__ __forceinline__ uint32_t nibbles_transpose(uint32_t x)
{
    int lane = threadIdx.x % WARP;
    uint32_t y = __shfl_xor_sync(0xffffffffu, x, 4);
    x = lane & 4 ? (x & 0xffff0000u) | y >> 16 : (x & 0x0000ffffu) | y << 16;
    y = __shfl_xor_sync(0xffffffffu, x, 2);
    x = lane & 2 ? (x & 0xff00ff00u) | (y >> 8 & 0x00ff00ffu)
                 : (x & 0x00ff00ffu) | (y << 8 & 0xff00ff00u);
    y = __shfl_xor_sync(0xffffffffu, x, 1);
    return lane & 1 ? (x & 0xf0f0f0f0u) | (y >> 4 & 0x0f0f0f0fu)
                    : (x & 0x0f0f0f0fu) | (y << 4 & 0xf0f0f0f0u);
}

/* From a nibble per chunk, bit 4c + j for key j of chunk c, to the warp's word `lane`. */
static __device__ __forceinline__ uint32_t word_of_nibbles(uint32_t nibbles)
{
    int lane = threadIdx.x % WARP;
    return __shfl_sync(0xffffffffu, nibbles_transpose(nibbles), lane % 4 * 8 + lane / 4);
}

static __device__ __forceinline__ uint32_t nibbles_of_word(uint32_t word)
{
    int lane = threadIdx.x % WARP;
    return nibbles_transpose(__shfl_sync(0xffffffffu, word, lane % 8 * 4 + lane / 8));
}

/* --- Orders ------------------------------------------------------------------------------------
 */

/* The scores of four keys of a row by a head. */
static __device__ __forceinline__ float4 fetch_scores(const struct choice *c,
                                                      const struct choose_job *job, int head,
                                                      int key)
{
    const float *scores =
        job->sel.scores +
        ((size_t)c->row * (size_t)job->sel.n_heads + (size_t)head) * job->sel.stride + (size_t)key;
    return __ldcg((const float4 *)scores);
}

static __device__ __forceinline__ void add_scores(float4 *to, float4 x)
{
    to->x += x.x;
    to->y += x.y;
    to->z += x.z;
    to->w += x.w;
}

template <int CHUNKS> static __device__ __forceinline__ int slice_word(const struct choice *c)
{
    return c->begin + (int)threadIdx.x / WARP * CHUNKS * CHUNK_WORDS;
}

/* Starts to fetch the slice. */
template <int CHUNKS, int HEADS>
static __device__ __forceinline__ void
slice_fetch(float4 x[slice_way<CHUNKS, HEADS>::FETCHED][CHUNKS], const struct choice *c,
            const struct choose_job *job)
{
    int word = slice_word<CHUNKS>(c), lane_key = threadIdx.x % WARP * LANE_KEYS;
#pragma unroll
    for (int h = 0; h < slice_way<CHUNKS, HEADS>::FETCHED; h++)
#pragma unroll
        for (int i = 0; i < CHUNKS; i++) {
            int at = word + i * CHUNK_WORDS;
            x[h][i] = {};
            if (at < c->end)
                x[h][i] = fetch_scores(c, job, c->score_begin + h, at * 32 + lane_key);
        }
}

/* The candidates among a lane's keys, as nibbles. */
template <int CHUNKS>
static __device__ __forceinline__ uint32_t slice_candidates(const struct choice *c,
                                                            const struct choose_job *job)
{
    int lane = threadIdx.x % WARP, word = slice_word<CHUNKS>(c) + lane;
    bool there = lane < CHUNKS * CHUNK_WORDS && word < c->end;
    return nibbles_of_word(there ? candidates(c, job, word) : 0);
}

/* The orders of what has been fetched: 0 where `own` has no bit. */
template <int CHUNKS, int HEADS>
static __device__ __forceinline__ void
slice_orders(uint32_t order[CHUNKS * LANE_KEYS],
             float4 x[slice_way<CHUNKS, HEADS>::FETCHED][CHUNKS], const struct choice *c,
             const struct choose_job *job, uint32_t own)
{
    int word = slice_word<CHUNKS>(c), lane_key = threadIdx.x % WARP * LANE_KEYS;
#pragma unroll
    for (int h = 1; h < HEADS; h++)
#pragma unroll
        for (int i = 0; i < CHUNKS; i++)
            add_scores(&x[0][i], x[h][i]);
    for (int head = c->score_begin + 1; HEADS == 0 && head < c->score_end; head++)
#pragma unroll
        for (int i = 0; i < CHUNKS; i++)
            if (word + i * CHUNK_WORDS < c->end)
                add_scores(&x[0][i],
                           fetch_scores(c, job, head, (word + i * CHUNK_WORDS) * 32 + lane_key));
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        order[i * LANE_KEYS] = order_of(x[0][i].x);
        order[i * LANE_KEYS + 1] = order_of(x[0][i].y);
        order[i * LANE_KEYS + 2] = order_of(x[0][i].z);
        order[i * LANE_KEYS + 3] = order_of(x[0][i].w);
    }
    if (__all_sync(0xffffffffu, own == 0xffffffffu >> (32 - CHUNKS * LANE_KEYS)))
        return;
#pragma unroll
    for (int i = 0; i < CHUNKS * LANE_KEYS; i++)
        order[i] = own >> i & 1 ? order[i] : 0;
}

/* --- Taking ------------------------------------------------------------------------------------
 */

/* The union of a choice's heads is what one list is made of. */
static __device__ __forceinline__ size_t list_of(const struct choice *c,
                                                 const struct choose_job *job)
{
    return (size_t)c->row * (size_t)job->sel.n_unions + (size_t)c->which;
}

/* Adds a warp's words, a lane's each, to the list; `at` is where the lane's entries begin. */
template <int WORDS>
static __device__ __forceinline__ void list_words(const struct choice *c,
                                                  const struct choose_job *job, int first_word,
                                                  uint32_t bits, int at)
{
    int lane = threadIdx.x % WARP;
    uint32_t heads = ((1u << job->sel.union_heads) - 1) << KEY_BITS;
    uint32_t *list = job->sel.list + list_of(c, job) * job->sel.stride;
#pragma unroll 4
    for (int i = 0; i < WORDS; i++) {
        uint32_t word = __shfl_sync(0xffffffffu, bits, i);
        int to = __shfl_sync(0xffffffffu, at, i) + __popc(word & ((1u << lane) - 1));
        if (word >> lane & 1)
            list[to] = (uint32_t)((first_word + i) * 32 + lane) | heads;
    }
}

/* Adds what is taken of the slice to the bitmaps and, if the job is to, the list.  take: the keys
 * at or above the cut, ties: those that equal it, as nibbles per chunk; ties count only where the
 * cut leaves some of them.  All threads. */
template <int CHUNKS>
static __device__ __forceinline__ void
slice_take_bits(uint32_t take, uint32_t ties, const struct choice *c, const struct choose_job *job,
                const struct cut *cut, int *scratch)
{
    enum { WORDS = CHUNKS * CHUNK_WORDS };
    int lane = threadIdx.x % WARP, first_word = slice_word<CHUNKS>(c), n;
    take = word_of_nibbles(take);
    if (cut->n_ties < cut->n_equal) {
        ties = word_of_nibbles(ties);
        int at = cut->ties_before + block_scan(__popc(ties), scratch, &n);
        take ^= ties ^ lowest_bits(ties, max(cut->n_ties - at, 0));
    }
    bool there = lane < WORDS && first_word + lane < c->end;
    for (int head = c->head_begin; there && head < c->head_end; head++) {
        uint32_t *taken = job->sel.taken + bitmap_of(c, job, head) + (size_t)(first_word + lane);
        *taken = job->first ? take : *taken | take;
        make_certain(c, job, head, first_word + lane, take);
    }
    if (!job->lists)
        return;
    int at = cut->selected_before + block_scan(__popc(take), scratch, &n);
    list_words<WORDS>(c, job, first_word, take, at);
}

template <int CHUNKS>
static __device__ __forceinline__ void
slice_take(const uint32_t order[CHUNKS * LANE_KEYS], const struct choice *c,
           const struct choose_job *job, const struct cut *cut, int *scratch)
{
    uint32_t take = 0, ties = 0;
#pragma unroll
    for (int i = 0; i < CHUNKS * LANE_KEYS; i++)
        take |= (uint32_t)(order[i] >= cut->order) << i;
    if (cut->n_ties < cut->n_equal) {
#pragma unroll
        for (int i = 0; i < CHUNKS * LANE_KEYS; i++)
            ties |= (uint32_t)(order[i] == cut->order) << i;
    }
    slice_take_bits<CHUNKS>(take, ties, c, job, cut, scratch);
}

/* One thread of a choice's first block: what selection_unite tells beside the list, and the row's
 * own key for heads that would have none. */
static __device__ __forceinline__ void list_finish(const struct choice *c,
                                                   const struct choose_job *job,
                                                   const struct call_shape *shape, int n_selected)
{
    const struct selection *sel = &job->sel;
    size_t at = list_of(c, job);
    uint32_t all_heads = (1u << sel->union_heads) - 1;
    bool rescue = !c->plan.full && c->plan.n_ranges == 0 && n_selected == 0;
    if (c->which == 0)
        sel->resolved[c->row] = c->plan;
    if (rescue)
        sel->list[at * sel->stride] = (uint32_t)(shape->first_position + c->row) | all_heads
                                                                                       << KEY_BITS;
    sel->n_list[at] = rescue ? 1 : n_selected;
    sel->n_selected[at] = rescue ? sel->union_heads : n_selected * sel->union_heads;
    sel->rescued[at] = rescue ? all_heads : 0;
}

#endif
