/* The prompt line: readline as a function from bytes to a line, with history and completion. */
#include "tui/line_edit.h"

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

#include <cmocka.h> /* last: it defines fail */

static char folder[64];

static const char *word(enum line_field field, int index)
{
    static const char *const words[] = {"oracle-topk", "oracle-topp", "sink", "/stack-add", NULL};
    (void)field;
    return index < 5 ? words[index] : NULL;
}

static enum line_state type(const char *bytes)
{
    return line_edit_feed(bytes, strlen(bytes));
}

static void test_a_line_is_edited_and_accepted(void **state)
{
    (void)state;
    line_edit_start(LINE_QUESTION, NULL, folder, word);
    assert_int_equal(type("helo"), LINE_EDITING);
    type("\033[D");
    type("l");
    assert_string_equal(line_edit_text(), "hello");
    assert_int_equal(line_edit_cursor(), 4);
    type("\005 w\xc3\xb6rld");
    assert_string_equal(line_edit_text(), "hello w\xc3\xb6rld");
    type("\177\177");
    assert_string_equal(line_edit_text(), "hello w\xc3\xb6r");
    assert_int_equal(type("\r"), LINE_ACCEPTED);
    assert_string_equal(line_edit_text(), "hello w\xc3\xb6r");
    line_edit_stop();
}

#ifndef ATTNSCOPE_LIBEDIT
static void test_a_newline_is_typed_and_does_not_accept(void **state)
{
    (void)state;
    line_edit_start(LINE_QUESTION, "one", folder, word);
    assert_int_equal(type("\n"), LINE_EDITING);
    type("two");
    type("\033\r");
    assert_string_equal(line_edit_text(), "one\ntwo\n");
    line_edit_stop();
}
#endif

static void test_ctrl_d_on_an_empty_line_abandons_it(void **state)
{
    (void)state;
    line_edit_start(LINE_VALUE, NULL, folder, word);
    assert_int_equal(type("\004"), LINE_ABANDONED);
    line_edit_stop();
}

static void test_history_is_kept_per_field_and_private(void **state)
{
    (void)state;
    struct stat info;
    char path[128];
    mode_t mask = umask(0);
    line_edit_start(LINE_QUESTION, "first question", folder, word);
    type("\r");
    line_edit_start(LINE_STACK, "sink:4", folder, word);
    type("\r");
    umask(mask);
    line_edit_start(LINE_QUESTION, NULL, folder, word);
    type("\033[A");
    assert_string_equal(line_edit_text(), "first question");
    line_edit_start(LINE_STACK, NULL, folder, word);
    type("\033[A");
    assert_string_equal(line_edit_text(), "sink:4");
    line_edit_stop();
    snprintf(path, sizeof path, "%s/history-questions", folder);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
}

static void test_a_search_left_half_way_leaves_nothing_behind(void **state)
{
    (void)state;
    line_edit_start(LINE_QUESTION, "findable", folder, word);
    type("\r");
    line_edit_start(LINE_QUESTION, NULL, folder, word);
    type("\022find");
    line_edit_start(LINE_QUESTION, NULL, folder, word);
    type("abc");
    assert_string_equal(line_edit_text(), "abc");
    line_edit_stop();
}

/* readline 8.2 keeps the freed lines of a cleared history in its list. */
static void test_a_search_in_an_empty_history_finds_nothing_of_another(void **state)
{
    (void)state;
    for (int i = 0; i < 6; i++) {
        line_edit_start(LINE_QUESTION, "a line that is remembered", folder, word);
        type("\r");
    }
    line_edit_start(LINE_PATH, NULL, folder, word);
    type("\022remem\033[B");
    assert_null(strstr(line_edit_text(), "remembered"));
    line_edit_stop();
}

#ifndef ATTNSCOPE_LIBEDIT
static void test_names_and_files_are_completed(void **state)
{
    (void)state;
    line_edit_start(LINE_STACK, NULL, folder, word);
    type("ora\t");
    assert_string_equal(line_edit_text(), "oracle-top");
    assert_non_null(strstr(line_edit_matches(), "oracle-topp"));
    type("k\t");
    assert_null(line_edit_matches());
    line_edit_start(LINE_QUESTION, NULL, folder, word);
    type("/sta\t");
    assert_string_equal(line_edit_text(), "/stack-add ");
    line_edit_start(LINE_QUESTION, "@" ATTNSCOPE_SOURCE_DIR "/CMakeLi", folder, word);
    type("\t");
    assert_string_equal(line_edit_text(), "@" ATTNSCOPE_SOURCE_DIR "/CMakeLists.txt ");
    /* Words of a question are not completed. */
    line_edit_start(LINE_QUESTION, "why si", folder, word);
    type("\t");
    assert_string_equal(line_edit_text(), "why si");
    line_edit_stop();
}

static void test_pasted_text_goes_in_at_the_cursor(void **state)
{
    (void)state;
    line_edit_start(LINE_QUESTION, "ab", folder, word);
    type("\033[D");
    line_edit_insert("one\ntwo");
    assert_string_equal(line_edit_text(), "aone\ntwob");
    line_edit_stop();
}
#endif

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/attnscope-line-XXXXXX");
    setenv("INPUTRC", "/dev/null", 1);
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    static const char *const names[] = {"history-questions", "history-values", "history-stacks",
                                        "history-paths"};
    char path[128];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    return rmdir(folder);
}

int main(void)
{
    setlocale(LC_CTYPE, "C.UTF-8");
    setenv("TERM", "xterm-256color", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_line_is_edited_and_accepted),
#ifndef ATTNSCOPE_LIBEDIT /* holds no newline, and lists no completions */
        cmocka_unit_test(test_a_newline_is_typed_and_does_not_accept),
        cmocka_unit_test(test_names_and_files_are_completed),
        cmocka_unit_test(test_pasted_text_goes_in_at_the_cursor),
#endif
        cmocka_unit_test(test_ctrl_d_on_an_empty_line_abandons_it),
        cmocka_unit_test(test_history_is_kept_per_field_and_private),
        cmocka_unit_test(test_a_search_left_half_way_leaves_nothing_behind),
        cmocka_unit_test(test_a_search_in_an_empty_history_finds_nothing_of_another),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
