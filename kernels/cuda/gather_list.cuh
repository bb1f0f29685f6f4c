/* A warp's attention to 16 keys at a time that it reads where they lie, for up to 8 query heads
 * that share a KV head: rows go from device memory straight into registers, as the shares that
 * products take (copy_ring.cuh), those of the next tile while one is worked on.
 *
 * The products are decode attention's: lane (g, t) has scores of head g with keys 2t and 2t + 1 of
 * both halves of a tile, and reads the rows of keys g and g + 8. */
#ifndef ATTNSCOPE_KERNELS_CUDA_GATHER_LIST_CUH
#define ATTNSCOPE_KERNELS_CUDA_GATHER_LIST_CUH

#include "kernels/cuda/attention_decode.cuh"
#include "kernels/cuda/gather_marks.cuh"

enum { LIST_MAX_DIM = 128 /* or registers do not suffice */ };

/* A tile on its way: the lane's keys g and g + 8. */
template <int DIM> struct list_tile {
    struct gather_mark mark[2];
    struct decode_shares<DIM> k, v;
};

static __device__ __forceinline__ void load_words(uint32_t x[4], const char *from, bool there)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %5, 0;\n"
                 "mov.b32 %0, 0;\nmov.b32 %1, 0;\nmov.b32 %2, 0;\nmov.b32 %3, 0;\n"
                 "@p ld.global.L1::no_allocate.v4.b32 {%0, %1, %2, %3}, [%4];\n}"
                 : "=&r"(x[0]), "=&r"(x[1]), "=&r"(x[2]), "=&r"(x[3])
                 : "l"(from), "r"((uint32_t)there)
                 : "memory");
}

/* A row's share, zeros unless there.   row: in device memory */
template <int DIM>
static __device__ __forceinline__ void list_load_row(uint32_t word[DIM / 8], uintptr_t row,
                                                     bool there, int lane)
{
    const char *from = (const char *)row + lane % 4 * 16;
#pragma unroll
    for (int i = 0; i < DIM / 32; i++)
        load_words(word + 4 * i, from + 64 * i, there);
    if constexpr (DIM % 32 != 0) {
        uint2 x = {};
        if (there)
            x = __ldcg((const uint2 *)(from + 64 * (DIM / 32) - lane % 4 * 8));
        word[DIM / 8 - 2] = x.x;
        word[DIM / 8 - 1] = x.y;
    }
}

/* Asks for the tile's rows of K or V, by its marks.   base: of both segments, see tile_rows */
template <int DIM>
static __device__ __forceinline__ void
list_load(struct decode_shares<DIM> *to, const struct gather_mark mark[2],
          const uintptr_t base[KV_SEGMENTS], int n_context, int lane)
{
#pragma unroll
    for (int j = 0; j < 2; j++) {
        uint32_t key = mark[j].entry & KEY_MASK;
        uintptr_t from = (int)key >= n_context ? base[KV_TAIL] : base[KV_CONTEXT];
        list_load_row<DIM>(to->word[j], from + (uintptr_t)key * (DIM * 2), mark[j].entry != key,
                           lane);
    }
}

static __device__ __forceinline__ void list_find(struct gather_mark mark[2],
                                                 const struct gather_keys *keys, int tile, int lane)
{
#pragma unroll
    for (int j = 0; j < 2; j++)
        mark[j] = gather_find_mark_at(keys, tile * TILE_ROWS + 8 * j + lane / 4);
}

/* Scores of keys that head g does not attend to become -infinity; drawn keys weigh 1 / p.
 * drawn: -log2 p of what head g drew. */
