/* Numbers and strings as a template writes them. */
#ifndef ATTNSCOPE_ENGINE_TEXT_JINJA_LITERAL_H
#define ATTNSCOPE_ENGINE_TEXT_JINJA_LITERAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/text/jinja_arena.h"

/* Decodes Python's escapes in s [n bytes of UTF-8]; the result is [*len] in the arena. */
const char *jinja_decode_string(struct jinja_arena *arena, const char *s, size_t n, size_t *len);

/* Reads the number at s [n bytes], which begins with a digit, and returns its length. */
size_t jinja_read_number(struct jinja_trap *trap, const char *s, size_t n, bool may_be_float,
                         int64_t *integer, double *real, bool *is_float);

#endif
