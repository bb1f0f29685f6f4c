/* Timing of device work: operations enqueued by a function, recorded where the device can record,
 * and timed by the device's own clock. */
#ifndef ATTNSCOPE_TUI_CLI_BENCH_TIMED_H
#define ATTNSCOPE_TUI_CLI_BENCH_TIMED_H

#include "tui/cli/bench.h"

struct bench_timed {
    void (*enqueue)(void *user); /* the same operations each time */
    void *user;
    struct recording *recording; /* NULL: enqueued anew each time */
};

/* Runs the work once as it is, then records it.  False: the device failed. */
bool bench_timed_open(struct bench *b, struct bench_timed *t, void (*enqueue)(void *user),
                      void *user, struct error *err);
void bench_timed_close(struct bench *b, struct bench_timed *t);

/* Microseconds of one run. */
double bench_timed_us(struct bench *b, const struct bench_timed *t);

/* Median over n_repeats runs after a few for warming up. */
double bench_timed_median_us(struct bench *b, const struct bench_timed *t);

/* Pairs of two works in alternating order D S S D, b->n_repeats of them; sparse may have no
 * enqueue.  Arrays [n_repeats]. */
void bench_timed_pairs(struct bench *b, const struct bench_timed *dense,
                       const struct bench_timed *sparse, double *dense_us, double *sparse_us,
                       double *ratios);

/* The 5 % and 95 % bounds of the median of values [n], by resampling them 1,000 times. */
struct bench_interval {
    double low, median, high;
};
struct bench_interval bench_median_interval(const double *values, size_t n);

/* Sets name_q05, name_median and name_q95: the interval of the median. */
void bench_set_interval(struct json *result, const char *name, struct bench_interval interval);

/* False with the device's reason if an operation failed. */
bool bench_sync(struct bench *b, struct error *err);

#endif
