/* The screen-text filter: nothing that can steer a terminal, hide text or turn it round gets
 * through, whatever goes in. */
#include "engine/text/screen_text.h"

#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/utf8.h"

static void expect_n(const char *in, size_t n, int flags, const char *want)
{
    struct buf out = {0};
    screen_text_filter(&out, in, n, flags);
    if (strcmp(out.data ? out.data : "", want) != 0)
        fail_msg("flags %d, in \"%s\"\n got \"%s\"\nwant \"%s\"", flags, in, out.data, want);
    buf_free(&out);
}

static void expect(const char *in, int flags, const char *want)
{
    expect_n(in, strlen(in), flags, want);
}

static void test_ordinary_text_passes_unchanged(void **state)
{
    (void)state;
    expect("Hello, Grüße Ωμέγα 漢字 🙂 e\u0301 \u00a0.", SCREEN_TEXT_LINE,
           "Hello, Grüße Ωμέγα 漢字 🙂 e\u0301 \u00a0.");
    expect("", SCREEN_TEXT_LINE, "");
}

static void test_every_c0_control_and_del_becomes_its_picture(void **state)
{
    (void)state;
    for (uint32_t c = 0; c < 0x20; c++) {
        struct buf want = {0};
        char in = (char)c;
        buf_append_utf8(&want, 0x2400 + c);
        expect_n(&in, 1, SCREEN_TEXT_LINE, want.data);
        expect_n(&in, 1, SCREEN_TEXT_ASCII, c == '\n' ? " " : "?");
        if (c != '\n' && c != '\t')
            expect_n(&in, 1, SCREEN_TEXT_NEWLINES, want.data);
        buf_free(&want);
    }
    expect("\x7f", SCREEN_TEXT_LINE, "␡");
    expect("\x7f", SCREEN_TEXT_ASCII, "?");
}

static void test_escape_sequences_are_only_letters(void **state)
{
    (void)state;
    expect("\x1b[31mred\x1b[0m", SCREEN_TEXT_LINE, "␛[31mred␛[0m");
    expect("\x1b]0;title\x07", SCREEN_TEXT_LINE, "␛]0;title␇");
    expect("\x1bP1;2q\x1b\\", SCREEN_TEXT_NEWLINES, "␛P1;2q␛\\");
    expect("\x1b[2J\x1b[H", SCREEN_TEXT_ASCII, "?[2J?[H");
}

static void test_c1_controls_do_not_pass_in_either_form(void **state)
{
    (void)state;
    for (uint32_t c = 0x80; c < 0xA0; c++) {
        struct buf encoded = {0};
        char raw = (char)c;
        buf_append_utf8(&encoded, c);
        expect_n(encoded.data, encoded.len, SCREEN_TEXT_LINE, "\uFFFD");
        expect_n(encoded.data, encoded.len, SCREEN_TEXT_ASCII, "?");
        expect_n(&raw, 1, SCREEN_TEXT_LINE, "\uFFFD");
        assert_false(screen_text_allowed(c));
        buf_free(&encoded);
    }
    expect("\xc2\x9b"
           "31m\xc2\x9d"
           "0;x\xc2\x9c",
           SCREEN_TEXT_LINE, "\uFFFD31m\uFFFD0;x\uFFFD");
}

static void test_bidirectional_controls_leave_a_mark(void **state)
{
    (void)state;
    for (uint32_t c = 0x202A; c <= 0x2069; c = c == 0x202E ? 0x2066 : c + 1) {
        struct buf in = {0};
        buf_append_char(&in, 'a');
        buf_append_utf8(&in, c);
        buf_append_char(&in, 'b');
        expect_n(in.data, in.len, SCREEN_TEXT_LINE, "a\uFFFDb");
        assert_false(screen_text_allowed(c));
        buf_free(&in);
    }
}

