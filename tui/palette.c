#include "tui/palette.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "engine/attention/metrics.h"
#include "engine/base/memory.h"
#include "engine/base/utf8.h"
#include "engine/model/hub.h"
#include "presets/preset.h"
#include "tui/actions.h"
#include "tui/app.h"
#include "tui/format.h"
#include "tui/keys.h"

int palette_score(const char *text, const char *filter)
{
    int score = 1;
    while (*filter) {
        filter += strspn(filter, " ");
        size_t n = strcspn(filter, " ");
        if (n == 0)
            break;
        const char *hit = NULL;
        for (const char *at = text; *at && !hit; at++)
            if (!strncasecmp(at, filter, n))
                hit = at;
        if (!hit)
            return 0;
        /* At the beginning is best, then at the beginning of a word. */
        score += hit == text ? 4 : !isalnum((unsigned char)hit[-1]) ? 2 : 1;
        filter += n;
    }
    return score;
}

static char *dup_or_empty(const char *s)
{
    return xstrdup(s ? s : "");
}

static void add_row(struct palette *p, const char *name, const char *label, const char *text,
                    const char *action, const char *argument)
{
    p->rows = array_grow(p->rows, &p->capacity, p->n + 1, sizeof *p->rows);
    p->rows[p->n++] = (struct palette_row){
        .name = dup_or_empty(name),
        .label = dup_or_empty(label),
        .text = dup_or_empty(text),
        .action = dup_or_empty(action),
        .argument = argument ? xstrdup(argument) : NULL,
    };
}

static void add_figures(struct palette *p)
{
    for (const struct metric *m = metrics; m->name; m++)
        add_row(p, m->name, m->unit, m->definition, "figure", m->name);
}

static void add_action(struct palette *p, const struct action *a)
{
    struct buf keys = {0};
    for (int i = 0; i < ACTION_MAX_KEYS && a->keys[i]; i++) {
        buf_append_str(&keys, i ? " " : "");
        key_write_name(a->keys[i], &keys);
    }
    struct buf name = {0};
    buf_printf(&name, "%s%s%s%s", a->name, a->argument ? " [" : "", a->argument ? a->argument : "",
               a->argument ? "]" : "");
    char *help = NULL;
    if (asprintf(&help, "%s. %s", a->title, a->help) < 0)
        help = NULL;
    add_row(p, name.data, keys.data, help, a->name, NULL);
    free(help);
    buf_free(&name);
    buf_free(&keys);
}

static void add_presets(struct palette *p, struct preset_list list, const char *action)
{
    for (size_t i = 0; i < list.n; i++)
        add_row(p, list.entries[i].name, "", list.entries[i].title, action, list.entries[i].name);
    preset_list_free(&list);
}

static void add_maskers(struct palette *p)
{
    for (int i = 0; maskers[i]; i++) {
        char *text = NULL;
        if (asprintf(&text, "%s (%s)", maskers[i]->summary, maskers[i]->cost) < 0)
            text = NULL;
        add_row(p, maskers[i]->name, maskers[i]->reads_all_keys ? "SIM" : "", text, "stack-add",
                maskers[i]->name);
        free(text);
    }
}

static void add_models(struct palette *p)
{
    struct hub_list list;
    char *embedded = preset_model_folder();
    if (embedded)
        add_row(p, "embedded", "", "the small model that comes with attnscope", "model", embedded);
    free(embedded);
    hub_scan(&list);
    for (size_t i = 0; i < list.n; i++) {
        const struct hub_model *m = &list.models[i];
        char text[256];
        if (m->problem)
            snprintf(text, sizeof text, "%s", m->problem);
        else
            snprintf(text, sizeof text, "%.1fB %s, %d layers, %d heads / %d KV, %s",
                     (double)m->n_params / 1e9, m->dtype ? m->dtype : "", m->n_layers, m->n_heads,
                     m->n_kv_heads, format_bytes((double)m->n_bytes).text);
        add_row(p, m->name, m->problem ? "✗" : "", text, "model", m->folder);
    }
    hub_list_free(&list);
    add_row(p, "other…", "", "type the path of a model folder", "", NULL);
}

static void add_switch(struct palette *p, const char *action, bool on)
{
    const struct action *a = action_find(action);
    add_row(p, a->title, on ? "on" : "off", a->help, action, NULL);
}

static void add_settings(const struct app *app, struct palette *p)
{
    for (int i = 0; theme_names[i]; i++) {
        char name[32];
        snprintf(name, sizeof name, "Theme %s", theme_names[i]);
        add_row(p, name, (int)app->theme == i ? "on" : "", "Colours of this theme.", "theme",
                theme_names[i]);
    }
    add_switch(p, "ascii", app->ascii);
    add_switch(p, "live", app->live);
    add_switch(p, "forced", app->forced);
    add_switch(p, "setup", app->setup == SETUP_A);
    add_switch(p, "zoom", app->zoomed);
    add_row(p, "Write settings", "", "Keeps theme, ASCII and live for the next start.",
            "settings-write", NULL);
}

