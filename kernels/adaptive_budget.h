/* How many keys a sample needs so that the softmax denominator is known to a relative error: the
 * arithmetic of select_adaptive (backend.h), the same on every backend, in f64.
 *
 * A row and head has keys that it holds and n_left that it may draw.  u = exp(z - max) of its keys,
 * max the same for all.  Sums run over keys in ascending order.
 * Source: Desai et al. 2025, "vAttention", arXiv 2510.05688. */
#ifndef ATTNSCOPE_KERNELS_ADAPTIVE_BUDGET_H
#define ATTNSCOPE_KERNELS_ADAPTIVE_BUDGET_H

#include <math.h>

#include "kernels/backend.h"
#include "kernels/portable.h"

/* Keys of the base sample: base, or its share of n_left; at least 2, at most n_left. */
PORTABLE int adaptive_base(struct budget base, int n_left)
{
    double n = base.is_fraction ? base.value * n_left : base.value;
    n = n > 2.0 ? n : 2.0;
    return n < n_left ? (int)n : n_left;
}

PORTABLE double adaptive_sum(const double *u, int n)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++)
        sum += u[i];
    return sum;
}

/* The sample standard deviation of n_drawn >= 2 values, of which u [n] sum to `sum` and the others
 * are 0: keys that were drawn for the heads beside this one, which holds them already. */
PORTABLE double adaptive_deviation(const double *u, int n, double sum, int n_drawn)
{
    double mean = sum / n_drawn, squares = (n_drawn - n) * (mean * mean);
    for (int i = 0; i < n; i++)
        squares += (u[i] - mean) * (u[i] - mean);
    return sqrt(squares / (n_drawn - 1));
}

/* The whole denominator, estimated: what is held, and n_left / n_drawn times what was drawn. */
PORTABLE double adaptive_denominator(double held, double drawn, int n_drawn, int n_left)
{
    return held + drawn * ((double)n_left / n_drawn);
}

/* The size of a sample whose sum, scaled up to n_left keys, is off by no more than epsilon times
 * the denominator, as the central limit has it: quantile standard errors are that long. */
PORTABLE double adaptive_sample(double quantile, double deviation, int n_left, double epsilon,
                                double denominator)
{
    double errors = quantile * deviation * n_left / (epsilon * denominator);
    return errors * errors;
}

/* Keys to draw: the sample in whole keys, at least n_base, at most n_left (where a sample is not a
 * number as well). */
PORTABLE int adaptive_keys(double sample, int n_base, int n_left)
{
    if (!(sample < n_left))
        return n_left;
    int n = (int)ceil(sample);
    n = n > n_base ? n : n_base;
    return n < n_left ? n : n_left;
}

#endif
