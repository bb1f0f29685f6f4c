/* Adaptive sampling: which keys, with what weights, on every instruction set. */
#include "kernels/adaptive_budget.h"
#include "kernels/cpu/cpu.h"
#include "kernels/normal_quantile.h"
#include "kernels/permutation.h"
#include "tests/adaptive_trial.h"

/* --- The definition --------------------------------------------------------------------------- */

/* One choice: R, its first n_base images, and what the heads ask for, give or take rounding. */
struct expected {
    int *keys; /* [n_left], drawn ones first */
    int n_left, n_base;
    int least, most; /* keys beside the base */
};

static double sample_of(const struct trial *t, const struct adaptive_sampling *s,
                        const struct expected *e, int row, int head)
{
    double max = -INFINITY, held = 0.0, sum = 0.0, squares = 0.0;
    for (int pass = 0; pass < 2; pass++) {
        for (int key = 0; key < t->m.n_keys; key++) {
            float p = t->m.p[at(&t->m, row, head, key)];
            if (p == 0.0f)
                continue;
            double z = exact_score(t, row, head, key);
            held += pass ? exp(z - max) / (double)p : 0.0;
            max = fmax(max, z);
        }
        for (int i = 0; i < e->n_base; i++) {
            bool has = t->m.p[at(&t->m, row, head, e->keys[i])] > 0.0f;
            double z = exact_score(t, row, head, e->keys[i]);
            double u = has || !pass ? 0.0 : exp(z - max);
            sum += u;
            squares += u * u;
            max = fmax(max, z);
        }
    }
    double deviation = sqrt(fmax(0.0, squares - sum * sum / e->n_base) / (e->n_base - 1));
    double denominator = held + e->n_left * sum / e->n_base;
    double errors = normal_quantile(s->one_sided ? s->delta : s->delta / 2) * deviation *
                    (e->n_left - e->n_base) / (s->epsilon * denominator);
    return errors * errors;
}

static struct expected expect_choice(const struct trial *t, const struct adaptive_sampling *s,
                                     int row, int which, int first, int n)
{
    const struct model *m = &t->m;
    struct expected e = {.keys = calloc((size_t)m->n_keys, sizeof *e.keys)};
    int *left = calloc((size_t)m->n_keys, sizeof *left);
    int begin = resolve(s->init_offset, m->n_keys);
    int end = m->n_keys - resolve(s->local_offset, m->n_keys);
    for (int key = begin; key < end; key++) {
        bool all = true;
        for (int head = first; head < first + n; head++)
            all = all && m->p[at(m, row, head, key)] > 0.0f;
        if (is_visible(m, row, key) && !all)
            left[e.n_left++] = key;
    }
    if (e.n_left > 0) {
        struct permutation p =
            permutation_make((uint32_t)e.n_left, t->c.step.seed, (uint32_t)t->c.att.layer,
                             (uint32_t)which, (uint32_t)position(m, row), 2);
        for (int i = 0; i < e.n_left; i++)
            e.keys[i] = left[permutation_image(&p, (uint32_t)i)];
    }
    free(left);
    double base = s->base.is_fraction ? trunc(s->base.value * e.n_left) : s->base.value;
    e.n_base = (int)fmin(fmax(base, 2), e.n_left);
    int n_rest = e.n_left - e.n_base;
    for (int head = first; head < first + n && n_rest > 0; head++) {
        double sample = sample_of(t, s, &e, row, head);
        int least = (int)fmin(fmax(ceil(sample * (1 - 1e-5)), e.n_base), n_rest);
        int most = (int)fmin(fmax(ceil(sample * (1 + 1e-5)), e.n_base), n_rest);
        e.least = least > e.least ? least : e.least;
        e.most = most > e.most ? most : e.most;
    }
    return e;
}

