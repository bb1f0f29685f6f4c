/* Dense attention of the cuda backend against the cpu's, on every way: f32, decode, prefill. */
#include "tests/cuda_case.h"

/* Two CUDA devices: exact, whose bf16 calls go the decode way or the plain one, and fast, where
 * many rows go the prefill way. */
enum { EXACT, FAST, N_DEVICES };

static struct device *devices[N_DEVICES];
static const char *const device_names[N_DEVICES] = {"exact", "fast"};

/* Relative errors of one (row, head) at most: f32 sums in another order differ by a few 2^-23 times
 * the root of their length.  Decode takes q and the weights as sums of two bf16, to 2^-17 each, and
 * powers of two to 2^-22. */
static const double F32_ERROR = 1e-5, DECODE_ERROR = 5e-5;
/* Weights, and in prefill queries, as one bf16: 2^-9 at most each, less over many keys; a row of
 * few keys has them all. */
static const double BF16_ERROR = 1e-2;

/* The worst relative error of a (row, head); infinite for a number that is none. */
static double worst_error(const float *got, const float *want, size_t n_heads, size_t dim)
{
    double worst = 0;
    for (size_t i = 0; i < n_heads; i++) {
        double error = relative_error(got + i * dim, want + i * dim, dim);
        if (!(error <= worst))
            worst = isnan(error) ? INFINITY : error;
    }
    return worst;
}

static void describe_case(const struct attention *att, char *text, size_t n_text)
{
    snprintf(text, n_text,
             "rows %d keys <= %d heads %d/%d dim %d %s window %d first %d sink %d piece %d of %d",
             att->n_rows, att->max_keys, att->n_heads, att->kv.n_kv_heads, att->kv.head_dim,
             att->kv.dtype == DTYPE_BF16 ? "bf16" : "f32", att->window, att->first_key,
             att->sink_logits != NULL, att->row_offset, att->n_rows_total);
}

/* The case as it stands, on the cpu and on a CUDA device. */
static void check_case(struct attention_case *c, int device, double most)
{
    struct cuda_case on_cuda;
    char text[256];
    pair.dev[PAIR_CUDA] = devices[device];
    describe_case(&c->att, text, sizeof text);
    for (size_t i = 0; i < case_out_count(c); i++)
        c->out[i] = NAN;
    memset(&c->counts, 0, sizeof c->counts);
    cuda_case_open(&on_cuda, c);
    pair.backend[PAIR_CPU]->attend_dense(pair.dev[PAIR_CPU], &c->att);
    pair.backend[PAIR_CUDA]->attend_dense(pair.dev[PAIR_CUDA], &on_cuda.att);
    pair_sync();
    float *got = cuda_case_out(&on_cuda, c);
    double error = worst_error(got, c->out, (size_t)c->att.n_rows * (size_t)c->att.n_heads,
                               (size_t)c->att.kv.head_dim);
    if (!(error <= most))
        fail_msg("%s: error %.2e, allowed %.2e; %s", device_names[device], error, most, text);
    struct attention_counts counts = cuda_case_counts(&on_cuda);
    if (memcmp(&counts, &c->counts, sizeof counts) != 0)
        fail_msg("%s: counted %llu selected, %llu rows, %llu calls, not %llu, %llu, %llu; %s",
                 device_names[device], (unsigned long long)counts.selected,
                 (unsigned long long)counts.rows_read, (unsigned long long)counts.calls,
                 (unsigned long long)c->counts.selected, (unsigned long long)c->counts.rows_read,
                 (unsigned long long)c->counts.calls, text);
    free(got);
    cuda_case_close(&on_cuda);
}

static void check(const struct case_shape *shape, int device, double most)
{
    struct attention_case c;
    case_open(&c, shape, (uint64_t)(shape->n_keys * 31 + shape->head_dim));
    check_case(&c, device, most);
    case_close(&c);
}

static void test_f32_keys_match_around_every_block_border(void **state)
{
    (void)state;
    static const int rows[] = {1, 2, 5, 33}, keys[] = {1, 2, 15, 16, 17, 63, 64, 65, 257};
    for (size_t r = 0; r < 4; r++)
        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
            struct case_shape shape = {rows[r],    keys[k] + rows[r] - 1, 6, 2, 64, DTYPE_F32,
                                       .n_tail = 0};
            check(&shape, EXACT, F32_ERROR);
        }
}

