/* Timing of device work: see the header. */
#include "tui/cli/bench_timed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "tui/cli/bench_stats.h"

enum { WARM_UP = 3, N_RESAMPLES = 1000, FROM_SLOT = 0, TO_SLOT = 1 };

bool bench_sync(struct bench *b, struct error *err)
{
    char why[256] = "";
    return b->backend->sync(b->dev, why, sizeof why) ||
           fail_code(err, EXIT_CODE_RUNTIME, "the device failed: %s", why);
}

bool bench_timed_open(struct bench *b, struct bench_timed *t, void (*enqueue)(void *user),
                      void *user, struct error *err)
{
    *t = (struct bench_timed){.enqueue = enqueue, .user = user};
    enqueue(user); /* sizes workspaces, which recording may not */
    if (!bench_sync(b, err))
        return false;
    if (!b->backend->record_begin)
        return true;
    if (b->backend->record_begin(b->dev)) {
        enqueue(user);
        t->recording = b->backend->record_end(b->dev);
    }
    return bench_sync(b, err);
}

void bench_timed_close(struct bench *b, struct bench_timed *t)
{
    if (t->recording)
        b->backend->recording_close(b->dev, t->recording);
    *t = (struct bench_timed){0};
}

double bench_timed_us(struct bench *b, const struct bench_timed *t)
{
    b->backend->time_mark(b->dev, FROM_SLOT);
    if (t->recording)
        b->backend->replay(b->dev, t->recording);
    else
        t->enqueue(t->user);
    b->backend->time_mark(b->dev, TO_SLOT);
    return b->backend->time_between_us(b->dev, FROM_SLOT, TO_SLOT);
}

double bench_timed_median_us(struct bench *b, const struct bench_timed *t)
{
    size_t n = (size_t)b->n_repeats;
    double *us = xcalloc(n, sizeof *us);
    for (int i = 0; i < WARM_UP; i++)
        bench_timed_us(b, t);
    for (size_t i = 0; i < n; i++)
        us[i] = bench_timed_us(b, t);
    double median = bench_quantile(us, n, 0.5);
    free(us);
    return median;
}

void bench_timed_pairs(struct bench *b, const struct bench_timed *dense,
                       const struct bench_timed *sparse, double *dense_us, double *sparse_us,
                       double *ratios)
{
    for (int i = 0; i < WARM_UP; i++) {
        bench_timed_us(b, dense);
        if (sparse->enqueue)
            bench_timed_us(b, sparse);
    }
    for (int i = 0; i < b->n_repeats; i++) {
        bool sparse_first = i % 2 == 1;
        if (sparse->enqueue && sparse_first)
            sparse_us[i] = bench_timed_us(b, sparse);
        dense_us[i] = bench_timed_us(b, dense);
        if (sparse->enqueue && !sparse_first)
            sparse_us[i] = bench_timed_us(b, sparse);
        ratios[i] = sparse_us[i] > 0 ? dense_us[i] / sparse_us[i] : 0;
    }
}

struct bench_interval bench_median_interval(const double *values, size_t n)
{
    double *drawn = xcalloc(n, sizeof *drawn);
    double *medians = xcalloc(N_RESAMPLES, sizeof *medians);
    uint64_t random = 1;
    for (size_t i = 0; i < N_RESAMPLES; i++) {
        for (size_t j = 0; j < n; j++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            drawn[j] = values[(size_t)((random >> 33) * n >> 31)];
        }
        medians[i] = bench_quantile(drawn, n, 0.5);
    }
    memcpy(drawn, values, n * sizeof *drawn);
    struct bench_interval interval = {
        .low = bench_quantile(medians, N_RESAMPLES, 0.05),
        .median = bench_quantile(drawn, n, 0.5),
        .high = bench_quantile(medians, N_RESAMPLES, 0.95),
    };
    free(medians);
    free(drawn);
    return interval;
}

void bench_set_interval(struct json *result, const char *name, struct bench_interval interval)
{
    char full[80];
    snprintf(full, sizeof full, "%s_q05", name);
    json_set_number(result, full, interval.low);
    snprintf(full, sizeof full, "%s_median", name);
    json_set_number(result, full, interval.median);
    snprintf(full, sizeof full, "%s_q95", name);
    json_set_number(result, full, interval.high);
}
