/* Choosing a token: every block finds the best candidates and the sum of its chunk of the
 * vocabulary, the last one to finish merges them.  A draw, where one is asked for, follows in
 * sample.cu. */
#include "kernels/cuda/logits.cuh"
#include "kernels/cuda/sample.cuh"

/* A candidate as a number that orders as candidates do: by rising logit, then by falling id. */
typedef unsigned long long candidate;

enum { NO_CANDIDATE = 0 };

/* What one block contributes. */
struct pick_chunk {
    candidate top[PICK_TOP]; /* best first, NO_CANDIDATE where there is none */
    struct logits_sum sum;
};

static __device__ __forceinline__ candidate candidate_of(float logit, int id)
{
    if (isnan(logit))
        return NO_CANDIDATE;
    return (candidate)ordered_key(logit) << 32 | (0xffffffffu - (unsigned)id);
}

static __device__ __forceinline__ int candidate_id(candidate c)
{
    return (int)(0xffffffffu - (unsigned)c);
}

static __device__ __forceinline__ candidate warp_best(candidate c)
{
    unsigned high = __reduce_max_sync(0xffffffffu, (unsigned)(c >> 32));
    unsigned low = __reduce_max_sync(0xffffffffu, (unsigned)(c >> 32) == high ? (unsigned)c : 0u);
    return (candidate)high << 32 | low;
}

/* The PICK_TOP best of a warp's candidates, N a lane, into top (lane 0 writes). */
template <int N> static __device__ __forceinline__ void warp_top(candidate x[N], candidate *top)
{
#pragma unroll
    for (int round = 0; round < PICK_TOP; round++) {
        candidate best = NO_CANDIDATE;
#pragma unroll
        for (int i = 0; i < N; i++)
            best = x[i] > best ? x[i] : best;
        best = warp_best(best);
#pragma unroll
        for (int i = 0; i < N; i++)
            x[i] = x[i] == best ? NO_CANDIDATE : x[i];
        if (threadIdx.x % WARP == 0)
            top[round] = best;
    }
}

/* The PICK_TOP best of the block into top (shared), for all threads to read. */
template <int N> static __device__ __forceinline__ void block_top(candidate x[N], candidate *top)
{
    enum { PER_LANE = LOGITS_WARPS * PICK_TOP / WARP };
    __shared__ candidate by_warp[LOGITS_WARPS * PICK_TOP];
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    warp_top<N>(x, by_warp + warp * PICK_TOP);
    __syncthreads();
    if (warp == 0) {
        candidate all[PER_LANE];
#pragma unroll
        for (int i = 0; i < PER_LANE; i++)
            all[i] = by_warp[i * WARP + lane];
        warp_top<PER_LANE>(all, top);
    }
    __syncthreads();
}

/* Puts one more into the best, which are in order; what falls out is gone. */
static __device__ __forceinline__ void insert(candidate best[PICK_TOP], candidate c)
{
#pragma unroll
    for (int i = 0; i < PICK_TOP; i++) {
        candidate old = best[i];
        best[i] = c > old ? c : old;
        c = c > old ? old : c;
    }
}

/* Writes the best of all chunks, and the greedy token, which a draw may replace. */
static __device__ __forceinline__ void finish_top(struct pick *out, const float *logits,
                                                  const struct pick_chunk *chunks, int n_chunks)
{
    __shared__ candidate top[PICK_TOP];
    candidate best[PICK_TOP] = {};
    int i = threadIdx.x;
    if (i < n_chunks)
#pragma unroll
        for (int t = 0; t < PICK_TOP; t++)
            best[t] = __ldcg(&chunks[i].top[t]);
    for (int at = i + LOGITS_THREADS; at < n_chunks; at += LOGITS_THREADS)
        for (int t = 0; t < PICK_TOP; t++)
            insert(best, __ldcg(&chunks[at].top[t]));
    block_top<PICK_TOP>(best, top);
    if (i < PICK_TOP) {
        bool is = top[i] != NO_CANDIDATE;
        out->top_ids[i] = is ? candidate_id(top[i]) : 0;
        out->top_logits[i] = is ? logits[candidate_id(top[i])] : 0.0f;
    }
    if (i == 0) {
        /* Without any number among the logits: token 0, so that the answer ends by its own rules.
         */
        int token = top[0] != NO_CANDIDATE ? candidate_id(top[0]) : 0, n_top = 0;
        for (int t = 0; t < PICK_TOP; t++)
            n_top += top[t] != NO_CANDIDATE;
        out->n_top = n_top;
        out->token = token;
        out->logit = logits[token];
    }
}

