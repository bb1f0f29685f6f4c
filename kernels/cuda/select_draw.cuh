/* A draw before it is written down: what it depends on, its candidates, and marks by number in the
 * shared memory of the block whose slice a drawn candidate is in.  See select_random.cu. */
#ifndef ATTNSCOPE_KERNELS_CUDA_SELECT_DRAW_CUH
#define ATTNSCOPE_KERNELS_CUDA_SELECT_DRAW_CUH

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
    d->n_wanted = budget_resolve(part_size(&sel->plan.part[sel->plan.n - 1]), shape->n_keys);
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

#endif
