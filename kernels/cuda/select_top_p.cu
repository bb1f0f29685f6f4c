/* Top-p by score: the fewest best keys that hold a share of the softmax mass, with all that tie
 * with the last, up to a limit.  The limit's threshold is found as top-k's is, after that of the
 * mass: the higher one counts.
 *
 * Per head, keys rank by score.  Per group, they rank by the mean of the heads' masses, each head's
 * taken over the same keys: those not selected yet, or all visible ones (of_total).  Masses are
 * f32, their sums fixed-point numbers of 64 bits: with K keys the last place is 2^(ceil(log2 K) -
 * 62) of the largest key's mass (2^-44 at 131072 keys), so that sums are as good as f64 sums of the
 * same masses and do not depend on their order. */
#include "kernels/cuda/select_threshold.cuh"

/* One head's highest score in the slice or, if SUMS, the masses of candidates and of other visible
 * keys, put together in the team's sums [2h], [2h + 1]. */
template <bool SUMS>
static __device__ void head_pass(const struct choice *c, const struct choose_job *job,
                                 const struct masses *masses, const struct team *team, int head)
{
    int lane = threadIdx.x % WARP, h = head - c->score_begin;
    int point = mass_bits(false, c->n_keys);
    unsigned long long left = 0, held = 0;
    uint32_t top = 0, open_mask = 0, seen_mask = 0;
    int round = 0;
    for (int base = c->begin + (int)threadIdx.x / WARP * BATCH_WORDS; base < c->end;
         base += ROUND_WORDS, round++) {
        if (round % MASK_ROUNDS == 0) {
            int word = lane_word(base);
            open_mask = seen_mask = lane_candidates(c, job, base);
            if (job->of_total && word < c->end)
                seen_mask = range_bits(word, c->plan.visible.begin, c->plan.visible.end);
        }
        uint32_t open = own_bits(open_mask, round % MASK_ROUNDS);
        uint32_t seen = own_bits(seen_mask, round % MASK_ROUNDS);
        float x[BATCH_WORDS];
        load_scores<false>(x, c, job, head, base, seen);
#pragma unroll
        for (int i = 0; i < BATCH_WORDS; i++) {
            if (!(seen >> i & 1))
                continue;
            if (!SUMS)
                top = max(top, order_of(x[i]));
            else if (open >> i & 1)
                left += fixed_mass(expf(job->logit_scale * (x[i] - masses->max[h])), point);
            else
                held += fixed_mass(expf(job->logit_scale * (x[i] - masses->max[h])), point);
        }
    }
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        top = max(top, __shfl_xor_sync(0xffffffffu, top, offset));
        left += __shfl_xor_sync(0xffffffffu, left, offset);
        held += __shfl_xor_sync(0xffffffffu, held, offset);
    }
    if (lane > 0)
        return;
    if (!SUMS) {
        atomicMax(&team->sums[2 * h], (unsigned long long)top);
    } else {
        atomicAdd(&team->sums[2 * h], left);
        atomicAdd(&team->sums[2 * h + 1], held);
    }
}

/* masses->max [score heads]: the highest score of each.  All threads. */
static __device__ void find_max(const struct choice *c, const struct choose_job *job,
                                struct masses *masses, struct team *team)
{
    int n_heads = c->score_end - c->score_begin, h = threadIdx.x;
    for (int head = c->score_begin; head < c->score_end; head++)
        head_pass<false>(c, job, NULL, team, head);
    if (team_arrive(team)) {
        if (h < n_heads) {
            team->results[RESULT_MAX + h] = (uint32_t)__ldcg(team->sums + 2 * h);
            team->sums[2 * h] = 0;
        }
        if (h == 0)
            *(double *)(team->results + RESULT_HELD) = 0.0;
        team_publish(team);
    } else {
        team_await(team);
    }
    if (h < n_heads)
        masses->max[h] = score_of(__ldcg(team->results + RESULT_MAX + h));
    __syncthreads();
}

/* masses->scale [score heads]: 1 over the mass of all keys that count and the number of heads; the
 * mass that is selected already goes to the results.  All threads. */
