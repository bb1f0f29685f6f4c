/* Drawing a token: temperature, top_k, top_p, min_p, in this order, then the draw by the inverse of
 * the cumulated probability over rising ids.
 *
 * Weights are exp((logit - max) / temperature), and their sums are taken in integers of 2^-40,
 * whose order does not matter, so that a draw is the same every time.  top_k and top_p keep the
 * best candidates, by falling logit, then rising id: a search finds the last logit that is kept,
 * one digit of its key at a time, from a histogram of the candidates that agree in the digits
 * before; every block adds its chunk to the histogram, the last one reads the digit off it. */
#include "kernels/cuda/sample.cuh"

#include "kernels/cuda/logits.cuh"
#include "kernels/philox.h"

/* Tells the draws of tokens from those of maskers: "pick". */
#define PHILOX_PICK 0x7069636Bu
/* Below it exp is 0, as on the cpu backend. */
#define EXP_LOW -87.336f

enum {
    N_SEARCH_DIGITS = 3, /* of 11, 11 and 10 bits */
    DIGIT_BITS = 11,
    N_BINS = 1 << DIGIT_BITS,
    BINS_PER_THREAD = N_BINS / LOGITS_THREADS,
    WEIGHT_BITS = 40, /* a weight of 1 */
    LOW_BITS = 20     /* a block sums weights in two halves, of 32 bits each */
};

typedef unsigned long long sum_type;

enum sample_search { SEARCH_TOP_K, SEARCH_TOP_P };

/* (device) What a draw has found so far. */
struct sample_state {
    /* Kept are candidates above cut_key, and the first cut_ties that equal it, which weigh
     * tie_weight each; together they weigh total.  cut_key 0: all. */
    uint32_t cut_key;
    sum_type cut_ties, tie_weight, total;
    /* The search under way: the digits so far, what lies above them, and what is to be kept. */
    uint32_t key;
    sum_type n_above, above, target;
};

/* (device) What lies in each bin; zero between searches. */
struct sample_bins {
    sum_type weight[N_BINS], n[N_BINS];
};

/* (device) What a chunk has of the kept. */
struct sample_share {
    sum_type above, n_ties; /* weight above cut_key; how many equal it */
};

struct sample_job {
    struct pick *pick;
    const float *logits;
    int vocab_size;
    struct sampling sampling;
    const struct step_state *step;
    struct sample_state *state;
    struct sample_bins *bins;
    struct sample_share *shares; /* [chunks] */
    uint32_t *ticket;
};

/* --- Candidates ----------------------------------------------------------------------------- */

/* False if there is nothing to draw from: the greedy token stays. */
static __device__ __forceinline__ bool can_draw(const struct sample_job *job)
{
    return job->pick->n_top > 0 && !isinf(job->pick->top_logits[0]);
}

/* A candidate has a weight above 0. */
static __device__ __forceinline__ float weight_of(const struct sample_job *job, float max,
                                                  float logit)
{
    float z = (logit - max) * (1.0f / job->sampling.temperature);
    return z >= EXP_LOW ? expf(z) : 0.0f; /* NaN: 0 */
}

static __device__ __forceinline__ sum_type fixed(float weight)
{
    return (sum_type)((double)weight * (double)(1ull << WEIGHT_BITS) + 0.5);
}

/* --- Searches ------------------------------------------------------------------------------- */

/* Bits of a key below digit number `digit`. */
static __device__ __forceinline__ int digit_shift(int digit)
{
    return digit == 0 ? 21 : digit == 1 ? 10 : 0;
}

static __device__ __forceinline__ int digit_bins(int digit)
{
    return digit < 2 ? N_BINS : N_BINS / 2;
}

