/* Embeddings, rotation and the KV cache of the cuda backend against the cpu backend. */
#include "tests/backend_pair.h"

#define N_OF(array) ((int)(sizeof(array) / sizeof *(array)))

static struct twin twin_step(int n_context, int n_tail, bool append_tail)
{
    struct step_state step = {.n_context = n_context, .n_tail = n_tail, .append_tail = append_tail};
    return twin_bytes(&step, sizeof step);
}

/* --- Embeddings ---------------------------------------------------------------------------------
 */

enum { VOCABULARY = 31, N_POSITIONS = 300, FIRST_POSITION = 30 };

static void check_embed(int dim, int n_rows, enum dtype dtype, enum dtype position_dtype,
                        bool with_positions)
{
    struct twin table = twin_random((size_t)VOCABULARY * (size_t)dim, dtype, 1);
    struct twin positions = twin_random((size_t)N_POSITIONS * (size_t)dim, position_dtype, 1);
    struct twin step = twin_step(FIRST_POSITION - 10, 10, true);
    int32_t ids[N_POSITIONS];
    for (int i = 0; i < n_rows; i++)
        ids[i] = (i * 7 + 3) % VOCABULARY;
    struct twin tokens = twin_bytes(ids, (size_t)n_rows * sizeof *ids);
    struct twin x = twin_poisoned((size_t)n_rows * (size_t)dim);
    for (int side = 0; side < N_PAIR; side++) {
        struct linear t = {.w = table.at[side], .dtype = dtype, .n_out = VOCABULARY, .n_in = dim};
        struct linear p = {
            .w = positions.at[side], .dtype = position_dtype, .n_out = N_POSITIONS, .n_in = dim};
        pair.backend[side]->embed(pair.dev[side], x.at[side], &t, with_positions ? &p : NULL,
                                  tokens.at[side], step.at[side], n_rows);
    }
    /* One sum of two numbers: no room for a difference. */
    assert_twin_equal(&x, "embed");
    twin_free(&table);
    twin_free(&positions);
    twin_free(&step);
    twin_free(&tokens);
    twin_free(&x);
}

static void test_embed_adds_positions_of_both_segments(void **state)
{
    (void)state;
    static const int dims[] = {1, 17, 64, 257, 1000}, row_counts[] = {1, 15, 64, 257};
    for (int d = 0; d < N_OF(dims); d++)
        for (int r = 0; r < N_OF(row_counts); r++)
            for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
                enum dtype other = (enum dtype)((dtype + r) % 3);
                check_embed(dims[d], row_counts[r], dtype, other, false);
                check_embed(dims[d], row_counts[r], dtype, other, true);
            }
}

/* --- Rotation and KV cache ----------------------------------------------------------------------
 */

struct rotate_case {
    int n_heads, n_kv_heads, head_dim, n_rot; /* n_rot 0: no rotation */
    int n_rows, n_context, n_tail;
    bool append_tail, normed;
    enum dtype dtype;
};

enum { TAIL_CAPACITY = 300, CONTEXT_CAPACITY = 400 };

struct rotate_data {
    struct twin qkv, inv_freq, q_weight, k_weight, step;
    struct twin k[KV_SEGMENTS], v[KV_SEGMENTS];
    size_t n_qkv, n_kv[KV_SEGMENTS];
};

static const int capacities[KV_SEGMENTS] = {CONTEXT_CAPACITY, TAIL_CAPACITY};

static struct rotate_data rotate_init(const struct rotate_case *c)
{
    struct rotate_data d = {0};
    float inv_freq[128];
    for (int i = 0; i < c->n_rot / 2; i++)
        inv_freq[i] = powf(500000, -2.0f * (float)i / (float)c->n_rot);
    d.inv_freq = twin_bytes(inv_freq, sizeof inv_freq);
    d.n_qkv = (size_t)c->n_rows * (size_t)(c->n_heads + 2 * c->n_kv_heads) * (size_t)c->head_dim;
    d.qkv = twin_random(d.n_qkv, DTYPE_F32, 1);
    d.q_weight = twin_random((size_t)c->head_dim, DTYPE_F32, 1);
    d.k_weight = twin_random((size_t)c->head_dim, DTYPE_F32, 1);
    d.step = twin_step(c->n_context, c->n_tail, c->append_tail);
    for (int s = 0; s < KV_SEGMENTS; s++) {
        d.n_kv[s] = (size_t)c->n_kv_heads * (size_t)capacities[s] * (size_t)c->head_dim;
        d.k[s] = twin_random(d.n_kv[s], c->dtype, 1); /* what is not appended must stay */
        d.v[s] = twin_random(d.n_kv[s], c->dtype, 1);
    }
    return d;
}

static void rotate_free(struct rotate_data *d)
{
    twin_free(&d->qkv);
    twin_free(&d->inv_freq);
    twin_free(&d->q_weight);
    twin_free(&d->k_weight);
    twin_free(&d->step);
    for (int s = 0; s < KV_SEGMENTS; s++) {
        twin_free(&d->k[s]);
        twin_free(&d->v[s]);
    }
}

