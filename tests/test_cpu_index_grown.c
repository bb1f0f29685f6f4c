/* An index over keys on the cpu that grew key by key, or went back, against one made at once. */
#include "tests/index_trial.h"

enum { CONTEXT = 301, GROWN = 1000 };

static const enum key_index_kind kinds[] = {INDEX_HASH, INDEX_PAGES, INDEX_CHANNELS, INDEX_BUCKETS};

/* The call of one row whose key is the tail's n_tail-th. */
static const struct attention *call_at(struct trial *t, int n_tail)
{
    t->c.step.n_tail = n_tail;
    t->m.n_keys = CONTEXT + n_tail + 1;
    return &t->c.att;
}

/* A prefilled context at once, then n keys of the tail one by one. */
static void grow(struct trial *t, struct key_index *index, int n)
{
    struct attention context = *call_at(t, 0);
    context.n_rows = 0;
    backend_cpu.index_update(t->dev, index, &context);
    for (int i = 0; i < n; i++)
        backend_cpu.index_update(t->dev, index, call_at(t, i));
}

static void expect_same(const struct trial *t, const void *grown, const void *fresh, size_t n_bytes,
                        const char *what, int which)
{
    if (memcmp(grown, fresh, n_bytes) != 0)
        fail_msg("%s, %d keys: %s %d grown and made at once differ", cpu_isa_name(t->dev->isa),
                 t->m.n_keys, what, which);
}

static void expect_same_labels(const struct trial *t, const struct key_index *grown,
                               const struct key_index *fresh)
{
    const struct key_index_config *c = &grown->config;
    if (c->kind != INDEX_CHANNELS)
        return;
    for (int i = 0; i < c->n_heads * grown->n_words; i++) {
        size_t first = (size_t)(LAYER * c->n_heads * grown->n_words + i) * grown->stride;
        expect_same(t, grown->words + first, fresh->words + first,
                    (size_t)t->m.n_keys * sizeof *grown->words, "word of levels", i);
    }
    for (int i = 0; i < c->n_heads * grown->n_values; i++) {
        size_t bytes = dtype_bytes(c->kv_dtype);
        size_t first = (size_t)(LAYER * c->n_heads * grown->n_values + i) * grown->stride * bytes;
        expect_same(t, (char *)grown->values + first, (char *)fresh->values + first,
                    (size_t)t->m.n_keys * bytes, "values", i);
    }
}

static void expect_same_buckets(const struct trial *t, const struct key_index *grown,
                                const struct key_index *fresh)
{
    const struct key_index_config *c = &grown->config;
    if (c->kind != INDEX_BUCKETS)
        return;
    size_t bytes = c->buckets.n_bits > 16 ? 4 : 2, n_keys = (size_t)t->m.n_keys;
    for (int i = 0; i < c->n_kv_heads * c->buckets.n_tables; i++) {
        size_t first = (size_t)(LAYER * c->n_kv_heads * c->buckets.n_tables + i) * grown->stride;
        expect_same(t, (char *)grown->codes + first * bytes, (char *)fresh->codes + first * bytes,
                    n_keys * bytes, "buckets of table", i);
    }
    for (int i = 0; i < c->n_kv_heads; i++) {
        size_t first = (size_t)(LAYER * c->n_kv_heads + i) * grown->stride;
        expect_same(t, grown->norms + first, fresh->norms + first, n_keys * sizeof(float),
                    "lengths of head", i);
    }
}

