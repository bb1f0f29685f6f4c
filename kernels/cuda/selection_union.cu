/* The end of a selection: the bitmaps of a union's heads become one ascending list of all keys that
 * some head selected, with bits that say which, so that attention reads each key once.
 *
 * A row's words are split over a few blocks.  Each counts the keys before its slice anew, which is
 * cheaper than waiting for the others; the block with the last slice so knows all sums, and gives
 * heads that selected nothing the row's own key, which is always the last. */
#include "kernels/cuda/select_team.cuh"
#include "kernels/cuda/selection.cuh"

enum {
    UNITE_THREADS = 1024,
    UNITE_SLICES = 16,
    PART_KEYS = 8, /* of a word, that a thread turns into entries */
    WORD_PARTS = 32 / PART_KEYS,
    TILE_WORDS = UNITE_THREADS / WORD_PARTS,
    TILE_ENTRIES = TILE_WORDS * 32
};

struct unite_job {
    struct attention att;
    struct selection sel;
};

/* A block's share of a union: words [begin, end) of n_words. */
struct unite_slice {
    struct row_plan plan;
    int row, which, first_head; /* whose bitmaps come first */
    int n_heads;                /* bitmaps: 0, 1 if they are shared, or one per head */
    int n_words, begin, end;
    int position;
};

/* What up to HEADS heads selected of one word's keys. */
template <int HEADS> struct union_word {
    uint32_t head[HEADS], drawn[HEADS];
    uint32_t any; /* some head */
};

template <int HEADS>
static __device__ __forceinline__ void load_word(struct union_word<HEADS> *w,
                                                 const struct unite_slice *s,
                                                 const struct selection *sel, int word)
{
    uint32_t open = open_bits(&s->plan, word);
    size_t at =
        ((size_t)s->row * (size_t)sel->n_heads + (size_t)s->first_head) * (size_t)sel->n_words +
        (size_t)word;
    w->any = 0;
#pragma unroll
    for (int i = 0; i < HEADS; i++) {
        w->head[i] = w->drawn[i] = 0;
        if (i >= s->n_heads)
            continue;
        w->head[i] = sel->taken[at + (size_t)i * (size_t)sel->n_words] & open;
        if (sel->sampled)
            w->drawn[i] = sel->drawn[at + (size_t)i * (size_t)sel->n_words] & open;
        w->head[i] |= w->drawn[i];
        w->any |= w->head[i];
    }
}

/* Bits of the union's heads whose word has bit `bit`. */
template <int HEADS>
static __device__ __forceinline__ uint32_t heads_of(const uint32_t word[HEADS], int bit,
                                                    bool shared, uint32_t all_heads)
{
    uint32_t heads = 0;
    if (shared)
        return word[0] >> bit & 1 ? all_heads : 0;
#pragma unroll
    for (int i = 0; i < HEADS; i++)
        heads |= (word[i] >> bit & 1u) << i;
    return heads;
}

/* Sums over words: entries before the slice and, in the block with the last one, head keys and
 * which heads have any. */
struct union_sums {
    int before, selected;
    uint32_t heads;
};

template <int HEADS>
static __device__ struct union_sums sum_words(const struct unite_slice *s,
                                              const struct selection *sel, struct union_sums *warps)
{
    struct union_sums sums = {};
    int n = s->end == s->n_words ? s->n_words : s->begin, lane = threadIdx.x % WARP;
    for (int word = threadIdx.x; word < n; word += UNITE_THREADS) {
        struct union_word<HEADS> w;
        load_word(&w, s, sel, word);
        sums.before += word < s->begin ? __popc(w.any) : 0;
#pragma unroll
        for (int i = 0; i < HEADS; i++) {
            sums.selected += __popc(w.head[i]);
            sums.heads |= (uint32_t)(w.head[i] != 0) << i;
        }
    }
    sums.before = __reduce_add_sync(0xffffffffu, sums.before);
    sums.selected = __reduce_add_sync(0xffffffffu, sums.selected);
    sums.heads = __reduce_or_sync(0xffffffffu, sums.heads);
    if (lane == 0)
        warps[threadIdx.x / WARP] = sums;
    __syncthreads();
    sums = {};
    for (int i = 0; i < UNITE_THREADS / WARP; i++) {
        sums.before += warps[i].before;
        sums.selected += warps[i].selected;
        sums.heads |= warps[i].heads;
    }
    return sums;
}

