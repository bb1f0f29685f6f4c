/* The figures against their definitions, computed the slow way. */
#include "engine/attention/metrics.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static double jaccard(const char *a, const char *b)
{
    return metric_jaccard(a, strlen(a), b, strlen(b));
}

static void test_jaccard_counts_distinct_words(void **state)
{
    (void)state;
    assert_float_equal(jaccard("the cat sat", "the cat ran"), 2.0 / 4, 1e-12);
    assert_float_equal(jaccard("a a a b", "b b a"), 1, 1e-12);
    assert_float_equal(jaccard("Paris", "paris"), 0, 1e-12);
    assert_float_equal(jaccard("Paris.", "Paris"), 0, 1e-12);
    assert_float_equal(jaccard(" a\tb\n", "b\r\na\v"), 1, 1e-12);
    assert_float_equal(jaccard("a ab abc", "abc ab a"), 1, 1e-12);
}

static void test_jaccard_of_empty_answers(void **state)
{
    (void)state;
    assert_float_equal(jaccard("", ""), 1, 0);
    assert_float_equal(jaccard(" \n", ""), 1, 0);
    assert_float_equal(jaccard("", "a"), 0, 0);
    assert_float_equal(jaccard("a", ""), 0, 0);
    assert_float_equal(metric_jaccard("a\0b", 3, "a\0b", 3), 1, 0);
}

/* Membership of word w (a single letter) in text. */
static bool has_word(const char *text, char w)
{
    return strchr(text, w) != NULL;
}

static void test_jaccard_equals_brute_force(void **state)
{
    (void)state;
    unsigned random = 5;
    for (int round = 0; round < 2000; round++) {
        char text[2][64];
        for (int t = 0; t < 2; t++) {
            int n = 0;
            random = random * 1664525u + 1013904223u;
            for (unsigned k = (random >> 8) % 12; k; k--) {
                random = random * 1664525u + 1013904223u;
                text[t][n++] = (char)('a' + (random >> 8) % 9);
                for (unsigned blanks = 1 + (random >> 20) % 3; blanks; blanks--)
                    text[t][n++] = ' ';
            }
            text[t][n] = '\0';
        }
        int both = 0, either = 0;
        for (char w = 'a'; w < 'a' + 9; w++) {
            both += has_word(text[0], w) && has_word(text[1], w);
            either += has_word(text[0], w) || has_word(text[1], w);
        }
        double want = either ? (double)both / either : 1, got = jaccard(text[0], text[1]);
        if (got != want)
            fail_msg("\"%s\" and \"%s\": got %g, want %g", text[0], text[1], got, want);
    }
}

static void test_densities_are_shares_and_dense_when_nothing_ran(void **state)
{
    (void)state;
    struct attention_counts none = {0};
    assert_float_equal(metric_density(&none), 1, 0);
    assert_float_equal(metric_read_density(&none), 1, 0);
    struct attention_counts c = {
        .selected = 30, .visible = 120, .rows_read = 25, .rows_visible = 50};
    assert_float_equal(metric_density(&c), 0.25, 0);
    assert_float_equal(metric_read_density(&c), 0.5, 0);
}

static void test_speedup_is_dense_over_sparse(void **state)
{
    (void)state;
    assert_float_equal(metric_speedup(6, 2), 3, 0);
    assert_float_equal(metric_speedup(6, 0), 0, 0);
}

static void test_every_figure_has_its_definition(void **state)
{
    (void)state;
    static const char *const names[] = {
        "density",         "read density", "sparsity",  "attention speed-up", "step speed-up",
        "answer speed-up", "Jaccard",      "agreement", "divergence",         "mass recall",
        "output error",    "TTFT",         "ITL"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const struct metric *m = metric_find(names[i]);
        if (!m)
            fail_msg("%s is missing", names[i]);
        assert_true(strlen(m->definition) > 10 || strcmp(names[i], "sparsity") == 0);
        assert_non_null(m->unit);
    }
    assert_null(metric_find("beauty"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_jaccard_counts_distinct_words),
        cmocka_unit_test(test_jaccard_of_empty_answers),
        cmocka_unit_test(test_jaccard_equals_brute_force),
        cmocka_unit_test(test_densities_are_shares_and_dense_when_nothing_ran),
        cmocka_unit_test(test_speedup_is_dense_over_sparse),
        cmocka_unit_test(test_every_figure_has_its_definition),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
