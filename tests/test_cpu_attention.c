/* Dense attention of the cpu backend against plain loops, over awkward shapes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/cpu/attention.h"
#include "tests/attention_case.h"

struct level {
    const char *name;
    enum device_isa isa;
    bool exact;
    double tolerance;
};

/* f32 sums differ by rounding alone.  Products in bf16 round queries and weights to 8 bits: up to
 * 2^-9 each, which averages out over keys but not to less than a few thousandths. */
static const struct level levels[] = {
    {"reference", DEVICE_ISA_REFERENCE, true, 2e-6}, {"avx2", DEVICE_ISA_AVX2, true, 3e-6},
    {"avx512 exact", DEVICE_ISA_AVX512, true, 3e-6}, {"auto exact", DEVICE_ISA_AUTO, true, 3e-6},
    {"auto", DEVICE_ISA_AUTO, false, 8e-3},
};

enum { N_LEVELS = sizeof levels / sizeof levels[0], N_THREADS = 3 };

static struct device *devices[N_LEVELS];

static int open_devices(void **state)
{
    (void)state;
    for (int i = 0; i < N_LEVELS; i++) {
        char why[256] = "";
        struct device_options options = {
            .n_threads = N_THREADS, .exact = levels[i].exact, .isa = levels[i].isa};
        devices[i] = backend_cpu.open(&options, why, sizeof why);
        if (!devices[i]) {
            print_error("%s: %s\n", levels[i].name, why);
            return -1;
        }
    }
    return 0;
}

static int close_devices(void **state)
{
    (void)state;
    for (int i = 0; i < N_LEVELS; i++)
        backend_cpu.close(devices[i]);
    return 0;
}

static void check(const struct case_shape *shape)
{
    struct attention_case c;
    case_open(&c, shape, (uint64_t)(shape->n_keys * 31 + shape->head_dim));
    size_t n = case_out_count(&c);
    float *want = calloc(n, sizeof *want);
    attention_reference_dense(&c.att);
    memcpy(want, c.out, n * sizeof *want);
    for (int i = 1; i < N_LEVELS; i++) {
        for (size_t j = 0; j < n; j++)
            c.out[j] = NAN;
        backend_cpu.attend_dense(devices[i], &c.att);
        double error = relative_error(c.out, want, n);
        if (!(error <= levels[i].tolerance))
            fail_msg("%s: error %.2e, allowed %.2e; rows %d keys %d heads %d/%d dim %d %s tail %d "
                     "window %d first %d sink %d",
                     levels[i].name, error, levels[i].tolerance, shape->n_rows, shape->n_keys,
                     shape->n_heads, shape->n_kv_heads, shape->head_dim,
                     shape->dtype == DTYPE_BF16 ? "bf16" : "f32", shape->n_tail, shape->window,
                     shape->first_key, shape->sink);
    }
    free(want);
    case_close(&c);
}

/* Softmax by its definition, two passes in f64, apart from the code under test. */
static void naive_row(const struct attention_case *c, int row, int head, double *out)
{
    const struct attention *att = &c->att;
    int head_dim = att->kv.head_dim, kv_head = head / (att->n_heads / att->kv.n_kv_heads);
    int n_context = c->step.append_tail ? c->step.n_context : att->kv.capacity[KV_CONTEXT];
    int position = c->step.n_context + c->step.n_tail + row;
    double max = -INFINITY, sum = 0.0;
    for (int pass = 0; pass < 2; pass++)
        for (int key = att->first_key; key <= position; key++) {
            if (att->window > 0 && position - key >= att->window)
                continue;
            int s = key < n_context ? KV_CONTEXT : KV_TAIL;
            size_t at = ((size_t)kv_head * (size_t)att->kv.capacity[s] +
                         (size_t)(s == KV_CONTEXT ? key : key - n_context)) *
                        (size_t)head_dim;
            double z = 0.0;
            for (int d = 0; d < head_dim; d++)
                z += (double)att->q[row * att->q_stride + head * head_dim + d] *
                     (double)load_as_f32(att->kv.k[s], att->kv.dtype, at + (size_t)d);
            z *= (double)att->scale;
            if (pass == 0) {
                max = fmax(max, z);
                continue;
            }
            sum += exp(z - max);
            for (int d = 0; d < head_dim; d++)
                out[d] +=
                    exp(z - max) * (double)load_as_f32(att->kv.v[s], att->kv.dtype, at + (size_t)d);
        }
    if (att->sink_logits)
        sum += exp((double)att->sink_logits[head] - max);
    for (int d = 0; d < head_dim; d++)
        out[d] /= sum;
}