/* True if the head has what it had, and of R the base and n_more keys. */
static bool has_drawn(const struct trial *t, const struct expected *e, int row, int head,
                      int n_more)
{
    const struct model *m = &t->m;
    int n_rest = e->n_left - e->n_base, i = 0;
    float *want = calloc((size_t)m->n_keys, sizeof *want);
    memcpy(want, m->p + at(m, row, head, 0), (size_t)m->n_keys * sizeof *want);
    for (int j = 0; j < e->n_base + n_more; j++)
        if (want[e->keys[j]] == 0.0f)
            want[e->keys[j]] = j < e->n_base ? 1.0f : (float)((double)n_more / n_rest);
    int n = backend_cpu.selection_get(t->dev, t->sel, row, head, t->keys, t->prob);
    bool same = true;
    for (int key = 0; key < m->n_keys && same; key++) {
        bool has = i < n && t->keys[i] == key;
        same = (has ? t->prob[i] : 0.0f) == want[key];
        i += has;
    }
    free(want);
    return same && i == n;
}

/* Holds a uniform draw, already selected, against the definition; m.p is what was before.  Returns
 * the number of choices whose second sample was neither the least nor all. */
static int check_drawn(struct trial *t, const struct adaptive_sampling *s, enum share share,
                       const char *what)
{
    int n_heads = share == SHARE_GROUP ? t->m.n_heads / t->m.n_kv_heads : 1, n_between = 0;
    for (int row = 0; row < t->m.n_rows; row++)
        for (int first = 0; first < t->m.n_heads; first += n_heads) {
            struct expected e = expect_choice(t, s, row, first / n_heads, first, n_heads);
            n_between += e.least > e.n_base && e.most < e.n_left - e.n_base;
            int n_more = e.least;
            while (n_more < e.most && !has_drawn(t, &e, row, first, n_more))
                n_more++;
            for (int head = first; head < first + n_heads; head++)
                if (!has_drawn(t, &e, row, head, n_more))
                    fail_msg("%s: row %d head %d: not the base of %d and %d to %d more of %d keys",
                             what, row, head, e.n_base, e.least, e.most, e.n_left);
            free(e.keys);
        }
    return n_between;
}

static void test_uniform_draws_are_as_defined(void **state)
{
    (void)state;
    struct trial t;
    int n_between = 0;
    struct adaptive_sampling s = sampling_of(fraction(0.06), 0.12, 0.2);
    for (int variant = 0; variant < 4; variant++)
        FOR_EACH_TRIAL(t)
        {
            enum share share = variant & 1, before = variant >> 1 ? SHARE_HEAD : share;
            s.one_sided = variant == 2;
            s.init_offset = variant & 1 ? fraction(0.05) : count(3);
            s.local_offset = count(4);
            exact_scores(&t, 3);
            t.c.att.scale = 0.0625f; /* exact as well */
            backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(3));
            model_sink(&t.m, count(3));
            backend_cpu.select_local(t.dev, t.sel, &t.c.att, count(4));
            model_local(&t.m, count(4));
            backend_cpu.score_exact(t.dev, t.sel, &t.c.att);
            backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, fraction(0.03), before);
            model_top_k(&t.m, fraction(0.03), before);
            select_with(&t, &s, share);
            backend_cpu.selection_end(t.dev, t.sel, &t.c.att);
            n_between += check_drawn(&t, &s, share, "sink, local, top-k, adaptive");
        }
    print_message("%d choices between the least and all\n", n_between);
    assert_true(n_between > 300);
}

static void test_weights_of_what_is_held_count(void **state)
{
    (void)state;
    struct case_shape shape = {1, 300, 2, 1, 16, DTYPE_F32, .n_tail = 20};
    struct trial t;
    trial_open(&t, N_LEVELS - 1, &shape, 9);
    struct adaptive_sampling s = sampling_of(count(12), 0.2, 0.2);
    int32_t keys[] = {5, 90, 295};
    float prob[] = {0.125f, 1.0f, 0.5f};
    backend_cpu.selection_put(t.dev, t.sel, 0, 1, keys, prob, 3);
    for (int i = 0; i < 3; i++)
        t.m.p[at(&t.m, 0, 1, keys[i])] = prob[i];
    select_with(&t, &s, SHARE_GROUP);
    backend_cpu.selection_end(t.dev, t.sel, &t.c.att);
    assert_int_equal(check_drawn(&t, &s, SHARE_GROUP, "weighted keys, adaptive"), 1);
    trial_close(&t);
}

