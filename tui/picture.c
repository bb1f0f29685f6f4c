#include "tui/picture.h"

#include <string.h>

#include "engine/base/file.h"
#include "engine/base/utf8.h"

enum { CELL_WIDTH = 9, CELL_HEIGHT = 18, BASELINE = 14, MARGIN = 9 };

struct colors {
    uint32_t text, dim, background;
};

static struct colors colors_of(enum theme theme)
{
    return theme == THEME_LIGHT ? (struct colors){0x202020, 0x767676, 0xffffff}
                                : (struct colors){0xd0d0d0, 0x8a8a8a, 0x121212};
}

static void append_code(struct buf *out, uint32_t code)
{
    if (code == '&')
        buf_append_str(out, "&amp;");
    else if (code == '<')
        buf_append_str(out, "&lt;");
    else if (code == '>')
        buf_append_str(out, "&gt;");
    else
        buf_append_utf8(out, code);
}

static bool same_style(const struct cell *a, const struct cell *b)
{
    return a->role == b->role && a->attrs == b->attrs;
}

static bool is_blank(const struct cell *c)
{
    return c->code == ' ' && !c->marks[0];
}

/* Cells [x, end) of row y, which look alike. */
static void append_run(const struct grid *g, enum theme theme, int x, int end, int y,
                       struct buf *out)
{
    const struct cell *first = grid_at(g, x, y);
    struct colors c = colors_of(theme);
    struct look look = theme_look((enum role)first->role, COLOR_256, theme);
    int attrs = first->attrs | look.attrs, left = MARGIN + x * CELL_WIDTH;
    uint32_t fg = look.fg >= 0 ? theme_rgb(look.fg) : look.dim ? c.dim : c.text;
    uint32_t bg = look.bg >= 0 ? theme_rgb(look.bg) : c.background;
    bool blank = true;
    if (attrs & ATTR_REVERSE) {
        uint32_t swapped = fg;
        fg = bg;
        bg = swapped;
    }
    if (bg != c.background)
        buf_printf(out, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"#%06x\"/>\n",
                   left, MARGIN + y * CELL_HEIGHT, (end - x) * CELL_WIDTH, CELL_HEIGHT, bg);
    for (int i = x; i < end; i++)
        blank = blank && is_blank(grid_at(g, i, y));
    if (blank)
        return;
    buf_printf(out, "<text x=\"%d\" y=\"%d\" textLength=\"%d\" fill=\"#%06x\"%s%s>", left,
               MARGIN + y * CELL_HEIGHT + BASELINE, (end - x) * CELL_WIDTH, fg,
               attrs & ATTR_BOLD ? " font-weight=\"bold\"" : "",
               attrs & ATTR_UNDERLINE ? " text-decoration=\"underline\"" : "");
    for (int i = x; i < end; i++) {
        const struct cell *cell = grid_at(g, i, y);
        if (cell->width == 0)
            continue;
        append_code(out, cell->code);
        for (int m = 0; m < CELL_MAX_MARKS && cell->marks[m]; m++)
            append_code(out, cell->marks[m]);
    }
    buf_append_str(out, "</text>\n");
}

void picture_svg(const struct grid *g, enum theme theme, struct buf *out)
{
    int width = g->width * CELL_WIDTH + 2 * MARGIN, height = g->height * CELL_HEIGHT + 2 * MARGIN;
    buf_printf(out,
               "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" "
               "font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\" font-size=\"15\" "
               "xml:space=\"preserve\">\n"
               "<rect width=\"%d\" height=\"%d\" fill=\"#%06x\"/>\n",
               width, height, width, height, colors_of(theme).background);
    for (int y = 0; y < g->height; y++)
        for (int x = 0, end; x < g->width; x = end) {
            const struct cell *first = grid_at(g, x, y);
            for (end = x + 1; end < g->width && same_style(grid_at(g, end, y), first); end++)
                ;
            append_run(g, theme, x, end, y, out);
        }
    buf_append_str(out, "</svg>\n");
}

bool picture_write(const struct grid *g, enum theme theme, const char *path, bool replace,
                   struct error *err)
{
    const char *end = strrchr(path, '.');
    struct buf text = {0};
    if (end && !strcmp(end, ".svg"))
        picture_svg(g, theme, &text);
    else if (end && !strcmp(end, ".txt"))
        grid_to_text(g, &text);
    else
        return fail_code(err, EXIT_CODE_USAGE, "%s: a picture's name must end in .svg or .txt",
                         path);
    bool ok = file_write(path, text.data, text.len, replace, err);
    buf_free(&text);
    return ok;
}
