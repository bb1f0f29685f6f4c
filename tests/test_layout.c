/* Layout and whole frames: every size has a frame, nothing overlaps, and three sizes look as they
 * should.  The golden screens are plain text in tests/golden/screens. */
#include "tui/layout.h"

#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/file.h"
#include "tests/screen_state.h"
#include "tui/keys.h"
#include "tui/panes.h"

#include <cmocka.h> /* last: it defines fail */

#include "tests/golden_screen.h"

/* Marks r's cells; false if one is outside or taken. */
static bool claim(unsigned char *taken, int width, int height, struct rect r)
{
    for (int y = r.y; y < r.y + r.h; y++)
        for (int x = r.x; x < r.x + r.w; x++) {
            if (x < 0 || y < 0 || x >= width || y >= height || taken[y * width + x]++)
                return false;
        }
    return true;
}

static void check_layout(int width, int height)
{
    struct layout l;
    struct layout_columns c;
    layout_compute(&l, width, height);
    layout_columns(&c, &l, 5, 3, false);
    unsigned char *taken = calloc((size_t)width * (size_t)height, 1);
    const struct rect rects[] = {
        l.header, l.metrics,     l.stack_line, l.tabs,        l.stack,  l.params, l.questions,
        l.lanes,  l.side_border, l.divergence, l.prompt_rule, l.prompt, l.key_bar};
    bool ok = true;
    for (size_t i = 0; i < sizeof rects / sizeof *rects; i++)
        ok = ok && claim(taken, width, height, rects[i]);
    for (int i = 0; i < c.n; i++) {
        ok = ok && claim(taken, width, height, c.columns[i]) && c.columns[i].w > 0;
        ok = ok && c.columns[i].x >= l.body.x &&
             c.columns[i].x + c.columns[i].w <= l.body.x + l.body.w;
    }
    if (!ok)
        print_error("%dx%d: rectangles overlap or leave the window\n", width, height);
    assert_true(ok);
    free(taken);
}

static void test_rectangles_never_overlap_at_any_size(void **state)
{
    (void)state;
    for (int width = 1; width <= 250; width++)
        for (int height = 1; height <= 80; height++)
            check_layout(width, height);
}

static void test_the_current_column_is_always_shown(void **state)
{
    (void)state;
    for (int width = 60; width <= 250; width++)
        for (int current = 0; current < REQUEST_MAX_LANES; current++) {
            struct layout l;
            struct layout_columns c;
            layout_compute(&l, width, 40);
            layout_columns(&c, &l, REQUEST_MAX_LANES, current, false);
            bool shown = false;
            for (int i = 0; i < c.n; i++)
                shown = shown || c.lanes[i] == current;
            if (!shown)
                print_error("width %d: lane %d is not shown\n", width, current);
            assert_true(shown);
        }
}

static void test_every_size_has_a_frame(void **state)
{
    (void)state;
    struct app app;
    struct grid g;
    screen_state_fill(&app, 80, 24, 4, 35, true);
    grid_init(&g, 1, 1, false);
    for (int height = 1; height <= 80; height += height < 34 ? 1 : 7)
        for (int width = 1; width <= 250; width += width < 110 ? 3 : 13) {
            app.width = width;
            app.height = height;
            app.focus = (enum pane)((width + height) % PANE_COUNT);
            screen_render(&app, &g);
            assert_int_equal(g.width, width);
            assert_int_equal(g.height, height);
            assert_true(!g.has_cursor || (g.cursor_x < width && g.cursor_y < height));
        }
    grid_free(&g);
    app_free(&app);
}

static void test_80x24_looks_as_drawn(void **state)
{
    (void)state;
    struct app app;
    screen_state_fill(&app, 80, 24, 2, 35, true);
    check_golden(&app, "80x24-running");
    app.focus = PANE_PARAMS;
    check_golden(&app, "80x24-params");
    app_free(&app);
}

static void test_120x40_looks_as_drawn(void **state)
{
    (void)state;
    struct app app;
    screen_state_fill(&app, 120, 40, 2, 35, false);
    app.focus = PANE_STACK;
    check_golden(&app, "120x40-done");
    palette_open(&app, PALETTE_ACTIONS);
    palette_key(&app, 'u');
    palette_key(&app, 'n');
    check_golden(&app, "120x40-palette");
    app_free(&app);
}

static void test_200x50_looks_as_drawn(void **state)
{
    (void)state;
    struct app app;
    screen_state_fill(&app, 200, 50, 4, 35, true);
    check_golden(&app, "200x50-running");
    app_free(&app);
}

static void test_ascii_looks_as_drawn(void **state)
{
    (void)state;
    struct app app;
    screen_state_fill(&app, 80, 24, 2, 35, false);
    app.ascii = app.mono = true;
    check_golden(&app, "80x24-ascii");
    app_free(&app);
}

