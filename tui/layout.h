/* Where everything is.  Total: every size of window has a layout, no two of its rectangles
 * overlap, and all lie inside the window.  Empty rectangles (w or h 0) are not drawn. */
#ifndef ATTNSCOPE_TUI_LAYOUT_H
#define ATTNSCOPE_TUI_LAYOUT_H

#include <stdbool.h>

#include "engine/run/request.h"
#include "tui/grid.h"

enum {
    LAYOUT_MIN_WIDTH = 60,
    LAYOUT_MIN_HEIGHT = 16,
    LAYOUT_MIN_COLUMN = 36 /* cells of an answer column in the wide layouts */
};

struct layout {
    int width, height;
    bool tiny;     /* only `header` is there, for one line */
    bool has_side; /* else stack and questions open as popups */
    struct rect header, metrics, stack_line, tabs;
    struct rect stack, params, questions, lanes; /* side panel, each with its title row */
    struct rect side_border;                     /* the vertical line right of the panel */
    struct rect body;                            /* the answers, or another screen */
    struct rect divergence, prompt_rule, prompt, key_bar;
    struct rect popup; /* where a popup may be: overlaps the rest */
};

void layout_compute(struct layout *out, int width, int height);

/* The answer columns inside body: dense first, then as many lanes as fit, the current one among
 * them.  columns[i] is where lane lanes[i] is; a cell of border is left between two. */
struct layout_columns {
    int n;
    int lanes[REQUEST_MAX_LANES];
    struct rect columns[REQUEST_MAX_LANES];
};
void layout_columns(struct layout_columns *out, const struct layout *l, int n_lanes, int current,
                    bool zoomed);

#endif
