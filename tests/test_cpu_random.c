/* Random selections: counts, weights, uniformity, coordinates of randomness. */
#include "kernels/permutation.h"
#include "tests/selection_trial.h"

/* --- At random -------------------------------------------------------------------------------- */

static void test_random_draws_the_right_number_with_the_right_weight(void **state)
{
    (void)state;
    struct trial t;
    for (int share = 0; share < 2; share++)
        FOR_EACH_TRIAL(t)
        {
            backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(5));
            model_sink(&t.m, count(5));
            backend_cpu.select_random(t.dev, t.sel, &t.c.att, 0.2, 0, share);
            backend_cpu.selection_end(t.dev, t.sel, &t.c.att);
            for (int row = 0; row < t.m.n_rows; row++)
                for (int head = 0; head < t.m.n_heads; head++) {
                    int n_left = 0, n_drawn = 0, n_wanted = (int)(0.2 * t.m.n_keys);
                    for (int key = 0; key < t.m.n_keys; key++)
                        n_left +=
                            is_visible(&t.m, row, key) && t.m.p[at(&t.m, row, head, key)] == 0.0f;
                    int want = n_wanted < n_left ? n_wanted : n_left;
                    int n = backend_cpu.selection_get(t.dev, t.sel, row, head, t.keys, t.prob);
                    for (int i = 0; i < n; i++) {
                        float *p = &t.m.p[at(&t.m, row, head, t.keys[i])];
                        assert_true(is_visible(&t.m, row, t.keys[i]));
                        if (*p > 0.0f)
                            continue;
                        *p = t.prob[i];
                        n_drawn++;
                        assert_float_equal(*p, (float)want / (float)n_left, 1e-6);
                    }
                    if (n_drawn != want)
                        fail_msg("row %d head %d: drew %d of %d, want %d", row, head, n_drawn,
                                 n_left, want);
                }
            check_selected(&t, "sink, random");
            check_attended(&t, "sink, random");
        }
}

/* Drawn numbers count the keys that are left, however those that are taken lie among them. */
static void test_draws_skip_what_is_taken(void **state)
{
    (void)state;
    enum { KEYS = 1000, SLOT = 3 };
    static const struct {
        int begin, end, step;
    } patterns[] = {{64, 192, 1},   {0, 1000, 3}, {63, 66, 1},  {5, 999, 2},
                    {999, 1000, 1}, {0, 950, 1},  {100, 101, 1}};
    struct case_shape shape = {1, KEYS, 1, 1, 8, DTYPE_F32, .n_tail = 0};
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        struct trial t;
        trial_open(&t, N_LEVELS - 1, &shape, i);
        int32_t taken[KEYS], left[KEYS];
        int n_taken = 0, n_left = 0;
        for (int key = 0; key < KEYS; key++)
            if (key >= patterns[i].begin && key < patterns[i].end &&
                (key - patterns[i].begin) % patterns[i].step == 0)
                taken[n_taken++] = key;
            else
                left[n_left++] = key;
        backend_cpu.selection_put(t.dev, t.sel, 0, 0, taken, NULL, n_taken);
        backend_cpu.select_random(t.dev, t.sel, &t.c.att, 0.04, SLOT, SHARE_HEAD);
        struct permutation p =
            permutation_make((uint32_t)n_left, t.c.step.seed, (uint32_t)t.c.att.layer, 0,
                             (uint32_t)position(&t.m, 0), SLOT);
        float want[KEYS] = {0};
        for (int j = 0; j < n_taken; j++)
            want[taken[j]] = 1.0f;
        for (uint32_t j = 0; j < 40; j++)
            want[left[permutation_image(&p, j)]] = (float)(40.0 / n_left);
        int n = backend_cpu.selection_get(t.dev, t.sel, 0, 0, t.keys, t.prob), at_key = 0;
        for (int key = 0; key < KEYS; key++) {
            bool has = at_key < n && t.keys[at_key] == key;
            float got = has ? t.prob[at_key] : 0.0f;
            if (got != want[key])
                fail_msg("pattern %zu key %d: p %g, want %g", i, key, (double)got,
                         (double)want[key]);
            at_key += has;
        }
        trial_close(&t);
    }
}

