/* Linear layers of the cpu backend: every instruction set that the processor has, against sums in
 * double, over awkward shapes, types, activations and row counts. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/linear_kernels.h"

/* --- Devices: one per instruction set ------------------------------------------------------ */

enum { MAX_LEVELS = 5 };

struct level {
    struct device *dev;
    const char *name;
};

static struct level levels[MAX_LEVELS];
static int n_levels;

static void open_level(enum device_isa isa, bool exact, enum cpu_isa wanted, const char *name)
{
    char why[200];
    struct device_options options = {.n_threads = 3, .isa = isa, .exact = exact};
    struct device *dev = cpu_device_open(&options, why, sizeof why);
    assert_non_null(dev);
    if (dev->isa != wanted) {
        print_message("%s is not tested: this processor has no more than %s\n", name,
                      cpu_isa_name(dev->isa));
        cpu_device_close(dev);
        return;
    }
    levels[n_levels++] = (struct level){.dev = dev, .name = name};
}

static int open_levels(void **state)
{
    (void)state;
    open_level(DEVICE_ISA_REFERENCE, true, CPU_ISA_REFERENCE, "reference");
    open_level(DEVICE_ISA_AVX2, false, CPU_ISA_AVX2, "AVX2");
    open_level(DEVICE_ISA_AVX512, false, CPU_ISA_AVX512, "AVX-512");
    open_level(DEVICE_ISA_AUTO, false, CPU_ISA_AVX512_BF16, "AVX-512 BF16");
    open_level(DEVICE_ISA_AUTO, true, CPU_ISA_AVX512_BF16, "AVX-512 BF16, exact");
    return 0;
}

static int close_levels(void **state)
{
    (void)state;
    for (int i = 0; i < n_levels; i++)
        cpu_device_close(levels[i].dev);
    return 0;
}

/* --- Data ---------------------------------------------------------------------------------- */

static uint32_t random_state = 12345;

static uint32_t next_random(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8;
}

static float random_float(void)
{
    return (float)next_random() / 8388608.0f - 1.0f;
}

static uint16_t f32_to_f16(float f)
{
    uint32_t sign = float_bits(f) >> 16 & 0x8000u, magnitude = float_bits(fabsf(f) * 0x1p-112f);
    return (uint16_t)(sign | ((magnitude + 0xFFFu + (magnitude >> 13 & 1)) >> 13));
}

/* Exactly n elements, so that a sanitizer sees a read beyond them. */
static void *random_weights(size_t n, enum dtype dtype)
{
    void *w = malloc(n * dtype_bytes(dtype));
    assert_non_null(w);
    for (size_t i = 0; i < n; i++) {
        float f = random_float();
        if (dtype == DTYPE_F32)
            ((float *)w)[i] = f;
        else
            ((uint16_t *)w)[i] = dtype == DTYPE_F16 ? f32_to_f16(f) : f32_to_bf16(f);
    }
    return w;
}

static float *random_floats(size_t n)
{
    return random_weights(n, DTYPE_F32);
}

struct linear_case {
    int n_rows, n_in, n_out;
    enum dtype dtype;
    enum activation activation;
    bool add, bias;
    int norm; /* -1: none, else enum norm_kind */
};

struct data {
    struct linear w;
    struct norm norm;
    float *x, *y_before;
    double *want, *tolerance_exact, *tolerance_rounded; /* [n_rows, n_y] */
    int n_y;
};

/* --- What is right ------------------------------------------------------------------------- */

struct dot {
    double value;
    double error_f32;     /* bound for sums in f32 */
    double error_rounded; /* bound for activations rounded to bf16 besides */
};

static struct dot true_dot(const struct data *data, const double *x, int j)
{
    const struct linear *w = &data->w;
    double sum = 0, magnitude = 0, squares = 0;
    for (int k = 0; k < w->n_in; k++) {
        double product =
            x[k] * load_as_f32(w->w, w->dtype, (size_t)j * (size_t)w->n_in + (size_t)k);
        sum += product;
        magnitude += fabs(product);
        squares += product * product;
    }
    if (w->bias)
        sum += w->bias[j];
    struct dot dot = {.value = sum, .error_f32 = 1e-6 * magnitude + 1e-6};
    /* A rounding error is at most 2^-9 of each product, and the errors are independent: six times
     * the root of their squares is out of reach. */
    dot.error_rounded = dot.error_f32 + 6 * 0x1p-9 * sqrt(squares);
    return dot;
}

