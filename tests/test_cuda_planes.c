/* SOCKET's and MagicPIG's indexes on cuda as on the cpu.
 *
 * Keys, planes and queries of small whole numbers have exact products, so that both backends put
 * keys on the same sides; what is then computed from the sides rounds differently. */
#include "tests/index_params.h"
#include "tests/selection_pair.h"

enum { LAYER = 1, N_LAYERS = 2 };

static const struct case_shape shapes[] = {
    {1, 300, 4, 2, 64, DTYPE_BF16, .n_tail = 3},
    {1, 1501, 8, 1, 64, DTYPE_F32, .n_tail = 0},
    {3, 97, 6, 2, 80, DTYPE_F32, .n_tail = 10},
    {11, 130, 3, 3, 64, DTYPE_BF16, .n_tail = 0, .window = 40},
    {1, 4100, 12, 2, 128, DTYPE_BF16, .n_tail = 9, .first_key = 5},
};

enum { N_SHAPES = sizeof shapes / sizeof *shapes };

struct planes_pair {
    struct selection_pair p;
    struct key_index_config config;
    struct key_index *index[N_PAIR];
};

static void planes_start(struct planes_pair *x, int shape, enum key_index_kind kind)
{
    const struct case_shape *s = &shapes[shape];
    pair_start_case(&x->p, s, (uint64_t)shape + 1, 3);
    x->config = (struct key_index_config){.kind = kind,
                                          .n_layers = N_LAYERS,
                                          .n_heads = s->n_heads,
                                          .n_kv_heads = s->n_kv_heads,
                                          .head_dim = s->head_dim,
                                          .max_keys = s->n_keys,
                                          .kv_dtype = s->dtype};
    for (int side = 0; side < N_PAIR; side++)
        x->p.att[side].layer = LAYER;
    BOTH(&x->p, selection_begin); /* for the layer, on which draws depend */
}

/* -2 .. 2 in place of the planes' numbers. */
static void make_whole(const float *planes, size_t n)
{
    uint64_t random = 23;
    for (size_t i = 0; i < n; i++)
        ((float *)planes)[i] = (float)((int)(case_random(&random) % 5) - 2);
}

static void indexes_open(struct planes_pair *x)
{
    for (int side = 0; side < N_PAIR; side++) {
        char why[256] = "";
        x->index[side] =
            pair.backend[side]->index_open(pair.dev[side], &x->config, why, sizeof why);
        if (!x->index[side])
            fail_msg("%s: %s", pair.backend[side]->name, why);
    }
}

static void indexes_update(struct planes_pair *x)
{
    for (int side = 0; side < N_PAIR; side++)
        pair.backend[side]->index_update(pair.dev[side], x->index[side], &x->p.att[side]);
}

static void planes_finish(struct planes_pair *x)
{
    for (int side = 0; side < N_PAIR; side++)
        pair.backend[side]->index_close(pair.dev[side], x->index[side]);
    pair_finish(&x->p);
}

/* --- Buckets ---------------------------------------------------------------------------------- */

static const struct {
    int n_tables, n_bits, n_planes;
} sizes[] = {{3, 4, 1}, {7, 10, N_LAYERS}, {5, 17, 1}, {2, 32, N_LAYERS}};

/* Sorted scores of the keys that only one side has must be next to what both have. */
static void check_same_count(struct planes_pair *x, const char *what)
{
    struct selection_pair *p = &x->p;
    BOTH(p, selection_end);
    pair_sync();
    int n_all = 0, n_differ = 0;
    for (int row = 0; row < p->att[0].n_rows; row++)
        for (int head = 0; head < p->att[0].n_heads; head++) {
            int n = get(p, PAIR_CPU, row, head), n_cuda = get(p, PAIR_CUDA, row, head);
            if (n != n_cuda)
                fail_msg("%s: row %d head %d: %d keys on the cpu, %d on cuda", what, row, head, n,
                         n_cuda);
            for (int i = 0, j = 0; i < n && j < n;) {
                int a = p->keys[0][i], b = p->keys[1][j];
                n_differ += a != b;
                n_all++;
                i += a <= b;
                j += b <= a;
            }
        }
    /* Scores that differ by rounding change places now and then. */
    if (n_differ > n_all / 200)
        fail_msg("%s: %d of %d keys differ", what, n_differ, n_all);
}

