/* Top-k by score: the e best keys that are not selected yet; of those that tie with the last, the
 * first.
 *
 * Where a block's slice of the row fits into its registers, the scores are read once and the team
 * meets once: see select_bracket.cuh and select_cut.cuh.  If that fails, and for longer slices, the
 * threshold is found digit by digit. */
#include "kernels/cuda/select_cut.cuh"
#include "kernels/cuda/select_levels.cuh"

/* --- By a bracket -------------------------------------------------------------------------------
 */

/* In shared memory. */
struct top_k_work {
    struct digit_sums sums; /* its first half serves as bins of the sample */
    struct choice choice;
    struct call_shape shape; /* that the choice is filled in for */
    struct team team;
    struct bracket bracket;
    struct bracket_work bracket_work;
    struct cut_work cut;
    unsigned long long scratch[WARP];
    int unit;
};

/* All threads: gets ready for a unit.  The caller's next barrier shows it. */
static __device__ __forceinline__ void top_k_prepare(struct top_k_work *work,
                                                     const struct choose_job *job,
                                                     const struct call_shape *shape, int unit)
{
    static_assert((int)N_BUCKETS + WARP <= (int)CHOOSE_THREADS, "no thread does both");
    for (int i = threadIdx.x; i < SAMPLE_BINS; i += CHOOSE_THREADS)
        work->sums.low[i] = 0;
    if (threadIdx.x >= WARP && threadIdx.x < WARP + N_BUCKETS)
        work->cut.bucket[threadIdx.x - WARP] = 0;
    if (threadIdx.x > 0)
        return;
    work->shape = *shape;
    choice_fill(&work->choice, job, shape, unit);
    team_place(&work->team, &job->split, job->sel.select_work, unit);
    work->cut.n_found = work->cut.n_above = work->cut.n_candidates = 0;
}

/* The cut by digits, which the whole team turns to if its bracket does not lead to it.  All
 * threads; the caller's next barrier shows the result. */
template <int CHUNKS, int HEADS>
static __device__ __forceinline__ void
top_k_by_digits(uint32_t order[CHUNKS * LANE_KEYS], struct top_k_work *work,
                const struct choose_job *job, uint32_t own, uint32_t *staged)
{
    const struct choice *c = &work->choice;
    float4 x[slice_way<CHUNKS, HEADS>::FETCHED][CHUNKS];
    if (threadIdx.x == 0) {
        team_see(&work->team);
        work->cut.n_found = work->cut.n_above = 0;
    }
    struct threshold t =
        threshold_find<false, false>(c, job, NULL, staged, &work->sums, &work->team, work->scratch);
    if (t.flag != THRESHOLD_SEARCHED) { /* scores that are no numbers: what is left, or nothing */
        t.prefix = t.flag == THRESHOLD_ALL ? 1 : 0xffffffffu;
        t.target = t.in_digit = INT32_MAX - 1;
    }
    int n_above = 0, n_tied = 0;
    slice_fetch<CHUNKS, HEADS>(x, c, job);
    slice_orders<CHUNKS, HEADS>(order, x, c, job, own);
#pragma unroll
    for (int i = 0; i < CHUNKS * LANE_KEYS; i++) {
        n_above += order[i] > t.prefix;
        n_tied += order[i] == t.prefix;
    }
    atomicAdd(&work->cut.n_above, n_above);
    atomicAdd(&work->cut.n_found, n_tied);
    __syncthreads();
    team_tell(&work->team, 1, told_of(work->cut.n_found, work->cut.n_above, 0), work->cut.told);
    if (threadIdx.x > 0)
        return;
    int above[2] = {}, tied[2] = {}; /* in the slices before, in all */
    for (int i = 0; i < work->team.size; i++) {
        bool before = i < work->team.member;
        above[0] += before ? told_part(work->cut.told[i], 1) : 0;
        tied[0] += before ? told_part(work->cut.told[i], 0) : 0;
        above[1] += told_part(work->cut.told[i], 1);
        tied[1] += told_part(work->cut.told[i], 0);
    }
    struct cut *cut = &work->cut.cut;
    cut->order = t.prefix;
    cut->n_ties = (int)t.target + 1;
    cut->n_equal = (int)t.in_digit;
    cut->n_selected = above[1] + min(tied[1], cut->n_ties);
    cut->ties_before = tied[0];
    cut->selected_before = above[0] + min(tied[0], cut->n_ties);
}

