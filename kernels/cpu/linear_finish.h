/* Bias, activation and residual of a linear layer, in plain C that each instruction set's file
 * includes and the compiler vectorises there. */
#ifndef ATTNSCOPE_KERNELS_CPU_LINEAR_FINISH_H
#define ATTNSCOPE_KERNELS_CPU_LINEAR_FINISH_H

#include "kernels/cpu/linear_kernels.h"
#include "kernels/cpu/vector_math.h"

static inline float silu(float x)
{
    return x / (1.0f + vexp(-x));
}

/* 0.5 x (1 + tanh(u)) = x / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3): no cancellation for
 * negative x.  Source: Hendrycks and Gimpel 2016. */
static inline float gelu_tanh(float x)
{
    float u = 0.7978845608f * (x + 0.044715f * x * x * x);
    return x / (1.0f + vexp(-2.0f * u));
}

/* x (1 + erf(x / sqrt 2)) / 2, with erfc(z), z >= 0, by Abramowitz and Stegun 7.1.26: the error of
 * erf is below 1.5e-7, that of the result below 1e-7 |x|. */
static inline float gelu_erf(float x)
{
    float z = (x < 0 ? -x : x) * 0.7071067812f;
    float t = 1.0f / (1.0f + 0.3275911f * z);
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    float half_erfc = 0.5f * p * t * vexp(-z * z);
    return x * (x < 0 ? half_erfc : 1.0f - half_erfc);
}

static inline void finish_swiglu(float *restrict y, const float *restrict gate,
                                 const float *restrict up, const float *bias, const float *bias_up,
                                 int n)
{
    if (bias) {
        for (int j = 0; j < n; j++)
            y[j] = silu(gate[j] + bias[j]) * (up[j] + bias_up[j]);
    } else {
        for (int j = 0; j < n; j++)
            y[j] = silu(gate[j]) * up[j];
    }
}

static inline void activate(float *y, int n, enum activation activation)
{
    switch (activation) {
    case ACTIVATION_GELU_TANH:
        for (int j = 0; j < n; j++)
            y[j] = gelu_tanh(y[j]);
        break;
    case ACTIVATION_GELU_ERF:
        for (int j = 0; j < n; j++)
            y[j] = gelu_erf(y[j]);
        break;
    case ACTIVATION_RELU:
        for (int j = 0; j < n; j++)
            y[j] = y[j] < 0 ? 0.0f : y[j];
        break;
    case ACTIVATION_NONE:
    case ACTIVATION_SWIGLU:
        break;
    }
}

/* linear_kernels.finish */
static void linear_finish(float *y, const float *dots, const float *up, const float *bias,
                          const float *bias_up, int n, const struct linear_finish *how)
{
    if (how->activation == ACTIVATION_SWIGLU) {
        finish_swiglu(y, dots, up, bias, bias_up, n);
        return;
    }
    if (how->add) {
        for (int j = 0; j < n; j++)
            y[j] += dots[j];
    } else {
        for (int j = 0; j < n; j++)
            y[j] = dots[j];
    }
    if (bias) {
        for (int j = 0; j < n; j++)
            y[j] += bias[j];
    }
    activate(y, n, how->activation);
}

#endif
