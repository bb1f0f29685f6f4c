/* Recipe: readline's callback interface reads from a byte queue of ours and draws nowhere.  Its
 * terminal hooks are off, so that the modes of the terminal stay curses'.
 *
 * libedit insists on a terminal of its own: it gets the slave of a private pty, whose modes it may
 * change as it likes, and its output goes nowhere as well. */
#include "tui/line_edit.h"

#include <fcntl.h>
#include <stdio.h> /* before readline */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef ATTNSCOPE_LIBEDIT
#include <editline/readline.h>
#else
#include <readline/history.h>
#include <readline/readline.h>
#endif

#include "engine/base/buf.h"
#include "engine/base/file.h"
#include "engine/base/memory.h"
#include "engine/base/utf8.h"

enum { HISTORY_MAX_LINES = 1000 };

static const char *const HISTORY_NAMES[LINE_FIELDS] = {
    [LINE_QUESTION] = "history-questions", [LINE_VALUE] = "history-values",
    [LINE_STACK] = "history-stacks",       [LINE_PATH] = "history-paths",
    [LINE_SEARCH] = "history-searches",
};

static struct {
    bool initialised, active;
    enum line_field field;
    enum line_state state;
    struct buf queue; /* bytes for readline */
    size_t queue_at;
    char *text; /* a copy of the line, or what was accepted */
    size_t cursor;
    char *matches;
    char *history_path;
    const char *(*words)(enum line_field field, int index);
#ifdef ATTNSCOPE_LIBEDIT
    int pty_master;
#endif
} line;

/* What readline reads: the next byte; libedit reads whole characters. */
static int next_byte(FILE *unused)
{
    (void)unused;
    if (line.queue_at >= line.queue.len)
        return EOF;
#ifdef ATTNSCOPE_LIBEDIT
    uint32_t code_point;
    int n_bad;
    int n = utf8_decode(line.queue.data + line.queue_at, line.queue.len - line.queue_at,
                        &code_point, &n_bad);
    if (n > 0) {
        line.queue_at += (size_t)n;
        return (int)code_point;
    }
#endif
    return (unsigned char)line.queue.data[line.queue_at++];
}

static void set_text(const char *text, size_t cursor)
{
    free(line.text);
    line.text = xstrdup(text);
    line.cursor = cursor > strlen(text) ? strlen(text) : cursor;
}

/* --- Completion --------------------------------------------------------------------------- */

static char *next_word(const char *typed, int state)
{
    static int index;
    if (state == 0)
        index = 0;
    for (;;) {
        const char *word = line.words ? line.words(line.field, index++) : NULL;
        if (!word)
            return NULL;
        if (!strncmp(word, typed, strlen(typed)))
            return strdup(word); /* readline frees it */
    }
}

/* "@path": a file's name after the sign, which stays. */
static char *next_attached_file(const char *typed, int state)
{
    char *name = rl_filename_completion_function(typed + 1, state);
    if (!name)
        return NULL;
    size_t n = strlen(name);
    char *word = malloc(n + 2);
    if (word) {
        word[0] = '@';
        memcpy(word + 1, name, n + 1);
    }
    free(name);
    return word;
}

static char **complete(const char *typed, int start, int end)
{
    (void)end;
    rl_attempted_completion_over = 1; /* never fall back to file names on its own */
    switch (line.field) {
    case LINE_QUESTION:
        if (*typed == '@')
            return rl_completion_matches(typed, next_attached_file);
        /* The first word after "/", or any word of a command's argument. */
        if ((start == 0 && *typed == '/') || (start > 0 && rl_line_buffer[0] == '/'))
            return rl_completion_matches(typed, next_word);
        return NULL;
    case LINE_STACK:
        return rl_completion_matches(typed, next_word);
    case LINE_PATH:
        return rl_completion_matches(typed, rl_filename_completion_function);
    default:
        return NULL;
    }
}

#ifndef ATTNSCOPE_LIBEDIT
static void keep_matches(char **matches, int n, int longest)
{
    (void)longest;
    struct buf text = {0};
    for (int i = 1; i <= n && text.len < 400; i++) {
        const char *slash = strrchr(matches[i], '/');
        buf_printf(&text, "%s%s", i > 1 ? "  " : "",
                   line.field != LINE_STACK && slash && slash[1] ? slash + 1 : matches[i]);
    }
    free(line.matches);
    line.matches = buf_take(&text);
}
#endif

/* --- readline ----------------------------------------------------------------------------- */

static void accepted(char *text)
{
    line.state = text ? LINE_ACCEPTED : LINE_ABANDONED;
    set_text(text ? text : "", 0);
    free(text);
    rl_callback_handler_remove();
}

#ifdef ATTNSCOPE_LIBEDIT
/* What libedit draws on its private terminal is thrown away. */
static void drain_pty(void)
{
    char bytes[4096];
    fflush(rl_outstream);
    while (read(line.pty_master, bytes, sizeof bytes) > 0)
        continue;
}

