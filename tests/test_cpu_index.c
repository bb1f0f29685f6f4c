/* Scores of indexes over keys on the cpu: every instruction set against the definitions in
 * backend.h.
 *
 * Queries, keys and weights are small whole numbers wherever equality is asked for: every sum is
 * then exact in any order. */
#include "tests/index_trial.h"

/* --- Shapes ----------------------------------------------------------------------------------- */

/* Lengths about a page of 16 and about HASH_ROWS, which go through a network together. */
static const int head_dims[] = {64, 80, 96, 128}, groups[] = {1, 3, 4, 8},
                 lengths[] = {1, 15, 16, 17, 31, 33, 203};
enum { N_DIMS = 4, N_GROUPS = 4, N_LENGTHS = 7, N_SHAPES = N_DIMS * N_GROUPS * N_LENGTHS * 2 };

/* Then what lies beyond: more keys and pages than one scoring task takes, more heads than score
 * together, a head that fills no vector, a window and padding. */
static const struct case_shape beyond[] = {
    {2, 4101, 2, 1, 64, DTYPE_BF16, .n_tail = 4},
    {1, 40, 40, 1, 64, DTYPE_F32, .n_tail = 0},
    {3, 131, 4, 4, 20, DTYPE_BF16, .n_tail = 40},
    {5, 300, 8, 2, 64, DTYPE_BF16, .n_tail = 100, .window = 90, .first_key = 4},
};
enum { N_BEYOND = sizeof beyond / sizeof *beyond, N_ALL = N_SHAPES + N_BEYOND };

static struct case_shape shape_at(int i)
{
    if (i >= N_SHAPES)
        return beyond[i - N_SHAPES];
    bool tail = i % 2;
    int head_dim = head_dims[i / 2 % N_DIMS], group = groups[i / 2 / N_DIMS % N_GROUPS];
    int n_keys = lengths[i / 2 / N_DIMS / N_GROUPS], n_kv_heads = group > 4 ? 1 : 2;
    struct case_shape shape = {.n_keys = n_keys,
                               .n_heads = group * n_kv_heads,
                               .n_kv_heads = n_kv_heads,
                               .head_dim = head_dim,
                               .dtype = i / 2 % 3 ? DTYPE_BF16 : DTYPE_F32};
    shape.n_rows = min_int(i % 4 > 1 ? 3 : 1, n_keys);
    shape.n_tail = tail ? min_int(9, n_keys - shape.n_rows) : 0;
    return shape;
}

#define FOR_EACH_SHAPE(t, i, n)                                                                    \
    for (int level = 0; level < N_LEVELS; level++)                                                 \
        for (int i = 0, open = 1; i < (n); i++, open = 1)                                          \
            for (open_at(&(t), level, i); open; trial_close(&(t)), open = 0)

static void open_at(struct trial *t, int level, int i)
{
    struct case_shape shape = shape_at(i);
    trial_open(t, level, &shape, (uint64_t)i + 1);
    t->c.att.layer = LAYER;
}

/* The scores of an index made at once into the trial's selection. */
static void score(struct trial *t, const struct key_index_config *config)
{
    struct key_index *index = open_index(t, config);
    backend_cpu.index_update(t->dev, index, &t->c.att);
    backend_cpu.score_index(t->dev, t->sel, index, &t->c.att);
    backend_cpu.index_close(t->dev, index);
}

static double key_value(const struct trial *t, int kv_head, int key, int d)
{
    const struct kv_layer *kv = &t->c.att.kv;
    int n_context = kv->capacity[KV_CONTEXT], s = key < n_context ? KV_CONTEXT : KV_TAIL;
    size_t row =
        (size_t)kv_head * (size_t)kv->capacity[s] + (size_t)(key - (s == KV_TAIL ? n_context : 0));
    return (double)load_as_f32(kv->k[s], kv->dtype, row * (size_t)kv->head_dim + (size_t)d);
}

static double query_value(const struct trial *t, int row, int head, int d)
{
    return (double)t->c.q[row * t->c.att.q_stride + head * t->c.att.kv.head_dim + d];
}

/* --- Hash: the definition --------------------------------------------------------------------- */

static double activated(double x, enum hash_activation activation)
{
    switch (activation) {
    case HASH_RELU:
        return x > 0 ? x : 0;
    case HASH_GELU_ERF:
        return x * 0.5 * erfc(-x / sqrt(2));
    case HASH_TANH:
        return tanh(x);
    default:
        return x / (1 + exp(-x));
    }
}

