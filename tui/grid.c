/* Clipping happens once per cell, in cell_at; everything else may be generous with coordinates. */
#include "tui/grid.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/base/utf8.h"
#include "engine/text/screen_text.h"

static const struct cell EMPTY = {.code = ' ', .width = 1};

struct twin {
    uint32_t code, ascii;
};

static const struct twin TWINS[] = {
    {0x2500, '-'},  {0x2502, '|'}, {0x250C, '+'}, {0x2510, '+'}, {0x2514, '+'}, {0x2518, '+'},
    {0x251C, '+'},  {0x2524, '+'}, {0x252C, '+'}, {0x2534, '+'}, {0x253C, '+'}, {0x25B8, '>'},
    {0x25CF, '*'},  {0x25CB, 'o'}, {0x00D7, 'x'}, {0x203A, '>'}, {0x2260, '!'}, {0x2192, '>'},
    {0x23CE, '~'},  {0x240A, '~'}, {0x2026, '.'}, {0x00B7, '.'}, {0x258C, '_'}, {0x2713, '+'},
    {0x2717, '!'},  {0x25C2, '<'}, {0x0394, 'd'}, {0x2014, '-'}, {0x2013, '-'}, {0x2588, '#'},
    {0x2423, '_'},  {0x2190, '<'}, {0x2191, '^'}, {0x2193, 'v'}, {0x201C, '"'}, {0x201D, '"'},
    {0x2019, '\''}, {0x2501, '='},
};

uint32_t grid_ascii_twin(uint32_t code)
{
    for (size_t i = 0; i < sizeof TWINS / sizeof *TWINS; i++)
        if (TWINS[i].code == code)
            return TWINS[i].ascii;
    return 0;
}

struct rect rect_inset(struct rect r, int dx, int dy)
{
    return (struct rect){r.x + dx, r.y + dy, r.w - 2 * dx, r.h - 2 * dy};
}

void grid_init(struct grid *g, int width, int height, bool ascii)
{
    *g = (struct grid){.ascii = ascii};
    grid_reset(g, width, height);
}

void grid_free(struct grid *g)
{
    free(g->cells);
    *g = (struct grid){0};
}

void grid_reset(struct grid *g, int width, int height)
{
    width = width < 1 ? 1 : width;
    height = height < 1 ? 1 : height;
    if (!g->cells || g->width != width || g->height != height) {
        free(g->cells);
        g->cells = xcalloc((size_t)width * (size_t)height, sizeof *g->cells);
        g->width = width;
        g->height = height;
    }
    for (size_t i = 0; i < (size_t)width * (size_t)height; i++)
        g->cells[i] = EMPTY;
    g->has_cursor = false;
    g->cursor_x = g->cursor_y = 0;
}

const struct cell *grid_at(const struct grid *g, int x, int y)
{
    return &g->cells[(size_t)y * (size_t)g->width + (size_t)x];
}

bool grid_equal(const struct grid *a, const struct grid *b)
{
    return a->width == b->width && a->height == b->height && a->has_cursor == b->has_cursor &&
           a->cursor_x == b->cursor_x && a->cursor_y == b->cursor_y &&
           !memcmp(a->cells, b->cells, (size_t)a->width * (size_t)a->height * sizeof *a->cells);
}

void grid_copy(struct grid *to, const struct grid *from)
{
    grid_reset(to, from->width, from->height);
    memcpy(to->cells, from->cells,
           (size_t)from->width * (size_t)from->height * sizeof *from->cells);
    to->has_cursor = from->has_cursor;
    to->cursor_x = from->cursor_x;
    to->cursor_y = from->cursor_y;
}

/* The cell at (x, y) of clip, or NULL outside clip or grid. */
static struct cell *cell_at(struct grid *g, struct rect clip, int x, int y)
{
    if (x < 0 || y < 0 || x >= clip.w || y >= clip.h)
        return NULL;
    x += clip.x;
    y += clip.y;
    if (x < 0 || y < 0 || x >= g->width || y >= g->height)
        return NULL;
    return &g->cells[(size_t)y * (size_t)g->width + (size_t)x];
}

/* Before c changes: a wide cell that would lose one half loses both. */
static void break_wide(struct grid *g, struct cell *c)
{
    size_t column = (size_t)(c - g->cells) % (size_t)g->width;
    if (c->width == 0 && column > 0) {
        c[-1].code = ' ';
        c[-1].width = 1;
    } else if (c->width == 2 && column + 1 < (size_t)g->width) {
        c[1].code = ' ';
        c[1].width = 1;
    }
}

static void set_cell(struct grid *g, struct cell *c, enum role role, int attrs, uint32_t code,
                     int width)
{
    break_wide(g, c);
    memset(c, 0, sizeof *c);
    c->code = code;
    c->role = (uint8_t)role;
    c->attrs = (uint8_t)attrs;
    c->width = (uint8_t)width;
}

static void add_mark(struct grid *g, struct rect clip, int x, int y, uint32_t code)
{
    struct cell *c = cell_at(g, clip, x - 1, y);
    if (c && c->width == 0)
        c = cell_at(g, clip, x - 2, y);
    for (int i = 0; c && i < CELL_MAX_MARKS; i++)
        if (!c->marks[i]) {
            c->marks[i] = code;
            return;
        }
}

