/* Choosing a token, going on to the next, KL divergence and random numbers: the cuda backend
 * against the cpu backend. */
#include "tests/backend_pair.h"

/* The log of the sum differs by the rounding of exp and of f32 sums of a few logits. */
#define LOG_SUM_MOST 4e-6

static const struct sampling greedy = {.temperature = 0, .top_p = 1};
static const int sizes[] = {1,   2,    3,    7,    8,    9,    15,   16,   17,    255,   256,
                            257, 1000, 1023, 1024, 1025, 2049, 8191, 8193, 50257, 128256};
enum { N_SIZES = sizeof sizes / sizeof *sizes };

static float *random_logits(int n, float scale)
{
    float *logits = malloc((size_t)n * sizeof *logits);
    assert_non_null(logits);
    for (int i = 0; i < n; i++)
        logits[i] = scale * pair_draw();
    return logits;
}

/* What both sides pick. */
struct picks {
    struct pick of[N_PAIR];
};

static struct twin pick_out, pick_step; /* one pick; one step */

static struct picks pick_both(const struct twin *logits, int n, struct sampling sampling,
                              uint64_t seed, uint32_t step)
{
    struct picks picks;
    struct step_state state = {.n_context = 5, .n_tail = 3, .step = step, .seed = seed};
    memset(&picks, 0xEE, sizeof picks);
    for (int i = 0; i < N_PAIR; i++) {
        const struct backend *backend = pair.backend[i];
        struct device *dev = pair.dev[i];
        backend->upload(dev, pick_out.at[i], &picks.of[i], sizeof picks.of[i]);
        backend->upload(dev, pick_step.at[i], &state, sizeof state);
        backend->pick(dev, pick_out.at[i], logits->at[i], n, &sampling, pick_step.at[i]);
        backend->download(dev, &picks.of[i], pick_out.at[i], sizeof picks.of[i]);
    }
    pair_sync();
    return picks;
}

