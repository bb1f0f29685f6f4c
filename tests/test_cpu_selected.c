/* Attention to selections and its probe: explicit lists, rescue, growth, groups. */
#include "tests/selection_trial.h"

/* --- Explicit lists, rescue, growth ------------------------------------------------------------
 */

static void test_put_lists_are_attended_with_their_weights(void **state)
{
    (void)state;
    struct trial t;
    FOR_EACH_TRIAL(t)
    {
        uint64_t random = 4;
        for (int row = 0; row < t.m.n_rows; row++)
            for (int head = 0; head < t.m.n_heads; head++) {
                int n = 0;
                for (int key = 0; key < t.m.n_keys; key++) {
                    if (!is_visible(&t.m, row, key) || case_random(&random) % 4)
                        continue;
                    t.keys[n] = key;
                    t.prob[n] = (float)(1 + case_random(&random) % 9) / 9.0f;
                    t.m.p[at(&t.m, row, head, key)] = t.prob[n++];
                }
                backend_cpu.selection_put(t.dev, t.sel, row, head, t.keys, t.prob, n);
            }
        check_selected(&t, "put");
        check_attended(&t, "put");
    }
}

static void test_put_drops_keys_that_are_invisible_or_selected(void **state)
{
    (void)state;
    struct case_shape shape = {1, 20, 2, 1, 16, DTYPE_F32, .first_key = 2};
    struct trial t;
    trial_open(&t, N_LEVELS - 1, &shape, 2);
    backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(5));
    int32_t keys[] = {-1, 1, 3, 7, 9, 19, 20};
    float prob[] = {0.5f, 0.5f, 0.5f, 0.5f, 0.25f, 0.5f, 0.5f};
    backend_cpu.selection_put(t.dev, t.sel, 0, 0, keys, prob, 7);
    backend_cpu.selection_put(t.dev, t.sel, 0, 0, keys + 3, NULL, 1);
    model_sink(&t.m, count(5));
    t.m.p[7] = t.m.p[19] = 0.5f;
    t.m.p[9] = 0.25f;
    check_selected(&t, "put");
    check_attended(&t, "put");
    trial_close(&t);
}

static void test_heads_with_nothing_attend_to_their_own_key(void **state)
{
    (void)state;
    struct trial t;
    FOR_EACH_TRIAL(t)
    {
        /* Only the first head of the last row has a key. */
        int row = t.m.n_rows - 1;
        int32_t key = position(&t.m, row) - 1;
        backend_cpu.selection_put(t.dev, t.sel, row, 0, &key, NULL, 1);
        t.m.p[at(&t.m, row, 0, key)] = 1.0f;
        check_selected(&t, "nearly nothing");
        check_attended(&t, "nearly nothing");
        assert_int_equal(t.c.counts.rescued, t.m.n_rows * t.m.n_heads - 1);
    }
}

static void test_groups_beyond_32_heads_work(void **state)
{
    (void)state;
    struct case_shape shape = {2, 80, 80, 2, 16, DTYPE_BF16, .n_tail = 9};
    for (int share = 0; share < 2; share++) {
        struct trial t;
        trial_open(&t, N_LEVELS - 1, &shape, 6);
        exact_scores(&t, 3);
        backend_cpu.score_exact(t.dev, t.sel, &t.c.att);
        backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, count(9), share);
        model_top_k(&t.m, count(9), share);
        check_selected(&t, "40 heads per group");
        backend_cpu.attend_selected(t.dev, &t.c.att, t.sel);
        size_t n = case_out_count(&t.c);
        float *got = calloc(n, sizeof *got);
        memcpy(got, t.c.out, n * sizeof *got);
        attention_reference_selected(&t.c.att, t.sel);
        double error = relative_error(got, t.c.out, n);
        if (!(error < 5e-6))
            fail_msg("output error %.2e", error);
        free(got);
        trial_close(&t);
    }
}

