/* What choosing by score has in common: a row's candidates, the number down to which they are
 * taken, and the taking.  Nothing is sorted.
 *
 * Scores are compared as `orders`: unsigned numbers that rise as the floats do; 0 is no candidate.
 * The threshold is found digit by digit from the top: every block of a team sums the weights of
 * its slice's orders by their next digit, and the last to arrive finds the digit at which the sum
 * from the top first exceeds the target.  Weights are integers (1 each, or fixed-point masses), so
 * that no sum depends on its order.  A slice's orders stay in shared memory if they fit. */
#ifndef ATTNSCOPE_KERNELS_CUDA_SELECT_THRESHOLD_CUH
#define ATTNSCOPE_KERNELS_CUDA_SELECT_THRESHOLD_CUH

#include "kernels/cuda/select_team.cuh"

#include <math.h>

enum {
    CHOOSE_THREADS = 1024,
    CHOOSE_WARPS = CHOOSE_THREADS / WARP,
    BATCH_WORDS = 8,                          /* bitmap words that a warp handles at a time */
    LOAD_WORDS = 4,                           /* slices begin at multiples of what a warp loads */
    ROUND_WORDS = BATCH_WORDS * CHOOSE_WARPS, /* and a block */
    MASK_ROUNDS = WARP / BATCH_WORDS,         /* batches whose words a warp looks up at once */
    CHOOSE_MIN_KEYS = 2048,                   /* of a slice, or a team is not worth its meetings */
    CHOOSE_RESERVE_BYTES = 24 * 1024,         /* shared memory beside the orders */
    CHOOSE_MAX_GROUP = 128,                   /* heads of a group whose masses are averaged */
    N_DIGITS = 3
};

/* A choose kernel's launch. */
struct choose_job {
    struct attention att;
    struct selection sel; /* its plan's last part is this masker */
    struct team_split split;
    enum share share;
    struct choice_scope scope;
    bool first;         /* the bitmaps hold nothing yet */
    int n_slice_words;  /* at most, of a slice */
    int n_staged_words; /* of a slice, whose orders fit into shared memory; 0: they do not */
    bool open_only;     /* slices cover the words between the ranges alone */
    bool lists;         /* of top-k: it makes the selection's lists too */
    double top_p;       /* of top-p */
    bool of_total;
    bool limited;      /* to the choice's e keys */
    float logit_scale; /* times which scores are logits */
};

/* What a block works on, in shared memory. */
struct choice {
    struct row_plan plan;
    int row, which;
    int head_begin, head_end;   /* whose bitmaps the choice goes to */
    int score_begin, score_end; /* whose scores it is made by */
    int begin, end;             /* words of this block's slice */
    int n_keys;                 /* K */
    int e;                      /* a count to choose */
    bool idle;                  /* nothing to choose */
};

enum threshold_flag {
    THRESHOLD_SEARCHED,
    THRESHOLD_NOTHING, /* take nothing */
    THRESHOLD_ALL      /* take every candidate */
};

/* What a team knows of its threshold, in its results. */
struct threshold {
    uint32_t flag;
    uint32_t prefix;             /* its digits so far */
    unsigned long long target;   /* the weight from the top that is still to be exceeded */
    unsigned long long in_digit; /* the weight of the orders that have the prefix */
    uint32_t before[TEAM_MAX];   /* orders equal to the threshold in the slices before a member's */
};

/* Words of a team's results. */
enum {
    RESULT_THRESHOLD = 0, /* struct threshold */
    RESULT_HELD = 64,     /* double: mass of what is selected already */
    RESULT_MAX = 128,     /* [CHOOSE_MAX_GROUP] order of each head's highest score */
    RESULT_SCALE = RESULT_MAX + CHOOSE_MAX_GROUP /* [CHOOSE_MAX_GROUP] float */
};

static_assert(sizeof(struct threshold) <= RESULT_HELD * 4, "results overlap");
static_assert(RESULT_SCALE + (int)CHOOSE_MAX_GROUP <= TEAM_RESULTS, "results are too long");
static_assert(2 * CHOOSE_MAX_GROUP <= TEAM_SUMS, "a group has too many sums");

