/* Case mapping.  utf8proc knows the mappings of one character to one; the table below has the
 * others.  Source: Unicode's SpecialCasing.txt, the unconditional entries. */
#include "engine/text/jinja_casing.h"

#include <utf8proc.h>

#include "engine/base/utf8.h"
#include "engine/text/jinja_run.h"

struct special_case {
    uint32_t code_point;
    uint32_t upper[3], title[3]; /* 0 ends */
};

/* Sorted by code point. */
static const struct special_case SPECIAL[] = {
    {0x00DF, {0x0053, 0x0053}, {0x0053, 0x0073}},
    {0x0149, {0x02BC, 0x004E}, {0x02BC, 0x004E}},
    {0x01F0, {0x004A, 0x030C}, {0x004A, 0x030C}},
    {0x0390, {0x0399, 0x0308, 0x0301}, {0x0399, 0x0308, 0x0301}},
    {0x03B0, {0x03A5, 0x0308, 0x0301}, {0x03A5, 0x0308, 0x0301}},
    {0x0587, {0x0535, 0x0552}, {0x0535, 0x0582}},
    {0x1E96, {0x0048, 0x0331}, {0x0048, 0x0331}},
    {0x1E97, {0x0054, 0x0308}, {0x0054, 0x0308}},
    {0x1E98, {0x0057, 0x030A}, {0x0057, 0x030A}},
    {0x1E99, {0x0059, 0x030A}, {0x0059, 0x030A}},
    {0x1E9A, {0x0041, 0x02BE}, {0x0041, 0x02BE}},
    {0x1F50, {0x03A5, 0x0313}, {0x03A5, 0x0313}},
    {0x1F52, {0x03A5, 0x0313, 0x0300}, {0x03A5, 0x0313, 0x0300}},
    {0x1F54, {0x03A5, 0x0313, 0x0301}, {0x03A5, 0x0313, 0x0301}},
    {0x1F56, {0x03A5, 0x0313, 0x0342}, {0x03A5, 0x0313, 0x0342}},
    {0x1F80, {0x1F08, 0x0399}, {0x1F88}},
    {0x1F81, {0x1F09, 0x0399}, {0x1F89}},
    {0x1F82, {0x1F0A, 0x0399}, {0x1F8A}},
    {0x1F83, {0x1F0B, 0x0399}, {0x1F8B}},
    {0x1F84, {0x1F0C, 0x0399}, {0x1F8C}},
    {0x1F85, {0x1F0D, 0x0399}, {0x1F8D}},
    {0x1F86, {0x1F0E, 0x0399}, {0x1F8E}},
    {0x1F87, {0x1F0F, 0x0399}, {0x1F8F}},
    {0x1F88, {0x1F08, 0x0399}, {0x1F88}},
    {0x1F89, {0x1F09, 0x0399}, {0x1F89}},
    {0x1F8A, {0x1F0A, 0x0399}, {0x1F8A}},
    {0x1F8B, {0x1F0B, 0x0399}, {0x1F8B}},
    {0x1F8C, {0x1F0C, 0x0399}, {0x1F8C}},
    {0x1F8D, {0x1F0D, 0x0399}, {0x1F8D}},
    {0x1F8E, {0x1F0E, 0x0399}, {0x1F8E}},
    {0x1F8F, {0x1F0F, 0x0399}, {0x1F8F}},
    {0x1F90, {0x1F28, 0x0399}, {0x1F98}},
    {0x1F91, {0x1F29, 0x0399}, {0x1F99}},
    {0x1F92, {0x1F2A, 0x0399}, {0x1F9A}},
    {0x1F93, {0x1F2B, 0x0399}, {0x1F9B}},
    {0x1F94, {0x1F2C, 0x0399}, {0x1F9C}},
    {0x1F95, {0x1F2D, 0x0399}, {0x1F9D}},
    {0x1F96, {0x1F2E, 0x0399}, {0x1F9E}},
    {0x1F97, {0x1F2F, 0x0399}, {0x1F9F}},
    {0x1F98, {0x1F28, 0x0399}, {0x1F98}},
    {0x1F99, {0x1F29, 0x0399}, {0x1F99}},
    {0x1F9A, {0x1F2A, 0x0399}, {0x1F9A}},
    {0x1F9B, {0x1F2B, 0x0399}, {0x1F9B}},
    {0x1F9C, {0x1F2C, 0x0399}, {0x1F9C}},
    {0x1F9D, {0x1F2D, 0x0399}, {0x1F9D}},
    {0x1F9E, {0x1F2E, 0x0399}, {0x1F9E}},
    {0x1F9F, {0x1F2F, 0x0399}, {0x1F9F}},
    {0x1FA0, {0x1F68, 0x0399}, {0x1FA8}},
    {0x1FA1, {0x1F69, 0x0399}, {0x1FA9}},
    {0x1FA2, {0x1F6A, 0x0399}, {0x1FAA}},
    {0x1FA3, {0x1F6B, 0x0399}, {0x1FAB}},
    {0x1FA4, {0x1F6C, 0x0399}, {0x1FAC}},
    {0x1FA5, {0x1F6D, 0x0399}, {0x1FAD}},
    {0x1FA6, {0x1F6E, 0x0399}, {0x1FAE}},
    {0x1FA7, {0x1F6F, 0x0399}, {0x1FAF}},
    {0x1FA8, {0x1F68, 0x0399}, {0x1FA8}},
    {0x1FA9, {0x1F69, 0x0399}, {0x1FA9}},
    {0x1FAA, {0x1F6A, 0x0399}, {0x1FAA}},
    {0x1FAB, {0x1F6B, 0x0399}, {0x1FAB}},
    {0x1FAC, {0x1F6C, 0x0399}, {0x1FAC}},
    {0x1FAD, {0x1F6D, 0x0399}, {0x1FAD}},
    {0x1FAE, {0x1F6E, 0x0399}, {0x1FAE}},
    {0x1FAF, {0x1F6F, 0x0399}, {0x1FAF}},
    {0x1FB2, {0x1FBA, 0x0399}, {0x1FBA, 0x0345}},
    {0x1FB3, {0x0391, 0x0399}, {0x1FBC}},
    {0x1FB4, {0x0386, 0x0399}, {0x0386, 0x0345}},
    {0x1FB6, {0x0391, 0x0342}, {0x0391, 0x0342}},
    {0x1FB7, {0x0391, 0x0342, 0x0399}, {0x0391, 0x0342, 0x0345}},
    {0x1FBC, {0x0391, 0x0399}, {0x1FBC}},
    {0x1FC2, {0x1FCA, 0x0399}, {0x1FCA, 0x0345}},
    {0x1FC3, {0x0397, 0x0399}, {0x1FCC}},
    {0x1FC4, {0x0389, 0x0399}, {0x0389, 0x0345}},
    {0x1FC6, {0x0397, 0x0342}, {0x0397, 0x0342}},
    {0x1FC7, {0x0397, 0x0342, 0x0399}, {0x0397, 0x0342, 0x0345}},
    {0x1FCC, {0x0397, 0x0399}, {0x1FCC}},
    {0x1FD2, {0x0399, 0x0308, 0x0300}, {0x0399, 0x0308, 0x0300}},
    {0x1FD3, {0x0399, 0x0308, 0x0301}, {0x0399, 0x0308, 0x0301}},
    {0x1FD6, {0x0399, 0x0342}, {0x0399, 0x0342}},
    {0x1FD7, {0x0399, 0x0308, 0x0342}, {0x0399, 0x0308, 0x0342}},
    {0x1FE2, {0x03A5, 0x0308, 0x0300}, {0x03A5, 0x0308, 0x0300}},
    {0x1FE3, {0x03A5, 0x0308, 0x0301}, {0x03A5, 0x0308, 0x0301}},
    {0x1FE4, {0x03A1, 0x0313}, {0x03A1, 0x0313}},
    {0x1FE6, {0x03A5, 0x0342}, {0x03A5, 0x0342}},
    {0x1FE7, {0x03A5, 0x0308, 0x0342}, {0x03A5, 0x0308, 0x0342}},
    {0x1FF2, {0x1FFA, 0x0399}, {0x1FFA, 0x0345}},
    {0x1FF3, {0x03A9, 0x0399}, {0x1FFC}},
    {0x1FF4, {0x038F, 0x0399}, {0x038F, 0x0345}},
    {0x1FF6, {0x03A9, 0x0342}, {0x03A9, 0x0342}},
    {0x1FF7, {0x03A9, 0x0342, 0x0399}, {0x03A9, 0x0342, 0x0345}},
    {0x1FFC, {0x03A9, 0x0399}, {0x1FFC}},
    {0xFB00, {0x0046, 0x0046}, {0x0046, 0x0066}},
    {0xFB01, {0x0046, 0x0049}, {0x0046, 0x0069}},
    {0xFB02, {0x0046, 0x004C}, {0x0046, 0x006C}},
    {0xFB03, {0x0046, 0x0046, 0x0049}, {0x0046, 0x0066, 0x0069}},
    {0xFB04, {0x0046, 0x0046, 0x004C}, {0x0046, 0x0066, 0x006C}},
    {0xFB05, {0x0053, 0x0054}, {0x0053, 0x0074}},
    {0xFB06, {0x0053, 0x0054}, {0x0053, 0x0074}},
    {0xFB13, {0x0544, 0x0546}, {0x0544, 0x0576}},
    {0xFB14, {0x0544, 0x0535}, {0x0544, 0x0565}},
    {0xFB15, {0x0544, 0x053B}, {0x0544, 0x056B}},
    {0xFB16, {0x054E, 0x0546}, {0x054E, 0x0576}},
    {0xFB17, {0x0544, 0x053D}, {0x0544, 0x056D}},
};

