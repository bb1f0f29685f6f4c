/* Classes of characters, exactly as the reference tokenizers see them: see unicode_tables.h. */
#ifndef ATTNSCOPE_ENGINE_TEXT_CHAR_CLASS_H
#define ATTNSCOPE_ENGINE_TEXT_CHAR_CLASS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"

bool char_is_space(uint32_t c);       /* White_Space: 25 characters */
bool char_is_number(uint32_t c);      /* \p{N} */
bool char_is_punctuation(uint32_t c); /* ASCII punctuation and \p{P} */
bool char_is_word(uint32_t c);        /* Alphabetic, \p{M}, \p{Nd}, \p{Pc}, Join_Control */
bool char_is_normalized(uint32_t c);  /* takes part in decomposing, composing and reordering */

/* The small letter of c, 1 or 2 code points; returns how many. */
int char_lower(uint32_t c, uint32_t out[2]);

/* The character that a regular expression shall see in place of c: c itself unless c is newer
 * than the regex library.  Always as long in UTF-8 as c. */
uint32_t char_stand_in(uint32_t c);
/* True, with to a copy of text [n] in which every character gave way to its stand-in, if there is
 * any such character in it; otherwise to is not touched. */
bool text_stand_in(struct buf *to, const char *text, size_t n);

/* Decodes the character of valid UTF-8 at s, or the last one before s + n. */
uint32_t char_at(const char *s, size_t n, int *len);
uint32_t char_before(const char *s, size_t n, int *len);

#endif
