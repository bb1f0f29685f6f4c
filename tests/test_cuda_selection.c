/* Selections on the cuda device: the same keys with the same probabilities as on the cpu.
 *
 * Where queries and keys are small integers every score is exact, whatever the order of its sum,
 * and lists must be equal key by key, ties included.  On random values a list may differ in keys
 * whose scores are as good as the threshold. */
#include "tests/selection_pair.h"

/* Sizes around words, tiles and slices; groups of 1, 3, 4, 7, 8 and 12; both segments, padding and
 * windows. */
static const struct case_shape shapes[] = {
    {1, 1, 2, 1, 16, DTYPE_F32, .n_tail = 0},
    {1, 15, 4, 4, 64, DTYPE_BF16, .n_tail = 3},
    {2, 17, 6, 2, 16, DTYPE_F32, .n_tail = 0},
    {1, 63, 7, 1, 80, DTYPE_BF16, .n_tail = 10},
    {3, 65, 8, 1, 24, DTYPE_F32, .n_tail = 1, .first_key = 30},
    {3, 40, 4, 2, 16, DTYPE_F32, .n_tail = 0, .first_key = 38},
    {5, 257, 8, 2, 64, DTYPE_BF16, .n_tail = 100, .window = 90, .first_key = 4},
    {2, 1000, 3, 1, 128, DTYPE_BF16, .n_tail = 0, .window = 700},
    {1, 1000, 24, 2, 8, DTYPE_F32, .n_tail = 64},
    {1, 4097, 8, 2, 96, DTYPE_BF16, .n_tail = 33, .first_key = 2},
    {4, 3000, 4, 2, 32, DTYPE_F32, .n_tail = 0},
    {1, 33001, 4, 2, 16, DTYPE_F32, .n_tail = 7},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

/* --- Ranges ----------------------------------------------------------------------------------- */

static void test_ranges_are_the_same(void **state)
{
    (void)state;
    struct selection_pair p;
    FOR_EACH_SHAPE(p, 0)
    {
        BOTH(&p, select_sink, count(6));
        BOTH(&p, select_local, fraction(0.1));
        check_equal(&p, "sink, local");
        BOTH(&p, selection_begin);
        BOTH(&p, select_local, count(50));
        BOTH(&p, select_sink, count(45));
        BOTH(&p, select_local, count(3));
        check_equal(&p, "local, sink, local");
        BOTH(&p, selection_begin);
        BOTH(&p, select_sink, count(2));
        check_equal(&p, "sink");
    }
}

static void test_full_and_empty_stacks_are_dense(void **state)
{
    (void)state;
    struct selection_pair p;
    FOR_EACH_SHAPE(p, 1)
    {
        BOTH(&p, select_sink, fraction(1.0));
        BOTH(&p, score_exact);
        BOTH(&p, select_random, 0.5, 0, SHARE_HEAD);
        BOTH(&p, select_top_k, count(2), SHARE_HEAD);
        check_equal(&p, "full");
        assert_int_equal(cuda_case_counts(&p.cuda).score_rows, 0);
        BOTH(&p, selection_begin);
        check_equal(&p, "empty");
        BOTH(&p, selection_begin);
        BOTH(&p, select_sink, fraction(1e-6));
        BOTH(&p, select_local, count(0));
        BOTH(&p, select_top_k, fraction(1e-6), SHARE_GROUP);
        BOTH(&p, select_random, 1e-6, 0, SHARE_HEAD);
        check_equal(&p, "no-ops");
        BOTH(&p, selection_begin);
        BOTH(&p, score_exact);
        BOTH(&p, select_top_p, 1.0, false, count(0), 1.0f, SHARE_HEAD);
        check_equal(&p, "top-p of all");
    }
}

static void test_early_exits_have_the_same_bounds(void **state)
{
    (void)state;
    struct case_shape shape = {3, 40, 2, 1, 16, DTYPE_F32, .n_tail = 5};
    struct selection_pair p;
    pair_start_case(&p, &shape, 3, 2);
    for (int size = 34; size <= 42; size++) {
        BOTH(&p, select_sink, count(size));
        check_equal(&p, "sink");
        BOTH(&p, selection_begin);
        BOTH(&p, select_local, count(size));
        check_equal(&p, "local");
        BOTH(&p, selection_begin);
        BOTH(&p, score_exact);
        BOTH(&p, select_top_k, count(size), SHARE_HEAD);
        check_equal(&p, "top-k");
        BOTH(&p, selection_begin);
    }
    pair_finish(&p);
}

/* --- By score ----------------------------------------------------------------------------------
 */

static void test_top_k_takes_the_same_keys_and_ties(void **state)
{
    (void)state;
    struct selection_pair p;
    for (int spread = 1; spread <= 100; spread *= 100)
        for (int share = 0; share < 2; share++)
            FOR_EACH_SHAPE(p, spread)
            {
                BOTH(&p, score_exact);
                BOTH(&p, select_top_k, fraction(0.15), share);
                check_equal(&p, "top-k of a share");
                BOTH(&p, selection_begin);
                BOTH(&p, score_exact);
                BOTH(&p, select_top_k, count(1), share);
                check_equal(&p, "top-1");
                BOTH(&p, selection_begin);
                BOTH(&p, score_exact);
                BOTH(&p, select_top_k, fraction(0.9), share);
                check_equal(&p, "top-k of most");
            }
}

static void test_top_k_skips_keys_already_selected(void **state)
{
    (void)state;
    struct selection_pair p;
    for (int share = 0; share < 2; share++)
        FOR_EACH_SHAPE(p, 2)
        {
            BOTH(&p, select_sink, count(9));
            BOTH(&p, select_local, count(11));
            BOTH(&p, score_exact);
            BOTH(&p, select_top_k, count(5), SHARE_GROUP);
            BOTH(&p, select_top_k, fraction(0.07), share);
            BOTH(&p, select_top_k, count(4), SHARE_GROUP);
            check_equal(&p, "sink, local, top-k three times");
        }
}

static void test_top_k_takes_what_is_left_when_the_budget_is_larger(void **state)
{
    (void)state;
    struct selection_pair p;
    FOR_EACH_SHAPE(p, 3)
    {
        struct budget most = count(p.c.att.max_keys - 1);
        BOTH(&p, score_exact);
        BOTH(&p, select_top_k, most, SHARE_HEAD);
        BOTH(&p, select_top_k, most, SHARE_HEAD);
        check_equal(&p, "top-k of all, twice");
    }
}

static void test_a_range_swallows_list_keys(void **state)
{
    (void)state;
    struct selection_pair p;
    FOR_EACH_SHAPE(p, 2)
    {
        BOTH(&p, score_exact);
        BOTH(&p, select_random, 0.3, 1, SHARE_HEAD);
        BOTH(&p, select_local, count(20));
        BOTH(&p, select_top_k, count(5), SHARE_HEAD);
        check_equal(&p, "random, local, top-k");
    }
}

static void test_top_p_takes_the_same_keys(void **state)
{
    (void)state;
    static const double shares_of_mass[] = {0.0, 0.3, 0.85, 0.999};
    struct selection_pair p;
    for (size_t i = 0; i < sizeof shares_of_mass / sizeof *shares_of_mass; i++)
        for (int variant = 0; variant < 4; variant++)
            for (int shape = 0; shape < N_SHAPES; shape++) {
                enum share share = variant & 1;
                bool of_total = variant >> 1;
                /* Per head ties are exact.  A group's masses are sums, whose rounding may break a
                 * tie: let there be none. */
                case_open(&p.c, &shapes[shape], (uint64_t)shape + 1);
                make_exact(&p.c, share ? 100 : 4);
                p.c.att.scale *= share ? 1.0f / 64 : 1.0f;
                pair_start(&p);
                BOTH(&p, score_exact);
                BOTH(&p, select_sink, count(3));
                BOTH(&p, select_top_p, shares_of_mass[i], of_total, count(0), 1.0f, share);
                check_equal(&p, share ? "top-p of the group" : "top-p");
                pair_finish(&p);
            }
}

static void test_limited_top_p_takes_the_same_keys(void **state)
{
    (void)state;
    static const double shares_of_mass[] = {0.0, 0.4, 0.97, 1.0};
    const struct budget limits[] = {count(1), count(9), fraction(0.3), count(100000)};
    struct selection_pair p;
    for (int i = 0; i < 4; i++)
        for (int variant = 0; variant < 4; variant++)
            for (int shape = 0; shape < N_SHAPES; shape++) {
                enum share share = variant & 1;
                case_open(&p.c, &shapes[shape], (uint64_t)(shape + 7 * i) + 1);
                make_exact(&p.c, share ? 100 : 4);
                p.c.att.scale *= share ? 1.0f / 64 : 1.0f;
                pair_start(&p);
                BOTH(&p, score_exact);
                BOTH(&p, select_sink, count(3));
                BOTH(&p, select_top_p, shares_of_mass[(i + shape) % 4], variant >> 1, limits[i],
                     variant & 2 ? 0.5f : 1.0f, share);
                check_equal(&p, share ? "limited top-p of the group" : "limited top-p");
                pair_finish(&p);
            }
}

static void test_top_p_counts_what_lists_hold(void **state)
{
    (void)state;
    struct selection_pair p;
    for (int of_total = 0; of_total < 2; of_total++)
        FOR_EACH_SHAPE(p, 4)
        {
            BOTH(&p, select_local, count(2));
            BOTH(&p, score_exact);
            BOTH(&p, select_top_k, count(3), SHARE_GROUP);
            BOTH(&p, select_top_p, 0.6, of_total, count(0), 1.0f, SHARE_HEAD);
            check_equal(&p, "local, top-k, top-p");
        }
}

/* --- Random values ---------------------------------------------------------------------------- */

/* scores [n_keys] of one row and head. */
static void host_scores(const struct selection_pair *p, int row, int head, double *scores)
{
    const struct attention *att = &p->c.att;
    int n_context = p->c.step.n_context + (p->c.step.append_tail ? 0 : att->n_rows);
    size_t dim = (size_t)att->kv.head_dim,
           kv_head = (size_t)(head / (att->n_heads / att->kv.n_kv_heads));
    const float *q = att->q + (size_t)row * (size_t)att->q_stride + (size_t)head * dim;
    for (int key = 0; key < att->max_keys; key++) {
        int s = key < n_context ? KV_CONTEXT : KV_TAIL;
        size_t at =
            kv_head * (size_t)att->kv.capacity[s] + (size_t)(key - (s == KV_TAIL ? n_context : 0));
        scores[key] = 0;
        for (size_t d = 0; d < dim; d++)
            scores[key] +=
                (double)q[d] * (double)load_as_f32(att->kv.k[s], att->kv.dtype, at * dim + d);
        scores[key] *= (double)att->scale;
    }
}

/* The tolerance of f32 is that of sums in another order.  With keys in bf16 a query is good to
 * 2^-17 of each element: at most 2^-17 sum |q k| scale, about 5e-5 at head_dim 128. */
static void check_scores(const struct case_shape *shape)
{
    struct selection_pair p;
    const int sizes[] = {1, shape->n_keys / 7, shape->n_keys / 2};
    pair_start_case(&p, shape, 7, 0);
    double *scores = calloc((size_t)shape->n_keys, sizeof *scores);
    for (int i = 0; i < 3; i++) {
        BOTH(&p, score_exact);
        BOTH(&p, select_top_k, count(sizes[i]), SHARE_HEAD);
        BOTH(&p, selection_end);
        pair_sync();
        for (int row = 0; row < shape->n_rows; row++)
            for (int head = 0; head < shape->n_heads; head++) {
                host_scores(&p, row, head, scores);
                check_near(&p, row, head, scores, shape->dtype == DTYPE_F32 ? 1e-5 : 1.5e-4);
            }
        assert_int_equal(cuda_case_counts(&p.cuda).score_rows, p.c.counts.score_rows);
        BOTH(&p, selection_begin);
    }
    free(scores);
    pair_finish(&p);
}

static void test_scores_of_every_head_dim_and_group(void **state)
{
    (void)state;
    static const int dims[] = {64, 80, 96, 128, 256, 16, 40, 120, 248};
    static const int groups[] = {1, 3, 4, 7, 8, 12};
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
        for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
            for (int dtype = 0; dtype < 2; dtype++) {
                struct case_shape shape = {
                    1,       200 + 7 * (int)d + (int)g,      2 * groups[g],       2,
                    dims[d], dtype ? DTYPE_BF16 : DTYPE_F32, .n_tail = 9 * (int)g};
                check_scores(&shape);
            }
}

static void test_scores_of_many_rows_and_windows(void **state)
{
    (void)state;
    static const struct case_shape many[] = {
        {2, 90, 8, 2, 64, DTYPE_BF16, .n_tail = 11},
        {7, 333, 8, 2, 128, DTYPE_BF16, .n_tail = 0, .window = 64},
        {13, 333, 6, 2, 80, DTYPE_BF16, .n_tail = 20, .first_key = 5},
        {5, 90, 16, 1, 256, DTYPE_BF16, .n_tail = 3},
        {9, 130, 7, 1, 128, DTYPE_F32, .n_tail = 3, .window = 50},
    };
    for (size_t i = 0; i < sizeof many / sizeof *many; i++)
        check_scores(&many[i]);
}

/* --- At random -------------------------------------------------------------------------------- */

static void test_random_draws_the_same_keys(void **state)
{
    (void)state;
    static const double rates[] = {0.05, 0.4, 1.0};
    struct selection_pair p;
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++)
        for (int share = 0; share < 2; share++)
            FOR_EACH_SHAPE(p, 1)
            {
                BOTH(&p, select_random, rates[i], 0, share);
                check_equal(&p, "random");
                BOTH(&p, selection_begin);
                BOTH(&p, select_sink, count(5));
                BOTH(&p, select_local, fraction(0.1));
                BOTH(&p, select_random, rates[i], 3, share);
                check_equal(&p, "sink, local, random");
            }
}

