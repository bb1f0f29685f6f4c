/* The main loop: wait for keys, engine events, signals or time; take all that has come; then draw
 * at most one frame, at most 20 a second, and none when nothing has changed. */
#include "tui/workbench.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/memory.h"
#include "engine/text/screen_text.h"
#include "tui/app.h"
#include "tui/editor.h"
#include "tui/keys.h"
#include "tui/panes.h"
#include "tui/settings.h"
#include "tui/signals.h"
#include "tui/term.h"

enum {
    FRAME_MS = 50,     /* of what the engine tells: 20 frames a second */
    KEY_FRAME_MS = 10, /* of what the person typed: seen at once, drained before drawn */
    READ_BYTES = 1 << 16,
    MAX_EVENTS_A_TURN = 1024,
    EXIT_DEADLINE_MS = 800, /* after a signal */
    LOG_TICK_MS = 1000
};

struct loop {
    struct app app;
    struct key_decoder keys;
    struct grid frame;
    int signal_fd;
    int64_t last_frame_ms, escape_since_ms, last_log_tick_ms;
    bool typed;  /* keys came since the last frame */
    bool ctrl_x; /* the first half of Ctrl-X Ctrl-E */
};

static struct loop *fatal_loop; /* for the hook of fatal() */

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void on_fatal(void)
{
    if (fatal_loop && fatal_loop->app.log)
        session_log_flush(fatal_loop->app.log);
    term_emergency();
}

/* --- Drawing ------------------------------------------------------------------------------ */

static void draw(struct loop *l)
{
    struct app *app = &l->app;
    app->width = term_width();
    app->height = term_height();
    term_set_theme(app->theme);
    app->mono = term_is_mono();
    app_before_frame(app);
    screen_render(app, &l->frame);
    app->dirty = l->typed = false;
    if (term_show(&l->frame))
        l->last_frame_ms = app->now_ms;
}

/* --- Input -------------------------------------------------------------------------------- */

static void edit_in_editor(struct loop *l)
{
    struct app *app = &l->app;
    struct error err;
    app->editor_wanted = false;
    const char *text = app->insert && app->line ? app->line : app->draft ? app->draft : "";
    term_suspend();
    char *edited = editor_run(text, &err);
    term_resume();
    app->now_ms = now_ms();
    app->dirty = true;
    if (!edited) {
        app_error(app, &err);
        return;
    }
    size_t n = strlen(edited);
    while (n > 0 && edited[n - 1] == '\n')
        edited[--n] = '\0';
    app_prompt_set(app, edited);
    free(edited);
}

static void stop_for_a_while(struct loop *l)
{
    l->app.suspend_wanted = false;
    term_suspend();
    signals_stop_self();
    term_resume();
    l->app.dirty = true;
}

/* Ctrl-X Ctrl-E in the prompt, as in bash; any other key after Ctrl-X is given on. */
static bool handle_ctrl_x(struct loop *l, int code)
{
    struct app *app = &l->app;
    if (!app->insert || app->palette.open || app->popup.open) {
        l->ctrl_x = false;
        return false;
    }
    if (!l->ctrl_x) {
        l->ctrl_x = code == CODE_CTRL('X');
        return l->ctrl_x;
    }
    l->ctrl_x = false;
    if (code == CODE_CTRL('E')) {
        app->editor_wanted = true;
        return true;
    }
    app_prompt_key(app, CODE_CTRL('X'));
    return false;
}

static void handle_keys(struct loop *l, bool flush)
{
    struct app *app = &l->app;
    struct key key;
    while (!app->quit && key_decoder_next(&l->keys, flush, &key)) {
        if (key.code == CODE_PASTE)
            app_handle_paste(app, key.paste.data ? key.paste.data : "", key.paste.len);
        else if (!handle_ctrl_x(l, key.code))
            app_handle_key(app, key.code);
        buf_free(&key.paste);
        if (app->editor_wanted)
            edit_in_editor(l);
        if (app->suspend_wanted)
            stop_for_a_while(l);
        if (app->repaint_wanted) {
            term_repaint();
            app->repaint_wanted = false;
        }
    }
    l->escape_since_ms = key_decoder_pending(&l->keys) ? app->now_ms : 0;
}

