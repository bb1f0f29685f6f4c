/* MagicPIG's index on the cpu: codes that grow, what they are centred by, and sums over colliding
 * keys that estimate sums over all. */
#include <math.h>

#include "kernels/cpu/index_tables.h"
#include "tests/index_trial.h"

enum { CONTEXT = 301, GROWN = 1000 };

static const struct attention *call_at(struct trial *t, int n_tail, int n_rows)
{
    t->c.step.n_tail = n_tail;
    t->c.att.n_rows = n_rows;
    return &t->c.att;
}

static void open_growing(struct trial *t, int level)
{
    struct case_shape shape = {1, CONTEXT + GROWN, 6, 2, 80, DTYPE_BF16, .n_tail = GROWN - 1};
    trial_open(t, level, &shape, 5);
    t->c.att.layer = LAYER;
}

static void expect_same_codes(const struct key_index *a, const struct key_index *b, int n_keys)
{
    const struct key_index_config *c = &a->config;
    size_t bytes = (size_t)tables_code_bytes(c);
    for (int head = 0; head < c->n_kv_heads; head++) {
        size_t at = tables_head(a, LAYER, head);
        assert_memory_equal(tables_mean(a, LAYER, head), tables_mean(b, LAYER, head),
                            (size_t)c->head_dim * sizeof(float));
        assert_true(a->radii[at] == b->radii[at]);
        for (int table = 0; table < c->tables.n_tables; table++) {
            size_t first = (size_t)table * a->stride * bytes;
            assert_memory_equal((char *)tables_codes(a, LAYER, head) + first,
                                (char *)tables_codes(b, LAYER, head) + first,
                                (size_t)n_keys * bytes);
        }
    }
}

/* Beside an index of the same context that got the rest at once. */
static void test_codes_grown_by_1000_keys_equal_those_made_at_once(void **state)
{
    (void)state;
    static const int bits[] = {1, 16, 17, 33, 64};
    for (int level = 0; level < N_LEVELS; level++)
        for (size_t i = 0; i < sizeof bits / sizeof *bits; i++) {
            struct trial t;
            open_growing(&t, level);
            struct key_index_config config = config_of(&t, INDEX_TABLES);
            tables_open(&config, 5, bits[i], 1, CENTER_KEYS);
            struct key_index *grown = open_index(&t, &config), *fresh = open_index(&t, &config);
            backend_cpu.index_update(t.dev, grown, call_at(&t, 0, 0));
            backend_cpu.index_update(t.dev, fresh, call_at(&t, 0, 0));
            for (int n = 0; n < GROWN; n++)
                backend_cpu.index_update(t.dev, grown, call_at(&t, n, 1));
            backend_cpu.index_update(t.dev, fresh, call_at(&t, GROWN - 1, 1));
            assert_int_equal(grown->n_frozen[LAYER], CONTEXT);
            expect_same_codes(grown, fresh, CONTEXT + GROWN);
            backend_cpu.index_close(t.dev, grown);
            backend_cpu.index_close(t.dev, fresh);
            tables_close(&config);
            trial_close(&t);
        }
}

/* Mean and length of keys that are gone count no more. */
static void test_a_rewind_before_the_first_keys_codes_anew(void **state)
{
    (void)state;
    for (int level = 0; level < N_LEVELS; level++) {
        struct trial t;
        open_growing(&t, level);
        struct key_index_config config = config_of(&t, INDEX_TABLES);
        tables_open(&config, 5, 9, 1, CENTER_KEYS);
        struct key_index *index = open_index(&t, &config), *fresh = open_index(&t, &config);
        backend_cpu.index_update(t.dev, index, call_at(&t, 700, 1)); /* all of it is a question */
        assert_int_equal(index->n_frozen[LAYER], CONTEXT + 701);
        backend_cpu.index_update(t.dev, index, call_at(&t, 20, 1));
        backend_cpu.index_update(t.dev, fresh, call_at(&t, 20, 1));
        assert_int_equal(index->n_frozen[LAYER], CONTEXT + 21);
        expect_same_codes(index, fresh, CONTEXT + 21);
        backend_cpu.index_close(t.dev, index);
        backend_cpu.index_close(t.dev, fresh);
        tables_close(&config);
        trial_close(&t);
    }
}

/* --- Sums over colliding keys ------------------------------------------------------------------
 */

/* Sums of exp(z) / p and exp(z) v_0 / p over what is selected for a head; all: with p = 1 over
 * every key. */
static void add_up(struct trial *t, int head, bool all, double sums[2])
{
    const struct kv_layer *kv = &t->c.att.kv;
    int n = t->m.n_keys, dim = kv->head_dim, kv_head = head / (t->m.n_heads / t->m.n_kv_heads);
    if (!all)
        n = backend_cpu.selection_get(t->dev, t->sel, 0, head, t->keys, t->prob);
    sums[0] = sums[1] = 0;
    for (int i = 0; i < n; i++) {
        int key = all ? i : t->keys[i];
        size_t row = ((size_t)kv_head * (size_t)kv->capacity[0] + (size_t)key) * (size_t)dim;
        double z = 0;
        for (int d = 0; d < dim; d++)
            z += (double)t->c.q[head * dim + d] *
                 (double)load_as_f32(kv->k[0], kv->dtype, row + (size_t)d);
        double w = exp((double)t->c.att.scale * z) / (all ? 1.0 : (double)t->prob[i]);
        sums[0] += w;
        sums[1] += w * (double)load_as_f32(kv->v[0], kv->dtype, row);
    }
}

