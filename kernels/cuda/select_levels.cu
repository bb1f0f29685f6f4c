/* Top-k by scores in few levels, straight from the words that they are made of: the scores are
 * never written.
 *
 * The idea to hold: where there are at most 255 levels a histogram of them is exact.  A block keeps
 * its slice's levels in registers, a byte each, counts them, and posts the counts; from those of
 * its whole team every block works out the cut for itself.  The team meets once. */
#include "kernels/cuda/select_bins.cuh"
#include "kernels/cuda/select_levels.cuh"
#include "kernels/cuda/select_slice.cuh"

enum { MAX_LEVELS = N_BINS - 1 /* 0 is no candidate */ };

struct levels_job {
    struct choose_job choose; /* its plan's last part is this masker */
    struct level_scores from;
    int top; /* the level of a key all of whose bits equal the query's, counted from 1 */
};

struct levels_shared {
    struct choice choice;
    struct team team;
    struct cut cut;
    unsigned long long told[TEAM_MAX];
    uint32_t all[N_BINS], before[N_BINS]; /* of the team; of the members before */
    int scratch[WARP];
    struct call_shape shape; /* that the choice is filled in for */
    int n_known;             /* keys whose words were there then */
    int unit;
};

/* In dynamic shared memory. */
union levels_counts {
    bin_columns own;
    uint32_t team[TEAM_MAX][N_BINS];
};

/* --- Levels -----------------------------------------------------------------------------------
 */

/* The distances of four keys from a query, a byte each. */
static __device__ __forceinline__ uint32_t distances(uint4 k, uint32_t query)
{
    return (uint32_t)__popc(k.x ^ query) | (uint32_t)__popc(k.y ^ query) << 8 |
           (uint32_t)__popc(k.z ^ query) << 16 | (uint32_t)__popc(k.w ^ query) << 24;
}

/* Heads of the choice times words of a key follow one another alike in words and queries: lists.
 * LISTS of them are fetched at once; 0: any number, one after the other. */
template <int CHUNKS, int LISTS> struct slice_words {
    uint4 k[LISTS > 0 ? LISTS : 1][CHUNKS];
};

template <int CHUNKS>
static __device__ __forceinline__ void fetch_list(uint4 k[CHUNKS], const struct choice *c,
                                                  const struct levels_job *job, int list)
{
    const struct level_scores *from = &job->from;
    int word = slice_word<CHUNKS>(c), lane_key = threadIdx.x % WARP * LANE_KEYS;
    const uint32_t *words =
        from->words + (size_t)(c->score_begin * from->n_words + list) * from->stride;
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        int at = word + i * CHUNK_WORDS;
        k[i] = {};
        if (at < c->end)
            k[i] = __ldcg((const uint4 *)(words + at * 32 + lane_key));
    }
}

template <int CHUNKS, int LISTS>
static __device__ __forceinline__ void fetch_words(struct slice_words<CHUNKS, LISTS> *to,
                                                   const struct choice *c,
                                                   const struct levels_job *job)
{
#pragma unroll
    for (int i = 0; i < LISTS; i++)
        fetch_list<CHUNKS>(to->k[i], c, job, i);
}

template <int CHUNKS>
static __device__ __forceinline__ void lower_levels(uint32_t level[CHUNKS], const uint4 k[CHUNKS],
                                                    uint32_t query)
{
#pragma unroll
    for (int i = 0; i < CHUNKS; i++)
        level[i] -= distances(k[i], query); /* no byte borrows: top exceeds every sum */
}

/* level [CHUNKS]: a byte for each of a lane's keys, by the sum over the choice's heads. */
template <int CHUNKS, int LISTS>
static __device__ __forceinline__ void
slice_levels(uint32_t level[CHUNKS], struct slice_words<CHUNKS, LISTS> *words,
             const struct choice *c, const struct levels_job *job)
{
    const struct level_scores *from = &job->from;
    int n_lists = (c->score_end - c->score_begin) * from->n_words;
    const uint32_t *query =
        from->queries +
        (size_t)(c->row * job->choose.sel.n_heads + c->score_begin) * (size_t)from->n_words;
#pragma unroll
    for (int i = 0; i < CHUNKS; i++)
        level[i] = (uint32_t)job->top * 0x01010101u;
    if constexpr (LISTS > 0) {
#pragma unroll
        for (int i = 0; i < LISTS; i++)
            lower_levels<CHUNKS>(level, words->k[i], __ldcg(query + i));
    } else {
        for (int i = 0; i < n_lists; i++) {
            fetch_list<CHUNKS>(words->k[0], c, job, i);
            lower_levels<CHUNKS>(level, words->k[0], __ldcg(query + i));
        }
    }
}