/* False: the terminal is gone. */
static bool read_keys(struct loop *l)
{
    static char bytes[READ_BYTES];
    ssize_t n = read(STDIN_FILENO, bytes, sizeof bytes);
    if (n < 0)
        return errno == EINTR || errno == EAGAIN;
    if (n == 0)
        return false;
    key_decoder_feed(&l->keys, bytes, (size_t)n);
    handle_keys(l, false);
    return true;
}

static void take_events(struct app *app)
{
    struct event e;
    for (int i = 0; app->engine && i < MAX_EVENTS_A_TURN && engine_poll(app->engine, &e); i++) {
        app_apply_event(app, &e);
        event_free(&e);
    }
}

static void end_by_signal(struct loop *l, int signal_number)
{
    l->app.quit = true;
    l->app.exit_code = 128 + signal_number;
}

static void take_signals(struct loop *l)
{
    for (int n = signals_next(l->signal_fd); n; n = signals_next(l->signal_fd)) {
        l->app.dirty = true;
        if (n == SIGWINCH)
            term_resized();
        else if (n == SIGTSTP)
            stop_for_a_while(l);
        else if (n == SIGCONT)
            term_repaint();
        else
            end_by_signal(l, n);
    }
}

/* --- Waiting ------------------------------------------------------------------------------ */

static int sooner(int a, int64_t b)
{
    b = b < 0 ? 0 : b;
    return a < 0 || b < a ? (int)b : a;
}

static int64_t frame_due_ms(const struct loop *l)
{
    return l->last_frame_ms + (l->typed ? KEY_FRAME_MS : FRAME_MS) - l->app.now_ms;
}

static int wait_ms(const struct loop *l)
{
    const struct app *app = &l->app;
    int ms = app_tick_due_ms(app);
    if (app->dirty)
        ms = sooner(ms, frame_due_ms(l));
    if (l->escape_since_ms)
        ms = sooner(ms, l->escape_since_ms + term_escape_delay_ms() - app->now_ms);
    if (app->log_waiting)
        ms = sooner(ms, l->last_log_tick_ms + LOG_TICK_MS - app->now_ms);
    return ms;
}

static void tick(struct loop *l)
{
    struct app *app = &l->app;
    app->now_ms = now_ms();
    app_tick(app);
    if (l->escape_since_ms && app->now_ms - l->escape_since_ms >= term_escape_delay_ms())
        handle_keys(l, true);
    if (app->log_waiting && app->now_ms - l->last_log_tick_ms >= LOG_TICK_MS) {
        bool problem = session_log_problem(app->log) != NULL;
        session_log_tick(app->log);
        app->log_waiting = session_log_problem(app->log) != NULL; /* tries again */
        app->dirty = app->dirty || problem != app->log_waiting;
        l->last_log_tick_ms = app->now_ms;
    }
}

static void turn(struct loop *l)
{
    struct app *app = &l->app;
    if (app->dirty && frame_due_ms(l) <= 0)
        draw(l);
    struct pollfd fds[] = {
        {.fd = STDIN_FILENO, .events = POLLIN},
        {.fd = l->signal_fd, .events = POLLIN},
        {.fd = app->engine ? engine_fd(app->engine) : -1, .events = POLLIN},
    };
    int n = poll(fds, sizeof fds / sizeof *fds, wait_ms(l));
    app->now_ms = now_ms();
    if (n > 0) {
        if (fds[1].revents & POLLIN)
            take_signals(l);
        if (fds[2].revents & POLLIN)
            take_events(app);
        bool gone = (fds[0].revents & (POLLHUP | POLLERR | POLLNVAL)) && !(fds[0].revents & POLLIN);
        if (gone || ((fds[0].revents & POLLIN) && !read_keys(l)))
            end_by_signal(l, SIGHUP);
        l->typed = l->typed || (fds[0].revents & POLLIN);
    }
    tick(l);
}

/* --- Beginning and end -------------------------------------------------------------------- */

static char *make_state_folder(void)
{
    struct error err;
    char *base = path_xdg("XDG_STATE_HOME", ".local/state");
    char *folder = path_join(base, "attnscope");
    free(base);
    if (path_make_folders(folder, &err))
        return folder;
    free(folder);
    return NULL;
}

