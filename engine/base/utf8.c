/* UTF-8 decoding by the ranges of Unicode 15, table 3-7. */
#include "engine/base/utf8.h"

/* How a lead byte goes on: number of continuation bytes, and the range of the first of them. */
struct lead {
    int n_more;
    unsigned char low, high;
};

static struct lead lead_of(unsigned char c)
{
    if (c >= 0xC2 && c <= 0xDF)
        return (struct lead){1, 0x80, 0xBF};
    if (c >= 0xE0 && c <= 0xEF)
        return (struct lead){2, c == 0xE0 ? 0xA0 : 0x80, c == 0xED ? 0x9F : 0xBF};
    if (c >= 0xF0 && c <= 0xF4)
        return (struct lead){3, c == 0xF0 ? 0x90 : 0x80, c == 0xF4 ? 0x8F : 0xBF};
    return (struct lead){0, 0, 0};
}

int utf8_decode(const char *s, size_t n, uint32_t *out, int *n_bad)
{
    const unsigned char *u = (const unsigned char *)s;
    if (u[0] < 0x80) {
        *out = u[0];
        return 1;
    }
    struct lead lead = lead_of(u[0]);
    *n_bad = 1;
    if (!lead.n_more)
        return 0;
    uint32_t code_point = u[0] & (0x3Fu >> lead.n_more);
    for (int i = 1; i <= lead.n_more; i++) {
        if ((size_t)i >= n)
            return -1;
        unsigned char low = i == 1 ? lead.low : 0x80;
        unsigned char high = i == 1 ? lead.high : 0xBF;
        if (u[i] < low || u[i] > high) {
            *n_bad = i;
            return 0;
        }
        code_point = code_point << 6 | (u[i] & 0x3F);
    }
    *out = code_point;
    return lead.n_more + 1;
}

size_t utf8_encode(char out[4], uint32_t c)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xC0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3F));
        out[2] = (char)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3F));
    out[2] = (char)(0x80 | (c >> 6 & 0x3F));
    out[3] = (char)(0x80 | (c & 0x3F));
    return 4;
}

bool utf8_valid(const char *s, size_t n, size_t *bad_at)
{
    for (size_t i = 0; i < n;) {
        uint32_t code_point;
        int n_bad;
        int len = utf8_decode(s + i, n - i, &code_point, &n_bad);
        if (len <= 0) {
            if (bad_at)
                *bad_at = i;
            return false;
        }
        i += (size_t)len;
    }
    return true;
}

size_t utf8_length(const char *s, size_t n)
{
    size_t length = 0;
    for (size_t i = 0; i < n; i++)
        length += ((unsigned char)s[i] & 0xC0) != 0x80;
    return length;
}
