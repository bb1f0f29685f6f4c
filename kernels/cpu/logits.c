#include "kernels/cpu/logits.h"

#include <math.h>

#include "kernels/cpu/vector_math.h"

enum { LANES = 16 };

static float max_of(const float *logits, int n)
{
    float lane_max[LANES];
    for (int lane = 0; lane < LANES; lane++)
        lane_max[lane] = -INFINITY;
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            lane_max[lane] = logits[i + lane] > lane_max[lane] ? logits[i + lane] : lane_max[lane];
    for (; i < n; i++)
        lane_max[0] = logits[i] > lane_max[0] ? logits[i] : lane_max[0];
    float max = lane_max[0];
    for (int lane = 1; lane < LANES; lane++)
        max = lane_max[lane] > max ? lane_max[lane] : max;
    return max;
}

/* exp(x), or 0 for NaN: a broken logit must not hide the others. */
static inline float exp_or_zero(float x)
{
    return x == x ? vexp(x) : 0.0f;
}

struct logits_sum logits_sum_exp(const float *logits, int n)
{
    struct logits_sum result = {.max = max_of(logits, n)};
    if (isinf(result.max))
        return result;
    float max = result.max, sums[LANES] = {0};
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            sums[lane] += exp_or_zero(logits[i + lane] - max);
    for (; i < n; i++)
        sums[0] += exp_or_zero(logits[i] - max);
    for (int lane = 0; lane < LANES; lane++)
        result.sum += (double)sums[lane];
    return result;
}

double logits_combine(const struct logits_sum *chunks, int n_chunks)
{
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < n_chunks; i++)
        max = chunks[i].max > max ? chunks[i].max : max;
    if (isinf(max))
        return max;
    for (int i = 0; i < n_chunks; i++)
        sum += chunks[i].sum * exp(chunks[i].max - max);
    return max + log(sum);
}