/* Of the heads of a choice, in shared memory: what turns scores into masses. */
struct masses {
    float max[CHOOSE_MAX_GROUP], scale[CHOOSE_MAX_GROUP];
};

static __device__ __forceinline__ uint32_t order_of(float score)
{
    uint32_t bits = __float_as_uint(score);
    return bits ^ ((uint32_t)((int32_t)bits >> 31) | 0x80000000u);
}

static __device__ __forceinline__ float score_of(uint32_t order)
{
    return __uint_as_float(order & 0x80000000u ? order ^ 0x80000000u : ~order);
}

/* --- A choice ------------------------------------------------------------------------------ */

static __device__ __forceinline__ size_t bitmap_of(const struct choice *c,
                                                   const struct choose_job *job, int head)
{
    return ((size_t)c->row * (size_t)job->sel.n_heads + (size_t)head) * (size_t)job->sel.n_words;
}

/* Words that a choice's slices are of.  What bitmaps hold within ranges is masked wherever they are
 * read, so that nobody has to write it. */
static __device__ __forceinline__ struct key_range
choice_words(const struct choice *c, const struct choose_job *job, const struct call_shape *shape)
{
    const struct row_plan *plan = &c->plan;
    struct key_range words = {0, min(max(row_words(shape, c->row), 0), job->sel.n_words)};
    if (!job->open_only)
        return words;
    int begin = plan->visible.begin;
    if (plan->n_ranges > 0 && plan->range[0].begin <= begin)
        begin = plan->range[0].end;
    if (plan->n_ranges > 0 && plan->range[plan->n_ranges - 1].end >= plan->visible.end)
        words.end = min(words.end, (plan->range[plan->n_ranges - 1].begin + 31) / 32);
    words.begin = min(begin / 32 / LOAD_WORDS * LOAD_WORDS, words.end);
    return words;
}

/* One thread: a unit's choice in a step of that shape, which may be a guess. */
static __device__ __forceinline__ void choice_fill(struct choice *c, const struct choose_job *job,
                                                   const struct call_shape *shape, int unit)
{
    const struct select_plan *plan = &job->sel.plan;
    int choice = unit / job->split.team, member = unit % job->split.team;
    c->row = choice / job->split.n_choices;
    c->which = choice % job->split.n_choices;
    c->plan = resolve_plan(plan, &job->att, shape, c->row);
    c->n_keys = shape->n_keys;
    c->e = budget_resolve(part_size(&plan->part[plan->n - 1]), shape->n_keys);
    c->idle = c->plan.full;
    int n = job->share == SHARE_GROUP ? job->sel.group : 1;
    c->score_begin = c->which * n;
    c->score_end = c->score_begin + n;
    c->head_begin = c->score_begin;
    c->head_end = job->sel.shared ? c->head_begin + 1 : c->score_end;
    struct key_range words = choice_words(c, job, shape);
    int slice = (words.end - words.begin + job->split.team - 1) / job->split.team;
    slice = (slice + BATCH_WORDS - 1) / BATCH_WORDS * BATCH_WORDS;
    c->begin = min(words.begin + member * slice, words.end);
    c->end = min(c->begin + slice, words.end);
}

/* All threads; thread 0 fills in. */
static __device__ __forceinline__ void choice_start(struct choice *c, struct team *team,
                                                    const struct choose_job *job, int unit)
{
    __syncthreads();
    team_start(team, &job->split, job->sel.select_work, unit);
    if (threadIdx.x == 0) {
        struct call_shape shape = call_shape(&job->att);
        choice_fill(c, job, &shape, unit);
    }
    __syncthreads();
}

