/* The window of text of the Context screen. */
#ifndef ATTNSCOPE_TUI_SCREENS_CONTEXT_TEXT_H
#define ATTNSCOPE_TUI_SCREENS_CONTEXT_TEXT_H

#include "tui/app.h"
#include "tui/grid.h"

enum { CONTEXT_HEAVY_KEYS = 64 };

/* Keys among the CONTEXT_HEAVY_KEYS heaviest, heavier than the mean, that are not kept. */
struct context_marks {
    bool *missed; /* [n_keys] owned */
    int n_missed, n_heavy;
    double missed_mass;
};
void context_marks_find(struct context_marks *out, const struct evidence *e);
void context_marks_free(struct context_marks *m);

/* Lines of text with the cursor's key in the middle, each after the number of its first key. */
void context_text_draw(const struct app *app, const struct evidence *e,
                       const struct context_marks *marks, int cursor, struct grid *g,
                       struct rect area);
/* The key that a line above (by < 0) or below the cursor's is at the same place, by lines away. */
int context_text_move(const struct app *app, const struct evidence *e, int cursor, int by,
                      struct rect area);

#endif
