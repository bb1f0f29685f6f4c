#include "tui/token_diff.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"

void token_diff_free(struct token_diff *d)
{
    free(d->runs);
    *d = (struct token_diff){0};
}

/* Adds one differing token in front of the runs found so far (they are found backwards). */
static void prepend(struct token_diff *d, size_t *capacity, int base, int n_base, int lane,
                    int n_lane)
{
    if (d->n > 0) {
        struct diff_run *last = &d->runs[d->n - 1];
        if (base + n_base == last->base && lane + n_lane == last->lane) {
            last->base = base;
            last->lane = lane;
            last->n_base += n_base;
            last->n_lane += n_lane;
            return;
        }
    }
    d->runs = array_grow(d->runs, capacity, (size_t)d->n + 1, sizeof *d->runs);
    d->runs[d->n++] = (struct diff_run){base, n_base, lane, n_lane};
}

static void reverse(struct token_diff *d)
{
    for (int i = 0; i < d->n / 2; i++) {
        struct diff_run t = d->runs[i];
        d->runs[i] = d->runs[d->n - 1 - i];
        d->runs[d->n - 1 - i] = t;
    }
}

/* Furthest x on each diagonal for each number of edits: row d of trace holds diagonals -d..d. */
static int search(int *trace, const int32_t *a, int n_a, const int32_t *b, int n_b, int max_edits)
{
    for (int d = 0; d <= max_edits; d++) {
        int *row = trace + (size_t)d * (size_t)d; /* rows hold 1, 3, 5, ... entries */
        const int *above = d ? trace + (size_t)(d - 1) * (size_t)(d - 1) : NULL;
        for (int k = -d; k <= d; k += 2) {
            int x = 0;
            if (d > 0) {
                int from_up = k < d ? (k + 1 <= d - 1 ? above[k + 1 + d - 1] : -1) : -1;
                int from_left = k > -d ? (k - 1 >= -(d - 1) ? above[k - 1 + d - 1] : -1) : -1;
                x = from_up > from_left ? from_up : from_left + 1;
            }
            while (x < n_a && x - k < n_b && a[x] == b[x - k])
                x++;
            row[k + d] = x;
            if (x >= n_a && x - k >= n_b)
                return d;
        }
    }
    return -1;
}

static void walk_back(struct token_diff *out, size_t *capacity, const int *trace, int n_edits,
                      int n_a, int n_b, int offset)
{
    int x = n_a, y = n_b;
    for (int d = n_edits; d > 0; d--) {
        const int *above = trace + (size_t)(d - 1) * (size_t)(d - 1);
        int k = x - y;
        int from_up = k + 1 <= d - 1 && k < d ? above[k + 1 + d - 1] : -1;
        int from_left = k - 1 >= -(d - 1) && k > -d ? above[k - 1 + d - 1] : -1;
        if (from_up > from_left) { /* a token of the lane was inserted */
            x = from_up;
            y = x - (k + 1);
            prepend(out, capacity, offset + x, 0, offset + y, 1);
        } else {
            x = from_left;
            y = x - (k - 1);
            prepend(out, capacity, offset + x, 1, offset + y, 0);
        }
    }
}

void token_diff_compute(struct token_diff *d, const int32_t *a, int n_a, const int32_t *b, int n_b)
{
    token_diff_free(d);
    d->n_a = n_a;
    d->n_b = n_b;
    int common = 0;
    while (common < n_a && common < n_b && a[common] == b[common])
        common++;
    const int32_t *rest_a = a + common, *rest_b = b + common;
    int rest_n_a = n_a - common, rest_n_b = n_b - common;
    if (rest_n_a == 0 && rest_n_b == 0)
        return;
    int max_edits = rest_n_a + rest_n_b;
    if (max_edits > TOKEN_DIFF_MAX_EDITS)
        max_edits = TOKEN_DIFF_MAX_EDITS;
    size_t capacity = 0;
    int *trace = xcalloc((size_t)(max_edits + 1) * (size_t)(max_edits + 1), sizeof *trace);
    int n_edits = search(trace, rest_a, rest_n_a, rest_b, rest_n_b, max_edits);
    if (n_edits >= 0) {
        walk_back(d, &capacity, trace, n_edits, rest_n_a, rest_n_b, common);
        reverse(d);
    } else {
        prepend(d, &capacity, common, rest_n_a, common, rest_n_b);
    }
    free(trace);
}
