/* The cpu backend apart from linear layers and attention: the pool, memory, embeddings, rotation
 * and the KV cache, choosing a token, KL divergence, conversions, exp and Philox. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/philox.h"

static struct device *open_device(int n_threads)
{
    char why[200];
    struct device_options options = {.n_threads = n_threads};
    struct device *dev = cpu_device_open(&options, why, sizeof why);
    assert_non_null(dev);
    return dev;
}

static uint32_t random_state = 99;

static float random_float(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (float)(random_state >> 8) / 8388608.0f - 1.0f;
}

static float *random_floats(int n)
{
    float *values = malloc(sizeof(float) * (size_t)n);
    assert_non_null(values);
    for (int i = 0; i < n; i++)
        values[i] = random_float();
    return values;
}

static void assert_close(double got, double want, double tolerance, const char *what)
{
    if (!(fabs(got - want) <= tolerance))
        fail_msg("%s: got %.9g, want %.9g, tolerance %.2g", what, got, want, tolerance);
}

/* --- Pool ---------------------------------------------------------------------------------- */

struct count_job {
    atomic_int *runs; /* [n_tasks] */
    atomic_int threads_inside[8];
    atomic_bool overlap; /* a thread index was used twice at once */
};

static void count_task(void *user, int task_index, int thread_index)
{
    struct count_job *job = user;
    if (atomic_fetch_add(&job->threads_inside[thread_index], 1) != 0)
        atomic_store(&job->overlap, true);
    atomic_fetch_add(&job->runs[task_index], 1);
    atomic_fetch_sub(&job->threads_inside[thread_index], 1);
}

static void test_pool_runs_every_task_once(void **state)
{
    (void)state;
    for (int n_threads = 1; n_threads <= 8; n_threads += n_threads == 1 ? 1 : 3) {
        struct device *dev = open_device(n_threads);
        atomic_int runs[200];
        for (int round = 0; round < 3000; round++) {
            int n_tasks = round % 200;
            struct count_job job = {.runs = runs};
            for (int i = 0; i < n_tasks; i++)
                atomic_init(&runs[i], 0);
            cpu_parallel(dev, n_tasks, count_task, &job);
            for (int i = 0; i < n_tasks; i++)
                assert_int_equal(atomic_load(&runs[i]), 1);
            assert_false(atomic_load(&job.overlap));
            if (round % 500 == 0)
                usleep(300); /* long enough for the workers to fall asleep */
        }
        cpu_device_close(dev);
    }
}

struct add_job {
    int64_t *sums; /* plain memory: the pool must order the accesses */
};

static void add_task(void *user, int task_index, int thread_index)
{
    (void)thread_index;
    struct add_job *job = user;
    job->sums[task_index] += task_index;
}

static void test_pool_orders_memory_between_jobs(void **state)
{
    (void)state;
    enum { N_TASKS = 7, N_ROUNDS = 20000 };
    struct device *dev = open_device(4);
    int64_t sums[N_TASKS] = {0};
    struct add_job job = {.sums = sums};
    for (int round = 0; round < N_ROUNDS; round++)
        cpu_parallel(dev, N_TASKS, add_task, &job);
    for (int i = 0; i < N_TASKS; i++)
        assert_int_equal(sums[i], (int64_t)i * N_ROUNDS);
    cpu_device_close(dev);
}

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static void test_idle_pool_uses_no_processor_time(void **state)
{
    (void)state;
    struct device *dev = open_device(4);
    int64_t sums[7] = {0};
    struct add_job job = {.sums = sums};
    cpu_parallel(dev, 7, add_task, &job);
    usleep(20000);
    double before = cpu_seconds();
    usleep(300000);
    assert_close(cpu_seconds() - before, 0, 0.03, "seconds of processor time in 0.3 s");
    cpu_device_close(dev);
}

static void test_opening_with_too_many_threads_says_so(void **state)
{
    (void)state;
    char why[200] = "";
    struct device_options options = {.n_threads = CPU_MAX_THREADS + 1};
    assert_null(cpu_device_open(&options, why, sizeof why));
    assert_non_null(strstr(why, "257 threads"));
    options.n_threads = -1;
    assert_null(cpu_device_open(&options, why, sizeof why));
}

/* --- Memory and failures ------------------------------------------------------------------- */