static void test_every_head_dim_has_a_way(void **state)
{
    (void)state;
    static const int dims[] = {8, 16, 20, 32, 40, 64, 72, 80, 96, 100, 128, 160, 192, 250, 256};
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
        for (int rows = 1; rows <= 19; rows += 9) {
            struct case_shape shape = {rows, 150, 4, 2, dims[d], DTYPE_F32, .n_tail = 30};
            check(&shape, EXACT, F32_ERROR);
            shape.dtype = DTYPE_BF16;
            check(&shape, EXACT, DECODE_ERROR);
            check(&shape, FAST, BF16_ERROR);
        }
}

static void test_decode_matches_around_every_tile_border(void **state)
{
    (void)state;
    static const int keys[] = {1, 2, 15, 16, 17, 63, 64, 65, 128, 129, 257, 1000, 4097};
    static const int groups[] = {1, 3, 4, 7, 8};
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
        for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
            struct case_shape shape = {1, keys[k], 2 * groups[g], 2, 128, DTYPE_BF16, .n_tail = 0};
            check(&shape, FAST, DECODE_ERROR);
        }
}

static void test_decode_of_many_heads_to_a_key_head(void **state)
{
    (void)state;
    static const int groups[] = {9, 16, 17, 20, 40};
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
        for (int dim = 64; dim <= 256; dim *= 2) {
            struct case_shape shape = {1, 700, 2 * groups[g], 2, dim, DTYPE_BF16, .n_tail = 37};
            check(&shape, EXACT, DECODE_ERROR);
            check(&shape, FAST, BF16_ERROR);
        }
}

static void test_decode_at_every_head_dim_and_split(void **state)
{
    (void)state;
    static const int dims[] = {64, 80, 96, 128, 256}, keys[] = {90, 333, 2000};
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
            for (int n_kv_heads = 1; n_kv_heads <= 25; n_kv_heads += 8) {
                struct case_shape shape = {1,       keys[k],    2 * n_kv_heads, n_kv_heads,
                                           dims[d], DTYPE_BF16, .n_tail = 70,   .sink = true};
                check(&shape, FAST, DECODE_ERROR);
            }
}

/* More units than there are multiprocessors, some in many blocks, some many to a block. */
static void test_decode_with_more_key_heads_than_blocks(void **state)
{
    (void)state;
    static const int keys[] = {3, 64, 250, 321, 700};
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
        struct case_shape shape = {1, keys[k], 200, 200, 64, DTYPE_BF16, .n_tail = 0};
        check(&shape, FAST, DECODE_ERROR);
    }
}

static void test_decode_of_a_few_rows(void **state)
{
    (void)state;
    for (int rows = 2; rows <= 16; rows++)
        for (int group = 1; rows * group <= 16; group++)
            for (int window = 0; window <= 70; window += 35) {
                struct case_shape shape = {rows, 290,        2 * group,    2,
                                           64,   DTYPE_BF16, .n_tail = 40, .window = window};
                check(&shape, EXACT, DECODE_ERROR);
                check(&shape, FAST, BF16_ERROR);
            }
}

static void test_prefill_matches_at_every_row_count(void **state)
{
    (void)state;
    static const int rows[] = {2, 15, 16, 17, 64, 127, 300}, before[] = {0, 1, 100, 1000};
    static const int dims[] = {64, 80, 96, 128, 256}, groups[] = {1, 3, 4, 7, 8};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
        for (size_t i = 0; i < 5; i++) {
            struct case_shape shape = {
                rows[r],    before[i % 4] + rows[r],    groups[i], 1, dims[(r + i) % 5],
                DTYPE_BF16, .n_tail = before[i % 4] / 3};
            check(&shape, FAST, BF16_ERROR);
            check(&shape, EXACT, DECODE_ERROR);
        }
}

static void test_segments_windows_padding_and_sinks(void **state)
{
    (void)state;
    static const int rows[] = {1, 2, 21, 90};
    for (size_t r = 0; r < 4; r++)
        for (int tail = 0; tail <= 200; tail += 67)
            for (int window = 0; window <= 120; window += 60)
                for (int first = 0; first <= 70; first += 70) {
                    struct case_shape shape = {rows[r], 300 + rows[r], 4,    2,
                                               64,      DTYPE_F32,     tail, window,
                                               first,   tail % 2 == 1};
                    check(&shape, EXACT, F32_ERROR);
                    shape.dtype = DTYPE_BF16;
                    check(&shape, EXACT, DECODE_ERROR);
                    check(&shape, FAST, BF16_ERROR);
                }
}