static void test_invisible_characters_are_dropped(void **state)
{
    (void)state;
    static const uint32_t DROPPED[] = {0xAD,    0x34F,   0x61C,   0x180E,  0x200B,  0x200C,
                                       0x200D,  0x200E,  0x200F,  0x2060,  0x2064,  0xFE00,
                                       0xFE0E,  0xFE0F,  0xFEFF,  0x3164,  0xE0001, 0xE0041,
                                       0xE007F, 0xE0100, 0xE01EF, 0x1D173, 0xFFF9};
    for (size_t i = 0; i < sizeof DROPPED / sizeof *DROPPED; i++) {
        struct buf in = {0};
        buf_append_char(&in, 'a');
        buf_append_utf8(&in, DROPPED[i]);
        buf_append_char(&in, 'b');
        expect_n(in.data, in.len, SCREEN_TEXT_LINE, "ab");
        expect_n(in.data, in.len, SCREEN_TEXT_ASCII, "ab");
        buf_free(&in);
    }
    expect("👨\u200d👩\u200d👧", SCREEN_TEXT_LINE, "👨👩👧");
    expect("\u2764\ufe0f", SCREEN_TEXT_LINE, "\u2764");
}

static void test_private_and_unassigned_characters_leave_a_mark(void **state)
{
    (void)state;
    expect("\ue000\U000f0000\ufffe\u0378", SCREEN_TEXT_LINE, "\uFFFD\uFFFD\uFFFD\uFFFD");
    expect("a\u2028b\u2029c", SCREEN_TEXT_NEWLINES, "a b c");
}

static void test_broken_utf8_becomes_one_mark_for_each_part(void **state)
{
    (void)state;
    expect("a\xff"
           "b",
           SCREEN_TEXT_LINE, "a\uFFFDb");
    expect("\xc0\xaf", SCREEN_TEXT_LINE, "\uFFFD\uFFFD");
    expect("\xed\xa0\x80", SCREEN_TEXT_LINE, "\uFFFD\uFFFD\uFFFD");
    expect("\xf0\x9f\x99x", SCREEN_TEXT_LINE, "\uFFFDx");
    expect("\xf4\x90\x80\x80", SCREEN_TEXT_LINE, "\uFFFD\uFFFD\uFFFD\uFFFD");
}

static void test_a_character_cut_off_by_the_end_is_one_mark(void **state)
{
    (void)state;
    expect_n("x🙂", 4, SCREEN_TEXT_LINE, "x\uFFFD");
    expect_n("x🙂", 4, SCREEN_TEXT_ASCII, "x?");
    expect_n("x漢", 2, SCREEN_TEXT_LINE, "x\uFFFD");
}

static void test_newlines_and_tabs_follow_the_mode(void **state)
{
    (void)state;
    expect("a\nb", SCREEN_TEXT_LINE, "a␊b");
    expect("a\nb", SCREEN_TEXT_NEWLINES, "a\nb");
    expect("a\nb", SCREEN_TEXT_ASCII, "a b");
    expect("a\nb", SCREEN_TEXT_ASCII | SCREEN_TEXT_NEWLINES, "a\nb");
    expect("a\tb", SCREEN_TEXT_LINE, "a␉b");
    expect("a\tb\n\tc\n12345678\td", SCREEN_TEXT_NEWLINES,
           "a       b\n        c\n12345678        d");
    expect("漢\tb", SCREEN_TEXT_NEWLINES, "漢      b");
    expect("\r\n", SCREEN_TEXT_NEWLINES, "␍\n");
}

static void test_ascii_mode_shows_only_ascii(void **state)
{
    (void)state;
    expect("Grüße 漢🙂~", SCREEN_TEXT_ASCII, "Gr??e ??~");
}

