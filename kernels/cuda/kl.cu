/* KL divergence of two rows of logits: the log sums of both, then the terms. */
#include "kernels/cuda/logits.cuh"

/* One chunk of the vocabulary a block; sums [2, n_chunks]: p's, then q's. */
static __global__ void __launch_bounds__(LOGITS_THREADS)
    kl_sums_kernel(struct logits_sum *sums, const float *p, const float *q, int vocab_size)
{
    dependency_wait();
    dependency_release();
    float x[LOGITS_PER_THREAD];
    for (int side = 0; side < 2; side++) {
        load_chunk(x, side ? q : p, vocab_size);
        struct logits_sum sum = chunk_sum(x);
        if (threadIdx.x == 0)
            sums[side * gridDim.x + blockIdx.x] = sum;
    }
}

/* p (log p - log q) + q - p: never negative, and of second order in the difference, so that errors
 * of the two log sums do not show in a small divergence.  The q - p of all tokens add up to 0. */
static __device__ double kl_term(double log_p, double log_q)
{
    double p = exp(log_p), difference = log_p - log_q;
    if (p == 0)
        return exp(log_q);
    if (fabs(difference) < 0.5)
        return p * (difference + expm1(-difference));
    return p * difference + exp(log_q) - p;
}

/* One chunk a block; the last block adds the parts up in order. */
static __global__ void __launch_bounds__(LOGITS_THREADS)
    kl_terms_kernel(float *out, const struct logits_sum *sums, const float *p, const float *q,
                    int vocab_size, double *parts, uint32_t *ticket)
{
    dependency_wait();
    dependency_release();
    double log_sum_p = combine_sums(sums, sizeof *sums, gridDim.x);
    double log_sum_q = combine_sums(sums + gridDim.x, sizeof *sums, gridDim.x);
    double part = 0;
    for (int i = 0; i < LOGITS_PER_THREAD; i++) {
        int id = logit_id(i);
        if (id < vocab_size)
            part += kl_term((double)p[id] - log_sum_p, (double)q[id] - log_sum_q);
    }
    part = block_sum(part);
    if (threadIdx.x == 0)
        parts[blockIdx.x] = part;
    if (!block_is_last(ticket))
        return;
    double sum = 0;
    for (int i = threadIdx.x; i < (int)gridDim.x; i += LOGITS_THREADS)
        sum += __ldcg(&parts[i]);
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        *out = (float)sum;
}

void cuda_kl_divergence(struct device *dev, float *out, const float *p, const float *q,
                        int vocab_size)
{
    assert(vocab_size > 0);
    size_t n_chunks = (size_t)logits_chunks(vocab_size);
    struct logits_sum *sums = (struct logits_sum *)cuda_workspace(
        dev, WORKSPACE_PICK, n_chunks * (2 * sizeof *sums + sizeof(double)));
    uint32_t *tickets =
        (uint32_t *)cuda_workspace(dev, WORKSPACE_TICKETS, N_TICKETS * sizeof(uint32_t));
    if (!sums || !tickets)
        return;
    double *parts = (double *)(sums + 2 * n_chunks);
    cuda_launch(dev, kl_sums_kernel, dim3((unsigned)n_chunks), dim3(LOGITS_THREADS), 0, sums, p, q,
                vocab_size);
    cuda_launch(dev, kl_terms_kernel, dim3((unsigned)n_chunks), dim3(LOGITS_THREADS), 0, out, sums,
                p, q, vocab_size, parts, tickets);
}