/* Levels of keys that `own` has no bit for become 0. */
template <int CHUNKS>
static __device__ __forceinline__ void mask_levels(uint32_t level[CHUNKS], uint32_t own)
{
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        uint32_t nibble = own >> i * LANE_KEYS & 0xf;
        /* Bit j of the nibble to byte j, and from there over the byte. */
        level[i] &= (nibble * 0x00204081u & 0x01010101u) * 0xffu;
    }
}

static __device__ __forceinline__ uint32_t level_at(uint32_t levels, int key)
{
    return levels >> 8 * key & 0xff;
}

/* --- Counts -----------------------------------------------------------------------------------
 */

/* Counts the slice's levels, and posts them.  All threads. */
template <int CHUNKS>
static __device__ __forceinline__ void post_counts(const uint32_t level[CHUNKS],
                                                   union levels_counts *counts, uint32_t *post)
{
#pragma unroll
    for (int i = 0; i < CHUNKS; i++)
#pragma unroll
        for (int j = 0; j < LANE_KEYS; j++)
            bins_count(counts->own, level_at(level[i], j));
    __syncthreads();
    bins_sum(counts->own, post);
}

/* The cut, from what the team has posted.  All threads; the caller's next barrier shows it. */
static __device__ __forceinline__ void find_cut(struct levels_shared *shared,
                                                union levels_counts *counts)
{
    const struct team *team = &shared->team;
    for (int i = threadIdx.x; i < team->size * N_BINS; i += CHOOSE_THREADS)
        counts->team[i / N_BINS][i % N_BINS] = __ldcg(team_post(team, i / N_BINS) + i % N_BINS);
    __syncthreads();
    if (threadIdx.x < N_BINS) {
        uint32_t all = 0, before = 0;
        for (int i = 0; threadIdx.x > 0 && i < team->size; i++) { /* bin 0 has no candidates */
            uint32_t n = counts->team[i][threadIdx.x];
            all += n;
            before += i < team->member ? n : 0;
        }
        shared->all[threadIdx.x] = all;
        shared->before[threadIdx.x] = before;
    }
    __syncthreads();
    if (threadIdx.x >= WARP)
        return;
    int n_candidates = 0, n_above = 0, bin = 1, selected_before = 0;
    for (int i = threadIdx.x; i < N_BINS; i += WARP)
        n_candidates += (int)shared->all[i];
    n_candidates = __reduce_add_sync(0xffffffffu, n_candidates);
    int n = min(shared->choice.e, n_candidates);
    if (n > 0)
        bin = find_bin(shared->all, n, &n_above);
    for (int i = threadIdx.x; i < N_BINS; i += WARP)
        selected_before += i > bin ? (int)shared->before[i] : 0;
    selected_before = __reduce_add_sync(0xffffffffu, selected_before);
    int n_ties = n - n_above, ties_before = (int)shared->before[bin];
    if (threadIdx.x == 0)
        shared->cut = {(uint32_t)bin,         n_ties,
                       (int)shared->all[bin], n,
                       ties_before,           selected_before + min(ties_before, n_ties)};
}

/* --- The kernel -------------------------------------------------------------------------------
 */

template <int CHUNKS>
static __device__ __forceinline__ void take_levels(const uint32_t level[CHUNKS],
                                                   const struct levels_shared *shared,
                                                   const struct choose_job *job, int *scratch)
{
    uint32_t take = 0, ties = 0, cut = shared->cut.order;
#pragma unroll
    for (int i = 0; i < CHUNKS; i++)
#pragma unroll
        for (int j = 0; j < LANE_KEYS; j++) {
            take |= (uint32_t)(level_at(level[i], j) >= cut) << (i * LANE_KEYS + j);
            ties |= (uint32_t)(level_at(level[i], j) == cut) << (i * LANE_KEYS + j);
        }
    slice_take_bits<CHUNKS>(take, ties, &shared->choice, job, &shared->cut, scratch);
}

/* All threads: gets ready for a unit.  The caller's next barrier shows it. */
static __device__ __forceinline__ void levels_prepare(struct levels_shared *shared,
                                                      const struct levels_job *job,
                                                      const struct call_shape *shape, int unit)
{
    if (threadIdx.x > 0)
        return;
    shared->shape = *shape;
    shared->n_known = __ldcg(job->from.n_known);
    choice_fill(&shared->choice, &job->choose, shape, unit);
    team_place(&shared->team, &job->choose.split, job->choose.sel.select_work, unit);
}

