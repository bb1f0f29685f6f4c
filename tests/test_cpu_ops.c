/* The cpu backend apart from linear layers, attention and choosing a token: embeddings, rotation
 * and the KV cache, conversions, exp, Philox, random numbers. */
#include <stdio.h>
#include <string.h>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/philox.h"
#include "tests/cpu_trial.h"

/* --- Numbers ------------------------------------------------------------------------------- */

static void test_bf16_rounds_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        float f = bf16_to_f32((uint16_t)h);
        if (f == f)
            assert_int_equal(f32_to_bf16(f), h);
        else
            assert_true(isnan(bf16_to_f32(f32_to_bf16(f))));
    }
    static const uint32_t cases[][2] = {
        {0x3F808000, 0x3F80}, {0x3F808001, 0x3F81}, {0x3F818000, 0x3F82}, {0x3F817FFF, 0x3F81},
        {0x7F7FFFFF, 0x7F80}, {0xBF808001, 0xBF81}, {0x00000001, 0x0000}, {0x00008001, 0x0001},
    };
    for (int i = 0; i < 8; i++)
        assert_int_equal(f32_to_bf16(float_from_bits(cases[i][0])), cases[i][1]);
    assert_true(isnan(bf16_to_f32(f32_to_bf16(float_from_bits(0x7F800001)))));
}

static void test_f16_values(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        uint32_t exponent = h >> 10 & 31, mantissa = h & 1023;
        double want = exponent ? ldexp(1024 + mantissa, (int)exponent - 25) : ldexp(mantissa, -24);
        if (exponent == 31)
            want = mantissa ? NAN : INFINITY;
        want = h >> 15 ? -want : want;
        float got = f16_to_f32((uint16_t)h);
        if (isnan(want) ? !isnan(got) : got != (float)want)
            fail_msg("f16 %04x: got %g, want %g", h, got, want);
    }
}

static void test_vexp_is_close_to_exp(void **state)
{
    (void)state;
    double worst = 0;
    for (float x = -87.3f; x < 88.3f; x += 0.00037f)
        worst = fmax(worst, fabs(vexp(x) / exp(x) - 1));
    assert_close(worst, 0, 2e-7, "largest relative error");
    assert_true(vexp(0) == 1.0f && vexp(-0.0f) == 1.0f);
    assert_true(vexp(-88) == 0 && vexp(-INFINITY) == 0 && isfinite(vexp(INFINITY)));
    assert_true(isnan(vexp(NAN)));
}

static void test_philox_known_answers(void **state)
{
    (void)state;
    /* Random123, kat_vectors, philox 4x32 10: counter, key, result. */
    static const uint32_t kat[3][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {~0u, ~0u, ~0u, ~0u, ~0u, ~0u, 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09,
         0x94fdcceb, 0x5001e420, 0x24126ea1},
    };
    for (int i = 0; i < 3; i++) {
        uint64_t key = (uint64_t)kat[i][5] << 32 | kat[i][4];
        struct philox got = philox_4x32(key, kat[i][0], kat[i][1], kat[i][2], kat[i][3]);
        assert_memory_equal(got.word, &kat[i][6], sizeof got.word);
    }
}

/* --- Embeddings ---------------------------------------------------------------------------- */

static void test_embed_adds_positions_of_both_segments(void **state)
{
    (void)state;
    enum { VOCAB = 11, DIM = 17, N_ROWS = 70, N_POSITIONS = 100 };
    struct device *dev = open_device(3);
    float *positions = random_floats(N_POSITIONS * DIM);
    uint16_t table[VOCAB * DIM];
    for (int i = 0; i < VOCAB * DIM; i++)
        table[i] = f32_to_bf16(random_float());
    int32_t tokens[N_ROWS];
    for (int i = 0; i < N_ROWS; i++)
        tokens[i] = i * 7 % VOCAB;
    struct linear t = {.w = table, .dtype = DTYPE_BF16, .n_out = VOCAB, .n_in = DIM};
    struct linear p = {.w = positions, .dtype = DTYPE_F32, .n_out = N_POSITIONS, .n_in = DIM};
    struct step_state step = {.n_context = 20, .n_tail = 10};
    float x[N_ROWS * DIM];
    for (int with = 0; with < 2; with++) {
        cpu_embed(dev, x, &t, with ? &p : NULL, tokens, &step, N_ROWS);
        for (int i = 0; i < N_ROWS; i++)
            for (int j = 0; j < DIM; j++) {
                float want = bf16_to_f32(table[tokens[i] * DIM + j]);
                want += with ? positions[(30 + i) * DIM + j] : 0;
                assert_true(x[i * DIM + j] == want);
            }
    }
    free(positions);
    cpu_device_close(dev);
}

/* --- Rotation and KV cache ----------------------------------------------------------------- */

