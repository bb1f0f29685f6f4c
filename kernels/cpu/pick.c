/* Choosing a token: the best candidates and the logarithm of the sum, then greedy or a draw. */
#include <assert.h>
#include <math.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/logits.h"
#include "kernels/cpu/sample.h"

/* What one chunk of the vocabulary contributes. */
struct pick_chunk {
    struct candidate top[PICK_TOP]; /* best first */
    int n_top;
};

struct pick_job {
    const float *logits;
    int vocab_size;
    struct pick_chunk *chunks;
    struct logits_sum *sums;
};

/* Keeps the best PICK_TOP, in order. */
static int insert(struct candidate *top, int n_top, struct candidate candidate)
{
    if (n_top == PICK_TOP && !candidate_is_better(candidate, top[n_top - 1]))
        return n_top;
    int at = n_top < PICK_TOP ? n_top++ : n_top - 1;
    for (; at > 0 && candidate_is_better(candidate, top[at - 1]); at--)
        top[at] = top[at - 1];
    top[at] = candidate;
    return n_top;
}

static void pick_task(void *user, int task_index, int thread_index)
{
    (void)thread_index;
    const struct pick_job *job = user;
    struct pick_chunk *chunk = &job->chunks[task_index];
    int first = task_index * LOGITS_PER_CHUNK;
    int n = logits_in_chunk(job->vocab_size, task_index);
    const float *logits = job->logits + first;
    job->sums[task_index] = logits_sum_exp(logits, n);
    chunk->n_top = 0;
    float worst = -INFINITY; /* of a full list: what does not exceed it is not among the best */
    for (int i = 0; i < n; i++) {
        bool full = chunk->n_top == PICK_TOP;
        if (full ? !(logits[i] > worst) : logits[i] != logits[i])
            continue;
        chunk->n_top = insert(chunk->top, chunk->n_top,
                              (struct candidate){.logit = logits[i], .id = first + i});
        worst = chunk->top[chunk->n_top - 1].logit;
    }
}

/* The best of all chunks. */
static void collect_top(struct pick *out, const struct pick_chunk *chunks, int n_chunks)
{
    struct candidate top[PICK_TOP];
    int n_top = 0;
    for (int i = 0; i < n_chunks; i++)
        for (int t = 0; t < chunks[i].n_top; t++)
            n_top = insert(top, n_top, chunks[i].top[t]);
    out->n_top = n_top;
    for (int t = 0; t < PICK_TOP; t++) {
        out->top_ids[t] = t < n_top ? top[t].id : 0;
        out->top_logits[t] = t < n_top ? top[t].logit : 0;
    }
}

void cpu_pick(struct device *dev, struct pick *out, const float *logits, int vocab_size,
              const struct sampling *sampling, const struct step_state *step)
{
    assert(vocab_size > 0);
    if (cpu_failed(dev))
        return;
    size_t n_chunks = (size_t)logits_chunks(vocab_size);
    bool greedy = !(sampling->temperature > 0);
    size_t draw_bytes = greedy ? 0 : sample_bytes(vocab_size);
    struct pick_job job = {.logits = logits, .vocab_size = vocab_size};
    char *space = cpu_workspace(dev, CPU_WORKSPACE_PICK,
                                draw_bytes + n_chunks * (sizeof *job.chunks + sizeof *job.sums));
    if (!space)
        return;
    job.sums = (struct logits_sum *)(space + draw_bytes);
    job.chunks = (struct pick_chunk *)(job.sums + n_chunks);
    cpu_parallel(dev, (int)n_chunks, pick_task, &job);
    collect_top(out, job.chunks, (int)n_chunks);
    out->log_sum_exp = (float)logits_combine(job.sums, (int)n_chunks);
    /* Without any number among the logits: token 0, so that the answer ends by its own rules. */
    out->token = out->n_top ? out->top_ids[0] : 0;
    if (!greedy && out->n_top && !isinf(out->top_logits[0]))
        out->token =
            sample_draw(dev, space, logits, vocab_size, out->top_logits[0], sampling, step);
    out->logit = logits[out->token];
}

/* --- KL divergence ------------------------------------------------------------------------- */

struct kl_job {
    const float *p, *q;
    int vocab_size;
    struct logits_sum *p_sums, *q_sums;
    double *parts;
    double log_sum_p, log_sum_q;
};

static void kl_sum_task(void *user, int task_index, int thread_index)
{
    (void)thread_index;
    const struct kl_job *job = user;
    int first = task_index * LOGITS_PER_CHUNK;
    int n = logits_in_chunk(job->vocab_size, task_index);
    job->p_sums[task_index] = logits_sum_exp(job->p + first, n);
    job->q_sums[task_index] = logits_sum_exp(job->q + first, n);
}

/* p (log p - log q) + q - p: never negative, and of second order in the difference, so that errors
 * of the two log sums do not show in a small divergence.  The q - p of all tokens add up to 0. */
static double kl_term(double log_p, double log_q)
{
    double p = exp(log_p), difference = log_p - log_q;
    if (p == 0)
        return exp(log_q);
    if (fabs(difference) < 0.5)
        return p * (difference + expm1(-difference));
    return p * difference + exp(log_q) - p;
}

static void kl_part_task(void *user, int task_index, int thread_index)
{
    (void)thread_index;
    const struct kl_job *job = user;
    int first = task_index * LOGITS_PER_CHUNK;
    int n = logits_in_chunk(job->vocab_size, task_index);
    double part = 0;
    for (int i = first; i < first + n; i++)
        part += kl_term((double)job->p[i] - job->log_sum_p, (double)job->q[i] - job->log_sum_q);
    job->parts[task_index] = part;
}

void cpu_kl_divergence(struct device *dev, float *out, const float *p, const float *q,
                       int vocab_size)
{
    assert(vocab_size > 0);
    if (cpu_failed(dev))
        return;
    size_t n_chunks = (size_t)logits_chunks(vocab_size);
    struct logits_sum *sums =
        cpu_workspace(dev, CPU_WORKSPACE_PICK, n_chunks * (2 * sizeof *sums + sizeof(double)));
    if (!sums)
        return;
    struct kl_job job = {
        .p = p,
        .q = q,
        .vocab_size = vocab_size,
        .p_sums = sums,
        .q_sums = sums + n_chunks,
        .parts = (double *)(sums + 2 * n_chunks),
    };
    cpu_parallel(dev, (int)n_chunks, kl_sum_task, &job);
    job.log_sum_p = logits_combine(job.p_sums, (int)n_chunks);
    job.log_sum_q = logits_combine(job.q_sums, (int)n_chunks);
    cpu_parallel(dev, (int)n_chunks, kl_part_task, &job);
    double sum = 0;
    for (size_t i = 0; i < n_chunks; i++)
        sum += job.parts[i];
    *out = (float)sum;
}