/* A choice that takes nothing: bitmaps that nobody has written yet hold nothing. */
static __device__ __forceinline__ void choice_pass(const struct choice *c,
                                                   const struct choose_job *job)
{
    if (!job->first)
        return;
    for (int head = c->head_begin; head < c->head_end; head++)
        for (int word = c->begin + (int)threadIdx.x; word < c->end; word += CHOOSE_THREADS)
            job->sel.taken[bitmap_of(c, job, head) + (size_t)word] = 0;
}

/* The bits of a word whose keys can be chosen: visible, and selected by none of the heads unless
 * the choice is made among all. */
static __device__ __forceinline__ uint32_t candidates(const struct choice *c,
                                                      const struct choose_job *job, int word)
{
    uint32_t bits = job->scope.again ? range_bits(word, c->plan.visible.begin, c->plan.visible.end)
                                     : open_bits(&c->plan, word);
    if (job->scope.first_key > 0)
        bits &= range_bits(word, job->scope.first_key, word * 32 + 32);
    if (job->first || job->scope.again)
        return bits;
    for (int head = c->head_begin; head < c->head_end; head++) {
        size_t at = bitmap_of(c, job, head) + (size_t)word;
        bits &= ~job->sel.taken[at];
        if (job->sel.sampled)
            bits &= ~job->sel.drawn[at];
    }
    return bits;
}

/* Each lane looks up one word for the warp's next MASK_ROUNDS batches, from base on: of batch
 * l / 8 the word l % 8. */
static __device__ __forceinline__ int lane_word(int base)
{
    int lane = threadIdx.x % WARP;
    return base + lane / BATCH_WORDS * ROUND_WORDS + lane % BATCH_WORDS;
}

static __device__ __forceinline__ uint32_t lane_candidates(const struct choice *c,
                                                           const struct choose_job *job, int base)
{
    int word = lane_word(base);
    return word < c->end ? candidates(c, job, word) : 0;
}

/* Bit i: whether this lane's key of word i of batch `round` is among the bits that the lanes looked
 * up. */
static __device__ __forceinline__ uint32_t own_bits(uint32_t masks, int round)
{
    uint32_t own = 0, batch = ((1u << BATCH_WORDS) - 1) << round * BATCH_WORDS;
    if ((__ballot_sync(0xffffffffu, masks == 0xffffffffu) & batch) == batch)
        return (1u << BATCH_WORDS) - 1;
#pragma unroll
    for (int i = 0; i < BATCH_WORDS; i++)
        own |=
            (__shfl_sync(0xffffffffu, masks, round * BATCH_WORDS + i) >> (threadIdx.x % WARP) & 1u)
            << i;
    return own;
}

/* Scores of words base .. base + 7 by one head, this lane's key of each; 0 where `own` has no bit.
 * FULL: it has all. */
template <bool FULL>
static __device__ __forceinline__ void load_scores(float x[BATCH_WORDS], const struct choice *c,
                                                   const struct choose_job *job, int head, int base,
                                                   uint32_t own)
{
    const float *scores =
        job->sel.scores +
        ((size_t)c->row * (size_t)job->sel.n_heads + (size_t)head) * job->sel.stride +
        (size_t)base * 32 + threadIdx.x % WARP;
#pragma unroll
    for (int i = 0; i < BATCH_WORDS; i++)
        x[i] = FULL || own >> i & 1 ? __ldcg(scores + i * 32) : 0.0f;
}

/* Makes the orders of words base .. base + 7, which a warp handles: this lane's key of each, 0
 * where `own` has no bit.  By the sum of the heads' scores or, if MASS, by the mean of their
 * masses. */
template <bool MASS, bool FULL>
static __device__ __forceinline__ void
make_orders(uint32_t order[BATCH_WORDS], const struct choice *c, const struct choose_job *job,
            const struct masses *masses, int base, uint32_t own)
{
    int n_heads = c->score_end - c->score_begin;
    float x[BATCH_WORDS], sum[BATCH_WORDS] = {};
    if (!MASS)
        load_scores<FULL>(sum, c, job, c->score_begin, base, own);
    for (int h = MASS ? 0 : 1; h < n_heads; h++) {
        load_scores<FULL>(x, c, job, c->score_begin + h, base, own);
#pragma unroll
        for (int i = 0; i < BATCH_WORDS; i++)
            sum[i] = MASS ? fmaf(masses->scale[h], expf(job->logit_scale * (x[i] - masses->max[h])),
                                 sum[i])
                          : sum[i] + x[i];
    }
#pragma unroll
    for (int i = 0; i < BATCH_WORDS; i++)
        order[i] = FULL || own >> i & 1 ? order_of(sum[i]) : 0;
}

