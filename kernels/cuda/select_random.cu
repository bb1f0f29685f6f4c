/* Random sampling without replacement: the images of 0 .. n - 1 under a keyed permutation of the
 * candidates.
 *
 * A block of a team owns a slice of the words.  It counts the candidates of all slices (or
 * computes them, while nothing is listed), so that an image, a candidate's number, tells whose it
 * is.  Draws are marked by number in the owner's shared memory; what is marked then becomes keys,
 * word by word, and bitmaps are written without anybody else's help.  In a cluster the blocks share
 * the images and mark in each other's memory; else every block finds all images and keeps its own.
 */
#include "kernels/cuda/block_scan.cuh"
#include "kernels/cuda/select_cluster.cuh"
#include "kernels/permutation.h"

enum {
    DRAW_THREADS = 512,
    DRAW_WARPS = DRAW_THREADS / WARP,
    DRAW_MIN_KEYS = 4096, /* of a slice */
    MARK_WORDS = 8192 /* marks of a slice that are in memory at a time; more take several walks */
};

static_assert((int)TEAM_MAX <= (int)DRAW_WARPS, "each slice is counted by a warp at least");

struct random_job {
    struct attention att;
    struct selection sel; /* its plan's last part is this masker; `drawn` is in use */
    struct team_split split;
    enum share share;
    bool first, first_drawn; /* nothing is listed yet; nothing is drawn yet */
    int slot;
};

/* What a block works on, in shared memory. */
struct draw {
    struct row_plan plan;
    int row, which;
    int head_begin, head_end;   /* whose bitmaps the draw goes to */
    int group_begin, group_end; /* whose probability it sets */
    int n_words, slice;         /* of a row; of a slice, whose begin is a multiple of it */
    int position;
    int n_wanted;           /* 0: nothing to do */
    int base[TEAM_MAX + 1]; /* candidates before each member's slice; the last is all of them */
    struct permutation permutation;
};

static __device__ __forceinline__ size_t draw_bitmap(const struct draw *d,
                                                     const struct random_job *job, int head)
{
    return ((size_t)d->row * (size_t)job->sel.n_heads + (size_t)head) * (size_t)job->sel.n_words;
}