static void rotate_run(const struct rotate_case *c, const struct rotate_data *d)
{
    for (int side = 0; side < N_PAIR; side++) {
        struct kv_layer kv = {
            .dtype = c->dtype, .n_kv_heads = c->n_kv_heads, .head_dim = c->head_dim};
        for (int s = 0; s < KV_SEGMENTS; s++) {
            kv.k[s] = d->k[s].at[side];
            kv.v[s] = d->v[s].at[side];
            kv.capacity[s] = capacities[s];
        }
        struct rope rope = {.inv_freq = c->n_rot ? d->inv_freq.at[side] : NULL, .n_rot = c->n_rot};
        struct norm q = {.kind = NORM_RMS, .weight = d->q_weight.at[side], .eps = 1e-6f};
        struct norm k = {.kind = NORM_RMS, .weight = d->k_weight.at[side], .eps = 1e-6f};
        pair.backend[side]->rotate_append(pair.dev[side], d->qkv.at[side], c->n_heads, &kv, &rope,
                                          c->normed ? &q : NULL, c->normed ? &k : NULL,
                                          d->step.at[side], c->n_rows);
    }
}

/* A bf16 twin as f32, for assert_twin_close. */
static struct twin widened(const struct twin *t)
{
    struct twin wide = {.n_bytes = 2 * t->n_bytes};
    for (int side = 0; side < N_PAIR; side++) {
        uint16_t *narrow = twin_host(t, side);
        uint32_t *bits = malloc(wide.n_bytes + 1);
        assert_non_null(bits);
        for (size_t i = 0; i < t->n_bytes / 2; i++)
            bits[i] = (uint32_t)narrow[i] << 16;
        wide.at[side] = pair.backend[side]->alloc(pair.dev[side], wide.n_bytes);
        assert_non_null(wide.at[side]);
        pair.backend[side]->upload(pair.dev[side], wide.at[side], bits, wide.n_bytes);
        free(narrow);
        free(bits);
    }
    return wide;
}

static void check_rotate(const struct rotate_case *c)
{
    struct rotate_data d = rotate_init(c);
    char what[200];
    snprintf(what, sizeof what,
             "heads %d + %d of %d, rotated %d, rows %d at %d + %d, tail %d, norm %d, dtype %d",
             c->n_heads, c->n_kv_heads, c->head_dim, c->n_rot, c->n_rows, c->n_context, c->n_tail,
             c->append_tail, c->normed, c->dtype);
    rotate_run(c, &d);
    pair_sync();
    /* Sines, cosines and roots of two libraries, each right to a few units of the last place. */
    assert_twin_close(&d.qkv, d.n_qkv, 1e-6, what);
    for (int s = 0; s < KV_SEGMENTS; s++) {
        if (c->dtype == DTYPE_F32) {
            assert_twin_close(&d.k[s], d.n_kv[s], 1e-6, what);
        } else {
            /* Now and then such a difference decides a rounding. */
            struct twin k = widened(&d.k[s]);
            assert_twin_close(&k, d.n_kv[s], 3e-4, what);
            twin_free(&k);
        }
        assert_twin_equal(&d.v[s], what);
    }
    rotate_free(&d);
}

static void test_rotate_append_in_all_combinations(void **state)
{
    (void)state;
    for (int bits = 0; bits < 32; bits++) {
        struct rotate_case c = {.n_heads = 4,
                                .n_kv_heads = 2,
                                .head_dim = 64,
                                .n_rot = bits & 1 ? 64 : 0,
                                .n_rows = bits & 2 ? 21 : 1,
                                .n_context = 9,
                                .n_tail = bits & 4 ? 3 : 0,
                                .append_tail = bits & 4,
                                .normed = bits & 8,
                                .dtype = bits & 16 ? DTYPE_BF16 : DTYPE_F32};
        check_rotate(&c);
    }
}

static void test_rotate_append_of_many_shapes(void **state)
{
    (void)state;
    static const int shapes[][4] = {/* n_heads, n_kv_heads, head_dim, n_rot */
                                    {32, 8, 128, 128}, {6, 2, 64, 64},  {7, 1, 80, 32},
                                    {3, 3, 96, 96},    {8, 1, 256, 64}, {4, 4, 256, 256},
                                    {1, 1, 16, 16},    {2, 1, 8, 6},    {12, 4, 32, 2}};
    static const int row_counts[] = {1, 15, 16, 17, 65, 257};
    for (int i = 0; i < N_OF(shapes); i++)
        for (int r = 0; r < N_OF(row_counts); r++) {
            struct rotate_case c = {.n_heads = shapes[i][0],
                                    .n_kv_heads = shapes[i][1],
                                    .head_dim = shapes[i][2],
                                    .n_rot = shapes[i][3],
                                    .n_rows = row_counts[r],
                                    .n_context = 100,
                                    .append_tail = r % 2,
                                    .n_tail = r % 2 ? 40 : 0,
                                    .normed = r % 3 == 0,
                                    .dtype = i % 2 ? DTYPE_F32 : DTYPE_BF16};
            check_rotate(&c);
        }
}

/* Angles of 1e5 radians: the position is far out, the row is in the tail. */
static void test_rotation_far_out(void **state)
{
    (void)state;
    static const int contexts[] = {4096, 65537, 131072, 1000003};
    for (int i = 0; i < N_OF(contexts); i++) {
        struct rotate_case c = {.n_heads = 4,
                                .n_kv_heads = 2,
                                .head_dim = 128,
                                .n_rot = 128,
                                .n_rows = 3,
                                .n_context = contexts[i],
                                .n_tail = 17,
                                .append_tail = true,
                                .dtype = DTYPE_F32};
        check_rotate(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        pair_test(test_embed_adds_positions_of_both_segments),
        pair_test(test_rotate_append_in_all_combinations),
        pair_test(test_rotate_append_of_many_shapes),
        pair_test(test_rotation_far_out),
    };
    if (!pair_open(true))
        return PAIR_SKIPPED;
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    pair_close();
    return n_failed;
}
