/* Where the reference project's masks differ from ours without changing an answer: its fixed
 * maskers also mark keys that a row cannot see.  For comparing masks only. */
#ifndef ATTNSCOPE_ENGINE_ATTENTION_REFERENCE_MASK_H
#define ATTNSCOPE_ENGINE_ATTENTION_REFERENCE_MASK_H

#include "engine/attention/stack.h"

/* A row: it stands at position and sees keys first_key..position of n_keys in its call. */
struct reference_row {
    int n_keys, first_key, position;
};

/* Adds to the ascending list keys [n] with prob [n], room for n_keys, the keys that the reference
 * would mark besides, with probability 1.  Returns the new count. */
int reference_mask_extend(const struct stack *s, const struct reference_row *row, int32_t *keys,
                          float *prob, int n);

/* The reference weights by 1/(p + 1e-6).  Ours weights by 1/p: this is the p that gives the
 * reference's weights but for one factor that all of a row's weights share, and so cancels. */
float reference_mask_prob(float p);

#endif
