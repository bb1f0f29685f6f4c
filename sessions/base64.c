/* Base64: see the header. */
#include "sessions/base64.h"

#include <string.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void base64_encode(struct buf *out, const void *bytes, size_t n)
{
    const unsigned char *in = bytes;
    for (size_t i = 0; i < n; i += 3) {
        unsigned word = (unsigned)in[i] << 16;
        if (i + 1 < n)
            word |= (unsigned)in[i + 1] << 8;
        if (i + 2 < n)
            word |= in[i + 2];
        char four[4] = {alphabet[word >> 18], alphabet[word >> 12 & 63],
                        i + 1 < n ? alphabet[word >> 6 & 63] : '=',
                        i + 2 < n ? alphabet[word & 63] : '='};
        buf_append(out, four, 4);
    }
}

static int value_of(char c)
{
    const char *at = c ? strchr(alphabet, c) : NULL;
    return at ? (int)(at - alphabet) : -1;
}

bool base64_decode(struct buf *out, const char *text)
{
    size_t n = strlen(text), before = out->len;
    if (n % 4 != 0)
        return false;
    for (size_t i = 0; i < n; i += 4) {
        bool last = i + 4 == n;
        int n_pad = last && text[i + 3] == '=' ? (text[i + 2] == '=' ? 2 : 1) : 0;
        unsigned word = 0;
        for (int j = 0; j < 4; j++) {
            int v = j >= 4 - n_pad ? 0 : value_of(text[i + (size_t)j]);
            if (v < 0) {
                out->len = before;
                return false;
            }
            word = word << 6 | (unsigned)v;
        }
        char three[3] = {(char)(word >> 16), (char)(word >> 8), (char)word};
        buf_append(out, three, (size_t)(3 - n_pad));
    }
    return true;
}