/* One chunk of the vocabulary a block; the last block to finish writes *out. */
static __global__ void __launch_bounds__(LOGITS_THREADS)
    pick_kernel(struct pick *out, const float *logits, int vocab_size, struct pick_chunk *chunks,
                uint32_t *ticket)
{
    __shared__ candidate top[PICK_TOP];
    dependency_wait();
    dependency_release();
    float x[LOGITS_PER_THREAD];
    candidate candidates[LOGITS_PER_THREAD];
    struct pick_chunk *chunk = &chunks[blockIdx.x];
    load_chunk(x, logits, vocab_size);
#pragma unroll
    for (int i = 0; i < LOGITS_PER_THREAD; i++)
        candidates[i] = candidate_of(x[i], logit_id(i));
    struct logits_sum sum = chunk_sum(x);
    block_top<LOGITS_PER_THREAD>(candidates, top);
    if (threadIdx.x < PICK_TOP)
        chunk->top[threadIdx.x] = top[threadIdx.x];
    if (threadIdx.x == 0)
        chunk->sum = sum;
    if (!block_is_last(ticket))
        return;
    finish_top(out, logits, chunks, gridDim.x);
    double log_sum_exp = combine_sums(&chunks->sum, sizeof *chunks, gridDim.x);
    if (threadIdx.x == 0)
        out->log_sum_exp = (float)log_sum_exp;
}

static size_t chunks_bytes(int vocab_size)
{
    return (size_t)logits_chunks(vocab_size) * sizeof(struct pick_chunk);
}

size_t cuda_pick_workspace_bytes(const struct device *dev, const struct workspace_need *need)
{
    (void)dev;
    (void)need;
    return chunks_bytes(RESERVED_VOCABULARY) + sample_bytes(RESERVED_VOCABULARY);
}

void cuda_pick(struct device *dev, struct pick *out, const float *logits, int vocab_size,
               const struct sampling *sampling, const struct step_state *step)
{
    assert(vocab_size > 0);
    size_t n_chunks = chunks_bytes(vocab_size);
    char *space = (char *)cuda_workspace(dev, WORKSPACE_PICK, n_chunks + sample_bytes(vocab_size));
    uint32_t *tickets =
        (uint32_t *)cuda_workspace(dev, WORKSPACE_TICKETS, N_TICKETS * sizeof(uint32_t));
    if (!space || !tickets)
        return;
    cuda_launch(dev, pick_kernel, dim3(logits_chunks(vocab_size)), dim3(LOGITS_THREADS), 0, out,
                logits, vocab_size, (struct pick_chunk *)space, tickets);
    if (sampling->temperature > 0)
        cuda_sample(dev, out, logits, vocab_size, space + n_chunks, sampling, step);
}

/* --- Going on to the next token --------------------------------------------------------------- */

/* One warp; lane i copies word i of the pick. */
static __global__ void advance_kernel(struct step_state *step, struct step_state *before,
                                      int32_t *token, const struct pick *chosen, struct pick *log,
                                      int n_log)
{
    dependency_wait();
    dependency_release();
    struct step_state now = *step;
    const int32_t *from = (const int32_t *)chosen;
    int32_t *to = (int32_t *)(log + now.step % (uint32_t)n_log);
    __syncwarp();
    for (size_t i = threadIdx.x; i < sizeof *chosen / sizeof *from; i += WARP)
        to[i] = from[i];
    if (threadIdx.x != 0)
        return;
    *before = now;
    *token = chosen->token;
    now.n_tail++;
    now.step++;
    *step = now;
}

void cuda_advance(struct device *dev, struct step_state *step, struct step_state *before,
                  int32_t *token, const struct pick *chosen, struct pick *log, int n_log)
{
    assert(n_log > 0 && sizeof(struct pick) % sizeof(int32_t) == 0);
    cuda_launch(dev, advance_kernel, dim3(1), dim3(WARP), 0, step, before, token, chosen, log,
                n_log);
}
