/* ncurses does the diff against what the terminal shows; this module gives it only the cells that
 * changed since the last frame, and never calls it for a frame that is the same. */
#include "tui/term.h"

#include <errno.h>
#include <fcntl.h>
#include <langinfo.h>
#include <locale.h>
#include <ncurses.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <term.h>
#include <termios.h>
#include <unistd.h>

static const char PASTE_ON[] = "\033[?2004h", PASTE_OFF[] = "\033[?2004l";

static struct {
    SCREEN *screen;
    bool open, suspended, ascii, repaint;
    enum color_mode color;
    enum theme theme; /* of looks */
    struct look looks[ROLE_COUNT];
    struct grid shown; /* the last frame */
    int saved_stderr;
    struct termios modes; /* as found */
    bool have_modes;
    char restore[128]; /* what term_emergency writes */
    char stderr_log[4096];
} term = {.saved_stderr = -1};

void term_set_locale(void)
{
    const char *all = getenv("LC_ALL"), *ctype = getenv("LC_CTYPE"), *lang = getenv("LANG");
    setlocale(LC_CTYPE, "");
    if (!(all && *all) && !(ctype && *ctype) && !(lang && *lang))
        setlocale(LC_CTYPE, "C.UTF-8");
}

static void write_all(const char *s)
{
    size_t n = strlen(s);
    while (n > 0) {
        ssize_t done = write(STDOUT_FILENO, s, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return;
        s += done;
        n -= (size_t)done;
    }
}

static void redirect_stderr(void)
{
    if (!*term.stderr_log)
        return;
    int fd = open(term.stderr_log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return;
    term.saved_stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    dup2(fd, STDERR_FILENO);
    close(fd);
}

static void restore_stderr(void)
{
    if (term.saved_stderr < 0)
        return;
    dup2(term.saved_stderr, STDERR_FILENO);
    close(term.saved_stderr);
    term.saved_stderr = -1;
}

static enum color_mode choose_color(enum color_mode wanted)
{
    const char *no_color = getenv("NO_COLOR");
    if (wanted == COLOR_NEVER || (wanted == COLOR_AUTO && no_color && *no_color))
        return COLOR_NEVER;
    if (!has_colors() || start_color() == ERR)
        return COLOR_NEVER;
    use_default_colors();
    if (wanted == COLOR_16 || COLORS < 256)
        return COLORS >= 8 ? COLOR_16 : COLOR_NEVER;
    return COLOR_256;
}

static void init_looks(enum theme theme)
{
    term.theme = theme;
    for (int i = 0; i < ROLE_COUNT; i++) {
        struct look look = theme_look((enum role)i, term.color, theme);
        if (COLORS < 16 && look.fg >= 8) { /* bright colours of 8: the plain one */
            look.attrs |= look.fg == 8 ? 0 : ATTR_BOLD;
            look.fg = look.fg == 8 ? -1 : (short)(look.fg - 8);
        }
        term.looks[i] = look;
        if (term.color != COLOR_NEVER)
            init_pair((short)(i + 1), look.fg, look.bg);
    }
}

static void append_capability(const char *name)
{
    const char *s = tigetstr(name);
    if (!s || s == (const char *)-1)
        return;
    size_t used = strlen(term.restore);
    if (used + strlen(s) < sizeof term.restore)
        strcpy(term.restore + used, s);
}

bool term_open(const struct term_options *options, struct error *err)
{
    const char *name = getenv("TERM");
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))
        return fail_code(err, EXIT_CODE_USAGE,
                         "the workbench needs a terminal on stdin and stdout: use 'attnscope ask' "
                         "in scripts and pipes");
    if (!name || !*name || !strcmp(name, "dumb"))
        return fail_code(err, EXIT_CODE_USAGE,
                         "TERM=%s cannot show the workbench: use 'attnscope ask' for plain output",
                         name && *name ? name : "");
    term.have_modes = tcgetattr(STDIN_FILENO, &term.modes) == 0;
    static const char *const fallbacks[] = {NULL, "xterm-256color", "xterm", "vt100"};
    for (size_t i = 0; !term.screen && i < sizeof fallbacks / sizeof *fallbacks; i++)
        term.screen = newterm(fallbacks[i], stdout, stdin);
    if (!term.screen)
        return fail_code(err, EXIT_CODE_USAGE,
                         "terminal type '%s' is unknown here and no terminfo is installed: install "
                         "ncurses-base or set TERM=vt100",
                         name);
    term.open = true;
    raw();
    noecho();
    nonl();
    typeahead(-1); /* a frame is never abandoned halfway */
    curs_set(0);
    term.ascii = strcmp(nl_langinfo(CODESET), "UTF-8") != 0;
    term.color = choose_color(options->color);
    init_looks(options->theme);
    strcpy(term.restore, PASTE_OFF);
    append_capability("sgr0");
    append_capability("cnorm");
    append_capability("rmcup");
    if (options->stderr_log)
        snprintf(term.stderr_log, sizeof term.stderr_log, "%s", options->stderr_log);
    redirect_stderr();
    write_all(PASTE_ON);
    term.repaint = true;
    return true;
}