static void start(struct loop *l)
{
    struct app *app = &l->app;
    app->ascii_only = term_is_ascii();
    app->ascii = app->ascii || app->ascii_only;
    app->now_ms = now_ms();
    app->width = term_width();
    app->height = term_height();
    grid_init(&l->frame, app->width, app->height, app->ascii);
    app_load_start(app);
    app_tick(app);
    draw(l); /* before anything slow */
    app_start_log(app);
    app_start_engine(app);
}

static void finish(struct loop *l, bool by_signal)
{
    struct app *app = &l->app;
    const char *problem = NULL;
    if (app->log) {
        session_log_flush(app->log);
        problem = session_log_problem(app->log);
    }
    char *notice = problem ? xstrdup(problem) : NULL;
    term_close();
    if (by_signal || app->lost) /* whatever the engine is doing */
        signals_exit_deadline(app->exit_code, EXIT_DEADLINE_MS);
    if (app->engine)
        engine_stop(app->engine);
    app->engine = NULL;
    fatal_loop = NULL;
    session_log_close(app->log);
    app->log = NULL;
    if (notice)
        fprintf(stderr, "attnscope: %s\n", notice);
    free(notice);
}

/* A process cannot repair a lost device, a new one can use it: runs this program anew, which reads
 * the session.  Returns, with the exit code, only if that fails. */
static int restart(struct loop *l)
{
    struct app *app = &l->app;
    const char *const *args = app->options.restart_args;
    size_t n = 0;
    while (args && args[n])
        n++;
    const char **argv = xcalloc(n + 5, sizeof *argv);
    argv[0] = "attnscope";
    argv[1] = "resume";
    for (size_t i = 0; i < n; i++)
        argv[2 + i] = args[i];
    argv[2 + n] = "--"; /* a path may begin with a dash */
    argv[3 + n] = session_log_path(app->log);
    session_log_flush(app->log);
    term_close();
    signals_restore_mask();
    /* A driver's descriptors would keep the device's memory, the log's its lock. */
    close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
    execv("/proc/self/exe", (char *const *)(uintptr_t)argv);
    char *path = screen_text_name(argv[3 + n], 0);
    fprintf(stderr, "attnscope: cannot restart: %s; go on with: attnscope resume %s\n",
            strerror(errno), path);
    free(path);
    free(argv);
    return EXIT_CODE_RUNTIME;
}

static enum theme theme_of(const struct workbench_options *options, const struct settings *settings)
{
    for (int i = 0; options->theme && theme_names[i]; i++)
        if (!strcmp(theme_names[i], options->theme))
            return (enum theme)i;
    return settings->theme == THEME_BY_BACKGROUND ? theme_by_background()
                                                  : (enum theme)settings->theme;
}

int workbench_run(const struct workbench_options *options)
{
    struct error err;
    struct loop *l = xcalloc(1, sizeof *l);
    struct app *app = &l->app;
    int code = EXIT_CODE_OK;
    app_init(app, options);
    app->state_folder = make_state_folder();
    term_set_locale();
    char *log = app->state_folder ? path_join(app->state_folder, "stderr.log") : NULL;
    struct settings settings;
    struct buf notice = {0};
    settings_read(&settings, &notice);
    app->theme = theme_of(options, &settings);
    app->live = settings.live;
    struct term_options term = {.color = options->color, .theme = app->theme, .stderr_log = log};
    l->signal_fd = signals_open();
    if (l->signal_fd < 0 || !term_open(&term, &err)) {
        if (l->signal_fd < 0)
            fail_code(&err, EXIT_CODE_RUNTIME, "signals cannot be received: %s", strerror(errno));
        fprintf(stderr, "attnscope: %s\n", err.text);
        code = err.code;
        goto out;
    }
    fatal_loop = l;
    fatal_set_hook(on_fatal);
    signals_on_crash(term_emergency);
    app->ascii = options->ascii || settings.ascii;
    start(l);
    if (notice.len > 0)
        app_message(app, ROLE_WARN, "%s", notice.data);
    while (!app->quit)
        turn(l);
    if (app->restart && app->exit_code == EXIT_CODE_OK) /* a signal goes before */
        app->exit_code = restart(l);
    code = app->exit_code;
    finish(l, code > 128);

out:
    signals_close(l->signal_fd);
    session_free(options->resume);
    app_free(app);
    grid_free(&l->frame);
    key_decoder_free(&l->keys);
    buf_free(&notice);
    free(log);
    free(l);
    return code;
}
