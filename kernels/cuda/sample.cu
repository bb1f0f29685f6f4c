/* Drawing a token: one block.  Weights are exp((logit - max) / temperature); their sums are taken
 * in integers of 2^-40, whose order does not matter, so that a draw is the same every time.  top_k
 * and top_p keep the best candidates, by falling logit, then rising id; the last logit that is kept
 * is found digit by digit from histograms, without a sort. */
#include "kernels/cuda/sample.cuh"

#include "kernels/philox.h"

/* Tells the draws of tokens from those of maskers: "pick". */
#define PHILOX_PICK 0x7069636Bu

enum { SAMPLE_THREADS = 1024, DIGIT_BITS = 8, N_DIGITS = 1 << DIGIT_BITS };

typedef unsigned long long sum_type;

static const double UNIT = 1099511627776.0; /* 2^40: a weight of 1; 2^24 of them fit */

static __device__ __forceinline__ sum_type fixed(float weight)
{
    return (sum_type)((double)weight * UNIT);
}

/* Sum over the block, for all threads. */
static __device__ sum_type block_total(sum_type x)
{
    __shared__ sum_type total;
    __syncthreads();
    if (threadIdx.x == 0)
        total = 0;
    __syncthreads();
    for (int offset = WARP / 2; offset > 0; offset /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, offset);
    if (threadIdx.x % WARP == 0)
        atomicAdd(&total, x);
    __syncthreads();
    return total;
}

/* Sum over the threads before this one. */
static __device__ sum_type block_before(sum_type x)
{
    __shared__ sum_type warps[SAMPLE_THREADS / WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    sum_type sum = x;
    for (int offset = 1; offset < WARP; offset *= 2) {
        sum_type other = __shfl_up_sync(0xffffffffu, sum, offset);
        sum += lane >= offset ? other : 0;
    }
    __syncthreads();
    if (lane == WARP - 1)
        warps[warp] = sum;
    __syncthreads();
    for (int i = 0; i < warp; i++)
        sum += warps[i];
    return sum - x;
}

/* Keeps the fewest best candidates (weight > 0) that weigh at least target (each counting 1 if not
 * weighted), and gives the others weight 0.  target > 0. */
static __device__ void keep_best(const float *logits, float *weights, int n, bool weighted,
                                 sum_type target)
{
    __shared__ sum_type histogram[N_DIGITS];
    __shared__ uint32_t shared_key;
    __shared__ sum_type shared_above;
    uint32_t key = 0, mask = 0; /* the digits of the last kept key known so far */
    sum_type above = 0;         /* weight of those above that digit string */
    for (int shift = 32 - DIGIT_BITS; shift >= 0; shift -= DIGIT_BITS) {
        for (int i = threadIdx.x; i < N_DIGITS; i += SAMPLE_THREADS)
            histogram[i] = 0;
        __syncthreads();
        for (int id = threadIdx.x; id < n; id += SAMPLE_THREADS) {
            if (!(weights[id] > 0))
                continue;
            uint32_t k = ordered_key(logits[id]);
            if ((k & mask) == key)
                atomicAdd(&histogram[k >> shift & (N_DIGITS - 1)],
                          weighted ? fixed(weights[id]) : 1);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            int digit = N_DIGITS - 1, lowest = -1;
            sum_type sum = above;
            for (; digit >= 0; digit--) {
                if (histogram[digit] == 0)
                    continue;
                lowest = digit;
                if (sum + histogram[digit] >= target)
                    break;
                sum += histogram[digit];
            }
            if (digit < 0 && lowest >= 0) { /* all weigh less than target: the last one */
                digit = lowest;
                sum -= histogram[lowest];
            }
            shared_key = key | (uint32_t)max(digit, 0) << shift;
            shared_above = sum;
        }
        __syncthreads();
        key = shared_key;
        above = shared_above;
        mask |= (uint32_t)(N_DIGITS - 1) << shift;
    }
    /* Those at the last key weigh alike: the first few by id are kept. */
    int each = (n + SAMPLE_THREADS - 1) / SAMPLE_THREADS;
    int first = min((int)threadIdx.x * each, n), end = min(first + each, n);
    sum_type n_ties = 0, weight = 1;
    for (int id = first; id < end; id++)
        n_ties += weights[id] > 0 && ordered_key(logits[id]) == key;
    sum_type rank = block_before(n_ties);
    for (int id = first; id < end; id++) {
        if (!(weights[id] > 0))
            continue;
        uint32_t k = ordered_key(logits[id]);
        weight = weighted ? fixed(weights[id]) : 1;
        bool keep = k > key || (k == key && above + rank * weight < target);
        rank += k == key;
        if (!keep)
            weights[id] = 0;
    }
    __syncthreads();
}

static __device__ sum_type total_weight(const float *weights, int n)
{
    sum_type sum = 0;
    for (int id = threadIdx.x; id < n; id += SAMPLE_THREADS)
        sum += fixed(weights[id]);
    return block_total(sum);
}

static __device__ void filter(const float *logits, float *weights, int n,
                              const struct sampling *sampling)
{
    if (sampling->top_k > 0 && sampling->top_k < n)
        keep_best(logits, weights, n, false, (sum_type)sampling->top_k);
    if (sampling->top_p < 1) {
        sum_type total = total_weight(weights, n);
        double target = ceil((double)sampling->top_p * (double)total);
        keep_best(logits, weights, n, true, target >= 1 ? (sum_type)target : 1);
    }
    /* The best candidate's weight is 1, so that weights are shares of its probability. */
    for (int id = threadIdx.x; id < n; id += SAMPLE_THREADS)
        if (weights[id] < sampling->min_p)
            weights[id] = 0;
    __syncthreads();
}

/* One block. */
static __global__ void __launch_bounds__(SAMPLE_THREADS)
    sample_kernel(struct pick *pick, const float *logits, int vocab_size, float *weights,
                  struct sampling sampling, const struct step_state *step)
{
    dependency_wait();
    dependency_release();
    float max = pick->top_logits[0];
    if (pick->n_top == 0 || isinf(max))
        return;
    float inverse = 1.0f / sampling.temperature;
    for (int id = threadIdx.x; id < vocab_size; id += SAMPLE_THREADS) {
        float z = (logits[id] - max) * inverse;
        weights[id] = isnan(z) ? 0.0f : expf(z);
    }
    __syncthreads();
    filter(logits, weights, vocab_size, &sampling);
    int each = (vocab_size + SAMPLE_THREADS - 1) / SAMPLE_THREADS;
    int first = min((int)threadIdx.x * each, vocab_size), end = min(first + each, vocab_size);
    sum_type mine = 0;
    for (int id = first; id < end; id++)
        mine += fixed(weights[id]);
    sum_type total = block_total(mine), passed = block_before(mine);
    struct philox random = philox_4x32(step->seed, step->step, 0, 0, PHILOX_PICK);
    sum_type target = (sum_type)((double)philox_unit(random.word[0]) * (double)total);
    if (passed > target || passed + mine <= target)
        return; /* it lies with another thread */
    for (int id = first; id < end; id++) {
        passed += fixed(weights[id]);
        if (passed <= target)
            continue;
        pick->token = id;
        pick->logit = logits[id];
        return;
    }
}

void cuda_sample(struct device *dev, struct pick *pick, const float *logits, int vocab_size,
                 float *weights, const struct sampling *sampling, const struct step_state *step)
{
    cuda_launch(dev, sample_kernel, dim3(1), dim3(SAMPLE_THREADS), 0, pick, logits, vocab_size,
                weights, *sampling, step);
}
