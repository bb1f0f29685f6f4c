/* One step of an answer, as measured. */
#ifndef ATTNSCOPE_ENGINE_RUN_ANSWER_H
#define ATTNSCOPE_ENGINE_RUN_ANSWER_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/backend.h"

/* Step 0 is the question pass, which gives the first token; step i > 0 is one decode step. */
struct answer_step {
    struct pick pick; /* the token and the candidates beside it */
    int64_t step_us;  /* device clock: forward pass and choice of the token */
    /* Device clock: of a replayed step, the attention of the last step of its block run once more,
     * since a recording holds no marks. */
    int64_t attention_us;
    /* Host clock: from the step's start to its token being told; of a replayed step, its share of
     * the block. */
    int64_t wall_us;
    bool probed; /* not timed: its times hold the probe's work */
    float kl;    /* forced mode: KL(base || lane) in nats; 0 otherwise */
};

static inline float answer_logprob(const struct answer_step *s)
{
    return s->pick.logit - s->pick.log_sum_exp;
}

#endif