static void test_random_draws_from_what_lists_leave(void **state)
{
    (void)state;
    struct selection_pair p;
    for (int before = 0; before < 2; before++)
        for (int share = 0; share < 2; share++)
            FOR_EACH_SHAPE(p, 3)
            {
                BOTH(&p, select_sink, count(2));
                BOTH(&p, score_exact);
                BOTH(&p, select_top_k, fraction(0.3), before);
                BOTH(&p, select_random, 0.2, 1, share);
                BOTH(&p, select_top_k, fraction(0.1), SHARE_HEAD);
                check_equal(&p, "sink, top-k, random, top-k");
            }
}

static void test_draws_follow_their_coordinates(void **state)
{
    (void)state;
    struct selection_pair p;
    FOR_EACH_SHAPE(p, 1)
    {
        for (int change = 0; change < 4; change++) {
            for (int side = 0; side < N_PAIR; side++)
                p.att[side].layer = change;
            p.c.step.seed = 1234567890123ull * (uint64_t)change;
            pair.backend[PAIR_CUDA]->upload(pair.dev[PAIR_CUDA], (void *)p.cuda.att.step, &p.c.step,
                                            sizeof p.c.step);
            BOTH(&p, selection_begin);
            BOTH(&p, select_random, 0.1, change, SHARE_GROUP);
            check_equal(&p, "another seed, slot and layer");
        }
    }
}