void grid_put_code(struct grid *g, struct rect clip, int x, int y, enum role role, int attrs,
                   uint32_t code, int width)
{
    if (g->ascii && code > 0x7E) {
        uint32_t twin = grid_ascii_twin(code);
        code = twin ? twin : '?';
        if (width == 0)
            return;
        width = 1;
    }
    if (width == 0) {
        add_mark(g, clip, x, y, code);
        return;
    }
    struct cell *c = cell_at(g, clip, x, y);
    if (!c)
        return;
    if (width == 2) {
        struct cell *right = cell_at(g, clip, x + 1, y);
        if (!right) {
            set_cell(g, c, role, attrs, ' ', 1);
            return;
        }
        set_cell(g, c, role, attrs, code, 2);
        set_cell(g, right, role, attrs, ' ', 1);
        right->width = 0;
        c->code = code; /* break_wide of the right half may have cleared it */
        c->width = 2;
        return;
    }
    set_cell(g, c, role, attrs, code, 1);
}

int grid_put_n(struct grid *g, struct rect clip, int x, int y, enum role role, int attrs,
               const char *utf8, size_t n)
{
    struct buf clean = {0};
    screen_text_filter(&clean, utf8, n, SCREEN_TEXT_LINE);
    for (size_t i = 0; i < clean.len;) {
        uint32_t code = 0;
        int n_bad = 1;
        int length = utf8_decode(clean.data + i, clean.len - i, &code, &n_bad);
        if (length <= 0)
            break; /* the filter gives only valid text */
        int width = screen_text_width(code);
        if (g->ascii && width == 2)
            width = 1;
        grid_put_code(g, clip, x, y, role, attrs, code, width);
        x += width;
        i += (size_t)length;
    }
    buf_free(&clean);
    return x;
}

int grid_put(struct grid *g, struct rect clip, int x, int y, enum role role, int attrs,
             const char *utf8)
{
    return grid_put_n(g, clip, x, y, role, attrs, utf8, strlen(utf8));
}

int grid_printf(struct grid *g, struct rect clip, int x, int y, enum role role, int attrs,
                const char *format, ...)
{
    char *text = NULL;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    if (n >= 0) {
        x = grid_put_n(g, clip, x, y, role, attrs, text, (size_t)n);
        free(text);
    }
    return x;
}

int grid_text_width(const struct grid *g, const char *utf8)
{
    struct grid off = {.width = 0, .height = 0, .ascii = g->ascii};
    return grid_put(&off, (struct rect){0, 0, 0, 0}, 0, 0, ROLE_TEXT, 0, utf8);
}

void grid_put_right(struct grid *g, struct rect clip, int x_end, int y, enum role role, int attrs,
                    const char *utf8)
{
    grid_put(g, clip, x_end - grid_text_width(g, utf8), y, role, attrs, utf8);
}

void grid_fill(struct grid *g, struct rect area)
{
    for (int y = 0; y < area.h; y++)
        for (int x = 0; x < area.w; x++)
            grid_put_code(g, area, x, y, ROLE_TEXT, 0, ' ', 1);
}

void grid_hline(struct grid *g, struct rect clip, int y, enum role role)
{
    for (int x = 0; x < clip.w; x++)
        grid_put_code(g, clip, x, y, role, 0, 0x2500, 1);
}

void grid_vline(struct grid *g, struct rect clip, int x, enum role role)
{
    for (int y = 0; y < clip.h; y++)
        grid_put_code(g, clip, x, y, role, 0, 0x2502, 1);
}

void grid_box(struct grid *g, struct rect area, enum role role)
{
    grid_hline(g, area, 0, role);
    grid_hline(g, area, area.h - 1, role);
    grid_vline(g, area, 0, role);
    grid_vline(g, area, area.w - 1, role);
    grid_put_code(g, area, 0, 0, role, 0, 0x250C, 1);
    grid_put_code(g, area, area.w - 1, 0, role, 0, 0x2510, 1);
    grid_put_code(g, area, 0, area.h - 1, role, 0, 0x2514, 1);
    grid_put_code(g, area, area.w - 1, area.h - 1, role, 0, 0x2518, 1);
}

void grid_paint(struct grid *g, struct rect clip, int x, int y, int w, enum role role, int attrs)
{
    for (int i = 0; i < w; i++) {
        struct cell *c = cell_at(g, clip, x + i, y);
        if (!c)
            continue;
        c->role = (uint8_t)role;
        c->attrs = (uint8_t)attrs;
    }
}

void grid_to_text(const struct grid *g, struct buf *out)
{
    for (int y = 0; y < g->height; y++) {
        size_t end = out->len;
        for (int x = 0; x < g->width; x++) {
            const struct cell *c = grid_at(g, x, y);
            if (c->width == 0)
                continue;
            buf_append_utf8(out, c->code);
            for (int i = 0; i < CELL_MAX_MARKS && c->marks[i]; i++)
                buf_append_utf8(out, c->marks[i]);
            if (c->code != ' ')
                end = out->len;
        }
        out->len = end;
        buf_append_char(out, '\n');
    }
}
