#include "tui/theme.h"

#include <stdlib.h>
#include <string.h>

struct role_colors {
    short dark, light, ansi; /* foreground: 256 dark, 256 light, 16 */
    short dark_bg, light_bg, ansi_bg;
    int attrs, mono_attrs;
    bool mono_dim;
};

#define FG(dark, light, ansi) (dark), (light), (ansi), -1, -1, -1

/* Orange and blue carry the comparison; red and green are never a pair. */
static const struct role_colors ROLES[ROLE_COUNT] = {
    [ROLE_TEXT] = {FG(-1, -1, -1), 0, 0, false},
    [ROLE_DIM] = {FG(245, 243, 8), 0, 0, true},
    [ROLE_TITLE] = {FG(255, 16, 7), ATTR_BOLD, ATTR_BOLD, false},
    [ROLE_ACCENT] = {16, 255, 0, 110, 25, 6, 0, ATTR_REVERSE, false},
    [ROLE_DENSE] = {FG(75, 25, 4), 0, 0, false},
    [ROLE_SPARSE + 0] = {FG(215, 130, 3), 0, 0, false},
    [ROLE_SPARSE + 1] = {FG(179, 94, 5), 0, 0, false},
    [ROLE_SPARSE + 2] = {FG(150, 64, 6), 0, 0, false},
    [ROLE_SPARSE + 3] = {FG(116, 30, 2), 0, 0, false},
    [ROLE_SPARSE + 4] = {FG(183, 97, 13), 0, 0, false},
    [ROLE_SPARSE + 5] = {FG(217, 125, 11), 0, 0, false},
    [ROLE_SPARSE + 6] = {FG(151, 28, 14), 0, 0, false},
    [ROLE_ONLY_DENSE] = {FG(75, 25, 4), ATTR_UNDERLINE, ATTR_UNDERLINE, false},
    [ROLE_ONLY_SPARSE] = {FG(215, 130, 3), ATTR_UNDERLINE, ATTR_UNDERLINE, false},
    [ROLE_OK] = {FG(36, 29, 2), 0, 0, false},
    [ROLE_WARN] = {FG(220, 136, 3), 0, 0, false},
    [ROLE_ERROR] = {FG(203, 160, 1), ATTR_BOLD, ATTR_BOLD, false},
    [ROLE_KEPT] = {FG(36, 29, 2), 0, 0, false},
    [ROLE_MISSED] = {FG(215, 130, 3), ATTR_BOLD, ATTR_BOLD, false},
    /* Luminance rises from step to step, so that the map also reads in grey. */
    [ROLE_HEAT + 0] = {FG(17, 17, 4), 0, 0, false},
    [ROLE_HEAT + 1] = {FG(18, 18, 4), 0, 0, false},
    [ROLE_HEAT + 2] = {FG(24, 24, 4), 0, 0, false},
    [ROLE_HEAT + 3] = {FG(30, 30, 6), 0, 0, false},
    [ROLE_HEAT + 4] = {FG(36, 36, 6), 0, 0, false},
    [ROLE_HEAT + 5] = {FG(71, 71, 2), 0, 0, false},
    [ROLE_HEAT + 6] = {FG(113, 113, 2), 0, 0, false},
    [ROLE_HEAT + 7] = {FG(149, 149, 3), 0, 0, false},
    [ROLE_HEAT + 8] = {FG(185, 185, 3), 0, 0, false},
    [ROLE_HEAT + 9] = {FG(227, 227, 11), 0, 0, false},
};

struct look theme_look(enum role role, enum color_mode mode, bool light)
{
    const struct role_colors *c = &ROLES[role];
    if (mode == COLOR_256)
        return (struct look){light ? c->light : c->dark, light ? c->light_bg : c->dark_bg, c->attrs,
                             false};
    if (mode == COLOR_16) /* on a light background white would vanish: bold says it alone */
        return (struct look){role == ROLE_TITLE ? -1 : c->ansi, c->ansi_bg, c->attrs, false};
    return (struct look){-1, -1, c->mono_attrs, c->mono_dim};
}

bool theme_is_light(void)
{
    const char *value = getenv("COLORFGBG");
    const char *last = value ? strrchr(value, ';') : NULL;
    int background = last ? atoi(last + 1) : 0;
    return background == 7 || background == 15;
}
