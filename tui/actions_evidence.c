/* Actions of the Heat and Context screens: what is looked at in a step. */
#include "tui/actions.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/text/screen_text.h"
#include "tui/panes.h"
#include "tui/screens/context_text.h"

static int clamp(int v, int low, int high)
{
    return v > high ? (high < low ? low : high) : v < low ? low : v;
}

/* --- Screens ---------------------------------------------------------------------------------- */

static void show_screen(struct app *app, int screen)
{
    app->screen = screen;
    app->focus = PANE_ANSWERS;
}

void act_screen_answers(struct app *app, const char *argument)
{
    (void)argument;
    show_screen(app, SCREEN_ANSWERS);
}

void act_screen_heat(struct app *app, const char *argument)
{
    (void)argument;
    show_screen(app, SCREEN_HEAT);
}

void act_screen_context(struct app *app, const char *argument)
{
    (void)argument;
    show_screen(app, SCREEN_CONTEXT);
}

/* --- Step and head ------------------------------------------------------------------------------
 */

static void move_step(struct app *app, int by)
{
    struct evidence_id id;
    int lane = app_figures_lane(app);
    if (!app_evidence_id(app, lane, &id)) {
        app_message(app, ROLE_DIM, "there is no finished answer to look at: r asks");
        return;
    }
    app->looking.step = clamp(id.step + by, 0, app_n_steps(app, lane) - 1);
    app->looking.key = -1;
}

void act_step_next(struct app *app, const char *argument)
{
    (void)argument;
    move_step(app, 1);
}

void act_step_previous(struct app *app, const char *argument)
{
    (void)argument;
    move_step(app, -1);
}

static void move_head(struct app *app, int by_layers, int by_heads)
{
    struct looking *look = &app->looking;
    look->layer = clamp(look->layer + by_layers, 0, app->model.n_layers - 1);
    look->head = clamp(look->head + by_heads, 0, app->model.n_heads - 1);
}

void act_layer_next(struct app *app, const char *argument)
{
    (void)argument;
    move_head(app, 1, 0);
}

void act_layer_previous(struct app *app, const char *argument)
{
    (void)argument;
    move_head(app, -1, 0);
}

void act_head_next(struct app *app, const char *argument)
{
    (void)argument;
    move_head(app, 0, 1);
}

void act_head_previous(struct app *app, const char *argument)
{
    (void)argument;
    move_head(app, 0, -1);
}

/* --- Heat ---------------------------------------------------------------------------------------
 */

void act_heat_figure(struct app *app, const char *argument)
{
    struct looking *look = &app->looking;
    if (!argument) {
        look->figure = (look->figure + 1) % EVIDENCE_N_FIGURES;
        return;
    }
    for (int f = 0; f < EVIDENCE_N_FIGURES; f++)
        if (!strcmp(evidence_figure_name((enum evidence_figure)f), argument)) {
            look->figure = (enum evidence_figure)f;
            return;
        }
    app_message(app, ROLE_ERROR, "there is no figure \"%s\": recall, density, error or agreement",
                argument);
}

void act_heat_scale(struct app *app, const char *argument)
{
    (void)argument;
    app->looking.auto_scale = !app->looking.auto_scale;
}

void act_heat_difference(struct app *app, const char *argument)
{
    (void)argument;
    int other = app_difference_lane(app);
    if (other < 0) {
        app_message(app, ROLE_DIM, "there is no other column to compare with: c adds one");
        return;
    }
    app->looking.difference = !app->looking.difference;
}

void act_heat_worst(struct app *app, const char *argument)
{
    (void)argument;
    heat_find_worst(app, &app->looking.layer, &app->looking.head);
}

/* --- Context -------------------------------------------------------------------------------------
 */

/* The evidence shown, or NULL with a message. */
static const struct evidence *shown(struct app *app)
{
    const struct evidence *e = app_evidence(app, app_figures_lane(app), false);
    if (!e)
        app_message(app, ROLE_DIM, "this step's keys are not there yet");
    return e;
}

static void set_key(struct app *app, const struct evidence *e, int key)
{
    app->looking.key = clamp(key, 0, e->n_keys - 1);
}

static struct rect text_area(const struct app *app)
{
    struct layout l;
    layout_compute(&l, app->width, app->height);
    return (struct rect){l.body.x, l.body.y + 3, l.body.w, l.body.h - 5};
}