static int compare_matches(const void *a, const void *b, void *context)
{
    const struct palette *p = context;
    size_t i = *(const size_t *)a, j = *(const size_t *)b;
    const char *filter = p->filter.data ? p->filter.data : "";
    int by_score = palette_score(p->rows[j].name, filter) - palette_score(p->rows[i].name, filter);
    return by_score ? by_score : i < j ? -1 : 1;
}

static void filter_rows(struct palette *p)
{
    /* Of a command with an argument only the name filters. */
    const char *filter = p->filter.data ? p->filter.data : "";
    char *name = xstrndup(filter, strcspn(filter, " "));
    bool command = (p->kind == PALETTE_ACTIONS || p->kind == PALETTE_HELP) && action_find(name) &&
                   strchr(filter, ' ');
    p->n_matches = 0;
    for (size_t i = 0; i < p->n; i++) {
        const struct palette_row *row = &p->rows[i];
        char *all = NULL;
        if (asprintf(&all, "%s %s", row->name, row->text) < 0)
            continue;
        if (command ? !strcmp(row->action, name) : palette_score(all, filter) > 0)
            p->matches[p->n_matches++] = i;
        free(all);
    }
    free(name);
    qsort_r(p->matches, p->n_matches, sizeof *p->matches, compare_matches, p);
    p->selected = p->top = 0;
}

void palette_open(struct app *app, enum palette_kind kind)
{
    struct palette *p = &app->palette;
    palette_close(app);
    p->kind = kind;
    p->open = true;
    buf_clear(&p->filter);
    switch (kind) {
    case PALETTE_HELP:
        for (const struct action *a = actions; a->name; a++)
            if ((a->panes & action_places(app)) && a->panes != IN_ALL)
                add_action(p, a);
        for (const struct action *a = actions; a->name; a++)
            if (a->panes == IN_ALL)
                add_action(p, a);
        add_figures(p);
        break;
    case PALETTE_ACTIONS:
        for (const struct action *a = actions; a->name; a++)
            add_action(p, a);
        break;
    case PALETTE_MASKERS:
        add_maskers(p);
        break;
    case PALETTE_STACKS:
        add_presets(p, preset_list_stacks(), "preset");
        break;
    case PALETTE_SETTINGS:
        add_settings(app, p);
        break;
    case PALETTE_SAMPLES:
        add_presets(p, preset_list_samples(), "sample");
        break;
    case PALETTE_MODELS:
        add_models(p);
        break;
    }
    p->matches = xcalloc(p->n + 1, sizeof *p->matches);
    filter_rows(p);
    app->dirty = true;
}

void palette_close(struct app *app)
{
    struct palette *p = &app->palette;
    for (size_t i = 0; i < p->n; i++) {
        free(p->rows[i].name);
        free(p->rows[i].label);
        free(p->rows[i].text);
        free(p->rows[i].action);
        free(p->rows[i].argument);
    }
    free(p->rows);
    free(p->matches);
    p->rows = NULL;
    p->matches = NULL;
    p->n = p->n_matches = p->capacity = 0;
    p->open = false;
    app->dirty = true;
}

/* What follows the action's name in the filter. */
static char *typed_argument(const struct palette *p)
{
    const char *space = p->filter.data ? strchr(p->filter.data, ' ') : NULL;
    if (!space)
        return NULL;
    space += strspn(space, " ");
    return *space ? xstrdup(space) : NULL;
}

static void run_selected(struct app *app)
{
    struct palette *p = &app->palette;
    if (p->selected >= p->n_matches) {
        palette_close(app);
        return;
    }
    const struct palette_row *row = &p->rows[p->matches[p->selected]];
    const struct action *action = action_find(row->action);
    bool model_path = p->kind == PALETTE_MODELS && !action;
    bool actions_listed = p->kind == PALETTE_ACTIONS || p->kind == PALETTE_HELP;
    char *argument = row->argument ? xstrdup(row->argument) : NULL;
    if (actions_listed && action && action->argument && !argument) {
        char *name = xstrndup(p->filter.data ? p->filter.data : "",
                              strcspn(p->filter.data ? p->filter.data : "", " "));
        if (!strcmp(name, action->name))
            argument = typed_argument(p);
        free(name);
    }
    palette_close(app);
    if (action)
        action_run(app, action, argument);
    else if (model_path)
        app_prompt(app, PROMPT_MODEL, NULL);
    free(argument);
}

static void erase_character(struct buf *b)
{
    while (b->len > 0 && ((unsigned char)b->data[b->len - 1] & 0xC0) == 0x80)
        b->len--;
    if (b->len > 0)
        b->len--;
    if (b->data)
        b->data[b->len] = '\0';
}

enum { PAGE = 10 };

