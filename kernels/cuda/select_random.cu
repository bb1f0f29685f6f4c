/* Random sampling without replacement: the images of 0 .. n - 1 under a keyed permutation of the
 * candidates.
 *
 * A team first empties or counts its words, meets once, and then every thread finds images of its
 * own and sets their bits.  While nothing is listed the candidates are a few stretches and an
 * image's key follows from their lengths; else it is looked up in the counts. */
#include "kernels/cuda/select_team.cuh"
#include "kernels/permutation.h"

enum {
    DRAW_THREADS = 512,
    DRAW_MIN_KEYS = 4096 /* of a slice */
};

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
    int n_words, slice, begin, end;
    int position;
    int n_wanted;           /* 0: nothing to do */
    int base[TEAM_MAX + 1]; /* candidates before each member's slice; the last is all of them */
    /* By word, in the union lists, which nobody needs before the end: candidates before it in its
     * slice, and the candidates. */
    uint32_t *before, *open;
};

static __device__ __forceinline__ size_t draw_bitmap(const struct draw *d,
                                                     const struct random_job *job, int head)
{
    return ((size_t)d->row * (size_t)job->sel.n_heads + (size_t)head) * (size_t)job->sel.n_words;
}

/* All threads; thread 0 fills in. */
static __device__ __forceinline__ void draw_start(struct draw *d, struct team *team,
                                                  const struct random_job *job, int unit)
{
    const struct selection *sel = &job->sel;
    __syncthreads();
    team_start(team, &job->split, sel->select_work, unit);
    if (threadIdx.x == 0) {
        struct call_shape shape = call_shape(&job->att);
        int choice = unit / job->split.team, member = unit % job->split.team;
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
        d->begin = min(member * d->slice, d->n_words);
        d->end = min(d->begin + d->slice, d->n_words);
        size_t at =
            (size_t)d->row * (size_t)sel->n_unions + (size_t)(d->head_begin / sel->union_heads);
        d->before = sel->list + at * sel->stride +
                    (size_t)(d->head_begin % sel->union_heads) * 2 * (size_t)sel->n_words;
        d->open = d->before + sel->n_words;
    }
    __syncthreads();
}

/* Candidates of a word.  A key that only some of the heads have stays one, or the others would
 * never see it and their sums would be biased. */
static __device__ __forceinline__ uint32_t draw_candidates(const struct draw *d,
                                                           const struct random_job *job, int word)
{
    uint32_t taken = 0xffffffffu;
    if (job->first)
        taken = 0;
    for (int head = d->head_begin; head < d->head_end && !job->first; head++) {
        size_t at = draw_bitmap(d, job, head) + (size_t)word;
        taken &= job->sel.taken[at] | (job->first_drawn ? 0 : job->sel.drawn[at]);
    }
    return open_bits(&d->plan, word) & ~taken;
}

/* Makes bitmaps valid that nobody has written yet. */
static __device__ __forceinline__ void empty_bitmaps(const struct draw *d,
                                                     const struct random_job *job)
{
    for (int head = d->head_begin; head < d->head_end; head++)
        for (int word = d->begin + (int)threadIdx.x; word < d->end; word += DRAW_THREADS) {
            size_t at = draw_bitmap(d, job, head) + (size_t)word;
            if (job->first)
                job->sel.taken[at] = 0;
            if (job->first_drawn)
                job->sel.drawn[at] = 0;
        }
}

/* Counts the slice's candidates, by word for the look-up.  Returns how many. */
static __device__ __forceinline__ int count_candidates(const struct draw *d,
                                                       const struct random_job *job, int *scratch)
{
    int n = 0;
    for (int round = d->begin; round < d->end; round += DRAW_THREADS) {
        int word = round + (int)threadIdx.x, n_round;
        uint32_t open = word < d->end ? draw_candidates(d, job, word) : 0;
        int at = n + block_scan(__popc(open), scratch, &n_round);
        n += n_round;
        if (word < d->end) {
            d->before[word] = (uint32_t)at;
            d->open[word] = open;
        }
    }
    return n;
}

/* Candidates without a look at the bitmaps: visible keys outside of the ranges. */
static __device__ __forceinline__ int count_stretches(const struct draw *d)
{
    int n = d->plan.visible.end - d->plan.visible.begin;
    for (int i = 0; i < MAX_RANGES; i++)
        n -= i < d->plan.n_ranges ? d->plan.range[i].end - d->plan.range[i].begin : 0;
    return n;
}

