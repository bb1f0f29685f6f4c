/* Python's string methods that filters share. */
#ifndef ATTNSCOPE_ENGINE_TEXT_JINJA_TEXT_H
#define ATTNSCOPE_ENGINE_TEXT_JINJA_TEXT_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/text/jinja_casing.h"
#include "engine/text/jinja_value.h"

enum jinja_side { JINJA_LEFT = 1, JINJA_RIGHT = 2, JINJA_BOTH = 3 };

/* Without white space, or without the characters of set if it is not NULL. */
struct jinja_value jinja_strip(struct jinja_run *run, const struct jinja_string *s,
                               const struct jinja_string *set, enum jinja_side side);
struct jinja_value jinja_cased(struct jinja_run *run, const struct jinja_string *s,
                               enum jinja_case to);
/* At most count replacements; negative: all. */
struct jinja_value jinja_replace(struct jinja_run *run, const struct jinja_string *s,
                                 const struct jinja_string *old, const struct jinja_string *new,
                                 int64_t count);
/* A list; separator NULL splits at white space; at most max_splits, negative: all. */
struct jinja_value jinja_split(struct jinja_run *run, const struct jinja_string *s,
                               const struct jinja_string *separator, int64_t max_splits,
                               bool from_right);
struct jinja_value jinja_split_lines(struct jinja_run *run, const struct jinja_string *s,
                                     bool keep_ends);
/* Code point index of part in s[start:end] by code points, or -1; from the right if last. */
int64_t jinja_find(struct jinja_run *run, const struct jinja_string *s,
                   const struct jinja_string *part, size_t start, size_t end, bool last);
/* Byte offset of the code point with this index, s->len if past the end. */
size_t jinja_byte_offset(struct jinja_run *run, const struct jinja_string *s, size_t index);

#endif