/* --- Explicit lists ----------------------------------------------------------------------------
 */

/* About a third of the keys, with probabilities if weighted. */
static void put_some(struct selection_pair *p, int row, int head, bool weighted, uint64_t seed)
{
    int n = 0, max_keys = p->c.att.max_keys;
    int32_t *keys = calloc((size_t)max_keys, sizeof *keys);
    float *prob = calloc((size_t)max_keys, sizeof *prob);
    for (int key = 0; key < max_keys; key++)
        if (case_random(&seed) % 3 == 0) {
            keys[n] = key;
            prob[n++] = (float)(1 + case_random(&seed) % 4) * 0.25f;
        }
    for (int side = 0; side < N_PAIR; side++)
        pair.backend[side]->selection_put(pair.dev[side], p->sel[side], row, head, keys,
                                          weighted ? prob : NULL, n);
    free(keys);
    free(prob);
}

static void test_explicit_lists_come_back(void **state)
{
    (void)state;
    struct selection_pair p;
    for (int variant = 0; variant < 6; variant++)
        FOR_EACH_SHAPE(p, 2)
        {
            bool weighted = variant & 1;
            BOTH(&p, select_sink, count(1));
            BOTH(&p, score_exact);
            if (variant / 2 == 1)
                BOTH(&p, select_top_k, count(3), SHARE_GROUP);
            if (variant / 2 == 2)
                BOTH(&p, select_random, 0.2, 1, SHARE_GROUP);
            for (int row = 0; row < p.c.att.n_rows; row++)
                for (int head = 0; head < p.c.att.n_heads; head += 2)
                    put_some(&p, row, head, weighted, (uint64_t)(row * 100 + head));
            BOTH(&p, select_top_k, count(2), SHARE_HEAD);
            check_equal(&p, "explicit lists");
        }
}

