/* Top-k by score: the e best keys that are not selected yet; of those that tie with the last, the
 * first. */
#include "kernels/cuda/select_threshold.cuh"

__global__ void __launch_bounds__(CHOOSE_THREADS, 1)
    top_k_kernel(const __grid_constant__ struct choose_job job)
{
    extern __shared__ uint32_t staged[]; /* [n_staged_words * 32] */
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

static bool top_k_run(struct device *dev, struct selection *sel, const struct put_off *what, bool)
{
    struct choose_job job = choose_job_of(dev, sel, &sel->att, what->share, what->first);
    size_t n_bytes = (size_t)job.n_staged_words * 32 * sizeof(uint32_t);
    cuda_allow_shared(dev, top_k_kernel, n_bytes);
    cuda_launch(dev, top_k_kernel, team_grid(dev, &job.split), CHOOSE_THREADS, n_bytes, job);
    return false;
}

void cuda_select_top_k(struct device *dev, struct selection *sel, const struct attention *att,
                       struct budget size, enum share share)
{
    selection_catch_up(dev, sel);
    selection_plan(sel, SELECT_TOP_K, size);
    struct put_off what = {};
    what.run = top_k_run;
    what.share = share;
    what.first = selection_choose(dev, sel, att, share);
    sel->waiting = what;
}