static bool same_float(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

static void check_picks(const struct picks *picks, const char *what, int n)
{
    const struct pick *a = &picks->of[PAIR_CPU], *b = &picks->of[PAIR_CUDA];
    if (a->token != b->token || !same_float(a->logit, b->logit))
        fail_msg("%s of %d: token %d (%g), want %d (%g)", what, n, b->token, (double)b->logit,
                 a->token, (double)a->logit);
    assert_int_equal(a->n_top, b->n_top);
    for (int i = 0; i < PICK_TOP; i++)
        if (a->top_ids[i] != b->top_ids[i] || !same_float(a->top_logits[i], b->top_logits[i]))
            fail_msg("%s of %d: candidate %d is %d (%g), want %d (%g)", what, n, i, b->top_ids[i],
                     (double)b->top_logits[i], a->top_ids[i], (double)a->top_logits[i]);
    bool same = isinf(a->log_sum_exp) ? a->log_sum_exp == b->log_sum_exp
                                      : fabs((double)(a->log_sum_exp - b->log_sum_exp)) <=
                                            LOG_SUM_MOST * (1 + fabs((double)a->log_sum_exp));
    if (!same)
        fail_msg("%s of %d: log_sum_exp %.9g, want %.9g", what, n, (double)b->log_sum_exp,
                 (double)a->log_sum_exp);
}

static void check_pick(const float *logits, int n, struct sampling sampling, const char *what)
{
    struct twin t = twin_bytes(logits, (size_t)n * sizeof *logits);
    struct picks picks = pick_both(&t, n, sampling, 11, 3);
    check_picks(&picks, what, n);
    twin_free(&t);
}

/* --- Greedy --------------------------------------------------------------------------------- */

static void test_greedy_picks_are_equal(void **state)
{
    (void)state;
    for (int s = 0; s < N_SIZES; s++) {
        float *logits = random_logits(sizes[s], 4);
        check_pick(logits, sizes[s], greedy, "random logits");
        free(logits);
    }
}

static void test_ties_go_to_the_lowest_id(void **state)
{
    (void)state;
    for (int s = 0; s < N_SIZES; s++) {
        int n = sizes[s];
        float *logits = random_logits(n, 2);
        for (int i = 0; i < n; i++)
            logits[i] = floorf(logits[i]); /* +0 and -0 too, which tie */
        check_pick(logits, n, greedy, "many ties");
        for (int i = 0; i < n; i++)
            logits[i] = i % 3 ? 0.0f : -0.0f;
        check_pick(logits, n, greedy, "zeros of both signs");
        for (int i = 0; i < n; i++)
            logits[i] = -7.25f;
        check_pick(logits, n, greedy, "all the same");
        logits[n - 1] = 3;
        check_pick(logits, n, greedy, "the last one");
        free(logits);
    }
}

static void test_broken_logits_still_give_a_token(void **state)
{
    (void)state;
    struct sampling warm = {.temperature = 1, .top_p = 0.9f, .top_k = 3, .min_p = 0.01f};
    for (int s = 0; s < N_SIZES; s++)
        for (int kind = 0; kind < 6; kind++) {
            int n = sizes[s];
            float *logits = random_logits(n, 3);
            for (int i = 0; i < n; i++) {
                if (kind == 0 || (kind == 1 && i % 2 == 0))
                    logits[i] = NAN;
                if (kind == 2 || (kind == 3 && i % 5 != 2))
                    logits[i] = -INFINITY;
                if (kind == 4 && i == n / 2)
                    logits[i] = INFINITY;
                if (kind == 5)
                    logits[i] = i % 4 == 1 ? -NAN : i % 4 == 2 ? -INFINITY : logits[i] * 1e30f;
            }
            check_pick(logits, n, greedy, "broken logits");
            if (kind != 1) /* a draw among few, where a border could differ, is checked below */
                check_pick(logits, n, warm, "broken logits, drawn");
            free(logits);
        }
}

/* --- Draws ---------------------------------------------------------------------------------- */

/* Draws n_draws tokens on both sides.  They may differ only where rounding moves a border: one draw
 * in a hundred at most. */
static void check_draws(const float *logits, int n, struct sampling sampling, int n_draws)
{
    int n_different = 0;
    struct twin t = twin_bytes(logits, (size_t)n * sizeof *logits);
    for (int i = 0; i < n_draws; i++) {
        struct picks picks = pick_both(&t, n, sampling, 42 + (uint64_t)i % 3, (uint32_t)i);
        const struct pick *drawn = &picks.of[PAIR_CUDA];
        assert_in_range(drawn->token, 0, n - 1);
        assert_true(same_float(drawn->logit, logits[drawn->token]));
        n_different += drawn->token != picks.of[PAIR_CPU].token;
        picks.of[PAIR_CUDA].token = picks.of[PAIR_CPU].token;
        picks.of[PAIR_CUDA].logit = picks.of[PAIR_CPU].logit;
        check_picks(&picks, "a draw", n);
    }
    if (n_different > n_draws / 100)
        fail_msg("%d logits, temperature %g, top_k %d, top_p %g, min_p %g: %d of %d draws differ",
                 n, (double)sampling.temperature, sampling.top_k, (double)sampling.top_p,
                 (double)sampling.min_p, n_different, n_draws);
    twin_free(&t);
}

static const struct sampling settings[] = {
    {.temperature = 1, .top_p = 1},
    {.temperature = 2, .top_p = 1, .top_k = 5},
    {.temperature = 0.7f, .top_p = 0.8f},
    {.temperature = 1.3f, .top_p = 1, .min_p = 0.2f},
    {.temperature = 1.5f, .top_p = 0.9f, .min_p = 0.1f, .top_k = 20},
    {.temperature = 1, .top_p = 1e-6f},
    {.temperature = 1, .top_p = 0},
    {.temperature = 1, .top_p = 0.999f},
    {.temperature = 1, .top_p = 1, .top_k = 1},
    {.temperature = 1, .top_p = 1, .top_k = 1000000},
    {.temperature = 1e-3f, .top_p = 1},
    {.temperature = 3, .top_p = 0.95f, .top_k = 5000},
    {.temperature = 1, .top_p = 1, .min_p = 1.5f}, /* leaves none */
};
enum { N_SETTINGS = sizeof settings / sizeof *settings };

static void test_draws_are_equal(void **state)
{
    (void)state;
    static const int vocabularies[] = {1, 5, 40, 1000, 1025, 20001};
    for (int v = 0; v < 6; v++) {
        float *logits = random_logits(vocabularies[v], 3);
        for (int s = 0; s < N_SETTINGS; s++)
            check_draws(logits, vocabularies[v], settings[s], v < 4 ? 100 : 20);
        free(logits);
    }
}

static void test_draws_from_a_large_vocabulary_are_equal(void **state)
{
    (void)state;
    enum { N = 128256 };
    float *logits = random_logits(N, 4);
    for (int s = 0; s < N_SETTINGS; s++)
        check_draws(logits, N, settings[s], 6);
    free(logits);
}

/* Few distinct logits, so that the cut falls among ties: only ids below the cut may appear. */
static void test_cuts_among_ties_are_equal(void **state)
{
    (void)state;
    enum { N = 20000 };
    float *logits = random_logits(N, 1);
    for (int i = 0; i < N; i++)
        logits[i] = i % 4 == 0 ? 1 : 0;
    struct sampling by_number = {.temperature = 1, .top_p = 1, .top_k = 1000};
    struct sampling by_mass = {.temperature = 1, .top_p = 0.25f};
    struct sampling all = {.temperature = 1, .top_p = 1, .top_k = 7000, .min_p = 0.5f};
    check_draws(logits, N, by_number, 40);
    check_draws(logits, N, by_mass, 40);
    check_draws(logits, N, all, 40);
    struct twin t = twin_bytes(logits, N * sizeof *logits);
    for (uint32_t step = 0; step < 40; step++) {
        int token = pick_both(&t, N, by_number, 5, step).of[PAIR_CUDA].token;
        assert_true(token % 4 == 0 && token < 4000);
    }
    twin_free(&t);
    free(logits);
}

static void test_a_draw_is_the_same_every_time(void **state)
{
    (void)state;
    enum { N = 50257 };
    struct sampling sampling = {.temperature = 1.5f, .top_p = 0.97f, .top_k = 9000};
    float *logits = random_logits(N, 3);
    struct twin t = twin_bytes(logits, N * sizeof *logits);
    struct picks first = pick_both(&t, N, sampling, 9, 100);
    for (int i = 0; i < 10; i++) {
        struct picks again = pick_both(&t, N, sampling, 9, 100);
        assert_memory_equal(&first.of[PAIR_CUDA], &again.of[PAIR_CUDA], sizeof again.of[0]);
    }
    twin_free(&t);
    free(logits);
}

/* --- The next token ------------------------------------------------------------------------- */

static void test_advance_goes_on_alike(void **state)
{
    (void)state;
    enum { N_LOG = 3 };
    struct step_state step = {.n_context = 9, .n_tail = 4, .append_tail = 1, .step = 5, .seed = 77};
    struct pick chosen = {.token = 123, .logit = 4.5f, .log_sum_exp = 9, .n_top = 8};
    struct pick log[N_LOG];
    struct step_state before;
    int32_t token = -1;
    for (int i = 0; i < PICK_TOP; i++) {
        chosen.top_ids[i] = 100 - i;
        chosen.top_logits[i] = (float)i;
    }
    memset(log, 0xAB, sizeof log);
    memset(&before, 0xAB, sizeof before);
    struct twin steps = twin_bytes(&step, sizeof step),
                befores = twin_bytes(&before, sizeof before);
    struct twin tokens = twin_bytes(&token, sizeof token);
    struct twin chosens = twin_bytes(&chosen, sizeof chosen), logs = twin_bytes(log, sizeof log);
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < N_PAIR; i++)
            pair.backend[i]->advance(pair.dev[i], steps.at[i], befores.at[i], tokens.at[i],
                                     chosens.at[i], logs.at[i], N_LOG);
        assert_twin_equal(&steps, "step");
        assert_twin_equal(&befores, "before");
        assert_twin_equal(&tokens, "token");
        assert_twin_equal(&logs, "log");
    }
    twin_free(&steps);
    twin_free(&befores);
    twin_free(&tokens);
    twin_free(&chosens);
    twin_free(&logs);
}

