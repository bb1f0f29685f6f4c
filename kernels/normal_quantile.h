/* Quantiles of the normal distribution, on the host: a call's bounds are computed once and go to
 * the device as numbers. */
#ifndef ATTNSCOPE_KERNELS_NORMAL_QUANTILE_H
#define ATTNSCOPE_KERNELS_NORMAL_QUANTILE_H

#include <assert.h>
#include <math.h>

/* The z that a standard normal variable exceeds with probability `tail`, in (0, 1); to about 1e-15
 * relative to the larger of z and 1.  The tail is what is given, since 1 - tail would lose its
 * digits.
 *   Halley's method on erfc, from a start good to 4.5e-4: Abramowitz and Stegun 1964, 26.2.23. */
static inline double normal_quantile(double tail)
{
    assert(tail > 0.0 && tail < 1.0);
    if (tail > 0.5)
        return -normal_quantile(1.0 - tail);
    double t = sqrt(-2.0 * log(tail));
    double z = t - (2.515517 + t * (0.802853 + t * 0.010328)) /
                       (1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308)));
    for (int i = 0; i < 3; i++) {
        double density = exp(-0.5 * z * z) * 0.39894228040143267794;
        double step = (0.5 * erfc(z * 0.70710678118654752440) - tail) / density;
        z += step / (1.0 + 0.5 * z * step);
    }
    return z;
}

#endif