static void test_a_larger_error_draws_a_part_of_what_a_smaller_one_draws(void **state)
{
    (void)state;
    struct case_shape shape = {1, 2000, 2, 2, 32, DTYPE_BF16, .n_tail = 0};
    struct trial t;
    trial_open(&t, N_LEVELS - 1, &shape, 3);
    int32_t last[2000];
    int n_last = 0, n_grown = 0;
    static const double epsilon[] = {0.9, 0.2, 0.1, 0.05, 0.001};
    for (int i = 0; i < 5; i++) {
        struct adaptive_sampling s = sampling_of(fraction(0.02), epsilon[i], 0.1);
        backend_cpu.selection_begin(t.dev, t.sel, &t.c.att);
        select_with(&t, &s, SHARE_HEAD);
        int n = backend_cpu.selection_get(t.dev, t.sel, 0, 1, t.keys, t.prob), j = 0;
        for (int k = 0; k < n_last; k++) {
            while (j < n && t.keys[j] < last[k])
                j++;
            assert_true(j < n && t.keys[j] == last[k]);
        }
        n_grown += n > n_last;
        n_last = n;
        memcpy(last, t.keys, (size_t)n * sizeof *last);
    }
    assert_int_equal(n_last, 2000);
    assert_true(n_grown >= 4);
    trial_close(&t);
}

/* --- Edges ------------------------------------------------------------------------------------ */

static int n_certain(const struct trial *t, int n)
{
    int n_one = 0;
    for (int i = 0; i < n; i++)
        n_one += t->prob[i] == 1.0f;
    return n_one;
}

static void test_few_keys_are_taken_whole(void **state)
{
    (void)state;
    struct case_shape shape = {1, 40, 4, 2, 16, DTYPE_F32, .n_tail = 3};
    for (int mode = 0; mode < 3; mode++)
        for (int n_left = 0; n_left <= 4; n_left++)
            for (int level = 0; level < N_LEVELS; level++) {
                struct trial t;
                trial_open(&t, level, &shape, 4);
                struct adaptive_sampling s = sampling_of(count(n_left + 3), 0.9, 0.9);
                s.mode = (enum draw_mode)mode;
                if (n_left < 3)
                    s.base = count(1); /* of two */
                s.init_offset = count(6);
                s.local_offset = count(40 - 6 - n_left);
                backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(6));
                backend_cpu.score_exact(t.dev, t.sel, &t.c.att);
                t.c.counts.score_rows = 0;
                select_with(&t, &s, SHARE_HEAD);
                int n = backend_cpu.selection_get(t.dev, t.sel, 0, 2, t.keys, t.prob);
                assert_int_equal(n, 6 + n_left);
                assert_int_equal(n_certain(&t, n), n);
                assert_int_equal(t.c.counts.score_rows, 0);
                trial_close(&t);
            }
}

static void test_a_tiny_error_takes_every_key(void **state)
{
    (void)state;
    struct trial t;
    struct adaptive_sampling s = sampling_of(count(2), 1e-9, 1e-3);
    for (int mode = 0; mode < 3; mode++)
        FOR_EACH_TRIAL(t)
        {
            s.mode = (enum draw_mode)mode;
            backend_cpu.score_exact(t.dev, t.sel, &t.c.att);
            select_with(&t, &s, mode == 1 ? SHARE_GROUP : SHARE_HEAD);
            for (int row = 0; row < t.m.n_rows; row++)
                for (int head = 0; head < t.m.n_heads; head++)
                    for (int key = 0; key < t.m.n_keys; key++)
                        t.m.p[at(&t.m, row, head, key)] = is_visible(&t.m, row, key);
            check_selected(&t, "all by adaptive");
            check_attended(&t, "all by adaptive");
        }
}