static double true_activation(double x, enum activation activation)
{
    switch (activation) {
    case ACTIVATION_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
    case ACTIVATION_GELU_ERF:
        return 0.5 * x * (1 + erf(x / sqrt(2)));
    case ACTIVATION_RELU:
        return x > 0 ? x : 0;
    case ACTIVATION_SWIGLU: /* of the gate */
        return x / (1 + exp(-x));
    case ACTIVATION_NONE:
        break;
    }
    return x;
}

static void true_norm(double *out, const float *x, const struct data *data)
{
    const struct norm *norm = &data->norm;
    int n = data->w.n_in;
    double mean = 0, variance = 0;
    for (int k = 0; norm->kind == NORM_LAYER && k < n; k++)
        mean += (double)x[k] / n;
    for (int k = 0; k < n; k++)
        variance += (x[k] - mean) * (x[k] - mean) / n;
    for (int k = 0; k < n; k++)
        out[k] = (x[k] - mean) / sqrt(variance + norm->eps) * norm->weight[k] +
                 (norm->kind == NORM_LAYER ? norm->bias[k] : 0);
}

/* The largest slope of the activations, with some room. */
#define SLOPE 1.2

static void fill_want(struct data *data, const struct linear_case *c)
{
    double *x = malloc(sizeof(double) * (size_t)c->n_in);
    assert_non_null(x);
    for (int row = 0; row < c->n_rows; row++) {
        const float *from = data->x + (size_t)row * (size_t)c->n_in;
        for (int k = 0; k < c->n_in; k++)
            x[k] = from[k];
        if (c->norm >= 0)
            true_norm(x, from, data);
        for (int j = 0; j < data->n_y; j++) {
            size_t at = (size_t)row * (size_t)data->n_y + (size_t)j;
            struct dot dot = true_dot(data, x, j);
            double value = true_activation(dot.value, c->activation);
            double exact = SLOPE * dot.error_f32, rounded = SLOPE * dot.error_rounded;
            if (c->activation == ACTIVATION_SWIGLU) {
                struct dot up = true_dot(data, x, j + data->n_y);
                double u = fabs(up.value), v = fabs(value);
                exact = exact * (u + up.error_f32) + (v + exact) * up.error_f32;
                rounded = rounded * (u + up.error_rounded) + (v + rounded) * up.error_rounded;
                value *= up.value;
            }
            value += c->add ? data->y_before[at] : 0;
            data->want[at] = value;
            data->tolerance_exact[at] = exact + 1e-6 * fabs(value);
            data->tolerance_rounded[at] = rounded + 1e-6 * fabs(value);
        }
    }
    free(x);
}

static struct data data_init(const struct linear_case *c)
{
    struct data data = {.n_y = c->activation == ACTIVATION_SWIGLU ? c->n_out / 2 : c->n_out};
    size_t n_y = (size_t)c->n_rows * (size_t)data.n_y;
    data.w = (struct linear){
        .w = random_weights((size_t)c->n_out * (size_t)c->n_in, c->dtype),
        .dtype = c->dtype,
        .bias = c->bias ? random_floats((size_t)c->n_out) : NULL,
        .n_out = c->n_out,
        .n_in = c->n_in,
    };
    data.norm = (struct norm){
        .kind = c->norm == NORM_LAYER ? NORM_LAYER : NORM_RMS,
        .weight = random_floats((size_t)c->n_in),
        .bias = random_floats((size_t)c->n_in),
        .eps = 1e-5f,
    };
    data.x = random_floats((size_t)c->n_rows * (size_t)c->n_in);
    data.y_before = random_floats(n_y);
    data.want = calloc(3 * n_y, sizeof(double));
    assert_non_null(data.want);
    data.tolerance_exact = data.want + n_y;
    data.tolerance_rounded = data.want + 2 * n_y;
    fill_want(&data, c);
    return data;
}

static void data_free(struct data *data)
{
    free((void *)data->w.w);
    free((void *)data->w.bias);
    free((void *)data->norm.weight);
    free((void *)data->norm.bias);
    free(data->x);
    free(data->y_before);
    free(data->want);
}

/* --- The comparison ------------------------------------------------------------------------ */

