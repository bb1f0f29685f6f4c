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

/* Of the roles that COLOR_BLIND shows otherwise than dark: a 256-colour index, 0: the same. */
static const short COLOR_BLIND[ROLE_COUNT] = {
    [ROLE_DENSE] = 74,        [ROLE_SPARSE + 0] = 214, [ROLE_SPARSE + 1] = 36,
    [ROLE_SPARSE + 2] = 227,  [ROLE_SPARSE + 3] = 175, [ROLE_SPARSE + 4] = 166,
    [ROLE_SPARSE + 5] = 32,   [ROLE_SPARSE + 6] = 252, [ROLE_ONLY_DENSE] = 74,
    [ROLE_ONLY_SPARSE] = 214, [ROLE_OK] = 36,          [ROLE_WARN] = 227,
    [ROLE_ERROR] = 166,       [ROLE_KEPT] = 36,        [ROLE_MISSED] = 214,
};

const char *const theme_names[] = {"dark", "light", "colour-blind", "mono", NULL};

struct look theme_look(enum role role, enum color_mode mode, enum theme theme)
{
    const struct role_colors *c = &ROLES[role];
    bool light = theme == THEME_LIGHT;
    if (theme == THEME_MONO || mode == COLOR_NEVER)
        return (struct look){-1, -1, c->mono_attrs, c->mono_dim};
    if (mode == COLOR_16) /* on a light background white would vanish: bold says it alone */
        return (struct look){role == ROLE_TITLE ? -1 : c->ansi, c->ansi_bg, c->attrs, false};
    short fg = light ? c->light : c->dark;
    if (theme == THEME_COLOR_BLIND && COLOR_BLIND[role])
        fg = COLOR_BLIND[role];
    return (struct look){fg, light ? c->light_bg : c->dark_bg, c->attrs, false};
}

enum theme theme_by_background(void)
{
    const char *value = getenv("COLORFGBG");
    const char *last = value ? strrchr(value, ';') : NULL;
    int background = last ? atoi(last + 1) : 0;
    return background == 7 || background == 15 ? THEME_LIGHT : THEME_DARK;
}

uint32_t theme_rgb(short index)
{
    static const uint32_t first[16] = {0x000000, 0xcd0000, 0x00cd00, 0xcdcd00, 0x0000ee, 0xcd00cd,
                                       0x00cdcd, 0xe5e5e5, 0x7f7f7f, 0xff0000, 0x00ff00, 0xffff00,
                                       0x5c5cff, 0xff00ff, 0x00ffff, 0xffffff};
    static const uint32_t levels[6] = {0, 0x5f, 0x87, 0xaf, 0xd7, 0xff};
    if (index < 16)
        return first[index < 0 ? 0 : index];
    if (index >= 232)
        return (uint32_t)(8 + 10 * (index - 232)) * 0x010101;
    int cube = index - 16;
    return levels[cube / 36] << 16 | levels[cube / 6 % 6] << 8 | levels[cube % 6];
}
