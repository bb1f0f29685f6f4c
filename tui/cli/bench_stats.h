/* Order statistics of repeated timings. */
#ifndef ATTNSCOPE_TUI_CLI_BENCH_STATS_H
#define ATTNSCOPE_TUI_CLI_BENCH_STATS_H

#include <stddef.h>

/* The q-quantile (0: smallest, 0.5: median, 1: largest) of values [n], n > 0, which are sorted. */
double bench_quantile(double *values, size_t n, double q);

#endif
