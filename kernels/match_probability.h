/* The probability that a key shares the query's code in enough tables of random planes.
 * Source: Chen et al. 2024, "MagicPIG", arXiv 2410.16179, section 4. */
#ifndef ATTNSCOPE_KERNELS_MATCH_PROBABILITY_H
#define ATTNSCOPE_KERNELS_MATCH_PROBABILITY_H

#include <float.h>
#include <math.h>

#include "kernels/portable.h"

/* In at least min_hits (1 or 2) of n_tables tables of n_bits planes each, at an angle of this
 * cosine; in (0, 1]. */
PORTABLE float match_probability(int n_tables, int n_bits, int min_hits, double cosine)
{
    double same = 1.0 - acos(fmin(fmax(cosine, -1.0), 1.0)) / 3.14159265358979323846, t = 1.0;
    for (; n_bits > 0; n_bits >>= 1, same *= same)
        t *= n_bits & 1 ? same : 1.0;
    if (t >= 1.0)
        return 1.0f;
    double p = -expm1(n_tables * log1p(-t));
    if (min_hits > 1)
        p -= n_tables * t * (1.0 - p) / (1.0 - t);
    return p > (double)FLT_MIN ? p < 1.0 ? (float)p : 1.0f : FLT_MIN;
}

#endif
