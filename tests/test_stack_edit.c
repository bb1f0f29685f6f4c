/* Editing stacks: whatever is done, undo gives back the start and redo the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdlib.h>
#include <string.h>

#include "tui/actions.h"
#include "tui/keys.h"
#include "tui/lanes.h"

#include <cmocka.h> /* last: it defines fail */

static uint32_t random_state = 7;

static uint32_t next_random(uint32_t below)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % below;
}

static void check_same(const struct lanes *got, const struct request_lane *want, int n, int seed)
{
    if (got->n != n)
        print_error("seed %d: got %d lanes, want %d\n", seed, got->n, n);
    assert_int_equal(got->n, n);
    for (int i = 0; i < n; i++) {
        bool same = stack_equal(&got->lane[i].stack, &want[i].stack) &&
                    !strcmp(got->lane[i].name, want[i].name) &&
                    !strcmp(got->lane[i].stack.name, want[i].stack.name);
        if (!same)
            print_error("seed %d: lane %d: got %s, want %s\n", seed, i, got->lane[i].name,
                        want[i].name);
        assert_true(same);
    }
}

/* The keys that edit, pressed as a person does. */
static void press_random_keys(struct app *app, int n)
{
    static const int keys[] = {'a', 'x', 'J', 'K', ' ', 'l', 'h',      '>',       '<',
                               'd', 'c', 'j', 'k', ']', '[', CODE_TAB, CODE_ENTER};
    for (int i = 0; i < n; i++) {
        int key = keys[next_random(sizeof keys / sizeof *keys)];
        app->focus = (enum pane[]){PANE_STACK, PANE_PARAMS, PANE_LANES}[next_random(3)];
        if (key == 'a' && app->focus != PANE_LANES) {
            int n_maskers = 0;
            while (maskers[n_maskers])
                n_maskers++;
            act_stack_add(app, maskers[next_random((uint32_t)n_maskers)]->name);
        } else if (key != CODE_ENTER) {
            app_handle_key(app, key);
        }
        assert_false(app->insert);
        assert_in_range(app->lanes.n, 1, REQUEST_MAX_LANES);
        assert_in_range(app->lanes.current, 0, app->lanes.n - 1);
        assert_in_range(app->masker_row, 0, STACK_MAX_MASKERS - 1);
    }
}

static void start_app_with(struct app *app, const char *text)
{
    struct workbench_options options = {0};
    struct stack stack;
    struct error err;
    struct request_lane lanes[2] = {{.name = "dense"}};
    app_init(app, &options);
    app->width = 120;
    app->height = 40;
    assert_true(stack_parse(&stack, text, &err));
    lanes[1].stack = stack;
    lanes_name(&stack, lanes[1].name);
    lanes_load(&app->lanes, lanes, 2);
}

static void start_app(struct app *app)
{
    start_app_with(app, "sink:4,local:64");
}

static void test_undo_of_any_edits_gives_back_the_start(void **state)
{
    (void)state;
    for (int seed = 0; seed < 200; seed++) {
        struct app app;
        random_state = (uint32_t)seed;
        start_app_with(&app, seed % 2 ? "sink:4,local:64"
                                      : "sink:4,local:64; layers 0-1: dense; layers 3: sink:8,"
                                        "quest:5%; layers 4-7: reuse:3");
        struct lanes start = app.lanes;
        press_random_keys(&app, 60);
        struct lanes end = app.lanes;
        int n_undone = 0;
        while (lanes_undo(&app.lanes, NULL))
            n_undone++;
        check_same(&app.lanes, start.lane, start.n, seed);
        for (int i = 0; i < n_undone; i++)
            assert_true(lanes_redo(&app.lanes, NULL));
        assert_false(lanes_redo(&app.lanes, NULL));
        check_same(&app.lanes, end.lane, end.n, seed);
        app_free(&app);
    }
}

static void expect_stack(const struct app *app, const char *want)
{
    struct buf got = {0};
    stack_write_short(&app->lanes.lane[1].stack, &got);
    assert_string_equal(got.data, want);
    buf_free(&got);
}