static void test_random_keeps_explicit_probabilities(void **state)
{
    (void)state;
    struct selection_pair p;
    for (int share = 0; share < 2; share++)
        FOR_EACH_SHAPE(p, 2)
        {
            for (int row = 0; row < p.c.att.n_rows; row++)
                for (int head = 0; head < p.c.att.n_heads; head++)
                    put_some(&p, row, head, true, (uint64_t)(row + 7 * head));
            BOTH(&p, select_random, 0.3, 0, share);
            check_equal(&p, "explicit, random");
        }
}

/* --- Calls -------------------------------------------------------------------------------------
 */

/* A call of several rows, chopped: what a piece selects is what the whole call selects. */
static void test_pieces_select_as_the_whole_call(void **state)
{
    (void)state;
    struct case_shape shape = {7, 700, 8, 2, 64, DTYPE_BF16, .n_tail = 40, .window = 300};
    for (int first = 0; first < 7; first += 3) {
        struct selection_pair p;
        int n = first + 3 > 7 ? 7 - first : 3;
        pair_start_case(&p, &shape, 4, 2);
        for (int side = 0; side < N_PAIR; side++) {
            struct attention *att = &p.att[side];
            att->q += (size_t)first * (size_t)att->q_stride;
            att->n_rows_total = 7;
            att->row_offset = first;
            att->n_rows = n;
        }
        BOTH(&p, selection_begin);
        BOTH(&p, select_sink, count(4));
        BOTH(&p, select_local, count(6));
        BOTH(&p, score_exact);
        BOTH(&p, select_top_k, fraction(0.05), SHARE_GROUP);
        BOTH(&p, select_top_p, 0.2, false, count(0), 1.0f, SHARE_HEAD);
        BOTH(&p, select_random, 0.1, 2, SHARE_HEAD);
        check_equal(&p, "a piece");
        assert_int_equal(cuda_case_counts(&p.cuda).score_rows, p.c.counts.score_rows);
        pair_finish(&p);
    }
}