static __device__ __forceinline__ int stretch_key(const struct draw *d, int number)
{
    int key = d->plan.visible.begin + number;
    for (int i = 0; i < MAX_RANGES; i++)
        if (i < d->plan.n_ranges && key >= d->plan.range[i].begin)
            key += d->plan.range[i].end - d->plan.range[i].begin;
    return key;
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

static __device__ __forceinline__ int counted_key(const struct draw *d, int team, int number)
{
    int member = 0;
    while (member + 1 < team && d->base[member + 1] <= number)
        member++;
    number -= d->base[member];
    int low = member * d->slice, n = min(d->slice, d->n_words - low);
    while (n > 1) { /* the last word with no more than `number` candidates before it */
        int half = n / 2;
        bool right = (int)__ldcg(d->before + low + half) <= number;
        low += right ? half : 0;
        n = right ? n - half : half;
    }
    return low * 32 + nth_bit(__ldcg(d->open + low), number - (int)__ldcg(d->before + low));
}

/* Adds a key to the bitmaps of the heads that do not have it yet: those keep it as it is. */
static __device__ __forceinline__ void add_key(const struct draw *d, const struct random_job *job,
                                               int key, float prob)
{
    const struct selection *sel = &job->sel;
    uint32_t bit = 1u << key % 32;
    for (int head = d->head_begin; head < d->head_end; head++) {
        size_t at = draw_bitmap(d, job, head) + (size_t)(key / 32);
        if (!job->first && sel->taken[at] & bit)
            continue;
        uint32_t old = atomicOr(&sel->drawn[at], bit);
        size_t row = (size_t)d->row * (size_t)sel->n_heads + (size_t)head;
        if (sel->mixed && !(old & bit))
            sel->key_prob[row * sel->stride + (size_t)key] = prob;
    }
}

/* The team has met: base is known, and the bitmaps are empty where they were not written. */
static __device__ __forceinline__ void draw_keys(const struct draw *d, const struct random_job *job,
                                                 int member)
{
    const struct selection *sel = &job->sel;
    int team = job->split.team, n_left = d->base[team], n = min(d->n_wanted, n_left);
    float prob = n > 0 ? (float)((double)n / n_left) : 1.0f;
    if (member == 0 && !sel->mixed)
        for (int head = d->group_begin + (int)threadIdx.x; head < d->group_end;
             head += DRAW_THREADS)
            sel->prob[(size_t)d->row * (size_t)sel->n_heads + (size_t)head] = prob;
    if (n == 0)
        return;
    struct permutation permutation =
        permutation_make((uint32_t)n_left, job->att.step->seed, (uint32_t)job->att.layer,
                         (uint32_t)d->which, (uint32_t)d->position, (uint32_t)job->slot);
    for (int i = member * DRAW_THREADS + (int)threadIdx.x; i < n; i += team * DRAW_THREADS) {
        int number = (int)permutation_image(&permutation, (uint32_t)i);
        add_key(d, job, job->first ? stretch_key(d, number) : counted_key(d, team, number), prob);
    }
}

__global__ void __launch_bounds__(DRAW_THREADS)
    random_kernel(const __grid_constant__ struct random_job job)
{
    __shared__ struct draw d;
    __shared__ struct team team;
    __shared__ int scratch[WARP], word;

    int unit = team_first_unit(&job.split, job.sel.select_work, &word);
    dependency_wait();
    dependency_release();
    for (; unit < job.split.n_units; unit += gridDim.x) {
        draw_start(&d, &team, &job, unit);
        if (d.n_wanted == 0) {
            empty_bitmaps(&d, &job);
            continue;
        }
        int n = job.first ? 0 : count_candidates(&d, &job, scratch);
        empty_bitmaps(&d, &job);
        if (threadIdx.x == 0)
            team.board[0] = (uint32_t)n;
        if (team_arrive(&team))
            team_publish(&team);
        else
            team_await(&team);
        if (threadIdx.x == 0) {
            d.base[0] = 0;
            for (int i = 0; i < team.size; i++)
                d.base[i + 1] = d.base[i] + (int)__ldcg(team.boards + (size_t)i * TEAM_SLOT_WORDS);
            if (job.first)
                d.base[team.size] = count_stretches(&d);
        }
        __syncthreads();
        draw_keys(&d, &job, team.member);
    }
}

void cuda_select_random(struct device *dev, struct selection *sel, const struct attention *att,
                        double rate, int slot, enum share share)
{
    struct budget size = {true, rate < 1.0 ? rate : 1.0};
    int n_choices = share == SHARE_GROUP ? sel->n_kv_heads : sel->n_heads;
    assert(!sel->sampled || sel->mixed); /* one sampler in a stack */
    struct random_job job = {};
    selection_plan(sel, SELECT_RANDOM, size);
    job.first = selection_choose(dev, sel, att, share);
    job.first_drawn = !sel->sampled;
    sel->sampled = true;
    job.att = *att;
    job.sel = *sel;
    job.split = team_split_of(dev, att->n_rows, n_choices, att->max_keys, DRAW_MIN_KEYS);
    job.share = share;
    job.slot = slot;
    cuda_launch(dev, random_kernel, team_grid(dev, &job.split), DRAW_THREADS, 0, job);
}
