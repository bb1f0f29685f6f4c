/* PQCache's index on cuda as on the cpu: k-means over keys of whole numbers, whose sums are exact,
 * and choices by what comes of it. */
#include "tests/selection_pair.h"

enum { LAYER = 1, N_LAYERS = 2 };

static const struct case_shape shapes[] = {
    {1, 300, 4, 2, 64, DTYPE_BF16, .n_tail = 3},
    {1, 1501, 8, 1, 64, DTYPE_F32, .n_tail = 0},
    {3, 97, 6, 2, 80, DTYPE_F32, .n_tail = 10},
    {11, 130, 3, 3, 64, DTYPE_BF16, .n_tail = 0, .window = 70},
    {1, 4100, 12, 2, 128, DTYPE_BF16, .n_tail = 9, .first_key = 5},
};

enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static const struct key_codes usual[] = {
    {.n_parts = 2, .code_bits = 4, .max_rounds = 5, .first_key = 4, .seed = 3},
    {.n_parts = 16, .code_bits = 3, .max_rounds = 10, .first_key = 0, .seed = 4},
    {.n_parts = 4,
     .code_bits = 5,
     .max_rounds = 3,
     .first_key = 9,
     .metric = CODES_INNER,
     .seed = 5},
};

enum { N_USUAL = sizeof usual / sizeof *usual };

struct codes_pair {
    struct selection_pair p;
    struct key_index_config config;
    struct key_index *index[N_PAIR];
};

static void codes_start(struct codes_pair *x, const struct case_shape *s, uint64_t seed,
                        const struct key_codes *codes)
{
    pair_start_case(&x->p, s, seed, 3);
    x->config = (struct key_index_config){.kind = INDEX_CODES,
                                          .n_layers = N_LAYERS,
                                          .n_heads = s->n_heads,
                                          .n_kv_heads = s->n_kv_heads,
                                          .head_dim = s->head_dim,
                                          .max_keys = s->n_keys,
                                          .kv_dtype = s->dtype,
                                          .codes = *codes};
    for (int side = 0; side < N_PAIR; side++) {
        char why[256] = "";
        x->p.att[side].layer = LAYER;
        x->index[side] =
            pair.backend[side]->index_open(pair.dev[side], &x->config, why, sizeof why);
        if (!x->index[side])
            fail_msg("%s: %s", pair.backend[side]->name, why);
    }
    BOTH(&x->p, selection_begin); /* for the layer */
}

/* n_rows 0: the keys before the call's own. */
static void codes_update(struct codes_pair *x, bool before)
{
    for (int side = 0; side < N_PAIR; side++) {
        struct attention att = x->p.att[side];
        att.n_rows = before ? 0 : att.n_rows;
        pair.backend[side]->index_update(pair.dev[side], x->index[side], &att);
    }
}

static void codes_choose(struct codes_pair *x, enum share share)
{
    const struct key_codes *c = &x->config.codes;
    BOTH(&x->p, selection_begin);
    BOTH(&x->p, select_sink, count(2));
    BOTH(&x->p, select_if_short, count(12), c->first_key + (1 << c->code_bits));
    for (int side = 0; side < N_PAIR; side++)
        pair.backend[side]->score_index(pair.dev[side], x->p.sel[side], x->index[side],
                                        &x->p.att[side]);
    BOTH(&x->p, select_top_k, count(12), share);
}

static void codes_finish(struct codes_pair *x)
{
    for (int side = 0; side < N_PAIR; side++)
        pair.backend[side]->index_close(pair.dev[side], x->index[side]);
    pair_finish(&x->p);
}

/* The same number of keys, and hardly one that differs: scores are rounded in another order. */
static void check_alike(struct codes_pair *x, const char *what)
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
    if (n_differ > n_all / 100)
        fail_msg("%s: %d of %d keys differ", what, n_differ, n_all);
}

static void test_centroids_of_a_call_choose_the_same_keys(void **state)
{
    (void)state;
    for (int shape = 0; shape < N_SHAPES; shape++)
        for (int i = 0; i < 2 * N_USUAL; i++) {
            struct codes_pair x;
            codes_start(&x, &shapes[shape], (uint64_t)shape + 1, &usual[i / 2]);
            codes_update(&x, false);
            codes_choose(&x, i % 2);
            check_alike(&x, "codes of a call");
            assert_int_equal(cuda_case_counts(&x.p.cuda).score_rows, x.p.c.counts.score_rows);
            codes_finish(&x);
        }
}

