/* Selections by position and by score: the operations against their definitions. */
#include "tests/selection_trial.h"

/* --- Ranges ----------------------------------------------------------------------------------- */

static void test_sink_and_local_select_visible_keys(void **state)
{
    (void)state;
    struct trial t;
    FOR_EACH_TRIAL(t)
    {
        backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(6));
        model_sink(&t.m, count(6));
        backend_cpu.select_local(t.dev, t.sel, &t.c.att, fraction(0.1));
        model_local(&t.m, fraction(0.1));
        check_selected(&t, "sink, local");
        check_attended(&t, "sink, local");
    }
    FOR_EACH_TRIAL(t)
    {
        backend_cpu.select_local(t.dev, t.sel, &t.c.att, count(50));
        model_local(&t.m, count(50));
        backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(45));
        model_sink(&t.m, count(45));
        backend_cpu.select_local(t.dev, t.sel, &t.c.att, count(3));
        model_local(&t.m, count(3));
        check_selected(&t, "local, sink, local");
        check_attended(&t, "local, sink, local");
    }
}

/* The table of spec/maskers.md section 3, at the bound and one beyond. */
static void test_early_exits_at_their_bounds(void **state)
{
    (void)state;
    enum { SINK, LOCAL, SHORT, SHORT_OF_10, TOP_K, TOP_P };
    static const struct {
        int masker, size;
        bool full;
    } cases[] = {{SINK, 40, true},        {SINK, 39, false},        {LOCAL, 37, true},
                 {LOCAL, 36, false},      {SHORT, 37, true},        {SHORT, 36, false},
                 {SHORT_OF_10, 27, true}, {SHORT_OF_10, 26, false}, {TOP_K, 40, true},
                 {TOP_K, 39, false},      {TOP_P, 1, true},         {TOP_P, 0, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct case_shape shape = {3, 40, 2, 1, 16, DTYPE_F32, .n_tail = 5};
        struct trial t;
        trial_open(&t, N_LEVELS - 1, &shape, 3);
        backend_cpu.score_exact(t.dev, t.sel, &t.c.att);
        if (cases[i].masker == SINK)
            backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(cases[i].size));
        else if (cases[i].masker == LOCAL)
            backend_cpu.select_local(t.dev, t.sel, &t.c.att, count(cases[i].size));
        else if (cases[i].masker == SHORT || cases[i].masker == SHORT_OF_10) {
            backend_cpu.select_if_short(t.dev, t.sel, &t.c.att, count(cases[i].size),
                                        cases[i].masker == SHORT ? 0 : 10);
            backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(1)); /* or it would be empty */
        } else if (cases[i].masker == TOP_K)
            backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, count(cases[i].size), SHARE_HEAD);
        else
            backend_cpu.select_top_p(t.dev, t.sel, &t.c.att, cases[i].size ? 1.0 : 0.9999, false,
                                     count(0), 1.0f, SHARE_HEAD);
        backend_cpu.selection_end(t.dev, t.sel, &t.c.att);
        bool full = backend_cpu.selection_get(t.dev, t.sel, 0, 0, t.keys, t.prob) < 0;
        if (full != cases[i].full)
            fail_msg("case %zu: masker %d size %d: full %d, want %d", i, cases[i].masker,
                     cases[i].size, full, cases[i].full);
        trial_close(&t);
    }
}

static void test_a_full_selection_stays_full_and_equals_dense(void **state)
{
    (void)state;
    struct trial t;
    FOR_EACH_TRIAL(t)
    {
        backend_cpu.select_sink(t.dev, t.sel, &t.c.att, fraction(1.0));
        backend_cpu.score_exact(t.dev, t.sel, &t.c.att);
        backend_cpu.select_random(t.dev, t.sel, &t.c.att, 0.5, 0, SHARE_HEAD);
        backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, count(2), SHARE_HEAD);
        t.m.full = true;
        check_selected(&t, "full");
        assert_int_equal(t.c.counts.score_rows, 0);
        check_attended(&t, "full");
    }
}

