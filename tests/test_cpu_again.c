/* What another selection holds, taken over: alone, beside what is selected, and as far as it is
 * seen. */
#include "tests/selection_trial.h"

typedef void choose(struct trial *t, struct selection *sel);

static void choose_ranges(struct trial *t, struct selection *sel)
{
    backend_cpu.select_sink(t->dev, sel, &t->c.att, count(3));
    backend_cpu.select_local(t->dev, sel, &t->c.att, count(7));
}

static void choose_heads(struct trial *t, struct selection *sel)
{
    choose_ranges(t, sel);
    backend_cpu.score_exact(t->dev, sel, &t->c.att);
    backend_cpu.select_top_k(t->dev, sel, &t->c.att, count(11), SHARE_HEAD);
}

static void choose_groups(struct trial *t, struct selection *sel)
{
    backend_cpu.score_exact(t->dev, sel, &t->c.att);
    backend_cpu.select_top_k(t->dev, sel, &t->c.att, count(11), SHARE_GROUP);
}

/* Lists of several probabilities. */
static void choose_mixed(struct trial *t, struct selection *sel)
{
    choose_heads(t, sel);
    backend_cpu.select_random(t->dev, sel, &t->c.att, 0.2, 1, SHARE_HEAD);
}

static void choose_drawn_groups(struct trial *t, struct selection *sel)
{
    choose_groups(t, sel);
    backend_cpu.select_random(t->dev, sel, &t->c.att, 0.1, 1, SHARE_GROUP);
}

static void choose_draws_alone(struct trial *t, struct selection *sel)
{
    backend_cpu.select_random(t->dev, sel, &t->c.att, 0.15, 2, SHARE_HEAD);
}

static void choose_nothing(struct trial *t, struct selection *sel)
{
    (void)t;
    (void)sel;
}

static choose *const choices[] = {choose_ranges, choose_heads,        choose_groups,
                                  choose_mixed,  choose_drawn_groups, choose_draws_alone};
enum { N_CHOICES = sizeof choices / sizeof *choices };

static bool in_ranges(const struct trial *t, choose *chosen, int row, int key)
{
    bool has = chosen == choose_ranges || chosen == choose_heads || chosen == choose_mixed;
    return has && (key < 3 || key > position(&t->m, row) - 7);
}

/* Adds to the model what sel holds and the rows see.  What is there already keeps its p, but for
 * keys of ranges, which are certain. */
static void model_add(struct trial *t, const struct selection *sel, choose *chosen)
{
    for (int row = 0; row < t->m.n_rows; row++)
        for (int head = 0; head < t->m.n_heads; head++) {
            int n = backend_cpu.selection_get(t->dev, sel, row, head, t->keys, t->prob);
            for (int i = 0; i < n; i++) {
                float *p = &t->m.p[at(&t->m, row, head, t->keys[i])];
                if (is_visible(&t->m, row, t->keys[i]) &&
                    (*p == 0.0f || in_ranges(t, chosen, row, t->keys[i])))
                    *p = t->prob[i];
            }
        }
}

static struct selection *open_like(const struct trial *t)
{
    struct selection *sel =
        backend_cpu.selection_open(t->dev, t->m.n_rows, t->m.n_heads, t->m.n_kv_heads, t->m.n_keys);
    assert_non_null(sel);
    return sel;
}

/* t->sel, begun, takes over what `from` chooses after `own` has chosen. */
static void take_over(struct trial *t, choose *from, choose *own)
{
    struct selection *source = open_like(t), *alone = open_like(t);
    int window = t->c.att.window;
    t->c.att.window = 0;
    backend_cpu.selection_begin(t->dev, source, &t->c.att);
    from(t, source);
    backend_cpu.selection_end(t->dev, source, &t->c.att);
    t->c.att.window = window;
    if (own != choose_nothing) {
        backend_cpu.selection_begin(t->dev, alone, &t->c.att);
        own(t, alone);
        backend_cpu.selection_end(t->dev, alone, &t->c.att);
        model_add(t, alone, own);
    }
    model_add(t, source, from);
    own(t, t->sel);
    backend_cpu.select_again(t->dev, t->sel, &t->c.att, source);
    backend_cpu.selection_close(t->dev, alone);
    backend_cpu.selection_close(t->dev, source);
}

/* The shapes with a window see less than the source did. */
static void test_a_selection_taken_over_is_the_same_as_far_as_it_is_seen(void **state)
{
    (void)state;
    struct trial t;
    for (int i = 0; i < N_CHOICES; i++)
        FOR_EACH_TRIAL(t)
        {
            take_over(&t, choices[i], choose_nothing);
            check_selected(&t, "taken over");
            check_attended(&t, "taken over");
        }
}

static void test_what_is_selected_already_keeps_its_probability(void **state)
{
    (void)state;
    struct trial t;
    for (int i = 0; i < N_CHOICES * N_CHOICES; i++)
        FOR_EACH_TRIAL(t)
        {
            take_over(&t, choices[i / N_CHOICES], choices[i % N_CHOICES]);
            check_selected(&t, "beside others");
            check_attended(&t, "beside others");
        }
}

static void test_maskers_after_it_choose_among_what_is_left(void **state)
{
    (void)state;
    struct trial t;
    for (int i = 0; i < N_CHOICES; i++)
        FOR_EACH_TRIAL(t)
        {
            exact_scores(&t, 3);
            take_over(&t, choices[i], choose_nothing);
            backend_cpu.score_exact(t.dev, t.sel, &t.c.att);
            backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, count(9), SHARE_HEAD);
            model_top_k(&t.m, count(9), SHARE_HEAD);
            check_selected(&t, "top-k after it");
        }
}

static void test_a_full_selection_makes_full(void **state)
{
    (void)state;
    struct trial t;
    FOR_EACH_TRIAL(t)
    {
        struct selection *source = open_like(&t);
        backend_cpu.selection_begin(t.dev, source, &t.c.att);
        backend_cpu.selection_end(t.dev, source, &t.c.att); /* without maskers: full */
        backend_cpu.select_again(t.dev, t.sel, &t.c.att, source);
        t.m.full = true;
        check_selected(&t, "full");
        check_attended(&t, "full");
        backend_cpu.selection_close(t.dev, source);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_selection_taken_over_is_the_same_as_far_as_it_is_seen),
        cmocka_unit_test(test_what_is_selected_already_keeps_its_probability),
        cmocka_unit_test(test_maskers_after_it_choose_among_what_is_left),
        cmocka_unit_test(test_a_full_selection_makes_full),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
