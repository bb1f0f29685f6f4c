/* The linear layer in plain C: what the fast versions are compared with, and what runs where there
 * is no fast version. */
#include "kernels/cpu/linear_finish.h"
#include "kernels/cpu/linear_kernels.h"

/* Several partial sums, so that a compiler may use whatever vectors the processor has, and so that
 * long sums lose less. */
enum { LANES = 16 };

static float dot(const void *w, enum dtype dtype, size_t first, const float *x, int n)
{
    float sums[LANES] = {0};
    int k = 0;
    for (; k + LANES <= n; k += LANES)
        for (int lane = 0; lane < LANES; lane++)
            sums[lane] += load_as_f32(w, dtype, first + (size_t)(k + lane)) * x[k + lane];
    for (int lane = 0; k < n; k++, lane++)
        sums[lane] += load_as_f32(w, dtype, first + (size_t)k) * x[k];
    float sum = 0;
    for (int lane = 0; lane < LANES; lane++)
        sum += sums[lane];
    return sum;
}

static void prepare(void *to, const float *x, int n)
{
    size_t n_bytes = sizeof(float) * (size_t)n, step = sizeof(float) * PREPARED_STEP;
    memcpy(to, x, n_bytes);
    memset((char *)to + n_bytes, 0, (step - n_bytes % step) % step);
}

static void run_dots(float *dots, size_t dots_stride, const void *w, enum dtype dtype, int n_out,
                     int n_in, const void *x, size_t x_stride, int n_rows)
{
    for (int j = 0; j < n_out; j++)
        for (int r = 0; r < n_rows; r++)
            dots[(size_t)r * dots_stride + (size_t)j] =
                dot(w, dtype, (size_t)j * (size_t)n_in,
                    (const float *)((const char *)x + (size_t)r * x_stride), n_in);
}

static const struct dots_kernel dots_kernel = {
    .max_rows = 64,
    .x_bytes = sizeof(float),
    .prepare = prepare,
    .run = run_dots,
};

static float read_all(const void *p, size_t n_bytes)
{
    const uint64_t *words = p;
    uint64_t sums[8] = {0};
    for (size_t i = 0; i < n_bytes / 8; i += 8)
        for (size_t lane = 0; lane < 8; lane++)
            sums[lane] += words[i + lane];
    uint64_t sum = 0;
    for (int lane = 0; lane < 8; lane++)
        sum += sums[lane];
    return (float)sum;
}

static double burst(void)
{
    enum { N_ROUNDS = 1 << 18, N_SUMS = 32 };
    float sums[N_SUMS];
    for (int i = 0; i < N_SUMS; i++)
        sums[i] = (float)i;
    for (int round = 0; round < N_ROUNDS; round++)
        for (int i = 0; i < N_SUMS; i++)
            sums[i] = sums[i] * 0.999f + 0.5f;
    volatile float keep = 0;
    for (int i = 0; i < N_SUMS; i++)
        keep = keep + sums[i];
    return 2.0 * N_ROUNDS * N_SUMS;
}

const struct linear_kernels linear_kernels_reference = {
    .f32 = {.dots = &dots_kernel, .burst = burst},
    .finish = linear_finish,
    .read = read_all,
};