static void check_level(const struct level *level, const struct linear_case *c,
                        const struct data *data)
{
    size_t n = (size_t)c->n_rows * (size_t)data->n_y;
    const double *tolerance = level->dev->bf16 && c->dtype == DTYPE_BF16 ? data->tolerance_rounded
                                                                         : data->tolerance_exact;
    float *y = malloc(n * sizeof *y);
    assert_non_null(y);
    memcpy(y, data->y_before, n * sizeof *y);
    if (c->add)
        cpu_linear_add(level->dev, y, data->x, &data->w, c->n_rows);
    else
        cpu_norm_linear(level->dev, y, data->x, c->norm >= 0 ? &data->norm : NULL, &data->w,
                        c->activation, c->n_rows);
    char why[200];
    assert_true(cpu_device_sync(level->dev, why, sizeof why));
    for (size_t i = 0; i < n; i++)
        if (!(fabs(y[i] - data->want[i]) <= tolerance[i]))
            fail_msg("%s, rows %d, in %d, out %d, dtype %d, activation %d, add %d, norm %d: "
                     "element %zu: got %.8g, want %.8g, tolerance %.2g",
                     level->name, c->n_rows, c->n_in, c->n_out, c->dtype, c->activation, c->add,
                     c->norm, i, y[i], data->want[i], tolerance[i]);
    free(y);
}

static void check(const struct linear_case *c)
{
    struct data data = data_init(c);
    for (int i = 0; i < n_levels; i++)
        check_level(&levels[i], c, &data);
    data_free(&data);
}

static const int sizes[] = {1, 2, 3, 15, 16, 17, 31, 33, 63, 64, 65, 100, 257, 511, 513, 4097};
static const int row_counts[] = {1, 2, 3, 4, 5, 7, 8, 9, 13, 14, 15, 29, 63, 64, 65, 66, 100, 530};

#define N_OF(array) ((int)(sizeof(array) / sizeof *(array)))

static int choose(const int *from, int n)
{
    return from[next_random() % (uint32_t)n];
}

/* A random shape of at most max_products multiplications. */
static struct linear_case random_case(enum dtype dtype, double max_products)
{
    struct linear_case c = {.dtype = dtype, .norm = -1};
    do {
        c.n_rows = choose(row_counts, N_OF(row_counts));
        c.n_in = choose(sizes, N_OF(sizes));
        c.n_out = choose(sizes, N_OF(sizes));
    } while ((double)c.n_rows * c.n_in * c.n_out > max_products);
    c.bias = next_random() % 2;
    return c;
}

static void test_products_equal_sums_in_double(void **state)
{
    (void)state;
    for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++)
        for (int i = 0; i < 150; i++) {
            struct linear_case c = random_case(dtype, 2e6);
            check(&c);
        }
}

static void test_each_row_count_and_each_small_width(void **state)
{
    (void)state;
    for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++)
        for (int n_rows = 1; n_rows <= 70; n_rows++) {
            struct linear_case c = {.n_rows = n_rows,
                                    .n_in = n_rows + 3,
                                    .n_out = 71 - n_rows,
                                    .dtype = dtype,
                                    .norm = -1};
            check(&c);
        }
}

static void test_rows_and_outputs_beyond_one_block(void **state)
{
    (void)state;
    for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
        struct linear_case c = {
            .n_rows = 1030, .n_in = 19, .n_out = 300, .dtype = dtype, .norm = -1, .bias = true};
        check(&c);
        c = (struct linear_case){
            .n_rows = 70, .n_in = 1100, .n_out = 70, .dtype = dtype, .norm = -1};
        check(&c);
    }
}

static void test_activations(void **state)
{
    (void)state;
    for (enum activation a = ACTIVATION_NONE; a <= ACTIVATION_RELU; a++)
        for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++)
            for (int i = 0; i < 8; i++) {
                struct linear_case c = random_case(dtype, 3e5);
                c.activation = a;
                c.n_out += a == ACTIVATION_SWIGLU ? c.n_out % 2 : 0;
                check(&c);
            }
}

static void test_norms_are_applied_first(void **state)
{
    (void)state;
    for (int norm = NORM_RMS; norm <= NORM_LAYER; norm++)
        for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++)
            for (int i = 0; i < 12; i++) {
                struct linear_case c = random_case(dtype, 3e5);
                /* Normalised values are exact to about n eps, as long as rows have spread. */
                c.n_in = c.n_in < 15 ? 15 : c.n_in;
                c.norm = norm;
                check(&c);
            }
}

