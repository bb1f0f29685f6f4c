/* Whole pages by score: Quest's choice.  Unlike a choice of keys it does not look at what is
 * selected already, so that its pages may overlap with it.
 *
 * Pages are few beside keys: one block makes a choice.  It keeps the pages' orders
 * (select_threshold.cuh) in shared memory, as far as there is room, and finds the threshold digit
 * by digit.  Where only a share of the mass is wanted, its threshold is found the same way, with
 * masses in place of numbers (select_pages_mass.cuh), and the higher one counts. */
#include "kernels/cuda/select_pages_mass.cuh"

enum {
    MIN_PAGES = 3,       /* the reference takes no fewer, whatever the budget */
    STAGED_PAGES = 32768 /* whose orders are kept in shared memory */
};

/* --- The threshold ----------------------------------------------------------------------------
 */

/* Fetches the orders of pages from begin on, by the sum of the choice's heads' scores, several at a
 * time.  All threads; the caller's next barrier shows them. */
static __device__ __forceinline__ void
stage_orders(struct pages_shared *shared, const struct choose_job *job, int begin, int end)
{
    enum { EACH = 8 };
    const struct choice *c = &shared->choice;
    size_t stride = job->sel.stride;
    int n = min(end - begin, shared->n_staged);
    for (int first = threadIdx.x; first < n; first += EACH * CHOOSE_THREADS) {
        const float *scores =
            job->sel.scores +
            ((size_t)c->row * (size_t)job->sel.n_heads + (size_t)c->score_begin) * stride + begin;
        float sum[EACH] = {};
        for (int head = c->score_begin; head < c->score_end; head++, scores += stride) {
            float x[EACH];
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                int page = first + i * CHOOSE_THREADS;
                x[i] = page < n ? __ldcg(scores + page) : 0.0f;
            }
#pragma unroll
            for (int i = 0; i < EACH; i++)
                sum[i] = head == c->score_begin ? x[i] : sum[i] + x[i];
        }
#pragma unroll
        for (int i = 0; i < EACH; i++)
            if (first + i * CHOOSE_THREADS < n)
                shared->orders[first + i * CHOOSE_THREADS] = order_of(sum[i]);
    }
}

/* shared->threshold = the order of the n-th best page of [begin, end), n_left how many of those
 * that equal it are taken.  All threads. */
static __device__ __forceinline__ void
find_threshold(struct pages_shared *shared, const struct choose_job *job, int begin, int end, int n)
{
    if (threadIdx.x == 0) {
        shared->threshold = 0;
        shared->n_left = n;
    }
    for (int digit = PAGE_DIGITS - 1; digit >= 0; digit--) {
        int shift = digit * PAGE_DIGIT_BITS;
        bins_clear(shared->columns);
        __syncthreads();
        uint32_t known = shared->threshold,
                 mask = digit == PAGE_DIGITS - 1 ? 0u : ~0u << (shift + 8);
        for (int i = threadIdx.x; i < end - begin; i += CHOOSE_THREADS) {
            uint32_t order = order_at(shared, job, begin, i);
            if ((order & mask) == known)
                bins_count(shared->columns, order >> shift & (N_BINS - 1));
        }
        __syncthreads();
        bins_sum(shared->columns, shared->bins);
        __syncthreads();
        if (threadIdx.x < WARP) {
            int before, bin = find_bin(shared->bins, shared->n_left, &before);
            __syncwarp();
            if (threadIdx.x == 0) {
                shared->threshold = known | (uint32_t)bin << shift;
                shared->n_left -= before;
            }
        }
        __syncthreads();
    }
}

/* --- Taking ------------------------------------------------------------------------------------
 */

/* page_bits = pages of [begin, end) above the threshold, and the first of those that equal it. */
static __device__ __forceinline__ void mark_pages(struct pages_shared *shared,
                                                  const struct choose_job *job, int begin, int end)
{
    int lane = threadIdx.x % WARP, n_before = 0;
    for (int first = begin; first < end; first += CHOOSE_THREADS) {
        int page = first + (int)threadIdx.x, n_ties;
        uint32_t order = page < end ? order_at(shared, job, begin, page - begin) : 0;
        bool tie = page < end && order == shared->threshold;
        int before = n_before + block_scan((int)tie, shared->scratch, &n_ties);
        bool take = page < end && (order > shared->threshold || (tie && before < shared->n_left));
        uint32_t bits = __ballot_sync(0xffffffffu, take);
        if (lane == 0)
            shared->page_bits[(first - begin + (int)threadIdx.x) / 32] = bits;
        n_before += n_ties;
    }
    __syncthreads();
}

