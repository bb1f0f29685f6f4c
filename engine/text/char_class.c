/* Classes of characters: utf8proc and Oniguruma, corrected by the tables. */
#include "engine/text/char_class.h"

#include <assert.h>
#include <oniguruma.h>
#include <utf8proc.h>

#include "engine/base/utf8.h"
#include "engine/text/unicode_tables.h"

static const struct code_range *find_range(const struct code_range *table, int n, uint32_t c)
{
    int low = 0, high = n;
    while (low < high) {
        int middle = (low + high) / 2;
        if (c > table[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n && c >= table[low].first ? &table[low] : NULL;
}

bool char_is_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

bool char_is_number(uint32_t c)
{
    if (c < 0x80)
        return c >= '0' && c <= '9';
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
           category == UTF8PROC_CATEGORY_NO ||
           find_range(unicode_newer_numbers, unicode_newer_numbers_n, c);
}

bool char_is_punctuation(uint32_t c)
{
    if (c < 0x80)
        return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
               (c >= '{' && c <= '~');
    if (find_range(unicode_old_punctuation, unicode_old_punctuation_n, c))
        return true;
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO &&
           !find_range(unicode_not_punctuation, unicode_not_punctuation_n, c) &&
           !find_range(unicode_stand_ins, unicode_stand_ins_n, c);
}

bool char_is_word(uint32_t c)
{
    c = char_stand_in(c);
    if (ONIGENC_IS_CODE_CTYPE(ONIG_ENCODING_UTF8, c, ONIGENC_CTYPE_ALPHA))
        return true;
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return c == 0x200C || c == 0x200D;
    }
}

bool char_is_normalized(uint32_t c)
{
    return !find_range(unicode_stand_ins, unicode_stand_ins_n, c) &&
           !find_range(unicode_no_normal_form, unicode_no_normal_form_n, c);
}

int char_lower(uint32_t c, uint32_t out[2])
{
    if (c == 0x130) { /* the only character whose small letter is two */
        out[0] = 'i';
        out[1] = 0x307;
        return 2;
    }
    const struct code_range *newer =
        find_range(unicode_newer_lowercase, unicode_newer_lowercase_n, c);
    out[0] = newer ? (uint32_t)((int32_t)c + newer->value)
                   : (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
    return 1;
}

uint32_t char_stand_in(uint32_t c)
{
    const struct code_range *range = find_range(unicode_stand_ins, unicode_stand_ins_n, c);
    return range ? (uint32_t)range->value : c;
}

/* Bytes that can begin a character that has a stand-in: most text has none of them. */
static bool may_have_stand_in(unsigned char lead)
{
    return lead == 0xE0 || lead == 0xE1 || lead == 0xE2 || lead == 0xE3 || lead == 0xEA ||
           lead == 0xF0;
}

bool text_stand_in(struct buf *to, const char *text, size_t n)
{
    bool any = false;
    for (size_t i = 0; i < n; i++) {
        if (!may_have_stand_in((unsigned char)text[i]))
            continue;
        int len;
        uint32_t c = char_at(text + i, n - i, &len);
        uint32_t stand_in = char_stand_in(c);
        if (stand_in == c)
            continue;
        if (!any) {
            buf_clear(to);
            buf_append(to, text, n);
            any = true;
        }
        size_t len_in = utf8_encode(to->data + i, stand_in);
        assert(len_in == (size_t)len);
        (void)len_in;
    }
    return any;
}

uint32_t char_at(const char *s, size_t n, int *len)
{
    uint32_t c = UTF8_REPLACEMENT;
    int n_bad;
    *len = utf8_decode(s, n, &c, &n_bad);
    if (*len <= 0) /* not valid UTF-8, which no caller passes */
        *len = 1;
    return c;
}

uint32_t char_before(const char *s, size_t n, int *len)
{
    size_t start = n - 1;
    while (start > 0 && ((unsigned char)s[start] & 0xC0) == 0x80)
        start--;
    return char_at(s + start, n - start, len);
}