static void test_many_keys_split_over_blocks(void **state)
{
    (void)state;
    struct case_shape shape = {1, 4097, 8, 2, 64, DTYPE_F32, .n_tail = 100};
    check(&shape, EXACT, F32_ERROR);
    shape.n_rows = 33;
    check(&shape, EXACT, F32_ERROR);
    shape.dtype = DTYPE_BF16;
    check(&shape, FAST, BF16_ERROR);
    struct case_shape long_one = {1, 30000, 8, 2, 128, DTYPE_BF16, .n_tail = 1000};
    check(&long_one, FAST, DECODE_ERROR);
}

/* Rows [offset, offset + n) of a whole call, for each of a few pieces. */
static void test_a_call_in_pieces_equals_the_whole(void **state)
{
    (void)state;
    static const int pieces[] = {1, 3, 16, 20};
    for (int dtype = 0; dtype < 2; dtype++)
        for (int tail = 0; tail <= 50; tail += 50) {
            struct case_shape shape = {
                40, 200, 4, 2, 64, dtype ? DTYPE_BF16 : DTYPE_F32, .n_tail = tail};
            struct attention_case c;
            case_open(&c, &shape, 77);
            struct attention whole = c.att;
            float *out = c.out;
            int offset = 0;
            for (size_t p = 0; p < sizeof pieces / sizeof *pieces; offset += pieces[p++]) {
                c.att.n_rows_total = whole.n_rows;
                c.att.row_offset = offset;
                c.att.n_rows = pieces[p];
                c.att.q = whole.q + (size_t)offset * (size_t)whole.q_stride;
                c.att.out = c.out = out + (size_t)offset * 4 * 64;
                check_case(&c, EXACT, dtype ? DECODE_ERROR : F32_ERROR);
                if (dtype)
                    check_case(&c, FAST, BF16_ERROR);
            }
            c.out = out;
            case_close(&c);
        }
}

static void test_rows_of_padding_give_zeros(void **state)
{
    (void)state;
    for (int rows = 1; rows <= 40; rows += 3)
        for (int first = 1; first <= 50; first += 7) {
            struct case_shape shape = {rows,        rows, 4, 2, 64, DTYPE_F32, .first_key = first,
                                       .sink = true};
            check(&shape, EXACT, F32_ERROR);
            shape.dtype = DTYPE_BF16;
            check(&shape, EXACT, DECODE_ERROR);
            check(&shape, FAST, BF16_ERROR);
        }
}

/* Scores of +-100 overflow exp unless the maximum is subtracted first.  An error of a score is one
 * of its weight, so that 2^-23 and 2^-17 of 100 count. */
static void test_large_scores_stay_finite(void **state)
{
    (void)state;
    for (int rows = 1; rows <= 20; rows += 19) {
        struct case_shape shape = {rows, 200, 4, 2, 64, DTYPE_F32, .sink = true};
        struct attention_case c;
        case_open(&c, &shape, 5);
        c.att.scale = 12.0f;
        check_case(&c, EXACT, 1e-3);
        case_close(&c);
        shape.dtype = DTYPE_BF16;
        case_open(&c, &shape, 5);
        c.att.scale = 12.0f;
        check_case(&c, EXACT, 1e-2);
        case_close(&c);
    }
}

/* Makes the rows of a segment from `from` on no numbers. */
static void spoil_rows(struct attention_case *c, int segment, int from)
{
    const struct kv_layer *kv = &c->att.kv;
    size_t dim = (size_t)kv->head_dim, capacity = (size_t)kv->capacity[segment];
    for (size_t i = 0; i < (size_t)kv->n_kv_heads * capacity * dim; i++) {
        if (i / dim % capacity < (size_t)from)
            continue;
        for (int v = 0; v < 2; v++) {
            void *p = v ? kv->v[segment] : kv->k[segment];
            if (kv->dtype == DTYPE_F32)
                ((float *)p)[i] = NAN;
            else
                ((uint16_t *)p)[i] = 0x7FC0;
        }
    }
}

static void test_rows_behind_the_keys_do_not_matter(void **state)
{
    (void)state;
    static const int rows[] = {1, 4, 30};
    for (int r = 0; r < 3; r++)
        for (int used = 1; used <= 140; used += 23) {
            struct case_shape shape = {rows[r], 350 + rows[r], 4, 2, 64, DTYPE_F32, .n_tail = 150};
            for (int dtype = 0; dtype < 2; dtype++) {
                struct attention_case c;
                shape.dtype = dtype ? DTYPE_BF16 : DTYPE_F32;
                case_open(&c, &shape, (uint64_t)used);
                c.step.n_context = 200 - used;
                c.step.n_tail = used;
                spoil_rows(&c, KV_CONTEXT, 200 - used);
                spoil_rows(&c, KV_TAIL, used + rows[r]);
                check_case(&c, EXACT, dtype ? DECODE_ERROR : F32_ERROR);
                if (dtype)
                    check_case(&c, FAST, BF16_ERROR);
                case_close(&c);
            }
        }
}

