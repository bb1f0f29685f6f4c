/* What a person sets once for all sessions: $XDG_CONFIG_HOME/attnscope/config.json, read at the
 * start and written only when asked. */
#ifndef ATTNSCOPE_TUI_SETTINGS_H
#define ATTNSCOPE_TUI_SETTINGS_H

#include <stdbool.h>

#include "engine/base/buf.h"
#include "engine/base/error.h"

enum { THEME_BY_BACKGROUND = -1 };

struct settings {
    int theme; /* enum theme, or THEME_BY_BACKGROUND */
    bool ascii;
    bool live; /* a changed stack runs by itself */
};

void settings_init(struct settings *s);
/* What the file says; where there is none, the defaults.  Sentences about what is wrong with it are
 * appended to notice; the rest of it holds. */
void settings_read(struct settings *s, struct buf *notice);
/* path, the caller's, is where it was written. */
bool settings_write(const struct settings *s, char **path, struct error *err);

#endif
