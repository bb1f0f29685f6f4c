/* What a cell means; the theme decides how a meaning looks.  Colour is never the only carrier. */
#ifndef ATTNSCOPE_TUI_ROLE_H
#define ATTNSCOPE_TUI_ROLE_H

enum { ROLE_N_SPARSE = 7, ROLE_N_HEAT = 10 };

enum role {
    ROLE_TEXT,
    ROLE_DIM,    /* hints, stale numbers */
    ROLE_TITLE,  /* titles, the focused border */
    ROLE_ACCENT, /* the selection bar */
    ROLE_DENSE,
    ROLE_SPARSE,                                   /* lane A; B..G follow */
    ROLE_ONLY_DENSE = ROLE_SPARSE + ROLE_N_SPARSE, /* words that only the dense answer has */
    ROLE_ONLY_SPARSE,
    ROLE_OK,
    ROLE_WARN,
    ROLE_ERROR,
    ROLE_KEPT,   /* tokens that a head kept */
    ROLE_MISSED, /* heavy ones that it did not */
    ROLE_HEAT,   /* the lowest value of a map; higher ones follow */
    ROLE_COUNT = ROLE_HEAT + ROLE_N_HEAT
};

enum cell_attr { ATTR_BOLD = 1, ATTR_UNDERLINE = 2, ATTR_REVERSE = 4 };

/* The role of lane's column: lane 0 is the baseline. */
static inline enum role role_of_lane(int lane)
{
    return lane == 0 ? ROLE_DENSE : (enum role)(ROLE_SPARSE + (lane - 1) % ROLE_N_SPARSE);
}

#endif
