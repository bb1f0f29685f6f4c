/* Attention to selections and its probe: the cuda backend against the cpu backend. */
#include "tests/cuda_case.h"

/* The bf16 way splits queries and weights into two bf16 each (2^-17 of their size) and takes powers
 * of two to 2^-22; the f32 way differs from the cpu's in the order of its sums alone. */
#define BF16_MOST 5e-5
#define F32_MOST 1e-5

static double most_of(const struct case_shape *shape)
{
    return shape->dtype == DTYPE_BF16 ? BF16_MOST : F32_MOST;
}

/* One call on both backends. */
struct duel {
    const struct case_shape *shape;
    struct attention_case c;
    struct cuda_case d;
    const struct attention *att[N_PAIR];
    struct selection *sel[N_PAIR];
    char what[120];
};

static void duel_open_piece(struct duel *t, const struct case_shape *shape, int n_rows_total,
                            uint64_t seed)
{
    memset(t, 0, sizeof *t);
    t->shape = shape;
    case_open(&t->c, shape, seed);
    if (n_rows_total) { /* the case's rows are the middle ones of a larger call */
        int before = (n_rows_total - shape->n_rows) / 2;
        int32_t *n = shape->n_tail ? &t->c.step.n_tail : &t->c.step.n_context;
        t->c.att.n_rows_total = n_rows_total;
        t->c.att.row_offset = before;
        *n -= before;
        t->c.att.max_keys = t->c.step.n_context + t->c.step.n_tail + n_rows_total;
    }
    cuda_case_open(&t->d, &t->c);
    t->att[PAIR_CPU] = &t->c.att;
    t->att[PAIR_CUDA] = &t->d.att;
    for (int i = 0; i < N_PAIR; i++) {
        t->sel[i] = pair.backend[i]->selection_open(pair.dev[i], shape->n_rows, shape->n_heads,
                                                    shape->n_kv_heads, t->c.att.max_keys);
        assert_non_null(t->sel[i]);
        pair.backend[i]->selection_begin(pair.dev[i], t->sel[i], t->att[i]);
    }
    snprintf(t->what, sizeof t->what, "%d rows, %d keys, %d/%d heads, dim %d, %s, tail %d",
             shape->n_rows, shape->n_keys, shape->n_heads, shape->n_kv_heads, shape->head_dim,
             shape->dtype == DTYPE_BF16 ? "bf16" : "f32", shape->n_tail);
}

static void duel_open(struct duel *t, const struct case_shape *shape, uint64_t seed)
{
    duel_open_piece(t, shape, 0, seed);
}

static void duel_close(struct duel *t)
{
    for (int i = 0; i < N_PAIR; i++)
        pair.backend[i]->selection_close(pair.dev[i], t->sel[i]);
    cuda_case_close(&t->d);
    case_close(&t->c);
}

/* backend->op(dev, sel, att, ...) on both. */
#define ON_BOTH(t, op, ...)                                                                        \
    for (int side = 0; side < N_PAIR; side++)                                                      \
    pair.backend[side]->op(pair.dev[side], (t)->sel[side], (t)->att[side], __VA_ARGS__)

static void put_both(struct duel *t, int row, int head, const int32_t *keys, const float *prob,
                     int n)
{
    for (int i = 0; i < N_PAIR; i++)
        pair.backend[i]->selection_put(pair.dev[i], t->sel[i], row, head, keys, prob, n);
}

static struct budget count(int n)
{
    return (struct budget){false, n};
}

static struct budget fraction(double f)
{
    return (struct budget){true, f};
}

static void end_and_attend(struct duel *t)
{
    for (int i = 0; i < N_PAIR; i++) {
        pair.backend[i]->selection_end(pair.dev[i], t->sel[i], t->att[i]);
        pair.backend[i]->attend_selected(pair.dev[i], t->att[i], t->sel[i]);
    }
    pair_sync();
}

static void check_out(struct duel *t)
{
    size_t n = case_out_count(&t->c);
    float *out = cuda_case_out(&t->d, &t->c);
    double error = relative_error(out, t->c.out, n);
    if (!(error <= most_of(t->shape)))
        fail_msg("%s: out differs by %.2e", t->what, error);
    free(out);
}