static void test_the_reference_is_the_formula(void **state)
{
    (void)state;
    struct case_shape shapes[] = {
        {3, 40, 6, 2, 24, DTYPE_F32, 0, 0, 0, false},
        {2, 33, 4, 4, 17, DTYPE_BF16, 9, 0, 2, true},
        {4, 50, 4, 1, 32, DTYPE_F32, 20, 11, 0, true},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct attention_case c;
        case_open(&c, &shapes[i], 7 + i);
        backend_cpu.attend_dense(devices[0], &c.att);
        for (int row = 0; row < shapes[i].n_rows; row++)
            for (int head = 0; head < shapes[i].n_heads; head++) {
                double want[32] = {0};
                naive_row(&c, row, head, want);
                for (int d = 0; d < shapes[i].head_dim; d++) {
                    float got = c.out[((size_t)row * (size_t)shapes[i].n_heads + (size_t)head) *
                                          (size_t)shapes[i].head_dim +
                                      (size_t)d];
                    if (fabs((double)got - want[d]) > 2e-6)
                        fail_msg("case %zu row %d head %d dim %d: got %.8f, want %.8f", i, row,
                                 head, d, (double)got, want[d]);
                }
            }
        case_close(&c);
    }
}

static void test_key_counts_around_every_block_border(void **state)
{
    (void)state;
    static const int rows[] = {1, 2, 5, 33}, keys[] = {1, 2, 15, 16, 17, 63, 64, 65, 257};
    for (size_t r = 0; r < 4; r++)
        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
            struct case_shape shape = {rows[r],    keys[k] + rows[r] - 1, 6, 2, 64, DTYPE_BF16,
                                       .n_tail = 0};
            check(&shape);
            shape.dtype = DTYPE_F32;
            check(&shape);
        }
}

static void test_every_head_dim(void **state)
{
    (void)state;
    static const int dims[] = {1, 2, 7, 16, 20, 40, 64, 80, 96, 100, 128, 160, 192, 250, 256};
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
        for (int rows = 1; rows <= 19; rows += 9) {
            struct case_shape shape = {rows, 150, 4, 2, dims[d], DTYPE_BF16, .n_tail = 30};
            check(&shape);
            shape.dtype = DTYPE_F32;
            check(&shape);
        }
}

static void test_every_group_size(void **state)
{
    (void)state;
    static const int groups[] = {1, 2, 3, 4, 5, 6, 7, 8, 16, 40};
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
        for (int rows = 1; rows <= 5; rows += 2) {
            struct case_shape shape = {rows, 130, 2 * groups[g], 2, 32, DTYPE_BF16, .n_tail = 17};
            check(&shape);
        }
}

static void test_segments_window_padding_and_sinks(void **state)
{
    (void)state;
    static const int rows[] = {1, 2, 21, 90};
    for (size_t r = 0; r < 4; r++)
        for (int tail = 0; tail <= 200; tail += 67)
            for (int window = 0; window <= 120; window += 40)
                for (int first = 0; first <= 70; first += 70) {
                    struct case_shape shape = {rows[r], 300 + rows[r], 4,    2,
                                               64,      DTYPE_BF16,    tail, window,
                                               first,   tail % 2 == 1};
                    check(&shape);
                }
}

static void test_many_keys_and_rows(void **state)
{
    (void)state;
    struct case_shape decode = {1, 4097, 8, 2, 64, DTYPE_BF16, .n_tail = 100};
    check(&decode);
    struct case_shape question = {33, 4097, 6, 2, 64, DTYPE_BF16, .n_tail = 70};
    check(&question);
    struct case_shape prefill = {257, 700, 6, 2, 64, DTYPE_BF16, .n_tail = 0};
    check(&prefill);
    prefill.dtype = DTYPE_F32;
    check(&prefill);
}