static void test_an_empty_window_is_no_choice_at_all(void **state)
{
    (void)state;
    struct case_shape shape = {2, 60, 4, 2, 16, DTYPE_F32, .n_tail = 0};
    struct trial t;
    trial_open(&t, 0, &shape, 4);
    struct adaptive_sampling s = sampling_of(fraction(0.1), 0.1, 0.1);
    s.init_offset = count(30);
    s.local_offset = fraction(0.5);
    select_with(&t, &s, SHARE_HEAD);
    t.m.full = true; /* dense: nothing was chosen */
    check_selected(&t, "empty window");
    trial_close(&t);
}

/* --- The same everywhere ---------------------------------------------------------------------- */

static void test_every_instruction_set_draws_the_same_keys(void **state)
{
    (void)state;
    static const struct case_shape shapes[] = {
        {2, 3000, 4, 2, 64, DTYPE_BF16, .n_tail = 10},
        {1, 900, 6, 2, 20, DTYPE_F32, .n_tail = 300},
        {3, 700, 4, 1, 17, DTYPE_BF16, .n_tail = 0, .first_key = 9},
    };
    for (int mode = 0; mode < 3; mode++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            for (int head = 0; head < shapes[i].n_heads; head++) {
                int32_t first[3000];
                float prob[3000];
                int n_first = -1;
                for (int level = 0; level < N_LEVELS; level++) {
                    struct trial t;
                    trial_open(&t, level, &shapes[i], 5 + i);
                    struct adaptive_sampling s = sampling_of(fraction(0.02), 0.1, 0.1);
                    s.mode = (enum draw_mode)mode;
                    backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(4));
                    backend_cpu.score_exact(t.dev, t.sel, &t.c.att);
                    select_with(&t, &s, (enum share)(i % 2));
                    int n = backend_cpu.selection_get(t.dev, t.sel, 0, head, t.keys, t.prob);
                    if (level == 0) {
                        n_first = n;
                        memcpy(first, t.keys, (size_t)n * sizeof *first);
                        memcpy(prob, t.prob, (size_t)n * sizeof *prob);
                    }
                    assert_int_equal(n, n_first);
                    assert_memory_equal(first, t.keys, (size_t)n * sizeof *first);
                    for (int j = 0; j < n; j++) /* f32 scores and exp of other orders */
                        if (fabsf(prob[j] - t.prob[j]) > (mode ? 1e-5f * prob[j] : 0.0f))
                            fail_msg("mode %d level %d: p %.9g, want %.9g", mode, level,
                                     (double)t.prob[j], (double)prob[j]);
                    trial_close(&t);
                }
            }
}

static void test_threads_do_not_matter(void **state)
{
    (void)state;
    struct case_shape shape = {4, 800, 8, 2, 32, DTYPE_BF16, .n_tail = 5};
    struct device_options options = {.n_threads = 1, .exact = true};
    char why[256];
    struct device *one = backend_cpu.open(&options, why, sizeof why);
    assert_non_null(one);
    for (int mode = 0; mode < 3; mode++) {
        struct trial a, b;
        trial_open(&a, N_LEVELS - 1, &shape, 7);
        trial_open(&b, N_LEVELS - 1, &shape, 7);
        struct adaptive_sampling s = sampling_of(fraction(0.02), 0.1, 0.1);
        s.mode = (enum draw_mode)mode;
        b.dev = one;
        for (int i = 0; i < 2; i++) {
            struct trial *t = i ? &b : &a;
            backend_cpu.score_exact(t->dev, t->sel, &t->c.att);
            select_with(t, &s, SHARE_HEAD);
        }
        for (int row = 0; row < 4; row++)
            for (int head = 0; head < 8; head++) {
                int n = backend_cpu.selection_get(a.dev, a.sel, row, head, a.keys, a.prob);
                assert_int_equal(
                    n, backend_cpu.selection_get(b.dev, b.sel, row, head, b.keys, b.prob));
                assert_memory_equal(a.keys, b.keys, (size_t)n * sizeof *a.keys);
                assert_memory_equal(a.prob, b.prob, (size_t)n * sizeof *a.prob);
            }
        assert_int_equal(a.c.counts.score_rows, b.c.counts.score_rows);
        trial_close(&a);
        trial_close(&b);
    }
    backend_cpu.close(one);
}

