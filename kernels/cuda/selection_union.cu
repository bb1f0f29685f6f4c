/* The end of a selection: the bitmaps of a union's heads become one ascending list of all keys that
 * some head selected, with bits that say which, so that attention reads each key once.
 *
 * A row's words are split over a few blocks.  Each counts the keys before its slice anew, which is
 * cheaper than waiting for the others; the block with the last slice so knows all sums, and gives
 * heads that selected nothing the row's own key, which is always the last. */
#include "kernels/cuda/selection.cuh"

enum {
    UNITE_THREADS = 512,
    UNITE_WARPS = UNITE_THREADS / WARP,
    UNITE_MIN_WORDS = 256, /* of a slice */
    QUAD_WORDS = 4         /* that a thread counts at once */
};

struct unite_job {
    struct attention att;
    struct selection sel;
};

/* A block's share of a union: words [begin, end) of n_words. */
struct unite_slice {
    int row, which, first_head; /* whose bitmaps come first */
    int n_heads;                /* bitmaps: 0, 1 if they are shared, or one per head */
    int n_words, begin, end;
    int warp_words; /* of a tile, one tile after the other: each warp's */
    int position;
    size_t bitmap; /* where the first one begins */
};

/* What up to HEADS heads selected of one word's keys. */
template <int HEADS> struct union_word {
    uint32_t head[HEADS], drawn[HEADS];
    uint32_t any; /* some head */
};

/* What they selected of four words' keys, taken or drawn. */
template <int HEADS> struct union_quad {
    uint32_t head[HEADS][QUAD_WORDS];
};

/* Sums over words: entries before the slice and, in the block with the last one, head keys and
 * which heads have any. */
struct union_sums {
    int before, selected;
    uint32_t heads;
};

/* Words that a block counts: those before its slice, with the last slice all. */
static __device__ __forceinline__ int slice_counted(const struct unite_slice *s)
{
    if (s->begin >= s->end)
        return 0;
    return s->end == s->n_words ? s->n_words : s->begin;
}

/* --- Reading bitmaps ------------------------------------------------------------------------- */

template <int HEADS>
static __device__ __forceinline__ void load_word(struct union_word<HEADS> *w,
                                                 const struct unite_slice *s,
                                                 const struct selection *sel, int word)
{
    bool there = word < s->end;
#pragma unroll
    for (int i = 0; i < HEADS; i++) {
        size_t at = s->bitmap + (size_t)i * (size_t)sel->n_words + (size_t)word;
        bool has = there && i < s->n_heads;
        w->head[i] = has ? __ldcg(sel->taken + at) : 0;
        w->drawn[i] = has && sel->sampled ? __ldcg(sel->drawn + at) : 0;
    }
}

/* Leaves the keys of `open` alone, and puts together what the heads have. */
template <int HEADS>
static __device__ __forceinline__ void mask_word(struct union_word<HEADS> *w, uint32_t open)
{
    w->any = 0;
#pragma unroll
    for (int i = 0; i < HEADS; i++) {
        w->drawn[i] &= open;
        w->head[i] = (w->head[i] & open) | w->drawn[i];
        w->any |= w->head[i];
    }
}

/* to [QUAD_WORDS] |= words of a bitmap, of which there are n. */
static __device__ __forceinline__ void add_words(uint32_t *to, const uint32_t *from, int n)
{
    if (n >= QUAD_WORDS) {
        uint4 x = __ldcg((const uint4 *)from);
        to[0] |= x.x;
        to[1] |= x.y;
        to[2] |= x.z;
        to[3] |= x.w;
        return;
    }
#pragma unroll
    for (int i = 0; i < QUAD_WORDS; i++)
        to[i] |= i < n ? __ldcg(from + i) : 0;
}

/* Words [word, min(word + 4, end)); those beyond are 0. */
template <int HEADS>
static __device__ __forceinline__ void load_quad(struct union_quad<HEADS> *q,
                                                 const struct unite_slice *s,
                                                 const struct selection *sel, int word, int end)
{
#pragma unroll
    for (int i = 0; i < HEADS; i++) {
        size_t at = s->bitmap + (size_t)i * (size_t)sel->n_words + (size_t)word;
#pragma unroll
        for (int j = 0; j < QUAD_WORDS; j++)
            q->head[i][j] = 0;
        if (i >= s->n_heads || word >= end)
            continue;
        add_words(q->head[i], sel->taken + at, end - word);
        if (sel->sampled)
            add_words(q->head[i], sel->drawn + at, end - word);
    }
}

/* What a thread reads first: its word of the first tile, and its first words to count. */
template <int HEADS>
static __device__ __forceinline__ void
load_first(struct union_word<HEADS> *w, struct union_quad<HEADS> *quad, const struct unite_slice *s,
           const struct selection *sel)
{
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    load_word(w, s, sel, lane < s->warp_words ? s->begin + warp * s->warp_words + lane : s->end);
    load_quad(quad, s, sel, (int)threadIdx.x * QUAD_WORDS, slice_counted(s));
}

