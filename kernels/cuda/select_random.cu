/* Random sampling without replacement: the images of 0 .. n - 1 under a keyed permutation of the
 * candidates.
 *
 * A block of a team owns a slice of the words.  It counts the candidates of all slices (or
 * computes them, while nothing is listed), so that an image, a candidate's number, tells whose it
 * is.  Draws are marked by number in the owner's shared memory; what is marked then becomes keys,
 * word by word, and bitmaps are written without anybody else's help.  In a cluster the blocks share
 * the images and mark in each other's memory; else every block finds all images and keeps its own.
 *
 * While nothing is listed a draw depends on the step alone.  So it is made before the blocks wait
 * for what comes before them, by the step as it stands; what is left to do then is to write it
 * down: bitmaps, and the list if no masker follows. */
#include "kernels/cuda/block_scan.cuh"
#include "kernels/cuda/select_cluster.cuh"
#include "kernels/permutation.h"

enum {
    DRAW_THREADS = 512,
    DRAW_WARPS = DRAW_THREADS / WARP,
    DRAW_MIN_KEYS = 8192, /* of a slice */
    MARK_WORDS = 8192 /* marks of a slice that are in memory at a time; more take several walks */
};

static_assert((int)TEAM_MAX <= (int)DRAW_WARPS, "each slice is counted by a warp at least");

struct random_job {
    struct attention att;
    struct selection sel; /* its plan's last part is this masker; `drawn` is in use */
    struct team_split split;
    enum share share;
    bool first, first_drawn; /* nothing is listed yet; nothing is drawn yet */
    bool lists;              /* makes the lists, one per KV head; first, and slices take one walk */
    int slot;
};

/* What of a step a draw depends on. */
struct draw_step {
    struct call_shape shape;
    uint64_t seed;
};

/* What a block works on, in shared memory. */
struct draw {
    struct row_plan plan;
    int row, which;
    int head_begin, head_end;    /* whose bitmaps the draw goes to */
    int group_begin, group_end;  /* whose probability it sets */
    int n_words, slice;          /* of a row; of a slice, whose begin is a multiple of it */
    int n_rounds;                /* a slice's words, one per thread and round */
    int warp_words, round_words; /* from a warp's or a round's first word to that of the next */
    int position;
    int n_wanted;           /* 0: nothing to do */
    int n;                  /* keys drawn */
    float prob;             /* of each */
    int base[TEAM_MAX + 1]; /* candidates before each member's slice; the last is all of them */
    struct permutation permutation;
    struct draw_step step[TEAM_MAX]; /* by which each member drew */
    int n_drawn[TEAM_MAX];           /* in each member's slice, if there are lists */
    int first_entry, n_entries;      /* of this slice's keys in the list */
    bool staged;                     /* its entries lie ready where the marks were */
};

/* Where a thread is in its words. */
struct draw_place {
    uint32_t keys; /* drawn of the word of this round */
    int n;         /* candidates of the slice in rounds before the next, unless first */
    int entry;     /* of the first of `keys` in the list, if there are lists */
};

static __device__ __forceinline__ size_t draw_bitmap(const struct draw *d,
                                                     const struct random_job *job, int head)
{
    return ((size_t)d->row * (size_t)job->sel.n_heads + (size_t)head) * (size_t)job->sel.n_words;
}

/* --- What a draw depends on --------------------------------------------------------------------
 */

static __device__ __forceinline__ struct draw_step draw_step_of(const struct random_job *job)
{
    struct draw_step step = {call_shape(&job->att), __ldcg(&job->att.step->seed)};
    return step;
}

/* Whether all members drew by that step: a verdict that they share.  A whole warp calls it. */
static __device__ __forceinline__ bool draw_holds(const struct draw *d, const struct team *team,
                                                  const struct draw_step *step)
{
    int lane = threadIdx.x % WARP;
    bool same = true;
    if (lane < team->size)
        same =
            call_shape_same(&d->step[lane].shape, &step->shape) && d->step[lane].seed == step->seed;
    return __all_sync(0xffffffffu, same);
}

