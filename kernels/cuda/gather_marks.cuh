/* What a warp knows of an item's keys beside their rows: which they are, which heads attend to
 * them, and how that changes their scores. */
#ifndef ATTNSCOPE_KERNELS_CUDA_GATHER_MARKS_CUH
#define ATTNSCOPE_KERNELS_CUDA_GATHER_MARKS_CUH

#include "kernels/cuda/attention_gather.cuh"
#include "kernels/cuda/gather_tile.cuh"

/* A block's tiles [begin, end) of its item, which has n_blocks blocks from first_block on. */
struct gather_share {
    struct gather_item item;
    int begin, end;
    int first_block, n_blocks; /* 0: the block has nothing to do */
};

/* What a warp knows of its item's keys, beside the rows. */
struct gather_keys {
    struct gather_item item;
    int limit;                 /* the block's keys end here */
    uint32_t all_heads;        /* bits in an entry */
    const uint32_t *list;      /* at a key's number: ranges are before it */
    const uint8_t *list_drawn; /* the same, or NULL: none is drawn */
    /* probe */
    const uint32_t *bitmaps[2]; /* of head lane % TILE_HEADS, or NULL */
    int n_words;                /* that may be looked at */
};

/* Of one tile: what lane r % 16 knows of row r; extra: bits of the heads that drew it, or, for the
 * probe, bits of the rows that head r % 8 has selected. */
struct gather_mark {
    uint32_t entry, extra;
};

template <bool PROBE>
static __device__ __forceinline__ struct gather_keys
gather_keys_of(const struct gather_job *job, const struct gather_share *share, int lane)
{
    const struct selection *sel = &job->sel;
    const struct gather_item *item = &share->item;
    struct gather_keys keys = {};
    keys.item = *item;
    keys.limit = min(item->n_keys, share->end * TILE_ROWS);
    keys.all_heads = ((1u << sel->union_heads) - 1) << KEY_BITS;
    if (!PROBE) {
        long long at = (long long)item->index * (long long)sel->stride - item->n_ranged;
        keys.list = sel->list + at;
        keys.list_drawn = sel->sampled ? sel->list_drawn + at : NULL;
    } else if (sel->listed && !item->full && lane % TILE_HEADS < sel->union_heads) {
        size_t word =
            selected_slot(sel, item->row, item->first_head + lane % TILE_HEADS) * sel->n_words;
        keys.n_words = item->position / 32 + 1; /* row_words */
        keys.bitmaps[0] = sel->taken + word;
        keys.bitmaps[1] = (sel->sampled ? sel->drawn : sel->taken) + word;
    }
    return keys;
}

/* Bits of keys key .. key + 15 that a bitmap has. */
static __device__ __forceinline__ uint32_t tile_bitmap_bits(const uint32_t *bitmap, int key,
                                                            int n_words)
{
    int word = key / 32;
    uint32_t low = bitmap[word], high = word + 1 < n_words ? bitmap[word + 1] : 0;
    return __funnelshift_r(low, high, key % 32) & 0xffff;
}

/* Bits of keys key .. key + 15 that a range has. */
static __device__ __forceinline__ uint32_t tile_range_bits(struct key_range range, int key)
{
    return range_bits(0, range.begin - key, range.end - key) & 0xffff;
}

/* Of row lane % 16 of a tile.  Beyond the block's keys, of which there must be one, the last one
 * for no head: its row is as good as any. */
template <bool PROBE>
static __device__ __forceinline__ struct gather_mark
gather_find_mark(const struct gather_keys *keys, int tile, int lane)
{
    const struct gather_item *item = &keys->item;
    struct gather_mark mark = {};
    int at = tile * TILE_ROWS + lane % TILE_ROWS, there = min(at, keys->limit - 1);
    if (PROBE || there < item->n_ranged) {
        mark.entry = (uint32_t)gather_ranged_key(item, there) | keys->all_heads;
    } else {
        mark.entry = keys->list[there];
        if (keys->list_drawn)
            mark.extra = keys->list_drawn[there];
    }
    mark.entry &= at > there ? KEY_MASK : 0xffffffffu;
    int n = keys->limit - tile * TILE_ROWS;
    if (PROBE && n > 0) {
        int key = item->begin[0] + tile * TILE_ROWS;
        mark.extra = tile_range_bits(item->kept[0], key) | tile_range_bits(item->kept[1], key);
        if (keys->bitmaps[0])
            mark.extra |= tile_bitmap_bits(keys->bitmaps[0], key, keys->n_words) |
                          tile_bitmap_bits(keys->bitmaps[1], key, keys->n_words);
        mark.extra &= n < TILE_ROWS ? (1u << n) - 1 : 0xffff;
    }
    return mark;
}

