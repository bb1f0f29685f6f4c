/* Adaptive sampling on the cuda device: the same keys with the same probabilities as on the cpu. */
#include "tests/selection_pair.h"

static const struct case_shape shapes[] = {
    {1, 300, 4, 2, 64, DTYPE_BF16, .n_tail = 3},
    {1, 5000, 8, 2, 128, DTYPE_BF16, .n_tail = 40},
    {3, 97, 6, 2, 80, DTYPE_F32, .n_tail = 10},
    {5, 130, 3, 3, 20, DTYPE_F32, .n_tail = 0, .window = 100},
    {1, 2100, 12, 1, 96, DTYPE_BF16, .n_tail = 9, .first_key = 5},
    {2, 33, 2, 1, 16, DTYPE_F32, .n_tail = 0},
};

enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static const struct adaptive_sampling usual = {.base = {true, 0.05},
                                               .init_offset = {false, 4},
                                               .local_offset = {false, 6},
                                               .epsilon = 0.1,
                                               .delta = 0.1};

static void sinks_and_windows(struct selection_pair *p)
{
    BOTH(p, select_sink, count(4));
    BOTH(p, select_local, count(6));
}

static void test_the_same_keys_are_drawn(void **state)
{
    (void)state;
    static const double epsilons[] = {0.02, 0.1, 0.5};
    struct selection_pair p;
    for (size_t i = 0; i < sizeof epsilons / sizeof *epsilons; i++)
        for (int share = 0; share < 2; share++)
            FOR_EACH_SHAPE(p, 0)
            {
                struct adaptive_sampling sampling = usual;
                sampling.epsilon = epsilons[i];
                sampling.one_sided = shape % 2;
                sinks_and_windows(&p);
                BOTH(&p, select_adaptive, &sampling, 3, share);
                check_equal(&p, "sink, local, adaptive");
                assert_int_equal(cuda_case_counts(&p.cuda).score_rows, p.c.counts.score_rows);
            }
}

static void test_lists_before_it_count(void **state)
{
    (void)state;
    struct selection_pair p;
    for (int variant = 0; variant < 4; variant++)
        FOR_EACH_SHAPE(p, 4)
        {
            sinks_and_windows(&p);
            BOTH(&p, score_exact);
            BOTH(&p, select_top_k, fraction(0.05), variant & 1);
            BOTH(&p, select_adaptive, &usual, 3, variant >> 1);
            check_equal(&p, "top-k, adaptive");
        }
}

static void test_explicit_probabilities_count(void **state)
{
    (void)state;
    struct selection_pair p;
    FOR_EACH_SHAPE(p, 0)
    {
        for (int row = 0; row < p.att[0].n_rows; row++)
            for (int head = 0; head < p.att[0].n_heads; head++) {
                int32_t keys[3] = {7, 9 + head % 3, 14};
                float prob[3] = {0.25f, 1.0f, 0.5f / (float)(1 + head)};
                for (int side = 0; side < N_PAIR; side++)
                    pair.backend[side]->selection_put(pair.dev[side], p.sel[side], row, head, keys,
                                                      prob, 3);
            }
        BOTH(&p, select_adaptive, &usual, 3, SHARE_HEAD);
        check_equal(&p, "put, adaptive");
    }
}

/* Windows without a key, samples of all keys, and of more than there are. */
static void test_edges_are_the_same(void **state)
{
    (void)state;
    struct selection_pair p;
    const struct budget bases[] = {count(1), count(100000), fraction(1.0)};
    const struct budget offsets[] = {count(0), fraction(0.6), count(100000)};
    for (int i = 0; i < 9; i++)
        FOR_EACH_SHAPE(p, 0)
        {
            struct adaptive_sampling sampling = usual;
            sampling.base = bases[i % 3];
            sampling.init_offset = sampling.local_offset = offsets[i / 3];
            BOTH(&p, select_adaptive, &sampling, 1, i & 1);
            check_equal(&p, "adaptive alone");
            BOTH(&p, selection_begin);
            BOTH(&p, select_sink, count(2));
            BOTH(&p, select_adaptive, &sampling, 1, i & 1);
            check_equal(&p, "sink, adaptive");
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        pair_test(test_the_same_keys_are_drawn),
        pair_test(test_lists_before_it_count),
        pair_test(test_explicit_probabilities_count),
        pair_test(test_edges_are_the_same),
    };
    if (!pair_open(true))
        return PAIR_SKIPPED;
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    pair_close();
    return n_failed;
}
