/* Prefill attention of the cuda backend against the cpu backend, each of its ways on its own: the
 * module exports them for this. */
#include <dlfcn.h>

#include "tests/cuda_case.h"

typedef void attend_way(struct device *dev, const struct attention *att);
typedef bool attend_takes(const struct device *dev, const struct attention *att);

static attend_way *mma, *wgmma;
static attend_takes *wgmma_takes;

/* Queries and weights are rounded to bf16, 2^-9 of each at most; the mean of values then is a few
 * thousandths off. */
static const double TOLERANCE = 6e-3;

static void *module_symbol(const char *name)
{
    const char *path = getenv("ATTNSCOPE_CUDA_MODULE");
    void *module = path ? dlopen(path, RTLD_NOW | RTLD_NOLOAD) : NULL;
    return module ? dlsym(module, name) : NULL;
}

/* The cpu in f32 throughout; cuda as it runs outside parity tests. */
static bool open_devices(void)
{
    if (!pair_open(false))
        return false;
    pair.backend[PAIR_CPU]->close(pair.dev[PAIR_CPU]);
    char why[512] = "";
    struct device_options exact = {.exact = true};
    pair.dev[PAIR_CPU] = backend_open("cpu", &exact, &pair.backend[PAIR_CPU], why, sizeof why);
    *(void **)&mma = module_symbol("attention_prefill_mma");
    *(void **)&wgmma = module_symbol("attention_prefill_wgmma");
    *(void **)&wgmma_takes = module_symbol("attention_prefill_wgmma_takes");
    if (mma && wgmma && wgmma_takes)
        return true;
    printf("skipped: $ATTNSCOPE_CUDA_MODULE does not name the module\n");
    return false;
}

/* --- One case --------------------------------------------------------------------------------- */

static void attend_cpu(struct attention_case *c)
{
    pair.backend[PAIR_CPU]->attend_dense(pair.dev[PAIR_CPU], &c->att);
}

static float *attend_cuda(struct cuda_case *cuda, const struct attention_case *c, attend_way *way)
{
    way(pair.dev[PAIR_CUDA], &cuda->att);
    pair_sync();
    return cuda_case_out(cuda, c);
}

static void assert_close(const struct attention_case *c, const struct case_shape *shape,
                         const float *got, double most)
{
    double error = relative_error(got, c->out, case_out_count(c));
    if (!(error <= most))
        fail_msg("error %.2e, allowed %.2e; rows %d keys %d heads %d/%d dim %d tail %d window %d "
                 "first %d sink %d max_keys %d",
                 error, most, shape->n_rows, shape->n_keys, shape->n_heads, shape->n_kv_heads,
                 shape->head_dim, shape->n_tail, shape->window, shape->first_key, shape->sink,
                 c->att.max_keys);
}

static void check_bound(const struct case_shape *shape, attend_way *way, int max_keys)
{
    struct attention_case c;
    struct cuda_case cuda;
    case_open(&c, shape, (uint64_t)(shape->n_keys * 31 + shape->head_dim));
    cuda_case_open(&cuda, &c);
    c.att.max_keys = cuda.att.max_keys = max_keys;
    attend_cpu(&c);
    float *got = attend_cuda(&cuda, &c, way);
    assert_close(&c, shape, got, TOLERANCE);
    free(got);
    cuda_case_close(&cuda);
    case_close(&c);
}

static void check(const struct case_shape *shape, attend_way *way)
{
    check_bound(shape, way, shape->n_keys);
}

static struct case_shape shape_of(int n_rows, int n_keys, int n_heads, int n_kv_heads, int head_dim)
{
    return (struct case_shape){.n_rows = n_rows,
                               .n_keys = n_keys,
                               .n_heads = n_heads,
                               .n_kv_heads = n_kv_heads,
                               .head_dim = head_dim,
                               .dtype = DTYPE_BF16};
}

static const int head_dims[] = {64, 80, 96, 128, 256};
enum { N_HEAD_DIMS = sizeof head_dims / sizeof *head_dims };

/* --- mma.sync --------------------------------------------------------------------------------- */

static void test_rows_and_keys_around_every_block_border(void **state)
{
    (void)state;
    static const int rows[] = {2, 15, 16, 17, 33, 65}, keys[] = {2, 15, 63, 64, 65, 128, 129, 257};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
            if (keys[k] >= rows[r]) {
                struct case_shape shape = shape_of(rows[r], keys[k], 4, 1, k % 2 ? 64 : 128);
                check(&shape, mma);
            }
}

