/* Speed of the linear layers on the cpu backend, next to what the machine can do at best.
 *
 *   bench_linear [N_THREADS] [ISA: auto|avx512|avx2|reference] [exact]
 *
 * Few rows: GB/s of weights, and its share of the read bandwidth.  Many rows: GFLOP/s, and the
 * share of the peak.  Each figure is the best of several runs; the ceilings are measured again
 * between shapes, because a shared machine's change. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/cpu.h"

struct shape {
    const char *name;
    int n_out, n_in;
    enum activation activation;
    bool add;
};

/* Llama-3.2-1B. */
static const struct shape shapes[] = {
    {"qkv", 3072, 2048, ACTIVATION_NONE, false},
    {"attention out", 2048, 2048, ACTIVATION_NONE, true},
    {"gate and up", 16384, 2048, ACTIVATION_SWIGLU, false},
    {"down", 2048, 8192, ACTIVATION_NONE, true},
    {"vocabulary", 128256, 2048, ACTIVATION_NONE, false},
};

enum { MAX_ROWS = 512 };

static void fill(struct device *dev, struct linear *w)
{
    uint16_t *values = cpu_alloc(dev, (size_t)w->n_out * (size_t)w->n_in * 2);
    if (!values) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    uint32_t state = 1;
    for (size_t i = 0; i < (size_t)w->n_out * (size_t)w->n_in; i++) {
        state = state * 1664525u + 1013904223u;
        values[i] = f32_to_bf16(((float)(state >> 8) / 16777216.0f - 0.5f) * 0.05f);
    }
    w->w = values;
}

static double best_seconds(struct device *dev, float *y, const float *x, const struct norm *norm,
                           const struct linear *w, const struct shape *shape, int n_rows,
                           int n_repeats)
{
    double best = 1e30;
    for (int i = 0; i < n_repeats; i++) {
        cpu_time_mark(dev, 0);
        if (shape->add)
            cpu_linear_add(dev, y, x, w, n_rows);
        else
            cpu_norm_linear(dev, y, x, norm, w, shape->activation, n_rows);
        cpu_time_mark(dev, 1);
        double seconds = cpu_time_between_us(dev, 0, 1) * 1e-6;
        best = seconds < best ? seconds : best;
    }
    return best;
}

static void bench_shape(struct device *dev, const struct shape *shape, float *y, const float *x,
                        const float *norm_weight)
{
    static const int rows[] = {1, 2, 4, 8, 16, 64, 512};
    struct linear w = {.dtype = DTYPE_BF16, .n_out = shape->n_out, .n_in = shape->n_in};
    struct norm norm = {.kind = NORM_RMS, .weight = norm_weight, .eps = 1e-5f};
    double n_weights = (double)w.n_out * w.n_in;
    fill(dev, &w);
    double bandwidth = cpu_measure_read_bandwidth(dev), peak = cpu_measure_peak_flops(dev);
    printf("%s [%d, %d]: read %.1f GB/s, peak %.0f GFLOP/s\n", shape->name, w.n_out, w.n_in,
           bandwidth * 1e-9, peak * 1e-9);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (rows[i] > 64 && w.n_out > 100000)
            continue;
        int n_repeats = rows[i] > 8 ? 5 : (int)(4e9 / (n_weights * 2)) + 8;
        n_repeats = n_repeats > 200 ? 200 : n_repeats;
        double seconds = best_seconds(dev, y, x, &norm, &w, shape, rows[i], n_repeats);
        double bytes_per_s = n_weights * 2 / seconds, flops = 2 * n_weights * rows[i] / seconds;
        printf("  %3d rows %9.1f us %7.1f GB/s = %4.2f of read %8.1f GFLOP/s = %4.2f of peak\n",
               rows[i], seconds * 1e6, bytes_per_s * 1e-9, bytes_per_s / bandwidth, flops * 1e-9,
               flops / peak);
    }
    cpu_release(dev, (void *)w.w);
}

int main(int argc, char **argv)
{
    struct device_options options = {.n_threads = argc > 1 ? atoi(argv[1]) : 0};
    static const char *const names[] = {"auto", "reference", "avx2", "avx512"};
    for (int i = 0; argc > 2 && i < 4; i++)
        if (strcmp(argv[2], names[i]) == 0)
            options.isa = (enum device_isa)i;
    options.exact = argc > 3 && strcmp(argv[3], "exact") == 0;
    char why[200];
    struct device *dev = cpu_device_open(&options, why, sizeof why);
    if (!dev) {
        fprintf(stderr, "%s\n", why);
        return 1;
    }
    struct device_info info;
    cpu_device_describe(dev, &info);
    printf("%s%s\n", info.name, options.exact ? ", exact" : "");
    float *x = calloc((size_t)MAX_ROWS * 8192, sizeof *x);
    float *y = calloc((size_t)MAX_ROWS * 128256, sizeof *y);
    float *norm_weight = calloc(8192, sizeof *norm_weight);
    if (!x || !y || !norm_weight)
        return 1;
    for (int i = 0; i < 8192; i++)
        norm_weight[i] = 1;
    for (size_t i = 0; i < (size_t)MAX_ROWS * 8192; i++)
        x[i] = sinf((float)i);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        bench_shape(dev, &shapes[i], y, x, norm_weight);
    free(x);
    free(y);
    free(norm_weight);
    cpu_device_close(dev);
    return 0;
}