static void test_the_same_call_gives_the_same_bits(void **state)
{
    (void)state;
    static const int rows[] = {1, 3, 40};
    for (int r = 0; r < 3; r++)
        for (int dtype = 0; dtype < 2; dtype++) {
            struct case_shape shape = {rows[r],      3000, 6, 2, 64, dtype ? DTYPE_BF16 : DTYPE_F32,
                                       .n_tail = 500};
            struct attention_case c;
            struct cuda_case on_cuda;
            pair.dev[PAIR_CUDA] = devices[FAST];
            case_open(&c, &shape, 21);
            cuda_case_open(&on_cuda, &c);
            float *first = NULL;
            for (int repeat = 0; repeat < 5; repeat++) {
                pair.backend[PAIR_CUDA]->attend_dense(pair.dev[PAIR_CUDA], &on_cuda.att);
                float *out = cuda_case_out(&on_cuda, &c);
                if (!first) {
                    first = out;
                    continue;
                }
                assert_memory_equal(first, out, case_out_count(&c) * sizeof *out);
                free(out);
            }
            free(first);
            cuda_case_close(&on_cuda);
            case_close(&c);
        }
}

/* The step's lengths are read when a recording is replayed, not when it is made. */
static void check_recorded(const struct case_shape *shape, int device, double most)
{
    static const int lengths[][2] = {{0, 1}, {63, 0}, {64, 64}, {1, 200}, {700, 0}, {1500, 299}};
    const struct backend *cuda = pair.backend[PAIR_CUDA];
    struct device *dev = devices[device];
    struct attention_case c;
    struct cuda_case on_cuda;
    pair.dev[PAIR_CUDA] = dev;
    case_open(&c, shape, 31);
    cuda_case_open(&on_cuda, &c);
    struct workspace_need need = {.max_rows = shape->n_rows,
                                  .max_width = shape->n_heads * shape->head_dim,
                                  .n_heads = shape->n_heads,
                                  .n_kv_heads = shape->n_kv_heads,
                                  .head_dim = shape->head_dim,
                                  .max_keys = shape->n_keys};
    assert_true(cuda->reserve(dev, &need));
    pair_sync();
    assert_true(cuda->record_begin(dev));
    cuda->attend_dense(dev, &on_cuda.att);
    struct recording *recording = cuda->record_end(dev);
    pair_sync();
    assert_non_null(recording);
    memset(&c.counts, 0, sizeof c.counts);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        c.step.n_context = lengths[i][0];
        c.step.n_tail = lengths[i][1];
        cuda->upload(dev, (void *)(uintptr_t)on_cuda.att.step, &c.step, sizeof c.step);
        cuda->replay(dev, recording);
        pair.backend[PAIR_CPU]->attend_dense(pair.dev[PAIR_CPU], &c.att);
        pair_sync();
        float *got = cuda_case_out(&on_cuda, &c);
        double error = worst_error(got, c.out, (size_t)shape->n_rows * (size_t)shape->n_heads,
                                   (size_t)shape->head_dim);
        if (!(error <= most))
            fail_msg("%s: rows %d %s, replayed at %d + %d keys: error %.2e, allowed %.2e",
                     device_names[device], shape->n_rows,
                     shape->dtype == DTYPE_BF16 ? "bf16" : "f32", lengths[i][0], lengths[i][1],
                     error, most);
        free(got);
    }
    struct attention_counts counts = cuda_case_counts(&on_cuda);
    assert_memory_equal(&counts, &c.counts, sizeof counts);
    cuda->recording_close(dev, recording);
    cuda_case_close(&on_cuda);
    case_close(&c);
}

static void test_a_recorded_step_follows_its_lengths(void **state)
{
    (void)state;
    static const int rows[] = {1, 3, 20};
    for (int r = 0; r < 3; r++) {
        struct case_shape shape = {rows[r], 1800 + rows[r], 8, 2, 64, DTYPE_F32, .n_tail = 300};
        check_recorded(&shape, EXACT, F32_ERROR);
        shape.dtype = DTYPE_BF16;
        check_recorded(&shape, EXACT, DECODE_ERROR);
        check_recorded(&shape, FAST, BF16_ERROR);
    }
}