/* --- KL divergence -------------------------------------------------------------------------- */

static void check_kl(const float *p, const float *q, int n, double most)
{
    struct twin ps = twin_bytes(p, (size_t)n * sizeof *p),
                qs = twin_bytes(q, (size_t)n * sizeof *q);
    struct twin out = twin_poisoned(1);
    float got[N_PAIR];
    for (int i = 0; i < N_PAIR; i++) {
        pair.backend[i]->kl_divergence(pair.dev[i], out.at[i], ps.at[i], qs.at[i], n);
        pair.backend[i]->download(pair.dev[i], &got[i], out.at[i], sizeof got[i]);
    }
    pair_sync();
    double want = (double)got[PAIR_CPU], is = (double)got[PAIR_CUDA];
    if (isinf(want) ? is != want : !(fabs(is - want) <= most * fabs(want)))
        fail_msg("KL of %d logits: %.9g, want %.9g", n, is, want);
    twin_free(&ps);
    twin_free(&qs);
    twin_free(&out);
}

static void test_kl_divergences_are_close(void **state)
{
    (void)state;
    for (int s = 0; s < N_SIZES; s++) {
        int n = sizes[s];
        float *p = random_logits(n, 3), *q = random_logits(n, 3);
        check_kl(p, p, n, 0);
        for (int i = 0; i < n && n > 1; i++)
            q[i] = p[i] + 0.1f * q[i];
        /* Both log sums, off by the rounding of exp, enter to the second order; the rest is f64. */
        if (n > 1)
            check_kl(p, q, n, 1e-5);
        free(p);
        free(q);
    }
    float p[3] = {0, -INFINITY, 0}, q[3] = {0, 0, 0};
    check_kl(p, q, 3, 1e-6);
    check_kl(q, p, 3, 0); /* infinite */
}