static void test_maskers_of_groups_are_edited_in_their_group(void **state)
{
    (void)state;
    struct app app;
    start_app_with(&app, "sink:4; layers 0-1: dense; layers 3: sink:8,local:16");
    app.focus = PANE_STACK;
    app_handle_key(&app, 'j');
    app_handle_key(&app, '>');
    expect_stack(&app, "sink:4; layers 0-1: dense; layers 3: sink:16,local:16");
    act_stack_add(&app, "random");
    assert_int_equal(app.masker_row, 3);
    expect_stack(&app, "sink:4; layers 0-1: dense; layers 3: sink:16,local:16,random:0.1");
    app_handle_key(&app, 'K');
    app_handle_key(&app, 'K');
    app_handle_key(&app, 'K'); /* the first of its list already */
    assert_int_equal(app.masker_row, 1);
    expect_stack(&app, "sink:4; layers 0-1: dense; layers 3: random:0.1,sink:16,local:16");
    app_handle_key(&app, 'x');
    app_handle_key(&app, 'x');
    app_handle_key(&app, 'x');
    expect_stack(&app, "sink:4; layers 0-1: dense; layers 3: dense");
    assert_int_equal(app.masker_row, 0);
    app_handle_key(&app, 'J');
    act_stack_add(&app, "local");
    expect_stack(&app, "sink:4,local:128; layers 0-1: dense; layers 3: dense");
    app_free(&app);
}

static void test_a_stack_is_set_with_its_groups(void **state)
{
    (void)state;
    struct app app;
    start_app(&app);
    act_stack_set(&app, "quest:5%; layers 0-1: dense");
    expect_stack(&app, "quest:5%; layers 0-1: dense");
    act_stack_set(&app, "quest:5%; layers 1-0: dense");
    assert_non_null(strstr(app.message, "the range 1-0 runs backwards"));
    expect_stack(&app, "quest:5%; layers 0-1: dense");
    app_free(&app);
}

static void test_layers_beyond_the_loaded_models_are_not_valid(void **state)
{
    (void)state;
    struct app app;
    struct error err = {0};
    start_app_with(&app, "sink:4; layers 0,8: dense");
    const struct stack *s = &app.lanes.lane[1].stack;
    assert_true(app_stack_check(&app, s, &err));
    app.has_model = true;
    app.model.n_layers = 9;
    assert_true(app_stack_check(&app, s, &err));
    app.model.n_layers = 8;
    assert_false(app_stack_check(&app, s, &err));
    assert_non_null(strstr(err.text, "this model has 8 layers"));
    app.has_model = false;
    app_free(&app);
}

static void test_an_edit_after_undo_forgets_the_redo(void **state)
{
    (void)state;
    struct app app;
    start_app(&app);
    app.focus = PANE_STACK;
    app_handle_key(&app, 'l');
    app_handle_key(&app, 'u');
    app_handle_key(&app, ' ');
    app_handle_key(&app, CODE_CTRL('R'));
    assert_true(app.lanes.lane[1].stack.items[0].off);
    assert_true(app.lanes.lane[1].stack.items[0].values.param[0].value == 4);
    app_free(&app);
}

static void test_an_edit_takes_the_presets_name_away(void **state)
{
    (void)state;
    struct app app;
    start_app(&app);
    app.focus = PANE_STACK;
    struct stack named = app.lanes.lane[1].stack;
    strcpy(named.name, "streaming-llm");
    app_edit_stack(&app, &named);
    assert_string_equal(app.lanes.lane[1].name, "streaming-llm");
    app_handle_key(&app, '>');
    assert_string_equal(app.lanes.lane[1].name, "sink:8,local:64");
    app_handle_key(&app, 'u');
    assert_string_equal(app.lanes.lane[1].name, "streaming-llm");
    app_free(&app);
}

static void test_the_dense_baseline_is_not_edited(void **state)
{
    (void)state;
    struct app app;
    start_app(&app);
    app.lanes.current = 0;
    app.focus = PANE_STACK;
    act_stack_add(&app, "sink");
    assert_int_equal(app.lanes.lane[0].stack.n, 0);
    assert_non_null(strstr(app.message, "baseline"));
    app.focus = PANE_LANES;
    app_handle_key(&app, 'x');
    assert_int_equal(app.lanes.n, 2);
    app_free(&app);
}