static void check_unbiased(int min_hits, enum key_center center, bool after_sinks)
{
    enum { SEEDS = 10000, TABLES = 8, BITS = 2 };
    static const struct case_shape shape = {1, 40, 4, 2, 16, DTYPE_F32, .n_tail = 0};
    struct trial t;
    trial_open(&t, N_LEVELS - 1, &shape, 3);
    t.c.att.layer = 0;
    struct key_index_config config = config_of(&t, INDEX_TABLES);
    config.n_layers = 1;
    tables_open(&config, TABLES, BITS, min_hits, center);
    size_t n = (size_t)((config.head_dim + 1) * TABLES * BITS);
    float *projections = (float *)config.tables.projections;
    uint64_t random = 17;
    double dense[4][2], sum[4][2] = {{0}}, squares[4][2] = {{0}};
    for (int head = 0; head < 4; head++)
        add_up(&t, head, true, dense[head]);
    for (int seed = 0; seed < SEEDS; seed++) {
        for (size_t i = 0; i < n; i++)
            projections[i] = case_normal(&random);
        struct key_index *index = open_index(&t, &config);
        backend_cpu.index_update(t.dev, index, &t.c.att);
        backend_cpu.selection_begin(t.dev, t.sel, &t.c.att);
        if (after_sinks)
            backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(5));
        backend_cpu.select_matches(t.dev, t.sel, index, &t.c.att);
        backend_cpu.selection_end(t.dev, t.sel, &t.c.att);
        for (int head = 0; head < 4; head++) {
            double sums[2];
            add_up(&t, head, false, sums);
            for (int i = 0; i < 2; i++) {
                sum[head][i] += sums[i] / SEEDS;
                squares[head][i] += sums[i] * sums[i] / SEEDS;
            }
        }
        backend_cpu.index_close(t.dev, index);
    }
    for (int head = 0; head < 4; head++)
        for (int i = 0; i < 2; i++) {
            double variance = squares[head][i] - sum[head][i] * sum[head][i];
            double error = sqrt(variance / SEEDS);
            if (!(fabs(sum[head][i] - dense[head][i]) <= 3 * error))
                fail_msg("%d hits, center %d, head %d: the mean of %s is %.6g +- %.2g, want %.6g",
                         min_hits, (int)center, head, i ? "numerators" : "denominators",
                         sum[head][i], error, dense[head][i]);
        }
    tables_close(&config);
    trial_close(&t);
}

static void test_sums_over_one_hit_are_unbiased(void **state)
{
    (void)state;
    check_unbiased(1, CENTER_KEYS, false);
    check_unbiased(1, CENTER_BOTH, true);
}

static void test_sums_over_two_hits_are_unbiased(void **state)
{
    (void)state;
    check_unbiased(2, CENTER_KEYS, true);
    check_unbiased(2, CENTER_NONE, false);
}

/* --- What is selected already ------------------------------------------------------------------
 */

/* One bit in many tables: every key collides, with p = 1 to rounding, but those of sinks and lists
 * stay as they are. */
static void test_selected_keys_stay_as_they_are(void **state)
{
    (void)state;
    struct trial t;
    FOR_EACH_TRIAL(t)
    {
        struct key_index_config config = config_of(&t, INDEX_TABLES);
        tables_open(&config, 512, 1, 1, CENTER_KEYS);
        struct key_index *index = open_index(&t, &config);
        t.c.att.layer = LAYER;
        backend_cpu.index_update(t.dev, index, &t.c.att);
        backend_cpu.select_random(t.dev, t.sel, &t.c.att, 0.4, 0, SHARE_GROUP);
        backend_cpu.select_matches(t.dev, t.sel, index, &t.c.att);
        backend_cpu.selection_end(t.dev, t.sel, &t.c.att);
        for (int row = 0; row < t.m.n_rows; row++)
            for (int head = 0; head < t.m.n_heads; head++) {
                int n_visible = 0, n_random = 0, n;
                for (int key = 0; key < t.m.n_keys; key++)
                    n_visible += is_visible(&t.m, row, key);
                n = backend_cpu.selection_get(t.dev, t.sel, row, head, t.keys, t.prob);
                int n_drawn = (int)(0.4 * t.m.n_keys);
                n_drawn = n_drawn < n_visible ? n_drawn : n_visible;
                float p = (float)((double)n_drawn / n_visible);
                for (int i = 0; i < n; i++) {
                    assert_true(is_visible(&t.m, row, t.keys[i]));
                    n_random += t.prob[i] == p && p < 1.0f;
                    assert_true(t.prob[i] == p || t.prob[i] > 0.98f || n_drawn == 0);
                }
                if (n_drawn < n_visible)
                    assert_true(n_random >= n_drawn);
            }
        backend_cpu.index_close(t.dev, index);
        tables_close(&config);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_codes_grown_by_1000_keys_equal_those_made_at_once),
        cmocka_unit_test(test_a_rewind_before_the_first_keys_codes_anew),
        cmocka_unit_test(test_sums_over_one_hit_are_unbiased),
        cmocka_unit_test(test_sums_over_two_hits_are_unbiased),
        cmocka_unit_test(test_selected_keys_stay_as_they_are),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