/* Long lists are cut into parts and merged. */
static void test_long_selections_equal_the_reference(void **state)
{
    (void)state;
    struct case_shape shape = {1, 5000, 6, 2, 64, DTYPE_BF16, .n_tail = 300, .sink = true};
    for (int level = 1; level < N_LEVELS; level++)
        for (int share = 0; share < 2; share++) {
            struct trial t;
            trial_open(&t, level, &shape, 9);
            backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(700));
            backend_cpu.select_local(t.dev, t.sel, &t.c.att, count(900));
            backend_cpu.score_exact(t.dev, t.sel, &t.c.att);
            backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, fraction(0.2), share);
            backend_cpu.select_random(t.dev, t.sel, &t.c.att, 0.1, 1, share);
            backend_cpu.selection_end(t.dev, t.sel, &t.c.att);
            backend_cpu.attend_selected(t.dev, &t.c.att, t.sel);
            size_t n = case_out_count(&t.c);
            float *got = calloc(n, sizeof *got);
            memcpy(got, t.c.out, n * sizeof *got);
            attention_reference_selected(&t.c.att, t.sel);
            double error = relative_error(got, t.c.out, n);
            if (!(error < 5e-6))
                fail_msg("level %d share %d: output error %.2e", level, share, error);
            free(got);
            trial_close(&t);
        }
}

/* Keys that arrive one by one in the tail give the selections that one large context gives. */
static void test_growing_the_tail_equals_one_context(void **state)
{
    (void)state;
    enum { CONTEXT = 70, STEPS = 20, DIM = 16, HEADS = 4, ALL = CONTEXT + STEPS };
    struct case_shape whole = {1, ALL, HEADS, 2, DIM, DTYPE_F32, .n_tail = 0};
    struct case_shape split = {1, ALL, HEADS, 2, DIM, DTYPE_F32, .n_tail = STEPS - 1};
    struct attention_case a, b;
    case_open(&a, &whole, 3);
    case_open(&b, &split, 4);
    memcpy(b.q, a.q, (size_t)b.att.q_stride * sizeof *b.q);
    for (int kv = 0; kv < 2; kv++)
        for (int key = 0; key < ALL; key++) {
            int s = key < CONTEXT ? KV_CONTEXT : KV_TAIL;
            int to = kv * b.att.kv.capacity[s] + key - (s == KV_TAIL ? CONTEXT : 0);
            float *from_k = (float *)a.k[0] + (kv * ALL + key) * DIM;
            float *from_v = (float *)a.v[0] + (kv * ALL + key) * DIM;
            memcpy((float *)b.k[s] + to * DIM, from_k, DIM * sizeof(float));
            memcpy((float *)b.v[s] + to * DIM, from_v, DIM * sizeof(float));
        }
    struct device *dev = devices[N_LEVELS - 1];
    struct selection *sel[2] = {backend_cpu.selection_open(dev, 1, HEADS, 2, ALL),
                                backend_cpu.selection_open(dev, 1, HEADS, 2, ALL)};
    struct attention_case *cases[2] = {&a, &b};
    int32_t keys[2][ALL];
    float prob[2][ALL];
    for (int step = 0; step < STEPS; step++) {
        a.step.n_context = CONTEXT + step;
        b.step.n_tail = step;
        a.step.seed = b.step.seed = 1;
        for (int i = 0; i < 2; i++) {
            struct attention *att = &cases[i]->att;
            backend_cpu.selection_begin(dev, sel[i], att);
            backend_cpu.select_sink(dev, sel[i], att, count(2));
            backend_cpu.select_local(dev, sel[i], att, count(5));
            backend_cpu.score_exact(dev, sel[i], att);
            backend_cpu.select_top_k(dev, sel[i], att, fraction(0.1), SHARE_HEAD);
            backend_cpu.select_random(dev, sel[i], att, 0.1, 0, SHARE_HEAD);
            backend_cpu.selection_end(dev, sel[i], att);
            backend_cpu.attend_selected(dev, att, sel[i]);
        }
        for (int head = 0; head < HEADS; head++) {
            int n = backend_cpu.selection_get(dev, sel[0], 0, head, keys[0], prob[0]);
            assert_int_equal(n, backend_cpu.selection_get(dev, sel[1], 0, head, keys[1], prob[1]));
            assert_memory_equal(keys[0], keys[1], (size_t)n * sizeof(int32_t));
            assert_memory_equal(prob[0], prob[1], (size_t)n * sizeof(float));
        }
        double error = relative_error(b.out, a.out, HEADS * DIM);
        if (!(error < 1e-6))
            fail_msg("step %d: output differs by %.2e", step, error);
    }
    for (int i = 0; i < 2; i++) {
        backend_cpu.selection_close(dev, sel[i]);
        case_close(cases[i]);
    }
}