/* x becomes the outputs of the last linear. */
static void model_network(const struct key_index_config *config, enum hash_side side, int head,
                          double x[HASH_MAX_WIDTH])
{
    const struct hash_networks *h = &config->hash;
    size_t which = (size_t)(LAYER * config->n_heads + head);
    for (int i = 0; i < h->n_linears; i++) {
        double y[HASH_MAX_WIDTH];
        size_t n_in = (size_t)h->width[i], n_out = (size_t)h->width[i + 1];
        const float *w = h->w[side][i] + which * n_in * n_out;
        for (size_t o = 0; o < n_out; o++) {
            y[o] = (double)h->b[side][i][which * n_out + o];
            for (size_t j = 0; j < n_in; j++)
                y[o] += x[j] * (double)w[j * n_out + o];
        }
        for (size_t o = 0; o < n_out; o++)
            x[o] = i + 1 < h->n_linears ? activated(y[o], h->activation) : y[o];
    }
}

/* By head: signs [n, n_bits] of what was hashed, 0 where f32 may tell either. */
static void model_signs(const struct trial *t, const struct key_index_config *config,
                        enum hash_side side, int head, double tolerance, int8_t *signs)
{
    int n = side == HASH_KEY ? t->m.n_keys : t->m.n_rows, group = t->m.n_heads / t->m.n_kv_heads;
    int n_bits = config->hash.width[config->hash.n_linears];
    for (int i = 0; i < n; i++) {
        double x[HASH_MAX_WIDTH];
        for (int d = 0; d < config->head_dim; d++)
            x[d] = side == HASH_KEY ? key_value(t, head / group, i, d) : query_value(t, i, head, d);
        model_network(config, side, head, x);
        for (int bit = 0; bit < n_bits; bit++)
            *signs++ = (int8_t)(tolerance > 0 && fabs(x[bit]) < tolerance ? 0
                                : x[bit] > 0                              ? 1
                                                                          : -1);
    }
}

/* Returns the share of signs that could not be told. */
static double check_hash_scores(struct trial *t, const struct key_index_config *config,
                                double tolerance)
{
    int n_bits = config->hash.width[config->hash.n_linears];
    int8_t *keys = calloc((size_t)(t->m.n_keys * n_bits), 1);
    int8_t *queries = calloc((size_t)(t->m.n_rows * n_bits), 1);
    double n_doubtful = 0, n_signs = 0;
    score(t, config);
    for (int head = 0; head < t->m.n_heads; head++) {
        model_signs(t, config, HASH_KEY, head, tolerance, keys);
        model_signs(t, config, HASH_QUERY, head, tolerance, queries);
        for (int row = 0; row < t->m.n_rows; row++)
            for (int key = 0; key < t->m.n_keys; key++) {
                if (!is_visible(&t->m, row, key))
                    continue;
                int want = 0, doubt = 0;
                for (int bit = 0; bit < n_bits; bit++) {
                    int same = keys[key * n_bits + bit] * queries[row * n_bits + bit];
                    want += same;
                    doubt += same == 0;
                }
                double got = (double)selection_scores(t->sel, row, head)[key];
                if (!(fabs(got - want) <= doubt))
                    fail_msg("%s, %d keys, head_dim %d: row %d head %d key %d: got %g, want %d "
                             "give or take %d",
                             cpu_isa_name(t->dev->isa), t->m.n_keys, config->head_dim, row, head,
                             key, got, want, doubt);
                n_doubtful += doubt;
                n_signs += n_bits;
            }
    }
    free(keys);
    free(queries);
    return n_doubtful / n_signs;
}

/* --- Hash: the claims ------------------------------------------------------------------------- */

static void test_each_instruction_set_runs_its_own_loops(void **state)
{
    (void)state;
    assert_int_equal(devices[0]->isa, CPU_ISA_REFERENCE);
    assert_ptr_equal(index_kernels(CPU_ISA_REFERENCE), &index_kernels_reference);
    for (int level = 1; level < N_LEVELS; level++) {
        const struct index_kernels *kernels = index_kernels(devices[level]->isa);
        if (devices[level]->isa == devices[level - 1]->isa)
            continue; /* the processor has no more */
        bool same = kernels == index_kernels(devices[level - 1]->isa);
        assert_int_equal(same, devices[level]->isa == CPU_ISA_AVX512_BF16);
        assert_ptr_not_equal(kernels, &index_kernels_reference);
    }
}

