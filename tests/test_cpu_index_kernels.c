/* Inner loops of indexes over keys: every instruction set that the processor has, against plain C
 * and sums in double, over awkward lengths. */
#include "tests/cpu_trial.h"

#include <stdio.h>
#include <string.h>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/index_kernels.h"

/* The instruction sets beyond plain C. */
#define FOR_EACH_ISA(kernels)                                                                      \
    for (enum cpu_isa isa = CPU_ISA_AVX2; isa <= cpu_isa_detect(DEVICE_ISA_AUTO); isa++)           \
        for (const struct index_kernels *kernels = index_kernels(isa); kernels; kernels = NULL)

static const struct {
    int n, n_in, n_out;
} linears[] = {{1, 64, 32},  {1, 128, 128},        {2, 80, 48}, {3, 1, 16},
               {5, 96, 144}, {HASH_ROWS, 128, 16}, {7, 33, 80}};
enum { N_LINEARS = sizeof linears / sizeof *linears };

static void bf16_of(uint16_t *to, const float *from, int n)
{
    for (int i = 0; i < n; i++)
        to[i] = f32_to_bf16(from[i]);
}

/* Of the terms' sizes, since a sum of them may be next to nothing. */
static void check_linear(const float *y, const float *x, const float *w, const float *b, int n,
                         int n_in, int n_out)
{
    for (int row = 0; row < n; row++)
        for (int o = 0; o < n_out; o++) {
            double sum = b[o], size = fabs(sum);
            for (int i = 0; i < n_in; i++) {
                double term = (double)x[row * n_in + i] * w[i * n_out + o];
                sum += term;
                size += fabs(term);
            }
            if (!(fabs(y[row * n_out + o] - sum) <= 1e-6 * size))
                fail_msg("row %d output %d: %.9g for %.9g", row, o, (double)y[row * n_out + o],
                         sum);
        }
}

static void test_a_linear_is_its_sums(void **state)
{
    (void)state;
    for (int c = 0; c < N_LINEARS; c++) {
        int n = linears[c].n, n_in = linears[c].n_in, n_out = linears[c].n_out;
        float *x = random_floats(n * n_in), *w = random_floats(n_in * n_out);
        float *b = random_floats(n_out), *y = random_floats(n * n_out);
        index_kernels_reference.linear(y, x, w, DTYPE_F32, b, n, n_in, n_out);
        check_linear(y, x, w, b, n, n_in, n_out);
        FOR_EACH_ISA(kernels)
        {
            memset(y, 0, sizeof *y * (size_t)(n * n_out));
            kernels->linear(y, x, w, DTYPE_F32, b, n, n_in, n_out);
            check_linear(y, x, w, b, n, n_in, n_out);
        }
        free(x);
        free(w);
        free(b);
        free(y);
    }
}

static void test_weights_in_bf16_give_the_same_bits(void **state)
{
    (void)state;
    for (int c = 0; c < N_LINEARS; c++) {
        int n = linears[c].n, n_in = linears[c].n_in, n_out = linears[c].n_out;
        float *x = random_floats(n * n_in), *w = random_floats(n_in * n_out);
        float *b = random_floats(n_out), *y = random_floats(2 * n * n_out), *z = y + n * n_out;
        uint16_t *narrow = malloc(sizeof *narrow * (size_t)(n_in * n_out));
        assert_non_null(narrow);
        bf16_of(narrow, w, n_in * n_out);
        for (int i = 0; i < n_in * n_out; i++)
            w[i] = bf16_to_f32(narrow[i]);
        index_kernels_reference.linear(y, x, w, DTYPE_F32, b, n, n_in, n_out);
        index_kernels_reference.linear(z, x, narrow, DTYPE_BF16, b, n, n_in, n_out);
        assert_memory_equal(y, z, sizeof *y * (size_t)(n * n_out));
        FOR_EACH_ISA(kernels)
        {
            kernels->linear(y, x, w, DTYPE_F32, b, n, n_in, n_out);
            kernels->linear(z, x, narrow, DTYPE_BF16, b, n, n_in, n_out);
            assert_memory_equal(y, z, sizeof *y * (size_t)(n * n_out));
        }
        free(x);
        free(w);
        free(b);
        free(y);
        free(narrow);
    }
}

/* What comes of a row must not depend on the rows beside it, or a key that comes alone would get
 * other bits than among many. */
