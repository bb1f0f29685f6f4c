/* Order statistics: see the header. */
#include "tui/cli/bench_stats.h"

#include <assert.h>
#include <stdlib.h>

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_quantile(double *values, size_t n, double q)
{
    assert(n > 0);
    qsort(values, n, sizeof *values, compare);
    double at = q * (double)(n - 1);
    size_t i = (size_t)at;
    double part = at - (double)i;
    return i + 1 < n ? values[i] * (1 - part) + values[i + 1] * part : values[i];
}
