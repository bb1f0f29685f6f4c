/* Linear layers of the cuda backend against the cpu backend in f32, over awkward shapes, dtypes,
 * activations, norms and row counts: first with exact devices, then with prefill rounded. */
#include "tests/backend_pair.h"

#define N_OF(array) ((int)(sizeof(array) / sizeof *(array)))

/* Relative L2 differences.  In f32 the orders of the sums differ.  Rounding activations to bf16 (8
 * bits) leaves 2^-9 / sqrt 3 of each product, and as much again where the widest intermediate is
 * bf16; to f16 (11 bits) an eighth of that. */
static const double TOLERANCE_F32 = 1e-5, TOLERANCE_BF16 = 6e-3, TOLERANCE_F16 = 1e-3;

enum { NO_NORM = -1 };

struct linear_case {
    int n_rows, n_in, n_out;
    enum dtype dtype;
    enum activation activation;
    bool add, bias;
    int norm;     /* NO_NORM or an enum norm_kind */
    int x_offset; /* floats before x, which then is not aligned */
};

struct layer {
    struct twin w, bias, norm_weight, norm_bias;
    const struct linear_case *c;
};

static struct layer layer_init(const struct linear_case *c)
{
    struct layer l = {.c = c};
    l.w = twin_random((size_t)c->n_out * (size_t)c->n_in, c->dtype, 1 / sqrtf((float)c->n_in));
    if (c->bias)
        l.bias = twin_random((size_t)c->n_out, DTYPE_F32, 1);
    if (c->norm != NO_NORM) {
        l.norm_weight = twin_random((size_t)c->n_in, DTYPE_F32, 1);
        l.norm_bias = twin_random((size_t)c->n_in, DTYPE_F32, 1);
    }
    return l;
}

static void layer_free(struct layer *l)
{
    twin_free(&l->w);
    twin_free(&l->bias);
    twin_free(&l->norm_weight);
    twin_free(&l->norm_bias);
}

static int case_outputs(const struct linear_case *c)
{
    return c->activation == ACTIVATION_SWIGLU ? c->n_out / 2 : c->n_out;
}

static void run_side(const struct layer *l, int side, float *y, const float *x)
{
    const struct linear_case *c = l->c;
    const struct backend *backend = pair.backend[side];
    struct linear w = {.w = l->w.at[side],
                       .dtype = c->dtype,
                       .bias = l->bias.at[side],
                       .n_out = c->n_out,
                       .n_in = c->n_in};
    struct norm norm = {.kind = c->norm == NORM_LAYER ? NORM_LAYER : NORM_RMS,
                        .weight = l->norm_weight.at[side],
                        .bias = c->norm == NORM_LAYER ? l->norm_bias.at[side] : NULL,
                        .eps = 1e-5f};
    if (c->add)
        backend->linear_add(pair.dev[side], y, x, &w, c->n_rows);
    else
        backend->norm_linear(pair.dev[side], y, x, c->norm == NO_NORM ? NULL : &norm, &w,
                             c->activation, c->n_rows);
}

static void run(const struct layer *l, struct twin *y, const struct twin *x)
{
    for (int side = 0; side < N_PAIR; side++)
        run_side(l, side, y->at[side], (const float *)x->at[side] + l->c->x_offset);
}

static void check(const struct linear_case *c, double tolerance)
{
    struct layer l = layer_init(c);
    size_t n_x = (size_t)c->n_rows * (size_t)c->n_in + (size_t)c->x_offset;
    size_t n_y = (size_t)c->n_rows * (size_t)case_outputs(c);
    struct twin x = twin_random(n_x, DTYPE_F32, 1);
    struct twin y = c->add ? twin_random(n_y, DTYPE_F32, 1) : twin_poisoned(n_y);
    char what[200];
    snprintf(what, sizeof what,
             "rows %d, in %d, out %d, dtype %d, activation %d, add %d, bias %d, norm %d, offset %d",
             c->n_rows, c->n_in, c->n_out, c->dtype, c->activation, c->add, c->bias, c->norm,
             c->x_offset);
    run(&l, &y, &x);
    assert_twin_close(&y, n_y, tolerance, what);
    layer_free(&l);
    twin_free(&x);
    twin_free(&y);
}