enum { HEADS = 4, KV_HEADS = 2, HEAD_DIM = 12, N_ROT = 8, CAPACITY = 40, N_TOKENS = 21 };

static const int row_floats = (HEADS + 2 * KV_HEADS) * HEAD_DIM;

struct rope_data {
    float *qkv, *before, inv_freq[N_ROT / 2], norm_weight[HEAD_DIM];
    struct kv_layer kv;
    struct rope rope;
    struct norm norm;
};

static void rope_data_init(struct rope_data *d, enum dtype dtype)
{
    size_t n_bytes = sizeof(float) * (size_t)(N_TOKENS * row_floats);
    d->qkv = random_floats(N_TOKENS * row_floats);
    d->before = malloc(n_bytes);
    assert_non_null(d->before);
    memcpy(d->before, d->qkv, n_bytes);
    for (int i = 0; i < N_ROT / 2; i++)
        d->inv_freq[i] = powf(10000, -2.0f * (float)i / N_ROT);
    for (int i = 0; i < HEAD_DIM; i++)
        d->norm_weight[i] = 1 + 0.1f * (float)i;
    d->kv = (struct kv_layer){.dtype = dtype, .n_kv_heads = KV_HEADS, .head_dim = HEAD_DIM};
    for (int s = 0; s < KV_SEGMENTS; s++) {
        d->kv.capacity[s] = CAPACITY;
        d->kv.k[s] = calloc(KV_HEADS * CAPACITY * HEAD_DIM, dtype_bytes(dtype));
        d->kv.v[s] = calloc(KV_HEADS * CAPACITY * HEAD_DIM, dtype_bytes(dtype));
    }
    d->rope = (struct rope){.inv_freq = d->inv_freq, .n_rot = N_ROT};
    d->norm = (struct norm){.kind = NORM_RMS, .weight = d->norm_weight, .eps = 1e-6f};
}

static void rope_data_free(struct rope_data *d)
{
    free(d->qkv);
    free(d->before);
    for (int s = 0; s < KV_SEGMENTS; s++) {
        free(d->kv.k[s]);
        free(d->kv.v[s]);
    }
}

/* What a head must become. */
static void true_head(double *out, const float *head, const struct rope_data *d, bool normed,
                      bool rotated, int position)
{
    double squares = 0, in[HEAD_DIM];
    for (int i = 0; i < HEAD_DIM; i++)
        squares += (double)head[i] * head[i];
    for (int i = 0; i < HEAD_DIM; i++)
        in[i] = normed ? head[i] / sqrt(squares / HEAD_DIM + 1e-6) * d->norm_weight[i] : head[i];
    memcpy(out, in, sizeof in);
    for (int i = 0; rotated && i < N_ROT / 2; i++) {
        double angle = (double)position * d->inv_freq[i];
        out[i] = in[i] * cos(angle) - in[i + N_ROT / 2] * sin(angle);
        out[i + N_ROT / 2] = in[i + N_ROT / 2] * cos(angle) + in[i] * sin(angle);
    }
}

static void check_rotated(const struct rope_data *d, bool normed, bool rotated, int first_position)
{
    for (int row = 0; row < N_TOKENS; row++)
        for (int head = 0; head < HEADS + 2 * KV_HEADS; head++) {
            bool is_v = head >= HEADS + KV_HEADS;
            int at = row * row_floats + head * HEAD_DIM;
            double want[HEAD_DIM];
            true_head(want, d->before + at, d, normed && !is_v, rotated && !is_v,
                      first_position + row);
            for (int i = 0; i < HEAD_DIM; i++)
                assert_close(d->qkv[at + i], want[i], 1e-5, "rotated element");
        }
}

static void check_appended(const struct rope_data *d, enum kv_segment segment, int first_row)
{
    for (int row = 0; row < CAPACITY; row++)
        for (int h = 0; h < KV_HEADS; h++)
            for (int i = 0; i < HEAD_DIM; i++) {
                size_t at = (size_t)((h * CAPACITY + row) * HEAD_DIM + i);
                bool inside = row >= first_row && row < first_row + N_TOKENS;
                const float *from =
                    d->qkv + (inside ? row - first_row : 0) * row_floats + h * HEAD_DIM + i;
                float k = inside ? from[HEADS * HEAD_DIM] : 0;
                float v = inside ? from[(HEADS + KV_HEADS) * HEAD_DIM] : 0;
                if (d->kv.dtype == DTYPE_BF16) {
                    k = bf16_to_f32(f32_to_bf16(k));
                    v = bf16_to_f32(f32_to_bf16(v));
                }
                assert_true(load_as_f32(d->kv.k[segment], d->kv.dtype, at) == k);
                assert_true(load_as_f32(d->kv.v[segment], d->kv.dtype, at) == v);
                assert_true(load_as_f32(d->kv.k[!segment], d->kv.dtype, at) == 0);
            }
}