/* Bits of the keys of a word that lie in chosen pages. */
static __device__ __forceinline__ uint32_t word_bits(const struct pages_shared *shared, int word,
                                                     int page_size, int begin, int end)
{
    uint32_t bits = 0;
    int page = (int)((unsigned)(word * 32) / (unsigned)page_size);
    for (int key = page * page_size; key < word * 32 + 32; key += page_size, page++)
        if (page >= begin && page < end &&
            shared->page_bits[(page - begin) / 32] >> (page - begin) % 32 & 1)
            bits |= range_bits(word, key, key + page_size);
    return bits;
}

/* All threads.  n == 0: no page. */
static __device__ __forceinline__ void take_pages(const struct pages_shared *shared,
                                                  const struct pages_job *job, int begin, int end,
                                                  int n)
{
    const struct choice *c = &shared->choice;
    const struct selection *sel = &job->choose.sel;
    for (int word = c->begin + (int)threadIdx.x; word < c->end; word += CHOOSE_THREADS) {
        uint32_t bits = 0;
        if (n > 0)
            bits = word_bits(shared, word, job->page_size, begin, end) & open_bits(&c->plan, word);
        for (int head = c->head_begin; head < c->head_end; head++) {
            size_t at = bitmap_of(c, &job->choose, head) + (size_t)word;
            sel->taken[at] = job->choose.first ? bits : sel->taken[at] | bits;
            if (sel->sampled) /* what was drawn is now certain */
                sel->drawn[at] &= ~bits;
        }
    }
}

/* Block per choice. */
__global__ void __launch_bounds__(CHOOSE_THREADS, 1)
    pages_kernel(const __grid_constant__ struct pages_job job)
{
    extern __shared__ __align__(16) char pages_memory[];
    struct pages_shared *shared = (struct pages_shared *)pages_memory;
    struct choice *c = &shared->choice;
    dependency_release();
    dependency_wait();
    if (threadIdx.x == 0) {
        shared->page_bits = (uint32_t *)(shared + 1);
        shared->orders = shared->page_bits + job.n_bit_words;
        shared->n_staged = job.n_staged;
        struct call_shape shape = call_shape(&job.choose.att);
        choice_fill(c, &job.choose, &shape, (int)blockIdx.x);
    }
    __syncthreads();
    if (c->idle) /* full: nobody reads the bitmaps */
        return;
    struct key_range seen = c->plan.visible;
    int begin = seen.begin / job.page_size, end = (seen.end - 1) / job.page_size + 1;
    int n = seen.begin < seen.end && c->e > 0 ? max((int)MIN_PAGES, c->e / job.page_size) : 0;
    n = min(n, end - begin);
    if (n > 0) {
        if (job.choose.top_p > 0.0)
            stage_mass_orders(shared, &job.choose, begin, end);
        else
            stage_orders(shared, &job.choose, begin, end);
        find_threshold(shared, &job.choose, begin, end, n);
        if (job.choose.top_p > 0.0)
            limit_to_mass(shared, &job.choose, begin, end);
        mark_pages(shared, &job.choose, begin, end);
    }
    take_pages(shared, &job, begin, end, n);
}

void cuda_select_pages(struct device *dev, struct selection *sel, const struct attention *att,
                       struct budget size, int page_size, double top_p, enum share share)
{
    assert(page_size > 0 && sel->group <= CHOOSE_MAX_GROUP);
    selection_catch_up(dev, sel);
    selection_plan(dev, sel, top_p > 0.0 ? SELECT_LIMITED : SELECT_PAGES, size);
    bool first = selection_choose(dev, sel, att, share);
    struct pages_job job = {};
    job.choose = choose_job_of(dev, sel, att, share, first, false, {});
    job.choose.split.team = 1;
    job.choose.top_p = top_p;
    job.page_size = page_size;
    int n_choices = att->n_rows * job.choose.split.n_choices;
    int n_pages = ceil_div(att->max_keys, page_size);
    job.n_bit_words = ceil_div(n_pages + CHOOSE_THREADS, 32); /* whole rounds */
    job.n_staged = n_pages < STAGED_PAGES ? n_pages : STAGED_PAGES;
    size_t n_bytes =
        sizeof(struct pages_shared) + (size_t)(job.n_bit_words + job.n_staged) * sizeof(uint32_t);
    if (n_bytes > dev->properties.sharedMemPerBlockOptin) {
        cuda_fail(dev, "pages of %d keys are too small for %d keys", page_size, att->max_keys);
        return;
    }
    cuda_allow_shared(dev, pages_kernel, n_bytes);
    cuda_launch(dev, pages_kernel, (unsigned)n_choices, CHOOSE_THREADS, n_bytes, job);
}