/* All that is kept of the call's keys, of LAYER, by this index and by one made for the call. */
static void expect_as_fresh(const struct trial *t, const struct key_index *grown,
                            const struct attention *att)
{
    struct key_index *fresh = open_index(t, &grown->config);
    backend_cpu.index_update(t->dev, fresh, att);
    assert_int_equal(grown->n_indexed[LAYER], t->m.n_keys);
    const struct key_index_config *c = &grown->config;
    int n_arrays = c->n_heads * grown->n_words;
    for (int i = 0; c->kind == INDEX_HASH && i < n_arrays; i++) {
        size_t first = (size_t)(LAYER * n_arrays + i) * grown->stride;
        expect_same(t, grown->words + first, fresh->words + first,
                    (size_t)t->m.n_keys * sizeof *grown->words, "word", i);
    }
    for (int i = 0; c->kind == INDEX_PAGES && i < c->n_kv_heads; i++) {
        size_t n_bytes = 2 * (size_t)c->head_dim * dtype_bytes(grown->bounds);
        size_t first = (size_t)(LAYER * c->n_kv_heads + i) * grown->stride * n_bytes;
        expect_same(t, (char *)grown->pages + first, (char *)fresh->pages + first,
                    (size_t)index_n_pages(grown, t->m.n_keys) * n_bytes, "pages of head", i);
    }
    expect_same_labels(t, grown, fresh);
    expect_same_buckets(t, grown, fresh);
    backend_cpu.index_close(t->dev, fresh);
}

static void open_growing(struct trial *t, int level)
{
    struct case_shape shape = {1, CONTEXT + GROWN, 6, 2, 80, DTYPE_BF16, .n_tail = GROWN - 1};
    trial_open(t, level, &shape, 5);
    t->c.att.layer = LAYER;
}

/* Those of the configuration's kind, some that can be had. */
static void parameters_open(struct key_index_config *config)
{
    config->pages = (struct key_pages){16, 16};
    if (config->kind == INDEX_HASH)
        networks_open(config, 2, HASH_SILU, false);
    else if (config->kind == INDEX_CHANNELS)
        channels_open(config, 10, 4);
    else if (config->kind == INDEX_BUCKETS)
        buckets_open(config, 7, 9, 1);
}

static void parameters_close(struct key_index_config *config)
{
    if (config->kind == INDEX_HASH)
        networks_close(config);
    channels_close(config);
    buckets_close(config);
}

static void test_hash_grown_by_1000_keys_equals_from_scratch(void **state)
{
    (void)state;
    for (int level = 0; level < N_LEVELS; level++)
        for (int activation = 0; activation <= HASH_TANH; activation++) {
            struct trial t;
            open_growing(&t, level);
            struct key_index_config config = config_of(&t, INDEX_HASH);
            networks_open(&config, 2, activation, false);
            struct key_index *index = open_index(&t, &config);
            grow(&t, index, GROWN);
            expect_as_fresh(&t, index, call_at(&t, GROWN - 1));
            backend_cpu.index_close(t.dev, index);
            networks_close(&config);
            trial_close(&t);
        }
}

static void test_pages_grown_by_1000_keys_equal_from_scratch(void **state)
{
    (void)state;
    static const struct key_pages pages[] = {{16, 16}, {7, 16}, {1, 16}, {16, 4}, {64, 1}};
    for (int level = 0; level < N_LEVELS; level++)
        for (size_t i = 0; i < sizeof pages / sizeof *pages; i++) {
            struct trial t;
            open_growing(&t, level);
            struct key_index_config config = config_of(&t, INDEX_PAGES);
            config.pages = pages[i];
            struct key_index *index = open_index(&t, &config);
            grow(&t, index, GROWN);
            expect_as_fresh(&t, index, call_at(&t, GROWN - 1));
            backend_cpu.index_close(t.dev, index);
            trial_close(&t);
        }
}

static void test_buckets_grown_by_1000_keys_equal_from_scratch(void **state)
{
    (void)state;
    static const int bits[] = {1, 8, 16, 17, 32};
    for (int level = 0; level < N_LEVELS; level++)
        for (size_t i = 0; i < sizeof bits / sizeof *bits; i++) {
            struct trial t;
            open_growing(&t, level);
            struct key_index_config config = config_of(&t, INDEX_BUCKETS);
            buckets_open(&config, 9, bits[i], i % 2 ? 1 : N_LAYERS);
            struct key_index *index = open_index(&t, &config);
            grow(&t, index, GROWN);
            expect_as_fresh(&t, index, call_at(&t, GROWN - 1));
            backend_cpu.index_close(t.dev, index);
            buckets_close(&config);
            trial_close(&t);
        }
}

