/* Speed of the linear layers on the cpu backend, next to what the machine can do at best.
 *
 *   bench_linear [N_THREADS] [ISA: auto|avx512|avx2|reference] [exact]
 *
 * Few rows: GB/s of weights, and its share of the read bandwidth.  Many rows: GFLOP/s, and its
 * share of the peak.  Weights are cold, as in a model: calls go round copies of the matrix that
 * together exceed the caches.  A shared machine's speed changes from moment to moment, so reads of
 * the same copies alternate with the calls; shown are the best round, and the median over the
 * rounds of the share. */
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

enum { MAX_ROWS = 512, MAX_ROUNDS = 15 };

#define COPIES_BYTES ((size_t)160 << 20)

struct bench {
    struct device *dev;
    const struct shape *shape;
    char *weights; /* n_copies matrices, one after the other */
    size_t matrix_bytes;
    int n_copies;
    float *y, *x;
    struct norm norm;
};

static void fill(struct bench *bench)
{
    size_t n = bench->matrix_bytes / 2 * (size_t)bench->n_copies;
    uint16_t *values = cpu_alloc(bench->dev, n * 2);
    if (!values) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    uint32_t state = 1;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        values[i] = f32_to_bf16(((float)(state >> 8) / 16777216.0f - 0.5f) * 0.05f);
    }
    bench->weights = (char *)values;
}

/* Seconds of one call, averaged over all copies. */
static double call_seconds(const struct bench *bench, int n_rows)
{
    const struct shape *shape = bench->shape;
    cpu_time_mark(bench->dev, 0);
    for (int copy = 0; copy < bench->n_copies; copy++) {
        struct linear w = {.w = bench->weights + (size_t)copy * bench->matrix_bytes,
                           .dtype = DTYPE_BF16,
                           .n_out = shape->n_out,
                           .n_in = shape->n_in};
        if (shape->add)
            cpu_linear_add(bench->dev, bench->y, bench->x, &w, n_rows);
        else
            cpu_norm_linear(bench->dev, bench->y, bench->x, &bench->norm, &w, shape->activation,
                            n_rows);
    }
    cpu_time_mark(bench->dev, 1);
    return cpu_time_between_us(bench->dev, 0, 1) * 1e-6 / bench->n_copies;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double max_double(double a, double b)
{
    return a > b ? a : b;
}

static void bench_few(const struct bench *bench, int n_rows)
{
    double shares[MAX_ROUNDS], best = 0, best_read = 0;
    size_t n_bytes = bench->matrix_bytes * (size_t)bench->n_copies;
    for (int round = 0; round < MAX_ROUNDS; round++) {
        double before = cpu_read_pass(bench->dev, bench->weights, n_bytes);
        double speed = (double)bench->matrix_bytes / call_seconds(bench, n_rows);
        double after = cpu_read_pass(bench->dev, bench->weights, n_bytes);
        shares[round] = speed / max_double(before, after);
        best = max_double(best, speed);
        best_read = max_double(best_read, max_double(before, after));
    }
    qsort(shares, MAX_ROUNDS, sizeof *shares, compare);
    printf("  %3d rows %9.1f us %7.1f GB/s, read %5.1f: %4.2f, median %4.2f\n", n_rows,
           (double)bench->matrix_bytes / best * 1e6, best * 1e-9, best_read * 1e-9,
           best / best_read, shares[MAX_ROUNDS / 2]);
}

static void bench_many(const struct bench *bench, int n_rows)
{
    double shares[MAX_ROUNDS], best = 0, best_peak = 0;
    double flops = (double)bench->matrix_bytes * n_rows;
    int n_rounds = flops * bench->n_copies > 5e10 ? 2 : 5;
    for (int round = 0; round < n_rounds; round++) {
        double before = cpu_measure_peak_flops(bench->dev);
        double speed = flops / call_seconds(bench, n_rows);
        double after = cpu_measure_peak_flops(bench->dev);
        shares[round] = speed / max_double(before, after);
        best = max_double(best, speed);
        best_peak = max_double(best_peak, max_double(before, after));
    }
    qsort(shares, (size_t)n_rounds, sizeof *shares, compare);
    printf("  %3d rows %9.1f us %7.1f GFLOP/s, peak %5.0f: %4.2f, median %4.2f\n", n_rows,
           flops / best * 1e6, best * 1e-9, best_peak * 1e-9, best / best_peak,
           shares[n_rounds / 2]);
}

static void bench_shape(struct bench *bench)
{
    static const int few[] = {1, 2, 4, 8}, many[] = {16, 32, 64, 128, 512};
    const struct shape *shape = bench->shape;
    bench->matrix_bytes = (size_t)shape->n_out * (size_t)shape->n_in * 2;
    bench->n_copies = (int)(COPIES_BYTES / bench->matrix_bytes) + 1;
    fill(bench);
    printf("%s [%d, %d]\n", shape->name, shape->n_out, shape->n_in);
    for (int i = 0; i < 4; i++)
        bench_few(bench, few[i]);
    for (int i = 0; i < 5; i++)
        if (shape->n_out < 100000 || many[i] < 64)
            bench_many(bench, many[i]);
    cpu_release(bench->dev, bench->weights);
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
    struct bench bench = {.dev = dev, .norm = {.kind = NORM_RMS, .eps = 1e-5f}};
    float *ones = malloc(sizeof(float) * 8192);
    bench.x = malloc(sizeof(float) * MAX_ROWS * 8192);
    bench.y = calloc((size_t)MAX_ROWS * 128256, sizeof(float));
    if (!ones || !bench.x || !bench.y)
        return 1;
    for (int i = 0; i < 8192; i++)
        ones[i] = 1;
    for (int i = 0; i < MAX_ROWS * 8192; i++)
        bench.x[i] = sinf((float)i);
    bench.norm.weight = ones;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        bench.shape = &shapes[i];
        bench_shape(&bench);
    }
    free(ones);
    free(bench.x);
    free(bench.y);
    cpu_device_close(dev);
    return 0;
}
