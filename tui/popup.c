#include "tui/popup.h"

#include <stdlib.h>

#include "engine/base/memory.h"
#include "tui/app.h"
#include "tui/keys.h"
#include "tui/rich.h"

void popup_message(struct app *app, enum role role, const char *title, const char *text)
{
    popup_close(app);
    app->popup =
        (struct popup){.open = true, .title = xstrdup(title), .text = xstrdup(text), .role = role};
    app->dirty = true;
}

void popup_confirm(struct app *app, const char *text, void (*on_yes)(struct app *app))
{
    popup_message(app, ROLE_WARN, "Sure?", text);
    app->popup.on_yes = on_yes;
}

void popup_close(struct app *app)
{
    free(app->popup.title);
    free(app->popup.text);
    app->popup = (struct popup){0};
    app->dirty = true;
}

void popup_key(struct app *app, int code)
{
    struct popup *p = &app->popup;
    void (*on_yes)(struct app *) = p->on_yes;
    switch (code) {
    case 'y':
    case 'Y':
        if (on_yes) {
            popup_close(app);
            on_yes(app);
        }
        break;
    case CODE_DOWN:
    case 'j':
        p->top++;
        break;
    case CODE_UP:
    case 'k':
        p->top -= p->top > 0;
        break;
    case CODE_ENTER:
    case ' ':
        if (on_yes)
            break; /* a sure answer is typed */
        popup_close(app);
        break;
    case 'n':
    case 'N':
    case 'q':
    case CODE_F0 + 10:
    case CODE_ESC:
        popup_close(app);
        break;
    default:
        break;
    }
}

void popup_draw(const struct app *app, struct grid *g, struct rect area)
{
    const struct popup *p = &app->popup;
    struct rich text = {0};
    struct rich_lines lines = {0};
    rich_append_str(&text, p->text, ROLE_TEXT, 0);
    rich_wrap(&text, area.w - 4, &lines);
    int height = (int)lines.n + 4;
    if (height < area.h) {
        area.y += (area.h - height) / 2;
        area.h = height;
    }
    grid_fill(g, area);
    grid_box(g, area, p->role);
    grid_printf(g, area, 2, 0, p->role, ATTR_BOLD, " %s ", p->title);
    struct rect in = rect_inset(area, 2, 1);
    int rows = in.h - 2, last = (int)lines.n - rows;
    int top = p->top > last ? (last < 0 ? 0 : last) : p->top;
    for (int i = 0; i < rows && top + i < (int)lines.n; i++)
        rich_draw_line(g, in, i, &text, lines.lines[top + i]);
    grid_put(g, in, 0, in.h - 1, ROLE_DIM, 0,
             p->on_yes  ? "y yes   n no"
             : last > 0 ? "j k scroll   Esc close"
                        : "Esc close");
    rich_lines_free(&lines);
    rich_free(&text);
}