static void test_columns_stop_at_the_most(void **state)
{
    (void)state;
    struct app app;
    start_app(&app);
    for (int i = 0; i < 20; i++)
        app_handle_key(&app, 'c');
    assert_int_equal(app.lanes.n, REQUEST_MAX_LANES);
    assert_non_null(strstr(app.message, "the most at once"));
    app_free(&app);
}

static void test_keep_says_what_stays_of_a_long_context(void **state)
{
    (void)state;
    static const struct {
        const char *argument;
        bool given;
        enum keep keep;
    } cases[] = {
        {"tail", true, KEEP_TAIL},
        {"refuse", false, KEEP_HEAD},
        {"middle", true, KEEP_MIDDLE_CUT},
        {NULL, false, KEEP_HEAD}, /* the next one, and round again */
        {NULL, true, KEEP_HEAD},
        {"everything", true, KEEP_HEAD}, /* refused */
    };
    struct app app;
    start_app(&app);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        act_keep(&app, cases[i].argument);
        assert_int_equal(app.options.keep_given, cases[i].given);
        assert_int_equal(app.options.keep, cases[i].keep);
    }
    assert_non_null(strstr(app.message, "keep everything: expected head"));
    app_free(&app);
}

static void test_limits_take_a_number_or_the_default(void **state)
{
    (void)state;
    static const char *const wrong[] = {NULL, "", "0", "-1", "9x", "99999999999999999999"};
    struct app app;
    start_app(&app);
    assert_true(action_run_command(&app, "max-tokens 40"));
    assert_true(action_run_command(&app, "max-context 1000"));
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        act_max_tokens(&app, wrong[i]);
        act_max_context(&app, wrong[i]);
        assert_int_equal(app.options.max_tokens, 40);
        assert_int_equal(app.options.max_context, 1000);
    }
    assert_true(app.options.keep_given);
    act_max_context(&app, "default");
    act_max_tokens(&app, "default");
    assert_int_equal(app.options.max_context, 0);
    assert_int_equal(app.options.max_tokens, 0);
    app_free(&app);
}

static void test_errors_name_actions_in_place_of_options(void **state)
{
    (void)state;
    struct app app;
    struct error err;
    start_app(&app);
    fail_code(&err, EXIT_CODE_USAGE,
              "models--keep--x: cut it with --keep head (--max-context N) or --threads");
    app_error(&app, &err);
    assert_string_equal(app.message,
                        "models--keep--x: cut it with :keep head (:max-context N) or --threads");
    app_free(&app);
}

static void test_every_action_is_found_by_its_name_and_keys_do_not_clash(void **state)
{
    (void)state;
    for (const struct action *a = actions; a->name; a++) {
        assert_ptr_equal(action_find(a->name), a);
        assert_true(a->title && a->help && a->run);
        /* Within one pane a key means one thing, or a pane's own action hides a general one. */
        for (const struct action *b = a + 1; b->name; b++)
            for (int i = 0; i < ACTION_MAX_KEYS && a->keys[i]; i++)
                for (int j = 0; j < ACTION_MAX_KEYS && b->keys[j]; j++) {
                    bool clash = a->keys[i] == b->keys[j] && (a->panes & b->panes);
                    if (clash)
                        print_error("%s and %s share a key\n", a->name, b->name);
                    assert_false(clash);
                }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_undo_of_any_edits_gives_back_the_start),
        cmocka_unit_test(test_maskers_of_groups_are_edited_in_their_group),
        cmocka_unit_test(test_a_stack_is_set_with_its_groups),
        cmocka_unit_test(test_layers_beyond_the_loaded_models_are_not_valid),
        cmocka_unit_test(test_an_edit_after_undo_forgets_the_redo),
        cmocka_unit_test(test_an_edit_takes_the_presets_name_away),
        cmocka_unit_test(test_the_dense_baseline_is_not_edited),
        cmocka_unit_test(test_columns_stop_at_the_most),
        cmocka_unit_test(test_keep_says_what_stays_of_a_long_context),
        cmocka_unit_test(test_limits_take_a_number_or_the_default),
        cmocka_unit_test(test_errors_name_actions_in_place_of_options),
        cmocka_unit_test(test_every_action_is_found_by_its_name_and_keys_do_not_clash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
