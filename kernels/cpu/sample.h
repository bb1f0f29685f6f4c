/* Drawing a token: temperature, top_k, top_p, min_p, in this order, then the draw. */
#ifndef ATTNSCOPE_KERNELS_CPU_SAMPLE_H
#define ATTNSCOPE_KERNELS_CPU_SAMPLE_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/cpu/cpu.h"

struct candidate {
    float logit;
    int32_t id;
};

/* Candidates are ordered by falling logit, then rising id. */
static inline bool candidate_is_better(struct candidate a, struct candidate b)
{
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

size_t sample_bytes(int vocab_size);

/* space: sample_bytes.  max: the largest logit, finite.  sampling->temperature > 0.
 * The draw is by the inverse of the cumulated probability over rising ids, from one number that
 * depends on (seed, step), so that lanes whose logits are close draw the same token. */
int sample_draw(struct device *dev, void *space, const float *logits, int vocab_size, float max,
                const struct sampling *sampling, const struct step_state *step);

#endif