void term_close(void)
{
    if (!term.open)
        return;
    term.open = false;
    if (!term.suspended) {
        curs_set(1);
        write_all(PASTE_OFF);
        endwin();
    }
    delscreen(term.screen);
    term.screen = NULL;
    grid_free(&term.shown);
    restore_stderr();
}

void term_emergency(void)
{
    if (!term.open || term.suspended)
        return;
    write_all(term.restore);
    if (term.have_modes)
        tcsetattr(STDIN_FILENO, TCSANOW, &term.modes);
    if (term.saved_stderr >= 0)
        dup2(term.saved_stderr, STDERR_FILENO);
}

bool term_is_ascii(void)
{
    return term.ascii;
}

bool term_is_mono(void)
{
    return term.color == COLOR_NEVER || term.theme == THEME_MONO;
}

void term_set_theme(enum theme theme)
{
    if (theme == term.theme)
        return;
    init_looks(theme);
    term.repaint = true;
}

int term_width(void)
{
    return COLS;
}

int term_height(void)
{
    return LINES;
}

int term_escape_delay_ms(void)
{
    return getenv("SSH_CONNECTION") ? 60 : 25;
}

static attr_t attributes_of(const struct cell *c)
{
    const struct look *look = &term.looks[c->role];
    int attrs = look->attrs | c->attrs;
    attr_t out = A_NORMAL;
    if (attrs & ATTR_BOLD)
        out |= A_BOLD;
    if (attrs & ATTR_UNDERLINE)
        out |= A_UNDERLINE;
    if (attrs & ATTR_REVERSE)
        out |= A_REVERSE;
    if (look->dim)
        out |= A_DIM;
    return out;
}

static void put_cell(int x, int y, const struct cell *c)
{
    wchar_t text[2 + CELL_MAX_MARKS] = {(wchar_t)c->code};
    for (int i = 0; i < CELL_MAX_MARKS; i++)
        text[1 + i] = (wchar_t)c->marks[i];
    short pair = term.color == COLOR_NEVER ? 0 : (short)(c->role + 1);
    cchar_t cell;
    if (setcchar(&cell, text, attributes_of(c), pair, NULL) == ERR) {
        text[0] = L'?';
        text[1] = 0;
        setcchar(&cell, text, attributes_of(c), pair, NULL);
    }
    mvadd_wch(y, x, &cell);
}

bool term_show(const struct grid *g)
{
    if (!term.open || term.suspended)
        return false;
    bool all = term.repaint || g->width != term.shown.width || g->height != term.shown.height;
    if (!all && grid_equal(g, &term.shown))
        return false;
    if (term.repaint)
        clearok(curscr, TRUE);
    for (int y = 0; y < g->height && y < LINES; y++)
        for (int x = 0; x < g->width && x < COLS; x++) {
            const struct cell *c = grid_at(g, x, y);
            if (c->width == 0 ||
                (!all && !memcmp(c, grid_at(&term.shown, x, y), sizeof *c) &&
                 (c->width == 1 || !memcmp(c + 1, grid_at(&term.shown, x + 1, y), sizeof *c))))
                continue;
            put_cell(x, y, c);
        }
    if (g->has_cursor)
        move(g->cursor_y, g->cursor_x);
    else
        move(0, 0);
    if (all || g->has_cursor != term.shown.has_cursor)
        curs_set(g->has_cursor);
    refresh();
    grid_copy(&term.shown, g);
    term.repaint = false;
    return true;
}

void term_repaint(void)
{
    term.repaint = true;
}

void term_resized(void)
{
    struct winsize size;
    if (!term.open || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0)
        return;
    if (size.ws_row > 0 && size.ws_col > 0 && !term.suspended)
        resizeterm(size.ws_row, size.ws_col);
}

void term_suspend(void)
{
    if (!term.open || term.suspended)
        return;
    curs_set(1);
    write_all(PASTE_OFF);
    endwin();
    restore_stderr();
    term.suspended = true;
}

void term_resume(void)
{
    if (!term.open || !term.suspended)
        return;
    term.suspended = false;
    redirect_stderr();
    refresh();
    write_all(PASTE_ON);
    term_resized();
    raw();
    curs_set(0);
    term.repaint = true;
}