static void test_labels_grown_by_1000_keys_equal_from_scratch(void **state)
{
    (void)state;
    static const int bits[] = {1, 2, 3, 4, 8, 11, 16};
    for (int level = 0; level < N_LEVELS; level++)
        for (size_t i = 0; i < sizeof bits / sizeof *bits; i++) {
            struct trial t;
            open_growing(&t, level);
            struct key_index_config config = config_of(&t, INDEX_CHANNELS);
            channels_open(&config, i % 2 ? 5 : 20, bits[i]);
            struct key_index *index = open_index(&t, &config);
            grow(&t, index, GROWN);
            expect_as_fresh(&t, index, call_at(&t, GROWN - 1));
            backend_cpu.index_close(t.dev, index);
            channels_close(&config);
            trial_close(&t);
        }
}

/* A question that goes back to the context, and a tail that is cut within a page. */
static void test_keys_after_a_rewind_replace_those_before(void **state)
{
    (void)state;
    static const int rewinds[] = {0, 5, 40};
    for (int level = 0; level < N_LEVELS; level++)
        for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
            struct trial t;
            open_growing(&t, level);
            struct key_index_config config = config_of(&t, kinds[k]);
            parameters_open(&config);
            struct key_index *index = open_index(&t, &config);
            grow(&t, index, 61);
            for (int i = 0; i < 3; i++) {
                uint16_t *tail = t.c.k[KV_TAIL];
                size_t dim = (size_t)config.head_dim, n_keys = GROWN;
                for (int head = 0; head < config.n_kv_heads; head++)
                    for (size_t j = (size_t)rewinds[i] * dim; j < n_keys * dim; j++)
                        tail[(size_t)head * n_keys * dim + j] ^= 0x8000; /* the sign */
                backend_cpu.index_update(t.dev, index, call_at(&t, rewinds[i]));
                expect_as_fresh(&t, index, call_at(&t, rewinds[i]));
                backend_cpu.index_update(t.dev, index, call_at(&t, rewinds[i] + 20));
                expect_as_fresh(&t, index, call_at(&t, rewinds[i] + 20));
                backend_cpu.index_update(t.dev, index, call_at(&t, 60));
            }
            backend_cpu.index_close(t.dev, index);
            parameters_close(&config);
            trial_close(&t);
        }
}

static void test_an_index_of_no_keys_takes_the_first(void **state)
{
    (void)state;
    static const struct case_shape one_key = {1, 1, 6, 2, 80, DTYPE_BF16, .n_tail = 0};
    for (int level = 0; level < N_LEVELS; level++)
        for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
            struct trial t;
            trial_open(&t, level, &one_key, 5);
            t.c.att.layer = LAYER;
            struct key_index_config config = config_of(&t, kinds[k]);
            parameters_open(&config);
            struct key_index *index = open_index(&t, &config);
            struct attention none = t.c.att;
            none.n_rows = 0;
            backend_cpu.index_update(t.dev, index, &none);
            assert_int_equal(index->n_indexed[LAYER], 0);
            backend_cpu.index_update(t.dev, index, &t.c.att);
            expect_as_fresh(&t, index, &t.c.att);
            backend_cpu.index_close(t.dev, index);
            parameters_close(&config);
            trial_close(&t);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_index_of_no_keys_takes_the_first),
        cmocka_unit_test(test_hash_grown_by_1000_keys_equals_from_scratch),
        cmocka_unit_test(test_pages_grown_by_1000_keys_equal_from_scratch),
        cmocka_unit_test(test_labels_grown_by_1000_keys_equal_from_scratch),
        cmocka_unit_test(test_buckets_grown_by_1000_keys_equal_from_scratch),
        cmocka_unit_test(test_keys_after_a_rewind_replace_those_before),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
