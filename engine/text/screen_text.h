/* The one filter between outside text (models, files, names, errors) and a terminal.
 *
 * What comes out holds only printable characters, spaces and, where allowed, newlines: control
 * characters are shown visibly (^[ becomes "␛"-like pictures U+2400..U+2421, or "?" in ASCII
 * mode), C1 controls, bidirectional and invisible format characters, tags, variation selectors and
 * ZWJ are dropped or replaced, broken UTF-8 becomes U+FFFD. */
#ifndef ATTNSCOPE_ENGINE_TEXT_SCREEN_TEXT_H
#define ATTNSCOPE_ENGINE_TEXT_SCREEN_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"

enum screen_text_flags {
    SCREEN_TEXT_LINE = 0,          /* one line: newlines become U+240A (or a space in ASCII) */
    SCREEN_TEXT_NEWLINES = 1 << 0, /* keep \n; a tab becomes spaces to the next column of 8 */
    SCREEN_TEXT_ASCII = 1 << 1     /* only 0x20..0x7E (and \n): others become "?" */
};

/* Appends the filtered text of s [n bytes] to out. */
void screen_text_filter(struct buf *out, const char *s, size_t n, int flags);

/* A filtered copy of a C string on one line, cut to max_chars characters with "…" (0: no limit);
 * the caller frees.  For names and errors. */
char *screen_text_name(const char *s, size_t max_chars);

/* True for a code point that may be shown as it is. */
bool screen_text_allowed(uint32_t code_point);

/* Columns that a terminal gives code_point: 0 (combining), 1 or 2; of filtered text. */
int screen_text_width(uint32_t code_point);

#endif
