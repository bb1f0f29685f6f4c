/* Greedy wrapping: the last space that fits, else the last cell. */
#include "tui/rich.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/base/utf8.h"
#include "engine/text/screen_text.h"

void rich_free(struct rich *r)
{
    free(r->glyphs);
    *r = (struct rich){0};
}

void rich_append(struct rich *r, const char *text, size_t n, enum role role, int attrs)
{
    if (n == 0)
        return;
    struct buf clean = {0};
    screen_text_filter(&clean, text, n, SCREEN_TEXT_NEWLINES);
    r->glyphs = array_grow(r->glyphs, &r->capacity, r->n + clean.len, sizeof *r->glyphs);
    for (size_t i = 0; i < clean.len;) {
        uint32_t code = 0;
        int n_bad = 1;
        int length = utf8_decode(clean.data + i, clean.len - i, &code, &n_bad);
        if (length <= 0)
            break; /* the filter gives only valid text */
        int width = code == '\n' ? 0 : screen_text_width(code);
        r->glyphs[r->n++] = (struct glyph){
            .code = code, .role = (uint8_t)role, .attrs = (uint8_t)attrs, .width = (uint8_t)width};
        i += (size_t)length;
    }
    buf_free(&clean);
}

void rich_append_str(struct rich *r, const char *text, enum role role, int attrs)
{
    rich_append(r, text, strlen(text), role, attrs);
}

static void add_line(struct rich_lines *out, size_t first, size_t end)
{
    out->lines = array_grow(out->lines, &out->capacity, out->n + 1, sizeof *out->lines);
    out->lines[out->n++] = (struct rich_line){.first = first, .n = end - first};
}

void rich_wrap(const struct rich *r, int width, struct rich_lines *out)
{
    size_t first = 0, space = 0; /* space: glyph after the last space of this line, 0: none */
    int used = 0;
    width = width < 1 ? 1 : width;
    out->n = 0;
    for (size_t i = 0; i < r->n; i++) {
        const struct glyph *glyph = &r->glyphs[i];
        if (glyph->code == '\n') {
            add_line(out, first, i);
            first = i + 1;
            space = 0;
            used = 0;
            continue;
        }
        if (used + glyph->width > width && i > first) {
            if (glyph->code == ' ') { /* the space itself goes with the break */
                add_line(out, first, i);
                first = i + 1;
                space = 0;
                used = 0;
                continue;
            }
            size_t at = space > first ? space : i;
            add_line(out, first, space > first ? at - 1 : at);
            first = at;
            space = 0;
            used = 0;
            for (size_t j = first; j < i; j++)
                used += r->glyphs[j].width;
            i--; /* a wide glyph may not fit behind the rest either: look again */
            continue;
        }
        used += glyph->width;
        if (glyph->code == ' ')
            space = i + 1;
    }
    add_line(out, first, r->n);
}

void rich_lines_free(struct rich_lines *lines)
{
    free(lines->lines);
    *lines = (struct rich_lines){0};
}

void rich_draw_line(struct grid *g, struct rect clip, int y, const struct rich *r,
                    struct rich_line line)
{
    int x = 0;
    for (size_t i = line.first; i < line.first + line.n; i++) {
        const struct glyph *glyph = &r->glyphs[i];
        grid_put_code(g, clip, x, y, glyph->role, glyph->attrs, glyph->code, glyph->width);
        x += glyph->width;
    }
}

size_t rich_line_of(const struct rich_lines *lines, size_t i)
{
    size_t line = 0;
    while (line + 1 < lines->n && lines->lines[line + 1].first <= i)
        line++;
    return line;
}