static __device__ void find_scale(const struct choice *c, const struct choose_job *job,
                                  struct masses *masses, struct team *team)
{
    int n_heads = c->score_end - c->score_begin, h = threadIdx.x;
    int point = mass_bits(false, c->n_keys);
    bool mean = job->share == SHARE_GROUP;
    for (int head = c->score_begin; head < c->score_end; head++)
        head_pass<true>(c, job, masses, team, head);
    if (team_arrive(team)) {
        double all_held = 0.0;
        for (int i = 0; h == 0 && i < n_heads; i++) {
            double left = ldexp((double)__ldcg(team->sums + 2 * i), -point);
            double held = ldexp((double)__ldcg(team->sums + 2 * i + 1), -point);
            double scale = mean && left + held > 0.0 ? 1.0 / ((left + held) * n_heads) : 1.0;
            team->sums[2 * i] = team->sums[2 * i + 1] = 0;
            team->results[RESULT_SCALE + i] = __float_as_uint((float)scale);
            all_held += held * scale;
        }
        if (h == 0)
            *(double *)(team->results + RESULT_HELD) = all_held;
        team_publish(team);
    } else {
        team_await(team);
    }
    if (h < n_heads)
        masses->scale[h] = __uint_as_float(__ldcg(team->results + RESULT_SCALE + h));
    __syncthreads();
}

/* What is taken: orders above `order`, and of those that equal it the first n_ties of the team,
 * `before` of which lie in slices before this block's. */
struct taking {
    uint32_t order;
    bool all_ties;
    int n_ties, before;
};

/* False: nothing is.  All threads. */
template <bool MASS>
static __device__ __forceinline__ bool
find_taking(struct taking *out, const struct choice *c, const struct choose_job *job,
            struct masses *masses, uint32_t *staged, struct digit_sums *sums, struct team *team,
            unsigned long long *scratch)
{
    find_max(c, job, masses, team);
    if (MASS || job->of_total)
        find_scale(c, job, masses, team);
    struct threshold t = threshold_find<true, MASS>(c, job, masses, staged, sums, team, scratch);
    *out = {t.flag == THRESHOLD_ALL ? 1 : t.prefix, true, 0, 0};
    if (t.flag == THRESHOLD_NOTHING || !job->limited)
        return t.flag != THRESHOLD_NOTHING;
    struct threshold limit =
        threshold_find<false, MASS>(c, job, masses, staged, sums, team, scratch);
    if (limit.flag == THRESHOLD_SEARCHED && limit.prefix >= out->order) {
        const struct threshold *result = (const struct threshold *)team->results;
        *out = {limit.prefix, limit.target + 1 == limit.in_digit, (int)limit.target + 1,
                (int)__ldcg(&result->before[team->member])};
    }
    return limit.flag != THRESHOLD_NOTHING;
}

/* MASS: the choices are a group's. */
template <bool MASS>
__global__ void __launch_bounds__(CHOOSE_THREADS, 1)
    top_p_kernel(const __grid_constant__ struct choose_job job)
{
    extern __shared__ uint32_t staged[]; /* [n_staged_words * 32] */
    __shared__ struct digit_sums sums;
    __shared__ struct choice c;
    __shared__ struct team team;
    __shared__ struct masses masses;
    __shared__ unsigned long long scratch[WARP];
    __shared__ int word;

    int unit = team_first_unit(&job.split, job.sel.select_work, &word);
    dependency_wait();
    dependency_release();
    for (; unit < job.split.n_units; unit += gridDim.x) {
        struct taking t;
        choice_start(&c, &team, &job, unit);
        bool idle = c.idle || (job.limited && c.e == 0);
        if (idle || !find_taking<MASS>(&t, &c, &job, &masses, staged, &sums, &team, scratch))
            choice_pass(&c, &job);
        else
            take_orders<MASS>(&c, &job, &masses, staged, t.order, t.all_ties, t.n_ties, t.before,
                              (int *)scratch);
    }
}

void cuda_select_top_p(struct device *dev, struct selection *sel, const struct attention *att,
                       double top_p, bool of_total, struct budget most, float logit_scale,
                       enum share share)
{
    selection_catch_up(dev, sel);
    selection_write_scores(dev, sel);
    struct budget share_of_mass = {false, top_p};
    bool limited = most.is_fraction || most.value > 0.0;
    assert(sel->group <= CHOOSE_MAX_GROUP && logit_scale > 0.0f);
    selection_plan(dev, sel, limited ? SELECT_LIMITED : SELECT_TOP_P,
                   limited ? most : share_of_mass);
    bool first = selection_choose(dev, sel, att, share);
    struct choose_job job = choose_job_of(dev, sel, att, share, first, false, sel->late->scope);
    job.top_p = top_p > 0.0 ? top_p : 0.0;
    job.of_total = of_total;
    job.limited = limited;
    job.logit_scale = logit_scale;
    size_t n_bytes = (size_t)job.n_staged_words * 32 * sizeof(uint32_t);
    void (*kernel)(struct choose_job) =
        share == SHARE_GROUP ? top_p_kernel<true> : top_p_kernel<false>;
    cuda_allow_shared(dev, kernel, n_bytes);
    cuda_launch(dev, kernel, team_grid(dev, &job.split), CHOOSE_THREADS, n_bytes, job);
}
