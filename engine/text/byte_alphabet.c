/* The byte-level alphabet, by rule rather than by table. */
#include "engine/text/byte_alphabet.h"

#include "engine/base/utf8.h"

static uint32_t character_of(unsigned byte)
{
    if (byte <= 0x20)
        return 0x100 + byte;
    if (byte >= 0x7F && byte <= 0xA0)
        return 0x121 + byte - 0x7F;
    return byte == 0xAD ? 0x143 : byte;
}

void byte_alphabet_encode(struct buf *out, const char *bytes, size_t n)
{
    char *to = buf_reserve(out, 2 * n);
    size_t len = 0;
    for (size_t i = 0; i < n; i++)
        len += utf8_encode(to + len, character_of((unsigned char)bytes[i]));
    to[len] = '\0';
    out->len += len;
}

int byte_alphabet_decode(uint32_t c)
{
    if (c >= BYTE_ALPHABET_END)
        return -1;
    if (c == 0x143)
        return 0xAD;
    if (c >= 0x121)
        return (int)(c - 0x121 + 0x7F);
    if (c >= 0x100)
        return (int)(c - 0x100);
    return character_of(c) == c ? (int)c : -1;
}