static void test_rows_together_equal_rows_alone(void **state)
{
    (void)state;
    enum { N = 7, N_IN = 80, N_OUT = 48 };
    float *x = random_floats(N * N_IN), *w = random_floats(N_IN * N_OUT);
    float *b = random_floats(N_OUT), *y = random_floats(N * N_OUT), alone[N_OUT];
    FOR_EACH_ISA(kernels)
    {
        kernels->linear(y, x, w, DTYPE_F32, b, N, N_IN, N_OUT);
        for (int row = 0; row < N; row++) {
            kernels->linear(alone, x + row * N_IN, w, DTYPE_F32, b, 1, N_IN, N_OUT);
            assert_memory_equal(alone, y + row * N_OUT, sizeof alone);
        }
    }
    free(x);
    free(w);
    free(b);
    free(y);
}

static void test_bits_are_counted_alike(void **state)
{
    (void)state;
    static const int lengths[] = {1, 2, 15, 16, 17, 31, 33, 100, 4096, 4099};
    enum { N_LENGTHS = sizeof lengths / sizeof *lengths, STRIDE = 4112, MAX_WORDS = 8 };
    uint32_t *words = malloc(sizeof *words * MAX_WORDS * STRIDE), query[MAX_WORDS];
    float *expected = malloc(sizeof *expected * STRIDE), *got = malloc(sizeof *got * STRIDE);
    assert_true(words && expected && got);
    for (int i = 0; i < MAX_WORDS * STRIDE; i++)
        words[i] = random_state = random_state * 1664525u + 1013904223u;
    for (int w = 0; w < MAX_WORDS; w++)
        query[w] = w % 2 ? words[w * STRIDE + 3] : ~words[w * STRIDE];
    for (int i = 0; i < N_LENGTHS; i++)
        for (int n_words = 1; n_words <= MAX_WORDS; n_words++) {
            int n = lengths[i];
            float top = 32.0f * (float)n_words;
            index_kernels_reference.score_bits(expected, words, STRIDE, query, n_words, top, n);
            FOR_EACH_ISA(kernels)
            {
                got[n] = 12345.0f;
                kernels->score_bits(got, words, STRIDE, query, n_words, top, n);
                assert_memory_equal(got, expected, sizeof *got * (size_t)n);
                assert_true(got[n] == 12345.0f); /* nothing beyond the end is written */
            }
        }
    free(words);
    free(expected);
    free(got);
}

static void test_scores_are_bits_that_agree_less_those_that_do_not(void **state)
{
    (void)state;
    uint32_t words[4] = {0, 0xFFFFFFFFu, 0x0000FFFFu, 1}, query = 0;
    float scores[4];
    index_kernels_reference.score_bits(scores, words, 4, &query, 1, 32.0f, 4);
    assert_true(scores[0] == 32.0f && scores[1] == -32.0f && scores[2] == 0.0f &&
                scores[3] == 30.0f);
}

/* Values and levels of more keys than are scored together, and of fewer; nothing is written beyond
 * the last key, and a key's score is the same from any other key on. */
static void test_labels_are_scored_alike(void **state)
{
    (void)state;
    enum { STRIDE = 192, CHANNELS = 21, MAX_WORDS = 11 };
    static const int bits[] = {1, 2, 3, 4, 8, 9, 16}, lengths[] = {1, 31, 32, 33, 100, 128};
    float *values = random_floats(CHANNELS * STRIDE), *q = random_floats(CHANNELS);
    uint32_t words[MAX_WORDS * STRIDE];
    for (int i = 0; i < MAX_WORDS * STRIDE; i++)
        words[i] = random_state = random_state * 1664525u + 1013904223u;
    for (size_t b = 0; b < sizeof bits / sizeof *bits; b++)
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
            int width = 1, n = lengths[i];
            while (width < bits[b])
                width *= 2;
            struct key_labels k = {words, values, DTYPE_F32, STRIDE, CHANNELS, bits[b], width};
            float expected[STRIDE], got[STRIDE], from[STRIDE];
            index_kernels_reference.score_labels(expected, &k, q, n);
            FOR_EACH_ISA(kernels)
            {
                got[n] = 12345.0f;
                kernels->score_labels(got, &k, q, n);
                assert_true(got[n] == 12345.0f);
                for (int j = 0; j < n; j++)
                    assert_close(got[j], expected[j], 2e-6 * (1 << (width - bits[b])) * CHANNELS,
                                 "score");
                struct key_labels rest = k;
                rest.words = words + n / 3;
                rest.values = values + n / 3;
                kernels->score_labels(from, &rest, q, n - n / 3);
                assert_memory_equal(from, got + n / 3, sizeof *from * (size_t)(n - n / 3));
            }
        }
    free(values);
    free(q);
}