static void test_buckets_choose_the_same_keys(void **state)
{
    (void)state;
    for (int shape = 0; shape < N_SHAPES; shape++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            for (int share = 0; share < 2; share++) {
                struct planes_pair x;
                planes_start(&x, shape, INDEX_BUCKETS);
                buckets_open(&x.config, sizes[i].n_tables, sizes[i].n_bits, sizes[i].n_planes);
                make_whole(x.config.buckets.planes, (size_t)(sizes[i].n_planes * sizes[i].n_tables *
                                                             sizes[i].n_bits * x.config.head_dim));
                indexes_open(&x);
                indexes_update(&x);
                for (int side = 0; side < N_PAIR; side++)
                    pair.backend[side]->score_index(pair.dev[side], x.p.sel[side], x.index[side],
                                                    &x.p.att[side]);
                BOTH(&x.p, select_top_k, count(13), share);
                check_same_count(&x, "buckets");
                assert_int_equal(cuda_case_counts(&x.p.cuda).score_rows, x.p.c.counts.score_rows);
                planes_finish(&x);
                buckets_close(&x.config);
            }
}

/* One bit of one table: scores are lengths of values, whose order no rounding changes. */
static void test_buckets_choose_whatever_is_selected(void **state)
{
    (void)state;
    for (int shape = 0; shape < N_SHAPES; shape++)
        for (int share = 0; share < 2; share++) {
            struct planes_pair x;
            planes_start(&x, shape, INDEX_BUCKETS);
            buckets_open(&x.config, 1, 1, 1);
            make_whole(x.config.buckets.planes, (size_t)x.config.head_dim);
            indexes_open(&x);
            indexes_update(&x);
            BOTH(&x.p, select_sink, count(4));
            BOTH(&x.p, select_random, 0.3, 0, SHARE_HEAD);
            for (int side = 0; side < N_PAIR; side++)
                pair.backend[side]->score_index(pair.dev[side], x.p.sel[side], x.index[side],
                                                &x.p.att[side]);
            BOTH(&x.p, select_top_k, count(13), share);
            check_same_count(&x, "sink, random, buckets");
            /* What comes after exact scores is chosen from the rest again. */
            BOTH(&x.p, selection_begin);
            BOTH(&x.p, select_sink, count(4));
            BOTH(&x.p, score_exact);
            BOTH(&x.p, select_top_k, count(13), share);
            check_equal(&x.p, "sink, exact");
            planes_finish(&x);
            buckets_close(&x.config);
        }
}

/* --- Tables ----------------------------------------------------------------------------------- */

/* The same keys, and probabilities that are equal but for rounding. */
static void check_matches(struct planes_pair *x, const char *what)
{
    struct selection_pair *p = &x->p;
    BOTH(p, selection_end);
    pair_sync();
    int n_all = 0;
    for (int row = 0; row < p->att[0].n_rows; row++)
        for (int head = 0; head < p->att[0].n_heads; head++) {
            int n = get(p, PAIR_CPU, row, head), n_cuda = get(p, PAIR_CUDA, row, head);
            if (n != n_cuda)
                fail_msg("%s: row %d head %d: %d keys on the cpu, %d on cuda", what, row, head, n,
                         n_cuda);
            for (int i = 0; i < n; i++)
                if (p->keys[0][i] != p->keys[1][i] ||
                    !(fabsf(p->prob[0][i] - p->prob[1][i]) <= 2e-5f * p->prob[0][i]))
                    fail_msg("%s: row %d head %d entry %d: cpu key %d p %.9g, cuda key %d p %.9g",
                             what, row, head, i, p->keys[0][i], (double)p->prob[0][i],
                             p->keys[1][i], (double)p->prob[1][i]);
            n_all += n;
        }
    assert_true(n_all > 0);
}

static const struct {
    int n_tables, n_bits, min_hits;
    enum key_center center;
} tables[] = {{20, 5, 1, CENTER_NONE},
              {20, 4, 2, CENTER_KEYS},
              {9, 17, 1, CENTER_BOTH},
              {3, 40, 1, CENTER_NONE}};

static void test_tables_match_the_same_keys(void **state)
{
    (void)state;
    for (int shape = 0; shape < N_SHAPES; shape++)
        for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
            struct planes_pair x;
            planes_start(&x, shape, INDEX_TABLES);
            tables_open(&x.config, tables[i].n_tables, tables[i].n_bits, tables[i].min_hits,
                        tables[i].center);
            indexes_open(&x);
            indexes_update(&x);
            BOTH(&x.p, select_local, count(3));
            for (int side = 0; side < N_PAIR; side++)
                pair.backend[side]->select_matches(pair.dev[side], x.p.sel[side], x.index[side],
                                                   &x.p.att[side]);
            check_matches(&x, "local, matches");
            assert_int_equal(cuda_case_counts(&x.p.cuda).score_rows, x.p.c.counts.score_rows);
            BOTH(&x.p, selection_begin);
            BOTH(&x.p, score_exact);
            BOTH(&x.p, select_top_k, count(5), SHARE_GROUP);
            for (int side = 0; side < N_PAIR; side++)
                pair.backend[side]->select_matches(pair.dev[side], x.p.sel[side], x.index[side],
                                                   &x.p.att[side]);
            check_matches(&x, "top-k, matches");
            planes_finish(&x);
            tables_close(&x.config);
        }
}