static __device__ __forceinline__ void list_weigh(const struct gather_job *job,
                                                  const struct gather_keys *keys,
                                                  struct decode_scores<false> *scores,
                                                  const struct gather_mark mark[2], float drawn,
                                                  int lane)
{
    const struct selection *sel = &job->sel;
    int head = lane / 4;
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            int from = (lane % 4 * 2 + e) * 4; /* a lane whose key it is */
            uint32_t entry = __shfl_sync(0xffffffffu, mark[j].entry, from);
            uint32_t extra = 0;
            if (sel->sampled)
                extra = __shfl_sync(0xffffffffu, mark[j].extra, from);
            float *score = &scores->z[0][j][e], bias = drawn;
            if (!(entry >> (KEY_BITS + head) & 1)) {
                *score = -INFINITY;
            } else if (extra >> head & 1) {
                if (sel->mixed) {
                    size_t slot = selected_slot(sel, keys->item.row, keys->item.first_head + head);
                    bias = -log2_fast(sel->key_prob[slot * sel->stride + (entry & KEY_MASK)]);
                }
                *score += bias;
            }
        }
}

/* -log2 p of what head g drew, unless that is mixed. */
static __device__ __forceinline__ float list_bias(const struct gather_job *job,
                                                  const struct gather_item *item, int lane)
{
    const struct selection *sel = &job->sel;
    if (!sel->listed || !sel->sampled || sel->mixed || item->full || lane / 4 >= sel->union_heads)
        return 0.0f;
    return -log2_fast(sel->prob[selected_slot(sel, item->row, item->first_head + lane / 4)]);
}

/* The warp's tiles first, first + step, ... below end. */
template <int DIM>
static __device__ __forceinline__ void
list_attend(const struct gather_job *job, struct decode_state<DIM, false> *state,
            const struct tile_rows *rows, const struct gather_keys *keys, int first, int step,
            int end)
{
    int lane = threadIdx.x % WARP, head = lane / 4;
    const bool all[2] = {true, true};
    const float *q = job->att.q + (size_t)keys->item.row * job->att.q_stride +
                     (size_t)(keys->item.first_head + head) * DIM;
    struct decode_queries<DIM, false> queries;
    struct list_tile<DIM> tile;
    struct gather_mark next[2];
    list_find(tile.mark, keys, first, lane);
    list_find(next, keys, first + step, lane);
    list_load<DIM>(&tile.k, tile.mark, rows->k, rows->n_context, lane);
    list_load<DIM>(&tile.v, tile.mark, rows->v, rows->n_context, lane);
    float drawn = list_bias(job, &keys->item, lane);
    decode_take_queries<DIM, false>(&queries, head < job->sel.union_heads ? q : NULL, NULL,
                                    job->att.scale, lane);
    decode_begin<DIM, false>(state);
    for (int at = first; at < end; at += step) {
        struct decode_products products = {};
        struct decode_scores<false> scores;
        uint32_t p[4];
        decode_multiply<DIM, false>(&products, &queries, &tile.k, 0);
        list_load<DIM>(&tile.k, next, rows->k, rows->n_context, lane);
        decode_sum_products<false>(&scores, &products);
        list_weigh(job, keys, &scores, tile.mark, drawn, lane);
        decode_soften<DIM, false>(state, &scores);
        decode_weights<false>(p, &scores);
        decode_add<DIM, false>(state, p, &tile.v, 0, all);
        list_load<DIM>(&tile.v, next, rows->v, rows->n_context, lane);
        tile.mark[0] = next[0];
        tile.mark[1] = next[1];
        list_find(next, keys, at + 2 * step, lane);
    }
}

/* What the warp has, to out [TILE_HEADS, DIM + 4] and sums [TILE_HEADS]. */
template <int DIM>
static __device__ __forceinline__ void list_finish(const struct decode_state<DIM, false> *state,
                                                   float *out, struct query_sums *sums, int lane)
{
    int head = lane / 4, t = lane % 4;
    float sum = state->sum[0];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    struct query_sums mine = {state->max[0], sum, 0, -INFINITY, 0};
    if (t == 0)
        sums[head] = mine;
    out += head * (DIM + 4);
#pragma unroll
    for (int w = 0; w < DIM / 8; w += 2) {
        const float *a = state->acc[w], *b = state->acc[w + 1];
        *(float4 *)(out + share_dim<DIM>(w, t)) =
            make_float4(a[0] + a[2], a[1] + a[3], b[0] + b[2], b[1] + b[3]);
    }
}

#endif