static void test_memory_is_zero_aligned_and_writable(void **state)
{
    (void)state;
    struct device *dev = open_device(1);
    static const size_t sizes[] = {
        0, 1, 63, 64, 65, 4096, (4u << 20) - 1, 4u << 20, (9u << 20) + 5};
    for (int i = 0; i < 9; i++) {
        unsigned char *p = cpu_alloc(dev, sizes[i]);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        for (size_t at = 0; at<sizes[i]; at += sizes[i]> 8192 ? 4093 : 1)
            assert_int_equal(p[at], 0);
        memset(p, 0xAB, sizes[i]);
        cpu_release(dev, p);
    }
    cpu_release(dev, NULL);
    assert_null(cpu_alloc(dev, SIZE_MAX - 10));
    cpu_device_close(dev);
}

static void test_first_failure_is_reported_once_and_stops_operations(void **state)
{
    (void)state;
    struct device *dev = open_device(2);
    char why[200] = "";
    assert_true(cpu_device_sync(dev, why, sizeof why));
    cpu_fail(dev, "the first");
    cpu_fail(dev, "the second");
    float p[2] = {1, 2}, kl = -7;
    cpu_kl_divergence(dev, &kl, p, p, 2);
    assert_true(kl == -7);
    assert_false(cpu_device_sync(dev, why, sizeof why));
    assert_string_equal(why, "the first");
    assert_true(cpu_device_sync(dev, why, sizeof why));
    cpu_kl_divergence(dev, &kl, p, p, 2);
    assert_true(kl == 0);
    cpu_device_close(dev);
}

static void test_description_and_clock(void **state)
{
    (void)state;
    struct device *dev = open_device(2);
    struct device_info info;
    cpu_device_describe(dev, &info);
    assert_non_null(strstr(info.name, ", 2 threads, "));
    assert_int_equal(info.n_threads, 2);
    assert_true(info.free_bytes > 0 && info.free_bytes <= info.total_bytes);
    cpu_time_mark(dev, 0);
    usleep(2000);
    cpu_time_mark(dev, 63);
    double us = cpu_time_between_us(dev, 0, 63);
    assert_true(us >= 2000 && us < 1e6);
    cpu_device_close(dev);
}

static void test_table_is_complete_and_opens(void **state)
{
    (void)state;
    const char *const *members = (const char *const *)(const void *)&backend_cpu;
    /* Left out by a device that cannot be lost and gains nothing by recording. */
    static const size_t optional[] = {
        offsetof(struct backend, lost), offsetof(struct backend, record_begin),
        offsetof(struct backend, record_end), offsetof(struct backend, replay),
        offsetof(struct backend, recording_close)};
    for (size_t i = 0; i < sizeof backend_cpu / sizeof *members; i++) {
        bool may_lack = false;
        for (size_t j = 0; j < sizeof optional / sizeof *optional; j++)
            may_lack = may_lack || optional[j] == i * sizeof *members;
        if (!members[i] && !may_lack)
            fail_msg("member %zu of backend_cpu is NULL", i);
    }
    char why[200];
    struct device *dev = backend_cpu.open(NULL, why, sizeof why);
    assert_non_null(dev);
    struct workspace_need need = {.max_rows = 100,
                                  .max_width = 1000,
                                  .n_heads = 8,
                                  .n_kv_heads = 2,
                                  .head_dim = 64,
                                  .max_keys = 5000};
    assert_true(backend_cpu.reserve(dev, &need));
    need.max_rows = 7;
    assert_true(backend_cpu.reserve(dev, &need));
    assert_int_equal(dev->need.max_rows, 100);
    backend_cpu.close(dev);
    backend_cpu.close(NULL);
}

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

/* --- Choosing a token ---------------------------------------------------------------------- */

static struct pick pick(struct device *dev, const float *logits, int n, struct sampling sampling,
                        uint64_t seed, uint32_t step)
{
    struct step_state state = {.seed = seed, .step = step};
    struct pick out;
    memset(&out, 0xEE, sizeof out);
    cpu_pick(dev, &out, logits, n, &sampling, &state);
    return out;
}

static const struct sampling greedy = {.temperature = 0, .top_p = 1};