/* One thread fills in. */
static __device__ __forceinline__ void draw_fill(struct draw *d, const struct random_job *job,
                                                 const struct draw_step *step, int unit)
{
    const struct selection *sel = &job->sel;
    const struct call_shape *shape = &step->shape;
    unsigned choice = (unsigned)unit >> job->split.log2_team;
    int n = job->share == SHARE_GROUP ? sel->group : 1;
    d->row = (int)(choice / (unsigned)job->split.n_choices);
    d->which = (int)choice - d->row * job->split.n_choices;
    d->plan = resolve_plan(&sel->plan, &job->att, shape, d->row);
    d->n_wanted = budget_resolve(sel->plan.part[sel->plan.n - 1].size, shape->n_keys);
    d->n_wanted = d->plan.full ? 0 : d->n_wanted;
    d->position = shape->first_position + d->row;
    d->group_begin = d->which * n;
    d->group_end = d->group_begin + n;
    d->head_begin = d->group_begin;
    d->head_end = sel->shared ? d->head_begin + 1 : d->group_end;
    d->n_words = row_words(shape, d->row);
    d->slice = (d->n_words + (1 << job->split.log2_team) - 1) >> job->split.log2_team;
    d->n_rounds = (d->slice + DRAW_THREADS - 1) / DRAW_THREADS;
    /* Lists want a warp's words side by side, counts of candidates a round's. */
    d->warp_words = job->first ? d->n_rounds * WARP : (int)WARP;
    d->round_words = job->first ? (int)WARP : (int)DRAW_THREADS;
}

/* --- Candidates -------------------------------------------------------------------------------
 */

/* Candidates of a word.  A key that only some of the heads have stays one, or the others would
 * never see it and their sums would be biased. */
static __device__ __forceinline__ uint32_t draw_candidates(const struct draw *d,
                                                           const struct random_job *job, int word)
{
    uint32_t open = open_bits(&d->plan, word), taken = 0xffffffffu;
    if (job->first)
        return open;
    for (int head = d->head_begin; head < d->head_end; head++) {
        size_t at = draw_bitmap(d, job, head) + (size_t)word;
        taken &= job->sel.taken[at] | (job->first_drawn ? 0 : job->sel.drawn[at]);
    }
    return open & ~taken;
}

/* Keys before word `word` that are visible and in no range. */
static __device__ __forceinline__ int open_before(const struct row_plan *plan, int word)
{
    int end = word * 32, n = max(min(plan->visible.end, end) - plan->visible.begin, 0);
    for (int i = 0; i < plan->n_ranges; i++)
        n -= max(min(plan->range[i].end, end) - plan->range[i].begin, 0);
    return n;
}

/* counts [DRAW_WARPS]: candidates by warp; each slice has as many warps.  All threads. */
static __device__ __forceinline__ void count_candidates(const struct draw *d,
                                                        const struct random_job *job, int *counts)
{
    int n_warps = DRAW_WARPS >> job->split.log2_team, warp = threadIdx.x / WARP, n = 0;
    int begin = (warp << job->split.log2_team) / DRAW_WARPS * d->slice;
    int end = d->n_wanted > 0 ? min(begin + d->slice, d->n_words) : 0;
    int word = begin + (warp & (n_warps - 1)) * WARP + threadIdx.x % WARP;
#pragma unroll 4
    for (; word < end; word += n_warps * WARP)
        n += __popc(draw_candidates(d, job, word));
    n = __reduce_add_sync(0xffffffffu, n);
    if (threadIdx.x % WARP == 0)
        counts[warp] = n;
}

/* What depends on the numbers of candidates; counts: see count_candidates, unless first.  One
 * warp, after its first lane's draw_fill. */
static __device__ __forceinline__ void draw_number(struct draw *d, const struct random_job *job,
                                                   const struct team *team,
                                                   const struct draw_step *step, const int *counts)
{
    int i = threadIdx.x % WARP, n_warps = DRAW_WARPS >> job->split.log2_team, before = 0;
    __syncwarp();
    if (i <= team->size && d->n_wanted > 0) {
        if (job->first)
            before = open_before(&d->plan, min(i * d->slice, d->n_words));
        else
            for (int w = 0; w < i * n_warps; w++)
                before += counts[w];
    }
    if (i <= team->size)
        d->base[i] = before;
    int n_left = __shfl_sync(0xffffffffu, before, team->size);
    if (i > 0)
        return;
    d->n = min(d->n_wanted, n_left);
    d->prob = d->n > 0 ? (float)((double)d->n / n_left) : 1.0f;
    if (d->n > 0)
        d->permutation =
            permutation_make((uint32_t)n_left, step->seed, (uint32_t)job->att.layer,
                             (uint32_t)d->which, (uint32_t)d->position, (uint32_t)job->slot);
}