/* The same for batch `round` of a walk over the slice.  Orders are made once and kept in shared
 * memory if they fit there: a `fresh` walk makes them.  *mask is kept by the walk. */
template <bool MASS>
static __device__ __forceinline__ void
fetch_orders(uint32_t order[BATCH_WORDS], const struct choice *c, const struct choose_job *job,
             const struct masses *masses, uint32_t *staged, int base, int round, uint32_t *mask,
             bool fresh)
{
    uint32_t *at = staged + (size_t)(base - c->begin) * 32 + threadIdx.x % WARP;
    if (job->n_staged_words > 0 && !fresh) {
#pragma unroll
        for (int i = 0; i < BATCH_WORDS; i++)
            order[i] = at[i * 32];
        return;
    }
    if (round % MASK_ROUNDS == 0)
        *mask = lane_candidates(c, job, base);
    uint32_t own = own_bits(*mask, round % MASK_ROUNDS);
    if (__all_sync(0xffffffffu, own == (1u << BATCH_WORDS) - 1))
        make_orders<MASS, true>(order, c, job, masses, base, own);
    else
        make_orders<MASS, false>(order, c, job, masses, base, own);
    if (job->n_staged_words > 0) {
#pragma unroll
        for (int i = 0; i < BATCH_WORDS; i++)
            at[i * 32] = order[i];
    }
}

/* --- Digits ------------------------------------------------------------------------------------
 * An order has digits of 11, 11 and 10 bits. */

enum { DIGIT_BITS = 11, LAST_DIGIT_BITS = 10 };

template <int DIGIT> struct digit {
    enum {
        BITS = DIGIT == N_DIGITS - 1 ? (int)LAST_DIGIT_BITS : (int)DIGIT_BITS,
        SHIFT = DIGIT == N_DIGITS - 1 ? 0 : LAST_DIGIT_BITS + (N_DIGITS - 2 - DIGIT) * DIGIT_BITS,
        BINS = 1 << BITS
    };
};

/* Weights of a block's orders by digit, in shared memory: 64 bits in two halves, since only 32-bit
 * additions are fast there.  high is of use for masses only. */
struct digit_sums {
    uint32_t low[TEAM_SUMS], high[TEAM_SUMS];
};

static __device__ __forceinline__ void add_weight(struct digit_sums *sums, int digit,
                                                  unsigned long long weight)
{
    uint32_t low = (uint32_t)weight, high = (uint32_t)(weight >> 32);
    if (weight == 0)
        return;
    uint32_t old = atomicAdd(&sums->low[digit], low);
    high += old + low < old; /* the carry */
    if (high)
        atomicAdd(&sums->high[digit], high);
}

/* Fixed point: so many bits behind the point that the sum over K masses of at most 1 stays below
 * 2^62, and that of the mean masses, which is 1, at 2^60. */
static __device__ __forceinline__ int mass_bits(bool mean, int n_keys)
{
    return mean ? 60 : 30 + __clz(n_keys);
}

static __device__ __forceinline__ unsigned long long fixed_mass(float mass, int point)
{
    return __float2ull_rn(mass * __uint_as_float((uint32_t)(127 + point) << 23));
}

/* The weights of the slice's orders that begin with `prefix`, by their next digit, added to the
 * team's sums.  WEIGHTED: by mass, else 1 each.  All threads. */