/* As with labels: lengths around the vectors, nothing beyond the end, the same from any key on. */
static void test_buckets_are_scored_alike(void **state)
{
    (void)state;
    enum { STRIDE = 256, TABLES = 7, MAX_PARTS = 7 };
    static const int lengths[] = {1, 15, 16, 63, 64, 65, 150};
    static uint32_t wide[TABLES * STRIDE];
    static uint16_t narrow[TABLES * STRIDE];
    float *norms = random_floats(STRIDE), *part = random_floats(TABLES * MAX_PARTS * BUCKET_PART);
    for (int i = 0; i < TABLES * STRIDE; i++) {
        wide[i] = random_state = random_state * 1664525u + 1013904223u;
        narrow[i] = (uint16_t)(wide[i] >> 9);
    }
    for (int n_parts = 1; n_parts <= MAX_PARTS; n_parts++)
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
            bool is_wide = n_parts > 3;
            int n = lengths[i], third = n / 3;
            struct key_buckets_of k = {is_wide ? (void *)wide : narrow, is_wide, STRIDE, TABLES,
                                       n_parts};
            float expected[STRIDE], got[STRIDE], from[STRIDE];
            index_kernels_reference.score_buckets(expected, &k, part, norms, n);
            FOR_EACH_ISA(kernels)
            {
                got[n] = 12345.0f;
                kernels->score_buckets(got, &k, part, norms, n);
                assert_true(got[n] == 12345.0f);
                for (int j = 0; j < n; j++)
                    assert_close(got[j], expected[j], 1e-6 * TABLES, "score");
                struct key_buckets_of rest = k;
                rest.codes = is_wide ? (void *)(wide + third) : narrow + third;
                kernels->score_buckets(from, &rest, part, norms + third, n - third);
                assert_memory_equal(from, got + third, sizeof *from * (size_t)(n - third));
            }
        }
    free(norms);
    free(part);
}

static void test_hits_are_counted_alike(void **state)
{
    (void)state;
    enum { STRIDE = 192, TABLES = 9 };
    static const int lengths[] = {1, 7, 31, 32, 33, 100, 130};
    static uint64_t codes[TABLES * STRIDE];
    for (int code_bytes = 2; code_bytes <= 8; code_bytes *= 2)
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
            int n = lengths[i];
            uint64_t query[TABLES];
            uint16_t expected[STRIDE], got[STRIDE];
            for (int j = 0; j < TABLES * STRIDE; j++) {
                random_state = random_state * 1664525u + 1013904223u;
                uint64_t code = random_state >> 30; /* of four */
                if (code_bytes == 2)
                    ((uint16_t *)codes)[j] = (uint16_t)code;
                else if (code_bytes == 4)
                    ((uint32_t *)codes)[j] = (uint32_t)code << 20;
                else
                    codes[j] = code << 50;
            }
            for (int table = 0; table < TABLES; table++)
                query[table] = (uint64_t)(table % 4) << (code_bytes == 8   ? 50
                                                         : code_bytes == 4 ? 20
                                                                           : 0);
            index_kernels_reference.count_hits(expected, codes, code_bytes, STRIDE, query, TABLES,
                                               n);
            FOR_EACH_ISA(kernels)
            {
                got[n] = 12345;
                kernels->count_hits(got, codes, code_bytes, STRIDE, query, TABLES, n);
                assert_memory_equal(got, expected, sizeof *got * (size_t)n);
                assert_int_equal(got[n], 12345);
            }
        }
}