/* More choices than the device has multiprocessors, and slices that shared memory does not hold. */
static void test_many_long_choices(void **state)
{
    (void)state;
    struct case_shape shape = {1, 60001, 88, 8, 8, DTYPE_F32, .n_tail = 5};
    struct selection_pair p;
    pair_start_case(&p, &shape, 9, 3);
    BOTH(&p, select_sink, count(4));
    BOTH(&p, score_exact);
    BOTH(&p, select_top_k, fraction(0.1), SHARE_HEAD);
    BOTH(&p, select_top_p, 0.3, true, count(0), 1.0f, SHARE_HEAD);
    BOTH(&p, select_random, 0.05, 1, SHARE_HEAD);
    check_equal(&p, "88 heads of 60001 keys");
    BOTH(&p, selection_begin);
    BOTH(&p, score_exact);
    BOTH(&p, select_top_k, fraction(0.1), SHARE_GROUP);
    check_equal(&p, "8 groups of 60001 keys");
    pair_finish(&p);
}

/* A recorded stack is right for other lengths than it was recorded with. */
static void test_a_recording_follows_the_step(void **state)
{
    (void)state;
    const struct backend *cuda = pair.backend[PAIR_CUDA];
    struct case_shape shape = {1, 5000, 8, 2, 64, DTYPE_BF16, .n_tail = 0};
    struct selection_pair p;
    if (!cuda->record_begin)
        skip();
    pair_start_case(&p, &shape, 5, 3);
    assert_true(cuda->record_begin(pair.dev[PAIR_CUDA]));
    struct recording *recording = NULL;
    for (int n_context = 4999; n_context > 0; n_context /= 3) {
        p.c.step.n_context = n_context;
        for (int side = 0; side < N_PAIR; side++) {
            if (side == PAIR_CUDA && recording)
                break;
            const struct backend *b = pair.backend[side];
            b->selection_begin(pair.dev[side], p.sel[side], &p.att[side]);
            b->select_sink(pair.dev[side], p.sel[side], &p.att[side], count(4));
            b->score_exact(pair.dev[side], p.sel[side], &p.att[side]);
            b->select_top_k(pair.dev[side], p.sel[side], &p.att[side], fraction(0.1), SHARE_HEAD);
            b->select_random(pair.dev[side], p.sel[side], &p.att[side], 0.05, 0, SHARE_GROUP);
            b->select_local(pair.dev[side], p.sel[side], &p.att[side], count(8));
            b->selection_end(pair.dev[side], p.sel[side], &p.att[side]);
        }
        if (!recording)
            recording = cuda->record_end(pair.dev[PAIR_CUDA]);
        assert_non_null(recording);
        cuda->upload(pair.dev[PAIR_CUDA], (void *)p.cuda.att.step, &p.c.step, sizeof p.c.step);
        for (int replay = 0; replay < 2; replay++)
            cuda->replay(pair.dev[PAIR_CUDA], recording);
        pair_sync();
        for (int head = 0; head < shape.n_heads; head++) {
            int n = get(&p, PAIR_CPU, 0, head);
            assert_int_equal(get(&p, PAIR_CUDA, 0, head), n);
            for (int i = 0; i < n; i++) {
                assert_int_equal(p.keys[PAIR_CUDA][i], p.keys[PAIR_CPU][i]);
                assert_true(p.prob[PAIR_CUDA][i] == p.prob[PAIR_CPU][i]);
            }
        }
    }
    cuda->recording_close(pair.dev[PAIR_CUDA], recording);
    pair_finish(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranges_are_the_same),
        cmocka_unit_test(test_full_and_empty_stacks_are_dense),
        cmocka_unit_test(test_early_exits_have_the_same_bounds),
        cmocka_unit_test(test_top_k_takes_the_same_keys_and_ties),
        cmocka_unit_test(test_top_k_skips_keys_already_selected),
        cmocka_unit_test(test_top_k_takes_what_is_left_when_the_budget_is_larger),
        cmocka_unit_test(test_a_range_swallows_list_keys),
        cmocka_unit_test(test_top_p_takes_the_same_keys),
        cmocka_unit_test(test_limited_top_p_takes_the_same_keys),
        cmocka_unit_test(test_top_p_counts_what_lists_hold),
        cmocka_unit_test(test_scores_of_every_head_dim_and_group),
        cmocka_unit_test(test_scores_of_many_rows_and_windows),
        cmocka_unit_test(test_random_draws_the_same_keys),
        cmocka_unit_test(test_random_draws_from_what_lists_leave),
        cmocka_unit_test(test_draws_follow_their_coordinates),
        cmocka_unit_test(test_explicit_lists_come_back),
        cmocka_unit_test(test_random_keeps_explicit_probabilities),
        cmocka_unit_test(test_pieces_select_as_the_whole_call),
        cmocka_unit_test(test_many_long_choices),
        cmocka_unit_test(test_a_recording_follows_the_step),
    };
    if (!pair_open(true))
        return PAIR_SKIPPED;
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    pair_close();
    return n_failed;
}
