/* The cell grid, styled text, the key decoder and the token diff: the pure parts of the screen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/utf8.h"
#include "tui/grid.h"
#include "tui/keys.h"
#include "tui/rich.h"
#include "tui/token_diff.h"

#include <cmocka.h> /* last: it defines fail */

static uint32_t random_state = 1;

static uint32_t next_random(uint32_t below)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % below;
}

static char *grid_text(const struct grid *g)
{
    struct buf text = {0};
    grid_to_text(g, &text);
    return buf_take(&text);
}

static void check_text(const struct grid *g, const char *want)
{
    char *got = grid_text(g);
    if (strcmp(got, want))
        print_error("got  [%s]\nwant [%s]\n", got, want);
    assert_string_equal(got, want);
    free(got);
}

static void test_text_is_cut_at_its_rectangle(void **state)
{
    (void)state;
    struct grid g;
    grid_init(&g, 10, 3, false);
    struct rect clip = {2, 1, 4, 1};
    int x = grid_put(&g, clip, 0, 0, ROLE_TEXT, 0, "abcdefgh");
    assert_int_equal(x, 8);
    grid_put(&g, clip, 0, 1, ROLE_TEXT, 0, "below");
    grid_put(&g, clip, -2, 0, ROLE_TEXT, 0, "XYZ");
    check_text(&g, "\n  Zbcd\n\n");
    grid_free(&g);
}

static void test_a_wide_character_is_never_halved(void **state)
{
    (void)state;
    struct grid g;
    grid_init(&g, 6, 1, false);
    struct rect all = {0, 0, 6, 1}, five = {0, 0, 5, 1};
    grid_put(&g, five, 0, 0, ROLE_TEXT, 0, "世世世"); /* the third has one column left */
    check_text(&g, "世世\n");
    grid_put(&g, all, 1, 0, ROLE_TEXT, 0, "x"); /* over the right half of the first */
    check_text(&g, " x世\n");
    grid_put(&g, all, 2, 0, ROLE_TEXT, 0, "y"); /* over the left half of the second */
    check_text(&g, " xy\n");
    grid_put(&g, all, 1, 0, ROLE_TEXT, 0, "世");
    assert_int_equal(grid_at(&g, 1, 0)->width, 2);
    assert_int_equal(grid_at(&g, 2, 0)->width, 0);
    grid_free(&g);
}

static void test_no_control_reaches_a_cell(void **state)
{
    (void)state;
    struct grid g;
    grid_init(&g, 80, 1, false);
    for (int round = 0; round < 20000; round++) {
        char bytes[24];
        size_t n = next_random(sizeof bytes);
        for (size_t i = 0; i < n; i++)
            bytes[i] =
                (char)(next_random(4) ? next_random(256)
                                      : (uint32_t) "\033[]\a\x9b\xc2\xe2\x80\xae"[next_random(9)]);
        grid_put_n(&g, (struct rect){0, 0, 80, 1}, 0, 0, ROLE_TEXT, 0, bytes, n);
        for (int x = 0; x < 80; x++) {
            uint32_t code = grid_at(&g, x, 0)->code;
            bool control = code < 0x20 || (code >= 0x7F && code < 0xA0) || code == 0x202E ||
                           (code >= 0x2066 && code <= 0x2069) || code == 0x200B || code == 0xFEFF;
            if (control)
                print_error("cell %d holds U+%04X\n", x, code);
            assert_false(control);
        }
    }
    grid_free(&g);
}

static void test_ascii_grids_hold_only_ascii(void **state)
{
    (void)state;
    struct grid g;
    grid_init(&g, 20, 2, true);
    struct rect all = {0, 0, 20, 2};
    grid_box(&g, all, ROLE_TEXT);
    grid_put(&g, all, 1, 0, ROLE_TEXT, 0, "×1.88 世é›");
    for (int y = 0; y < 2; y++)
        for (int x = 0; x < 20; x++)
            assert_in_range(grid_at(&g, x, y)->code, 0x20, 0x7E);
    grid_free(&g);
}

static void check_lines(const char *text, int width, const char *const *want)
{
    struct rich rich = {0};
    struct rich_lines lines = {0};
    struct grid g;
    rich_append_str(&rich, text, ROLE_TEXT, 0);
    rich_wrap(&rich, width, &lines);
    grid_init(&g, width, (int)lines.n, false);
    for (size_t i = 0; i < lines.n; i++)
        rich_draw_line(&g, (struct rect){0, 0, width, (int)lines.n}, (int)i, &rich, lines.lines[i]);
    struct buf expected = {0};
    for (; *want; want++)
        buf_printf(&expected, "%s\n", *want);
    check_text(&g, expected.data);
    buf_free(&expected);
    grid_free(&g);
    rich_lines_free(&lines);
    rich_free(&rich);
}