static __device__ __forceinline__ void gather_write_mark(struct tile_marks *to,
                                                         const struct gather_mark *mark, int lane)
{
    if (lane < TILE_ROWS) {
        to->entry[lane] = mark->entry;
        to->extra[lane] = mark->extra;
    }
}

/* --- What marks do to scores ------------------------------------------------------------------ */

/* How keys that were drawn weigh: by -log2 p of their head, or of each key. */
template <int SETS> struct gather_bias {
    float of_head[SETS];       /* of head 4 n + t */
    const float *of_key[SETS]; /* [stride] p of its keys, where they differ */
};

template <int SETS>
static __device__ __forceinline__ void gather_find_bias(struct gather_bias<SETS> *bias,
                                                        const struct gather_job *job,
                                                        const struct gather_item *item, int lane)
{
    const struct selection *sel = &job->sel;
#pragma unroll
    for (int n = 0; n < SETS; n++) {
        int head = SET_HEADS * n + lane % SET_HEADS;
        bias->of_head[n] = 0.0f;
        bias->of_key[n] = NULL;
        if (!sel->listed || !sel->sampled || item->full || head >= sel->union_heads)
            continue;
        size_t slot = selected_slot(sel, item->row, item->first_head + head);
        if (sel->mixed)
            bias->of_key[n] = sel->key_prob + slot * sel->stride;
        else
            bias->of_head[n] = -log2_fast(sel->prob[slot]);
    }
}

/* Scores of keys that a head does not attend to become -infinity; drawn keys weigh 1 / p. */
template <int SETS>
static __device__ __forceinline__ void gather_weigh(float s[SETS][2],
                                                    const struct tile_marks *marks, bool sampled,
                                                    const struct gather_bias<SETS> *bias, int lane)
{
#pragma unroll
    for (int j = 0; j < 2; j++) {
        uint32_t entry = marks->entry[lane / 4 + 8 * j];
        uint32_t drawn = sampled ? marks->extra[lane / 4 + 8 * j] : 0;
#pragma unroll
        for (int n = 0; n < SETS; n++) {
            int head = SET_HEADS * n + lane % SET_HEADS;
            float add = bias->of_head[n];
            if (bias->of_key[n] && drawn >> head & 1)
                add = -log2_fast(bias->of_key[n][entry & KEY_MASK]);
            s[n][j] += drawn >> head & 1 ? add : 0.0f;
            s[n][j] = entry >> (KEY_BITS + head) & 1 ? s[n][j] : -INFINITY;
        }
    }
}

/* Probe: scores of rows without a key become -infinity; the score of the own key is noted. */
template <int DIM, int SETS>
static __device__ __forceinline__ void gather_note(struct tile_state<DIM, SETS> *state,
                                                   float s[SETS][2], const struct tile_marks *marks,
                                                   int position, int lane)
{
#pragma unroll
    for (int j = 0; j < 2; j++) {
        uint32_t entry = marks->entry[lane / 4 + 8 * j];
#pragma unroll
        for (int n = 0; n < SETS; n++)
            if (!(entry >> KEY_BITS))
                s[n][j] = -INFINITY;
            else if ((int)(entry & KEY_MASK) == position)
                state->own[n] = s[n][j];
    }
}

template <int DIM, int SETS>
static __device__ __forceinline__ void gather_add_mass(struct tile_state<DIM, SETS> *state,
                                                       const float p[SETS][2],
                                                       const struct tile_marks *marks, int lane)
{
#pragma unroll
    for (int n = 0; n < SETS; n++)
#pragma unroll
        for (int j = 0; j < 2; j++)
            if (marks->extra[SET_HEADS * n + lane % SET_HEADS] >> (lane / 4 + 8 * j) & 1)
                state->mass[n] += p[n][j];
}

#endif