static void test_no_ops_leave_an_empty_stack_which_is_dense(void **state)
{
    (void)state;
    struct trial t;
    FOR_EACH_TRIAL(t)
    {
        backend_cpu.select_sink(t.dev, t.sel, &t.c.att, fraction(1e-6));
        backend_cpu.select_local(t.dev, t.sel, &t.c.att, count(0));
        backend_cpu.select_if_short(t.dev, t.sel, &t.c.att, fraction(1e-6), 100);
        backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, fraction(1e-6), SHARE_GROUP);
        backend_cpu.select_random(t.dev, t.sel, &t.c.att, 1e-6, 0, SHARE_HEAD);
        t.m.full = true;
        check_selected(&t, "no-ops");
        check_attended(&t, "no-ops");
    }
}

/* --- By score ----------------------------------------------------------------------------------
 */

static void test_top_k_takes_the_best_and_the_lower_index_of_ties(void **state)
{
    (void)state;
    struct trial t;
    for (int spread = 1; spread <= 100; spread *= 100)
        for (int share = 0; share < 2; share++)
            FOR_EACH_TRIAL(t)
            {
                exact_scores(&t, spread);
                backend_cpu.score_exact(t.dev, t.sel, &t.c.att);
                backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, fraction(0.15), share);
                model_top_k(&t.m, fraction(0.15), share);
                check_selected(&t, "top-k");
                check_attended(&t, "top-k");
            }
}

static void test_top_k_skips_keys_already_selected(void **state)
{
    (void)state;
    struct trial t;
    for (int share = 0; share < 2; share++)
        FOR_EACH_TRIAL(t)
        {
            exact_scores(&t, 2);
            backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(9));
            backend_cpu.select_local(t.dev, t.sel, &t.c.att, count(11));
            backend_cpu.score_exact(t.dev, t.sel, &t.c.att);
            backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, count(5), SHARE_GROUP);
            backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, count(7), share);
            backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, count(4), SHARE_GROUP);
            model_sink(&t.m, count(9));
            model_local(&t.m, count(11));
            model_top_k(&t.m, count(5), SHARE_GROUP);
            model_top_k(&t.m, count(7), share);
            model_top_k(&t.m, count(4), SHARE_GROUP);
            check_selected(&t, "sink, local, top-k three times");
            check_attended(&t, "sink, local, top-k three times");
        }
}

static void test_top_k_takes_what_is_left_when_the_budget_is_larger(void **state)
{
    (void)state;
    struct trial t;
    FOR_EACH_TRIAL(t)
    {
        exact_scores(&t, 3);
        struct budget most = count(t.m.n_keys - 1);
        backend_cpu.score_exact(t.dev, t.sel, &t.c.att);
        backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, most, SHARE_HEAD);
        backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, most, SHARE_HEAD);
        model_top_k(&t.m, most, SHARE_HEAD);
        model_top_k(&t.m, most, SHARE_HEAD);
        check_selected(&t, "top-k of all");
        check_attended(&t, "top-k of all");
    }
}

static void test_a_range_swallows_list_keys(void **state)
{
    (void)state;
    struct trial t;
    FOR_EACH_TRIAL(t)
    {
        exact_scores(&t, 2);
        backend_cpu.score_exact(t.dev, t.sel, &t.c.att);
        backend_cpu.select_random(t.dev, t.sel, &t.c.att, 0.3, 1, SHARE_HEAD);
        for (int row = 0; row < t.m.n_rows; row++)
            for (int head = 0; head < t.m.n_heads; head++) {
                int n = backend_cpu.selection_get(t.dev, t.sel, row, head, t.keys, t.prob);
                for (int i = 0; i < n; i++)
                    t.m.p[at(&t.m, row, head, t.keys[i])] = t.prob[i];
            }
        backend_cpu.select_local(t.dev, t.sel, &t.c.att, count(20));
        model_local(&t.m, count(20));
        backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, count(5), SHARE_HEAD);
        model_top_k(&t.m, count(5), SHARE_HEAD);
        check_selected(&t, "random, local, top-k");
        check_attended(&t, "random, local, top-k");
    }
}