static void test_text_wraps_at_spaces_and_inside_long_words(void **state)
{
    (void)state;
    check_lines("one two three", 7, (const char *const[]){"one two", "three", NULL});
    check_lines("abcdefghij kl", 4, (const char *const[]){"abcd", "efgh", "ij", "kl", NULL});
    check_lines("a\n\nb", 4, (const char *const[]){"a", "", "b", NULL});
    check_lines("世界世界", 5, (const char *const[]){"世界", "世界", NULL});
    check_lines("", 5, (const char *const[]){"", NULL});
}

static void test_every_wrapped_line_fits(void **state)
{
    (void)state;
    for (int round = 0; round < 3000; round++) {
        struct rich rich = {0};
        struct rich_lines lines = {0};
        int width = 2 + (int)next_random(12);
        static const char *const pieces[] = {" ", "a", "bc", "世", "\n", "long-word", "é", "  "};
        for (uint32_t i = next_random(40); i > 0; i--)
            rich_append_str(&rich, pieces[next_random(8)], ROLE_TEXT, 0);
        rich_wrap(&rich, width, &lines);
        for (size_t i = 0; i < lines.n; i++) {
            int used = 0;
            for (size_t j = 0; j < lines.lines[i].n; j++)
                used += rich.glyphs[lines.lines[i].first + j].width;
            if (used > width)
                print_error("line %zu: got %d columns, want at most %d\n", i, used, width);
            assert_true(used <= width);
        }
        rich_lines_free(&lines);
        rich_free(&rich);
    }
}

/* --- Keys --------------------------------------------------------------------------------- */

static int decode_one(const char *bytes, bool flush)
{
    struct key_decoder d = {0};
    struct key key;
    key_decoder_feed(&d, bytes, strlen(bytes));
    int code = key_decoder_next(&d, flush, &key) ? key.code : -1;
    if (code >= 0) {
        struct key rest;
        assert_false(key_decoder_next(&d, true, &rest));
    }
    key_decoder_free(&d);
    return code;
}

static void test_keys_of_common_terminals_are_known(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        int code;
    } cases[] = {
        {"a", 'a'},
        {"\xc3\xa9", 0xE9},
        {"\r", CODE_ENTER},
        {"\t", CODE_TAB},
        {"\033[A", CODE_UP},
        {"\033OB", CODE_DOWN},
        {"\033[1;5C", CODE_RIGHT},
        {"\033[H", CODE_HOME},
        {"\033[4~", CODE_END},
        {"\033[5~", CODE_PAGE_UP},
        {"\033OP", CODE_F0 + 1},
        {"\033[11~", CODE_F0 + 1},
        {"\033[[A", CODE_F0 + 1},
        {"\033[15~", CODE_F0 + 5},
        {"\033[21~", CODE_F0 + 10},
        {"\033[Z", CODE_BACKTAB},
        {"\033x", CODE_ALT | 'x'},
        {"\033\r", CODE_ALT | CODE_ENTER},
        {"\b", CODE_BACKSPACE},
        {"\033[<0;3;4M", CODE_UNKNOWN},
        {"\033[99~", CODE_UNKNOWN},
        {"\xff", CODE_UNKNOWN},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int got = decode_one(cases[i].bytes, false);
        if (got != cases[i].code)
            print_error("case %zu: got %x, want %x\n", i, got, cases[i].code);
        assert_int_equal(got, cases[i].code);
    }
}

static void test_esc_alone_waits_for_the_delay(void **state)
{
    (void)state;
    assert_int_equal(decode_one("\033", false), -1);
    assert_int_equal(decode_one("\033", true), CODE_ESC);
}

static void test_a_paste_comes_whole_whatever_the_pieces(void **state)
{
    (void)state;
    static const char text[] = "\033[200~one\rtwo\033[31m \033[20\033[201~z";
    for (size_t piece = 1; piece <= sizeof text; piece++) {
        struct key_decoder d = {0};
        struct key key;
        int n_pastes = 0, n_others = 0;
        for (size_t at = 0; at < sizeof text - 1; at += piece) {
            size_t n = sizeof text - 1 - at < piece ? sizeof text - 1 - at : piece;
            key_decoder_feed(&d, text + at, n);
            while (key_decoder_next(&d, false, &key))
                if (key.code == CODE_PASTE) {
                    n_pastes++;
                    assert_string_equal(key.paste.data, "one\ntwo\033[31m \033[20");
                    buf_free(&key.paste);
                } else {
                    n_others++;
                    assert_int_equal(key.code, 'z');
                }
        }
        assert_int_equal(n_pastes, 1);
        assert_int_equal(n_others, 1);
        key_decoder_free(&d);
    }
}

