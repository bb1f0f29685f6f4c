/* A frame as a file: SVG as a terminal shows it, or plain text. */
#ifndef ATTNSCOPE_TUI_PICTURE_H
#define ATTNSCOPE_TUI_PICTURE_H

#include <stdbool.h>

#include "engine/base/buf.h"
#include "engine/base/error.h"
#include "tui/grid.h"
#include "tui/theme.h"

/* One file without scripts, links or fonts of its own. */
void picture_svg(const struct grid *g, enum theme theme, struct buf *out);
/* By the name's end, .svg or .txt.  A file that is there is replaced only if replace is set. */
bool picture_write(const struct grid *g, enum theme theme, const char *path, bool replace,
                   struct error *err);

#endif