/* Chooses the keys of a unit whose slice is on its way, and starts on them.  All threads. */
template <int CHUNKS, int HEADS>
static __device__ __forceinline__ void
top_k_choose(struct top_k_work *work, const struct choose_job *job,
             float4 x[slice_way<CHUNKS, HEADS>::FETCHED][CHUNKS], struct sampled<HEADS> *sample,
             uint32_t *staged)
{
    const struct choice *c = &work->choice;
    struct cut_memory *memory = (struct cut_memory *)staged;
    uint32_t order[CHUNKS * LANE_KEYS], own = slice_candidates<CHUNKS>(c, job);
    bracket_find<HEADS>(&work->bracket, sample, c, job, work->sums.low, &work->bracket_work);
    slice_orders<CHUNKS, HEADS>(order, x, c, job, own);
    __syncthreads();
    cut_collect<CHUNKS * LANE_KEYS>(order, own, &work->bracket, &work->cut, memory->found);
    __syncthreads();
    cut_post(&work->bracket, &work->cut, memory, team_post(&work->team, work->team.member));
    team_tell(&work->team, 0, told_of(work->cut.n_found, work->cut.n_above, work->cut.n_candidates),
              work->cut.told);
    if (!cut_find(c, &work->team, &work->cut, memory)) {
        __syncthreads();
        top_k_by_digits<CHUNKS, HEADS>(order, work, job, own, staged);
    }
    __syncthreads();
    slice_take<CHUNKS>(order, c, job, &work->cut.cut, (int *)work->scratch);
}

/* The slice and the sample are asked for where a guess says, before it is known to be right. */
template <int CHUNKS, int HEADS>
__global__ void __launch_bounds__(CHOOSE_THREADS, 1)
    top_k_kernel(const __grid_constant__ struct choose_job job)
{
    extern __shared__ __align__(16) uint32_t staged[];
    __shared__ struct top_k_work work;
    const struct choice *c = &work.choice;

    int unit = team_first_unit(&job.split, job.sel.select_work, &work.unit);
    struct call_shape shape = call_shape(&job.att);
    top_k_prepare(&work, &job, &shape, unit);
    __syncthreads();
    dependency_wait();
    dependency_release();
    for (; unit < job.split.n_units; unit += gridDim.x) {
        float4 x[slice_way<CHUNKS, HEADS>::FETCHED][CHUNKS];
        struct sampled<HEADS> sample;
        for (;;) {
            shape = call_shape(&job.att);
            sample_fetch<HEADS>(&sample, c, &job);
            slice_fetch<CHUNKS, HEADS>(x, c, &job);
            if (call_shape_same(&shape, &work.shape))
                break;
            __syncthreads();
            top_k_prepare(&work, &job, &shape, unit);
            __syncthreads();
        }
        bool idle = c->idle || c->e == 0;
        if (idle)
            choice_pass(c, &job);
        else
            top_k_choose<CHUNKS, HEADS>(&work, &job, x, &sample, staged);
        if (threadIdx.x == 0) {
            if (!idle)
                team_leave(&work.team);
            if (job.lists && work.team.member == 0)
                list_finish(c, &job, &shape, idle ? 0 : work.cut.cut.n_selected);
        }
        if (unit + (int)gridDim.x >= job.split.n_units)
            break;
        __syncthreads();
        top_k_prepare(&work, &job, &shape, unit + (int)gridDim.x);
        __syncthreads();
    }
}

/* --- By digits ----------------------------------------------------------------------------------
 */