static int choose(const int *from, int n)
{
    pair_draw();
    return from[(pair_random >> 8) % (uint32_t)n];
}

static const int sizes[] = {1, 2, 3, 15, 16, 17, 24, 63, 64, 65, 72, 257, 384, 1000, 1032, 4097};

/* A random shape of at most max_products multiplications. */
static struct linear_case random_case(enum dtype dtype, const int *row_counts, int n_row_counts,
                                      double max_products)
{
    struct linear_case c = {.dtype = dtype, .norm = NO_NORM};
    do {
        c.n_rows = choose(row_counts, n_row_counts);
        c.n_in = choose(sizes, N_OF(sizes));
        c.n_out = choose(sizes, N_OF(sizes));
    } while ((double)c.n_rows * c.n_in * c.n_out > max_products);
    c.bias = choose((const int[]){0, 1}, 2);
    return c;
}

/* --- Exact devices ------------------------------------------------------------------------------
 */

static const int exact_rows[] = {1, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 33, 64, 65, 130};

static void test_products_of_random_shapes(void **state)
{
    (void)state;
    for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++)
        for (int i = 0; i < 60; i++) {
            struct linear_case c = random_case(dtype, exact_rows, N_OF(exact_rows), 1e6);
            check(&c, TOLERANCE_F32);
        }
}

static void test_each_small_row_count(void **state)
{
    (void)state;
    for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++)
        for (int n_rows = 1; n_rows <= 17; n_rows++) {
            struct linear_case c = {
                .n_rows = n_rows, .n_in = 520, .n_out = 301, .dtype = dtype, .norm = NO_NORM};
            check(&c, TOLERANCE_F32);
        }
}

static void test_activations(void **state)
{
    (void)state;
    for (enum activation a = ACTIVATION_NONE; a <= ACTIVATION_RELU; a++)
        for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++)
            for (int i = 0; i < 8; i++) {
                struct linear_case c = random_case(dtype, exact_rows, N_OF(exact_rows), 3e5);
                c.activation = a;
                c.n_out += a == ACTIVATION_SWIGLU ? c.n_out % 2 : 0;
                check(&c, TOLERANCE_F32);
            }
}

static void test_norms_come_first(void **state)
{
    (void)state;
    for (int norm = NORM_RMS; norm <= NORM_LAYER; norm++)
        for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++)
            for (int i = 0; i < 10; i++) {
                struct linear_case c = random_case(dtype, exact_rows, N_OF(exact_rows), 3e5);
                /* Normalised values are exact to about n eps, as long as rows have spread. */
                c.n_in = c.n_in < 15 ? 15 : c.n_in;
                c.norm = norm;
                c.activation = i % 2 ? ACTIVATION_SWIGLU : ACTIVATION_NONE;
                c.n_out += c.n_out % 2;
                check(&c, TOLERANCE_F32);
            }
}

static void test_linear_add_adds(void **state)
{
    (void)state;
    for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++)
        for (int i = 0; i < 16; i++) {
            struct linear_case c = random_case(dtype, exact_rows, N_OF(exact_rows), 3e5);
            c.add = true;
            check(&c, TOLERANCE_F32);
        }
}

/* The last rows of a buffer, as the vocabulary takes them, may start anywhere. */
static void test_rows_may_start_anywhere(void **state)
{
    (void)state;
    for (int offset = 1; offset <= 4; offset++)
        for (int n_rows = 1; n_rows <= 40; n_rows += 13) {
            struct linear_case c = {.n_rows = n_rows,
                                    .n_in = 256,
                                    .n_out = 65,
                                    .dtype = DTYPE_BF16,
                                    .norm = NORM_RMS,
                                    .x_offset = offset};
            check(&c, TOLERANCE_F32);
        }
}

/* Rows wider than a block's shared memory. */
static void test_wide_rows(void **state)
{
    (void)state;
    static const int row_counts[] = {1, 2, 3, 8};
    for (int i = 0; i < N_OF(row_counts); i++) {
        struct linear_case c = {.n_rows = row_counts[i],
                                .n_in = 14336,
                                .n_out = 150,
                                .dtype = DTYPE_BF16,
                                .norm = NO_NORM,
                                .add = true};
        check(&c, TOLERANCE_F32);
        c.n_in = 33000;
        c.n_out = 37;
        c.add = false;
        c.norm = i % 2 ? NORM_LAYER : NORM_RMS;
        check(&c, TOLERANCE_F32);
    }
}

