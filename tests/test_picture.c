/* Pictures of frames and settings: what is written, and that nothing is lost or injected. */
#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/memory.h"
#include "tests/screen_state.h"
#include "tests/temp_folder.h"
#include "tui/actions.h"
#include "tui/picture.h"
#include "tui/settings.h"

#include <cmocka.h> /* last: it defines fail */

#include "tests/golden_screen.h"

static struct temp_folder temp;

static int make_folder(void **state)
{
    (void)state;
    temp = temp_folder_make();
    setenv("XDG_CONFIG_HOME", temp.path, 1);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    temp_folder_remove(&temp);
    return 0;
}

static char *file_text(const char *name)
{
    struct buf text = {0};
    struct error err;
    char *path = path_join(temp.path, name);
    if (!file_read(&text, path, 1 << 22, &err))
        fail_msg("%s", err.text);
    free(path);
    return buf_take(&text);
}

static void write_file(const char *name, const char *text)
{
    temp_write(&temp, name, text, strlen(text));
}

static void picture(struct app *app, const char *name)
{
    char command[256];
    snprintf(command, sizeof command, "picture %s/%s", temp.path, name);
    assert_true(action_run_command(app, command));
}

/* --- Pictures -------------------------------------------------------------------------------- */

static void test_a_text_picture_is_the_frame(void **state)
{
    (void)state;
    struct app app;
    struct buf want = {0};
    screen_state_fill(&app, 80, 24, 2, 35, false);
    frame_text(&app, &want);
    picture(&app, "frame.txt");
    char *got = file_text("frame.txt");
    assert_string_equal(got, want.data);
    free(got);
    buf_free(&want);
    app_free(&app);
}

/* Every character of the frame, entities for markup, tags that end. */
static void test_an_svg_holds_the_text_of_every_row(void **state)
{
    (void)state;
    struct app app;
    screen_state_fill(&app, 80, 24, 2, 35, false);
    picture(&app, "frame.svg");
    char *svg = file_text("frame.svg");
    assert_non_null(strstr(svg, "Harwick bridge"));
    assert_non_null(strstr(svg, "</svg>\n"));
    int depth = 0;
    for (const char *c = svg; *c; c++) {
        depth += (*c == '<') - (*c == '>');
        assert_in_range(depth, 0, 1);
        assert_false(*c == '&' && strncmp(c, "&lt;", 4) && strncmp(c, "&gt;", 4) &&
                     strncmp(c, "&amp;", 5));
    }
    free(svg);
    app_free(&app);
}

static void test_text_of_an_answer_cannot_be_markup(void **state)
{
    (void)state;
    struct grid g;
    struct buf svg = {0};
    struct rect all = {0, 0, 60, 1};
    grid_init(&g, 60, 1, false);
    grid_reset(&g, 60, 1);
    grid_put(&g, all, 0, 0, ROLE_TEXT, 0, "</text><script>alert(1)</script>&\033[2J");
    picture_svg(&g, THEME_DARK, &svg);
    assert_null(strstr(svg.data, "<script"));
    assert_non_null(strstr(svg.data, "&lt;/text&gt;&lt;script&gt;alert(1)"));
    assert_null(strchr(svg.data, '\033'));
    buf_free(&svg);
    grid_free(&g);
}

static void test_themes_give_other_pictures(void **state)
{
    (void)state;
    struct app app;
    char *svg[N_THEMES];
    screen_state_fill(&app, 80, 24, 2, 35, false);
    for (int i = 0; i < N_THEMES; i++) {
        char name[32], command[64];
        snprintf(command, sizeof command, "theme %s", theme_names[i]);
        assert_true(action_run_command(&app, command));
        app.message_until_ms = 0; /* its words would differ too */
        app_tick(&app);
        snprintf(name, sizeof name, "theme%d.svg", i);
        picture(&app, name);
        svg[i] = file_text(name);
        for (int j = 0; j < i; j++)
            assert_string_not_equal(svg[i], svg[j]);
    }
    for (int i = 0; i < N_THEMES; i++)
        free(svg[i]);
    app_free(&app);
}