static void test_ordered_scores_have_the_same_bits_everywhere(void **state)
{
    (void)state;
    static const int dims[] = {1, 7, 8, 9, 16, 17, 23, 24, 25, 64, 80, 100, 128, 256};
    uint64_t random = 11;
    for (int dtype = 0; dtype < 2; dtype++)
        for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
            for (int n = 1; n <= 70; n += n < 20 ? 1 : 17) {
                enum dtype type = dtype ? DTYPE_BF16 : DTYPE_F32;
                size_t n_rows = 3 * (size_t)n, dim = (size_t)dims[i];
                float *q = case_rows(dim, DTYPE_F32, &random), *s[2];
                void *k = case_rows(n_rows * dim, type, &random);
                uint32_t *index = calloc((size_t)n, sizeof *index);
                for (int j = 0; j < n; j++)
                    index[j] = 100 + 3 * (uint32_t)j + case_random(&random) % 3;
                struct row_list rows = {k, n % 2 ? index : NULL, 100, type, dims[i], n};
                for (int level = 0; level < N_LEVELS; level++) {
                    int which = level > 0;
                    s[which] = calloc((size_t)n, sizeof **s);
                    attention_kernels(devices[level]->isa)
                        ->ordered_scores(s[which], q, 0.3f, &rows);
                    if (level > 0) {
                        assert_memory_equal(s[0], s[1], (size_t)n * sizeof **s);
                        free(s[1]);
                    }
                }
                double want = 0.0;
                size_t last = n % 2 ? index[n - 1] - 100 : (size_t)n - 1;
                for (size_t d = 0; d < dim; d++)
                    want += 0.3 * (double)q[d] * (double)load_as_f32(k, type, last * dim + d);
                assert_true(fabs((double)s[0][n - 1] - want) < 2e-5);
                free(s[0]);
                free(index);
                free(k);
                free(q);
            }
}

/* --- What it costs ---------------------------------------------------------------------------- */

static void test_rows_read_for_the_estimate_are_counted(void **state)
{
    (void)state;
    struct case_shape shape = {1, 500, 8, 2, 16, DTYPE_F32, .n_tail = 0};
    for (int share = 0; share < 2; share++) {
        struct trial t;
        trial_open(&t, N_LEVELS - 1, &shape, 6);
        struct adaptive_sampling s = sampling_of(count(30), 0.5, 0.5);
        backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(10));
        backend_cpu.score_exact(t.dev, t.sel, &t.c.att);
        backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, count(20), share);
        t.c.counts.score_rows = 0;
        select_with(&t, &s, share);
        assert_int_equal(t.c.counts.score_rows, (10 + 20 + 30) * (share ? 2 : 8));
        trial_close(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uniform_draws_are_as_defined),
        cmocka_unit_test(test_weights_of_what_is_held_count),
        cmocka_unit_test(test_a_larger_error_draws_a_part_of_what_a_smaller_one_draws),
        cmocka_unit_test(test_few_keys_are_taken_whole),
        cmocka_unit_test(test_a_tiny_error_takes_every_key),
        cmocka_unit_test(test_an_empty_window_is_no_choice_at_all),
        cmocka_unit_test(test_every_instruction_set_draws_the_same_keys),
        cmocka_unit_test(test_threads_do_not_matter),
        cmocka_unit_test(test_ordered_scores_have_the_same_bits_everywhere),
        cmocka_unit_test(test_rows_read_for_the_estimate_are_counted),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