/* --- Growth ------------------------------------------------------------------------------------
 */

static void step_to(struct planes_pair *x, int n_tail)
{
    x->p.c.step.n_tail = n_tail;
    pair.backend[PAIR_CUDA]->upload(pair.dev[PAIR_CUDA], (void *)x->p.att[PAIR_CUDA].step,
                                    &x->p.c.step, sizeof x->p.c.step);
}

static void check_grown(struct planes_pair *x, int n_steps)
{
    struct selection_pair *p = &x->p;
    for (int i = 0; i < n_steps; i++) {
        step_to(x, i);
        for (int side = 0; side < N_PAIR; side++) {
            struct attention before = p->att[side];
            before.n_rows = 0;
            if (i == 0)
                pair.backend[side]->index_update(pair.dev[side], x->index[side], &before);
        }
        indexes_update(x);
        if (i % 97 != 0 && i != n_steps - 1)
            continue;
        BOTH(p, selection_begin);
        BOTH(p, select_sink, count(2));
        for (int side = 0; side < N_PAIR; side++) {
            const struct backend *b = pair.backend[side];
            if (x->config.kind == INDEX_TABLES)
                b->select_matches(pair.dev[side], p->sel[side], x->index[side], &p->att[side]);
            else
                b->score_index(pair.dev[side], p->sel[side], x->index[side], &p->att[side]);
        }
        if (x->config.kind == INDEX_TABLES) {
            check_matches(x, "grown");
            continue;
        }
        BOTH(p, select_top_k, count(9), SHARE_HEAD);
        check_same_count(x, "grown");
    }
}

static void test_indexes_grow_by_1000_keys(void **state)
{
    (void)state;
    static const struct case_shape growing = {1, 1301, 4, 2, 64, DTYPE_BF16, .n_tail = 1000};
    for (int kind = INDEX_BUCKETS; kind <= INDEX_TABLES; kind++) {
        struct planes_pair x;
        planes_start(&x, 0, kind);
        pair_finish(&x.p);
        pair_start_case(&x.p, &growing, 9, 3);
        x.config.max_keys = growing.n_keys;
        for (int side = 0; side < N_PAIR; side++)
            x.p.att[side].layer = LAYER;
        buckets_open(&x.config, 5, 9, 1);
        tables_open(&x.config, 12, 5, 1, CENTER_KEYS);
        indexes_open(&x);
        check_grown(&x, 1000);
        /* A question that goes back, beyond what the layer's first update saw. */
        check_grown(&x, 3);
        planes_finish(&x);
        buckets_close(&x.config);
        tables_close(&x.config);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        pair_test(test_buckets_choose_the_same_keys),
        pair_test(test_buckets_choose_whatever_is_selected),
        pair_test(test_tables_match_the_same_keys),
        pair_test(test_indexes_grow_by_1000_keys),
    };
    if (!pair_open(true))
        return PAIR_SKIPPED;
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    pair_close();
    return n_failed;
}