static void test_every_head_dim_and_group(void **state)
{
    (void)state;
    static const int groups[] = {1, 3, 4, 7, 8};
    for (size_t d = 0; d < N_HEAD_DIMS; d++)
        for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
            struct case_shape shape = shape_of(45, 333, 2 * groups[g], 2, head_dims[d]);
            check(&shape, mma);
            shape.n_rows = 7; /* up to 56 queries: narrow blocks */
            check(&shape, mma);
        }
}

static void test_a_whole_prompt_is_causal(void **state)
{
    (void)state;
    static const int keys[] = {16, 17, 1000};
    for (size_t k = 0; k < 3; k++)
        for (size_t d = 0; d < N_HEAD_DIMS; d++) {
            struct case_shape shape = shape_of(keys[k], keys[k], 4, 2, head_dims[d]);
            check(&shape, mma);
        }
}

static void test_tiles_end_at_the_segment_border(void **state)
{
    (void)state;
    static const int tails[] = {1, 63, 64, 65, 290};
    for (size_t t = 0; t < sizeof tails / sizeof *tails; t++)
        for (size_t d = 0; d < N_HEAD_DIMS; d++) {
            struct case_shape shape = shape_of(37, 400, 8, 2, head_dims[d]);
            shape.n_tail = tails[t];
            check(&shape, mma);
        }
}

static void test_windows_padding_and_sinks(void **state)
{
    (void)state;
    static const int windows[] = {0, 1, 50, 64, 200}, firsts[] = {0, 7, 150};
    for (size_t w = 0; w < sizeof windows / sizeof *windows; w++)
        for (size_t f = 0; f < sizeof firsts / sizeof *firsts; f++)
            for (int sink = 0; sink < 2; sink++) {
                struct case_shape shape = shape_of(70, 300, 8, 2, sink ? 64 : 128);
                shape.window = windows[w];
                shape.first_key = firsts[f];
                shape.sink = sink;
                shape.n_tail = w % 2 ? 120 : 0;
                check(&shape, mma);
            }
}

static void test_rows_that_see_nothing_give_zeros(void **state)
{
    (void)state;
    struct case_shape shape = shape_of(40, 60, 4, 1, 128);
    struct attention_case c;
    struct cuda_case cuda;
    shape.first_key = 45; /* rows 0..24 are at positions 20..44 */
    shape.sink = true;
    case_open(&c, &shape, 3);
    cuda_case_open(&cuda, &c);
    attend_cpu(&c);
    float *got = attend_cuda(&cuda, &c, mma);
    assert_close(&c, &shape, got, TOLERANCE);
    for (size_t i = 0; i < 25 * 4 * 128; i++)
        assert_true(got[i] == 0.0f);
    free(got);
    cuda_case_close(&cuda);
    case_close(&c);
}

static void test_the_keys_of_few_rows_are_split(void **state)
{
    (void)state;
    static const int rows[] = {2, 5, 20, 33}, keys[] = {1000, 4097, 12000};
    for (size_t d = 0; d < N_HEAD_DIMS; d++)
        for (size_t r = 0; r < 4; r++) {
            struct case_shape shape = shape_of(rows[r], keys[(d + r) % 3], 8, 2, head_dims[d]);
            shape.n_tail = r % 2 ? 700 : 0;
            shape.sink = r < 2;
            shape.first_key = r == 3 ? 130 : 0;
            check(&shape, mma);
        }
}

static void test_the_real_length_may_be_far_below_the_bound(void **state)
{
    (void)state;
    static const int keys[] = {3, 64, 500};
    for (size_t k = 0; k < 3; k++)
        for (int first = 0; first < 2; first++) { /* first_key: most parts are empty */
            struct case_shape shape = shape_of(3, keys[k], 4, 1, 128);
            shape.first_key = first * (keys[k] - 2);
            check_bound(&shape, mma, 131072);
        }
}

/* Scores that outgrow the first maxima make the sums scale anew. */
static void test_scores_that_rise_along_the_keys(void **state)
{
    (void)state;
    struct case_shape shape = shape_of(40, 700, 4, 1, 64);
    struct attention_case c;
    struct cuda_case cuda;
    case_open(&c, &shape, 5);
    for (int key = 0; key < shape.n_keys; key++)
        for (int d = 0; d < 64; d++) {
            uint16_t *k = (uint16_t *)c.k[KV_CONTEXT] + key * 64 + d;
            *k = f32_to_bf16(bf16_to_f32(*k) * (0.05f + 0.01f * (float)key));
        }
    cuda_case_open(&cuda, &c);
    attend_cpu(&c);
    float *got = attend_cuda(&cuda, &c, mma);
    assert_close(&c, &shape, got, 3e-2); /* scores of 20 and more: their rounding shows */
    free(got);
    cuda_case_close(&cuda);
    case_close(&c);
}