/* More outputs than a block finishes at once. */
static void test_many_outputs(void **state)
{
    (void)state;
    static const int row_counts[] = {1, 2, 4, 8};
    for (int i = 0; i < N_OF(row_counts); i++) {
        struct linear_case c = {.n_rows = row_counts[i],
                                .n_in = 64,
                                .n_out = 70001,
                                .dtype = i % 2 ? DTYPE_F16 : DTYPE_BF16,
                                .norm = NORM_RMS};
        check(&c, TOLERANCE_F32);
        c.n_out = 70002;
        c.activation = ACTIVATION_SWIGLU;
        c.bias = true;
        check(&c, TOLERANCE_F32);
    }
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
    case ACTIVATION_SWIGLU: /* of a gate that is its own other half */
        return x / (1 + exp(-x)) * x;
    case ACTIVATION_NONE:
        break;
    }
    return x;
}

/* Large gates overflow exp in f32; the result must stay what it is in double. */
static void test_activations_survive_large_values(void **state)
{
    (void)state;
    static const float inputs[] = {-1e18f, -3e4f,  -200, -89, -88, -20, -1e-20f,
                                   0,      1e-20f, 20,   89,  200, 3e4f};
    static const float ones[8] = {1, 0, 0, 0, 1, 0, 0, 0};
    const struct backend *backend = pair.backend[PAIR_CUDA];
    struct twin w = twin_bytes(ones, sizeof ones);
    for (enum activation a = ACTIVATION_NONE; a <= ACTIVATION_RELU; a++)
        for (int i = 0; i < N_OF(inputs); i++) {
            float row[4] = {inputs[i]}, got = NAN;
            struct twin x = twin_bytes(row, sizeof row), y = twin_poisoned(1);
            struct linear layer = {.w = w.at[PAIR_CUDA], .dtype = DTYPE_F32, .n_in = 4};
            layer.n_out = a == ACTIVATION_SWIGLU ? 2 : 1;
            backend->norm_linear(pair.dev[PAIR_CUDA], y.at[PAIR_CUDA], x.at[PAIR_CUDA], NULL,
                                 &layer, a, 1);
            backend->download(pair.dev[PAIR_CUDA], &got, y.at[PAIR_CUDA], sizeof got);
            double want = true_activation(inputs[i], a);
            if (!(fabs(got - want) <= 1e-6 * (fabs((double)inputs[i]) + fabs(want))))
                fail_msg("activation %d of %g: got %g, want %g", a, (double)inputs[i], (double)got,
                         want);
            twin_free(&x);
            twin_free(&y);
        }
    twin_free(&w);
}

static void test_the_same_call_gives_the_same_bits(void **state)
{
    (void)state;
    static const int row_counts[] = {1, 2, 4, 8, 40};
    for (int i = 0; i < N_OF(row_counts); i++) {
        struct linear_case c = {.n_rows = row_counts[i],
                                .n_in = 1032,
                                .n_out = 2002,
                                .dtype = DTYPE_BF16,
                                .activation = ACTIVATION_SWIGLU,
                                .norm = NORM_RMS};
        size_t n_y = (size_t)c.n_rows * (size_t)case_outputs(&c);
        struct layer l = layer_init(&c);
        struct twin x = twin_random((size_t)c.n_rows * (size_t)c.n_in, DTYPE_F32, 1);
        float *first = NULL;
        for (int time = 0; time < 4; time++) {
            struct twin y = twin_poisoned(n_y);
            run_side(&l, PAIR_CUDA, y.at[PAIR_CUDA], x.at[PAIR_CUDA]);
            float *again = twin_host(&y, PAIR_CUDA);
            if (first)
                assert_memory_equal(first, again, n_y * sizeof *again);
            else
                first = again;
            if (again != first)
                free(again);
            twin_free(&y);
        }
        free(first);
        layer_free(&l);
        twin_free(&x);
    }
}

