/* How roles look: colour indices of the 256-colour palette, of 16 colours, or attributes alone.
 * True colour is never used, the background is never painted, the palette never redefined. */
#ifndef ATTNSCOPE_TUI_THEME_H
#define ATTNSCOPE_TUI_THEME_H

#include <stdbool.h>

#include "tui/role.h"

enum color_mode { COLOR_AUTO, COLOR_NEVER, COLOR_16, COLOR_256 };

struct look {
    short fg, bg; /* -1: the terminal's own */
    int attrs;    /* enum cell_attr */
    bool dim;     /* the terminal's dim attribute (mono only) */
};

/* mode is not COLOR_AUTO. */
struct look theme_look(enum role role, enum color_mode mode, bool light);
/* COLORFGBG says whether the background is light; unset: dark. */
bool theme_is_light(void);

#endif
