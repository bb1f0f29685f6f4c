/* Indexes over keys on the cuda device: they lead to the same keys as on the cpu, and one that grew
 * to the same as one made at once.
 *
 * Where queries, keys and weights are small whole numbers every score is exact in any order, and
 * lists must be equal key by key, ties included. */
#include "tests/index_params.h"
#include "tests/selection_pair.h"

enum { N_LAYERS = 3, LAYER = 1 };

/* --- An index on both backends ---------------------------------------------------------------- */

struct index_pair {
    struct selection_pair p;
    struct key_index_config config;
    struct key_index *index[N_PAIR];
};

/* spread 0: random values. */
static void index_pair_start(struct index_pair *x, const struct case_shape *shape, uint64_t seed,
                             int spread, enum key_index_kind kind)
{
    pair_start_case(&x->p, shape, seed, spread);
    x->config = (struct key_index_config){.kind = kind,
                                          .n_layers = N_LAYERS,
                                          .n_heads = shape->n_heads,
                                          .n_kv_heads = shape->n_kv_heads,
                                          .head_dim = shape->head_dim,
                                          .max_keys = shape->n_keys,
                                          .kv_dtype = shape->dtype};
    for (int side = 0; side < N_PAIR; side++)
        x->p.att[side].layer = LAYER;
    struct workspace_need need = {.max_rows = shape->n_rows,
                                  .max_width = 1,
                                  .n_heads = shape->n_heads,
                                  .n_kv_heads = shape->n_kv_heads,
                                  .head_dim = shape->head_dim,
                                  .max_keys = shape->n_keys};
    pair_reserve(&need);
}

/* Opens the indexes; the configuration is whole. */
static void indexes_open(struct index_pair *x)
{
    for (int side = 0; side < N_PAIR; side++) {
        char why[256] = "";
        x->index[side] =
            pair.backend[side]->index_open(pair.dev[side], &x->config, why, sizeof why);
        if (!x->index[side])
            fail_msg("%s: %s", pair.backend[side]->name, why);
    }
}

static void indexes_update(struct index_pair *x)
{
    for (int side = 0; side < N_PAIR; side++)
        pair.backend[side]->index_update(pair.dev[side], x->index[side], &x->p.att[side]);
}

static void indexes_score(struct index_pair *x)
{
    for (int side = 0; side < N_PAIR; side++)
        pair.backend[side]->score_index(pair.dev[side], x->p.sel[side], x->index[side],
                                        &x->p.att[side]);
}

static void indexes_close(struct index_pair *x)
{
    for (int side = 0; side < N_PAIR; side++)
        pair.backend[side]->index_close(pair.dev[side], x->index[side]);
}