/* --- Probe -------------------------------------------------------------------------------------
 */

static void test_probe_measures_mass_and_error(void **state)
{
    (void)state;
    struct trial t;
    FOR_EACH_TRIAL(t)
    {
        size_t n_slots = (size_t)t.m.n_rows * (size_t)t.m.n_heads, n = case_out_count(&t.c);
        size_t head_dim = (size_t)t.c.att.kv.head_dim;
        exact_scores(&t, 4);
        backend_cpu.select_local(t.dev, t.sel, &t.c.att, count(4));
        model_local(&t.m, count(4));
        backend_cpu.score_exact(t.dev, t.sel, &t.c.att);
        backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, count(6), SHARE_HEAD);
        model_top_k(&t.m, count(6), SHARE_HEAD);
        backend_cpu.selection_end(t.dev, t.sel, &t.c.att);
        float *dense = calloc(n, sizeof *dense), *recall = calloc(n_slots, sizeof *recall);
        float *error = calloc(2 * n_slots, sizeof *error);
        attention_reference_dense(&t.c.att);
        memcpy(dense, t.c.out, n * sizeof *dense);
        backend_cpu.attend_selected(t.dev, &t.c.att, t.sel);
        struct attention_probe probe = {recall, error};
        backend_cpu.probe(t.dev, &t.c.att, t.sel, &probe);
        for (size_t slot = 0; slot < n_slots; slot++) {
            double total = 0.0, held = 0.0, difference = 0.0, norm = 0.0;
            int row = (int)slot / t.m.n_heads, head = (int)slot % t.m.n_heads;
            for (int key = 0; key < t.m.n_keys; key++) {
                double mass = exp((double)t.m.score[at(&t.m, row, head, key)]);
                total += is_visible(&t.m, row, key) ? mass : 0.0;
                held += t.m.p[at(&t.m, row, head, key)] > 0.0f ? mass : 0.0;
            }
            for (size_t d = slot * head_dim; d < (slot + 1) * head_dim; d++) {
                difference += pow((double)t.c.out[d] - (double)dense[d], 2);
                norm += (double)dense[d] * (double)dense[d];
            }
            if (fabs((double)recall[slot] - held / total) > 1e-5)
                fail_msg("row %d head %d: recall %.6f, want %.6f", row, head, (double)recall[slot],
                         held / total);
            if (fabs((double)error[2 * slot] - difference) > 1e-5 * norm ||
                fabs((double)error[2 * slot + 1] - norm) > 1e-5 * norm)
                fail_msg("row %d head %d: error %g / %g, want %g / %g", row, head,
                         (double)error[2 * slot], (double)error[2 * slot + 1], difference, norm);
        }
        free(dense);
        free(recall);
        free(error);
    }
}

static void test_probe_of_a_full_selection_finds_nothing_lost(void **state)
{
    (void)state;
    struct case_shape shape = {3, 100, 4, 2, 32, DTYPE_BF16, .n_tail = 10, .sink = true};
    struct trial t;
    trial_open(&t, N_LEVELS - 1, &shape, 5);
    backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(100));
    backend_cpu.selection_end(t.dev, t.sel, &t.c.att);
    backend_cpu.attend_selected(t.dev, &t.c.att, t.sel);
    float recall[12], error[24];
    struct attention_probe probe = {recall, error};
    backend_cpu.probe(t.dev, &t.c.att, t.sel, &probe);
    for (int i = 0; i < 12; i++) {
        assert_float_equal(recall[i], 1.0f, 0.0f);
        assert_true(error[2 * i] < 1e-9f * error[2 * i + 1]);
    }
    trial_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_put_lists_are_attended_with_their_weights),
        cmocka_unit_test(test_put_drops_keys_that_are_invisible_or_selected),
        cmocka_unit_test(test_heads_with_nothing_attend_to_their_own_key),
        cmocka_unit_test(test_groups_beyond_32_heads_work),
        cmocka_unit_test(test_long_selections_equal_the_reference),
        cmocka_unit_test(test_growing_the_tail_equals_one_context),
        cmocka_unit_test(test_probe_measures_mass_and_error),
        cmocka_unit_test(test_probe_of_a_full_selection_finds_nothing_lost),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