static void test_every_instruction_set_draws_the_same_keys(void **state)
{
    (void)state;
    struct case_shape shape = {2, 3000, 4, 2, 16, DTYPE_F32, .n_tail = 10};
    int32_t first[3000];
    int n_first = 0;
    for (int level = 0; level < N_LEVELS; level++) {
        struct trial t;
        trial_open(&t, level, &shape, 5);
        backend_cpu.select_random(t.dev, t.sel, &t.c.att, 0.1, 2, SHARE_HEAD);
        backend_cpu.selection_end(t.dev, t.sel, &t.c.att);
        int n = backend_cpu.selection_get(t.dev, t.sel, 1, 3, t.keys, t.prob);
        if (level == 0) {
            n_first = n;
            memcpy(first, t.keys, (size_t)n * sizeof *first);
        }
        assert_int_equal(n, n_first);
        assert_memory_equal(first, t.keys, (size_t)n * sizeof *first);
        trial_close(&t);
    }
}

static void test_permutations_hit_every_number_once(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {1, 2, 3, 10, 100, 1023, 1024, 1025, 5000, 65537};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct permutation p = permutation_make(sizes[i], 1, 2, 3, 4, (uint32_t)i);
        uint8_t *hit = calloc(sizes[i], 1);
        for (uint32_t x = 0; x < sizes[i]; x++) {
            uint32_t y = permutation_image(&p, x);
            if (y >= sizes[i] || hit[y])
                fail_msg("size %u: %u -> %u, outside or twice", sizes[i], x, y);
            hit[y] = 1;
        }
        free(hit);
    }
}

/* How often each key, and each pair of neighbouring numbers, is drawn over many seeds. */
static void test_random_is_uniform_in_keys_and_pairs(void **state)
{
    (void)state;
    enum { N_SEEDS = 10000 };
    static const int sizes[] = {7, 60, 200}, draws[] = {2, 12, 20};
    for (int s = 0; s < 3; s++) {
        int size = sizes[s], n = draws[s];
        int *hits = calloc((size_t)size, sizeof *hits);
        int *pairs = calloc((size_t)size * (size_t)size, sizeof *pairs);
        for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
            struct permutation p = permutation_make((uint32_t)size, seed, 3, 1, 777, 0);
            uint32_t images[32];
            for (int i = 0; i < n; i++) {
                images[i] = permutation_image(&p, (uint32_t)i);
                hits[images[i]]++;
                for (int j = 0; j < i; j++) {
                    pairs[images[i] * (uint32_t)size + images[j]]++;
                    pairs[images[j] * (uint32_t)size + images[i]]++;
                }
            }
        }
        double p1 = (double)n / size, p2 = p1 * (n - 1) / (size - 1), chi = 0.0, chi_pairs = 0.0;
        double sigma1 = sqrt(N_SEEDS * p1 * (1 - p1)), sigma2 = sqrt(N_SEEDS * p2 * (1 - p2));
        int n_pairs = size * (size - 1) / 2;
        for (int i = 0; i < size; i++) {
            double z = (hits[i] - N_SEEDS * p1) / sigma1;
            chi += z * z;
            if (fabs(z) > 4.5)
                fail_msg("%d of %d: number %d drawn %d times, want %.0f", n, size, i, hits[i],
                         N_SEEDS * p1);
            for (int j = 0; j < i; j++) {
                z = (pairs[i * size + j] - N_SEEDS * p2) / sigma2;
                chi_pairs += z * z;
                if (fabs(z) > 6.0)
                    fail_msg("%d of %d: pair %d, %d drawn %d times, want %.0f", n, size, i, j,
                             pairs[i * size + j], N_SEEDS * p2);
            }
        }
        /* Means of many squares of about unit variance: 1 give or take a few sqrt(2 / n). */
        if (chi / size > 1 + 5 * sqrt(2.0 / size) ||
            chi_pairs / n_pairs > 1 + 6 * sqrt(2.0 / n_pairs))
            fail_msg("%d of %d: mean squares %.3f, of pairs %.3f; want about 1", n, size,
                     chi / size, chi_pairs / n_pairs);
        free(hits);
        free(pairs);
    }
}

