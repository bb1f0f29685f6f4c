/* Draws without replacement: the images of 0 .. n - 1 under a keyed permutation of the keys that a
 * choice may take, so that a larger draw holds the smaller one. */
#ifndef ATTNSCOPE_KERNELS_CPU_RANDOM_DRAW_H
#define ATTNSCOPE_KERNELS_CPU_RANDOM_DRAW_H

#include "kernels/cpu/selection.h"

/* Which keys of a row one choice draws from. */
struct random_draw {
    int row, begin, end; /* for the lists of heads [begin, end) */
    struct candidates candidates;
    uint64_t *taken; /* bits by place: keys that every one of those lists has */
    int n_left;      /* places that are not taken */
    struct permutation permutation;
};

/* For choice `which` of a row, among keys in `window`.  The bits lie in scratch->buffer[1].ranks.
 */
void random_draw_start(struct random_draw *draw, const struct selection *sel,
                       const struct attention *att, enum share share, int row, int which, int slot,
                       struct key_range window, const struct select_scratch *scratch);

/* scratch->keys [n], ascending, n <= n_left; all.ranks is used. */
void random_draw_keys(const struct random_draw *draw, const struct selection_kernels *kernels,
                      int n, const struct select_scratch *scratch);

/* Writes those of keys [n], ascending, that a head's list lacks to `to` [n]; returns how many. */
int random_draw_lacking(const struct random_draw *draw, const struct selection *sel, int head,
                        const uint32_t *keys, int n, uint32_t *to);

/* Adds keys [n], ascending, to the draw's lists, less those that a list has: they keep their
 * probability.  prob [n], or NULL: constant.  `all` is used. */
void random_draw_add(const struct random_draw *draw, struct selection *sel, const uint32_t *keys,
                     const float *prob, float constant, int n,
                     const struct select_scratch *scratch);

#endif