static void test_hash_scores_are_those_of_the_definition(void **state)
{
    (void)state;
    struct trial t;
    FOR_EACH_SHAPE(t, i, N_ALL)
    {
        struct key_index_config config = config_of(&t, INDEX_HASH);
        networks_open(&config, i % N_DEPTHS, HASH_RELU, true);
        exact_scores(&t, 2);
        check_hash_scores(&t, &config, 0);
        networks_close(&config);
    }
}

/* Of random numbers: a sign is left open where the network's output is nearly 0. */
static void test_hash_activations_are_those_of_the_definition(void **state)
{
    (void)state;
    struct trial t;
    FOR_EACH_SHAPE(t, i, N_SHAPES)
    {
        struct key_index_config config = config_of(&t, INDEX_HASH);
        networks_open(&config, 1 + i % 2, i / 2 % (HASH_TANH + 1), false);
        double doubtful = check_hash_scores(&t, &config, 1e-5);
        if (doubtful > 0.01)
            fail_msg("shape %d: %.3f of the signs are nearly 0", i, doubtful);
        networks_close(&config);
    }
}

/* --- Pages ------------------------------------------------------------------------------------ */

static const int page_sizes[] = {16, 7, 1};

/* To 2^n_bits steps between the least and the largest of x [n]. */
static void model_round(double *x, int n, int n_bits)
{
    double low = x[0], high = x[0], top = (1 << n_bits) - 1;
    for (int i = 1; i < n; i++) {
        low = fmin(low, x[i]);
        high = fmax(high, x[i]);
    }
    for (int i = 0; i < n && high > low; i++)
        x[i] = low + rint((x[i] - low) * top / (high - low)) * (high - low) / top;
}

static void model_bounds(const struct trial *t, const struct key_index_config *config, int kv_head,
                         int page, double *lo, double *hi)
{
    int begin = page * config->pages.page_size, dim = config->head_dim;
    int end = min_int(begin + config->pages.page_size, t->m.n_keys);
    for (int d = 0; d < dim; d++) {
        lo[d] = INFINITY;
        hi[d] = -INFINITY;
        for (int key = begin; key < end; key++) {
            lo[d] = fmin(lo[d], key_value(t, kv_head, key, d));
            hi[d] = fmax(hi[d], key_value(t, kv_head, key, d));
        }
    }
    if (config->pages.label_bits < 16) {
        model_round(lo, dim, config->pages.label_bits);
        model_round(hi, dim, config->pages.label_bits);
    }
}

static bool sees_page(const struct trial *t, int row, int page, int page_size)
{
    bool sees = false;
    for (int key = page * page_size; key < min_int((page + 1) * page_size, t->m.n_keys); key++)
        sees = sees || is_visible(&t->m, row, key);
    return sees;
}

/* tolerance: of the sum of the terms' sizes. */
static void check_page_scores(struct trial *t, const struct key_index_config *config,
                              double tolerance)
{
    int page_size = config->pages.page_size, group = t->m.n_heads / t->m.n_kv_heads;
    score(t, config);
    for (int page = 0; page * page_size < t->m.n_keys; page++)
        for (int head = 0; head < t->m.n_heads; head++) {
            double lo[256], hi[256];
            model_bounds(t, config, head / group, page, lo, hi);
            for (int row = 0; row < t->m.n_rows; row++) {
                double want = 0, size = 0, scale = (double)t->c.att.scale;
                for (int d = 0; d < config->head_dim; d++) {
                    double q = query_value(t, row, head, d) * scale;
                    double term = fmax(q * lo[d], q * hi[d]);
                    want += term;
                    size += fabs(term);
                }
                double got = (double)selection_scores(t->sel, row, head)[page];
                if (sees_page(t, row, page, page_size) && !(fabs(got - want) <= tolerance * size))
                    fail_msg("%s, %d keys, head_dim %d, pages of %d: row %d head %d page %d: got "
                             "%.9g, want %.9g",
                             cpu_isa_name(t->dev->isa), t->m.n_keys, config->head_dim, page_size,
                             row, head, page, got, want);
            }
        }
}

static void test_page_scores_are_those_of_the_definition(void **state)
{
    (void)state;
    struct trial t;
    FOR_EACH_SHAPE(t, i, N_ALL)
    {
        struct key_index_config config = config_of(&t, INDEX_PAGES);
        config.pages = (struct key_pages){page_sizes[i / 2 % 3], 16};
        exact_scores(&t, 2);
        check_page_scores(&t, &config, 0);
    }
}

