/* Sums of exponentials over the vocabulary, in pieces of a fixed size, so that results do not
 * depend on the number of threads. */
#ifndef ATTNSCOPE_KERNELS_CPU_LOGITS_H
#define ATTNSCOPE_KERNELS_CPU_LOGITS_H

#include "kernels/cpu/cpu.h"

enum { LOGITS_PER_CHUNK = 8192 };

static inline int logits_chunks(int vocab_size)
{
    return (vocab_size + LOGITS_PER_CHUNK - 1) / LOGITS_PER_CHUNK;
}

/* Elements of one chunk. */
static inline int logits_in_chunk(int vocab_size, int chunk)
{
    int left = vocab_size - chunk * LOGITS_PER_CHUNK;
    return left < LOGITS_PER_CHUNK ? left : LOGITS_PER_CHUNK;
}

struct logits_sum {
    float max;  /* -INFINITY if there is no number above it; NaN does not count */
    double sum; /* of exp(logit - max) */
};

/* Over logits [n]. */
struct logits_sum logits_sum_exp(const float *logits, int n);

/* log(sum exp(logit)) over all chunks: -INFINITY, or INFINITY, where the largest logit is so. */
double logits_combine(const struct logits_sum *chunks, int n_chunks);

#endif