template <int HEADS>
static __device__ __forceinline__ void
add_quad(struct union_sums *sums, const struct union_quad<HEADS> *q, const struct unite_slice *s,
         const struct row_plan *plan, int word)
{
#pragma unroll
    for (int j = 0; j < QUAD_WORDS; j++) {
        uint32_t open = open_bits(plan, word + j), any = 0;
#pragma unroll
        for (int i = 0; i < HEADS; i++) {
            uint32_t head = q->head[i][j] & open;
            any |= head;
            sums->selected += __popc(head);
            sums->heads |= (uint32_t)(head != 0) << i;
        }
        sums->before += word + j < s->begin ? __popc(any) : 0;
    }
}

/* --- The kernel ------------------------------------------------------------------------------- */

/* All threads. */
static __device__ __forceinline__ struct unite_slice find_slice(const struct unite_job *job,
                                                                const struct call_shape *shape)
{
    const struct selection *sel = &job->sel;
    struct unite_slice s;
    s.row = blockIdx.z;
    s.which = blockIdx.y;
    s.position = shape->first_position + s.row;
    int first_head = s.which * sel->union_heads;
    s.first_head = first_head;
    if (sel->shared)
        s.first_head = (int)((unsigned)first_head / (unsigned)sel->group) * sel->group;
    s.n_heads = !sel->listed ? 0 : sel->shared ? 1 : sel->union_heads;
    s.n_words = min(row_words(shape, s.row), sel->n_words); /* which a guess may exceed */
    int slice = (int)((unsigned)(s.n_words + (int)gridDim.x - 1) / gridDim.x);
    slice = (slice + QUAD_WORDS - 1) / QUAD_WORDS * QUAD_WORDS;
    s.begin = min((int)blockIdx.x * slice, s.n_words);
    s.end = min(s.begin + slice, s.n_words);
    s.warp_words = min((slice + UNITE_WARPS - 1) / UNITE_WARPS, (int)WARP);
    s.bitmap = ((size_t)s.row * (size_t)sel->n_heads + (size_t)s.first_head) * (size_t)sel->n_words;
    return s;
}

/* One thread writes down the row's plan where it is the same for all its heads. */
static __device__ __forceinline__ void
write_plan(const struct row_plan *plan, const struct selection *sel, const struct unite_slice *s)
{
    size_t at = (size_t)s->row * (size_t)sel->n_unions + (size_t)s->which;
    if (s->which == 0 && blockIdx.x == 0)
        sel->resolved[s->row] = *plan;
    if (plan->full && blockIdx.x == 0) {
        sel->n_list[at] = 0;
        sel->n_selected[at] = 0;
        sel->rescued[at] = 0;
    }
}

static __device__ __forceinline__ struct union_sums warp_sums(struct union_sums x)
{
    x.before = __reduce_add_sync(0xffffffffu, x.before);
    x.selected = __reduce_add_sync(0xffffffffu, x.selected);
    x.heads = __reduce_or_sync(0xffffffffu, x.heads);
    return x;
}

/* Bits of the union's heads whose word has this lane's bit. */
template <int HEADS>
static __device__ __forceinline__ uint32_t heads_of(const uint32_t word[HEADS], bool shared,
                                                    uint32_t all_heads)
{
    uint32_t heads = 0;
    int lane = threadIdx.x % WARP;
    if (shared)
        return word[0] >> lane & 1 ? all_heads : 0;
#pragma unroll
    for (int i = 0; i < HEADS; i++)
        heads |= (word[i] >> lane & 1u) << i;
    return heads;
}

/* Writes the entries of a warp's words from entry n on: of lanes 0 .. n_words - 1, from word `word`
 * on.  Returns the number of the entry after the last. */
template <int HEADS>
static __device__ __forceinline__ int
write_entries(const struct union_word<HEADS> *w, uint32_t (*words)[2][HEADS],
              const struct selection *sel, size_t list, int word, int n_words, int n)
{
    int lane = threadIdx.x % WARP;
    uint32_t all_heads = (1u << sel->union_heads) - 1;
#pragma unroll
    for (int i = 0; i < HEADS; i++) {
        words[lane][0][i] = w->head[i];
        if (sel->sampled)
            words[lane][1][i] = w->drawn[i];
    }
    __syncwarp();
#pragma unroll 4
    for (int i = 0; i < n_words; i++) {
        uint32_t head[HEADS], any = 0;
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            head[h] = words[i][0][h];
            any |= head[h];
        }
        if (any >> lane & 1) {
            size_t to = list + (size_t)(n + __popc(any & ((1u << lane) - 1)));
            uint32_t key = (uint32_t)((word + i) * 32 + lane);
            sel->list[to] = key | heads_of<HEADS>(head, sel->shared, all_heads) << KEY_BITS;
            if (sel->sampled)
                sel->list_drawn[to] = (uint8_t)heads_of<HEADS>(words[i][1], sel->shared, all_heads);
        }
        n += __popc(any);
    }
    __syncwarp();
    return n;
}