__global__ void __launch_bounds__(CHOOSE_THREADS, 1)
    top_k_digits_kernel(const __grid_constant__ struct choose_job job)
{
    extern __shared__ __align__(16) uint32_t staged[]; /* [n_staged_words * 32] */
    __shared__ struct digit_sums sums;
    __shared__ struct choice c;
    __shared__ struct team team;
    __shared__ unsigned long long scratch[WARP];
    __shared__ int word;

    int unit = team_first_unit(&job.split, job.sel.select_work, &word);
    dependency_wait();
    dependency_release();
    for (; unit < job.split.n_units; unit += gridDim.x) {
        struct threshold t = {};
        choice_start(&c, &team, &job, unit);
        t.flag = THRESHOLD_NOTHING;
        if (!c.idle && c.e > 0)
            t = threshold_find<false, false>(&c, &job, NULL, staged, &sums, &team, scratch);
        if (t.flag == THRESHOLD_NOTHING) {
            choice_pass(&c, &job);
        } else if (t.flag == THRESHOLD_ALL) {
            take_orders<false>(&c, &job, NULL, staged, 1, true, 0, 0, NULL);
        } else {
            const struct threshold *result = (const struct threshold *)team.results;
            int before = (int)__ldcg(&result->before[team.member]);
            take_orders<false>(&c, &job, NULL, staged, t.prefix, t.target + 1 == t.in_digit,
                               (int)t.target + 1, before, (int *)scratch);
        }
    }
}

/* --- On the host --------------------------------------------------------------------------------
 */

typedef void top_k_way(struct choose_job);

/* The kernel of a choice by n_heads heads' scores.  A bracket pays where those are several, which
 * would otherwise be summed anew for the list; a single head's slice is four times as long, and its
 * digits are found as fast. */
static top_k_way *top_k_way_of(const struct choose_job *job, int n_heads)
{
    int n_words = job->n_slice_words;
    if (n_heads == 1 || n_words > (int)slice_way<8, 1>::BLOCK_WORDS)
        return top_k_digits_kernel;
    if (n_words > (int)slice_way<2, 1>::BLOCK_WORDS)
        return top_k_kernel<8, 0>;
    return n_heads == 4 ? top_k_kernel<2, 4> : top_k_kernel<2, 0>;
}

static bool top_k_run(struct device *dev, struct selection *sel, const struct put_off *what,
                      bool last)
{
    if (what->levels.write && select_levels_takes(dev, sel, what))
        return select_levels(dev, sel, what, last);
    if (what->levels.write)
        what->levels.write(dev, sel, &what->levels);
    struct choose_job job =
        choose_job_of(dev, sel, &sel->att, what->share, what->first, true, what->scope);
    size_t n_bytes = (size_t)job.n_staged_words * 32 * sizeof(uint32_t);
    int n_heads = what->share == SHARE_GROUP ? sel->group : 1;
    top_k_way *way = top_k_way_of(&job, n_heads);
    if (way != top_k_digits_kernel) {
        n_bytes = n_bytes > sizeof(struct cut_memory) ? n_bytes : sizeof(struct cut_memory);
        /* One list for each choice: nothing else is in it. */
        job.lists = last && what->first && n_heads == sel->union_heads && !what->scope.again;
    }
    cuda_allow_shared(dev, way, n_bytes);
    cuda_launch(dev, way, team_grid(dev, &job.split), CHOOSE_THREADS, n_bytes, job);
    return job.lists;
}

void cuda_select_top_k(struct device *dev, struct selection *sel, const struct attention *att,
                       struct budget size, enum share share)
{
    selection_catch_up(dev, sel);
    selection_plan(dev, sel, SELECT_TOP_K, size);
    struct put_off what = {};
    what.run = top_k_run;
    what.share = share;
    what.first = selection_choose(dev, sel, att, share);
    what.levels = sel->late->levels;
    what.scope = sel->late->scope;
    sel->late->masker = what;
}