/* --- Marks -------------------------------------------------------------------------------------
 */

/* All threads: what a cluster's blocks did before, the others see. */
static __device__ __forceinline__ void draw_meet(const struct team *team)
{
    if (team->cluster) {
        cluster_arrive();
        cluster_wait();
    } else {
        __syncthreads();
    }
}

/* All threads. */
static __device__ __forceinline__ void clear_marks(uint32_t *marks)
{
    uint4 *to = (uint4 *)marks, zero = {};
    for (int i = threadIdx.x; i < MARK_WORDS / 4; i += DRAW_THREADS)
        to[i] = zero;
}

/* Marks this block's images, or its own share of them, in walk number `walk`. */
static __device__ __forceinline__ void mark_draws(const struct draw *d, const struct team *team,
                                                  uint32_t *marks, int walk)
{
    int first = threadIdx.x, step = DRAW_THREADS;
    if (team->cluster) {
        first += team->member * DRAW_THREADS;
        step *= team->size;
    }
    for (int i = first; i < d->n; i += step) {
        int number = (int)permutation_image(&d->permutation, (uint32_t)i), owner = 0;
        for (int half = team->size / 2; half > 0; half /= 2)
            owner += d->base[owner + half] <= number ? half : 0;
        int at = number - d->base[owner] - walk * MARK_WORDS * 32;
        if (at < 0 || at >= MARK_WORDS * 32)
            continue;
        uint32_t *mark = marks + at / 32, bit = 1u << at % 32;
        if (team->cluster)
            atomicOr(cluster_peer(mark, owner), bit);
        else if (owner == team->member)
            atomicOr(mark, bit);
    }
}

/* Marks at .. at + n - 1, n <= 32, as bits; no others than MARK_WORDS words of them are set. */
static __device__ __forceinline__ uint32_t read_marks(const uint32_t *marks, int at, int n)
{
    int word = at >> 5, shift = at & 31;
    uint32_t low = word >= 0 && word < MARK_WORDS ? marks[word] : 0;
    uint32_t high = word + 1 >= 0 && word + 1 < MARK_WORDS ? marks[word + 1] : 0;
    uint32_t bits = __funnelshift_r(low, high, (unsigned)shift);
    return n < 32 ? bits & ((1u << n) - 1) : bits;
}

/* The n-th set bit, counted from 0. */
static __device__ __forceinline__ int nth_bit(uint32_t bits, int n)
{
    int at = 0;
    for (int half = 16; half > 0; half /= 2) {
        int below = __popc(bits & ((1u << half) - 1));
        if (n >= below) {
            n -= below;
            bits >>= half;
            at += half;
        }
    }
    return at;
}

/* The candidates whose number among them is marked. */
static __device__ __forceinline__ uint32_t spread_marks(uint32_t marked, uint32_t open)
{
    uint32_t bits = 0;
    if (open == 0xffffffffu)
        return marked;
    for (; marked; marked &= marked - 1)
        bits |= 1u << nth_bit(open, __ffs((int)marked) - 1);
    return bits;
}

/* A thread's word in a round. */
static __device__ __forceinline__ int draw_word(const struct draw *d, const struct team *team,
                                                int round)
{
    return team->member * d->slice + (int)threadIdx.x / WARP * d->warp_words +
           round * d->round_words + (int)threadIdx.x % WARP;
}

static __device__ __forceinline__ int slice_end(const struct draw *d, const struct team *team)
{
    return min((team->member + 1) * d->slice, d->n_words);
}

/* The keys of a thread's word that are marked; its rounds in order, with *n = 0 before the first.
 * All threads. */
static __device__ __forceinline__ uint32_t find_keys(const struct draw *d,
                                                     const struct random_job *job,
                                                     const struct team *team, const uint32_t *marks,
                                                     int walk, int round, int *n, int *scratch)
{
    int word = draw_word(d, team, round), at, n_round;
    uint32_t open = word < slice_end(d, team) ? draw_candidates(d, job, word) : 0;
    if (job->first) {
        at = open_before(&d->plan, word) - d->base[team->member];
    } else {
        at = *n + block_scan(__popc(open), scratch, &n_round);
        *n += n_round;
    }
    return spread_marks(read_marks(marks, at - walk * MARK_WORDS * 32, __popc(open)), open);
}