static void test_greedy_takes_the_lowest_id_of_a_tie(void **state)
{
    (void)state;
    struct device *dev = open_device(3);
    enum { N = 30001 };
    float *logits = random_floats(N);
    for (int i = 0; i < N; i++)
        logits[i] = floorf(logits[i] * 4); /* many ties */
    int want = 0;
    for (int i = 0; i < N; i++)
        want = logits[i] > logits[want] ? i : want;
    assert_int_equal(pick(dev, logits, N, greedy, 1, 1).token, want);
    logits[N - 1] = 100;
    assert_int_equal(pick(dev, logits, N, greedy, 1, 1).token, N - 1);
    logits[9000] = 100;
    assert_int_equal(pick(dev, logits, N, greedy, 1, 1).token, 9000);
    free(logits);
    cpu_device_close(dev);
}

static void test_top_candidates_and_log_sum(void **state)
{
    (void)state;
    struct device *dev = open_device(3);
    static const int sizes[] = {1, 2, 7, 8, 9, 17, 257, 8191, 8192, 8193, 50257};
    for (int s = 0; s < 11; s++) {
        int n = sizes[s];
        float *logits = random_floats(n);
        double sum = 0;
        for (int i = 0; i < n; i++) {
            logits[i] = floorf(logits[i] * 1000) * 0.01f;
            sum += exp(logits[i]);
        }
        struct pick out = pick(dev, logits, n, greedy, 1, 1);
        assert_close(out.log_sum_exp, log(sum), 2e-6, "log_sum_exp");
        assert_int_equal(out.n_top, n < PICK_TOP ? n : PICK_TOP);
        assert_true(out.logit == logits[out.token]);
        for (int t = 0; t < out.n_top; t++) {
            assert_true(out.top_logits[t] == logits[out.top_ids[t]]);
            int n_better = 0;
            for (int i = 0; i < n; i++)
                n_better += logits[i] > out.top_logits[t] ||
                            (logits[i] == out.top_logits[t] && i < out.top_ids[t]);
            assert_int_equal(n_better, t);
        }
        free(logits);
    }
    cpu_device_close(dev);
}

static void test_broken_logits_still_give_a_token(void **state)
{
    (void)state;
    struct device *dev = open_device(2);
    struct sampling warm = {.temperature = 1, .top_p = 0.9f, .top_k = 3, .min_p = 0.01f};
    float logits[5] = {NAN, 1, NAN, 3, 2};
    assert_int_equal(pick(dev, logits, 5, greedy, 1, 1).token, 3);
    for (uint32_t step = 0; step < 100; step++) {
        int token = pick(dev, logits, 5, warm, 1, step).token;
        assert_true(token == 1 || token == 3 || token == 4);
    }
    float nothing[3] = {NAN, NAN, NAN}, infinite[3] = {1, INFINITY, 2};
    float masked[3] = {-INFINITY, -INFINITY, -INFINITY};
    assert_int_equal(pick(dev, nothing, 3, warm, 1, 1).token, 0);
    assert_int_equal(pick(dev, masked, 3, warm, 1, 1).token, 0);
    assert_int_equal(pick(dev, infinite, 3, warm, 1, 1).token, 1);
    assert_int_equal(pick(dev, infinite, 3, greedy, 1, 1).token, 1);
    cpu_device_close(dev);
}