static void test_page_bounds_are_rounded_to_their_bits(void **state)
{
    (void)state;
    struct trial t;
    FOR_EACH_SHAPE(t, i, N_SHAPES)
    {
        struct key_index_config config = config_of(&t, INDEX_PAGES);
        config.pages = (struct key_pages){page_sizes[i / 2 % 3], 1 + i / 2 % 8};
        exact_scores(&t, 2);
        check_page_scores(&t, &config, 1e-6);
    }
}

/* --- Channels --------------------------------------------------------------------------------- */

/* Channels kept of a head: of one word and of several, and more than a word has levels. */
static int n_channels_at(int i, int head_dim)
{
    static const int shares[] = {16, 4, 8, 1};
    return head_dim / shares[i / 2 % 4];
}

static void model_label(const struct key_index_config *config, const int16_t *channels,
                        const double *row, double *to)
{
    for (int c = 0; c < config->channels.n_channels; c++)
        to[c] = row[channels[c]];
    if (config->channels.label_bits < 16)
        model_round(to, config->channels.n_channels, config->channels.label_bits);
}

/* tolerance: of the sum of the terms' sizes. */
static void check_channel_scores(struct trial *t, const struct key_index_config *config,
                                 double tolerance)
{
    int n = config->channels.n_channels, group = t->m.n_heads / t->m.n_kv_heads;
    double row_values[256], q[256], k[256];
    score(t, config);
    for (int head = 0; head < t->m.n_heads; head++)
        for (int key = 0; key < t->m.n_keys; key++) {
            const int16_t *channels =
                config->channels.channels + (LAYER * config->n_heads + head) * n;
            for (int d = 0; d < config->head_dim; d++)
                row_values[d] = key_value(t, head / group, key, d);
            model_label(config, channels, row_values, k);
            for (int row = 0; row < t->m.n_rows; row++) {
                double want = 0, size = 0;
                for (int d = 0; d < config->head_dim; d++)
                    row_values[d] = query_value(t, row, head, d);
                model_label(config, channels, row_values, q);
                for (int c = 0; c < n; c++) {
                    want += q[c] * k[c] / sqrt(n);
                    size += fabs(q[c]) * fmax(1, fabs(k[c])) / sqrt(n);
                }
                double got = (double)selection_scores(t->sel, row, head)[key];
                if (is_visible(&t->m, row, key) && !(fabs(got - want) <= tolerance * (size + 1)))
                    fail_msg("%s, %d keys, %d channels of %d, %d bits: row %d head %d key %d: got "
                             "%.9g, want %.9g",
                             cpu_isa_name(t->dev->isa), t->m.n_keys, n, config->head_dim,
                             config->channels.label_bits, row, head, key, got, want);
            }
        }
}

static void test_channel_scores_are_those_of_the_definition(void **state)
{
    (void)state;
    struct trial t;
    FOR_EACH_SHAPE(t, i, N_ALL)
    {
        struct key_index_config config = config_of(&t, INDEX_CHANNELS);
        channels_open(&config, n_channels_at(i, config.head_dim), 16);
        exact_scores(&t, 2);
        check_channel_scores(&t, &config, 1e-6);
        channels_close(&config);
    }
}

/* Keys in whole numbers of 4 at most: no level lies half way between two but where the model
 * rounds alike. */
static void test_labels_are_rounded_to_their_bits(void **state)
{
    (void)state;
    struct trial t;
    FOR_EACH_SHAPE(t, i, N_ALL)
    {
        struct key_index_config config = config_of(&t, INDEX_CHANNELS);
        channels_open(&config, n_channels_at(i, config.head_dim), 1 + i % 15);
        exact_scores(&t, 2);
        check_channel_scores(&t, &config, 2e-6);
        channels_close(&config);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_instruction_set_runs_its_own_loops),
        cmocka_unit_test(test_hash_scores_are_those_of_the_definition),
        cmocka_unit_test(test_hash_activations_are_those_of_the_definition),
        cmocka_unit_test(test_page_scores_are_those_of_the_definition),
        cmocka_unit_test(test_page_bounds_are_rounded_to_their_bits),
        cmocka_unit_test(test_channel_scores_are_those_of_the_definition),
        cmocka_unit_test(test_labels_are_rounded_to_their_bits),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
