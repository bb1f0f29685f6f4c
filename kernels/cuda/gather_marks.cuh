/* What a warp knows of an item's keys beside their rows: which they are, and which heads attend to
 * them. */
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

/* The key of number `at`; beyond the block's keys, of which there must be one, the last one for no
 * head: its row is as good as any. */
template <bool PROBE>
static __device__ __forceinline__ struct gather_mark
gather_find_mark_at(const struct gather_keys *keys, int at)
{
    const struct gather_item *item = &keys->item;
    struct gather_mark mark = {};
    int there = min(at, keys->limit - 1);
    if (PROBE || there < item->n_ranged) {
        mark.entry = (uint32_t)gather_ranged_key(item, there) | keys->all_heads;
    } else {
        mark.entry = keys->list[there];
        if (keys->list_drawn)
            mark.extra = keys->list_drawn[there];
    }
    mark.entry &= at > there ? KEY_MASK : 0xffffffffu;
    return mark;
}

#endif