static void test_rotate_append_in_all_combinations(void **state)
{
    (void)state;
    struct device *dev = open_device(3);
    for (int bits = 0; bits < 16; bits++) {
        bool normed = bits & 1, rotated = bits & 2, tail = bits & 4;
        struct rope_data d;
        rope_data_init(&d, bits & 8 ? DTYPE_BF16 : DTYPE_F32);
        struct step_state step = {.n_context = 9, .n_tail = tail ? 3 : 0, .append_tail = tail};
        struct rope none = {0};
        cpu_rotate_append(dev, d.qkv, HEADS, &d.kv, rotated ? &d.rope : &none,
                          normed ? &d.norm : NULL, normed ? &d.norm : NULL, &step, N_TOKENS);
        check_rotated(&d, normed, rotated, tail ? 12 : 9);
        check_appended(&d, tail ? KV_TAIL : KV_CONTEXT, tail ? 3 : 9);
        rope_data_free(&d);
    }
    cpu_device_close(dev);
}

/* --- Random numbers for benchmarks ---------------------------------------------------------- */

static void test_fill_is_the_same_for_any_number_of_threads_and_any_length(void **state)
{
    (void)state;
    enum { N = 200003 };
    struct device *one = open_device(1), *three = open_device(3);
    float *a = malloc(N * sizeof *a), *b = malloc(N * sizeof *b);
    assert_true(a && b);
    b[1002] = 9;
    cpu_fill_random(one, a, N, DTYPE_F32, 0.5f, 3);
    cpu_fill_random(three, b, 1002, DTYPE_F32, 0.5f, 3);
    assert_memory_equal(a, b, 1002 * sizeof *a);
    assert_true(b[1002] == 9);
    cpu_fill_random(three, b, N, DTYPE_F32, 0.5f, 3);
    assert_memory_equal(a, b, N * sizeof *a);
    double sum = 0, squares = 0;
    for (int i = 0; i < N; i++) {
        struct philox random = philox_4x32(3, (uint32_t)i / 4, 0, 0, 0x66696C6Cu);
        assert_true(a[i] == 0.5f * (2 * philox_unit(random.word[i % 4]) - 1));
        assert_true(a[i] >= -0.5f && a[i] < 0.5f);
        sum += a[i];
        squares += (double)a[i] * a[i];
    }
    /* Five standard deviations of the mean, and of the mean square (about 0.075). */
    assert_close(sum / N, 0, 5 * 0.289 / sqrt(N), "mean");
    assert_close(squares / N, 0.25 / 3, 5 * 0.075 / sqrt(N), "mean square");
    cpu_fill_random(one, b, N, DTYPE_F32, 0.5f, 4);
    assert_true(memcmp(a, b, N * sizeof *a) != 0);
    free(a);
    free(b);
    cpu_device_close(one);
    cpu_device_close(three);
}

static void test_fill_rounds_to_nearest(void **state)
{
    (void)state;
    enum { N = 50001 };
    struct device *dev = open_device(2);
    float *x = malloc(N * sizeof *x);
    uint16_t *h = malloc(N * sizeof *h);
    assert_true(x && h);
    static const float scales[] = {1, 3e-5f, 7e4f}; /* f16: normal, subnormal, some infinite */
    for (int s = 0; s < 3; s++) {
        cpu_fill_random(dev, x, N, DTYPE_F32, scales[s], 8);
        cpu_fill_random(dev, h, N, DTYPE_BF16, scales[s], 8);
        for (int i = 0; i < N; i++)
            assert_int_equal(h[i], f32_to_bf16(x[i]));
        cpu_fill_random(dev, h, N, DTYPE_F16, scales[s], 8);
        for (int i = 0; i < N; i++) {
            float got = f16_to_f32(h[i]), down = f16_to_f32((uint16_t)(h[i] - 1));
            float up = f16_to_f32((uint16_t)(h[i] + 1)), delta = fabsf(got - x[i]);
            assert_true(fabsf(x[i]) >= 65520 ? isinf(got) && (got > 0) == (x[i] > 0)
                        : (h[i] & 0x7FFF) == 0
                            ? delta <= 0x1p-25f
                            : delta <= fabsf(down - x[i]) && delta <= fabsf(up - x[i]));
        }
    }
    free(x);
    free(h);
    cpu_device_close(dev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bf16_rounds_to_nearest_even),
        cmocka_unit_test(test_f16_values),
        cmocka_unit_test(test_vexp_is_close_to_exp),
        cmocka_unit_test(test_philox_known_answers),
        cmocka_unit_test(test_embed_adds_positions_of_both_segments),
        cmocka_unit_test(test_rotate_append_in_all_combinations),
        cmocka_unit_test(test_fill_is_the_same_for_any_number_of_threads_and_any_length),
        cmocka_unit_test(test_fill_rounds_to_nearest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