static void test_linear_add_adds(void **state)
{
    (void)state;
    for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++)
        for (int i = 0; i < 20; i++) {
            struct linear_case c = random_case(dtype, 3e5);
            c.add = true;
            check(&c);
        }
}

/* Large gates overflow exp in f32; the result must stay what it is in double. */
static void test_activations_survive_large_values(void **state)
{
    (void)state;
    const float inputs[] = {-1e30f, -3e4f,  -200, -89, -88, -20, -1e-20f,
                            0,      1e-20f, 20,   89,  200, 3e4f};
    float one[2] = {1, 1};
    for (int level = 0; level < n_levels; level++)
        for (enum activation a = ACTIVATION_SWIGLU; a <= ACTIVATION_RELU; a++)
            for (int i = 0; i < (int)(sizeof inputs / sizeof *inputs); i++) {
                struct linear w = {.w = one, .dtype = DTYPE_F32, .n_in = 1};
                w.n_out = a == ACTIVATION_SWIGLU ? 2 : 1;
                float got = NAN, x = inputs[i];
                cpu_norm_linear(levels[level].dev, &got, &x, NULL, &w, a, 1);
                double want = true_activation(x, a) * (a == ACTIVATION_SWIGLU ? x : 1);
                if (!(fabs(got - want) <= 3e-7 * (fabs(x) + fabs(want))))
                    fail_msg("%s, activation %d of %g: got %g, want %g", levels[level].name, a, x,
                             got, want);
            }
}

static void test_results_do_not_depend_on_threads(void **state)
{
    (void)state;
    struct linear_case c = {
        .n_rows = 70, .n_in = 257, .n_out = 513, .dtype = DTYPE_BF16, .norm = 0};
    struct data data = data_init(&c);
    size_t n = (size_t)c.n_rows * (size_t)c.n_out;
    float *first = calloc(n, sizeof *first), *again = calloc(n, sizeof *again);
    for (int n_rows = 1; n_rows <= c.n_rows; n_rows += 23)
        for (int n_threads = 1; n_threads <= 5; n_threads += 2) {
            char why[200];
            struct device_options options = {.n_threads = n_threads};
            struct device *dev = cpu_device_open(&options, why, sizeof why);
            assert_non_null(dev);
            float *y = n_threads == 1 ? first : again;
            cpu_norm_linear(dev, y, data.x, &data.norm, &data.w, ACTIVATION_NONE, n_rows);
            if (n_threads > 1)
                assert_memory_equal(first, again, (size_t)n_rows * (size_t)c.n_out * sizeof *y);
            cpu_device_close(dev);
        }
    free(first);
    free(again);
    data_free(&data);
}

static void test_reserve_covers_the_calls_it_announces(void **state)
{
    (void)state;
    for (int i = 0; i < n_levels; i++) {
        struct device *dev = levels[i].dev;
        struct workspace_need need = {.max_rows = 600, .max_width = 5000};
        assert_true(cpu_reserve_linear(dev, &need));
        void *before = dev->workspace[CPU_WORKSPACE_LINEAR].data;
        static const int calls[][2] = {{1, 5000}, {64, 5000}, {65, 5000}, {600, 5000}, {600, 1}};
        for (int call = 0; call < 5; call++) {
            struct linear_case c = {.n_rows = calls[call][0],
                                    .n_in = calls[call][1],
                                    .n_out = 2,
                                    .dtype = DTYPE_BF16,
                                    .norm = -1};
            struct data data = data_init(&c);
            check_level(&levels[i], &c, &data);
            data_free(&data);
            assert_ptr_equal(dev->workspace[CPU_WORKSPACE_LINEAR].data, before);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products_equal_sums_in_double),
        cmocka_unit_test(test_each_row_count_and_each_small_width),
        cmocka_unit_test(test_rows_and_outputs_beyond_one_block),
        cmocka_unit_test(test_activations),
        cmocka_unit_test(test_norms_are_applied_first),
        cmocka_unit_test(test_linear_add_adds),
        cmocka_unit_test(test_activations_survive_large_values),
        cmocka_unit_test(test_results_do_not_depend_on_threads),
        cmocka_unit_test(test_reserve_covers_the_calls_it_announces),
    };
    return cmocka_run_group_tests(tests, open_levels, close_levels);
}