static void test_codes_are_scored_alike(void **state)
{
    (void)state;
    enum { STRIDE = 256, PARTS = 5, MOST = 256 };
    static const int lengths[] = {1, 7, 16, 33, 100}, sizes[] = {16, 32, 64, 128, 256};
    static uint16_t wide[PARTS * STRIDE];
    static uint8_t narrow[PARTS * STRIDE];
    float *table = random_floats(PARTS * MOST);
    for (size_t s = 0; s < 2 * sizeof sizes / sizeof *sizes; s++)
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
            int padded = sizes[s / 2], n = lengths[i];
            for (int j = 0; j < PARTS * STRIDE; j++) {
                random_state = random_state * 1664525u + 1013904223u;
                wide[j] = (uint16_t)((random_state >> 16) % (uint32_t)padded);
                narrow[j] = (uint8_t)wide[j];
            }
            struct key_codes_of k = {s % 2 ? (void *)wide : narrow, s % 2, STRIDE, PARTS, padded};
            float expected[STRIDE], got[STRIDE];
            index_kernels_reference.score_codes(expected, &k, table, n);
            FOR_EACH_ISA(kernels)
            {
                got[n] = 12345.0f;
                kernels->score_codes(got, &k, table, n);
                assert_memory_equal(got, expected, sizeof *got * (size_t)n);
                assert_true(got[n] == 12345.0f);
            }
        }
    free(table);
}

/* Whole numbers: distances are exact, and many are equal. */
static void test_the_first_nearest_centroid_is_found_alike(void **state)
{
    (void)state;
    enum { N = 50, DIM = 7, PADDED = 48, CENTROIDS = 41 };
    float x[N * DIM], centroids[DIM * PADDED];
    for (int i = 0; i < N * DIM; i++)
        x[i] = (float)((random_state = random_state * 1664525u + 1013904223u) >> 30);
    for (int i = 0; i < DIM * PADDED; i++) {
        random_state = random_state * 1664525u + 1013904223u;
        centroids[i] = i % PADDED < CENTROIDS ? (float)(random_state >> 30) : INFINITY;
    }
    uint16_t expected[N], got[N];
    index_kernels_reference.nearest(expected, x, N, DIM, centroids, PADDED);
    for (int i = 0; i < N; i++) {
        float least = INFINITY;
        int first = -1;
        for (int c = 0; c < CENTROIDS; c++) {
            float sum = 0;
            for (int d = 0; d < DIM; d++)
                sum += (x[i * DIM + d] - centroids[d * PADDED + c]) *
                       (x[i * DIM + d] - centroids[d * PADDED + c]);
            first = sum < least ? c : first;
            least = sum < least ? sum : least;
        }
        assert_int_equal(expected[i], first);
    }
    FOR_EACH_ISA(kernels)
    {
        kernels->nearest(got, x, N, DIM, centroids, PADDED);
        assert_memory_equal(got, expected, sizeof got);
    }
}

static void test_activations_are_near_plain_c(void **state)
{
    (void)state;
    enum { N = 67 };
    for (enum hash_activation a = HASH_SILU; a <= HASH_TANH; a++) {
        float *x = random_floats(N), *y = malloc(sizeof *y * N);
        assert_non_null(y);
        for (int i = 0; i < N; i++)
            x[i] *= i % 3 ? 4.0f : 60.0f;
        FOR_EACH_ISA(kernels)
        {
            float plain[N];
            memcpy(y, x, sizeof *y * N);
            memcpy(plain, x, sizeof plain);
            kernels->activate(y, N, a);
            index_kernels_reference.activate(plain, N, a);
            for (int i = 0; i < N; i++)
                if (!(fabsf(y[i] - plain[i]) <= 2e-6f * (1.0f + fabsf(plain[i]))))
                    fail_msg("activation %d of %.9g: %.9g for %.9g", (int)a, (double)x[i],
                             (double)y[i], (double)plain[i]);
        }
        free(x);
        free(y);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_linear_is_its_sums),
        cmocka_unit_test(test_weights_in_bf16_give_the_same_bits),
        cmocka_unit_test(test_rows_together_equal_rows_alone),
        cmocka_unit_test(test_bits_are_counted_alike),
        cmocka_unit_test(test_scores_are_bits_that_agree_less_those_that_do_not),
        cmocka_unit_test(test_labels_are_scored_alike),
        cmocka_unit_test(test_buckets_are_scored_alike),
        cmocka_unit_test(test_hits_are_counted_alike),
        cmocka_unit_test(test_codes_are_scored_alike),
        cmocka_unit_test(test_the_first_nearest_centroid_is_found_alike),
        cmocka_unit_test(test_activations_are_near_plain_c),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