#define N_SPECIAL (sizeof SPECIAL / sizeof *SPECIAL)
#define SIGMA 0x03A3u
#define FINAL_SIGMA 0x03C2u
#define SMALL_SIGMA 0x03C3u
#define CAPITAL_I_WITH_DOT 0x0130u
#define COMBINING_DOT_ABOVE 0x0307u

static const struct special_case *find_special(uint32_t c)
{
    size_t low = 0, high = N_SPECIAL;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (SPECIAL[middle].code_point < c)
            low = middle + 1;
        else
            high = middle;
    }
    return low < N_SPECIAL && SPECIAL[low].code_point == c ? &SPECIAL[low] : NULL;
}

static utf8proc_category_t category_of(uint32_t c)
{
    return utf8proc_category((utf8proc_int32_t)c);
}

static bool in_ranges(uint32_t c, const uint32_t (*ranges)[2], size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (c >= ranges[i][0] && c <= ranges[i][1])
            return true;
    return false;
}

/* Letters outside of Lu, Ll and Lt that have a case: Other_Uppercase and Other_Lowercase. */
static bool is_other_upper(uint32_t c)
{
    return (c >= 0x2160 && c <= 0x216F) || (c >= 0x24B6 && c <= 0x24CF) ||
           (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
           (c >= 0x1F170 && c <= 0x1F189);
}

static bool is_other_lower(uint32_t c)
{
    static const uint32_t RANGES[][2] = {
        {0xAA, 0xAA},       {0xBA, 0xBA},       {0x2B0, 0x2B8},     {0x2C0, 0x2C1},
        {0x2E0, 0x2E4},     {0x345, 0x345},     {0x37A, 0x37A},     {0x1D2C, 0x1D6A},
        {0x1D78, 0x1D78},   {0x1D9B, 0x1DBF},   {0x2071, 0x2071},   {0x207F, 0x207F},
        {0x2090, 0x209C},   {0x2170, 0x217F},   {0x24D0, 0x24E9},   {0x2C7C, 0x2C7D},
        {0xA69C, 0xA69D},   {0xA770, 0xA770},   {0xA7F8, 0xA7F9},   {0xAB5C, 0xAB5F},
        {0x10780, 0x10780}, {0x10783, 0x10785}, {0x10787, 0x107B0}, {0x107B2, 0x107BA},
    };
    return in_ranges(c, RANGES, sizeof RANGES / sizeof *RANGES);
}

static bool is_upper(uint32_t c)
{
    return category_of(c) == UTF8PROC_CATEGORY_LU || is_other_upper(c);
}

static bool is_lower(uint32_t c)
{
    return category_of(c) == UTF8PROC_CATEGORY_LL || is_other_lower(c);
}

static bool is_cased(uint32_t c)
{
    return is_upper(c) || is_lower(c) || category_of(c) == UTF8PROC_CATEGORY_LT;
}

/* Characters that the rule for the final sigma looks through. */
static bool is_case_ignorable(uint32_t c)
{
    switch (category_of(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
        return true;
    default:
        return c == '\'' || c == '.' || c == ':' || c == 0xB7 || c == 0x387 || c == 0x55F ||
               c == 0x5F4 || c == 0x2018 || c == 0x2019 || c == 0x2024 || c == 0x2027 ||
               c == 0xFE13 || c == 0xFE52 || c == 0xFE55 || c == 0xFF07 || c == 0xFF0E ||
               c == 0xFF1A;
    }
}

/* A sigma at s[at] ends its word: a cased character before it, none behind. */
static bool is_final_sigma(const char *s, size_t n, size_t at)
{
    bool cased_before = false;
    for (size_t i = 0; i < at;) {
        uint32_t c;
        int n_bad;
        i += (size_t)utf8_decode(s + i, n - i, &c, &n_bad);
        if (!is_case_ignorable(c))
            cased_before = is_cased(c);
    }
    if (!cased_before)
        return false;
    for (size_t i = at + 2; i < n;) {
        uint32_t c;
        int n_bad;
        i += (size_t)utf8_decode(s + i, n - i, &c, &n_bad);
        if (!is_case_ignorable(c))
            return !is_cased(c);
    }
    return true;
}

static void put_upper(struct jinja_builder *b, uint32_t c, bool title)
{
    const struct special_case *special = find_special(c);
    if (!special) {
        utf8proc_int32_t wanted = (utf8proc_int32_t)c;
        jinja_put_code_point(
            b, (uint32_t)(title ? utf8proc_totitle(wanted) : utf8proc_toupper(wanted)));
        return;
    }
    const uint32_t *to = title ? special->title : special->upper;
    for (int i = 0; i < 3 && to[i]; i++)
        jinja_put_code_point(b, to[i]);
}

/* The character c at s[at]. */
static void put_lower(struct jinja_builder *b, uint32_t c, const char *s, size_t n, size_t at)
{
    if (c == SIGMA) {
        jinja_charge(b->run, n / 64); /* the rule may look at the whole string */
        jinja_put_code_point(b, is_final_sigma(s, n, at) ? FINAL_SIGMA : SMALL_SIGMA);
    } else if (c == CAPITAL_I_WITH_DOT) {
        jinja_put_code_point(b, 'i');
        jinja_put_code_point(b, COMBINING_DOT_ABOVE);
    } else {
        jinja_put_code_point(b, (uint32_t)utf8proc_tolower((utf8proc_int32_t)c));
    }
}

void jinja_put_cased(struct jinja_builder *b, const char *s, size_t n, enum jinja_case to)
{
    bool in_word = false;
    for (size_t i = 0; i < n;) {
        uint32_t c;
        int n_bad;
        size_t at = i;
        i += (size_t)utf8_decode(s + i, n - i, &c, &n_bad);
        bool upper = to == JINJA_UPPER || (to == JINJA_SWAP && is_lower(c));
        bool keep = to == JINJA_SWAP && !is_lower(c) && !is_upper(c);
        if (keep)
            jinja_put_code_point(b, c);
        else if (upper || ((to == JINJA_TITLE || to == JINJA_CAPITALIZE) && !in_word))
            put_upper(b, c, !upper);
        else
            put_lower(b, c, s, n, at);
        in_word = to == JINJA_CAPITALIZE || is_cased(c);
    }
}

static bool has_only(const char *s, size_t n, bool upper)
{
    bool found = false;
    for (size_t i = 0; i < n;) {
        uint32_t c;
        int n_bad;
        i += (size_t)utf8_decode(s + i, n - i, &c, &n_bad);
        bool is_wanted = upper ? is_upper(c) : is_lower(c);
        if (!is_wanted && is_cased(c))
            return false;
        found |= is_wanted;
    }
    return found;
}

bool jinja_is_upper(const char *s, size_t n)
{
    return has_only(s, n, true);
}

bool jinja_is_lower(const char *s, size_t n)
{
    return has_only(s, n, false);
}

bool jinja_is_alpha(uint32_t c)
{
    utf8proc_category_t category = category_of(c);
    return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool jinja_is_digit(uint32_t c)
{
    /* Numeric_Type=Digit: digits that are not decimal. */
    static const uint32_t RANGES[][2] = {
        {0xB2, 0xB3},       {0xB9, 0xB9},       {0x1369, 0x1371},   {0x19DA, 0x19DA},
        {0x2070, 0x2070},   {0x2074, 0x2079},   {0x2080, 0x2089},   {0x2460, 0x2468},
        {0x2474, 0x247C},   {0x2488, 0x2490},   {0x24EA, 0x24EA},   {0x24F5, 0x24FD},
        {0x24FF, 0x24FF},   {0x2776, 0x277E},   {0x2780, 0x2788},   {0x278A, 0x2792},
        {0x10A40, 0x10A43}, {0x10E60, 0x10E68}, {0x11052, 0x1105A}, {0x1F100, 0x1F10A},
    };
    return category_of(c) == UTF8PROC_CATEGORY_ND ||
           in_ranges(c, RANGES, sizeof RANGES / sizeof *RANGES);
}

bool jinja_is_alnum(uint32_t c)
{
    utf8proc_category_t category = category_of(c);
    return jinja_is_alpha(c) ||
           (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO);
}