static void test_random_bytes_always_end(void **state)
{
    (void)state;
    struct key_decoder d = {0};
    struct key key;
    for (int round = 0; round < 20000; round++) {
        char bytes[16];
        size_t n = next_random(sizeof bytes);
        for (size_t i = 0; i < n; i++)
            bytes[i] = (char)(next_random(3) ? (uint32_t) "\033[O~;?0123ABM"[next_random(13)]
                                             : next_random(256));
        key_decoder_feed(&d, bytes, n);
        for (size_t n_keys = 0; key_decoder_next(&d, true, &key); n_keys++) {
            buf_free(&key.paste);
            assert_true(n_keys <= n + 16);
        }
    }
    key_decoder_free(&d);
}

/* --- Differences -------------------------------------------------------------------------- */

/* Applies the runs to a: what comes out must be b. */
static void check_diff(const int32_t *a, int n_a, const int32_t *b, int n_b, int max_edits)
{
    struct token_diff d = {0};
    token_diff_compute(&d, a, n_a, b, n_b);
    int at_a = 0, at_b = 0, n_edits = 0;
    for (int i = 0; i < d.n; i++) {
        const struct diff_run *r = &d.runs[i];
        assert_int_equal(r->base - at_a, r->lane - at_b);
        for (; at_a < r->base; at_a++, at_b++)
            assert_int_equal(a[at_a], b[at_b]);
        at_a += r->n_base;
        at_b += r->n_lane;
        n_edits += r->n_base + r->n_lane;
        assert_true(r->n_base + r->n_lane > 0);
    }
    assert_int_equal(n_a - at_a, n_b - at_b);
    for (; at_a < n_a; at_a++, at_b++)
        assert_int_equal(a[at_a], b[at_b]);
    if (n_edits > max_edits)
        print_error("got %d edits, want at most %d\n", n_edits, max_edits);
    assert_true(n_edits <= max_edits);
    token_diff_free(&d);
}

static void test_differences_turn_one_answer_into_the_other(void **state)
{
    (void)state;
    const int32_t a[] = {1, 2, 3, 4, 5, 6}, b[] = {1, 2, 9, 4, 6, 7};
    check_diff(a, 6, b, 6, 4); /* 3 -> 9, 5 gone, 7 new */
    check_diff(a, 6, a, 6, 0);
    check_diff(a, 0, b, 6, 6);
    check_diff(a, 6, b, 0, 6);
    for (int round = 0; round < 2000; round++) {
        int32_t x[40], y[40];
        int n_x = (int)next_random(40), n_y = (int)next_random(40);
        for (int i = 0; i < 40; i++) {
            x[i] = (int32_t)next_random(5);
            y[i] = (int32_t)next_random(5);
        }
        check_diff(x, n_x, y, n_y, n_x + n_y);
    }
}

static void test_long_answers_without_likeness_stay_cheap(void **state)
{
    (void)state;
    enum { N = 20000 };
    int32_t *a = calloc(N, sizeof *a), *b = calloc(N, sizeof *b);
    for (int i = 0; i < N; i++) {
        a[i] = i;
        b[i] = i < 100 ? i : -i;
    }
    check_diff(a, N, b, N, 2 * N);
    free(a);
    free(b);
}

int main(void)
{
    setlocale(LC_CTYPE, "C.UTF-8");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_is_cut_at_its_rectangle),
        cmocka_unit_test(test_a_wide_character_is_never_halved),
        cmocka_unit_test(test_no_control_reaches_a_cell),
        cmocka_unit_test(test_ascii_grids_hold_only_ascii),
        cmocka_unit_test(test_text_wraps_at_spaces_and_inside_long_words),
        cmocka_unit_test(test_every_wrapped_line_fits),
        cmocka_unit_test(test_keys_of_common_terminals_are_known),
        cmocka_unit_test(test_esc_alone_waits_for_the_delay),
        cmocka_unit_test(test_a_paste_comes_whole_whatever_the_pieces),
        cmocka_unit_test(test_random_bytes_always_end),
        cmocka_unit_test(test_differences_turn_one_answer_into_the_other),
        cmocka_unit_test(test_long_answers_without_likeness_stay_cheap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
