/* Draws of keys with unequal chances: the likelier by their scores, the likelier drawn. */
#ifndef ATTNSCOPE_KERNELS_CPU_DRAW_WEIGHTED_H
#define ATTNSCOPE_KERNELS_CPU_DRAW_WEIGHTED_H

#include "kernels/cpu/random_draw.h"

#define PHILOX_DRAW 0x64726177u /* "draw": apart from other uses of philox */

struct weighted_draw {
    const struct random_draw *from;
    const struct selection *sel;
    const struct selection_kernels *kernels;
    const struct attention *att;
    int first_head, n_heads; /* whose scores count, in the selection's score buffer */
    int which, slot;         /* coordinates of randomness */
    enum draw_mode mode;     /* not DRAW_UNIFORM */
    double temperature;
    int n; /* draws, or keys */
};

/* The drawn keys, ascending, go to scratch->keys and their probabilities to
 * scratch->buffer[1].weights; returns how many.  All of scratch is used, draw->from->taken as well.
 *   P is the mean over heads of softmax(z / temperature) over the candidates that a head's list
 * lacks, in f32; sums are f64, over keys in ascending order.  Unit number i of a draw is philox of
 * (seed; layer + 2^16 which, position, i / 2, PHILOX_DRAW + slot), words 2 (i % 2) and the next.
 *   DRAW_MULTINOMIAL: draw i takes the first key whose sum of P up to it exceeds unit i times the
 * whole.  DRAW_GUMBEL: key j has P_j / -ln(unit j), which ranks as ln P_j plus Gumbel noise does;
 * the n largest are taken, ties to the lower key, and with k the next largest
 * p = 1 - exp(-P_j / k).
 * Source: multinomial sampling with its exact inclusion probabilities, Hansen and Hurwitz 1943;
 * Kool, van Hoof and Welling 2019, "Stochastic beams and where to find them". */
int draw_weighted(const struct weighted_draw *draw, const struct select_scratch *scratch);

#endif