/* Sum of w exp(z) v and of w exp(z), averaged over seeds, are the dense sums. */
static void test_random_weights_are_unbiased(void **state)
{
    (void)state;
    enum { N_SEEDS = 10000, KEYS = 90 };
    struct case_shape shape = {1, KEYS, 2, 1, 4, DTYPE_F32, .n_tail = 0};
    struct trial t;
    trial_open(&t, N_LEVELS - 1, &shape, 8);
    double z[KEYS], v[KEYS], sum[2] = {0}, square[2] = {0}, want[2] = {0};
    for (int key = 0; key < KEYS; key++) {
        z[key] = 0.0;
        for (int d = 0; d < 4; d++)
            z[key] += (double)t.c.q[4 + d] * (double)((float *)t.c.k[0])[key * 4 + d] * 0.5;
        v[key] = (double)((float *)t.c.v[0])[key * 4];
        want[0] += exp(z[key]) * v[key];
        want[1] += exp(z[key]);
    }
    for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
        t.c.step.seed = seed;
        backend_cpu.selection_begin(t.dev, t.sel, &t.c.att);
        backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(3));
        backend_cpu.select_random(t.dev, t.sel, &t.c.att, 0.1, 0, SHARE_HEAD);
        backend_cpu.selection_end(t.dev, t.sel, &t.c.att);
        int n = backend_cpu.selection_get(t.dev, t.sel, 0, 1, t.keys, t.prob);
        double part[2] = {0};
        for (int i = 0; i < n; i++) {
            double w = exp(z[t.keys[i]]) / (double)t.prob[i];
            part[0] += w * v[t.keys[i]];
            part[1] += w;
        }
        for (int j = 0; j < 2; j++) {
            sum[j] += part[j];
            square[j] += part[j] * part[j];
        }
    }
    for (int j = 0; j < 2; j++) {
        double mean = sum[j] / N_SEEDS, variance = square[j] / N_SEEDS - mean * mean;
        double standard_error = sqrt(variance / N_SEEDS);
        if (fabs(mean - want[j]) > 3 * standard_error)
            fail_msg("%s: mean %.4f, want %.4f within 3 x %.4f", j ? "denominator" : "numerator",
                     mean, want[j], standard_error);
    }
    trial_close(&t);
}

static void test_draws_differ_by_head_slot_layer_and_position(void **state)
{
    (void)state;
    uint32_t base[4];
    for (int change = 0; change < 6; change++) {
        struct permutation p =
            permutation_make(1u << 20, change == 1, 3 + (change == 2), 5 + (change == 3),
                             100 + (change == 4), 0 + (change == 5));
        int n_same = 0;
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t image = permutation_image(&p, i);
            if (change == 0)
                base[i] = image;
            n_same += image == base[i];
        }
        assert_int_equal(n_same, change == 0 ? 4 : 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_draws_the_right_number_with_the_right_weight),
        cmocka_unit_test(test_draws_skip_what_is_taken),
        cmocka_unit_test(test_every_instruction_set_draws_the_same_keys),
        cmocka_unit_test(test_permutations_hit_every_number_once),
        cmocka_unit_test(test_random_is_uniform_in_keys_and_pairs),
        cmocka_unit_test(test_random_weights_are_unbiased),
        cmocka_unit_test(test_draws_differ_by_head_slot_layer_and_position),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