/* --- Calls one after the other ------------------------------------------------------------------
 */

enum { CHAIN_DIM = 512, CHAIN_FFN = 1376, CHAIN_LAYERS = 12 };

struct chain {
    struct linear_case up_case, down_case;
    struct layer up[CHAIN_LAYERS], down[CHAIN_LAYERS];
    struct twin x, hidden;
};

static void chain_init(struct chain *chain, int n_rows)
{
    chain->up_case = (struct linear_case){.n_rows = n_rows,
                                          .n_in = CHAIN_DIM,
                                          .n_out = 2 * CHAIN_FFN,
                                          .dtype = DTYPE_BF16,
                                          .activation = ACTIVATION_SWIGLU,
                                          .norm = NORM_RMS};
    chain->down_case = (struct linear_case){.n_rows = n_rows,
                                            .n_in = CHAIN_FFN,
                                            .n_out = CHAIN_DIM,
                                            .dtype = DTYPE_BF16,
                                            .add = true,
                                            .norm = NO_NORM};
    for (int i = 0; i < CHAIN_LAYERS; i++) {
        chain->up[i] = layer_init(&chain->up_case);
        chain->down[i] = layer_init(&chain->down_case);
    }
    chain->x = twin_random((size_t)n_rows * CHAIN_DIM, DTYPE_F32, 1);
    chain->hidden = twin_poisoned((size_t)n_rows * CHAIN_FFN);
}

static void chain_run(struct chain *chain, int side)
{
    for (int i = 0; i < CHAIN_LAYERS; i++) {
        run_side(&chain->up[i], side, chain->hidden.at[side], chain->x.at[side]);
        run_side(&chain->down[i], side, chain->x.at[side], chain->hidden.at[side]);
    }
}

static void chain_free(struct chain *chain)
{
    for (int i = 0; i < CHAIN_LAYERS; i++) {
        layer_free(&chain->up[i]);
        layer_free(&chain->down[i]);
    }
    twin_free(&chain->x);
    twin_free(&chain->hidden);
}

/* A call may start while the one before it runs; it must still see all that that one wrote. */
static void check_chain(double tolerance)
{
    static const int row_counts[] = {1, 2, 8, 70};
    for (int i = 0; i < N_OF(row_counts); i++) {
        struct chain chain;
        chain_init(&chain, row_counts[i]);
        for (int side = 0; side < N_PAIR; side++)
            chain_run(&chain, side);
        assert_twin_close(&chain.x, (size_t)row_counts[i] * CHAIN_DIM, tolerance, "chain");
        chain_free(&chain);
    }
}

static void test_calls_see_what_the_calls_before_them_wrote(void **state)
{
    (void)state;
    check_chain(3 * TOLERANCE_F32); /* errors add up over the layers */
}

static void check_recorded(double tolerance)
{
    const struct backend *cuda = pair.backend[PAIR_CUDA];
    struct device *dev = pair.dev[PAIR_CUDA];
    static const int row_counts[] = {1, 8, 70};
    for (int i = 0; i < N_OF(row_counts); i++) {
        struct chain chain;
        chain_init(&chain, row_counts[i]);
        pair_reserve(&(struct workspace_need){.max_rows = row_counts[i],
                                              .max_width = 2 * CHAIN_FFN,
                                              .n_heads = 1,
                                              .n_kv_heads = 1,
                                              .head_dim = 16,
                                              .max_keys = 16});
        assert_true(cuda->record_begin(dev));
        chain_run(&chain, PAIR_CUDA);
        struct recording *recording = cuda->record_end(dev);
        pair_sync();
        assert_non_null(recording);
        for (int time = 0; time < 2; time++) {
            cuda->replay(dev, recording);
            chain_run(&chain, PAIR_CPU);
        }
        assert_twin_close(&chain.x, (size_t)row_counts[i] * CHAIN_DIM, tolerance, "replay");
        cuda->recording_close(dev, recording);
        chain_free(&chain);
    }
}

static void test_recorded_calls_replay(void **state)
{
    (void)state;
    check_recorded(6 * TOLERANCE_F32);
}

/* --- Prefill rounded ----------------------------------------------------------------------------
 */

static const int many_rows[] = {9, 15, 16, 17, 33, 64, 65, 257};