/* --- Making a draw ----------------------------------------------------------------------------
 */

/* The sum of n over the lanes before this one. */
static __device__ __forceinline__ int lanes_before(int n)
{
    int sum = n;
#pragma unroll
    for (int offset = 1; offset < WARP; offset *= 2) {
        int below = __shfl_up_sync(0xffffffffu, sum, offset);
        sum += (int)threadIdx.x % WARP >= offset ? below : 0;
    }
    return sum - n;
}

/* The entry of a thread's first key of round 0, whose keys are `keys`.  All threads; the caller's
 * next barrier shows what it adds to *d. */
static __device__ __forceinline__ int find_entry(struct draw *d, const struct random_job *job,
                                                 const struct team *team, const uint32_t *marks,
                                                 uint32_t keys, int *scratch)
{
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, n = __popc(keys), unused = 0;
    for (int round = 1; round < d->n_rounds; round++)
        n += __popc(find_keys(d, job, team, marks, 0, round, &unused, scratch));
    n = __reduce_add_sync(0xffffffffu, n);
    if (lane == 0)
        scratch[warp] = n;
    __syncthreads();
    n = lane < DRAW_WARPS ? scratch[lane] : 0;
    int entry = __reduce_add_sync(0xffffffffu, lane < warp ? n : 0), first = 0;
    n = __reduce_add_sync(0xffffffffu, n);
    if (team->cluster) {
        if (threadIdx.x < team->size)
            *cluster_peer(&d->n_drawn[team->member], (int)threadIdx.x) = n;
        draw_meet(team);
        first = __reduce_add_sync(0xffffffffu, lane < team->member ? d->n_drawn[lane] : 0);
    }
    if (threadIdx.x == 0) {
        d->first_entry = first;
        d->n_entries = n;
        d->staged = d->n_rounds == 1 && n <= MARK_WORDS;
    }
    return first + entry + lanes_before(__popc(keys));
}

/* Lays the slice's keys out in the order of the list where the marks were, so that afterwards they
 * only need to be copied.  All threads. */
static __device__ __forceinline__ void stage_keys(const struct draw *d, const struct team *team,
                                                  struct draw_place place, uint32_t *marks)
{
    __syncthreads(); /* the marks have been read */
    if (!d->staged)
        return;
    uint32_t *to = marks + (place.entry - d->first_entry);
    int first_key = draw_word(d, team, 0) * 32;
    for (uint32_t keys = place.keys; keys; keys &= keys - 1)
        *to++ = (uint32_t)(first_key + __ffs((int)keys) - 1);
    __syncthreads();
}

/* Draws for a unit by a step, as far as the first walk goes: *d, the marks, and where each thread
 * then begins to put them down.  All threads. */
static __device__ __forceinline__ struct draw_place
draw_make(struct draw *d, const struct random_job *job, const struct team *team,
          const struct draw_step *step, int unit, uint32_t *marks, int *scratch)
{
    __syncthreads(); /* all are done with the draw before */
    clear_marks(marks);
    if (threadIdx.x == 0)
        draw_fill(d, job, step, unit);
    if (!job->first) {
        __syncthreads();
        count_candidates(d, job, scratch);
        __syncthreads();
    }
    if (threadIdx.x < WARP)
        draw_number(d, job, team, step, scratch);
    draw_meet(team);
    if (threadIdx.x < team->size) {
        struct draw_step *to = &d->step[team->cluster ? team->member : (int)threadIdx.x];
        *(team->cluster ? cluster_peer(to, (int)threadIdx.x) : to) = *step;
    }
    mark_draws(d, team, marks, 0);
    draw_meet(team);
    struct draw_place place = {};
    place.keys = find_keys(d, job, team, marks, 0, 0, &place.n, scratch);
    if (job->lists) {
        place.entry = find_entry(d, job, team, marks, place.keys, scratch);
        stage_keys(d, team, place, marks);
    }
    return place;
}

/* --- Putting it down ---------------------------------------------------------------------------
 */

/* Adds the drawn keys of a word to the heads that do not have them yet: those keep them as they
 * are.  In the first walk bitmaps that nobody has written yet become valid. */
