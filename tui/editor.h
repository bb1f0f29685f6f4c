/* $VISUAL or $EDITOR on a text, in the foreground. */
#ifndef ATTNSCOPE_TUI_EDITOR_H
#define ATTNSCOPE_TUI_EDITOR_H

#include "engine/base/error.h"

/* Runs the editor on a private temporary file that holds text; the terminal must be suspended.
 * Returns what was saved, the caller's; NULL on failure. */
char *editor_run(const char *text, struct error *err);

#endif