static void test_a_changed_stack_marks_its_figures_old(void **state)
{
    (void)state;
    struct app app;
    struct grid g;
    struct buf text = {0};
    screen_state_fill(&app, 120, 40, 2, 35, false);
    app.focus = PANE_STACK;
    app_handle_key(&app, 'l');
    app_tick(&app);
    grid_init(&g, 1, 1, false);
    screen_render(&app, &g);
    grid_to_text(&g, &text);
    assert_non_null(strstr(text.data, "~ of another stack"));
    app_handle_key(&app, 'u');
    buf_clear(&text);
    screen_render(&app, &g);
    grid_to_text(&g, &text);
    assert_null(strstr(text.data, "~ of another stack"));
    buf_free(&text);
    grid_free(&g);
    app_free(&app);
}

static void test_an_invalid_stack_is_explained_in_words(void **state)
{
    (void)state;
    struct app app;
    struct grid g;
    struct buf text = {0};
    struct error err;
    screen_state_fill(&app, 200, 50, 2, 35, false);
    struct stack s = app.lanes.lane[1].stack;
    assert_true(stack_add(&s, masker_find("random"), &err));
    assert_true(stack_add(&s, masker_find("random"), &err));
    app_edit_stack(&app, &s);
    assert_false(stack_check(&s, &err));
    grid_init(&g, 1, 1, false);
    screen_render(&app, &g);
    grid_to_text(&g, &text);
    char first_words[16];
    snprintf(first_words, sizeof first_words, "%.12s", err.text);
    if (!strstr(text.data, first_words))
        print_error("'%s' is not on\n%s\n", err.text, text.data);
    assert_non_null(strstr(text.data, first_words));
    buf_free(&text);
    grid_free(&g);
    app_free(&app);
}

static void expect_on_screen(int width, int height, const char *stack, const char *words)
{
    struct app app;
    struct grid g;
    struct buf text = {0};
    struct stack s;
    screen_state_fill(&app, width, height, 2, 35, false);
    assert_true(stack_parse(&s, stack, NULL));
    app_edit_stack(&app, &s);
    grid_init(&g, 1, 1, false);
    screen_render(&app, &g);
    grid_to_text(&g, &text);
    if (!strstr(text.data, words)) {
        print_error("'%s' is not on\n%s\n", words, text.data);
        fail();
    }
    buf_free(&text);
    grid_free(&g);
    app_free(&app);
}

static void test_groups_of_layers_are_listed_with_their_maskers(void **state)
{
    (void)state;
    static const char stack[] =
        "sink:4,local:64; layers 0-1: dense; layers 3,20-27: sink:8,local:32";
    expect_on_screen(200, 50, stack, " 1 ● sink         4");
    expect_on_screen(200, 50, stack, " 2 ● local        64");
    expect_on_screen(200, 50, stack, " layers 0-1: dense ");
    expect_on_screen(200, 50, stack, " layers 3,20-27 ");
    expect_on_screen(200, 50, stack, " 1 ● sink         8");
    expect_on_screen(200, 50, stack, " 2 ● local        32");
    expect_on_screen(80, 24, "sink:4,local:64; layers 0-1: dense; layers 9: sink:8",
                     "sink 4 › local 64 · layers 0-1: dense · layers 9: sink 8");
    expect_on_screen(80, 24, "dense; layers 9: sink:8", "A: dense · layers 9: sink 8");
    expect_on_screen(200, 50, "sink:4; layers 27-28: dense", "names layer 28");
}

static void test_a_frame_of_a_long_answer_is_quick(void **state)
{
    (void)state;
    struct app app;
    struct grid g;
    struct timespec a, b;
    enum { FRAMES = 20 };
    screen_state_fill(&app, 200, 50, 4, 2000, true);
    grid_init(&g, 1, 1, false);
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (int i = 0; i < FRAMES; i++)
        screen_render(&app, &g);
    clock_gettime(CLOCK_MONOTONIC, &b);
    double ms =
        ((double)(b.tv_sec - a.tv_sec) * 1e3 + (double)(b.tv_nsec - a.tv_nsec) / 1e6) / FRAMES;
    print_message("frame of 4 answers of 2000 tokens at 200x50: %.2f ms\n", ms);
    assert_true(ms < 50); /* one frame's time, with a sanitizer and a busy machine */
    grid_free(&g);
    app_free(&app);
}

int main(void)
{
    setlocale(LC_CTYPE, "C.UTF-8");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rectangles_never_overlap_at_any_size),
        cmocka_unit_test(test_the_current_column_is_always_shown),
        cmocka_unit_test(test_every_size_has_a_frame),
        cmocka_unit_test(test_80x24_looks_as_drawn),
        cmocka_unit_test(test_120x40_looks_as_drawn),
        cmocka_unit_test(test_200x50_looks_as_drawn),
        cmocka_unit_test(test_ascii_looks_as_drawn),
        cmocka_unit_test(test_a_changed_stack_marks_its_figures_old),
        cmocka_unit_test(test_an_invalid_stack_is_explained_in_words),
        cmocka_unit_test(test_groups_of_layers_are_listed_with_their_maskers),
        cmocka_unit_test(test_a_frame_of_a_long_answer_is_quick),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