static __device__ __forceinline__ void add_keys(const struct draw *d, const struct random_job *job,
                                                int word, uint32_t keys, bool first_walk)
{
    const struct selection *sel = &job->sel;
    bool no_taken = job->first && first_walk, no_drawn = job->first_drawn && first_walk;
    for (int head = d->head_begin; head < d->head_end && (keys || no_drawn); head++) {
        size_t at = draw_bitmap(d, job, head) + (size_t)word;
        uint32_t had = no_drawn ? 0 : sel->drawn[at], added = keys;
        if (!job->first)
            added &= ~sel->taken[at];
        added &= ~had;
        if (no_taken)
            sel->taken[at] = 0;
        if (no_drawn || added)
            sel->drawn[at] = had | added;
        float *key_prob =
            sel->key_prob + ((size_t)d->row * (size_t)sel->n_heads + (size_t)head) * sel->stride;
        for (; sel->mixed && added; added &= added - 1)
            key_prob[word * 32 + __ffs((int)added) - 1] = d->prob;
    }
}

/* Writes the keys of a word from an entry of the list on.  Returns the entry after them. */
static __device__ __forceinline__ int list_keys(const struct draw *d, const struct random_job *job,
                                                int word, uint32_t keys, int entry)
{
    const struct selection *sel = &job->sel;
    uint32_t heads = (1u << sel->union_heads) - 1;
    size_t list = ((size_t)d->row * (size_t)sel->n_unions + (size_t)d->which) * sel->stride;
    for (; keys; keys &= keys - 1, entry++) {
        uint32_t key = (uint32_t)(word * 32 + __ffs((int)keys) - 1);
        sel->list[list + (size_t)entry] = key | heads << KEY_BITS;
        sel->list_drawn[list + (size_t)entry] = (uint8_t)heads;
    }
    return entry;
}

/* The same for the whole slice, from stage_keys.  All threads. */
static __device__ __forceinline__ void
list_staged(const struct draw *d, const struct random_job *job, const uint32_t *keys)
{
    const struct selection *sel = &job->sel;
    uint32_t heads = (1u << sel->union_heads) - 1;
    size_t at = ((size_t)d->row * (size_t)sel->n_unions + (size_t)d->which) * sel->stride +
                (size_t)d->first_entry;
    for (int i = threadIdx.x; i < d->n_entries; i += DRAW_THREADS) {
        sel->list[at + (size_t)i] = keys[i] | heads << KEY_BITS;
        sel->list_drawn[at + (size_t)i] = (uint8_t)heads;
    }
}

/* What selection_unite says of a list besides its keys; the own key of heads that have none.  One
 * thread. */
static __device__ __forceinline__ void list_close(const struct draw *d,
                                                  const struct random_job *job)
{
    const struct selection *sel = &job->sel;
    size_t at = (size_t)d->row * (size_t)sel->n_unions + (size_t)d->which;
    uint32_t heads = (1u << sel->union_heads) - 1;
    bool rescue = d->n == 0 && d->plan.n_ranges == 0 && !d->plan.full;
    if (d->which == 0)
        sel->resolved[d->row] = d->plan;
    if (rescue) {
        sel->list[at * sel->stride] = (uint32_t)d->position | heads << KEY_BITS;
        sel->list_drawn[at * sel->stride] = 0;
    }
    sel->n_list[at] = d->n + rescue;
    sel->n_selected[at] = (d->n + rescue) * sel->union_heads;
    sel->rescued[at] = rescue ? heads : 0;
}

