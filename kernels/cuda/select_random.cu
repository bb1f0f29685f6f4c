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
#include "kernels/cuda/select_draw.cuh"

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

/* The list that a draw's keys make. */
static __device__ __forceinline__ size_t draw_list(const struct draw *d,
                                                   const struct random_job *job)
{
    return (size_t)d->row * (size_t)job->sel.n_unions + (size_t)d->which;
}

/* Writes the keys of a word from an entry of the list on.  Returns the entry after them. */
static __device__ __forceinline__ int list_keys(const struct draw *d, const struct random_job *job,
                                                int word, uint32_t keys, int entry)
{
    const struct selection *sel = &job->sel;
    uint32_t heads = (1u << sel->union_heads) - 1;
    size_t list = draw_list(d, job) * sel->stride;
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
    size_t at = draw_list(d, job) * sel->stride + (size_t)d->first_entry;
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
    size_t at = draw_list(d, job);
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
    selection_plan(dev, sel, SELECT_RANDOM, size);
    what.run = random_run;
    what.share = share;
    what.slot = slot;
    what.first = selection_choose(dev, sel, att, share);
    what.first_drawn = !sel->sampled;
    sel->sampled = true;
    sel->late->masker = what;
}