/* Adds the block's chunk to the histogram. */
static __device__ __forceinline__ void add_chunk(const struct sample_job *job, int digit)
{
    __shared__ uint32_t low[N_BINS], high[N_BINS], n[N_BINS];
    float x[LOGITS_PER_THREAD], max = job->pick->top_logits[0];
    int shift = digit_shift(digit), n_bins = digit_bins(digit);
    uint32_t key = digit ? job->state->key : 0;
    load_chunk(x, job->logits, job->vocab_size);
    for (int bin = threadIdx.x; bin < n_bins; bin += LOGITS_THREADS)
        low[bin] = high[bin] = n[bin] = 0;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < LOGITS_PER_THREAD; i++) {
        float weight = weight_of(job, max, x[i]);
        if (!(weight > 0))
            continue;
        uint32_t k = ordered_key(x[i]), bin = k >> shift & (uint32_t)(n_bins - 1);
        if (digit && (k ^ key) >> digit_shift(digit - 1))
            continue;
        sum_type w = fixed(weight);
        atomicAdd(&low[bin], (uint32_t)w & ((1u << LOW_BITS) - 1));
        atomicAdd(&high[bin], (uint32_t)(w >> LOW_BITS));
        atomicAdd(&n[bin], 1u);
    }
    __syncthreads();
    for (int bin = threadIdx.x; bin < n_bins; bin += LOGITS_THREADS)
        if (n[bin]) {
            atomicAdd(&job->bins->weight[bin], ((sum_type)high[bin] << LOW_BITS) + low[bin]);
            atomicAdd(&job->bins->n[bin], (sum_type)n[bin]);
        }
}

/* How much is to be kept: of candidates for top_k, of weight for top_p. */
static __device__ __forceinline__ sum_type search_target(const struct sample_job *job,
                                                         const struct sample_state *found,
                                                         enum sample_search search, sum_type total)
{
    if (search == SEARCH_TOP_K)
        return (sum_type)job->sampling.top_k;
    if (found->cut_key)
        total = found->total;
    double target = ceil((double)job->sampling.top_p * (double)total);
    return target >= 1 ? (sum_type)target : 1;
}

/* The last digit: how many of those at the key are kept. */
static __device__ __forceinline__ void finish_search(struct sample_state *state,
                                                     enum sample_search search, sum_type left,
                                                     sum_type n, sum_type weight)
{
    sum_type each = weight / n, ties = left;
    if (search == SEARCH_TOP_P)
        ties = each ? (left + each - 1) / each : n;
    ties = ties < 1 ? 1 : ties < n ? ties : n;
    state->cut_key = state->key;
    state->cut_ties = ties;
    state->tie_weight = each;
    state->total = state->above + ties * each;
}

/* Reads the next digit off the histogram, and empties it.  Thread i has the i-th highest bins. */
static __device__ __forceinline__ void read_digit(const struct sample_job *job,
                                                  enum sample_search search, int digit)
{
    struct sample_state *state = job->state, found = *state;
    int first = digit_bins(digit) - 1 - (int)threadIdx.x * BINS_PER_THREAD;
    sum_type n[BINS_PER_THREAD], weight[BINS_PER_THREAD], my_n = 0, my_weight = 0;
#pragma unroll
    for (int i = 0; i < BINS_PER_THREAD; i++) {
        n[i] = weight[i] = 0;
        if (first - i < 0)
            continue;
        n[i] = __ldcg(&job->bins->n[first - i]);
        weight[i] = __ldcg(&job->bins->weight[first - i]);
        job->bins->n[first - i] = job->bins->weight[first - i] = 0;
        my_n += n[i];
        my_weight += weight[i];
    }
    if (digit == 0)
        found.n_above = found.above = 0;
    sum_type all_n, all_weight;
    sum_type n_above = found.n_above + block_before(my_n, &all_n);
    sum_type above = found.above + block_before(my_weight, &all_weight);
    if (digit == 0)
        found.target = search_target(job, &found, search, all_weight);
    /* No more than there is. */
    sum_type most = search == SEARCH_TOP_K ? found.n_above + all_n : found.above + all_weight;
    sum_type target = found.target < most ? found.target : most;
#pragma unroll
    for (int i = 0; i < BINS_PER_THREAD; i++) {
        sum_type before = search == SEARCH_TOP_K ? n_above : above;
        sum_type here = search == SEARCH_TOP_K ? n[i] : weight[i];
        if (before < target && target <= before + here) { /* in one bin of all */
            found.n_above = n_above;
            found.above = above;
            found.key = (digit ? found.key : 0) | (uint32_t)(first - i) << digit_shift(digit);
            if (digit == N_SEARCH_DIGITS - 1)
                finish_search(&found, search, target - before, n[i], weight[i]);
            *state = found;
        }
        n_above += n[i];
        above += weight[i];
    }
}

