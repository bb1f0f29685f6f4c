/* The byte-level alphabet: every byte as one printable character.
 *
 * 0x21-0x7E, 0xA1-0xAC and 0xAE-0xFF stand for themselves; the other 68 bytes, in rising order,
 * for U+0100 to U+0143.  Source: Radford et al. 2019, the GPT-2 encoder. */
#ifndef ATTNSCOPE_ENGINE_TEXT_BYTE_ALPHABET_H
#define ATTNSCOPE_ENGINE_TEXT_BYTE_ALPHABET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"

#define BYTE_ALPHABET_END 0x144u /* one past its last character */

/* Appends the characters of bytes [n]. */
void byte_alphabet_encode(struct buf *out, const char *bytes, size_t n);
/* The byte that character c stands for, or -1. */
int byte_alphabet_decode(uint32_t c);

#endif