/* --- Random numbers ------------------------------------------------------------------------- */

static void test_fills_are_equal(void **state)
{
    (void)state;
    static const size_t lengths[] = {1, 2, 3, 4, 5, 15, 17, 1023, 4097, 300001};
    static const float scales[] = {1, 0.03f, 3e-5f};
    for (int dtype = 0; dtype < 3; dtype++)
        for (int s = 0; s < 3; s++)
            for (int l = 0; l < 10; l++) {
                size_t n = lengths[l], n_bytes = (n + 7) * dtype_bytes((enum dtype)dtype);
                unsigned char *before = malloc(n_bytes);
                assert_non_null(before);
                memset(before, 0x5A, n_bytes); /* what lies behind stays */
                struct twin t = twin_bytes(before, n_bytes);
                for (int i = 0; i < N_PAIR; i++)
                    pair.backend[i]->fill_random(pair.dev[i], t.at[i], n, (enum dtype)dtype,
                                                 scales[s], 0x123456789ABCull + (uint64_t)l);
                assert_twin_equal(&t, "random numbers");
                twin_free(&t);
                free(before);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        pair_test(test_greedy_picks_are_equal),
        pair_test(test_ties_go_to_the_lowest_id),
        pair_test(test_broken_logits_still_give_a_token),
        pair_test(test_draws_are_equal),
        pair_test(test_draws_from_a_large_vocabulary_are_equal),
        pair_test(test_cuts_among_ties_are_equal),
        pair_test(test_a_draw_is_the_same_every_time),
        pair_test(test_advance_goes_on_alike),
        pair_test(test_kl_divergences_are_close),
        pair_test(test_fills_are_equal),
    };
    if (!pair_open(true))
        return PAIR_SKIPPED;
    pick_out = twin_bytes(NULL, sizeof(struct pick));
    pick_step = twin_bytes(NULL, sizeof(struct step_state));
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    twin_free(&pick_out);
    twin_free(&pick_step);
    pair_close();
    return failed;
}
