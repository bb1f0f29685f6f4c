/* Top-p within a limit, of keys and of pages: the operations against a plain sort. */
#include "kernels/cpu/selection.h"
#include "tests/selection_trial.h"

static const double shares_of_mass[] = {1e-9, 0.3, 0.85, 0.999};
enum { N_MASSES = sizeof shares_of_mass / sizeof *shares_of_mass };

/* Scores of the operation's buffer and the model's: entries [n_entries] of each row and head.  With
 * ties they are few whole numbers, else all differ by so much that the rounding of a mass, or of a
 * group's mean of them, does not change their order. */
static void put_scores(struct trial *t, int n_entries, bool ties)
{
    uint64_t random = 5 + (uint64_t)n_entries;
    for (int row = 0; row < t->m.n_rows; row++)
        for (int head = 0; head < t->m.n_heads; head++)
            for (int i = 0; i < n_entries; i++) {
                float x = ties ? (float)((int)(case_random(&random) % 9) - 4)
                               : 2.0f * case_normal(&random);
                selection_scores(t->sel, row, head)[i] = t->m.score[at(&t->m, row, head, i)] = x;
            }
}

/* --- Keys ------------------------------------------------------------------------------------- */

static void test_top_p_takes_no_more_than_its_limit(void **state)
{
    (void)state;
    const struct budget limits[] = {count(1),      count(2),      count(17),
                                    fraction(0.1), fraction(0.9), count(1 << 29)};
    struct trial t;
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
        for (int mass = 0; mass < N_MASSES; mass++)
            for (int variant = 0; variant < 4; variant++)
                FOR_EACH_TRIAL(t)
                {
                    enum share share = variant & 1;
                    bool of_total = variant >> 1;
                    put_scores(&t, t.m.n_keys, share == SHARE_HEAD);
                    backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(3));
                    model_sink(&t.m, count(3));
                    backend_cpu.select_top_p(t.dev, t.sel, &t.c.att, shares_of_mass[mass], of_total,
                                             limits[i], 1.0f, share);
                    model_top_p(&t.m, shares_of_mass[mass], of_total, limits[i], 1.0, share);
                    check_selected(&t, share ? "top-p of the group, limited" : "top-p, limited");
                }
}

static void test_top_p_skips_keys_on_lists(void **state)
{
    (void)state;
    struct trial t;
    for (int n = 1; n <= 50; n += 49)
        FOR_EACH_TRIAL(t)
        {
            put_scores(&t, t.m.n_keys, true);
            backend_cpu.select_local(t.dev, t.sel, &t.c.att, count(2));
            backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, count(5), SHARE_HEAD);
            backend_cpu.select_top_p(t.dev, t.sel, &t.c.att, 0.7, false, count(n), 1.0f,
                                     SHARE_HEAD);
            model_local(&t.m, count(2));
            model_top_k(&t.m, count(5), SHARE_HEAD);
            model_top_p(&t.m, 0.7, false, count(n), 1.0, SHARE_HEAD);
            check_selected(&t, "local, top-k, top-p");
        }
}

static void test_scores_times_the_scale_are_logits(void **state)
{
    (void)state;
    static const float scales[] = {0.125f, 1.7f};
    struct trial t;
    for (int i = 0; i < 2; i++)
        for (int variant = 0; variant < 4; variant++)
            FOR_EACH_TRIAL(t)
            {
                enum share share = variant & 1;
                bool of_total = variant >> 1;
                put_scores(&t, t.m.n_keys, share == SHARE_HEAD);
                backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(3));
                model_sink(&t.m, count(3));
                backend_cpu.select_top_p(t.dev, t.sel, &t.c.att, 0.6, of_total, fraction(0.4),
                                         scales[i], share);
                model_top_p(&t.m, 0.6, of_total, fraction(0.4), (double)scales[i], share);
                check_selected(&t, "top-p of scaled scores");
            }
}

static void test_the_limit_decides_what_is_full_and_what_is_nothing(void **state)
{
    (void)state;
    struct trial t;
    FOR_EACH_TRIAL(t)
    {
        put_scores(&t, t.m.n_keys, true);
        backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(1));
        model_sink(&t.m, count(1));
        backend_cpu.select_top_p(t.dev, t.sel, &t.c.att, 0.9, false, fraction(1e-6), 1.0f,
                                 SHARE_HEAD);
        backend_cpu.select_top_p(t.dev, t.sel, &t.c.att, 1.0, false, count(4), 1.0f, SHARE_HEAD);
        model_top_k(&t.m, count(4), SHARE_HEAD);
        check_selected(&t, "no key, then all mass of four keys");
        backend_cpu.select_top_p(t.dev, t.sel, &t.c.att, 1.0, false, count(0), 1.0f, SHARE_HEAD);
        t.m.full = true;
        check_selected(&t, "all mass without a limit");
    }
}

/* --- Pages ------------------------------------------------------------------------------------ */