/* Calls begin before the operation ahead of them is done, here the one that moves the step on: what
 * they fetched by the lengths of before must not show. */
static void test_a_call_follows_a_step_that_moves_just_before_it(void **state)
{
    (void)state;
    enum { N_MOVES = 150 };
    const struct case_shape shape = {1, 700, 8, 2, 64, DTYPE_BF16, .n_tail = 300};
    const struct backend *cuda = pair.backend[PAIR_CUDA];
    struct device *dev = devices[EXACT];
    size_t width = (size_t)shape.n_heads * (size_t)shape.head_dim;
    struct attention_case c;
    struct cuda_case on_cuda;
    pair.dev[PAIR_CUDA] = dev;
    case_open(&c, &shape, 32);
    c.step.n_tail = 0;
    cuda_case_open(&on_cuda, &c);
    struct step_state *step = (void *)(uintptr_t)on_cuda.att.step;
    struct step_state *before = cuda->alloc(dev, sizeof *before);
    int32_t *token = cuda->alloc(dev, sizeof *token);
    struct pick *picks = cuda->alloc(dev, 2 * sizeof *picks);
    float *out = cuda->alloc(dev, N_MOVES * width * sizeof *out);
    float *got = calloc(N_MOVES * width, sizeof *got);
    assert_true(before && token && picks && out && got);
    struct attention att = on_cuda.att;
    cuda->attend_dense(dev, &att); /* sizes workspaces */
    pair_sync();
    assert_true(cuda->record_begin(dev));
    for (int i = 0; i < N_MOVES; i++) {
        att.out = out + (size_t)i * width;
        cuda->attend_dense(dev, &att);
        cuda->advance(dev, step, before, token, &picks[0], &picks[1], 1);
    }
    struct recording *recording = cuda->record_end(dev);
    pair_sync();
    cuda->replay(dev, recording);
    cuda->download(dev, got, out, N_MOVES * width * sizeof *got);
    for (int i = 0; i < N_MOVES; i++, c.step.n_tail++) {
        pair.backend[PAIR_CPU]->attend_dense(pair.dev[PAIR_CPU], &c.att);
        pair_sync();
        double error = worst_error(got + (size_t)i * width, c.out, (size_t)shape.n_heads,
                                   (size_t)shape.head_dim);
        if (!(error <= DECODE_ERROR))
            fail_msg("after %d moves: error %.2e, allowed %.2e", i, error, DECODE_ERROR);
    }
    void *all[] = {before, token, picks, out};
    for (int i = 0; i < 4; i++)
        cuda->release(dev, all[i]);
    cuda->recording_close(dev, recording);
    free(got);
    cuda_case_close(&on_cuda);
    case_close(&c);
}

static bool open_devices(void)
{
    if (!pair_open(true))
        return false;
    char why[512] = "";
    struct device_options options = {.exact = false};
    devices[EXACT] = pair.dev[PAIR_CUDA];
    devices[FAST] = pair.backend[PAIR_CUDA]->open(&options, why, sizeof why);
    if (!devices[FAST])
        printf("skipped: %s\n", why);
    return devices[FAST] != NULL;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32_keys_match_around_every_block_border),
        cmocka_unit_test(test_every_head_dim_has_a_way),
        cmocka_unit_test(test_decode_matches_around_every_tile_border),
        cmocka_unit_test(test_decode_of_many_heads_to_a_key_head),
        cmocka_unit_test(test_decode_at_every_head_dim_and_split),
        cmocka_unit_test(test_decode_with_more_key_heads_than_blocks),
        cmocka_unit_test(test_decode_of_a_few_rows),
        cmocka_unit_test(test_prefill_matches_at_every_row_count),
        cmocka_unit_test(test_segments_windows_padding_and_sinks),
        cmocka_unit_test(test_many_keys_split_over_blocks),
        cmocka_unit_test(test_a_call_in_pieces_equals_the_whole),
        cmocka_unit_test(test_rows_of_padding_give_zeros),
        cmocka_unit_test(test_large_scores_stay_finite),
        cmocka_unit_test(test_rows_behind_the_keys_do_not_matter),
        cmocka_unit_test(test_the_same_call_gives_the_same_bits),
        cmocka_unit_test(test_a_recorded_step_follows_its_lengths),
        cmocka_unit_test(test_a_call_follows_a_step_that_moves_just_before_it),
    };
    if (!open_devices())
        return PAIR_SKIPPED;
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    pair.dev[PAIR_CUDA] = devices[EXACT];
    pair.backend[PAIR_CUDA]->close(devices[FAST]);
    pair_close();
    return n_failed;
}