/* Scores of +-100 overflow exp unless the maximum is subtracted first. */
static void test_large_scores_stay_finite(void **state)
{
    (void)state;
    struct case_shape shapes[] = {{1, 200, 4, 2, 64, DTYPE_F32, .sink = false},
                                  {20, 200, 4, 2, 64, DTYPE_F32, .sink = false}};
    for (size_t s = 0; s < 2; s++) {
        struct attention_case c;
        case_open(&c, &shapes[s], 5);
        c.att.scale = 12.0f;
        size_t n = case_out_count(&c);
        float *want = calloc(n, sizeof *want);
        attention_reference_dense(&c.att);
        memcpy(want, c.out, n * sizeof *want);
        for (int i = 1; i < N_LEVELS; i++) {
            backend_cpu.attend_dense(devices[i], &c.att);
            double error = relative_error(c.out, want, n), allowed = 1e-4;
            if (levels[i].exact && !(error < allowed)) /* bf16 moves such scores by whole units */
                fail_msg("%s: error %.2e", levels[i].name, error);
            for (size_t j = 0; j < n; j++)
                assert_true(isfinite(c.out[j]));
        }
        free(want);
        case_close(&c);
    }
}

static void test_rows_of_padding_give_zeros(void **state)
{
    (void)state;
    for (int i = 0; i < N_LEVELS; i++)
        for (int rows = 2; rows <= 30; rows += 28) {
            struct case_shape shape = {rows, rows, 4, 2, 32, DTYPE_F32, .first_key = 1};
            struct attention_case c;
            case_open(&c, &shape, 11);
            backend_cpu.attend_dense(devices[i], &c.att);
            for (int j = 0; j < 4 * 32; j++)
                if (c.out[j] != 0.0f)
                    fail_msg("%s: row 0 sees nothing but has %g", levels[i].name, (double)c.out[j]);
            for (size_t j = 4 * 32; j < case_out_count(&c); j++)
                assert_true(isfinite(c.out[j]));
            case_close(&c);
        }
}

static void test_dense_counts_every_visible_key(void **state)
{
    (void)state;
    struct case_shape shape = {3, 20, 6, 2, 16, DTYPE_F32, .window = 5, .first_key = 14};
    struct attention_case c;
    case_open(&c, &shape, 3);
    backend_cpu.attend_dense(devices[N_LEVELS - 1], &c.att);
    /* Rows at 17, 18, 19 see 14..17, 14..18, 15..19. */
    assert_int_equal(c.counts.selected, 14 * 6);
    assert_int_equal(c.counts.visible, 14 * 6);
    assert_int_equal(c.counts.rows_read, 14 * 2);
    assert_int_equal(c.counts.rows_visible, 14 * 2);
    assert_int_equal(c.counts.calls, 1);
    assert_int_equal(c.counts.full, 0);
    backend_cpu.attend_dense(devices[1], &c.att);
    assert_int_equal(c.counts.calls, 2);
    assert_int_equal(c.counts.selected, 2 * 14 * 6);
    case_close(&c);
}

static void test_the_same_call_gives_the_same_bits(void **state)
{
    (void)state;
    static const int rows[] = {1, 40};
    for (int r = 0; r < 2; r++) {
        struct case_shape shape = {rows[r], 3000, 6, 2, 64, DTYPE_BF16, .n_tail = 500};
        struct attention_case c;
        case_open(&c, &shape, 21);
        size_t n = case_out_count(&c);
        float *first = calloc(n, sizeof *first);
        for (int repeat = 0; repeat < 5; repeat++) {
            backend_cpu.attend_dense(devices[N_LEVELS - 1], &c.att);
            if (repeat == 0)
                memcpy(first, c.out, n * sizeof *first);
            assert_memory_equal(first, c.out, n * sizeof *first);
        }
        free(first);
        case_close(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_reference_is_the_formula),
        cmocka_unit_test(test_key_counts_around_every_block_border),
        cmocka_unit_test(test_every_head_dim),
        cmocka_unit_test(test_every_group_size),
        cmocka_unit_test(test_segments_window_padding_and_sinks),
        cmocka_unit_test(test_many_keys_and_rows),
        cmocka_unit_test(test_large_scores_stay_finite),
        cmocka_unit_test(test_rows_of_padding_give_zeros),
        cmocka_unit_test(test_dense_counts_every_visible_key),
        cmocka_unit_test(test_the_same_call_gives_the_same_bits),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
