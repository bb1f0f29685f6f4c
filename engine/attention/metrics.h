/* The definitions of every figure that screens and reports show, in one place, with the words
 * that help and reports print. */
#ifndef ATTNSCOPE_ENGINE_ATTENTION_METRICS_H
#define ATTNSCOPE_ENGINE_ATTENTION_METRICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/backend.h"

struct metric {
    const char *name;       /* "density" */
    const char *unit;       /* "", "x", "ms", "us" */
    const char *definition; /* one or two sentences */
};

/* NULL-name-terminated: density, read density, sparsity, speed-up (attention, step, answer),
 * Jaccard, agreement, divergence, mass recall, output error, TTFT, ITL. */
extern const struct metric metrics[];
const struct metric *metric_find(const char *name);

/* selected / visible, 1 when nothing was visible (dense). */
double metric_density(const struct attention_counts *c);
double metric_read_density(const struct attention_counts *c);
/* dense / sparse; 0 if sparse is 0. */
double metric_speedup(double dense, double sparse);

/* Of the sets of whitespace-separated words of two answers (bytes, case-sensitive).  Both empty:
 * 1; one empty: 0. */
double metric_jaccard(const char *a, size_t n_a, const char *b, size_t n_b);

/* Near-tie: a margin below this many logits could flip by rounding alone. */
#define METRIC_NEAR_TIE 0.1

#endif
