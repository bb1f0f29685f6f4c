/* What the tests of the cpu backend's operations share: a device, random numbers, comparison. */
#ifndef ATTNSCOPE_TESTS_CPU_TRIAL_H
#define ATTNSCOPE_TESTS_CPU_TRIAL_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "kernels/cpu/cpu.h"

#include <cmocka.h>

static inline struct device *open_device(int n_threads)
{
    char why[200];
    struct device_options options = {.n_threads = n_threads};
    struct device *dev = cpu_device_open(&options, why, sizeof why);
    assert_non_null(dev);
    return dev;
}

static uint32_t random_state = 99;

static inline float random_float(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (float)(random_state >> 8) / 8388608.0f - 1.0f;
}

static inline float *random_floats(int n)
{
    float *values = malloc(sizeof(float) * (size_t)n);
    assert_non_null(values);
    for (int i = 0; i < n; i++)
        values[i] = random_float();
    return values;
}

static inline void assert_close(double got, double want, double tolerance, const char *what)
{
    if (!(fabs(got - want) <= tolerance))
        fail_msg("%s: got %.9g, want %.9g, tolerance %.2g", what, got, want, tolerance);
}

#endif
