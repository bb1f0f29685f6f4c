/* The screen-text filter decides per code point: show, picture, replace or drop.  Nothing here
 * parses escape sequences: without its ESC or CSI byte a sequence is only letters. */
#include "engine/text/screen_text.h"

#include <string.h>
#include <utf8proc.h>
#include <wchar.h>

#include "engine/base/utf8.h"

#define PICTURE_NUL 0x2400u
#define PICTURE_DEL 0x2421u
#define PICTURE_NEWLINE 0x240Au
#define ELLIPSIS 0x2026u
#define TAB_COLUMNS 8

struct range {
    uint32_t first, last;
};

/* Default_Ignorable_Code_Point (Unicode 15, DerivedCoreProperties): what a reader cannot see. */
static const struct range INVISIBLE[] = {
    {0x00AD, 0x00AD},   {0x034F, 0x034F},   {0x061C, 0x061C}, {0x115F, 0x1160}, {0x17B4, 0x17B5},
    {0x180B, 0x180F},   {0x200B, 0x200F},   {0x202A, 0x202E}, {0x2060, 0x206F}, {0x3164, 0x3164},
    {0xFE00, 0xFE0F},   {0xFEFF, 0xFEFF},   {0xFFA0, 0xFFA0}, {0xFFF0, 0xFFF8}, {0x1BCA0, 0x1BCA3},
    {0x1D173, 0x1D17A}, {0xE0000, 0xE0FFF},
};

static bool is_invisible(uint32_t c)
{
    for (size_t i = 0; i < sizeof INVISIBLE / sizeof *INVISIBLE; i++)
        if (c >= INVISIBLE[i].first && c <= INVISIBLE[i].last)
            return true;
    return false;
}

/* Embeddings, overrides and isolates: these can make text read as something else, so they leave
 * a mark instead of vanishing. */
static bool is_bidi_control(uint32_t c)
{
    return (c >= 0x202A && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069);
}

bool screen_text_allowed(uint32_t c)
{
    if (c < 0x7F)
        return c >= 0x20;
    if (c > 0x10FFFF || is_invisible(c))
        return false;
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return false;
    default:
        return true;
    }
}

int screen_text_width(uint32_t c)
{
    int width = wcwidth((wchar_t)c);
    /* In the C locale libc knows no width for anything past ASCII. */
    if (width < 0)
        width = utf8proc_charwidth((utf8proc_int32_t)c);
    return width;
}

/* What stands for a code point that may not be shown; 0 drops it. */
static uint32_t substitute(uint32_t c)
{
    if (c < 0x20)
        return PICTURE_NUL + c;
    if (c == 0x7F)
        return PICTURE_DEL;
    if (c == 0x2028 || c == 0x2029)
        return ' ';
    if (is_bidi_control(c))
        return UTF8_REPLACEMENT;
    if (is_invisible(c) || utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_CF)
        return 0;
    return UTF8_REPLACEMENT;
}

/* Appends one character that is fit to be shown, and returns its width. */
static int put(struct buf *out, uint32_t c, int flags)
{
    if ((flags & SCREEN_TEXT_ASCII) && c > 0x7E)
        c = '?';
    buf_append_utf8(out, c);
    return screen_text_width(c);
}

/* Filters one code point; returns the column after it. */
static size_t filter_one(struct buf *out, uint32_t c, size_t column, int flags)
{
    if (c == '\n' && (flags & SCREEN_TEXT_NEWLINES)) {
        buf_append_char(out, '\n');
        return 0;
    }
    if (c == '\n') {
        buf_append_utf8(out, flags & SCREEN_TEXT_ASCII ? ' ' : PICTURE_NEWLINE);
        return column + 1;
    }
    if (c == '\t' && (flags & SCREEN_TEXT_NEWLINES)) {
        do
            buf_append_char(out, ' ');
        while (++column % TAB_COLUMNS);
        return column;
    }
    if (!screen_text_allowed(c) && !(c = substitute(c)))
        return column;
    return column + (size_t)put(out, c, flags);
}

void screen_text_filter(struct buf *out, const char *s, size_t n, int flags)
{
    size_t column = 0;
    for (size_t i = 0; i < n;) {
        uint32_t c;
        int n_bad = 1;
        int len = utf8_decode(s + i, n - i, &c, &n_bad);
        if (len < 0)
            len = (int)(n - i); /* cut off by the end: one mark for all of it */
        else if (len > 0) {
            column = filter_one(out, c, column, flags);
            i += (size_t)len;
            continue;
        } else
            len = n_bad;
        column += (size_t)put(out, UTF8_REPLACEMENT, flags);
        i += (size_t)len;
    }
}

char *screen_text_name(const char *s, size_t max_chars)
{
    struct buf out = {0};
    screen_text_filter(&out, s, strlen(s), SCREEN_TEXT_LINE);
    if (max_chars == 0 || !out.len || utf8_length(out.data, out.len) <= max_chars)
        return buf_take(&out);

    size_t end = 0;
    for (size_t n_chars = 0; n_chars + 1 < max_chars; n_chars++) {
        uint32_t c;
        int n_bad;
        end += (size_t)utf8_decode(out.data + end, out.len - end, &c, &n_bad);
    }
    out.len = end;
    buf_append_utf8(&out, ELLIPSIS);
    return buf_take(&out);
}