static double rounded_tolerance(enum dtype dtype)
{
    return dtype == DTYPE_BF16  ? TOLERANCE_BF16
           : dtype == DTYPE_F16 ? TOLERANCE_F16
                                : TOLERANCE_F32;
}

static void test_many_rows_of_random_shapes(void **state)
{
    (void)state;
    for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++)
        for (int i = 0; i < 40; i++) {
            struct linear_case c = random_case(dtype, many_rows, N_OF(many_rows), 1e6);
            check(&c, rounded_tolerance(dtype));
        }
}

/* Few outputs that ReLU or a gate leaves near 0 have no norm to measure a difference by. */
static void test_many_rows_with_activations_and_norms(void **state)
{
    (void)state;
    for (enum activation a = ACTIVATION_NONE; a <= ACTIVATION_RELU; a++)
        for (int norm = NO_NORM; norm <= NORM_LAYER; norm++)
            for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++)
                for (int i = 0; i < 4; i++) {
                    struct linear_case c = random_case(dtype, many_rows, N_OF(many_rows), 1e6);
                    c.n_in = c.n_in < 24 ? 24 : c.n_in;
                    c.n_out = c.n_out < 24 ? 24 : c.n_out + c.n_out % 2;
                    c.activation = a;
                    c.norm = norm;
                    check(&c, 1.5 * rounded_tolerance(dtype)); /* slopes above 1, products */
                }
}

static void test_many_rows_are_added(void **state)
{
    (void)state;
    for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++)
        for (int i = 0; i < 16; i++) {
            struct linear_case c = random_case(dtype, many_rows, N_OF(many_rows), 1e6);
            c.add = true;
            check(&c, rounded_tolerance(dtype));
        }
}

static void test_few_rows_are_not_rounded(void **state)
{
    (void)state;
    for (int n_rows = 1; n_rows <= 8; n_rows++) {
        struct linear_case c = {
            .n_rows = n_rows, .n_in = 1032, .n_out = 300, .dtype = DTYPE_BF16, .norm = NORM_RMS};
        check(&c, TOLERANCE_F32);
    }
}

static void test_rounded_calls_follow_each_other_and_replay(void **state)
{
    (void)state;
    check_chain(2 * TOLERANCE_BF16); /* each layer's part of x is small beside what it adds to */
    check_recorded(3 * TOLERANCE_BF16);
}

static bool reopen_cuda(bool exact)
{
    char why[512] = "";
    struct device_options options = {.exact = exact};
    pair.backend[PAIR_CUDA]->close(pair.dev[PAIR_CUDA]);
    pair.dev[PAIR_CUDA] = pair.backend[PAIR_CUDA]->open(&options, why, sizeof why);
    if (!pair.dev[PAIR_CUDA])
        printf("cuda: %s\n", why);
    return pair.dev[PAIR_CUDA] != NULL;
}

int main(void)
{
    const struct CMUnitTest exact_tests[] = {
        pair_test(test_products_of_random_shapes),
        pair_test(test_each_small_row_count),
        pair_test(test_activations),
        pair_test(test_norms_come_first),
        pair_test(test_linear_add_adds),
        pair_test(test_rows_may_start_anywhere),
        pair_test(test_wide_rows),
        pair_test(test_many_outputs),
        pair_test(test_activations_survive_large_values),
        pair_test(test_the_same_call_gives_the_same_bits),
        pair_test(test_calls_see_what_the_calls_before_them_wrote),
        pair_test(test_recorded_calls_replay),
    };
    const struct CMUnitTest rounded_tests[] = {
        pair_test(test_many_rows_of_random_shapes),
        pair_test(test_many_rows_with_activations_and_norms),
        pair_test(test_many_rows_are_added),
        pair_test(test_few_rows_are_not_rounded),
        pair_test(test_rounded_calls_follow_each_other_and_replay),
    };
    if (!pair_open(true))
        return PAIR_SKIPPED;
    int n_failed = cmocka_run_group_tests(exact_tests, NULL, NULL);
    n_failed += reopen_cuda(false) ? cmocka_run_group_tests(rounded_tests, NULL, NULL) : 1;
    pair_close();
    return n_failed;
}
