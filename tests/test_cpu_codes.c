/* PQCache's index on the cpu: k-means, and codes that grow. */
#include <math.h>

#include "kernels/cpu/index_codes.h"
#include "tests/index_trial.h"

enum { CONTEXT = 301, GROWN = 1000 };

static const struct attention *call_at(struct trial *t, int n_tail, int n_rows)
{
    t->c.step.n_tail = n_tail;
    t->c.att.n_rows = n_rows;
    return &t->c.att;
}

static void open_growing(struct trial *t, int level)
{
    struct case_shape shape = {1, CONTEXT + GROWN, 6, 2, 80, DTYPE_BF16, .n_tail = GROWN - 1};
    trial_open(t, level, &shape, 5);
    t->c.att.layer = LAYER;
}

static struct key_codes codes_config(int n_parts, int code_bits, enum code_metric metric)
{
    return (struct key_codes){.n_parts = n_parts,
                              .code_bits = code_bits,
                              .max_rounds = 6,
                              .first_key = 5,
                              .metric = metric,
                              .seed = 7};
}

static void expect_same_codes(const struct key_index *a, const struct key_index *b, int n_keys)
{
    const struct key_index_config *c = &a->config;
    size_t bytes = (size_t)codes_bytes_of(c);
    for (int head = 0; head < c->n_kv_heads; head++)
        for (int part = 0; part < c->codes.n_parts; part++) {
            size_t problem = codes_problem(a, LAYER, head, part);
            assert_memory_equal(codes_centroids(a, problem), codes_centroids(b, problem),
                                (size_t)codes_dim(c) * (size_t)codes_padded(c) * sizeof(float));
            assert_memory_equal(codes_of(a, problem), codes_of(b, problem), (size_t)n_keys * bytes);
        }
}

/* Beside an index of the same context that got the rest at once. */
static void test_codes_grown_by_1000_keys_equal_those_made_at_once(void **state)
{
    (void)state;
    for (int level = 0; level < N_LEVELS; level++)
        for (int i = 0; i < 4; i++) {
            struct trial t;
            open_growing(&t, level);
            struct key_index_config config = config_of(&t, INDEX_CODES);
            config.codes = codes_config(i % 2 ? 5 : 2, i < 2 ? 5 : 8, (enum code_metric)(i % 2));
            config.codes.code_bits = i < 3 ? config.codes.code_bits : 4;
            struct key_index *grown = open_index(&t, &config), *fresh = open_index(&t, &config);
            backend_cpu.index_update(t.dev, grown, call_at(&t, 0, 0));
            backend_cpu.index_update(t.dev, fresh, call_at(&t, 0, 0));
            for (int n = 0; n < GROWN; n++)
                backend_cpu.index_update(t.dev, grown, call_at(&t, n, 1));
            backend_cpu.index_update(t.dev, fresh, call_at(&t, GROWN - 1, 1));
            assert_int_equal(grown->n_frozen[LAYER], CONTEXT);
            expect_same_codes(grown, fresh, CONTEXT + GROWN);
            backend_cpu.index_close(t.dev, grown);
            backend_cpu.index_close(t.dev, fresh);
            trial_close(&t);
        }
}

/* Too few keys to be clustered wait for more; keys that are gone count no more. */
static void test_centroids_come_with_enough_keys_and_go_with_them(void **state)
{
    (void)state;
    for (int level = 0; level < N_LEVELS; level++) {
        struct trial t;
        open_growing(&t, level);
        struct key_index_config config = config_of(&t, INDEX_CODES);
        config.codes = codes_config(4, 9, CODES_EUCLIDEAN); /* 512 centroids, 5 keys less */
        struct key_index *index = open_index(&t, &config), *fresh = open_index(&t, &config);
        backend_cpu.index_update(t.dev, index, call_at(&t, 0, 0));
        assert_int_equal(index->n_frozen[LAYER], 0);
        backend_cpu.index_update(t.dev, index, call_at(&t, 214, 1));
        assert_int_equal(index->n_frozen[LAYER], 0);
        backend_cpu.index_update(t.dev, index, call_at(&t, 215, 1));
        assert_int_equal(index->n_frozen[LAYER], 517);
        backend_cpu.index_update(t.dev, index, call_at(&t, 700, 1));
        backend_cpu.index_update(t.dev, index, call_at(&t, 3, 1));
        assert_int_equal(index->n_frozen[LAYER], 0);
        backend_cpu.index_update(t.dev, index, call_at(&t, 600, 1));
        backend_cpu.index_update(t.dev, fresh, call_at(&t, 600, 1));
        assert_int_equal(index->n_frozen[LAYER], CONTEXT + 601);
        expect_same_codes(index, fresh, CONTEXT + 601);
        backend_cpu.index_close(t.dev, index);
        backend_cpu.index_close(t.dev, fresh);
        trial_close(&t);
    }
}