static void move_key(struct app *app, int by)
{
    const struct evidence *e = shown(app);
    if (e)
        set_key(app, e, app_looked_key(app, e) + by);
}

static void move_line(struct app *app, int by)
{
    const struct evidence *e = shown(app);
    if (e)
        set_key(app, e, context_text_move(app, e, app_looked_key(app, e), by, text_area(app)));
}

void act_key_next(struct app *app, const char *argument)
{
    (void)argument;
    move_key(app, 1);
}

void act_key_previous(struct app *app, const char *argument)
{
    (void)argument;
    move_key(app, -1);
}

void act_key_up(struct app *app, const char *argument)
{
    (void)argument;
    move_line(app, -1);
}

void act_key_down(struct app *app, const char *argument)
{
    (void)argument;
    move_line(app, 1);
}

static int page(const struct app *app)
{
    return clamp(text_area(app).h / 2, 1, 1 << 20);
}

void act_key_page_up(struct app *app, const char *argument)
{
    (void)argument;
    move_line(app, -page(app));
}

void act_key_page_down(struct app *app, const char *argument)
{
    (void)argument;
    move_line(app, page(app));
}

void act_key_first(struct app *app, const char *argument)
{
    (void)argument;
    const struct evidence *e = shown(app);
    if (e)
        set_key(app, e, 0);
}

void act_key_last(struct app *app, const char *argument)
{
    (void)argument;
    const struct evidence *e = shown(app);
    if (e)
        set_key(app, e, e->n_keys - 1);
}

/* The next key that is missed, round the ends. */
static void move_missed(struct app *app, int by)
{
    const struct evidence *e = shown(app);
    if (!e)
        return;
    struct context_marks marks;
    context_marks_find(&marks, e);
    int key = app_looked_key(app, e);
    for (int i = 0; i < e->n_keys && marks.n_missed > 0; i++) {
        key = (key + by + e->n_keys) % e->n_keys;
        if (marks.missed[key])
            break;
    }
    if (marks.n_missed == 0)
        app_message(app, ROLE_OK, "none of the %d heaviest keys is missed", marks.n_heavy);
    else
        set_key(app, e, key);
    context_marks_free(&marks);
}

void act_missed_next(struct app *app, const char *argument)
{
    (void)argument;
    move_missed(app, 1);
}

void act_missed_previous(struct app *app, const char *argument)
{
    (void)argument;
    move_missed(app, -1);
}

void act_only_kept(struct app *app, const char *argument)
{
    (void)argument;
    app->looking.only_kept = !app->looking.only_kept;
}

void act_go_to(struct app *app, const char *argument)
{
    const struct evidence *e = shown(app);
    if (!e)
        return;
    if (!argument) {
        app_prompt(app, PROMPT_GO_TO, NULL);
        return;
    }
    char *end;
    long key = strtol(argument, &end, 10);
    if (end == argument || *end || key < 0 || key >= e->n_keys) {
        char *text = screen_text_name(argument, 24);
        app_message(app, ROLE_ERROR, "\"%s\" is no token: they are 0 to %d", text, e->n_keys - 1);
        free(text);
        return;
    }
    set_key(app, e, (int)key);
}

/* The key that text byte `at` belongs to. */
static int key_of_byte(const struct evidence *e, size_t at)
{
    int low = 0, high = e->n_keys - 1;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (e->text_end[middle] <= at)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static const char *find_text(const char *text, const char *words)
{
    size_t n = strlen(words);
    for (; *text; text++) {
        size_t i = 0;
        while (i < n && tolower((unsigned char)text[i]) == tolower((unsigned char)words[i]))
            i++;
        if (i == n)
            return text;
    }
    return NULL;
}

/* From behind the cursor on, then from the beginning. */
void act_search(struct app *app, const char *argument)
{
    const struct evidence *e = shown(app);
    struct looking *look = &app->looking;
    if (!e)
        return;
    if (!argument) {
        app_prompt(app, PROMPT_SEARCH, look->search);
        return;
    }
    char *words = xstrdup(argument);
    free(look->search);
    look->search = words;
    const char *behind = e->text + e->text_end[app_looked_key(app, e)];
    const char *found = find_text(behind, words);
    if (!found)
        found = find_text(e->text, words);
    if (found) {
        set_key(app, e, key_of_byte(e, (size_t)(found - e->text)));
    } else {
        char *text = screen_text_name(words, 40);
        app_message(app, ROLE_WARN, "\"%s\" is not in the text", text);
        free(text);
    }
}