static void check_counts(struct duel *t)
{
    struct attention_counts a = t->c.counts, b = cuda_case_counts(&t->d);
    a.score_rows = b.score_rows = 0; /* counted by what scores */
    if (t->shape->n_heads / t->shape->n_kv_heads > 8) {
        /* cuda's unions are of 8 heads at most: it may read a row once for each. */
        assert_true(b.rows_read >= a.rows_read);
        b.rows_read = a.rows_read;
    }
    if (memcmp(&a, &b, sizeof a) != 0)
        fail_msg("%s: counts, cpu and cuda: selected %lu %lu, visible %lu %lu, read %lu %lu, "
                 "rows visible %lu %lu, rescued %lu %lu, full %lu %lu, calls %lu %lu",
                 t->what, a.selected, b.selected, a.visible, b.visible, a.rows_read, b.rows_read,
                 a.rows_visible, b.rows_visible, a.rescued, b.rescued, a.full, b.full, a.calls,
                 b.calls);
}

static void check_probe(struct duel *t)
{
    size_t n = (size_t)t->shape->n_rows * (size_t)t->shape->n_heads;
    struct twin recall = twin_poisoned(n), error = twin_poisoned(2 * n);
    for (int i = 0; i < N_PAIR; i++) {
        struct attention_probe probe = {recall.at[i], error.at[i]};
        pair.backend[i]->probe(pair.dev[i], t->att[i], t->sel[i], &probe);
    }
    pair_sync();
    float *r[N_PAIR], *e[N_PAIR];
    for (int i = 0; i < N_PAIR; i++) {
        r[i] = twin_host(&recall, i);
        e[i] = twin_host(&error, i);
    }
    double most = most_of(t->shape);
    for (size_t slot = 0; slot < n; slot++) {
        double norm = (double)e[PAIR_CPU][2 * slot + 1];
        if (!(fabs((double)(r[0][slot] - r[1][slot])) <= most))
            fail_msg("%s: recall of slot %zu: cpu %.7f, cuda %.7f", t->what, slot,
                     (double)r[0][slot], (double)r[1][slot]);
        for (size_t i = 2 * slot; i < 2 * slot + 2; i++)
            if (!(fabs((double)(e[0][i] - e[1][i])) <=
                  4 * most * (sqrt((double)e[0][i] * norm) + most * norm) + 1e-30))
                fail_msg("%s: error %zu of slot %zu: cpu %g, cuda %g", t->what, i % 2, slot,
                         (double)e[0][i], (double)e[1][i]);
    }
    for (int i = 0; i < N_PAIR; i++) {
        free(r[i]);
        free(e[i]);
    }
    twin_free(&recall);
    twin_free(&error);
}

static void check_all(struct duel *t)
{
    end_and_attend(t);
    check_out(t);
    check_counts(t);
    check_probe(t);
}

/* A key in every `one_of` on average, for each row and head; with probabilities if weighted. */
static void put_random(struct duel *t, uint32_t one_of, bool weighted, uint64_t seed)
{
    uint64_t random = seed;
    int n_keys = t->shape->n_keys, n_rows = t->shape->n_rows;
    int32_t *keys = calloc((size_t)n_keys, sizeof *keys);
    float *prob = calloc((size_t)n_keys, sizeof *prob);
    for (int row = 0; row < n_rows; row++)
        for (int head = 0; head < t->shape->n_heads; head++) {
            int n = 0, position = n_keys - n_rows + row;
            for (int key = t->shape->first_key; key <= position; key++) {
                if (case_random(&random) % one_of)
                    continue;
                keys[n] = key;
                prob[n++] = (float)(1 + case_random(&random) % 9) / 9.0f;
            }
            put_both(t, row, head, keys, weighted ? prob : NULL, n);
        }
    free(keys);
    free(prob);
}