static void test_names_are_one_line_and_cut_with_an_ellipsis(void **state)
{
    (void)state;
    static const struct {
        const char *in;
        size_t max_chars;
        const char *want;
    } cases[] = {
        {"model\n\x1b[1m", 0, "model␊␛[1m"},
        {"abcdef", 6, "abcdef"},
        {"abcdefg", 6, "abcde…"},
        {"漢字漢字", 3, "漢字…"},
        {"ab", 1, "…"},
        {"", 5, ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *got = screen_text_name(cases[i].in, cases[i].max_chars);
        assert_string_equal(got, cases[i].want);
        free(got);
    }
}

static void test_widths_are_those_of_a_terminal(void **state)
{
    (void)state;
    assert_int_equal(screen_text_width('a'), 1);
    assert_int_equal(screen_text_width(0x6F22), 2);
    assert_int_equal(screen_text_width(0x1F642), 2);
    assert_int_equal(screen_text_width(0x301), 0);
    assert_int_equal(screen_text_width(0xE9), 1);
}

static uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

/* Bytes that make long runs of good UTF-8 likely, and controls frequent. */
static size_t random_piece(char out[4], uint32_t *random)
{
    uint32_t r = next_random(random), c = r >> 4;
    switch (r & 3) {
    case 0:
        out[0] = (char)c;
        return 1;
    case 1:
        return utf8_encode(out, c % 0x500);
    case 2:
        return utf8_encode(out, 0x2000 + c % 0x100);
    default:
        c %= 0x110000;
        return utf8_encode(out, c >= 0xD800 && c < 0xE000 ? 0xFEFF : c);
    }
}

static void check_output(const struct buf *out, int flags)
{
    for (size_t i = 0; i < out->len;) {
        uint32_t c;
        int n_bad;
        int len = utf8_decode(out->data + i, out->len - i, &c, &n_bad);
        bool newline = c == '\n' && (flags & SCREEN_TEXT_NEWLINES);
        bool is_ascii = c < 0x7F;
        if (len <= 0 || !(screen_text_allowed(c) || newline) ||
            ((flags & SCREEN_TEXT_ASCII) && !is_ascii))
            fail_msg("flags %d: U+%04X came out at byte %zu", flags, len > 0 ? c : 0, i);
        i += (size_t)len;
    }
}

static void test_nothing_but_allowed_characters_comes_out_of_random_bytes(void **state)
{
    (void)state;
    uint32_t random = 7;
    char in[1024];
    for (int round = 0; round < 1200; round++) {
        size_t n = 0;
        while (n + 4 <= sizeof in)
            n += random_piece(in + n, &random);
        for (int flags = 0; flags < 4; flags++) {
            struct buf out = {0}, again = {0};
            screen_text_filter(&out, in, n, flags);
            check_output(&out, flags);
            screen_text_filter(&again, out.data, out.len, flags);
            assert_int_equal(again.len, out.len);
            assert_memory_equal(again.data, out.data, out.len);
            buf_free(&out);
            buf_free(&again);
        }
    }
}

static void test_no_forbidden_code_point_is_allowed(void **state)
{
    (void)state;
    for (uint32_t c = 0; c < 0x110010; c++) {
        bool forbidden = c < 0x20 || (c >= 0x7F && c < 0xA0) || (c >= 0x200B && c <= 0x200F) ||
                         (c >= 0x2028 && c <= 0x202E) || (c >= 0x2060 && c <= 0x206F) ||
                         (c >= 0xD800 && c <= 0xF8FF) || (c >= 0xFE00 && c <= 0xFE0F) ||
                         c == 0xFEFF || c >= 0xE0000;
        if (forbidden && screen_text_allowed(c))
            fail_msg("U+%04X is allowed", c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ordinary_text_passes_unchanged),
        cmocka_unit_test(test_every_c0_control_and_del_becomes_its_picture),
        cmocka_unit_test(test_escape_sequences_are_only_letters),
        cmocka_unit_test(test_c1_controls_do_not_pass_in_either_form),
        cmocka_unit_test(test_bidirectional_controls_leave_a_mark),
        cmocka_unit_test(test_invisible_characters_are_dropped),
        cmocka_unit_test(test_private_and_unassigned_characters_leave_a_mark),
        cmocka_unit_test(test_broken_utf8_becomes_one_mark_for_each_part),
        cmocka_unit_test(test_a_character_cut_off_by_the_end_is_one_mark),
        cmocka_unit_test(test_newlines_and_tabs_follow_the_mode),
        cmocka_unit_test(test_ascii_mode_shows_only_ascii),
        cmocka_unit_test(test_names_are_one_line_and_cut_with_an_ellipsis),
        cmocka_unit_test(test_widths_are_those_of_a_terminal),
        cmocka_unit_test(test_nothing_but_allowed_characters_comes_out_of_random_bytes),
        cmocka_unit_test(test_no_forbidden_code_point_is_allowed),
    };
    setlocale(LC_CTYPE, "C.UTF-8");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