/* One thread fills in. */
static __device__ __forceinline__ void draw_fill(struct draw *d, const struct random_job *job,
                                                 int unit)
{
    const struct selection *sel = &job->sel;
    struct call_shape shape = call_shape(&job->att);
    int choice = unit / job->split.team;
    int n = job->share == SHARE_GROUP ? sel->group : 1;
    bool chosen;
    d->row = choice / job->split.n_choices;
    d->which = choice % job->split.n_choices;
    d->plan = resolve_parts(&sel->plan, &job->att, &shape, d->row, &chosen);
    d->n_wanted = budget_resolve(sel->plan.part[sel->plan.n - 1].size, shape.n_keys);
    d->n_wanted = d->plan.full ? 0 : d->n_wanted;
    d->position = shape.first_position + d->row;
    d->group_begin = d->which * n;
    d->group_end = d->group_begin + n;
    d->head_begin = d->group_begin;
    d->head_end = sel->shared ? d->head_begin + 1 : d->group_end;
    d->n_words = row_words(&shape, d->row);
    d->slice = (d->n_words + job->split.team - 1) / job->split.team;
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

/* d->base.  All threads; the caller's next barrier shows it. */
static __device__ __forceinline__ void count_slices(struct draw *d, const struct random_job *job,
                                                    int *scratch)
{
    int team = job->split.team, i = threadIdx.x;
    if (job->first) {
        if (i <= team)
            d->base[i] = open_before(&d->plan, min(i * d->slice, d->n_words));
        return;
    }
    int n_warps = DRAW_WARPS / team, warp = i / WARP; /* of a slice */
    int begin = warp / n_warps * d->slice, end = min(begin + d->slice, d->n_words), n = 0;
#pragma unroll 4
    for (int word = begin + warp % n_warps * WARP + i % WARP; word < end; word += n_warps * WARP)
        n += __popc(draw_candidates(d, job, word));
    n = __reduce_add_sync(0xffffffffu, n);
    if (i % WARP == 0)
        scratch[warp] = n;
    __syncthreads();
    if (i > team)
        return;
    int before = 0;
    for (int w = 0; w < i * n_warps; w++)
        before += scratch[w];
    d->base[i] = before;
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

/* Marks this block's images, or its own share of them, in walk number `walk`. */
static __device__ __forceinline__ void mark_draws(const struct draw *d, const struct team *team,
                                                  uint32_t *marks, int n, int walk)
{
    int first = threadIdx.x, step = DRAW_THREADS;
    if (team->cluster) {
        first += team->member * DRAW_THREADS;
        step *= team->size;
    }
    for (int i = first; i < n; i += step) {
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

/* Marks at .. at + n - 1, n <= 32, as bits; there are n_marks words of them, no others are set. */
static __device__ __forceinline__ uint32_t read_marks(const uint32_t *marks, int n_marks, int at,
                                                      int n)
{
    int word = at >> 5, shift = at & 31;
    uint32_t low = word >= 0 && word < n_marks ? marks[word] : 0;
    uint32_t high = word + 1 >= 0 && word + 1 < n_marks ? marks[word + 1] : 0;
    uint32_t bits = shift ? low >> shift | high << (32 - shift) : low;
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

/* Adds the drawn keys of a word to the heads that do not have them yet: those keep them as they
 * are.  In the first walk bitmaps that nobody has written yet become valid. */
static __device__ __forceinline__ void add_keys(const struct draw *d, const struct random_job *job,
                                                int word, uint32_t keys, bool first_walk,
                                                float prob)
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
            key_prob[word * 32 + __ffs((int)added) - 1] = prob;
    }
}

/* Turns the marks of a walk into keys. */
static __device__ __forceinline__ void keep_draws(const struct draw *d,
                                                  const struct random_job *job,
                                                  const struct team *team, const uint32_t *marks,
                                                  int n_marks, int walk, float prob, int *scratch)
{
    int begin = min(team->member * d->slice, d->n_words);
    int end = min(begin + d->slice, d->n_words), n = 0;
    for (int round = begin; round < end; round += DRAW_THREADS) {
        int word = round + (int)threadIdx.x, at, n_round;
        uint32_t open = word < end ? draw_candidates(d, job, word) : 0;
        if (job->first) {
            at = open_before(&d->plan, word) - d->base[team->member];
        } else {
            at = n + block_scan(__popc(open), scratch, &n_round);
            n += n_round;
        }
        uint32_t marked = read_marks(marks, n_marks, at - walk * MARK_WORDS * 32, __popc(open));
        if (word < end)
            add_keys(d, job, word, spread_marks(marked, open), walk == 0, prob);
    }
}

/* --- The kernel ------------------------------------------------------------------------------- */

__global__ void __launch_bounds__(DRAW_THREADS)
    random_kernel(const __grid_constant__ struct random_job job)
{
    __shared__ struct draw d;
    __shared__ __align__(16) uint32_t marks[MARK_WORDS];
    __shared__ int scratch[WARP];
    const struct selection *sel = &job.sel;

    dependency_wait();
    dependency_release();
    for (int unit = blockIdx.x; unit < job.split.n_units; unit += gridDim.x) {
        struct team team = team_of(&job.split, unit);
        __syncthreads();
        if (threadIdx.x == 0)
            draw_fill(&d, &job, unit);
        __syncthreads();
        if (d.n_wanted > 0)
            count_slices(&d, &job, scratch);
        else if (threadIdx.x <= team.size)
            d.base[threadIdx.x] = 0;
        __syncthreads();
        int n_left = d.base[team.size], n = min(d.n_wanted, n_left);
        float prob = n > 0 ? (float)((double)n / n_left) : 1.0f;
        if (threadIdx.x == 0 && n > 0)
            d.permutation =
                permutation_make((uint32_t)n_left, job.att.step->seed, (uint32_t)job.att.layer,
                                 (uint32_t)d.which, (uint32_t)d.position, (uint32_t)job.slot);
        if (team.member == 0 && !sel->mixed && d.n_wanted > 0)
            for (int head = d.group_begin + (int)threadIdx.x; head < d.group_end;
                 head += DRAW_THREADS)
                sel->prob[(size_t)d.row * (size_t)sel->n_heads + (size_t)head] = prob;
        int n_marks = min(d.slice, (int)MARK_WORDS);
        for (int walk = 0; walk * MARK_WORDS < d.slice; walk++) {
            for (int i = threadIdx.x; i < n_marks; i += DRAW_THREADS)
                marks[i] = 0;
            draw_meet(&team);
            mark_draws(&d, &team, marks, n, walk);
            draw_meet(&team);
            keep_draws(&d, &job, &team, marks, n_marks, walk, prob, scratch);
            __syncthreads();
        }
    }
}

static bool random_run(struct device *dev, struct selection *sel, const struct put_off *what, bool)
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
    size_t n_bytes = cuda_one_per_sm(dev, 0);
    team_fit(dev, random_kernel, &job.split, DRAW_THREADS, n_bytes);
    team_launch(dev, random_kernel, DRAW_THREADS, n_bytes, &job);
    return false;
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
