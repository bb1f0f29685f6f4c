/* A box in the middle: a long message, or a question to be answered with y or n. */
#ifndef ATTNSCOPE_TUI_POPUP_H
#define ATTNSCOPE_TUI_POPUP_H

#include <stdbool.h>

#include "tui/grid.h"

struct app;

struct popup {
    bool open;
    char *title, *text; /* owned */
    enum role role;
    void (*on_yes)(struct app *app); /* NULL: a message, closed by any key of leaving */
    int top;                         /* first line shown */
};

void popup_message(struct app *app, enum role role, const char *title, const char *text);
void popup_confirm(struct app *app, const char *text, void (*on_yes)(struct app *app));
void popup_close(struct app *app);
void popup_key(struct app *app, int code);
void popup_draw(const struct app *app, struct grid *g, struct rect area);

#endif