/* Chooses the keys of a unit whose words are on their way.  All threads. */
template <int CHUNKS, int LISTS>
static __device__ __forceinline__ void
levels_choose(struct levels_shared *shared, const struct levels_job *job,
              struct slice_words<CHUNKS, LISTS> *words, union levels_counts *counts)
{
    const struct choice *c = &shared->choice;
    uint32_t level[CHUNKS];
    bins_clear(counts->own);
    slice_levels<CHUNKS, LISTS>(level, words, c, job);
    mask_levels<CHUNKS>(level, slice_candidates<CHUNKS>(c, &job->choose));
    __syncthreads();
    post_counts<CHUNKS>(level, counts, team_post(&shared->team, shared->team.member));
    team_tell(&shared->team, 0, 1, shared->told);
    find_cut(shared, counts);
    __syncthreads();
    take_levels<CHUNKS>(level, shared, &job->choose, shared->scratch);
}

/* The words are asked for where a guess says; those of keys that are older than the step, and were
 * there then, are right. */
template <int CHUNKS, int LISTS>
__global__ void __launch_bounds__(CHOOSE_THREADS, 1)
    levels_kernel(const __grid_constant__ struct levels_job job)
{
    extern __shared__ __align__(16) char levels_memory[];
    __shared__ struct levels_shared shared;
    union levels_counts *counts = (union levels_counts *)levels_memory;
    const struct choice *c = &shared.choice;
    struct slice_words<CHUNKS, LISTS> words;

    int unit = team_first_unit(&job.choose.split, job.choose.sel.select_work, &shared.unit);
    struct call_shape guess = call_shape(&job.choose.att);
    levels_prepare(&shared, &job, &guess, unit);
    __syncthreads();
    fetch_words<CHUNKS, LISTS>(&words, c, &job);
    dependency_wait();
    dependency_release();
    struct call_shape shape = call_shape(&job.choose.att);
    bool right = call_shape_same(&shape, &shared.shape) && c->end * 32 <= shape.first_position &&
                 shared.n_known >= shape.first_position;
    while (unit < job.choose.split.n_units) {
        if (!right) {
            __syncthreads();
            levels_prepare(&shared, &job, &shape, unit);
            __syncthreads();
            fetch_words<CHUNKS, LISTS>(&words, c, &job);
        }
        bool idle = c->idle || c->e == 0;
        if (idle)
            choice_pass(c, &job.choose);
        else
            levels_choose<CHUNKS, LISTS>(&shared, &job, &words, counts);
        if (threadIdx.x == 0) {
            if (!idle)
                team_leave(&shared.team);
            if (job.choose.lists && shared.team.member == 0)
                list_finish(c, &job.choose, &shape, idle ? 0 : shared.cut.n_selected);
        }
        unit += (int)gridDim.x;
        right = false;
    }
}

/* --- On the host ------------------------------------------------------------------------------
 */

static int heads_of_choice(const struct selection *sel, const struct put_off *what)
{
    return what->share == SHARE_GROUP ? sel->group : 1;
}

static struct choose_job job_of(const struct device *dev, const struct selection *sel,
                                const struct put_off *what)
{
    return choose_job_of(dev, sel, &sel->att, what->share, what->first, true, what->scope);
}

bool select_levels_takes(const struct device *dev, const struct selection *sel,
                         const struct put_off *what)
{
    return heads_of_choice(sel, what) * what->levels.n_bits < MAX_LEVELS &&
           job_of(dev, sel, what).n_slice_words <= (int)slice_way<8, 1>::BLOCK_WORDS;
}

bool select_levels(struct device *dev, struct selection *sel, const struct put_off *what, bool last)
{
    struct levels_job job = {};
    int n_heads = heads_of_choice(sel, what);
    job.choose = job_of(dev, sel, what);
    job.choose.lists = last && what->first && n_heads == sel->union_heads;
    job.from = what->levels;
    job.top = n_heads * what->levels.n_bits + 1;
    bool is_short = job.choose.n_slice_words <= (int)slice_way<2, 1>::BLOCK_WORDS;
    int n_lists = n_heads * what->levels.n_words;
    void (*kernel)(struct levels_job) = is_short ? levels_kernel<2, 0> : levels_kernel<8, 0>;
    if (is_short && n_lists == 4)
        kernel = levels_kernel<2, 4>;
    if (!is_short && n_lists == 1)
        kernel = levels_kernel<8, 1>;
    cuda_allow_shared(dev, kernel, sizeof(union levels_counts));
    cuda_launch(dev, kernel, team_grid(dev, &job.choose.split), CHOOSE_THREADS,
                sizeof(union levels_counts), job);
    return job.choose.lists;
}
