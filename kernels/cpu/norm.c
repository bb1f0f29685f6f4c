#include "kernels/cpu/norm.h"

#include <math.h>

/* Partial sums, for vectors and for precision. */
enum { LANES = 16 };

static float sum_squares(const float *x, float mean, int n)
{
    float sums[LANES] = {0};
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            sums[lane] += (x[i + lane] - mean) * (x[i + lane] - mean);
    for (int lane = 0; i < n; i++, lane++)
        sums[lane] += (x[i] - mean) * (x[i] - mean);
    double sum = 0;
    for (int lane = 0; lane < LANES; lane++)
        sum += sums[lane];
    return (float)sum;
}

static float mean_of(const float *x, int n)
{
    float sums[LANES] = {0};
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            sums[lane] += x[i + lane];
    for (int lane = 0; i < n; i++, lane++)
        sums[lane] += x[i];
    double sum = 0;
    for (int lane = 0; lane < LANES; lane++)
        sum += sums[lane];
    return (float)(sum / n);
}

void cpu_norm_row(float *y, const float *x, const struct norm *norm, int dim)
{
    float mean = norm->kind == NORM_LAYER ? mean_of(x, dim) : 0.0f;
    float scale = 1.0f / sqrtf(sum_squares(x, mean, dim) / (float)dim + norm->eps);
    const float *weight = norm->weight;
    if (norm->kind == NORM_LAYER && norm->bias) {
        for (int i = 0; i < dim; i++)
            y[i] = (x[i] - mean) * scale * weight[i] + norm->bias[i];
    } else {
        for (int i = 0; i < dim; i++)
            y[i] = (x[i] - mean) * scale * weight[i];
    }
}