/* The distribution that the filters leave, by sorting: an independent statement of the rules. */
static void true_distribution(double *prob, const float *logits, int n, struct sampling sampling)
{
    int order[64];
    double weight[64], total = 0;
    assert_true(n <= 64);
    for (int i = 0; i < n; i++) {
        int at = i; /* insertion sort: falling logit, then rising id */
        for (; at > 0 && logits[order[at - 1]] < logits[i]; at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
    int kept = sampling.top_k > 0 && sampling.top_k < n ? sampling.top_k : n;
    for (int t = 0; t < kept; t++) {
        weight[t] = exp((logits[order[t]] - logits[order[0]]) / sampling.temperature);
        total += weight[t];
    }
    double passed = 0;
    for (int t = 0; t < kept; t++) {
        passed += weight[t];
        if (passed >= sampling.top_p * total) {
            kept = t + 1;
            break;
        }
    }
    total = 0;
    for (int i = 0; i < n; i++)
        prob[i] = 0;
    for (int t = 0; t < kept; t++)
        if (weight[t] >= sampling.min_p)
            total += prob[order[t]] = weight[t];
    for (int i = 0; i < n; i++)
        prob[i] /= total;
}

static void test_draws_follow_the_filtered_distribution(void **state)
{
    (void)state;
    enum { N = 40, N_DRAWS = 20000 };
    struct device *dev = open_device(1);
    float *logits = random_floats(N);
    for (int i = 0; i < N; i++)
        logits[i] = floorf(logits[i] * 10) * 0.3f;
    static const struct sampling cases[] = {
        {.temperature = 1, .top_p = 1},
        {.temperature = 2, .top_p = 1, .top_k = 5},
        {.temperature = 0.7f, .top_p = 0.8f},
        {.temperature = 1.3f, .top_p = 1, .min_p = 0.2f},
        {.temperature = 1.5f, .top_p = 0.9f, .min_p = 0.1f, .top_k = 20},
        {.temperature = 1, .top_p = 1e-6f},
        {.temperature = 1, .top_p = 1, .top_k = 1},
        {.temperature = 1e-3f, .top_p = 1},
    };
    for (int c = 0; c < 8; c++) {
        double prob[N];
        int counts[N] = {0};
        true_distribution(prob, logits, N, cases[c]);
        for (uint32_t step = 0; step < N_DRAWS; step++)
            counts[pick(dev, logits, N, cases[c], 42, step).token]++;
        for (int i = 0; i < N; i++) {
            if (prob[i] == 0 && counts[i])
                fail_msg("case %d: token %d was drawn, but is filtered out", c, i);
            /* Five standard deviations. */
            assert_close(counts[i], prob[i] * N_DRAWS,
                         5 * sqrt(prob[i] * (1 - prob[i]) * N_DRAWS) + 1e-3, "draws");
        }
    }
    free(logits);
    cpu_device_close(dev);
}

static void test_filters_agree_with_sorting_on_large_vocabularies(void **state)
{
    (void)state;
    /* Few distinct logits, so that the cut falls among ties: only ids below the cut may appear. */
    enum { N = 20000 };
    struct device *dev = open_device(2);
    float *logits = random_floats(N);
    for (int i = 0; i < N; i++)
        logits[i] = i % 4 == 0 ? 1 : 0;
    struct sampling sampling = {.temperature = 1, .top_p = 1, .top_k = 1000};
    for (uint32_t step = 0; step < 200; step++) {
        int token = pick(dev, logits, N, sampling, 5, step).token;
        assert_true(token % 4 == 0 && token < 4000);
    }
    sampling = (struct sampling){.temperature = 1, .top_p = 0.25f};
    double ones = N / 4 * exp(1), total = ones + N * 3.0 / 4;
    int last = (int)(0.25 * total / exp(1)) * 4 + 8, seen_late = 0;
    for (uint32_t step = 0; step < 200; step++) {
        int token = pick(dev, logits, N, sampling, 5, step).token;
        assert_true(token % 4 == 0 && token <= last);
        seen_late += token > last / 2;
    }
    assert_in_range(seen_late, 60, 140);
    free(logits);
    cpu_device_close(dev);
}

static void test_draws_depend_on_seed_and_step_alone(void **state)
{
    (void)state;
    enum { N = 20001 };
    float *logits = random_floats(N);
    struct sampling sampling = {.temperature = 3, .top_p = 0.95f, .top_k = 5000};
    struct device *one = open_device(1), *four = open_device(4);
    int differing_steps = 0, differing_seeds = 0;
    for (uint32_t step = 0; step < 50; step++) {
        struct pick a = pick(one, logits, N, sampling, 7, step);
        struct pick b = pick(four, logits, N, sampling, 7, step);
        assert_memory_equal(&a, &b, sizeof a);
        differing_steps += a.token != pick(one, logits, N, sampling, 7, step + 1).token;
        differing_seeds += a.token != pick(one, logits, N, sampling, 8, step).token;
    }
    assert_true(differing_steps > 45 && differing_seeds > 45);
    /* A lane whose logits differ by a little draws the same token almost always. */
    float *close = malloc(sizeof(float) * N);
    assert_non_null(close);
    int same = 0;
    for (int i = 0; i < N; i++) {
        logits[i] *= 10;
        close[i] = logits[i] + 1e-5f * random_float();
    }
    for (uint32_t step = 0; step < 50; step++)
        same += pick(one, logits, N, sampling, 7, step).token ==
                pick(one, close, N, sampling, 7, step).token;
    assert_true(same >= 45);
    free(logits);
    free(close);
    cpu_device_close(one);
    cpu_device_close(four);
}

static void test_kl_divergence(void **state)
{
    (void)state;
    struct device *dev = open_device(3);
    static const int sizes[] = {1, 2, 17, 8193, 50257};
    for (int s = 0; s < 5; s++) {
        int n = sizes[s];
        float *p = random_floats(n), *q = random_floats(n);
        double sum_p = 0, sum_q = 0, want = 0;
        for (int i = 0; i < n; i++) {
            p[i] *= 8;
            q[i] = p[i] + 0.3f * q[i];
            sum_p += exp(p[i]);
            sum_q += exp(q[i]);
        }
        for (int i = 0; i < n; i++)
            want += exp(p[i]) / sum_p * (p[i] - log(sum_p) - q[i] + log(sum_q));
        float got = NAN;
        cpu_kl_divergence(dev, &got, p, q, n);
        assert_close(got, want, 2e-6 * fabs(want) + 1e-12, "KL");
        cpu_kl_divergence(dev, &got, p, p, n);
        assert_true(got == 0);
        free(p);
        free(q);
    }
    float p[3] = {0, -INFINITY, 0}, q[3] = {0, 0, 0}, got = NAN;
    cpu_kl_divergence(dev, &got, p, q, 3);
    assert_close(got, log(1.5), 1e-6, "KL with an impossible token");
    cpu_kl_divergence(dev, &got, q, p, 3);
    assert_true(isinf(got) && got > 0);
    cpu_device_close(dev);
}

/* --- The next token ------------------------------------------------------------------------ */

static void test_advance_keeps_the_step_and_logs_the_token(void **state)
{
    (void)state;
    enum { N_LOG = 3 };
    struct device *dev = open_device(1);
    struct step_state step = {.n_context = 9, .n_tail = 4, .append_tail = 1, .step = 5, .seed = 77};
    struct step_state before;
    struct pick log[N_LOG] = {{0}};
    int32_t token = -1;
    for (int i = 0; i < 4; i++) {
        struct step_state want = step;
        struct pick chosen = {.token = 100 + i, .logit = (float)i, .n_top = 1};
        cpu_advance(dev, &step, &before, &token, &chosen, log, N_LOG);
        assert_memory_equal(&before, &want, sizeof want);
        assert_int_equal(token, 100 + i);
        assert_memory_equal(&log[(5 + i) % N_LOG], &chosen, sizeof chosen);
        want.n_tail++;
        want.step++;
        assert_memory_equal(&step, &want, sizeof want);
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
        cmocka_unit_test(test_pool_runs_every_task_once),
        cmocka_unit_test(test_pool_orders_memory_between_jobs),
        cmocka_unit_test(test_idle_pool_uses_no_processor_time),
        cmocka_unit_test(test_opening_with_too_many_threads_says_so),
        cmocka_unit_test(test_memory_is_zero_aligned_and_writable),
        cmocka_unit_test(test_first_failure_is_reported_once_and_stops_operations),
        cmocka_unit_test(test_description_and_clock),
        cmocka_unit_test(test_table_is_complete_and_opens),
        cmocka_unit_test(test_bf16_rounds_to_nearest_even),
        cmocka_unit_test(test_f16_values),
        cmocka_unit_test(test_vexp_is_close_to_exp),
        cmocka_unit_test(test_philox_known_answers),
        cmocka_unit_test(test_embed_adds_positions_of_both_segments),
        cmocka_unit_test(test_rotate_append_in_all_combinations),
        cmocka_unit_test(test_greedy_takes_the_lowest_id_of_a_tie),
        cmocka_unit_test(test_top_candidates_and_log_sum),
        cmocka_unit_test(test_broken_logits_still_give_a_token),
        cmocka_unit_test(test_draws_follow_the_filtered_distribution),
        cmocka_unit_test(test_filters_agree_with_sorting_on_large_vocabularies),
        cmocka_unit_test(test_draws_depend_on_seed_and_step_alone),
        cmocka_unit_test(test_kl_divergence),
        cmocka_unit_test(test_advance_keeps_the_step_and_logs_the_token),
        cmocka_unit_test(test_fill_is_the_same_for_any_number_of_threads_and_any_length),
        cmocka_unit_test(test_fill_rounds_to_nearest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
