/* UTF-8 as Unicode defines it: no overlong forms, no surrogates, nothing past U+10FFFF. */
#ifndef ATTNSCOPE_ENGINE_BASE_UTF8_H
#define ATTNSCOPE_ENGINE_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UTF8_REPLACEMENT 0xFFFDu

/* Decodes one code point of s [n bytes], n > 0.  Returns its length in bytes, 1..4, with *out
 * set; or 0 for a broken sequence, with *n_bad the length of its maximal bad part (1..3); or -1
 * if the bytes are a good but unfinished beginning that ends with s. */
int utf8_decode(const char *s, size_t n, uint32_t *out, int *n_bad);

/* Writes code_point (a scalar value) to out [4] and returns its length. */
size_t utf8_encode(char out[4], uint32_t code_point);

/* True if all of s is valid; otherwise *bad_at (may be NULL) is the first bad byte. */
bool utf8_valid(const char *s, size_t n, size_t *bad_at);

/* Number of code points of valid text. */
size_t utf8_length(const char *s, size_t n);

#endif