/* Lengths around words, pages and tiles of rows; groups of 1, 3, 4, 8; few rows and many. */
static const struct case_shape shapes[] = {
    {1, 1, 2, 1, 64, DTYPE_F32, .n_tail = 0},
    {1, 15, 4, 4, 64, DTYPE_BF16, .n_tail = 3},
    {2, 17, 6, 2, 80, DTYPE_F32, .n_tail = 0},
    {1, 65, 4, 1, 96, DTYPE_BF16, .n_tail = 10},
    {3, 130, 8, 1, 128, DTYPE_BF16, .n_tail = 1, .first_key = 30},
    {3, 131, 4, 4, 20, DTYPE_BF16, .n_tail = 40},
    {9, 300, 8, 2, 64, DTYPE_BF16, .n_tail = 100, .window = 90, .first_key = 4},
    {140, 1000, 6, 2, 128, DTYPE_BF16, .n_tail = 0, .window = 700},
    {1, 4101, 8, 2, 128, DTYPE_BF16, .n_tail = 33, .first_key = 2},
    {1, 2500, 3, 1, 256, DTYPE_BF16, .n_tail = 33},
    {5, 3000, 4, 2, 36, DTYPE_F32, .n_tail = 0},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

/* Lists are as long, and all keys but for a share of them are the same: what rounding turns. */
static void check_mostly_equal(struct selection_pair *p, double share, const char *what)
{
    const struct attention *att = &p->att[PAIR_CPU];
    double n_all = 0, n_odd = 0;
    BOTH(p, selection_end);
    pair_sync();
    for (int row = 0; row < att->n_rows; row++)
        for (int head = 0; head < att->n_heads; head++) {
            int n = get(p, PAIR_CPU, row, head);
            if (get(p, PAIR_CUDA, row, head) != n)
                fail_msg("%s: K %d row %d head %d: other numbers of keys", what, att->max_keys, row,
                         head);
            for (int i = 0, j = 0; i < n; i++) {
                while (j < n && p->keys[PAIR_CUDA][j] < p->keys[PAIR_CPU][i])
                    j++;
                n_odd += j == n || p->keys[PAIR_CUDA][j] != p->keys[PAIR_CPU][i];
                n_all++;
            }
        }
    if (n_odd > share * n_all)
        fail_msg("%s: K %d: %.0f of %.0f keys differ", what, att->max_keys, n_odd, n_all);
}

/* --- Hash ------------------------------------------------------------------------------------- */

/* The e best keys by the index's scores, per head and then per group, after a sink.  odd: share of
 * them that may differ. */
static void check_top_k(struct index_pair *x, double odd, const char *what)
{
    for (int share = 0; share < 2; share++) {
        BOTH(&x->p, selection_begin);
        BOTH(&x->p, select_sink, count(2));
        indexes_score(x);
        BOTH(&x->p, select_top_k, fraction(0.15), share);
        if (odd > 0)
            check_mostly_equal(&x->p, odd, what);
        else
            check_equal(&x->p, what);
    }
    assert_int_equal(cuda_case_counts(&x->p.cuda).score_rows, x->p.c.counts.score_rows);
}

static void check_hash(const struct case_shape *shape, int i, int depth,
                       enum hash_activation activation, bool whole, const char *what)
{
    struct index_pair x;
    index_pair_start(&x, shape, (uint64_t)i + 1, whole ? 2 : 0, INDEX_HASH);
    networks_open(&x.config, depth, activation, whole);
    indexes_open(&x);
    indexes_update(&x);
    check_top_k(&x, whole ? 0 : 0.01, what);
    indexes_close(&x);
    networks_close(&x.config);
    pair_finish(&x.p);
}

static void test_hash_chooses_the_same_keys(void **state)
{
    (void)state;
    for (int i = 0; i < N_SHAPES; i++)
        for (int depth = 0; depth < N_DEPTHS; depth++)
            check_hash(&shapes[i], i, depth, HASH_RELU, true, "hash");
}

/* Sums run in the same order on both: bits differ only where an activation's last digit turns a
 * sign, and then keys that tie with them move up. */
static void test_hash_activations_choose_the_same_keys(void **state)
{
    (void)state;
    for (int i = 0; i < N_SHAPES; i++)
        for (int activation = 0; activation <= HASH_TANH; activation++)
            check_hash(&shapes[i], i, 2, activation, false, "hash of random weights");
}

/* Too wide for shared memory, in f32. */
static void test_wide_networks_choose_the_same_keys(void **state)
{
    (void)state;
    static const int widths[] = {512, 300, 64};
    for (int rows = 1; rows <= 6; rows += 5) {
        struct case_shape shape = {rows, 200, 2, 1, 64, DTYPE_BF16, .n_tail = 0};
        struct index_pair x;
        index_pair_start(&x, &shape, 3, 0, INDEX_HASH);
        widths_open(&x.config, widths, 3, HASH_TANH, false, 11);
        indexes_open(&x);
        indexes_update(&x);
        check_top_k(&x, 0.01, "hash of wide networks");
        indexes_close(&x);
        networks_close(&x.config);
        pair_finish(&x.p);
    }
}

/* --- Pages ------------------------------------------------------------------------------------ */

static void check_pages(struct index_pair *x, int page_size, const char *what)
{
    for (int share = 0; share < 2; share++) {
        BOTH(&x->p, selection_begin);
        BOTH(&x->p, select_sink, count(3));
        indexes_score(x);
        BOTH(&x->p, select_pages, fraction(0.2), page_size, 0.0, share);
        check_equal(&x->p, what);
    }
}

static void test_pages_are_the_same(void **state)
{
    (void)state;
    static const struct key_pages pages[] = {{16, 16}, {1, 16}, {7, 16}, {64, 16}, {16, 4}};
    for (int i = 0; i < N_SHAPES; i++)
        for (size_t j = 0; j < sizeof pages / sizeof *pages; j++) {
            struct index_pair x;
            index_pair_start(&x, &shapes[i], (uint64_t)i + 1, 2, INDEX_PAGES);
            x.config.pages = pages[j];
            indexes_open(&x);
            indexes_update(&x);
            check_pages(&x, pages[j].page_size, "pages");
            assert_int_equal(cuda_case_counts(&x.p.cuda).score_rows, x.p.c.counts.score_rows);
            indexes_close(&x);
            pair_finish(&x.p);
        }
}

/* Per head ties are exact; a group's masses are sums, whose rounding may break a tie. */
static void test_pages_by_mass_are_the_same(void **state)
{
    (void)state;
    static const double shares_of_mass[] = {0.05, 0.5, 0.9, 0.999};
    for (int i = 0; i < N_SHAPES; i++)
        for (int j = 0; j < 8; j++) {
            enum share share = j & 1;
            struct index_pair x;
            index_pair_start(&x, &shapes[i], (uint64_t)i + 1, share ? 100 : 2, INDEX_PAGES);
            x.config.pages = (struct key_pages){j & 2 ? 1 : 16, 16};
            for (int side = 0; side < N_PAIR; side++)
                x.p.att[side].scale *= share ? 1.0f / 64 : 0.25f;
            indexes_open(&x);
            indexes_update(&x);
            BOTH(&x.p, select_sink, count(3));
            indexes_score(&x);
            BOTH(&x.p, select_pages, fraction(0.3), x.config.pages.page_size,
                 shares_of_mass[(i + j / 2) % 4], share);
            check_equal(&x.p, "pages by mass");
            indexes_close(&x);
            pair_finish(&x.p);
        }
}

/* Pages take what was drawn or taken before too: with certainty from then on. */
static void test_pages_overlap_with_what_is_selected(void **state)
{
    (void)state;
    for (int i = 0; i < N_SHAPES; i++)
        for (int share = 0; share < 2; share++) {
            struct index_pair x;
            index_pair_start(&x, &shapes[i], (uint64_t)i + 1, 2, INDEX_PAGES);
            x.config.pages = (struct key_pages){16, 16};
            indexes_open(&x);
            indexes_update(&x);
            BOTH(&x.p, selection_begin);
            BOTH(&x.p, select_random, 0.3, 0, share);
            indexes_score(&x);
            BOTH(&x.p, select_pages, fraction(0.2), 16, 0.0, !share);
            check_equal(&x.p, "random, pages");
            indexes_close(&x);
            pair_finish(&x.p);
        }
}

/* --- Channels --------------------------------------------------------------------------------- */

static void test_unrounded_labels_choose_the_same_keys(void **state)
{
    (void)state;
    for (int i = 0; i < N_SHAPES; i++) {
        struct index_pair x;
        index_pair_start(&x, &shapes[i], (uint64_t)i + 1, 2, INDEX_CHANNELS);
        channels_open(&x.config, 1 + i, 16);
        indexes_open(&x);
        indexes_update(&x);
        check_top_k(&x, 0, "labels");
        indexes_close(&x);
        channels_close(&x.config);
        pair_finish(&x.p);
    }
}

static void test_labels_of_every_width_choose_the_same_keys(void **state)
{
    (void)state;
    static const int bits[] = {1, 2, 3, 4, 7, 8, 12};
    for (int i = 0; i < N_SHAPES; i++)
        for (size_t j = 0; j < sizeof bits / sizeof *bits; j++) {
            struct index_pair x;
            index_pair_start(&x, &shapes[i], (uint64_t)i + 1, 0, INDEX_CHANNELS);
            channels_open(&x.config, 3 + 2 * i < 20 ? 3 + 2 * i : 20, bits[j]);
            indexes_open(&x);
            indexes_update(&x);
            BOTH(&x.p, selection_begin);
            indexes_score(&x);
            BOTH(&x.p, select_top_k, fraction(0.15), SHARE_HEAD);
            check_mostly_equal(&x.p, 0.002, "labels");
            indexes_close(&x);
            channels_close(&x.config);
            pair_finish(&x.p);
        }
}

/* --- What a call does to an index ------------------------------------------------------------- */

/* The step of a call of one row whose key is the tail's n_tail-th, on both sides. */
static void go_to(struct index_pair *x, int n_context, int n_tail)
{
    struct step_state step = {.n_context = n_context, .n_tail = n_tail, .append_tail = 1};
    *(struct step_state *)x->p.c.att.step = step;
    pair.backend[PAIR_CUDA]->upload(pair.dev[PAIR_CUDA], (void *)x->p.att[PAIR_CUDA].step, &step,
                                    sizeof step);
}

static void take_best(struct index_pair *x)
{
    BOTH(&x->p, selection_begin);
    indexes_score(x);
    if (x->config.kind == INDEX_PAGES)
        BOTH(&x->p, select_pages, fraction(0.2), x->config.pages.page_size, 0.0, SHARE_HEAD);
    else
        BOTH(&x->p, select_top_k, fraction(0.2), SHARE_HEAD);
}

/* What cuda chooses by an index for the step as it stands; the caller frees keys. */
struct choices {
    int n[16];
    int32_t *keys; /* [n_heads, max_keys] */
};

static struct choices choices_of(struct index_pair *x, struct key_index *index)
{
    struct choices c;
    const struct attention *att = &x->p.att[PAIR_CUDA];
    struct key_index *grown = x->index[PAIR_CUDA];
    assert_true(att->n_heads <= 16);
    c.keys = calloc((size_t)att->n_heads * (size_t)att->max_keys, sizeof *c.keys);
    x->index[PAIR_CUDA] = index;
    take_best(x);
    BOTH(&x->p, selection_end);
    pair_sync();
    for (int head = 0; head < att->n_heads; head++) {
        c.n[head] = get(&x->p, PAIR_CUDA, 0, head);
        assert_true(c.n[head] > 0);
        memcpy(c.keys + head * att->max_keys, x->p.keys[PAIR_CUDA],
               (size_t)c.n[head] * sizeof *c.keys);
    }
    x->index[PAIR_CUDA] = grown;
    return c;
}

/* The grown index leads to what one made at once leads to. */
static void expect_as_fresh(struct index_pair *x, const char *what)
{
    char why[256] = "";
    const struct backend *cuda = pair.backend[PAIR_CUDA];
    const struct attention *att = &x->p.att[PAIR_CUDA];
    struct key_index *fresh = cuda->index_open(pair.dev[PAIR_CUDA], &x->config, why, sizeof why);
    assert_non_null(fresh);
    cuda->index_update(pair.dev[PAIR_CUDA], fresh, att);
    struct choices a = choices_of(x, x->index[PAIR_CUDA]), b = choices_of(x, fresh);
    for (int head = 0; head < att->n_heads; head++)
        if (a.n[head] != b.n[head] ||
            memcmp(a.keys + head * att->max_keys, b.keys + head * att->max_keys,
                   (size_t)a.n[head] * sizeof *a.keys) != 0)
            fail_msg("%s: head %d chooses other keys than by an index made at once", what, head);
    free(a.keys);
    free(b.keys);
    cuda->index_close(pair.dev[PAIR_CUDA], fresh);
}

/* A context at once and n keys one by one, as a question and its answer come; then back to the
 * context and other keys after it. */
static void check_grown(struct index_pair *x, int n_context, int n)
{
    indexes_open(x);
    go_to(x, n_context, 0);
    for (int side = 0; side < N_PAIR; side++) {
        struct attention context = x->p.att[side];
        context.n_rows = 0;
        pair.backend[side]->index_update(pair.dev[side], x->index[side], &context);
    }
    for (int i = 0; i < n; i++) {
        go_to(x, n_context, i);
        indexes_update(x);
    }
    expect_as_fresh(x, "grown");
    go_to(x, n_context, 4);
    indexes_update(x);
    go_to(x, n_context, 5);
    indexes_update(x);
    expect_as_fresh(x, "gone back");
    indexes_close(x);
}

static const struct case_shape growing = {1, 1301, 6, 2, 80, DTYPE_BF16, .n_tail = 999};

static void test_hash_grows_by_1000_keys(void **state)
{
    (void)state;
    struct index_pair x;
    index_pair_start(&x, &growing, 5, 0, INDEX_HASH);
    networks_open(&x.config, 2, HASH_SILU, false);
    check_grown(&x, 301, 1000);
    networks_close(&x.config);
    pair_finish(&x.p);
}

static void test_pages_grow_by_1000_keys(void **state)
{
    (void)state;
    static const struct key_pages pages[] = {{16, 16}, {7, 16}, {16, 4}};
    for (size_t i = 0; i < sizeof pages / sizeof *pages; i++) {
        struct index_pair x;
        index_pair_start(&x, &growing, 5, 2, INDEX_PAGES);
        x.config.pages = pages[i];
        check_grown(&x, 301, 1000);
        pair_finish(&x.p);
    }
}

static void test_labels_grow_by_1000_keys(void **state)
{
    (void)state;
    for (int bits = 4; bits <= 16; bits += 12) {
        struct index_pair x;
        index_pair_start(&x, &growing, 5, 0, INDEX_CHANNELS);
        channels_open(&x.config, 10, bits);
        check_grown(&x, 301, 1000);
        channels_close(&x.config);
        pair_finish(&x.p);
    }
}

static void test_short_calls_are_full_alike(void **state)
{
    (void)state;
    struct case_shape shape = {3, 40, 2, 1, 64, DTYPE_F32, .n_tail = 5};
    struct selection_pair p;
    pair_start_case(&p, &shape, 3, 2);
    for (int size = 34; size <= 42; size++) {
        BOTH(&p, selection_begin);
        BOTH(&p, select_if_short, count(size - 3), 3);
        BOTH(&p, score_exact);
        BOTH(&p, select_top_k, count(5), SHARE_HEAD);
        check_equal(&p, "short");
    }
    pair_finish(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        pair_test(test_hash_chooses_the_same_keys),
        pair_test(test_hash_activations_choose_the_same_keys),
        pair_test(test_wide_networks_choose_the_same_keys),
        pair_test(test_pages_are_the_same),
        pair_test(test_pages_by_mass_are_the_same),
        pair_test(test_pages_overlap_with_what_is_selected),
        pair_test(test_unrounded_labels_choose_the_same_keys),
        pair_test(test_labels_of_every_width_choose_the_same_keys),
        pair_test(test_hash_grows_by_1000_keys),
        pair_test(test_pages_grow_by_1000_keys),
        pair_test(test_labels_grow_by_1000_keys),
        pair_test(test_short_calls_are_full_alike),
    };
    if (!pair_open(true))
        return PAIR_SKIPPED;
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    pair_close();
    return n_failed;
}