/* One digit of a search.  One chunk of the vocabulary a block. */
static __global__ void __launch_bounds__(LOGITS_THREADS)
    search_kernel(const __grid_constant__ struct sample_job job, enum sample_search search,
                  int digit)
{
    dependency_wait();
    dependency_release();
    if (!can_draw(&job))
        return;
    add_chunk(&job, digit);
    if (block_is_last(job.ticket))
        read_digit(&job, search, digit);
}

/* Before the first search, and where there is none. */
static __global__ void __launch_bounds__(LOGITS_THREADS)
    sample_start_kernel(const __grid_constant__ struct sample_job job)
{
    dependency_wait();
    dependency_release();
    for (int bin = threadIdx.x; bin < N_BINS; bin += LOGITS_THREADS)
        job.bins->n[bin] = job.bins->weight[bin] = 0;
    if (threadIdx.x == 0) {
        struct sample_state none = {};
        *job.state = none;
    }
}

/* --- The draw ------------------------------------------------------------------------------- */

/* Its weight, if a logit is kept and lies above the cut; ties are told apart. */
static __device__ __forceinline__ sum_type kept_weight(const struct sample_job *job,
                                                       uint32_t cut_key, float max, float logit,
                                                       bool *tie)
{
    float weight = weight_of(job, max, logit);
    *tie = false;
    if (!(weight > 0) || weight < job->sampling.min_p)
        return 0;
    uint32_t key = ordered_key(logit);
    *tie = key == cut_key;
    return key > cut_key ? fixed(weight) : 0;
}

/* Where in the vocabulary the draw falls. */
struct sample_place {
    int chunk;
    sum_type left,
        ties_before; /* of the target, from the chunk's begin on; ties before the chunk */
};

/* Of n ties, the part that is kept after ties_before others. */
static __device__ __forceinline__ sum_type kept_ties(const struct sample_state *state,
                                                     sum_type ties_before, sum_type n)
{
    sum_type left = state->cut_ties > ties_before ? state->cut_ties - ties_before : 0;
    return n < left ? n : left;
}

/* The last block finds the chunk.  False if nothing weighs anything. */
static __device__ __forceinline__ bool find_chunk(const struct sample_job *job,
                                                  const struct sample_state *state, int n_chunks,
                                                  struct sample_place *place)
{
    int each = (n_chunks + LOGITS_THREADS - 1) / LOGITS_THREADS;
    int begin = min((int)threadIdx.x * each, n_chunks), end = min(begin + each, n_chunks);
    sum_type n_ties = 0, weight = 0, total;
    for (int i = begin; i < end; i++)
        n_ties += __ldcg(&job->shares[i].n_ties);
    sum_type ties_before = block_before(n_ties, &total), ties = ties_before;
    for (int i = begin; i < end; i++) {
        n_ties = __ldcg(&job->shares[i].n_ties);
        weight +=
            __ldcg(&job->shares[i].above) + kept_ties(state, ties, n_ties) * state->tie_weight;
        ties += n_ties;
    }
    sum_type before = block_before(weight, &total);
    struct philox random = philox_4x32(job->step->seed, job->step->step, 0, 0, PHILOX_PICK);
    sum_type target = (sum_type)((double)philox_unit(random.word[0]) * (double)total);
    if (before <= target && target < before + weight) {
        int i = begin;
        for (ties = ties_before;; i++, before += weight, ties += n_ties) {
            n_ties = __ldcg(&job->shares[i].n_ties);
            weight =
                __ldcg(&job->shares[i].above) + kept_ties(state, ties, n_ties) * state->tie_weight;
            if (target < before + weight)
                break;
        }
        place->chunk = i;
        place->left = target - before;
        place->ties_before = ties;
    }
    __syncthreads();
    return total > 0;
}

