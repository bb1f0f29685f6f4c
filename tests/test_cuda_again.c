/* What another selection holds, taken over on the cuda backend as on the cpu backend. */
#include "tests/selection_pair.h"

static const struct case_shape shapes[] = {
    {1, 300, 4, 2, 64, DTYPE_BF16, .n_tail = 3},   {1, 1500, 8, 1, 64, DTYPE_F32, .n_tail = 0},
    {3, 97, 6, 2, 64, DTYPE_F32, .n_tail = 10},    {5, 70, 3, 3, 64, DTYPE_BF16, .window = 40},
    {1, 4100, 16, 1, 64, DTYPE_BF16, .n_tail = 9},
};

enum { N_SHAPES = sizeof shapes / sizeof *shapes };

/* What is chosen on one side, into sel. */
typedef void choose(int side, const struct attention *att, struct selection *sel);

#define ON(side, operation, ...)                                                                   \
    pair.backend[side]->operation(pair.dev[side], sel, att, ##__VA_ARGS__)

static void choose_ranges(int side, const struct attention *att, struct selection *sel)
{
    ON(side, select_sink, count(3));
    ON(side, select_local, count(7));
}

static void choose_heads(int side, const struct attention *att, struct selection *sel)
{
    choose_ranges(side, att, sel);
    ON(side, score_exact);
    ON(side, select_top_k, count(11), SHARE_HEAD);
}

static void choose_groups(int side, const struct attention *att, struct selection *sel)
{
    ON(side, score_exact);
    ON(side, select_top_k, count(11), SHARE_GROUP);
}

static void choose_draws(int side, const struct attention *att, struct selection *sel)
{
    ON(side, select_random, 0.15, 2, SHARE_HEAD);
}

static void choose_drawn_groups(int side, const struct attention *att, struct selection *sel)
{
    choose_groups(side, att, sel);
    ON(side, select_random, 0.1, 1, SHARE_GROUP);
}

/* Every key has a probability of its own. */
static void choose_mixed(int side, const struct attention *att, struct selection *sel)
{
    for (int row = 0; row < att->n_rows; row++)
        for (int head = 0; head < att->n_heads; head++) {
            int32_t keys[3] = {row % 2, 2 + head % 2, 5};
            float prob[3] = {0.25f, 1.0f, 0.5f / (float)(1 + head)};
            pair.backend[side]->selection_put(pair.dev[side], sel, row, head, keys, prob, 3);
        }
}

static void choose_nothing(int side, const struct attention *att, struct selection *sel)
{
    (void)side;
    (void)att;
    (void)sel;
}

static void choose_all(int side, const struct attention *att, struct selection *sel)
{
    ON(side, select_sink, fraction(1.0));
}

static const struct {
    choose *from, *own;
} cases[] = {
    {choose_ranges, choose_nothing},       {choose_heads, choose_nothing},
    {choose_groups, choose_nothing},       {choose_draws, choose_nothing},
    {choose_drawn_groups, choose_nothing}, {choose_mixed, choose_nothing},
    {choose_all, choose_nothing},          {choose_heads, choose_groups},
    {choose_groups, choose_groups},        {choose_groups, choose_heads},
    {choose_drawn_groups, choose_heads},   {choose_draws, choose_groups},
    {choose_mixed, choose_ranges},         {choose_mixed, choose_groups},
    {choose_nothing, choose_groups},
};

static void select_and_take_over(struct selection_pair *p, int side, struct selection *from,
                                 choose *chosen, choose *own)
{
    const struct backend *backend = pair.backend[side];
    struct device *dev = pair.dev[side];
    backend->selection_begin(dev, from, &p->att[side]);
    chosen(side, &p->att[side], from);
    backend->selection_end(dev, from, &p->att[side]);
    own(side, &p->att[side], p->sel[side]);
    backend->select_again(dev, p->sel[side], &p->att[side], from);
}

static void test_what_is_taken_over_is_the_same(void **state)
{
    (void)state;
    struct selection_pair p;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        FOR_EACH_SHAPE(p, 4)
        {
            struct selection *from[N_PAIR];
            for (int side = 0; side < N_PAIR; side++) {
                const struct attention *att = &p.att[side];
                from[side] = pair.backend[side]->selection_open(pair.dev[side], att->n_rows + 2,
                                                                att->n_heads, att->kv.n_kv_heads,
                                                                att->max_keys);
                assert_non_null(from[side]);
                select_and_take_over(&p, side, from[side], cases[i].from, cases[i].own);
            }
            char what[32];
            snprintf(what, sizeof what, "case %zu", i);
            check_equal(&p, what);
            for (int side = 0; side < N_PAIR; side++)
                pair.backend[side]->selection_close(pair.dev[side], from[side]);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        pair_test(test_what_is_taken_over_is_the_same),
    };
    if (!pair_open(true))
        return PAIR_SKIPPED;
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    pair_close();
    return n_failed;
}
