/* The cpu and the cuda backend side by side: the same data on both, one operation on each, and the
 * difference of what they wrote.
 *
 * Outputs start as NaN, so that what an operation forgets to write never passes.  A test program
 * calls pair_open first in main and ends with PAIR_SKIPPED where there is no CUDA device. */
#ifndef ATTNSCOPE_TESTS_BACKEND_PAIR_H
#define ATTNSCOPE_TESTS_BACKEND_PAIR_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"

#include <cmocka.h>

enum { PAIR_CPU, PAIR_CUDA, N_PAIR };
enum { PAIR_SKIPPED = 77 }; /* ctest's SKIP_RETURN_CODE */

struct pair {
    const struct backend *backend[N_PAIR];
    struct device *dev[N_PAIR];
};

static struct pair pair;

/* False: no CUDA device; says why.  exact: device_options.exact on both.  With ATTNSCOPE_TEST=NAME in
 * the environment that test runs alone: under compute-sanitizer each takes minutes. */
static inline bool pair_open(bool exact)
{
    if (getenv("ATTNSCOPE_TEST"))
        cmocka_set_test_filter(getenv("ATTNSCOPE_TEST"));
    static const char *const names[N_PAIR] = {"cpu", "cuda"};
    struct device_options options = {.exact = exact};
    for (int i = 0; i < N_PAIR; i++) {
        char why[512] = "";
        pair.dev[i] = backend_open(names[i], &options, &pair.backend[i], why, sizeof why);
        if (!pair.dev[i]) {
            printf("skipped: %s\n", why);
            return false;
        }
    }
    return true;
}

static inline void pair_close(void)
{
    for (int i = 0; i < N_PAIR; i++)
        if (pair.dev[i])
            pair.backend[i]->close(pair.dev[i]);
    memset(&pair, 0, sizeof pair);
}

static inline void pair_sync(void)
{
    for (int i = 0; i < N_PAIR; i++) {
        char why[256] = "";
        if (!pair.backend[i]->sync(pair.dev[i], why, sizeof why))
            fail_msg("%s: %s", pair.backend[i]->name, why);
    }
}

static inline void pair_reserve(const struct workspace_need *need)
{
    for (int i = 0; i < N_PAIR; i++)
        assert_true(pair.backend[i]->reserve(pair.dev[i], need));
}

/* --- Random numbers --------------------------------------------------------------------------- */

enum { PAIR_SEED = 12345 };
static uint32_t pair_random = PAIR_SEED;

static inline int pair_restart(void **state)
{
    (void)state;
    pair_random = PAIR_SEED;
    return 0;
}

/* A test that draws the same numbers alone as after others. */
#define pair_test(f) cmocka_unit_test_setup(f, pair_restart)

/* Roughly normal, of unit variance. */
static inline float pair_draw(void)
{
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        pair_random = pair_random * 1664525u + 1013904223u;
        sum += (float)(pair_random >> 8) * (1.0f / 16777216.0f) - 0.5f;
    }
    return 1.7320508f * sum;
}

static inline uint16_t pair_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16);
}

/* A finite normal f16 by cutting off bits; for test weights only. */
static inline uint16_t pair_f16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    int exponent = (int)(bits >> 23 & 255) - 127 + 15;
    if (exponent <= 0)
        return (uint16_t)(bits >> 16 & 0x8000);
    return (uint16_t)((bits >> 16 & 0x8000) | (uint32_t)exponent << 10 | (bits >> 13 & 0x3FF));
}

/* --- The same memory on both -------------------------------------------------------------------
 */

struct twin {
    void *at[N_PAIR];
    size_t n_bytes;
};

static inline struct twin twin_bytes(const void *from, size_t n_bytes)
{
    struct twin t = {.n_bytes = n_bytes};
    for (int i = 0; i < N_PAIR; i++) {
        t.at[i] = pair.backend[i]->alloc(pair.dev[i], n_bytes);
        assert_non_null(t.at[i]);
        if (from)
            pair.backend[i]->upload(pair.dev[i], t.at[i], from, n_bytes);
    }
    return t;
}

/* n numbers of the dtype, roughly normal, times scale. */
static inline struct twin twin_random(size_t n, enum dtype dtype, float scale)
{
    char *host = malloc(n * dtype_bytes(dtype) + 1);
    assert_non_null(host);
    for (size_t i = 0; i < n; i++) {
        float x = scale * pair_draw();
        if (dtype == DTYPE_F32)
            ((float *)host)[i] = x;
        else
            ((uint16_t *)host)[i] = dtype == DTYPE_BF16 ? pair_bf16(x) : pair_f16(x);
    }
    struct twin t = twin_bytes(host, n * dtype_bytes(dtype));
    free(host);
    return t;
}

/* n floats that are all NaN: an output. */
static inline struct twin twin_poisoned(size_t n)
{
    float *host = malloc(n * sizeof *host + 1);
    assert_non_null(host);
    for (size_t i = 0; i < n; i++)
        host[i] = NAN;
    struct twin t = twin_bytes(host, n * sizeof *host);
    free(host);
    return t;
}

static inline void twin_free(struct twin *t)
{
    for (int i = 0; i < N_PAIR; i++)
        if (t->at[i])
            pair.backend[i]->release(pair.dev[i], t->at[i]);
    memset(t, 0, sizeof *t);
}

/* One side's bytes on the host; the caller frees. */
static inline void *twin_host(const struct twin *t, int side)
{
    void *host = malloc(t->n_bytes + 1);
    assert_non_null(host);
    pair.backend[side]->download(pair.dev[side], host, t->at[side], t->n_bytes);
    return host;
}

/* |cuda - cpu| / |cpu| over n floats must be at most `most`; NaN and infinity never pass. */
static inline void assert_twin_close(const struct twin *t, size_t n, double most, const char *what)
{
    pair_sync();
    float *cpu = twin_host(t, PAIR_CPU), *cuda = twin_host(t, PAIR_CUDA);
    double difference = 0, norm = 0;
    size_t worst = 0;
    double worst_delta = -1;
    for (size_t i = 0; i < n; i++) {
        double delta = fabs((double)cuda[i] - (double)cpu[i]);
        if (!(delta <= worst_delta)) {
            worst = i;
            worst_delta = delta;
        }
        difference += delta * delta;
        norm += (double)cpu[i] * (double)cpu[i];
    }
    double ratio = norm > 0 ? sqrt(difference / norm) : sqrt(difference);
    if (!(ratio <= most))
        fail_msg("%s: relative L2 difference %.3g, at most %.3g; worst [%zu]: cpu %.9g, cuda %.9g",
                 what, ratio, most, worst, (double)cpu[worst], (double)cuda[worst]);
    free(cpu);
    free(cuda);
}

/* Both sides must hold the same bytes. */
static inline void assert_twin_equal(const struct twin *t, const char *what)
{
    pair_sync();
    unsigned char *cpu = twin_host(t, PAIR_CPU), *cuda = twin_host(t, PAIR_CUDA);
    for (size_t i = 0; i < t->n_bytes; i++)
        if (cpu[i] != cuda[i])
            fail_msg("%s: byte %zu of %zu differs: cpu %02x, cuda %02x", what, i, t->n_bytes,
                     cpu[i], cuda[i]);
    free(cpu);
    free(cuda);
}

#endif