static void select_by(struct palette *p, long by)
{
    long to = (long)p->selected + by;
    long last = (long)p->n_matches - 1;
    p->selected = (size_t)(to > last ? (last < 0 ? 0 : last) : to < 0 ? 0 : to);
}

void palette_key(struct app *app, int code)
{
    struct palette *p = &app->palette;
    switch (code) {
    case CODE_ESC:
    case CODE_F0 + 10:
        palette_close(app);
        break;
    case CODE_ENTER:
        run_selected(app);
        break;
    case CODE_UP:
    case CODE_CTRL('P'):
        select_by(p, -1);
        break;
    case CODE_DOWN:
    case CODE_CTRL('N'):
    case CODE_TAB:
        select_by(p, 1);
        break;
    case CODE_PAGE_UP:
        select_by(p, -PAGE);
        break;
    case CODE_PAGE_DOWN:
        select_by(p, PAGE);
        break;
    case CODE_BACKSPACE:
        erase_character(&p->filter);
        filter_rows(p);
        break;
    case CODE_CTRL('U'):
        buf_clear(&p->filter);
        filter_rows(p);
        break;
    default:
        if (code >= 0x20 && code < 0x110000) {
            buf_append_utf8(&p->filter, (uint32_t)code);
            filter_rows(p);
        }
    }
}

static const char *const TITLES[] = {
    [PALETTE_HELP] = "Help: what can be done here",
    [PALETTE_ACTIONS] = "Actions",
    [PALETTE_MASKERS] = "Add a masker",
    [PALETTE_STACKS] = "Stack for this column",
    [PALETTE_SAMPLES] = "Sample contexts",
    [PALETTE_MODELS] = "Pick a model",
    [PALETTE_SETTINGS] = "Settings",
};

/* Columns for the names and the labels of all rows, so that typing moves nothing. */
static void measure(const struct palette *p, const struct grid *g, int *name_w, int *label_w)
{
    enum { MAX_NAME = 30, MAX_LABEL = 14 };
    *name_w = *label_w = 0;
    for (size_t i = 0; i < p->n; i++) {
        int name = grid_text_width(g, p->rows[i].name),
            label = grid_text_width(g, p->rows[i].label);
        *name_w = name > *name_w ? name : *name_w;
        *label_w = label > *label_w ? label : *label_w;
    }
    *name_w = (*name_w > MAX_NAME ? MAX_NAME : *name_w) + 4;
    *label_w = *label_w == 0 ? 0 : (*label_w > MAX_LABEL ? MAX_LABEL : *label_w) + 2;
}

void palette_draw(const struct app *app, struct grid *g, struct rect area)
{
    const struct palette *p = &app->palette;
    grid_fill(g, area);
    grid_box(g, area, ROLE_TITLE);
    grid_printf(g, area, 2, 0, ROLE_TITLE, ATTR_BOLD, " %s ", TITLES[p->kind]);
    grid_put_right(g, area, area.w - 2, 0, ROLE_DIM, 0, " type to filter · Enter · Esc ");
    struct rect in = rect_inset(area, 2, 1);
    int x = grid_put(g, in, 0, 0, ROLE_ACCENT, 0, "> ");
    x = grid_put(g, in, x, 0, ROLE_TEXT, 0, p->filter.data ? p->filter.data : "");
    g->has_cursor = x < in.w;
    g->cursor_x = in.x + x;
    g->cursor_y = in.y;
    struct rect list = {in.x, in.y + 1, in.w, in.h - 3};
    if (list.h < 1)
        return;
    size_t rows = (size_t)list.h, top = p->selected >= rows ? p->selected - rows + 1 : 0;
    int name_w = 0, label_w = 0;
    measure(p, g, &name_w, &label_w);
    for (size_t i = 0; i < rows && top + i < p->n_matches; i++) {
        const struct palette_row *row = &p->rows[p->matches[top + i]];
        bool selected = top + i == p->selected;
        struct rect name = {list.x, list.y + (int)i, name_w - 1, 1};
        grid_put(g, name, 0, 0, ROLE_TEXT, 0, selected ? "▸ " : "  ");
        grid_put(g, name, 2, 0, ROLE_TEXT, 0, row->name);
        struct rect label = {list.x + name_w, name.y, label_w, 1};
        grid_put(g, label, 0, 0, ROLE_WARN, 0, row->label);
        grid_put(g, list, name_w + label_w, (int)i, ROLE_DIM, 0, row->text);
        if (selected)
            grid_paint(g, list, 0, (int)i, list.w, ROLE_ACCENT, 0);
    }
    if (p->n_matches == 0) {
        grid_put(g, list, 2, 0, ROLE_DIM, 0, "nothing matches");
        return;
    }
    /* The selected row's words in full below the list. */
    const struct palette_row *row = &p->rows[p->matches[p->selected]];
    grid_put(g, in, 0, in.h - 1, ROLE_TEXT, 0, row->text);
}
