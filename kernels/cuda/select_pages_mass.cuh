/* What a choice of pages works on, and the fewest best pages that hold a share of the mass.
 *
 * A page's mass is exp(score), each head's over all pages that the row sees a key of, and a group's
 * the mean of its heads'.  Sums are fixed-point numbers, as select_top_p's are. */
#ifndef ATTNSCOPE_KERNELS_CUDA_SELECT_PAGES_MASS_CUH
#define ATTNSCOPE_KERNELS_CUDA_SELECT_PAGES_MASS_CUH

#include "kernels/cuda/select_bins.cuh"
#include "kernels/cuda/select_threshold.cuh"

enum { PAGE_DIGITS = 4, PAGE_DIGIT_BITS = 8 };

static_assert(1 << (int)PAGE_DIGIT_BITS == (int)N_BINS, "a digit has a bin");

struct pages_job {
    struct choose_job choose; /* its plan's last part is this masker */
    int page_size;
    int n_bit_words, n_staged; /* of pages_shared */
};

struct pages_shared {
    struct choice choice;
    bin_columns columns;
    uint32_t bins[N_BINS];
    int scratch[WARP];
    uint32_t threshold;  /* the digits found so far */
    int n_left;          /* pages to take of those that have these digits */
    uint32_t *page_bits; /* [n_pages / 32] chosen, from the first visible page on */
    uint32_t *orders;    /* [n_staged] of the first pages */
    int n_staged;

    /* Of a choice by mass alone. */
    struct masses masses; /* of the choice's heads */
    uint32_t top;         /* the highest order of a head's scores */
    unsigned long long mass_scratch[WARP];
    unsigned long long mass_bins[N_BINS];
    uint32_t mass_threshold;        /* its digits so far */
    unsigned long long mass_above;  /* of pages above them */
    unsigned long long mass_target; /* to be exceeded */
};

static __device__ __forceinline__ const float *page_scores(const struct choice *c,
                                                           const struct choose_job *job, int head)
{
    return job->sel.scores +
           ((size_t)c->row * (size_t)job->sel.n_heads + (size_t)head) * job->sel.stride;
}

/* By the sum of the choice's heads' scores or, where a share of the mass is wanted, by the mean of
 * their masses. */
static __device__ __forceinline__ uint32_t page_order(const struct pages_shared *shared,
                                                      const struct choose_job *job, int page)
{
    const struct choice *c = &shared->choice;
    bool by_mass = job->top_p > 0.0 && job->share == SHARE_GROUP;
    float sum = by_mass ? 0.0f : __ldcg(page_scores(c, job, c->score_begin) + page);
    for (int h = by_mass ? 0 : 1; h < c->score_end - c->score_begin; h++) {
        float x = __ldcg(page_scores(c, job, c->score_begin + h) + page);
        sum =
            by_mass ? fmaf(shared->masses.scale[h], expf(x - shared->masses.max[h]), sum) : sum + x;
    }
    return order_of(sum);
}

static __device__ __forceinline__ uint32_t order_at(const struct pages_shared *shared,
                                                    const struct choose_job *job, int begin, int i)
{
    return i < shared->n_staged ? shared->orders[i] : page_order(shared, job, begin + i);
}

/* masses.max [h] and masses.scale [h] of the choice's heads.  All threads. */
static __device__ __forceinline__ void
find_page_masses(struct pages_shared *shared, const struct choose_job *job, int begin, int end)
{
    const struct choice *c = &shared->choice;
    int n_heads = c->score_end - c->score_begin, point = mass_bits(false, c->n_keys);
    for (int h = 0; h < n_heads; h++) {
        const float *scores = page_scores(c, job, c->score_begin + h);
        uint32_t top = 0;
        if (threadIdx.x == 0)
            shared->top = 0;
        __syncthreads();
        for (int page = begin + (int)threadIdx.x; page < end; page += CHOOSE_THREADS)
            top = max(top, order_of(__ldcg(scores + page)));
        atomicMax(&shared->top, __reduce_max_sync(0xffffffffu, top));
        __syncthreads();
        float highest = score_of(shared->top);
        unsigned long long sum = 0, total;
        for (int page = begin + (int)threadIdx.x; page < end; page += CHOOSE_THREADS)
            sum += fixed_mass(expf(__ldcg(scores + page) - highest), point);
        block_scan(sum, shared->mass_scratch, &total);
        if (threadIdx.x == 0) {
            shared->masses.max[h] = highest;
            shared->masses.scale[h] = (float)(1.0 / (ldexp((double)total, -point) * n_heads));
        }
    }
    __syncthreads();
}

/* The orders of pages from begin on for a choice by mass.  All threads; the caller's next barrier
 * shows them. */
static __device__ __forceinline__ void
stage_mass_orders(struct pages_shared *shared, const struct choose_job *job, int begin, int end)
{
    find_page_masses(shared, job, begin, end);
    for (int i = threadIdx.x; i < min(end - begin, shared->n_staged); i += CHOOSE_THREADS)
        shared->orders[i] = page_order(shared, job, begin + i);
}

/* One digit more of mass_threshold: the bin at which the mass from the top first exceeds the
 * target.  All threads. */
static __device__ __forceinline__ void find_mass_digit(struct pages_shared *shared, int shift,
                                                       bool first, double top_p)
{
    unsigned long long own = threadIdx.x < N_BINS ? shared->mass_bins[N_BINS - 1 - threadIdx.x] : 0;
    unsigned long long total, known = shared->mass_above;
    unsigned long long above = known + block_scan(own, shared->mass_scratch, &total);
    if (first && threadIdx.x == 0)
        shared->mass_target = (unsigned long long)(top_p * (double)total);
    __syncthreads();
    if (above <= shared->mass_target && above + own > shared->mass_target) {
        shared->mass_threshold |= (uint32_t)(N_BINS - 1 - threadIdx.x) << shift;
        shared->mass_above = above;
    }
    __syncthreads();
}

/* Raises the threshold that the number of pages led to, if less of them exceed the share of the
 * mass.  All threads. */
static __device__ __forceinline__ void
limit_to_mass(struct pages_shared *shared, const struct choose_job *job, int begin, int end)
{
    bool mean = job->share == SHARE_GROUP;
    int point = mass_bits(mean, shared->choice.n_keys);
    if (threadIdx.x == 0) {
        shared->mass_threshold = 0;
        shared->mass_above = 0;
    }
    for (int digit = PAGE_DIGITS - 1; digit >= 0; digit--) {
        int shift = digit * PAGE_DIGIT_BITS;
        for (int i = threadIdx.x; i < N_BINS; i += CHOOSE_THREADS)
            shared->mass_bins[i] = 0;
        __syncthreads();
        uint32_t known = shared->mass_threshold,
                 mask = digit == PAGE_DIGITS - 1 ? 0u : ~0u << (shift + 8);
        for (int i = threadIdx.x; i < end - begin; i += CHOOSE_THREADS) {
            uint32_t order = order_at(shared, job, begin, i);
            float score = score_of(order);
            float mass = mean ? score : expf(score - shared->masses.max[0]);
            if ((order & mask) == known)
                atomicAdd(&shared->mass_bins[order >> shift & (N_BINS - 1)],
                          fixed_mass(mass, point));
        }
        __syncthreads();
        find_mass_digit(shared, shift, digit == PAGE_DIGITS - 1, job->top_p);
    }
    if (threadIdx.x == 0 && shared->mass_threshold > shared->threshold) {
        shared->threshold = shared->mass_threshold;
        shared->n_left = end - begin;
    }
    __syncthreads();
}

#endif
