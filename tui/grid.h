/* The cell grid: what a frame looks like, before any terminal.
 *
 * Rendering is a pure function (state, width, height) -> grid; the same grid feeds the terminal,
 * the golden tests and text exports.  Every string goes through screen_text_filter on its way in,
 * so that no outside byte reaches a terminal as a control, and every write is clipped to a
 * rectangle of the grid. */
#ifndef ATTNSCOPE_TUI_GRID_H
#define ATTNSCOPE_TUI_GRID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"
#include "tui/role.h"

enum { CELL_MAX_MARKS = 2 };

struct cell {
    uint32_t code;                  /* a printable code point; ' ' when empty */
    uint32_t marks[CELL_MAX_MARKS]; /* combining marks, 0: none */
    uint8_t role, attrs;
    uint8_t width; /* 1, 2, or 0: the right half of the wide cell before it */
};

struct rect {
    int x, y, w, h;
};

struct grid {
    int width, height;
    bool ascii;         /* only 0x20..0x7E: line art and symbols become their ASCII twins */
    struct cell *cells; /* [height, width] owned */
    bool has_cursor;
    int cursor_x, cursor_y;
};

void grid_init(struct grid *g, int width, int height, bool ascii);
void grid_free(struct grid *g);
/* All cells empty, cursor hidden; keeps the memory if the size is the same. */
void grid_reset(struct grid *g, int width, int height);
const struct cell *grid_at(const struct grid *g, int x, int y);
bool grid_equal(const struct grid *a, const struct grid *b);
void grid_copy(struct grid *to, const struct grid *from);

/* Writes utf8 on one line at (x, y) of clip, cut at clip's right edge.  Returns the column after
 * it, also when it was cut, so that calls chain: x = grid_put(g, clip, x, y, ...). */
int grid_put(struct grid *g, struct rect clip, int x, int y, enum role role, int attrs,
             const char *utf8);
int grid_put_n(struct grid *g, struct rect clip, int x, int y, enum role role, int attrs,
               const char *utf8, size_t n);
int grid_printf(struct grid *g, struct rect clip, int x, int y, enum role role, int attrs,
                const char *format, ...) __attribute__((format(printf, 7, 8)));
/* As grid_put, right-aligned to end before column x_end. */
void grid_put_right(struct grid *g, struct rect clip, int x_end, int y, enum role role, int attrs,
                    const char *utf8);
/* Columns that grid_put would use. */
int grid_text_width(const struct grid *g, const char *utf8);
/* One filtered code point of the given width (0: joins the cell before it). */
void grid_put_code(struct grid *g, struct rect clip, int x, int y, enum role role, int attrs,
                   uint32_t code, int width);

void grid_fill(struct grid *g, struct rect area); /* with spaces */
void grid_hline(struct grid *g, struct rect clip, int y, enum role role);
void grid_vline(struct grid *g, struct rect clip, int x, enum role role);
void grid_box(struct grid *g, struct rect area, enum role role);
/* Gives w cells from (x, y) a role and attributes; the text stays. */
void grid_paint(struct grid *g, struct rect clip, int x, int y, int w, enum role role, int attrs);

/* One line per row, without trailing spaces. */
void grid_to_text(const struct grid *g, struct buf *out);
/* The ASCII twin of a symbol that this program draws, or 0. */
uint32_t grid_ascii_twin(uint32_t code);

struct rect rect_inset(struct rect r, int dx, int dy);

#endif