/* --- k-means -----------------------------------------------------------------------------------
 */

enum { POINTS = 400, DIM = 6, CENTROIDS = 16 };

struct clusters {
    float points[POINTS * DIM], centroids[DIM * CENTROIDS];
    uint16_t nearest[POINTS];
    double sums[CENTROIDS * DIM];
    int counts[CENTROIDS];
};

static void run_kmeans(struct clusters *x, int max_rounds, const struct index_kernels *kernels)
{
    struct kmeans k = {.points = x->points,
                       .n = POINTS,
                       .dim = DIM,
                       .n_centroids = CENTROIDS,
                       .padded = CENTROIDS,
                       .centroids = x->centroids,
                       .nearest = x->nearest,
                       .sums = x->sums,
                       .counts = x->counts,
                       .max_rounds = max_rounds,
                       .seed = 3};
    kmeans_run(&k, kernels);
}

/* The mean squared distance of points from what they are said to be nearest to. */
static double inertia(const struct clusters *x)
{
    double sum = 0;
    for (int i = 0; i < POINTS; i++)
        for (int d = 0; d < DIM; d++) {
            double apart = (double)x->points[i * DIM + d] -
                           (double)x->centroids[d * CENTROIDS + x->nearest[i]];
            sum += apart * apart / POINTS;
        }
    return sum;
}

static void make_points(struct clusters *x)
{
    uint64_t random = 5;
    for (int i = 0; i < POINTS; i++)
        for (int d = 0; d < DIM; d++)
            x->points[i * DIM + d] = case_normal(&random) + (float)(i % 7 == d) * 4;
}

/* Lloyd's rounds never make it worse; in the end no point's mean cluster is off. */
static void test_rounds_of_k_means_bring_points_and_centroids_together(void **state)
{
    (void)state;
    static struct clusters x;
    make_points(&x);
    for (int level = 0; level < N_LEVELS; level++) {
        const struct index_kernels *kernels = index_kernels(devices[level]->isa);
        double last = INFINITY;
        for (int rounds = 0; rounds <= 40; rounds++) {
            run_kmeans(&x, rounds, kernels);
            double now = inertia(&x);
            if (now > last * (1 + 1e-6))
                fail_msg("round %d: %.9g after %.9g", rounds, now, last);
            last = now;
        }
        double mean[CENTROIDS][DIM] = {{0}};
        int n[CENTROIDS] = {0};
        for (int i = 0; i < POINTS; i++) {
            n[x.nearest[i]]++;
            for (int d = 0; d < DIM; d++)
                mean[x.nearest[i]][d] += (double)x.points[i * DIM + d];
        }
        for (int c = 0; c < CENTROIDS; c++)
            for (int d = 0; d < DIM && n[c]; d++)
                assert_true(fabs(mean[c][d] / n[c] - (double)x.centroids[d * CENTROIDS + c]) <
                            0.02);
    }
}

static void test_k_means_of_as_many_points_finds_them_all(void **state)
{
    (void)state;
    static struct clusters x;
    make_points(&x);
    struct kmeans k = {.points = x.points,
                       .n = CENTROIDS,
                       .dim = DIM,
                       .n_centroids = CENTROIDS,
                       .padded = CENTROIDS,
                       .centroids = x.centroids,
                       .nearest = x.nearest,
                       .sums = x.sums,
                       .counts = x.counts,
                       .max_rounds = 5};
    kmeans_run(&k, &index_kernels_reference);
    bool used[CENTROIDS] = {0};
    for (int i = 0; i < CENTROIDS; i++) {
        assert_false(used[x.nearest[i]]);
        used[x.nearest[i]] = true;
        for (int d = 0; d < DIM; d++)
            assert_true(x.centroids[d * CENTROIDS + x.nearest[i]] == x.points[i * DIM + d]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_codes_grown_by_1000_keys_equal_those_made_at_once),
        cmocka_unit_test(test_centroids_come_with_enough_keys_and_go_with_them),
        cmocka_unit_test(test_rounds_of_k_means_bring_points_and_centroids_together),
        cmocka_unit_test(test_k_means_of_as_many_points_finds_them_all),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
