/* The panes of a frame.  Each draws itself into its rectangle from the state, and changes nothing.
 */
#ifndef ATTNSCOPE_TUI_PANES_H
#define ATTNSCOPE_TUI_PANES_H

#include "tui/app.h"
#include "tui/grid.h"
#include "tui/layout.h"

/* The whole frame: a pure function of the state and the size in it. */
void screen_render(const struct app *app, struct grid *g);

/* A screen: what the body shows.  Listed in screens[] (screen.c); keys 1.. pick one. */
struct screen {
    const char *title;
    const char *help;
    void (*draw)(const struct app *app, const struct layout *l, struct grid *g);
};
extern const struct screen *const screens[]; /* NULL-terminated */

void header_draw(const struct app *app, struct grid *g, struct rect area);
void metrics_strip_draw(const struct app *app, struct grid *g, struct rect area);
void stack_line_draw(const struct app *app, struct grid *g, struct rect area);
void tabs_draw(const struct app *app, struct grid *g, struct rect area);
void stack_panel_draw(const struct app *app, struct grid *g, struct rect area);
void params_draw(const struct app *app, struct grid *g, struct rect area);
void questions_draw(const struct app *app, struct grid *g, struct rect area);
void lanes_pane_draw(const struct app *app, struct grid *g, struct rect area);
void divergence_draw(const struct app *app, struct grid *g, struct rect area);
void prompt_rule_draw(const struct app *app, struct grid *g, struct rect area);
void prompt_draw(const struct app *app, struct grid *g, struct rect area);
void key_bar_draw(const struct app *app, struct grid *g, struct rect area);

/* A pane's title row: a rule with the title in it, marked where it has the focus. */
void pane_title_draw(const struct app *app, struct grid *g, struct rect area, enum pane pane,
                     const char *title, const char *hint);
/* The status word with its progress: "decode 41% 4s". */
void status_write(const struct app *app, struct buf *out);

/* Heat and Context (screens/heat.c, screens/context.c), and what they show while there is no
 * evidence. */
extern const struct screen screen_heat, screen_context;
void evidence_nothing_draw(const struct app *app, struct grid *g, struct rect area);
/* "A name  step 3/24 → "token"" on the first row; returns the column after it. */
int evidence_title_draw(const struct app *app, struct grid *g, struct rect area, int lane,
                        int step);
/* The head with the worst value of the map that is shown; they stay where there is none. */
void heat_find_worst(const struct app *app, int *layer, int *head);

/* Answers (screens/answers.c), also what scrolling needs to know. */
extern const struct screen screen_answers;
int answers_lines(const struct app *app, int lane, struct rect column);
int answers_height(struct rect column);
/* The first line shown, clamped. */
int answers_top(const struct app *app, int lane, struct rect column);
/* The line where token i of the lane's answer begins. */
int answers_line_of_token(const struct app *app, int lane, struct rect column, int token);

#endif
