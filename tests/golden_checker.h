/* What tests against the reference project's masks share: a device, the manifest, and how rows and
 * outputs are compared. */
#ifndef ATTNSCOPE_TESTS_GOLDEN_CHECKER_H
#define ATTNSCOPE_TESTS_GOLDEN_CHECKER_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/attention/attention_case.h"
#include "tests/golden_maskers.h"
#include "tests/temp_folder.h"
#include "tests/test_backend.h"

#include <cmocka.h>

#define OUTPUT_TOLERANCE 1e-5 /* f32 sums in another order than the reference's */

struct checker {
    struct temp_folder folder;
    struct json *manifest;
    struct device *dev;
    const struct backend *backend;
    int n_runs, n_rows, n_ties, n_exhausted; /* compared so far, for the log */
    uint8_t *tied;                           /* [B, H, Q] rows of the run that differ by ties */
    char masker_file[512];                   /* what the run's masker reads; "": nothing */
    double *scores;                          /* the reference's [B, H, Q, K]; NULL: q k ranks */
};

static inline int setup(void **state)
{
    struct checker *c = xcalloc(1, sizeof *c);
    char why[256];
    c->folder = temp_folder_make();
    c->manifest = golden_manifest();
    struct device_options options = {.n_threads = 2, .exact = true};
    c->dev = backend_open(test_backend(), &options, &c->backend, why, sizeof why);
    if (!c->dev)
        fail_msg("%s", why);
    *state = c;
    return 0;
}

static inline int teardown(void **state)
{
    struct checker *c = *state;
    c->backend->close(c->dev);
    json_free(c->manifest);
    temp_folder_remove(&c->folder);
    free(c);
    return 0;
}

/* Whether the backend has a kind of index. */
static inline bool index_is_there(const struct checker *c, enum key_index_kind kind)
{
    struct key_index_config config = {.kind = kind,
                                      .n_layers = 1,
                                      .n_heads = 1,
                                      .n_kv_heads = 1,
                                      .head_dim = 16,
                                      .max_keys = 64,
                                      .codes = {.n_parts = 1, .code_bits = 1},
                                      .tables = {.n_tables = 1, .n_bits = 1}};
    return c->backend->index_bytes(c->dev, &config) > 0;
}

/* One row under comparison: bits per key. */
struct compared_row {
    const char *key; /* of the run */
    int b, head, i;
    const struct attention_input *in;
};

static inline bool is_visible(const struct compared_row *r, int key)
{
    return key >= r->in->first_key[r->b] && key <= r->in->n_keys - r->in->n_rows + r->i;
}

/* want may hold NaN where the reference divided 0 by 0: ours attends to the row's own key. */
static inline void compare_out(const char *key, const float *got, const float *want, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(got[i]))
            fail_msg("%s: output %zu is %g", key, i, got[i]);
        if (!isnan(want[i]) &&
            fabs((double)got[i] - want[i]) > OUTPUT_TOLERANCE * (1 + fabsf(want[i])))
            fail_msg("%s: output %zu: got %.8g, want %.8g", key, i, got[i], want[i]);
    }
}

static inline size_t n_outputs(const struct attention_input *in)
{
    return (size_t)in->n_batch * (size_t)in->n_rows * (size_t)in->n_heads * (size_t)in->head_dim;
}

#endif
