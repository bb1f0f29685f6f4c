/* The palette: a list with a filter that is typed; Enter runs the row.  It lists actions, and the
 * things that actions choose among: maskers, stacks, samples. */
#ifndef ATTNSCOPE_TUI_PALETTE_H
#define ATTNSCOPE_TUI_PALETTE_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/buf.h"
#include "tui/grid.h"

struct app;

enum palette_kind {
    PALETTE_HELP,    /* actions of the focused pane first */
    PALETTE_ACTIONS, /* all, with arguments */
    PALETTE_MASKERS, /* to add */
    PALETTE_STACKS,  /* for the current column */
    PALETTE_SAMPLES,
    PALETTE_MODELS,
    PALETTE_SETTINGS
};

struct palette_row {
    char *name;              /* what the filter matches, all owned */
    char *label;             /* key or value, shown right of the name */
    char *text;              /* one line of explanation */
    char *action, *argument; /* what Enter runs */
};

struct palette {
    bool open;
    enum palette_kind kind;
    struct buf filter;
    struct palette_row *rows; /* [n] owned */
    size_t n, capacity;
    size_t *matches; /* [n_matches] indices into rows, best first */
    size_t n_matches;
    size_t selected, top;
};

void palette_open(struct app *app, enum palette_kind kind);
void palette_close(struct app *app);
void palette_key(struct app *app, int code);
void palette_draw(const struct app *app, struct grid *g, struct rect area);

/* > 0 if every word of filter is found in text (ASCII case ignored); more is better. */
int palette_score(const char *text, const char *filter);

#endif