static void test_centroids_of_a_context_choose_the_same_keys(void **state)
{
    (void)state;
    for (int shape = 0; shape < N_SHAPES; shape++)
        for (int i = 0; i < 2 * N_USUAL; i++) {
            struct codes_pair x;
            codes_start(&x, &shapes[shape], (uint64_t)shape + 1, &usual[i / 2]);
            codes_update(&x, true);
            codes_update(&x, false);
            codes_choose(&x, i % 2);
            check_alike(&x, "codes of a context");
            codes_finish(&x);
        }
}

/* Centroids from the host, more than a byte counts. */
static void test_given_centroids_choose_the_same_keys(void **state)
{
    (void)state;
    for (int shape = 0; shape < N_SHAPES; shape++)
        for (int metric = 0; metric < 2; metric++) {
            const struct case_shape *s = &shapes[shape];
            struct key_codes codes = {
                .n_parts = 4, .code_bits = 9, .first_key = 1, .metric = (enum code_metric)metric};
            size_t n_problems = (size_t)(N_LAYERS * s->n_kv_heads * codes.n_parts);
            size_t n = n_problems * 512 * (size_t)(s->head_dim / codes.n_parts + metric);
            float *centroids = calloc(n, sizeof *centroids), *phi = calloc(n_problems, sizeof *phi);
            uint64_t random = 31;
            for (size_t i = 0; i < n; i++)
                centroids[i] = (float)((int)(case_random(&random) % 7) - 3);
            for (size_t i = 0; i < n_problems; i++)
                phi[i] = 200;
            codes.centroids = centroids;
            codes.phi = phi;
            struct codes_pair x;
            codes_start(&x, s, (uint64_t)shape + 1, &codes);
            codes_update(&x, true);
            codes_update(&x, false);
            BOTH(&x.p, select_sink, count(2));
            for (int side = 0; side < N_PAIR; side++)
                pair.backend[side]->score_index(pair.dev[side], x.p.sel[side], x.index[side],
                                                &x.p.att[side]);
            BOTH(&x.p, select_top_k, count(12), SHARE_HEAD);
            check_alike(&x, "given centroids");
            codes_finish(&x);
            free(centroids);
            free(phi);
        }
}

static void step_to(struct codes_pair *x, int n_tail)
{
    x->p.c.step.n_tail = n_tail;
    pair.backend[PAIR_CUDA]->upload(pair.dev[PAIR_CUDA], (void *)x->p.att[PAIR_CUDA].step,
                                    &x->p.c.step, sizeof x->p.c.step);
}

static void test_codes_grow_by_1000_keys(void **state)
{
    (void)state;
    static const struct case_shape growing = {1, 1301, 4, 2, 64, DTYPE_BF16, .n_tail = 1000};
    for (int i = 0; i < N_USUAL; i++)
        for (int with_context = 0; with_context < 2; with_context++) {
            struct codes_pair x;
            codes_start(&x, &growing, 9, &usual[i]);
            for (int n = 0; n < 1003; n++) {
                /* In the end a question that goes back. */
                step_to(&x, n < 1000 ? n : n - 1000);
                if (n == 0 && with_context)
                    codes_update(&x, true);
                codes_update(&x, false);
                if (n % 111 != 0 && n < 999)
                    continue;
                codes_choose(&x, SHARE_HEAD);
                check_alike(&x, "grown");
            }
            codes_finish(&x);
        }
}

/* A call of too few keys is full on both; once there are enough, centroids come within a step. */
static void test_centroids_come_with_enough_keys(void **state)
{
    (void)state;
    static const struct case_shape growing = {1, 160, 4, 2, 64, DTYPE_BF16, .n_tail = 120};
    struct key_codes codes = usual[0];
    struct codes_pair x;
    codes.code_bits = 6;
    codes_start(&x, &growing, 9, &codes);
    for (int n = 0; n < 120; n++) {
        step_to(&x, n);
        codes_update(&x, false);
        codes_choose(&x, SHARE_GROUP);
        check_alike(&x, "coming");
    }
    codes_finish(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        pair_test(test_centroids_of_a_call_choose_the_same_keys),
        pair_test(test_centroids_of_a_context_choose_the_same_keys),
        pair_test(test_given_centroids_choose_the_same_keys),
        pair_test(test_codes_grow_by_1000_keys),
        pair_test(test_centroids_come_with_enough_keys),
    };
    if (!pair_open(true))
        return PAIR_SKIPPED;
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    pair_close();
    return n_failed;
}
