/* The one table of actions: all are reached, no key means two things in one place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "tests/screen_state.h"
#include "tui/actions.h"

#include <cmocka.h>

static void test_names_are_used_once(void **state)
{
    (void)state;
    for (const struct action *a = actions; a->name; a++)
        assert_ptr_equal(action_find(a->name), a);
}

static void test_the_palette_lists_every_action(void **state)
{
    (void)state;
    struct app app;
    screen_state_fill(&app, 80, 24, 2, 35, false);
    palette_open(&app, PALETTE_ACTIONS);
    for (const struct action *a = actions; a->name; a++) {
        bool listed = false;
        for (size_t i = 0; i < app.palette.n; i++)
            listed = listed || !strcmp(app.palette.rows[i].action, a->name);
        if (!listed)
            fail_msg("%s is not in the palette", a->name);
    }
    app_free(&app);
}

static bool have_common_key(const struct action *a, const struct action *b)
{
    for (int i = 0; i < ACTION_MAX_KEYS && a->keys[i]; i++)
        for (int j = 0; j < ACTION_MAX_KEYS && b->keys[j]; j++)
            if (a->keys[i] == b->keys[j])
                return true;
    return false;
}

/* A place's own action goes before that of all places; two of one place would hide each other. */
static void test_no_key_means_two_things_in_one_place(void **state)
{
    (void)state;
    for (const struct action *a = actions; a->name; a++)
        for (const struct action *b = a + 1; b->name; b++) {
            bool both_everywhere = a->panes == IN_ALL && b->panes == IN_ALL;
            bool both_own = a->panes != IN_ALL && b->panes != IN_ALL && (a->panes & b->panes);
            if ((both_everywhere || both_own) && have_common_key(a, b))
                fail_msg("%s and %s have a key in common", a->name, b->name);
        }
}

static void test_own_actions_come_before_those_of_all_places(void **state)
{
    (void)state;
    for (const struct action *a = actions; a->name; a++)
        for (const struct action *b = a + 1; b->name; b++)
            if (a->panes == IN_ALL && b->panes != IN_ALL && have_common_key(a, b))
                fail_msg("%s hides %s", a->name, b->name);
}

static void test_every_action_is_of_a_place_that_documents_name(void **state)
{
    (void)state;
    for (const struct action *a = actions; a->name; a++) {
        unsigned named = 0;
        for (const struct action_place *p = action_place_list; p->title; p++)
            named |= p->panes == IN_ALL ? 0 : p->panes;
        assert_true(a->panes == IN_ALL || (a->panes & named) == a->panes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_are_used_once),
        cmocka_unit_test(test_the_palette_lists_every_action),
        cmocka_unit_test(test_no_key_means_two_things_in_one_place),
        cmocka_unit_test(test_own_actions_come_before_those_of_all_places),
        cmocka_unit_test(test_every_action_is_of_a_place_that_documents_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
