/* Choosing a token on the cpu backend: candidates, draws, KL divergence, going on to the next. */
#include <stdio.h>
#include <string.h>

#include "tests/cpu_trial.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy_takes_the_lowest_id_of_a_tie),
        cmocka_unit_test(test_top_candidates_and_log_sum),
        cmocka_unit_test(test_broken_logits_still_give_a_token),
        cmocka_unit_test(test_draws_follow_the_filtered_distribution),
        cmocka_unit_test(test_filters_agree_with_sorting_on_large_vocabularies),
        cmocka_unit_test(test_draws_depend_on_seed_and_step_alone),
        cmocka_unit_test(test_kl_divergence),
        cmocka_unit_test(test_advance_keeps_the_step_and_logs_the_token),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