static void initialise(void)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0) {
        int slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
        rl_instream = slave >= 0 ? fdopen(slave, "r+") : NULL;
        rl_outstream = slave >= 0 ? fdopen(dup(slave), "w") : NULL;
        fcntl(master, F_SETFL, O_NONBLOCK);
        line.pty_master = master;
    }
    rl_getc_function = next_byte;
    rl_attempted_completion_function = complete;
    rl_readline_name = "attnscope";
    rl_initialize();
}
#else
static int insert_newline(int count, int key)
{
    (void)count;
    (void)key;
    rl_insert_text("\n");
    return 0;
}

static void nothing(void)
{
}

static int bytes_wait(void)
{
    return line.queue_at < line.queue.len;
}

static void initialise(void)
{
    rl_catch_signals = 0;
    rl_catch_sigwinch = 0;
    rl_change_environment = 0;
    rl_prep_term_function = NULL;
    rl_deprep_term_function = NULL;
    rl_redisplay_function = nothing;
    rl_outstream = fopen("/dev/null", "w");
    rl_instream = fopen("/dev/null", "r");
    rl_getc_function = next_byte;
    rl_input_available_hook = bytes_wait;
    rl_attempted_completion_function = complete;
    rl_completion_display_matches_hook = keep_matches;
    rl_completer_word_break_characters = " \t\n";
    rl_readline_name = "attnscope"; /* inputrc: $if attnscope */
    rl_initialize();
    /* After inputrc, which may say otherwise. */
    rl_variable_bind("enable-bracketed-paste", "off");
    rl_variable_bind("completion-query-items", "0");
    rl_variable_bind("show-all-if-ambiguous", "on");
    rl_variable_bind("bell-style", "none");
    rl_variable_bind("page-completions", "off");
    rl_bind_key('\n', insert_newline);        /* Ctrl-J */
    rl_bind_keyseq("\033\r", insert_newline); /* Alt-Enter */
}
#endif

static void open_history(const char *folder)
{
    free(line.history_path);
    line.history_path = folder ? path_join(folder, HISTORY_NAMES[line.field]) : NULL;
#ifdef ATTNSCOPE_LIBEDIT
    clear_history();
#else
    rl_clear_history(); /* with the undo lists of its lines */
    /* readline 8.2 leaves the freed lines in its list, and a search would read them. */
    HIST_ENTRY **lines = history_list();
    if (lines)
        lines[0] = NULL;
#endif
    stifle_history(HISTORY_MAX_LINES);
    if (line.history_path)
        read_history(line.history_path);
}

/* The text may be private: nobody else reads it, whatever the umask. */
static void save_history(void)
{
    bool several_lines = strchr(line.text, '\n') != NULL;
    if (!*line.text || several_lines)
        return;
    add_history(line.text);
    if (!line.history_path)
        return;
    int fd = open(line.history_path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return;
    fchmod(fd, 0600);
    close(fd);
    mode_t mask = umask(077);
    write_history(line.history_path);
    umask(mask);
}

void line_edit_start(enum line_field field, const char *initial, const char *state_folder,
                     const char *(*words)(enum line_field field, int index))
{
    line_edit_stop();
    if (!line.initialised)
        initialise();
    line.initialised = true;
    line.active = true;
    line.field = field;
    line.state = LINE_EDITING;
    line.words = words;
    open_history(state_folder);
    rl_callback_handler_install("", accepted);
    set_text("", 0);
    if (initial)
        line_edit_insert(initial);
}

void line_edit_stop(void)
{
    if (!line.active)
        return;
    if (line.state == LINE_EDITING) {
#ifndef ATTNSCOPE_LIBEDIT
        rl_callback_sigcleanup(); /* ends a search or an argument that is half typed */
        rl_free_line_state();     /* and what undo holds */
#endif
        rl_callback_handler_remove();
    }
    line.active = false;
    buf_clear(&line.queue);
    line.queue_at = 0;
    free(line.matches);
    line.matches = NULL;
}

static void read_queue(void)
{
    while (line.state == LINE_EDITING && line.queue_at < line.queue.len) {
        rl_callback_read_char();
#ifdef ATTNSCOPE_LIBEDIT
        drain_pty();
#endif
        if (line.state == LINE_EDITING)
            set_text(rl_line_buffer ? rl_line_buffer : "", (size_t)rl_point);
    }
    buf_clear(&line.queue);
    line.queue_at = 0;
}

enum line_state line_edit_feed(const char *bytes, size_t n)
{
    free(line.matches);
    line.matches = NULL;
    buf_append(&line.queue, bytes, n);
    read_queue();
    if (line.state == LINE_ACCEPTED)
        save_history();
    return line.state;
}

void line_edit_insert(const char *text)
{
    if (!line.active || line.state != LINE_EDITING)
        return;
#ifdef ATTNSCOPE_LIBEDIT
    /* As if typed: a line of libedit's holds no newline. */
    for (const char *at = text; *at; at++)
        buf_append_char(&line.queue, *at == '\n' ? ' ' : *at);
    read_queue();
#else
    rl_insert_text(text);
    set_text(rl_line_buffer ? rl_line_buffer : "", (size_t)rl_point);
#endif
}

const char *line_edit_text(void)
{
    return line.text ? line.text : "";
}

size_t line_edit_cursor(void)
{
    return line.cursor;
}

const char *line_edit_matches(void)
{
    return line.matches;
}