static const struct case_shape shapes[] = {
    {1, 1, 4, 4, 64, DTYPE_BF16, .n_tail = 0},
    {1, 15, 4, 1, 128, DTYPE_BF16, .n_tail = 0},
    {1, 16, 7, 1, 64, DTYPE_BF16, .n_tail = 3},
    {1, 17, 6, 2, 96, DTYPE_BF16, .sink = true},
    {1, 63, 8, 1, 80, DTYPE_BF16, .n_tail = 62},
    {1, 64, 8, 2, 256, DTYPE_BF16, .n_tail = 0},
    {1, 65, 24, 2, 64, DTYPE_BF16, .n_tail = 20, .sink = true},
    {2, 257, 32, 2, 128, DTYPE_BF16, .window = 100},
    {3, 131, 4, 4, 80, DTYPE_BF16, .n_tail = 40, .sink = true},
    {5, 300, 8, 2, 64, DTYPE_BF16, .n_tail = 100, .window = 90, .first_key = 4},
    {2, 90, 8, 1, 128, DTYPE_BF16, .n_tail = 1, .first_key = 30},
    {1, 1000, 3, 1, 80, DTYPE_BF16, .window = 700},
    {40, 200, 8, 2, 64, DTYPE_BF16, .n_tail = 60, .first_key = 170}, /* with rows of padding */
    {70, 300, 8, 2, 128, DTYPE_BF16, .window = 50},                  /* one block per item */
    {1, 4097, 8, 2, 128, DTYPE_BF16, .n_tail = 1000, .sink = true},
    {1, 60, 6, 2, 16, DTYPE_F32, .n_tail = 0},
    {2, 90, 8, 1, 32, DTYPE_F32, .n_tail = 1, .first_key = 30},
    {3, 257, 14, 2, 64, DTYPE_F32, .n_tail = 100, .window = 90, .sink = true},
    {1, 1000, 4, 4, 256, DTYPE_F32, .n_tail = 7},
    {2, 131, 24, 2, 32, DTYPE_BF16, .n_tail = 20}, /* a head_dim that the fast way lacks */
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

#define FOR_EACH_DUEL(t)                                                                           \
    for (int shape_ = 0, open_ = 1; shape_ < N_SHAPES; shape_++, open_ = 1)                        \
        for (duel_open(&(t), &shapes[shape_], (uint64_t)shape_ + 1); open_;                        \
             duel_close(&(t)), open_ = 0)

/* --- Lists ------------------------------------------------------------------------------------ */

static void test_put_lists_are_attended_with_their_weights(void **state)
{
    (void)state;
    struct duel t;
    FOR_EACH_DUEL(t)
    {
        put_random(&t, 4, true, 4);
        check_all(&t);
    }
}

static void test_put_lists_without_weights(void **state)
{
    (void)state;
    struct duel t;
    FOR_EACH_DUEL(t)
    {
        put_random(&t, 9, false, 5);
        check_all(&t);
    }
}

static void test_lists_beside_ranges(void **state)
{
    (void)state;
    struct duel t;
    FOR_EACH_DUEL(t)
    {
        ON_BOTH(&t, select_sink, count(5));
        put_random(&t, 6, true, 6);
        ON_BOTH(&t, select_local, count(7));
        check_all(&t);
    }
}

static void test_heads_with_nothing_attend_to_their_own_key(void **state)
{
    (void)state;
    struct duel t;
    FOR_EACH_DUEL(t)
    {
        /* Only the first head of the last row has a key. */
        int row = t.shape->n_rows - 1;
        int32_t key = t.shape->n_keys - 2;
        put_both(&t, row, 0, &key, NULL, 1);
        check_all(&t);
        if (key >= t.shape->first_key)
            assert_int_equal(t.c.counts.rescued, t.shape->n_rows * t.shape->n_heads - 1);
    }
}

static void test_random_draws_weigh_by_their_probability(void **state)
{
    (void)state;
    struct duel t;
    for (int share = 0; share < 2; share++)
        FOR_EACH_DUEL(t)
        {
            ON_BOTH(&t, select_sink, count(2));
            ON_BOTH(&t, select_random, 0.2, 1, share);
            check_all(&t);
        }
}

static void test_top_keys_beside_draws(void **state)
{
    (void)state;
    struct duel t;
    for (int share = 0; share < 2; share++)
        FOR_EACH_DUEL(t)
        {
            /* The cpu's choice, put on both: near ties may fall differently in another order of
             * sums. */
            int n_keys = t.c.att.max_keys;
            int32_t *keys = calloc((size_t)n_keys, sizeof *keys);
            float *prob = calloc((size_t)n_keys, sizeof *prob);
            const struct backend *cpu = pair.backend[PAIR_CPU];
            struct device *dev = pair.dev[PAIR_CPU];
            struct selection *chosen = cpu->selection_open(dev, t.shape->n_rows, t.shape->n_heads,
                                                           t.shape->n_kv_heads, n_keys);
            cpu->selection_begin(dev, chosen, &t.c.att);
            cpu->score_exact(dev, chosen, &t.c.att);
            cpu->select_top_k(dev, chosen, &t.c.att, count(6), share);
            cpu->select_random(dev, chosen, &t.c.att, 0.1, 0, share);
            cpu->selection_end(dev, chosen, &t.c.att);
            for (int row = 0; row < t.shape->n_rows; row++)
                for (int head = 0; head < t.shape->n_heads; head++) {
                    int n = cpu->selection_get(dev, chosen, row, head, keys, prob);
                    if (n >= 0)
                        put_both(&t, row, head, keys, prob, n);
                }
            cpu->selection_close(dev, chosen);
            free(keys);
            free(prob);
            check_all(&t);
        }
}

static void test_a_list_of_everything_equals_dense(void **state)
{
    (void)state;
    struct duel t;
    FOR_EACH_DUEL(t)
    {
        put_random(&t, 1, false, 7);
        end_and_attend(&t);
        pair.backend[PAIR_CPU]->attend_dense(pair.dev[PAIR_CPU], &t.c.att);
        /* Rows of padding differ: they attend to their own key, dense attention to nothing. */
        if (t.shape->first_key < t.shape->n_keys - t.shape->n_rows + 1)
            check_out(&t);
    }
}

/* --- Ranges --------------------------------------------------------------------------------- */

static void test_ranges_alone(void **state)
{
    (void)state;
    struct duel t;
    static const int sinks[] = {0, 3, 16, 40}, locals[] = {0, 1, 16, 33};
    for (int i = 0; i < 16; i++)
        FOR_EACH_DUEL(t)
        {
            /* A stack of which nothing takes part is full. */
            ON_BOTH(&t, select_sink, count(sinks[i / 4]));
            ON_BOTH(&t, select_local, count(locals[i % 4]));
            check_all(&t);
        }
}

static void test_fractions_and_full_calls(void **state)
{
    (void)state;
    struct duel t;
    static const double fractions[] = {0.05, 0.5, 0.99, 1.0};
    for (int i = 0; i < 4; i++)
        FOR_EACH_DUEL(t)
        {
            ON_BOTH(&t, select_local, fraction(fractions[i]));
            ON_BOTH(&t, select_sink, fraction(fractions[i] / 2));
            check_all(&t);
        }
}

/* Lists of a step that turns out to be full are not looked at. */
static void test_full_beside_a_list(void **state)
{
    (void)state;
    struct duel t;
    FOR_EACH_DUEL(t)
    {
        put_random(&t, 3, false, 8);
        ON_BOTH(&t, select_local, count(t.shape->n_keys));
        check_all(&t);
    }
}

static void test_probe_of_a_full_selection_finds_nothing_lost(void **state)
{
    (void)state;
    struct duel t;
    FOR_EACH_DUEL(t)
    {
        ON_BOTH(&t, select_sink, fraction(1));
        check_all(&t);
        size_t n = (size_t)t.shape->n_rows * (size_t)t.shape->n_heads;
        struct twin recall = twin_poisoned(n), error = twin_poisoned(2 * n);
        struct attention_probe probe = {recall.at[PAIR_CUDA], error.at[PAIR_CUDA]};
        pair.backend[PAIR_CUDA]->probe(pair.dev[PAIR_CUDA], t.att[PAIR_CUDA], t.sel[PAIR_CUDA],
                                       &probe);
        float *r = twin_host(&recall, PAIR_CUDA);
        for (size_t i = 0; i < n; i++)
            assert_true(r[i] == 1.0f);
        free(r);
        twin_free(&recall);
        twin_free(&error);
    }
}

/* --- Calls ---------------------------------------------------------------------------------- */

static void test_pieces_of_a_larger_call(void **state)
{
    (void)state;
    static const struct case_shape pieces[] = {
        {3, 200, 8, 2, 128, DTYPE_BF16, .n_tail = 30},
        {5, 120, 6, 2, 64, DTYPE_BF16, .n_tail = 0},
        {4, 90, 6, 2, 16, DTYPE_F32, .n_tail = 50, .window = 40},
    };
    for (int i = 0; i < 3; i++)
        for (int way = 0; way < 2; way++) {
            struct duel t;
            duel_open_piece(&t, &pieces[i], 11, (uint64_t)i);
            ON_BOTH(&t, select_sink, fraction(0.1));
            ON_BOTH(&t, select_local, count(9));
            if (way)
                put_random(&t, 5, true, 9);
            check_all(&t);
            duel_close(&t);
        }
}

/* Long items are shared by many blocks; unequal ones too. */
static void test_long_selections(void **state)
{
    (void)state;
    static const struct case_shape longs[] = {
        {1, 20000, 8, 2, 128, DTYPE_BF16, .n_tail = 300, .sink = true},
        {1, 12000, 4, 1, 64, DTYPE_BF16, .n_tail = 0},
        {3, 9000, 16, 2, 128, DTYPE_BF16, .n_tail = 30, .window = 8000},
        {1, 6000, 4, 2, 256, DTYPE_BF16, .n_tail = 0},
    };
    for (int i = 0; i < 4; i++)
        for (int way = 0; way < 3; way++) {
            struct duel t;
            duel_open(&t, &longs[i], (uint64_t)i + 20);
            if (way < 2)
                ON_BOTH(&t, select_sink, fraction(0.03));
            if (way == 0)
                ON_BOTH(&t, select_local, fraction(0.2));
            else
                put_random(&t, 10, way == 2, 10);
            check_all(&t);
            duel_close(&t);
        }
}

static void test_the_same_call_gives_the_same_bits(void **state)
{
    (void)state;
    static const struct case_shape shape = {2, 5000, 8, 2, 128, DTYPE_BF16, .n_tail = 100};
    struct duel t;
    duel_open(&t, &shape, 3);
    ON_BOTH(&t, select_sink, count(100));
    put_random(&t, 7, true, 11);
    end_and_attend(&t);
    float *first = cuda_case_out(&t.d, &t.c);
    for (int i = 0; i < 5; i++) {
        pair.backend[PAIR_CUDA]->attend_selected(pair.dev[PAIR_CUDA], t.att[PAIR_CUDA],
                                                 t.sel[PAIR_CUDA]);
        float *again = cuda_case_out(&t.d, &t.c);
        assert_memory_equal(first, again, case_out_count(&t.c) * sizeof *first);
        free(again);
    }
    free(first);
    duel_close(&t);
}

/* A recorded step reads its lengths anew: the tail grows, the stack's fractions with it. */
static void test_a_recorded_step_follows_the_context(void **state)
{
    (void)state;
    const struct backend *cuda = pair.backend[PAIR_CUDA];
    struct device *dev = pair.dev[PAIR_CUDA];
    static const struct case_shape shape = {1, 400, 8, 2, 128, DTYPE_BF16, .n_tail = 390};
    struct duel t;
    if (!cuda->record_begin)
        skip();
    duel_open(&t, &shape, 3);
    struct recording *recording = NULL;
    for (int n_tail = 0; n_tail < 390; n_tail += 13) {
        struct step_state step = {.n_context = 9, .n_tail = n_tail, .append_tail = 1};
        t.c.step = step;
        cuda->upload(dev, (void *)(uintptr_t)t.d.att.step, &step, sizeof step);
        for (int side = 0; side < N_PAIR; side++) {
            const struct backend *b = pair.backend[side];
            if (side == PAIR_CUDA && n_tail > 13)
                break;
            if (side == PAIR_CUDA && n_tail == 13)
                assert_true(cuda->record_begin(dev));
            b->selection_begin(pair.dev[side], t.sel[side], t.att[side]);
            b->select_sink(pair.dev[side], t.sel[side], t.att[side], fraction(0.1));
            b->select_local(pair.dev[side], t.sel[side], t.att[side], count(60));
            b->selection_end(pair.dev[side], t.sel[side], t.att[side]);
            b->attend_selected(pair.dev[side], t.att[side], t.sel[side]);
        }
        if (n_tail == 13) {
            recording = cuda->record_end(dev);
            assert_non_null(recording);
        }
        if (recording)
            cuda->replay(dev, recording);
        check_out(&t);
        check_counts(&t);
    }
    cuda->recording_close(dev, recording);
    duel_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_put_lists_are_attended_with_their_weights),
        cmocka_unit_test(test_put_lists_without_weights),
        cmocka_unit_test(test_lists_beside_ranges),
        cmocka_unit_test(test_heads_with_nothing_attend_to_their_own_key),
        cmocka_unit_test(test_random_draws_weigh_by_their_probability),
        cmocka_unit_test(test_top_keys_beside_draws),
        cmocka_unit_test(test_a_list_of_everything_equals_dense),
        cmocka_unit_test(test_ranges_alone),
        cmocka_unit_test(test_fractions_and_full_calls),
        cmocka_unit_test(test_full_beside_a_list),
        cmocka_unit_test(test_probe_of_a_full_selection_finds_nothing_lost),
        cmocka_unit_test(test_pieces_of_a_larger_call),
        cmocka_unit_test(test_long_selections),
        cmocka_unit_test(test_the_same_call_gives_the_same_bits),
        cmocka_unit_test(test_a_recorded_step_follows_the_context),
    };
    if (!pair_open(true))
        return PAIR_SKIPPED;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    pair_close();
    return failed;
}
