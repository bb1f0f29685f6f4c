/* SOCKET's index on the cpu: scores by the definition, and a choice that does not look at what is
 * selected already. */
#include "tests/index_trial.h"

static double dot(const float *a, const float *b, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

static void load_row(const struct trial *t, const void *segment[], int kv_head, int key, float *to)
{
    const struct kv_layer *kv = &t->c.att.kv;
    int n_context = kv->capacity[KV_CONTEXT], s = key >= n_context;
    size_t row = (size_t)kv_head * (size_t)kv->capacity[s] + (size_t)(key - (s ? n_context : 0));
    load_f32(to, segment[s], kv->dtype, row * (size_t)kv->head_dim, kv->head_dim);
}

/* |v| sum over tables of prod over planes of sigmoid(2 c h / tau), h = tanh(w q) / sqrt(D), c the
 * side of the plane on which the key lies. */
static double defined_score(const struct trial *t, const struct key_index_config *c, int row,
                            int head, int key)
{
    enum { MAX_DIM = 256 };
    const struct key_buckets *b = &c->buckets;
    int dim = c->head_dim, kv_head = head / (c->n_heads / c->n_kv_heads);
    const void *keys[] = {t->c.k[0], t->c.k[1]}, *values[] = {t->c.v[0], t->c.v[1]};
    const float *q = t->c.q + (size_t)row * (size_t)t->c.att.q_stride + (size_t)(head * dim);
    const float *w = b->planes;
    float k[MAX_DIM], v[MAX_DIM];
    load_row(t, keys, kv_head, key, k);
    load_row(t, values, kv_head, key, v);
    if (b->n_planes > 1)
        w += (size_t)LAYER * (size_t)(b->n_tables * b->n_bits * dim);
    double sum = 0;
    for (int table = 0; table < b->n_tables; table++) {
        double product = 1;
        for (int bit = 0; bit < b->n_bits; bit++, w += dim) {
            double h = tanh(dot(w, q, dim)) / sqrt(dim), side = dot(w, k, dim) >= 0 ? 1 : -1;
            product /= 1 + exp(-2 * side * h / (double)b->tau);
        }
        sum += product;
    }
    return sqrt(dot(v, v, dim)) * sum;
}

static void sinks_and_draws(struct trial *t, struct selection *sel)
{
    backend_cpu.select_sink(t->dev, sel, &t->c.att, count(4));
    backend_cpu.select_random(t->dev, sel, &t->c.att, 0.3, 0, SHARE_HEAD);
}

static void check_scores(struct trial *t, int n_tables, int n_bits, int n_planes)
{
    struct key_index_config config = config_of(t, INDEX_BUCKETS);
    buckets_open(&config, n_tables, n_bits, n_planes);
    struct key_index *index = open_index(t, &config);
    t->c.att.layer = LAYER;
    backend_cpu.index_update(t->dev, index, &t->c.att);
    backend_cpu.score_index(t->dev, t->sel, index, &t->c.att);
    for (int row = 0; row < t->m.n_rows; row++)
        for (int head = 0; head < t->m.n_heads; head++)
            for (int key = 0; key < t->m.n_keys; key++) {
                double got = (double)selection_scores(t->sel, row, head)[key];
                if (!is_visible(&t->m, row, key))
                    continue;
                double want = defined_score(t, &config, row, head, key);
                if (!(fabs(got - want) <= 1e-5 * want))
                    fail_msg("%s, %d keys, %d tables of %d bits: row %d head %d key %d: got %.9g, "
                             "want %.9g",
                             cpu_isa_name(t->dev->isa), t->m.n_keys, n_tables, n_bits, row, head,
                             key, got, want);
            }
    backend_cpu.index_close(t->dev, index);
    buckets_close(&config);
}

static void test_scores_are_those_of_the_definition(void **state)
{
    (void)state;
    static const struct {
        int n_tables, n_bits, n_planes;
    } sizes[] = {{1, 1, 1}, {3, 5, N_LAYERS}, {5, 10, 1}, {2, 17, 1}, {2, 32, N_LAYERS}};
    struct trial t;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        FOR_EACH_TRIAL(t)
        {
            check_scores(&t, sizes[i].n_tables, sizes[i].n_bits, sizes[i].n_planes);
        }
}

/* The model holds what sinks and draws alone select. */
static void model_sinks_and_draws(struct trial *t)
{
    struct selection *sel =
        backend_cpu.selection_open(t->dev, t->m.n_rows, t->m.n_heads, t->m.n_kv_heads, t->m.n_keys);
    assert_non_null(sel);
    backend_cpu.selection_begin(t->dev, sel, &t->c.att);
    sinks_and_draws(t, sel);
    backend_cpu.selection_end(t->dev, sel, &t->c.att);
    for (int row = 0; row < t->m.n_rows; row++)
        for (int head = 0; head < t->m.n_heads; head++) {
            int n = backend_cpu.selection_get(t->dev, sel, row, head, t->keys, t->prob);
            t->m.full = t->m.full || n < 0;
            for (int i = 0; i < n; i++)
                t->m.p[at(&t->m, row, head, t->keys[i])] = t->prob[i];
        }
    backend_cpu.selection_close(t->dev, sel);
}

/* The n best of all visible keys by the score buffer, with p = 1. */
static void model_best_of_all(struct trial *t, int n, enum share share)
{
    struct model *m = &t->m, all = t->m;
    m->full = m->full || m->n_keys <= n;
    all.p = calloc(at(m, m->n_rows, 0, 0), sizeof *all.p);
    assert_non_null(all.p);
    for (int row = 0; row < m->n_rows; row++)
        for (int head = 0; head < m->n_heads; head++)
            for (int key = 0; key < m->n_keys; key++)
                if (is_visible(m, row, key))
                    m->score[at(m, row, head, key)] = selection_scores(t->sel, row, head)[key];
    model_top_k(&all, count(n), share);
    for (size_t i = 0; i < at(m, m->n_rows, 0, 0); i++)
        m->p[i] = all.p[i] > 0.0f ? 1.0f : m->p[i];
    free(all.p);
}

/* The best of all visible keys, whether sinks or draws hold them already; what was drawn is certain
 * then, and keeps its p otherwise. */
static void test_keys_are_chosen_whatever_is_selected(void **state)
{
    (void)state;
    enum { BEST = 9 };
    struct trial t;
    for (int share = 0; share < 2; share++)
        FOR_EACH_TRIAL(t)
        {
            struct key_index_config config = config_of(&t, INDEX_BUCKETS);
            buckets_open(&config, 6, 6, 1);
            struct key_index *index = open_index(&t, &config);
            t.c.att.layer = LAYER;
            model_sinks_and_draws(&t);
            sinks_and_draws(&t, t.sel);
            backend_cpu.index_update(t.dev, index, &t.c.att);
            backend_cpu.score_index(t.dev, t.sel, index, &t.c.att);
            model_best_of_all(&t, BEST, share);
            backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, count(BEST), share);
            check_selected(&t, "sink, random, socket");
            backend_cpu.index_close(t.dev, index);
            buckets_close(&config);
        }
}

/* Exact scores that come after are chosen from what is left again. */
static void test_other_scores_end_it(void **state)
{
    (void)state;
    struct trial t;
    FOR_EACH_TRIAL(t)
    {
        struct key_index_config config = config_of(&t, INDEX_BUCKETS);
        buckets_open(&config, 2, 4, 1);
        exact_scores(&t, 3);
        struct key_index *index = open_index(&t, &config);
        t.c.att.layer = LAYER;
        backend_cpu.index_update(t.dev, index, &t.c.att);
        backend_cpu.score_index(t.dev, t.sel, index, &t.c.att);
        backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(4));
        model_sink(&t.m, count(4));
        backend_cpu.score_exact(t.dev, t.sel, &t.c.att);
        backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, count(3), SHARE_HEAD);
        model_top_k(&t.m, count(3), SHARE_HEAD);
        check_selected(&t, "buckets, sink, top-k");
        backend_cpu.index_close(t.dev, index);
        buckets_close(&config);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scores_are_those_of_the_definition),
        cmocka_unit_test(test_keys_are_chosen_whatever_is_selected),
        cmocka_unit_test(test_other_scores_end_it),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