/* The last block finds the token in the chunk; thread i has its logits 4 i .. 4 i + 3. */
static __device__ __forceinline__ void find_token(const struct sample_job *job,
                                                  const struct sample_state *state,
                                                  const struct sample_place *place)
{
    float max = job->pick->top_logits[0];
    int first = place->chunk * LOGITS_PER_BLOCK + (int)threadIdx.x * LOGITS_PER_THREAD;
    sum_type weight[LOGITS_PER_THREAD], n_ties = 0, mine = 0, total;
    bool tie[LOGITS_PER_THREAD];
#pragma unroll
    for (int i = 0; i < LOGITS_PER_THREAD; i++) {
        float logit = first + i < job->vocab_size ? job->logits[first + i] : NAN;
        weight[i] = kept_weight(job, state->cut_key, max, logit, &tie[i]);
        n_ties += tie[i];
    }
    sum_type ties = place->ties_before + block_before(n_ties, &total);
#pragma unroll
    for (int i = 0; i < LOGITS_PER_THREAD; i++) {
        if (tie[i])
            weight[i] = kept_ties(state, ties++, 1) * state->tie_weight;
        mine += weight[i];
    }
    sum_type before = block_before(mine, &total);
#pragma unroll
    for (int i = 0; i < LOGITS_PER_THREAD; i++) {
        if (before <= place->left && place->left < before + weight[i]) { /* one of all */
            job->pick->token = first + i;
            job->pick->logit = job->logits[first + i];
        }
        before += weight[i];
    }
}

/* One chunk of the vocabulary a block tells what it has of the kept; the last block draws. */
static __global__ void __launch_bounds__(LOGITS_THREADS)
    draw_kernel(const __grid_constant__ struct sample_job job)
{
    __shared__ struct sample_place place;
    dependency_wait();
    dependency_release();
    if (!can_draw(&job))
        return;
    const struct sample_state state = *job.state;
    float x[LOGITS_PER_THREAD], max = job.pick->top_logits[0];
    sum_type above = 0, n_ties = 0;
    load_chunk(x, job.logits, job.vocab_size);
#pragma unroll
    for (int i = 0; i < LOGITS_PER_THREAD; i++) {
        bool tie;
        above += kept_weight(&job, state.cut_key, max, x[i], &tie);
        n_ties += tie;
    }
    struct sample_share share;
    block_before(above, &share.above);
    block_before(n_ties, &share.n_ties);
    if (threadIdx.x == 0)
        job.shares[blockIdx.x] = share;
    if (!block_is_last(job.ticket))
        return;
    if (find_chunk(&job, &state, gridDim.x, &place)) {
        find_token(&job, &state, &place);
    } else if (threadIdx.x == 0) { /* min_p leaves none */
        job.pick->token = 0;
        job.pick->logit = job.logits[0];
    }
}

/* --- The launches --------------------------------------------------------------------------- */

static size_t aligned(size_t n_bytes)
{
    return (n_bytes + 15) / 16 * 16;
}

size_t sample_bytes(int vocab_size)
{
    return aligned(sizeof(struct sample_state)) + aligned(sizeof(struct sample_bins)) +
           (size_t)logits_chunks(vocab_size) * sizeof(struct sample_share);
}

void cuda_sample(struct device *dev, struct pick *pick, const float *logits, int vocab_size,
                 void *space, const struct sampling *sampling, const struct step_state *step)
{
    dim3 grid(logits_chunks(vocab_size)), block(LOGITS_THREADS);
    struct sample_job job = {};
    char *at = (char *)space;
    job.pick = pick;
    job.logits = logits;
    job.vocab_size = vocab_size;
    job.sampling = *sampling;
    job.step = step;
    job.state = (struct sample_state *)at;
    at += aligned(sizeof *job.state);
    job.bins = (struct sample_bins *)at;
    at += aligned(sizeof *job.bins);
    job.shares = (struct sample_share *)at;
    job.ticket = (uint32_t *)cuda_workspace(dev, WORKSPACE_TICKETS, N_TICKETS * sizeof(uint32_t));
    cuda_launch(dev, sample_start_kernel, dim3(1), block, 0, job);
    if (sampling->top_k > 0)
        for (int digit = 0; digit < N_SEARCH_DIGITS; digit++)
            cuda_launch(dev, search_kernel, grid, block, 0, job, SEARCH_TOP_K, digit);
    if (sampling->top_p < 1)
        for (int digit = 0; digit < N_SEARCH_DIGITS; digit++)
            cuda_launch(dev, search_kernel, grid, block, 0, job, SEARCH_TOP_P, digit);
    cuda_launch(dev, draw_kernel, grid, block, 0, job);
}