static void test_a_picture_replaces_no_file(void **state)
{
    (void)state;
    struct app app;
    screen_state_fill(&app, 80, 24, 2, 35, false);
    write_file("mine.txt", "mine");
    picture(&app, "mine.txt");
    assert_non_null(strstr(app.message, "is there already"));
    char *text = file_text("mine.txt");
    assert_string_equal(text, "mine");
    free(text);
    picture(&app, "frame.png");
    assert_non_null(strstr(app.message, "must end in .svg or .txt"));
    picture(&app, "missing/frame.txt");
    assert_non_null(strstr(app.message, "could not be written"));
    app_free(&app);
}

/* --- Themes ----------------------------------------------------------------------------------- */

static void test_every_role_has_a_look_in_every_theme(void **state)
{
    (void)state;
    for (int theme = 0; theme < N_THEMES; theme++)
        for (int mode = COLOR_NEVER; mode <= COLOR_256; mode++)
            for (int role = 0; role < ROLE_COUNT; role++) {
                struct look look =
                    theme_look((enum role)role, (enum color_mode)mode, (enum theme)theme);
                bool colored = theme != THEME_MONO && mode != COLOR_NEVER;
                int most = !colored ? -1 : mode == COLOR_16 ? 15 : 255;
                assert_in_range(look.fg + 1, 0, most + 1);
                assert_in_range(look.bg + 1, 0, most + 1);
            }
}

static void test_the_palettes_colours_are_xterms(void **state)
{
    (void)state;
    assert_int_equal(theme_rgb(16), 0x000000);
    assert_int_equal(theme_rgb(75), 0x5fafff);
    assert_int_equal(theme_rgb(214), 0xffaf00);
    assert_int_equal(theme_rgb(231), 0xffffff);
    assert_int_equal(theme_rgb(232), 0x080808);
    assert_int_equal(theme_rgb(255), 0xeeeeee);
}

/* --- Settings --------------------------------------------------------------------------------- */

static void test_settings_come_back_as_written(void **state)
{
    (void)state;
    struct settings s = {.theme = THEME_COLOR_BLIND, .ascii = true}, back;
    struct buf notice = {0};
    struct error err;
    char *path = NULL;
    assert_true(settings_write(&s, &path, &err));
    free(path);
    assert_true(settings_write(&s, &path, &err)); /* over itself */
    settings_read(&back, &notice);
    assert_int_equal(notice.len, 0);
    assert_int_equal(back.theme, THEME_COLOR_BLIND);
    assert_true(back.ascii);
    assert_false(back.live);
    remove(path);
    free(path);
}

static void test_without_a_file_settings_are_the_defaults(void **state)
{
    (void)state;
    struct settings s;
    struct buf notice = {0};
    settings_read(&s, &notice);
    assert_int_equal(notice.len, 0);
    assert_int_equal(s.theme, THEME_BY_BACKGROUND);
}

static void check_notice(const char *file, const char *words)
{
    struct settings s;
    struct buf notice = {0};
    char *inner = path_join(temp.path, "attnscope");
    mkdir(inner, 0700);
    free(inner);
    write_file("attnscope/config.json", file);
    settings_read(&s, &notice);
    if (!notice.data || !strstr(notice.data, words))
        fail_msg("want '%s', got '%s'", words, notice.data ? notice.data : "");
    assert_true(s.live); /* what is right holds */
    buf_free(&notice);
}

static void test_what_is_wrong_in_the_file_is_told_and_the_rest_holds(void **state)
{
    (void)state;
    check_notice("{\"theem\": \"dark\", \"live\": true}", "did you mean theme?");
    check_notice("{\"theme\": \"pink\", \"live\": true}", "dark, light, colour-blind or mono");
    check_notice("{\"ascii\": 1, \"live\": true}", "ascii must be true or false");
}

int main(void)
{
    setlocale(LC_CTYPE, "C.UTF-8");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_text_picture_is_the_frame),
        cmocka_unit_test(test_an_svg_holds_the_text_of_every_row),
        cmocka_unit_test(test_text_of_an_answer_cannot_be_markup),
        cmocka_unit_test(test_themes_give_other_pictures),
        cmocka_unit_test(test_a_picture_replaces_no_file),
        cmocka_unit_test(test_every_role_has_a_look_in_every_theme),
        cmocka_unit_test(test_the_palettes_colours_are_xterms),
        cmocka_unit_test(test_without_a_file_settings_are_the_defaults),
        cmocka_unit_test(test_settings_come_back_as_written),
        cmocka_unit_test(test_what_is_wrong_in_the_file_is_told_and_the_rest_holds),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