static void test_top_p_takes_the_fewest_that_exceed_the_share(void **state)
{
    (void)state;
    struct trial t;
    static const double shares_of_mass[] = {0.0, 0.3, 0.85, 0.999};
    for (size_t i = 0; i < 4; i++)
        for (int variant = 0; variant < 4; variant++)
            FOR_EACH_TRIAL(t)
            {
                enum share share = variant & 1;
                bool of_total = variant >> 1;
                /* Per head ties are exact.  A group's probabilities are sums, whose rounding may
                 * break a tie: let there be none. */
                exact_scores(&t, share ? 100 : 4);
                for (size_t j = 0; share && j < at(&t.m, t.m.n_rows, 0, 0); j++)
                    t.m.score[j] *= 1.0f / 64;
                t.c.att.scale *= share ? 1.0f / 64 : 1.0f;
                backend_cpu.score_exact(t.dev, t.sel, &t.c.att);
                backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(12));
                model_sink(&t.m, count(12));
                backend_cpu.select_top_p(t.dev, t.sel, &t.c.att, shares_of_mass[i], of_total,
                                         count(0), 1.0f, share);
                model_top_p(&t.m, shares_of_mass[i], of_total, count(0), 1.0, share);
                check_selected(&t, share ? "top-p of the group" : "top-p");
                check_attended(&t, "top-p");
            }
}

static void test_scores_are_those_of_the_queries_and_keys(void **state)
{
    (void)state;
    /* The best key of a row by the definition is the one that top-1 takes, on random values. */
    struct trial t;
    FOR_EACH_TRIAL(t)
    {
        backend_cpu.score_exact(t.dev, t.sel, &t.c.att);
        backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, count(1), SHARE_HEAD);
        backend_cpu.selection_end(t.dev, t.sel, &t.c.att);
        uint64_t n_visible = 0;
        const struct attention *att = &t.c.att;
        int group = t.m.n_heads / t.m.n_kv_heads, n_context = att->kv.capacity[KV_CONTEXT];
        for (int row = 0; row < t.m.n_rows; row++) {
            for (int key = 0; key < t.m.n_keys; key++)
                n_visible += is_visible(&t.m, row, key);
            for (int head = 0; head < t.m.n_heads; head++) {
                int best = -1;
                double best_z = -INFINITY;
                for (int key = 0; key < t.m.n_keys; key++) {
                    if (!is_visible(&t.m, row, key))
                        continue;
                    int s = key < n_context ? KV_CONTEXT : KV_TAIL;
                    size_t k = ((size_t)(head / group) * (size_t)att->kv.capacity[s] +
                                (size_t)(key - (s == KV_TAIL ? n_context : 0))) *
                               (size_t)att->kv.head_dim;
                    double z = 0.0;
                    for (int d = 0; d < att->kv.head_dim; d++)
                        z += (double)t.c.q[row * att->q_stride + head * att->kv.head_dim + d] *
                             (double)load_as_f32(att->kv.k[s], att->kv.dtype, k + (size_t)d);
                    if (z > best_z) {
                        best_z = z;
                        best = key;
                    }
                }
                int n = backend_cpu.selection_get(t.dev, t.sel, row, head, t.keys, t.prob);
                if (n != 1 || t.keys[0] != best)
                    fail_msg("row %d head %d: got %d keys, first %d, want %d", row, head, n,
                             t.keys[0], best);
            }
        }
        assert_int_equal(t.c.counts.score_rows, n_visible * (uint64_t)t.m.n_kv_heads);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sink_and_local_select_visible_keys),
        cmocka_unit_test(test_early_exits_at_their_bounds),
        cmocka_unit_test(test_a_full_selection_stays_full_and_equals_dense),
        cmocka_unit_test(test_no_ops_leave_an_empty_stack_which_is_dense),
        cmocka_unit_test(test_top_k_takes_the_best_and_the_lower_index_of_ties),
        cmocka_unit_test(test_top_k_skips_keys_already_selected),
        cmocka_unit_test(test_top_k_takes_what_is_left_when_the_budget_is_larger),
        cmocka_unit_test(test_a_range_swallows_list_keys),
        cmocka_unit_test(test_top_p_takes_the_fewest_that_exceed_the_share),
        cmocka_unit_test(test_scores_are_those_of_the_queries_and_keys),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