/* Thread 0 fills in, and writes down what is the same for all heads of a row. */
static __device__ __forceinline__ void start_slice(struct unite_slice *s,
                                                   const struct unite_job *job)
{
    const struct selection *sel = &job->sel;
    struct call_shape shape = call_shape(&job->att);
    s->row = blockIdx.z;
    s->which = blockIdx.y;
    s->plan = resolve_plan(&sel->plan, &job->att, &shape, s->row);
    s->position = shape.first_position + s->row;
    int first_head = s->which * sel->union_heads;
    s->first_head = sel->shared ? first_head / sel->group * sel->group : first_head;
    s->n_heads = !sel->listed ? 0 : sel->shared ? 1 : sel->union_heads;
    s->n_words = row_words(&shape, s->row);
    int slice = (s->n_words + (int)gridDim.x - 1) / (int)gridDim.x;
    s->begin = min((int)blockIdx.x * slice, s->n_words);
    s->end = min(s->begin + slice, s->n_words);
    size_t at = (size_t)s->row * (size_t)sel->n_unions + (size_t)s->which;
    if (s->which == 0 && blockIdx.x == 0)
        sel->resolved[s->row] = s->plan;
    if (s->plan.full && blockIdx.x == 0) {
        sel->n_list[at] = 0;
        sel->n_selected[at] = 0;
        sel->rescued[at] = 0;
    }
}

/* Block (slice, union, row); a thread has PART_KEYS keys of each tile. */
template <int HEADS>
__global__ void __launch_bounds__(UNITE_THREADS)
    unite_kernel(const __grid_constant__ struct unite_job job)
{
    __shared__ struct unite_slice s;
    __shared__ struct union_sums warps[UNITE_THREADS / WARP];
    __shared__ int scratch[WARP];
    __shared__ uint32_t entries[TILE_ENTRIES];
    __shared__ uint8_t drawn[TILE_ENTRIES];
    const struct selection *sel = &job.sel;

    dependency_wait();
    dependency_release();
    if (threadIdx.x == 0)
        start_slice(&s, &job);
    __syncthreads();
    if (s.plan.full || s.begin >= s.end)
        return;
    size_t at = (size_t)s.row * (size_t)sel->n_unions + (size_t)s.which;
    uint32_t *list = sel->list + at * sel->stride;
    uint8_t *list_drawn = sel->list_drawn + at * sel->stride;
    uint32_t all_heads = (1u << sel->union_heads) - 1, rescued = 0;
    struct union_sums sums = sum_words<HEADS>(&s, sel, warps);
    bool last = s.end == s.n_words;
    if (last && s.plan.n_ranges == 0)
        rescued = sel->shared ? (sums.heads ? 0 : all_heads) : all_heads & ~sums.heads;
    int n = sums.before;
    int part = threadIdx.x % WORD_PARTS * PART_KEYS;
    for (int tile = s.begin; tile < s.end; tile += TILE_WORDS) {
        struct union_word<HEADS> w = {
        };
        int word = tile + (int)threadIdx.x / WORD_PARTS, n_tile;
        if (word < s.end)
            load_word(&w, &s, sel, word);
        if (rescued && word == s.n_words - 1) {
            uint32_t own = 1u << s.position % 32;
#pragma unroll
            for (int i = 0; i < HEADS; i++)
                w.head[i] |= rescued >> i & 1 ? own : 0;
            w.any |= own;
        }
        uint32_t left = w.any & ((1u << PART_KEYS) - 1) << part;
        int to = block_scan(__popc(left), scratch, &n_tile);
        for (; left; left &= left - 1, to++) {
            int bit = __ffs(left) - 1;
            uint32_t key = (uint32_t)(word * 32 + bit);
            entries[to] = key | heads_of<HEADS>(w.head, bit, sel->shared, all_heads) << KEY_BITS;
            if (sel->sampled)
                drawn[to] = (uint8_t)heads_of<HEADS>(w.drawn, bit, sel->shared, all_heads);
        }
        __syncthreads();
        for (int i = threadIdx.x; i < n_tile; i += UNITE_THREADS) {
            list[n + i] = entries[i];
            if (sel->sampled)
                list_drawn[n + i] = drawn[i];
        }
        n += n_tile;
        __syncthreads();
    }
    if (last && threadIdx.x == 0) {
        sel->n_list[at] = n;
        sel->n_selected[at] =
            sums.selected * (sel->shared ? sel->union_heads : 1) + __popc(rescued);
        sel->rescued[at] = rescued;
    }
}

void selection_unite(struct device *dev, const struct selection *sel)
{
    struct unite_job job = {};
    job.att = sel->att;
    job.sel = *sel;
    /* Whole tiles, unless there are many. */
    int n_slices = sel->listed ? ceil_div(job.att.max_keys, TILE_ENTRIES) : 1;
    n_slices = n_slices < UNITE_SLICES ? n_slices : UNITE_SLICES;
    dim3 grid((unsigned)n_slices, (unsigned)sel->n_unions, (unsigned)job.att.n_rows);
    int n_heads = sel->shared || !sel->listed ? 1 : sel->union_heads;
    void (*kernel)(struct unite_job) = n_heads == 1   ? unite_kernel<1>
                                       : n_heads <= 4 ? unite_kernel<4>
                                                      : unite_kernel<UNION_MAX_HEADS>;
    cuda_launch(dev, kernel, grid, UNITE_THREADS, 0, job);
}

/* A stack of ranges alone has no lists: what they are follows from the plan. */
void cuda_selection_end(struct device *dev, struct selection *sel, const struct attention *att)
{
    assert(att->n_rows == sel->n_rows);
    (void)att;
    if (sel->listed)
        selection_unite(dev, sel);
}