/* Block (slice, union, row). */
template <int HEADS>
__global__ void __launch_bounds__(UNITE_THREADS, HEADS > 4 ? 1 : 2)
    unite_kernel(const __grid_constant__ struct unite_job job)
{
    __shared__ struct row_plan plan;
    __shared__ struct union_sums all_sums[UNITE_WARPS];
    __shared__ int counts[2][UNITE_WARPS];
    __shared__ __align__(16) uint32_t words[UNITE_WARPS][WARP][2][HEADS];
    const struct selection *sel = &job.sel;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;

    dependency_release();
    struct call_shape guess = call_shape(&job.att);
    struct unite_slice s = find_slice(&job, &guess);
    if (threadIdx.x == 0)
        plan = resolve_plan(&sel->plan, &job.att, &guess, s.row);
    dependency_wait();
    struct call_shape shape = call_shape(&job.att);
    struct union_word<HEADS> w;
    struct union_quad<HEADS> quad;
    load_first(&w, &quad, &s, sel);
    if (!call_shape_same(&shape, &guess)) {
        s = find_slice(&job, &shape);
        load_first(&w, &quad, &s, sel);
        if (threadIdx.x == 0)
            plan = resolve_plan(&sel->plan, &job.att, &shape, s.row);
    }
    bool last = s.end == s.n_words, mine = lane < s.warp_words;
    int n_counted = slice_counted(&s), quad_word = (int)threadIdx.x * QUAD_WORDS;
    int word = s.begin + warp * s.warp_words;
    if (threadIdx.x == 0)
        write_plan(&plan, sel, &s);
    __syncthreads();
    if (plan.full || s.begin >= s.end)
        return;
    struct union_sums sums = {};
    while (quad_word < n_counted) {
        add_quad(&sums, &quad, &s, &plan, quad_word);
        quad_word += UNITE_THREADS * QUAD_WORDS;
        load_quad(&quad, &s, sel, quad_word, n_counted);
    }
    sums = warp_sums(sums);
    if (lane == 0)
        all_sums[warp] = sums;
    size_t at = (size_t)s.row * (size_t)sel->n_unions + (size_t)s.which;
    uint32_t all_heads = (1u << sel->union_heads) - 1, rescued = 0;
    int tile_words = s.warp_words * UNITE_WARPS, n = 0, round = 0;
    for (int tile = s.begin; tile < s.end; tile += tile_words, word += tile_words, round ^= 1) {
        if (tile > s.begin)
            load_word(&w, &s, sel, mine ? word + lane : s.end);
        mask_word(&w, open_bits(&plan, word + lane));
        int count = __reduce_add_sync(0xffffffffu, __popc(w.any));
        if (lane == 0)
            counts[round][warp] = count;
        __syncthreads();
        if (tile == s.begin) {
            sums = {};
            if (lane < UNITE_WARPS)
                sums = all_sums[lane];
            sums = warp_sums(sums);
            n = sums.before;
            if (last && plan.n_ranges == 0)
                rescued = sel->shared ? (sums.heads ? 0 : all_heads) : all_heads & ~sums.heads;
        }
        bool ends =
            last && word < s.n_words && word + s.warp_words >= s.n_words; /* has the last word */
        if (rescued && mine && word + lane == s.n_words - 1) {
            uint32_t own = 1u << s.position % 32;
#pragma unroll
            for (int i = 0; i < HEADS; i++)
                w.head[i] |= rescued >> i & 1 ? own : 0;
        }
        count = lane < UNITE_WARPS ? counts[round][lane] : 0;
        int before = __reduce_add_sync(0xffffffffu, lane < warp ? count : 0);
        int n_end = write_entries<HEADS>(&w, words[warp], sel, at * sel->stride, word,
                                         min(s.warp_words, s.end - word), n + before);
        n += __reduce_add_sync(0xffffffffu, count);
        if (ends && lane == 0) {
            sel->n_list[at] = n_end;
            sel->n_selected[at] =
                sums.selected * (sel->shared ? sel->union_heads : 1) + __popc(rescued);
            sel->rescued[at] = rescued;
        }
    }
}

void selection_unite(struct device *dev, const struct selection *sel)
{
    struct unite_job job = {};
    job.att = sel->att;
    job.sel = *sel;
    int n_lists = sel->n_unions * job.att.n_rows, fitting = dev->n_sms / n_lists;
    int n_slices = sel->listed ? ceil_div(ceil_div(job.att.max_keys, 32), UNITE_MIN_WORDS) : 1;
    n_slices = n_slices < fitting ? n_slices : fitting > 1 ? fitting : 1;
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
    struct put_off waiting = sel->late->masker;
    sel->late->masker = {};
    bool done = waiting.run && waiting.run(dev, sel, &waiting, true);
    if (sel->listed && !done)
        selection_unite(dev, sel);
}