static void test_pieces_of_a_call_are_the_call(void **state)
{
    (void)state;
    static const int cuts[] = {0, 2, 50, 51, 53, 130};
    struct case_shape shape = shape_of(130, 500, 8, 2, 128);
    struct attention_case c;
    struct cuda_case cuda;
    shape.n_tail = 90;
    shape.window = 333;
    case_open(&c, &shape, 11);
    cuda_case_open(&cuda, &c);
    attend_cpu(&c);
    for (size_t i = 0; i + 1 < sizeof cuts / sizeof *cuts; i++) {
        struct attention piece = cuda.att;
        if (cuts[i + 1] - cuts[i] < 2) /* a single row is decode's */
            continue;
        piece.n_rows_total = shape.n_rows;
        piece.row_offset = cuts[i];
        piece.n_rows = cuts[i + 1] - cuts[i];
        piece.q += (size_t)cuts[i] * (size_t)piece.q_stride;
        piece.out += (size_t)cuts[i] * 8 * 128;
        mma(pair.dev[PAIR_CUDA], &piece);
    }
    pair_sync();
    float *got = cuda_case_out(&cuda, &c);
    memcpy(got + 50 * 8 * 128, c.out + 50 * 8 * 128, 8 * 128 * sizeof *got); /* the row left out */
    assert_close(&c, &shape, got, TOLERANCE);
    free(got);
    cuda_case_close(&cuda);
    case_close(&c);
}

static void test_the_same_call_gives_the_same_bits(void **state)
{
    (void)state;
    static const int rows[] = {5, 20, 300};
    for (size_t r = 0; r < 3; r++) {
        struct case_shape shape = shape_of(rows[r], 3000, 8, 2, 128);
        struct attention_case c;
        struct cuda_case cuda;
        case_open(&c, &shape, 13);
        cuda_case_open(&cuda, &c);
        float *first = attend_cuda(&cuda, &c, mma);
        for (int i = 0; i < 3; i++) {
            float *again = attend_cuda(&cuda, &c, mma);
            assert_memory_equal(first, again, case_out_count(&c) * sizeof *first);
            free(again);
        }
        free(first);
        cuda_case_close(&cuda);
        case_close(&c);
    }
}

/* A recorded call reads the lengths when it is replayed. */
static void replay_at_lengths(attend_way *way, const struct case_shape *shape)
{
    const struct backend *backend = pair.backend[PAIR_CUDA];
    struct device *dev = pair.dev[PAIR_CUDA];
    struct attention_case c;
    struct cuda_case cuda;
    case_open(&c, shape, 17);
    cuda_case_open(&cuda, &c);
    way(dev, &cuda.att); /* so that workspaces are there */
    pair_sync();
    assert_true(backend->record_begin(dev));
    way(dev, &cuda.att);
    struct recording *recording = backend->record_end(dev);
    assert_non_null(recording);
    for (int n_context = 1; n_context <= shape->n_keys - shape->n_rows; n_context += 401) {
        c.step.n_context = n_context;
        attend_cpu(&c);
        backend->upload(dev, (void *)(uintptr_t)cuda.att.step, &c.step, sizeof c.step);
        backend->replay(dev, recording);
        pair_sync();
        float *got = cuda_case_out(&cuda, &c);
        assert_close(&c, shape, got, TOLERANCE);
        free(got);
    }
    backend->recording_close(dev, recording);
    cuda_case_close(&cuda);
    case_close(&c);
}

static void test_a_recorded_call_follows_the_lengths(void **state)
{
    (void)state;
    struct case_shape few = shape_of(5, 2000, 4, 1, 128), many = shape_of(200, 1500, 4, 1, 64);
    replay_at_lengths(mma, &few);
    replay_at_lengths(mma, &many);
}

/* --- wgmma ------------------------------------------------------------------------------------ */