/* All threads. */
static __device__ __forceinline__ void draw_put(const struct draw *d, const struct random_job *job,
                                                const struct team *team, struct draw_place place,
                                                uint32_t *marks, int *scratch)
{
    const struct selection *sel = &job->sel;
    int end = slice_end(d, team);
    bool staged = job->lists && d->staged;
    if (staged)
        list_staged(d, job, marks);
    for (int walk = 0; walk * MARK_WORDS < d->slice; walk++) {
        if (walk > 0) {
            __syncthreads();
            clear_marks(marks);
            draw_meet(team);
            mark_draws(d, team, marks, walk);
            draw_meet(team);
            place.n = 0;
        }
        for (int round = 0; round < d->n_rounds; round++) {
            int word = draw_word(d, team, round);
            if (walk + round > 0)
                place.keys = find_keys(d, job, team, marks, walk, round, &place.n, scratch);
            if (job->lists && round > 0)
                place.entry = __shfl_sync(0xffffffffu, place.entry, WARP - 1) +
                              lanes_before(__popc(place.keys));
            if (word < end)
                add_keys(d, job, word, place.keys, walk == 0);
            if (job->lists && !staged)
                place.entry = list_keys(d, job, word, place.keys, place.entry);
        }
    }
    int i = DRAW_THREADS - 1 - (int)threadIdx.x; /* the last warp has the fewest words */
    if (team->member > 0)
        return;
    if (job->lists && i == 0)
        list_close(d, job);
    if (!sel->mixed && d->n_wanted > 0)
        for (int head = d->group_begin + i; head < d->group_end; head += DRAW_THREADS)
            sel->prob[(size_t)d->row * (size_t)sel->n_heads + (size_t)head] = d->prob;
}

/* --- The kernel ------------------------------------------------------------------------------- */

__global__ void __launch_bounds__(DRAW_THREADS, 2)
    random_kernel(const __grid_constant__ struct random_job job)
{
    __shared__ struct draw d;
    __shared__ __align__(16) uint32_t marks[MARK_WORDS];
    __shared__ int scratch[WARP];
    struct team team = team_of(&job.split, (int)blockIdx.x);
    struct draw_place place = {};

    dependency_release();
    struct draw_step step = draw_step_of(&job);
    if (job.first)
        place = draw_make(&d, &job, &team, &step, (int)blockIdx.x, marks, scratch);
    dependency_wait();
    step = draw_step_of(&job);
    bool made = job.first && draw_holds(&d, &team, &step);
    for (int unit = blockIdx.x; unit < job.split.n_units; unit += gridDim.x, made = false) {
        if (!made)
            place = draw_make(&d, &job, &team, &step, unit, marks, scratch);
        draw_put(&d, &job, &team, place, marks, scratch);
    }
}

/* Whether the draw can make the lists itself: a draw's keys are a list's, and slices take one walk.
 * Blocks that do not reach each other cannot know what others draw. */
static bool draw_lists(const struct selection *sel, const struct put_off *what,
                       const struct team_split *split)
{
    bool whole = sel->union_heads == sel->group && (sel->shared || sel->group == 1);
    int n_words = ceil_div(sel->att.max_keys, 32);
    return what->first && whole && (split->clusters || split->log2_team == 0) &&
           ceil_div(n_words, 1 << split->log2_team) <= MARK_WORDS;
}

static bool random_run(struct device *dev, struct selection *sel, const struct put_off *what,
                       bool last)
{
    int n_rows = sel->n_rows, max_keys = sel->att.max_keys;
    int n_choices = what->share == SHARE_GROUP ? sel->n_kv_heads : sel->n_heads;
    struct random_job job = {};
    job.first = what->first;
    job.first_drawn = what->first_drawn;
    job.att = sel->att;
    job.sel = *sel;
    job.split = team_split_of(dev, n_rows, n_choices, max_keys, DRAW_MIN_KEYS);
    job.share = what->share;
    job.slot = what->slot;
    if (!job.first_drawn && !job.split.clusters) /* blocks must not see each other's keys */
        job.split = team_split_of(dev, n_rows, n_choices, 1, DRAW_MIN_KEYS);
    job.lists = last && draw_lists(sel, what, &job.split);
    assert(!what->first || (what->first_drawn && !sel->mixed));
    /* Blocks that mostly wait need no multiprocessor of their own. */
    size_t n_bytes = job.first ? 0 : cuda_one_per_sm(dev, 0);
    team_launch(dev, random_kernel, DRAW_THREADS, n_bytes, &job);
    return job.lists;
}

void cuda_select_random(struct device *dev, struct selection *sel, const struct attention *att,
                        double rate, int slot, enum share share)
{
    assert(!sel->sampled || sel->mixed); /* one sampler in a stack */
    selection_catch_up(dev, sel);
    struct budget size = {true, rate < 1.0 ? rate : 1.0};
    struct put_off what = {};
    selection_plan(sel, SELECT_RANDOM, size);
    what.run = random_run;
    what.share = share;
    what.slot = slot;
    what.first = selection_choose(dev, sel, att, share);
    what.first_drawn = !sel->sampled;
    sel->sampled = true;
    sel->waiting = what;
}
