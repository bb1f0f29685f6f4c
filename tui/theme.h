/* How roles look: colour indices of the 256-colour palette, of 16 colours, or attributes alone.
 * True colour is never used, the background is never painted, the palette never redefined. */
#ifndef ATTNSCOPE_TUI_THEME_H
#define ATTNSCOPE_TUI_THEME_H

#include <stdbool.h>
#include <stdint.h>

#include "tui/role.h"

enum color_mode { COLOR_AUTO, COLOR_NEVER, COLOR_16, COLOR_256 };

/* Colour-blind takes the colours of Okabe and Ito, which differ for every kind of sight. */
enum theme { THEME_DARK, THEME_LIGHT, THEME_COLOR_BLIND, THEME_MONO, N_THEMES };
/* "dark", "light", "colour-blind", "mono", then NULL. */
extern const char *const theme_names[];

struct look {
    short fg, bg; /* -1: the terminal's own */
    int attrs;    /* enum cell_attr */
    bool dim;     /* the terminal's dim attribute (mono only) */
};

/* mode is not COLOR_AUTO. */
struct look theme_look(enum role role, enum color_mode mode, enum theme theme);
/* The theme for the terminal's background, as COLORFGBG says; unset: dark. */
enum theme theme_by_background(void);
/* 0xRRGGBB of an index of the 256-colour palette, as xterm has it. */
uint32_t theme_rgb(short index);

#endif