/* Large enough for a block on every multiprocessor, or the test is skipped. */
static void check_wgmma(const struct case_shape *shape)
{
    struct attention att = {
        .n_rows = shape->n_rows,
        .n_heads = shape->n_heads,
        .q_stride = 4,
        .kv = {.dtype = shape->dtype, .n_kv_heads = shape->n_kv_heads, .head_dim = shape->head_dim},
    };
    if (!wgmma_takes(pair.dev[PAIR_CUDA], &att)) {
        print_message("the device does not have wgmma, or is too large for this call\n");
        skip();
    }
    check(shape, wgmma);
}

static void test_wgmma_chunks(void **state)
{
    (void)state;
    for (int d = 64; d <= 128; d += 64) {
        struct case_shape chunk = shape_of(600, 1100, 32, 8, d);
        check_wgmma(&chunk);
        struct case_shape own_keys = shape_of(600, 700, 32, 32, d);
        check_wgmma(&own_keys);
        struct case_shape odd_group = shape_of(611, 900, 28, 4, d);
        check_wgmma(&odd_group);
    }
}

static void test_wgmma_whole_prompt(void **state)
{
    (void)state;
    static const int keys[] = {640, 641, 703};
    for (size_t k = 0; k < 3; k++)
        for (int d = 64; d <= 128; d += 64) {
            struct case_shape shape = shape_of(keys[k], keys[k], 32, 8, d);
            check_wgmma(&shape);
        }
}

static void test_wgmma_segments_windows_padding_and_sinks(void **state)
{
    (void)state;
    for (int i = 0; i < 6; i++) {
        struct case_shape shape = shape_of(560, 1000, 32, 8, i % 2 ? 64 : 128);
        shape.n_tail = (int[]){0, 100, 128, 300, 1, 440}[i];
        shape.window = (int[]){100, 0, 600, 257, 1, 0}[i];
        shape.first_key = (int[]){0, 5, 0, 700, 0, 990}[i];
        shape.sink = i > 1;
        check_wgmma(&shape);
    }
}

static void test_wgmma_recorded_call_follows_the_lengths(void **state)
{
    (void)state;
    struct case_shape shape = shape_of(600, 1500, 32, 8, 128);
    check_wgmma(&shape);
    replay_at_lengths(wgmma, &shape);
}

/* What lies beyond the keys, within the capacity, may be anything. */
static void test_wgmma_ignores_what_lies_behind_the_keys(void **state)
{
    (void)state;
    struct case_shape shape = shape_of(600, 1000, 32, 8, 128);
    struct attention_case c;
    struct cuda_case cuda;
    check_wgmma(&shape);
    case_open(&c, &shape, 23);
    c.step.n_context -= 30;
    for (int head = 0; head < 8; head++)
        for (size_t i = 0; i < 30 * 128; i++) {
            size_t at = ((size_t)head * 1000 + 970) * 128 + i;
            ((uint16_t *)c.k[KV_CONTEXT])[at] = ((uint16_t *)c.v[KV_CONTEXT])[at] =
                0x7fc0; /* NaN */
        }
    cuda_case_open(&cuda, &c);
    attend_cpu(&c);
    float *got = attend_cuda(&cuda, &c, wgmma);
    assert_close(&c, &shape, got, TOLERANCE);
    free(got);
    cuda_case_close(&cuda);
    case_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_and_keys_around_every_block_border),
        cmocka_unit_test(test_every_head_dim_and_group),
        cmocka_unit_test(test_a_whole_prompt_is_causal),
        cmocka_unit_test(test_tiles_end_at_the_segment_border),
        cmocka_unit_test(test_windows_padding_and_sinks),
        cmocka_unit_test(test_rows_that_see_nothing_give_zeros),
        cmocka_unit_test(test_the_keys_of_few_rows_are_split),
        cmocka_unit_test(test_the_real_length_may_be_far_below_the_bound),
        cmocka_unit_test(test_scores_that_rise_along_the_keys),
        cmocka_unit_test(test_pieces_of_a_call_are_the_call),
        cmocka_unit_test(test_the_same_call_gives_the_same_bits),
        cmocka_unit_test(test_a_recorded_call_follows_the_lengths),
        cmocka_unit_test(test_wgmma_chunks),
        cmocka_unit_test(test_wgmma_whole_prompt),
        cmocka_unit_test(test_wgmma_segments_windows_padding_and_sinks),
        cmocka_unit_test(test_wgmma_recorded_call_follows_the_lengths),
        cmocka_unit_test(test_wgmma_ignores_what_lies_behind_the_keys),
    };
    if (!open_devices())
        return PAIR_SKIPPED;
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    pair_close();
    return n_failed;
}