template <bool WEIGHTED, bool MASS, int DIGIT>
static __device__ __forceinline__ void
sum_digits(const struct choice *c, const struct choose_job *job, const struct masses *masses,
           uint32_t *staged, struct digit_sums *sums, const struct team *team, uint32_t prefix)
{
    typedef struct digit<DIGIT> d;
    int point = mass_bits(MASS, c->n_keys), round = 0;
    uint32_t mask = 0;
    for (int i = threadIdx.x; i < d::BINS; i += CHOOSE_THREADS) {
        sums->low[i] = 0;
        if (WEIGHTED)
            sums->high[i] = 0;
    }
    __syncthreads();
    for (int base = c->begin + (int)threadIdx.x / WARP * BATCH_WORDS; base < c->end;
         base += ROUND_WORDS, round++) {
        uint32_t order[BATCH_WORDS];
        fetch_orders<MASS>(order, c, job, masses, staged, base, round, &mask, DIGIT == 0);
#pragma unroll
        for (int i = 0; i < BATCH_WORDS; i++) {
            uint32_t digits = order[i] >> d::SHIFT, bin = digits & (d::BINS - 1);
            bool ours = DIGIT == 0 ? !WEIGHTED || order[i] != 0 : digits >> d::BITS == prefix;
            if (!ours)
                continue;
            if (!WEIGHTED)
                atomicAdd(&sums->low[bin], 1u);
            else if (MASS)
                add_weight(sums, bin, fixed_mass(score_of(order[i]), point));
            else
                add_weight(
                    sums, bin,
                    fixed_mass(expf(job->logit_scale * (score_of(order[i]) - masses->max[0])),
                               point));
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < d::BINS; i += CHOOSE_THREADS) {
        unsigned long long sum = sums->low[i];
        if (!WEIGHTED && DIGIT == 0 && i == 0)
            sum = 0; /* keys that are no candidates: no number's order begins with this digit */
        if (WEIGHTED)
            sum |= (unsigned long long)sums->high[i] << 32;
        if (sum)
            atomicAdd(&team->sums[i], sum);
        if (!WEIGHTED && DIGIT == N_DIGITS - 1)
            team->board[i] = sums->low[i];
    }
}

/* The target by the weight of all candidates; the flag says if there is nothing to search. */
static __device__ __forceinline__ enum threshold_flag
count_target(const struct choice *c, unsigned long long total, unsigned long long *target)
{
    unsigned long long n = min((unsigned long long)c->e, total);
    *target = n - 1;
    return n == 0 ? THRESHOLD_NOTHING : n == total ? THRESHOLD_ALL : THRESHOLD_SEARCHED;
}

static __device__ __forceinline__ enum threshold_flag
mass_target(const struct choose_job *job, const struct team *team, unsigned long long total,
            int point, unsigned long long *target)
{
    double held = __ldcg((const double *)(team->results + RESULT_HELD));
    double left = ldexp((double)total, -point);
    double wanted = ldexp(job->top_p * (left + held) - held, point);
    if (total == 0 || wanted < 0.0)
        return THRESHOLD_NOTHING;
    *target = (unsigned long long)wanted;
    return *target >= total ? THRESHOLD_ALL : THRESHOLD_SEARCHED; /* all by rounding */
}

/* The block that came last finds the next digit: thread t holds two bins, from the top.  Sums are
 * zero again afterwards. */
template <bool WEIGHTED, bool MASS, int DIGIT>
static __device__ __forceinline__ void
find_digit(const struct choice *c, const struct choose_job *job, const struct team *team,
           struct threshold *result, struct threshold now, unsigned long long *scratch)
{
    typedef struct digit<DIGIT> d;
    int low_bin = d::BINS - 2 - 2 * (int)threadIdx.x;
    unsigned long long high = 0, low = 0, total;
    if (low_bin >= 0) {
        low = __ldcg(team->sums + low_bin);
        high = __ldcg(team->sums + low_bin + 1);
        team->sums[low_bin] = team->sums[low_bin + 1] = 0;
    }
    unsigned long long above = block_scan(high + low, scratch, &total);
    enum threshold_flag flag = THRESHOLD_SEARCHED;
    if (DIGIT == 0)
        flag = WEIGHTED ? mass_target(job, team, total, mass_bits(MASS, c->n_keys), &now.target)
                        : count_target(c, total, &now.target);
    if (flag != THRESHOLD_SEARCHED) {
        if (threadIdx.x == 0)
            result->flag = flag;
        return;
    }
    if (now.target < above || now.target >= above + high + low)
        return;
    /* In one thread alone: the sum from the top first exceeds the target here. */
    bool in_high = now.target < above + high;
    int bin = low_bin + in_high;
    above += in_high ? 0 : high;
    result->flag = THRESHOLD_SEARCHED;
    result->prefix = now.prefix << d::BITS | (uint32_t)bin;
    result->target = now.target - above;
    result->in_digit = in_high ? high : low;
    if (WEIGHTED || DIGIT < N_DIGITS - 1)
        return;
    uint32_t before = 0;
    for (int i = 0; i < team->size; i++) {
        result->before[i] = before;
        before += __ldcg(team->boards + (size_t)i * TEAM_SLOT_WORDS + bin);
    }
}

static __device__ __forceinline__ struct threshold threshold_read(const struct threshold *from)
{
    struct threshold t = {};
    t.flag = __ldcg(&from->flag);
    t.prefix = __ldcg(&from->prefix);
    t.target = __ldcg(&from->target);
    t.in_digit = __ldcg(&from->in_digit);
    return t;
}

/* One digit more.  All threads; the same result in all the team's blocks. */
template <bool WEIGHTED, bool MASS, int DIGIT>
static __device__ __forceinline__ void
next_digit(struct threshold *now, const struct choice *c, const struct choose_job *job,
           const struct masses *masses, uint32_t *staged, struct digit_sums *sums,
           struct team *team, unsigned long long *scratch)
{
    struct threshold *result = (struct threshold *)(team->results + RESULT_THRESHOLD);
    if (now->flag != THRESHOLD_SEARCHED)
        return;
    sum_digits<WEIGHTED, MASS, DIGIT>(c, job, masses, staged, sums, team, now->prefix);
    if (team_arrive(team)) {
        find_digit<WEIGHTED, MASS, DIGIT>(c, job, team, result, *now, scratch);
        team_publish(team);
    } else {
        team_await(team);
    }
    *now = threshold_read(result);
}

/* The order down to which the team takes. */
template <bool WEIGHTED, bool MASS>
static __device__ __forceinline__ struct threshold
threshold_find(const struct choice *c, const struct choose_job *job, const struct masses *masses,
               uint32_t *staged, struct digit_sums *sums, struct team *team,
               unsigned long long *scratch)
{
    struct threshold now = {};
    next_digit<WEIGHTED, MASS, 0>(&now, c, job, masses, staged, sums, team, scratch);
    next_digit<WEIGHTED, MASS, 1>(&now, c, job, masses, staged, sums, team, scratch);
    next_digit<WEIGHTED, MASS, 2>(&now, c, job, masses, staged, sums, team, scratch);
    return now;
}

/* --- Taking -------------------------------------------------------------------------------------
 */

static __device__ __forceinline__ uint32_t lowest_bits(uint32_t bits, int n)
{
    while (__popc(bits) > n)
        bits &= ~(0x80000000u >> __clz(bits));
    return bits;
}

/* What was drawn and is now taken. */
static __device__ __forceinline__ void make_certain(const struct choice *c,
                                                    const struct choose_job *job, int head,
                                                    int word, uint32_t take)
{
    if (job->scope.again && job->sel.sampled)
        job->sel.drawn[bitmap_of(c, job, head) + (size_t)word] &= ~take;
}

/* Adds the slice's orders above the threshold to the bitmaps, and of those that equal it all, or
 * the first n_ties of the team, `before` of which lie in earlier slices.  All threads. */
template <bool MASS>
static __device__ __forceinline__ void
take_orders(const struct choice *c, const struct choose_job *job, const struct masses *masses,
            uint32_t *staged, uint32_t threshold, bool all_ties, int n_ties, int before,
            int *scratch)
{
    int lane = threadIdx.x % WARP, round = 0;
    uint32_t mask = 0;
    for (int first = c->begin; first < c->end; first += ROUND_WORDS, round++) {
        int base = first + (int)threadIdx.x / WARP * BATCH_WORDS, word = base + lane;
        uint32_t order[BATCH_WORDS] = {}, take = 0;
        if (base < c->end)
            fetch_orders<MASS>(order, c, job, masses, staged, base, round, &mask, false);
#pragma unroll
        for (int i = 0; i < BATCH_WORDS; i++) { /* lane i keeps word base + i */
            uint32_t reached = __ballot_sync(0xffffffffu, order[i] >= threshold);
            take = lane == i ? reached : take;
        }
        if (!all_ties) {
            uint32_t ties = 0;
#pragma unroll
            for (int i = 0; i < BATCH_WORDS; i++) {
                uint32_t equal = __ballot_sync(0xffffffffu, order[i] == threshold);
                ties = lane == i ? equal : ties;
            }
            int n_round, at = before + block_scan(__popc(ties), scratch, &n_round);
            take ^= ties ^ lowest_bits(ties, max(n_ties - at, 0));
            before += n_round;
        }
        if (lane >= BATCH_WORDS || word >= c->end)
            continue;
        for (int head = c->head_begin; head < c->head_end; head++) {
            uint32_t *taken = job->sel.taken + bitmap_of(c, job, head) + (size_t)word;
            *taken = job->first ? take : *taken | take;
            make_certain(c, job, head, word, take);
        }
    }
}

/* --- On the host -----------------------------------------------------------------------------*/

/* The launch of a masker that chooses by score, once selection_choose has been asked. */
/* The most words of a row that a choice's slices are of, given ranges of the plan so far. */
static inline int most_choice_words(const struct select_plan *plan, int max_keys, bool open_only)
{
    double n_ranged[2] = {}; /* sinks, local windows */
    for (int i = 0; open_only && i < plan->n; i++) {
        const struct select_part *part = &plan->part[i];
        double n = part->is_fraction ? part->value * max_keys : part->value;
        if (part->kind == SELECT_SINK || part->kind == SELECT_LOCAL)
            n_ranged[part->kind == SELECT_LOCAL] =
                n > n_ranged[part->kind == SELECT_LOCAL] ? n : n_ranged[part->kind == SELECT_LOCAL];
    }
    double n_open = max_keys - n_ranged[0] - n_ranged[1];
    /* Ranges may end within words, and slices begin at whole loads. */
    double n_words = open_only ? floor(fmax(n_open, 0.0) / 32) + 1 + (int)LOAD_WORDS : max_keys;
    int all = ceil_div(max_keys, 32);
    return n_words < all ? (int)n_words : all;
}

static inline struct choose_job choose_job_of(const struct device *dev, const struct selection *sel,
                                              const struct attention *att, enum share share,
                                              bool first, bool open_only, struct choice_scope scope)
{
    open_only = open_only && !scope.again;
    struct choose_job job = {};
    int n_choices = share == SHARE_GROUP ? sel->n_kv_heads : sel->n_heads;
    job.att = *att;
    job.sel = *sel;
    job.share = share;
    job.first = first;
    job.scope = scope;
    job.open_only = open_only;
    job.split = team_split_of(dev, att->n_rows, n_choices, att->max_keys, CHOOSE_MIN_KEYS);
    job.n_slice_words =
        ceil_div(ceil_div(most_choice_words(&sel->plan, att->max_keys, open_only), job.split.team),
                 BATCH_WORDS) *
        BATCH_WORDS;
    size_t room = dev->properties.sharedMemPerBlockOptin - CHOOSE_RESERVE_BYTES;
    size_t n_bytes = (size_t)job.n_slice_words * 32 * sizeof(uint32_t);
    job.n_staged_words = n_bytes <= room ? job.n_slice_words : 0;
    return job;
}

#endif
