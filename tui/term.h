/* The terminal: curses for output only.  Input bytes are read by the main loop and decoded by
 * keys.c.  One frame is one term_show; nothing is written when the grid has not changed.
 *
 * Interface thread only; one terminal per process. */
#ifndef ATTNSCOPE_TUI_TERM_H
#define ATTNSCOPE_TUI_TERM_H

#include <stdbool.h>

#include "engine/base/error.h"
#include "tui/grid.h"
#include "tui/theme.h"

struct term_options {
    enum color_mode color;
    enum theme theme;
    const char *stderr_log; /* where stderr goes meanwhile; NULL: it stays */
};

/* Takes the terminal.  False: no terminal, or a dumb one; err says what to do instead. */
bool term_open(const struct term_options *options, struct error *err);
/* Restores it; safe to call twice and when never opened. */
void term_close(void);
/* As term_close, async-signal-safe, for crashes. */
void term_emergency(void);

/* True where only ASCII can be shown. */
bool term_is_ascii(void);
void term_set_theme(enum theme theme);
/* True where roles have no colours: differences then need marks of their own. */
bool term_is_mono(void);
int term_width(void);
int term_height(void);
/* Milliseconds to wait after an Esc for the rest of a sequence. */
int term_escape_delay_ms(void);

/* False: it looks as the frame before, and nothing was written. */
bool term_show(const struct grid *g);
/* The next term_show draws every cell. */
void term_repaint(void);
/* The window has another size: asks for it. */
void term_resized(void);
/* Gives the terminal back for a while (editor, Ctrl-Z) and takes it again. */
void term_suspend(void);
void term_resume(void);

/* LC_CTYPE from the environment; C.UTF-8 where it says nothing at all.  LC_NUMERIC stays "C". */
void term_set_locale(void);

#endif