/* The definition: one choice's pages, sorted by the mean of the heads' masses. */
static void model_choice_of_pages(struct model *m, int row, int head, int n, int n_most,
                                  int page_size, double top_p)
{
    struct scored *list = calloc((size_t)m->n_keys, sizeof *list);
    int n_list = 0;
    for (int page = 0; page * page_size < m->n_keys; page++) {
        bool seen = false;
        for (int key = page * page_size; key < (page + 1) * page_size && key < m->n_keys; key++)
            seen = seen || is_visible(m, row, key);
        if (seen)
            list[n_list++] = (struct scored){page, 0.0};
    }
    for (int h = head; h < head + n; h++) {
        double total = 0.0;
        for (int i = 0; i < n_list; i++)
            total += page_size * exp((double)m->score[at(m, row, h, list[i].key)]);
        for (int i = 0; i < n_list; i++)
            list[i].score +=
                page_size * exp((double)m->score[at(m, row, h, list[i].key)]) / total / n;
    }
    qsort(list, (size_t)n_list, sizeof *list, by_score);
    double sum = 0.0;
    for (int i = 0; i < n_list && i < n_most; i++) {
        if (sum > top_p && list[i].score != list[i - 1].score)
            break;
        sum += list[i].score;
        for (int key = list[i].key * page_size; key < (list[i].key + 1) * page_size; key++)
            for (int h = head; h < head + n && key < m->n_keys; h++)
                if (is_visible(m, row, key))
                    m->p[at(m, row, h, key)] = 1.0f;
    }
    free(list);
}

static void model_pages(struct model *m, struct budget size, int page_size, double top_p,
                        enum share share)
{
    int e = resolve(size, m->n_keys), n = share == SHARE_GROUP ? m->n_heads / m->n_kv_heads : 1;
    int n_most = e / page_size > 3 ? e / page_size : 3;
    for (int row = 0; row < m->n_rows && e > 0; row++)
        for (int head = 0; head < m->n_heads; head += n)
            model_choice_of_pages(m, row, head, n, n_most, page_size, top_p);
}

static void test_top_p_takes_the_fewest_pages_that_exceed_the_share(void **state)
{
    (void)state;
    static const int page_sizes[] = {1, 7, 16, 64};
    const struct budget limits[] = {count(1), fraction(0.2), count(1 << 29), fraction(1e-6)};
    struct trial t;
    for (int size = 0; size < 4; size++)
        for (int limit = 0; limit < 4; limit++)
            for (int mass = 0; mass < N_MASSES; mass++)
                for (int share = 0; share < 2; share++)
                    FOR_EACH_TRIAL(t)
                    {
                        int n_pages = (t.m.n_keys + page_sizes[size] - 1) / page_sizes[size];
                        put_scores(&t, n_pages, share == SHARE_HEAD);
                        backend_cpu.select_local(t.dev, t.sel, &t.c.att, count(5));
                        model_local(&t.m, count(5));
                        backend_cpu.select_pages(t.dev, t.sel, &t.c.att, limits[limit],
                                                 page_sizes[size], shares_of_mass[mass], share);
                        model_pages(&t.m, limits[limit], page_sizes[size], shares_of_mass[mass],
                                    share);
                        check_selected(&t, share ? "top-p pages of the group" : "top-p pages");
                    }
}

/* --- Threads ---------------------------------------------------------------------------------- */

static int choices(struct trial *t, bool pages, enum share share, int32_t *keys)
{
    int n = 0;
    backend_cpu.selection_begin(t->dev, t->sel, &t->c.att);
    if (pages)
        backend_cpu.select_pages(t->dev, t->sel, &t->c.att, fraction(0.5), 8, 0.7, share);
    else
        backend_cpu.select_top_p(t->dev, t->sel, &t->c.att, 0.7, false, fraction(0.3), 0.5f, share);
    backend_cpu.selection_end(t->dev, t->sel, &t->c.att);
    for (int row = 0; row < t->m.n_rows; row++)
        for (int head = 0; head < t->m.n_heads; head++)
            n += backend_cpu.selection_get(t->dev, t->sel, row, head, keys + n, t->prob);
    return n;
}

static void test_the_number_of_threads_does_not_matter(void **state)
{
    (void)state;
    struct trial t;
    for (int variant = 0; variant < 4; variant++)
        FOR_EACH_TRIAL(t)
        {
            struct device_options options = {.n_threads = 1, .exact = true, .isa = isas[level]};
            struct device *many = t.dev, *single = backend_cpu.open(&options, NULL, 0);
            assert_non_null(single);
            size_t n = at(&t.m, t.m.n_rows, 0, 0);
            int32_t *a = calloc(n, sizeof *a), *b = calloc(n, sizeof *b);
            put_scores(&t, t.m.n_keys, false);
            int n_a = choices(&t, variant & 1, variant >> 1, a);
            t.dev = single;
            int n_b = choices(&t, variant & 1, variant >> 1, b);
            assert_int_equal(n_a, n_b);
            assert_memory_equal(a, b, (size_t)n_a * sizeof *a);
            t.dev = many;
            backend_cpu.close(single);
            free(a);
            free(b);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_top_p_takes_no_more_than_its_limit),
        cmocka_unit_test(test_top_p_skips_keys_on_lists),
        cmocka_unit_test(test_scores_times_the_scale_are_logits),
        cmocka_unit_test(test_the_limit_decides_what_is_full_and_what_is_nothing),
        cmocka_unit_test(test_top_p_takes_the_fewest_pages_that_exceed_the_share),
        cmocka_unit_test(test_the_number_of_threads_does_not_matter),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
