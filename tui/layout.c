#include "tui/layout.h"

#include <string.h>

static int clamp(int v, int low, int high)
{
    return v < low ? low : v > high ? high : v;
}

/* Takes the first n rows off *rest. */
static struct rect take_rows(struct rect *rest, int n)
{
    n = clamp(n, 0, rest->h);
    struct rect r = {rest->x, rest->y, rest->w, n};
    rest->y += n;
    rest->h -= n;
    return r;
}

/* The panel's rows: the parameters need the most, the rest share. */
static void layout_side(struct layout *l, struct rect side)
{
    int lanes = clamp(side.h / 5, 3, 1 + REQUEST_MAX_LANES);
    int questions = clamp(side.h / 4, 3, 12);
    int stack = clamp((side.h - lanes - questions + 1) / 2, 3, 14);
    l->stack = take_rows(&side, stack);
    l->params = take_rows(&side, side.h - lanes - questions);
    l->questions = take_rows(&side, side.h - lanes);
    l->lanes = side;
}

void layout_compute(struct layout *l, int width, int height)
{
    *l = (struct layout){.width = width, .height = height};
    struct rect rest = {0, 0, width < 0 ? 0 : width, height < 0 ? 0 : height};
    if (width < LAYOUT_MIN_WIDTH || height < LAYOUT_MIN_HEIGHT) {
        l->tiny = true;
        l->header = take_rows(&rest, 1);
        return;
    }
    bool tall = height >= 30;
    l->has_side = width >= 100 && height >= 24;
    l->header = take_rows(&rest, 1);
    l->metrics = take_rows(&rest, 2);
    if (!l->has_side && height >= 20)
        l->stack_line = take_rows(&rest, 1);

    int below = (tall ? 3 : 1) + (tall ? 1 : 0) + 2;
    struct rect middle = take_rows(&rest, rest.h - below);
    l->divergence = take_rows(&rest, tall ? 3 : 1);
    if (tall)
        l->prompt_rule = take_rows(&rest, 1);
    l->prompt = take_rows(&rest, 1);
    l->key_bar = take_rows(&rest, 1);

    if (l->has_side) {
        int w = width >= 160 ? clamp(width / 5, 34, 44) : clamp(width * 28 / 100, 28, 34);
        struct rect side = {middle.x, middle.y, w, middle.h};
        layout_side(l, side);
        l->side_border = (struct rect){w, middle.y, 1, middle.h};
        middle.x += w + 1;
        middle.w -= w + 1;
    }
    l->tabs = take_rows(&middle, 1);
    l->body = middle;

    int popup_w = clamp(width * 8 / 10, LAYOUT_MIN_WIDTH - 4, 100);
    int popup_h = clamp(height * 8 / 10, 10, 30);
    l->popup = (struct rect){(width - popup_w) / 2, (height - popup_h) / 2, popup_w, popup_h};
}

void layout_columns(struct layout_columns *out, const struct layout *l, int n_lanes, int current,
                    bool zoomed)
{
    *out = (struct layout_columns){0};
    if (l->tiny || n_lanes <= 0 || l->body.w <= 0 || l->body.h <= 0)
        return;
    current = clamp(current, 0, n_lanes - 1);
    int fit = l->has_side ? (l->body.w + 1) / (LAYOUT_MIN_COLUMN + 1) : l->body.w >= 72 ? 2 : 1;
    if (l->has_side && fit < 2)
        fit = 2; /* beside the panel two columns are a little narrower just above 100 cells */
    int n = clamp(fit, 1, n_lanes);
    if (zoomed || n == 1) {
        n = 1;
        out->lanes[0] = current;
    } else {
        /* Lane 0 stays; the others are a window that holds the current lane. */
        int first = current > n - 1 ? current - (n - 1) + 1 : 1;
        out->lanes[0] = 0;
        for (int i = 1; i < n; i++)
            out->lanes[i] = first + i - 1;
    }
    out->n = n;
    int x = l->body.x, room = l->body.w - (n - 1);
    for (int i = 0; i < n; i++) {
        int w = room / n + (i < room % n);
        out->columns[i] = (struct rect){x, l->body.y, w, l->body.h};
        x += w + 1;
    }
}
