/* A filled state, for tests of screens: two or more lanes that have answered a question. */
#ifndef ATTNSCOPE_TESTS_SCREEN_STATE_H
#define ATTNSCOPE_TESTS_SCREEN_STATE_H

#include "tui/app.h"

/* n_lanes with dense first; answers as far as n_tokens; running or done.  Freed with app_free. */
void screen_state_fill(struct app *app, int width, int height, int n_lanes, int n_tokens,
                       bool running);

#endif
