/* Styled text of a pane: filtered code points with a role each, wrapped by cells. */
#ifndef ATTNSCOPE_TUI_RICH_H
#define ATTNSCOPE_TUI_RICH_H

#include <stddef.h>
#include <stdint.h>

#include "tui/grid.h"

struct glyph {
    uint32_t code; /* '\n' ends a line */
    uint8_t role, attrs, width;
};

struct rich {
    struct glyph *glyphs; /* [n] owned */
    size_t n, capacity;
};

struct rich_line {
    size_t first, n; /* glyphs, without the newline or the space it was broken at */
};

struct rich_lines {
    struct rich_line *lines; /* [n] owned */
    size_t n, capacity;
};

void rich_free(struct rich *r);
/* Appends outside text [n bytes], filtered; newlines are kept. */
void rich_append(struct rich *r, const char *text, size_t n, enum role role, int attrs);
void rich_append_str(struct rich *r, const char *text, enum role role, int attrs);

/* Breaks at spaces where a word fits the width, inside words where it does not.  At least one
 * line, also for empty text.  Every line is at most width columns (one glyph when width is less
 * than the glyph). */
void rich_wrap(const struct rich *r, int width, struct rich_lines *out);
void rich_lines_free(struct rich_lines *lines);
void rich_draw_line(struct grid *g, struct rect clip, int y, const struct rich *r,
                    struct rich_line line);
/* The line that shows glyph i. */
size_t rich_line_of(const struct rich_lines *lines, size_t i);

#endif
