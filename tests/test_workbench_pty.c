/* The workbench as a terminal sees it: on the fake engine, in a pseudo terminal, byte for byte.
 * Timing, signals, what is left behind, and that no outside byte acts as a control. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include <utmp.h> /* login_tty */

#include "engine/base/buf.h"
#include "engine/base/file.h"

#include <cmocka.h> /* last: it defines fail */

#define PROGRAM ATTNSCOPE_BUILD_DIR "/tests/fake_workbench"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SLOW = 6 }; /* times are not what is tested then */
#else
enum { SLOW = 10 }; /* a busy machine must not fail it: figures are printed, hangs are caught */
#endif

struct run {
    pid_t pid;
    int master;
    struct buf out; /* all that was written to the terminal */
    struct termios before;
    int64_t started_ms;
};

static char state_folder[64];

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* environment: "NAME=VALUE" strings, NULL-terminated; argument may be NULL. */
static void start_at(struct run *r, int columns, int rows, const char *const *environment,
                     const char *argument, const char *question)
{
    struct winsize size = {.ws_col = (unsigned short)columns, .ws_row = (unsigned short)rows};
    int slave = -1;
    *r = (struct run){.master = -1};
    assert_int_equal(openpty(&r->master, &slave, NULL, NULL, &size), 0);
    assert_int_equal(tcgetattr(slave, &r->before), 0);
    r->started_ms = now_ms();
    r->pid = fork();
    assert_true(r->pid >= 0);
    if (r->pid == 0) {
        close(r->master);
        login_tty(slave);
        setenv("TERM", "xterm-256color", 1);
        setenv("LANG", "C.UTF-8", 1);
        setenv("XDG_STATE_HOME", state_folder, 1);
        setenv("XDG_CONFIG_HOME", state_folder, 1);
        setenv("FAKE_LOAD_MS", "20", 1);
        unsetenv("SSH_CONNECTION");
        unsetenv("NO_COLOR");
        for (; environment && *environment; environment++)
            putenv((char *)*environment);
        if (chdir(ATTNSCOPE_SOURCE_DIR) != 0)
            _exit(126);
        execl(PROGRAM, PROGRAM, argument, question, (char *)NULL);
        _exit(127);
    }
    close(slave);
}

/* At the size that this round of the tests is about. */
static int round_columns = 80, round_rows = 24;

static void start(struct run *r, const char *const *environment, const char *argument,
                  const char *question)
{
    start_at(r, round_columns, round_rows, environment, argument, question);
}

/* Reads for ms, or until text has come (after byte `from` of the output).  True if it has. */
static bool read_until(struct run *r, size_t from, const char *text, int ms)
{
    int64_t end = now_ms() + ms;
    for (;;) {
        if (text && r->out.len > from &&
            memmem(r->out.data + from, r->out.len - from, text, strlen(text)))
            return true;
        int64_t left = end - now_ms();
        struct pollfd fd = {.fd = r->master, .events = POLLIN};
        if (left < 0 || poll(&fd, 1, (int)left) <= 0)
            return false;
        char bytes[65536];
        ssize_t n = read(r->master, bytes, sizeof bytes);
        if (n <= 0)
            return false;
        buf_append(&r->out, bytes, (size_t)n);
    }
}

static void wait_for(struct run *r, const char *text, int ms)
{
    if (read_until(r, 0, text, ms))
        return;
    print_error("'%s' did not come within %d ms; the output was:\n%s\n", text, ms,
                r->out.data ? r->out.data : "");
    fail_msg("waited in vain");
}

static void send_bytes(struct run *r, const char *bytes, size_t n)
{
    while (n > 0) {
        struct pollfd fd = {.fd = r->master, .events = POLLIN | POLLOUT};
        assert_true(poll(&fd, 1, 5000) > 0);
        if (fd.revents & POLLIN)
            read_until(r, 0, NULL, 0);
        if (fd.revents & POLLOUT) {
            ssize_t done = write(r->master, bytes, n < 4096 ? n : 4096);
            assert_true(done > 0 || errno == EAGAIN);
            bytes += done > 0 ? done : 0;
            n -= done > 0 ? (size_t)done : 0;
        }
    }
}

static void press(struct run *r, const char *keys)
{
    send_bytes(r, keys, strlen(keys));
}

/* Waits for the end; returns the exit code, 1000 + n if a signal killed it. */
static int wait_end(struct run *r, int ms)
{
    int status = 0;
    int64_t end = now_ms() + ms;
    for (;;) {
        if (r->master >= 0)
            read_until(r, 0, NULL, 10);
        else
            usleep(10000);
        pid_t done = waitpid(r->pid, &status, WNOHANG);
        if (done == r->pid)
            break;
        if (now_ms() > end) {
            kill(r->pid, SIGKILL);
            waitpid(r->pid, &status, 0);
            return -1;
        }
    }
    if (r->master >= 0)
        read_until(r, 0, NULL, 20);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static void release(struct run *r)
{
    if (r->master >= 0)
        close(r->master);
    buf_free(&r->out);
}

/* The last bytes put the terminal back, and its modes are as before. */
static void check_restored(struct run *r)
{
    struct termios after;
    assert_int_equal(tcgetattr(r->master, &after), 0);
    assert_int_equal(after.c_lflag, r->before.c_lflag);
    assert_int_equal(after.c_iflag, r->before.c_iflag);
    assert_int_equal(after.c_oflag, r->before.c_oflag);
    const char *const needed[] = {"\033[?2004l", "\033[?1049l"};
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
        const char *at = memmem(r->out.data, r->out.len, needed[i], strlen(needed[i]));
        if (!at)
            print_error("'\\e%s' was not written\n", needed[i] + 1);
        assert_non_null(at);
    }
}

static void quit(struct run *r)
{
    press(r, "\033[21~"); /* F10 */
    assert_int_equal(wait_end(r, 3000), 0);
    check_restored(r);
    release(r);
}

/* --- Timing ------------------------------------------------------------------------------- */

static void test_the_first_frame_is_there_at_once(void **state)
{
    (void)state;
    struct run r;
    start(&r, NULL, NULL, NULL);
    wait_for(&r, "attnscope", 3000);
    int64_t ms = now_ms() - r.started_ms;
    print_message("first frame: %d ms (promised: 150)\n", (int)ms);
    assert_true(ms <= 150 * SLOW);
    quit(&r);
}

static void test_nothing_is_written_while_nothing_changes(void **state)
{
    (void)state;
    struct run r;
    start(&r, NULL, NULL, NULL);
    wait_for(&r, "ready", 3000);
    read_until(&r, 0, NULL, 400);
    size_t before = r.out.len;
    read_until(&r, 0, NULL, 1500);
    print_message("idle for 1.5 s: %zu bytes\n", r.out.len - before);
    assert_int_equal(r.out.len - before, 0);
    quit(&r);
}

static void check_stream_rate(int columns, int rows, int promised)
{
    static const char *const environment[] = {"FAKE_RATE=60", "FAKE_TOKENS=2000",
                                              "FAKE_PREFILL_MS=50", NULL};
    struct run r;
    enum { MS = 3000 };
    start_at(&r, columns, rows, environment, NULL, NULL);
    wait_for(&r, "ready", 3000);
    press(&r, "r");
    read_until(&r, 0, NULL, 1000);
    size_t before = r.out.len;
    read_until(&r, 0, NULL, MS);
    size_t per_s = (r.out.len - before) * 1000 / MS;
    print_message("two panes of 60 tokens/s at %dx%d: %zu bytes/s (promised: %d)\n", columns, rows,
                  per_s, promised);
    assert_in_range(per_s, 100, (unsigned)promised);
    press(&r, "\003");
    read_until(&r, 0, NULL, 300);
    quit(&r);
}

static void test_streaming_keeps_to_its_bytes(void **state)
{
    (void)state;
    check_stream_rate(80, 24, 6000);
    check_stream_rate(200, 50, 6000);
}

static void test_keys_are_echoed_while_the_engine_prefills(void **state)
{
    (void)state;
    static const char *const environment[] = {"FAKE_PREFILL_MS=20000", NULL};
    struct run r;
    start(&r, environment, NULL, NULL);
    wait_for(&r, "ready", 3000);
    press(&r, "ri");
    read_until(&r, 0, NULL, 300);
    int64_t sum = 0, worst = 0;
    enum { KEYS = 20 };
    for (int i = 0; i < KEYS; i++) {
        static const char letters[] = "ZKWXVJUQYGHFBMPZKWXV";
        char key[2] = {letters[i], '\0'};
        size_t from = r.out.len;
        int64_t sent = now_ms();
        press(&r, key);
        assert_true(read_until(&r, from, key, 2000));
        int64_t ms = now_ms() - sent;
        sum += ms;
        worst = ms > worst ? ms : worst;
        read_until(&r, 0, NULL, 60);
    }
    print_message("key echo while prefilling: mean %d ms, worst %d ms (promised: 50)\n",
                  (int)(sum / KEYS), (int)worst);
    assert_true(sum / KEYS <= 50 * SLOW);
    int64_t cancelled = now_ms();
    press(&r, "\003");
    wait_for(&r, "partial", 2000);
    print_message("cancelled after %d ms (promised: 200)\n", (int)(now_ms() - cancelled));
    assert_true(now_ms() - cancelled <= 200 * SLOW);
    press(&r, "\033");
    read_until(&r, 0, NULL, 200);
    quit(&r);
}

static void test_a_paste_of_a_megabyte_becomes_the_context_within_a_second(void **state)
{
    (void)state;
    struct run r;
    struct buf paste = {0};
    start(&r, NULL, NULL, NULL);
    wait_for(&r, "ready", 3000);
    buf_append_str(&paste, "\033[200~");
    for (int i = 0; i < 20000; i++)
        buf_append_str(&paste, "The minutes of the company record that on the 3rd.\r");
    buf_append_str(&paste, "\033[201~");
    int64_t sent = now_ms();
    send_bytes(&r, paste.data, paste.len);
    wait_for(&r, "pasted", 8000);
    print_message("paste of %zu bytes: %d ms (promised: 1000)\n", paste.len,
                  (int)(now_ms() - sent));
    assert_true(now_ms() - sent <= 1000 * SLOW);
    buf_free(&paste);
    quit(&r);
}

/* --- Signals and ends --------------------------------------------------------------------- */

static void check_signal(int signal_number)
{
    static const char *const environment[] = {"FAKE_RATE=60", "FAKE_TOKENS=100000", NULL};
    struct run r;
    start(&r, environment, NULL, NULL);
    wait_for(&r, "ready", 3000);
    press(&r, "r");
    read_until(&r, 0, NULL, 700);
    int64_t sent = now_ms();
    kill(r.pid, signal_number);
    int code = wait_end(&r, 3000);
    print_message("signal %d: exit %d after %d ms (promised: 1000)\n", signal_number, code,
                  (int)(now_ms() - sent));
    assert_int_equal(code, 128 + signal_number);
    assert_true(now_ms() - sent <= 1000 * SLOW);
    check_restored(&r);
    release(&r);
}

static void test_signals_restore_the_terminal_and_end_with_their_code(void **state)
{
    (void)state;
    check_signal(SIGTERM);
    check_signal(SIGHUP);
    check_signal(SIGINT);
}

static void test_a_lost_terminal_ends_the_program(void **state)
{
    (void)state;
    struct run r;
    start(&r, NULL, NULL, NULL);
    wait_for(&r, "ready", 3000);
    close(r.master);
    r.master = -1;
    assert_int_equal(wait_end(&r, 2000), 128 + SIGHUP);
    release(&r);
}

static void test_a_crash_restores_the_terminal(void **state)
{
    (void)state;
    struct run r;
    start(&r, NULL, NULL, NULL);
    wait_for(&r, "ready", 3000);
    kill(r.pid, SIGABRT);
    assert_int_equal(wait_end(&r, 10000), 1000 + SIGABRT);
    check_restored(&r);
    release(&r);
}

static void test_a_dumb_terminal_is_refused_in_one_sentence(void **state)
{
    (void)state;
    static const char *const environment[] = {"TERM=dumb", NULL};
    struct run r;
    start(&r, environment, NULL, NULL);
    assert_int_equal(wait_end(&r, 3000), 2);
    assert_non_null(strstr(r.out.data, "attnscope ask"));
    assert_null(strchr(r.out.data, '\033'));
    release(&r);
}

/* --- A lost device ------------------------------------------------------------------------ */

static void test_a_lost_device_leaves_the_screen_and_r_restarts_on_the_session(void **state)
{
    (void)state;
    static const char *const environment[] = {"FAKE_LOSE_AFTER=9", NULL};
    struct run r;
    start(&r, environment, NULL, NULL);
    wait_for(&r, "ready", 3000);
    for (int time = 0; time < 2; time++) { /* what a restart begins can be restarted */
        press(&r, "r");
        size_t from = r.out.len;
        assert_true(read_until(&r, from, "The GPU failed", 3000));
        assert_true(read_until(&r, from, "ENGINE ERROR", 3000));
        press(&r, "\033");
        read_until(&r, 0, NULL, 200);
        from = r.out.len;
        press(&r, "?");
        assert_true(read_until(&r, from, "type to filter", 2000));
        assert_true(read_until(&r, from, "restart", 2000));
        press(&r, "\033");
        read_until(&r, 0, NULL, 200);
        from = r.out.len;
        press(&r, "r");
        assert_true(read_until(&r, from, "cannot run", 2000));
        from = r.out.len;
        press(&r, "R");
        assert_true(read_until(&r, from, "resumed", 5000));
        assert_true(read_until(&r, from, "Harwick", 2000)); /* as far as the answer had come */
        assert_true(read_until(&r, from, "ready", 3000));
    }
    assert_int_equal(waitpid(r.pid, NULL, WNOHANG), 0); /* the same process, another program */
    quit(&r);
}

static void test_r_restarts_though_the_message_is_open(void **state)
{
    (void)state;
    static const char *const environment[] = {"FAKE_LOSE_AFTER=9", NULL};
    struct run r;
    start(&r, environment, NULL, NULL);
    wait_for(&r, "ready", 3000);
    press(&r, "r");
    wait_for(&r, "ENGINE ERROR", 3000);
    size_t from = r.out.len;
    press(&r, "R");
    assert_true(read_until(&r, from, "resumed", 5000));
    assert_true(read_until(&r, from, "ready", 3000));
    char command[160];
    snprintf(command, sizeof command, "grep -rqF '\"name\":\"restart\"' '%s'", state_folder);
    assert_int_equal(system(command), 0);
    quit(&r);
}

static void test_auto_restart_goes_on_by_itself(void **state)
{
    (void)state;
    static const char *const environment[] = {"FAKE_LOSE_AFTER=9", "FAKE_AUTO_RESTART=1", NULL};
    struct run r;
    start(&r, environment, NULL, NULL);
    wait_for(&r, "ready", 3000);
    press(&r, "r");
    size_t from = r.out.len;
    assert_true(read_until(&r, from, "resumed", 5000));
    assert_true(read_until(&r, from, "ready", 3000));
    quit(&r);
}

/* It would fail again, and again. */
static void test_auto_restart_waits_where_the_load_lost_the_device(void **state)
{
    (void)state;
    static const char *const environment[] = {"FAKE_LOSE_LOAD=1", "FAKE_AUTO_RESTART=1", NULL};
    struct run r;
    start(&r, environment, NULL, NULL);
    wait_for(&r, "The GPU failed", 3000);
    assert_false(read_until(&r, 0, "resumed", 500));
    press(&r, "\033");
    read_until(&r, 0, NULL, 200);
    quit(&r);
}

/* --- Storms ------------------------------------------------------------------------------- */

static uint32_t random_state = 3;

static uint32_t next_random(uint32_t below)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % below;
}

static void set_size(struct run *r, int columns, int rows)
{
    struct winsize size = {.ws_col = (unsigned short)columns, .ws_row = (unsigned short)rows};
    ioctl(r->master, TIOCSWINSZ, &size);
}

static void test_a_thousand_resizes_while_streaming_do_no_harm(void **state)
{
    (void)state;
    static const char *const environment[] = {"FAKE_RATE=200", "FAKE_TOKENS=3000", NULL};
    struct run r;
    start(&r, environment, NULL, NULL);
    wait_for(&r, "ready", 3000);
    press(&r, "r");
    for (int i = 0; i < 1000; i++) {
        set_size(&r, 1 + (int)next_random(250), 1 + (int)next_random(80));
        read_until(&r, 0, NULL, 2);
    }
    set_size(&r, round_columns, round_rows);
    read_until(&r, 0, NULL, 300);
    size_t from = r.out.len;
    press(&r, "\014"); /* Ctrl-L draws every cell: the whole frame comes again */
    assert_true(read_until(&r, from, "attnscope", 2000));
    press(&r, "\003");
    read_until(&r, 0, NULL, 300);
    quit(&r);
}

static void test_random_keys_do_no_harm(void **state)
{
    (void)state;
    static const char *const environment[] = {"FAKE_RATE=500", "FAKE_TOKENS=50", "VISUAL=true",
                                              NULL};
    static const char *const keys[] = {"\033[A",  "\033[B",  "\033[C", "\033[D",
                                       "\033[5~", "\033[6~", "\033",   "\r",
                                       "\t",      " ",       "\177",   "\033[Z",
                                       "\033OQ",  "\033OR",  "\033OS", "\033[200~text\033[201~",
                                       "\022",    "\025",    "世"};
    struct run r;
    int n_left = 0;
    start(&r, environment, NULL, NULL);
    wait_for(&r, "ready", 3000);
    for (int i = 0; i < 6000; i++) {
        const char *key = keys[next_random(sizeof keys / sizeof *keys)];
        char letter[2] = {(char)(33 + next_random(94)), '\0'};
        int status = 0;
        press(&r, next_random(2) ? key : letter);
        if (i % 8)
            continue;
        read_until(&r, 0, NULL, 1);
        if (waitpid(r.pid, &status, WNOHANG) == r.pid) { /* q, or the palette's quit */
            read_until(&r, 0, NULL, 50);
            if (status != 0)
                print_error("it ended with status %x: %s\n", (unsigned)status,
                            (const char *)memmem(r.out.data, r.out.len, "attnscope: ", 11));
            assert_int_equal(status, 0);
            release(&r);
            n_left++;
            start(&r, environment, NULL, NULL);
            wait_for(&r, "ready", 3000);
        }
    }
    print_message("6000 random keys, left %d times\n", n_left);
    kill(r.pid, SIGTERM);
    int code = wait_end(&r, 3000);
    assert_true(code == 128 + SIGTERM || code == 0);
    check_restored(&r);
    release(&r);
}

/* --- Hostile text ------------------------------------------------------------------------- */

static void test_no_outside_byte_acts_as_a_control(void **state)
{
    (void)state;
    static const char *const environment[] = {"FAKE_HOSTILE=1", "FAKE_TOKENS=60", "FAKE_RATE=200",
                                              "FAKE_MODEL=/tmp/\033]0;model\a", NULL};
    /* A file whose name and text try to act. */
    char path[160];
    snprintf(path, sizeof path, "%s/evil\033]0;name\a\033[5m.txt", state_folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("\033]0;context\a\033[2J\xc2\x9b"
          "31m\xe2\x80\xaetext",
          file);
    fclose(file);
    struct run r;
    start(&r, environment, path, "What \033]0;question\a is\xe2\x80\xae it?");
    wait_for(&r, "attnscope", 3000);
    read_until(&r, 0, NULL, 600);
    press(&r, "r");
    read_until(&r, 0, NULL, 1200);
    press(&r, "@");
    press(&r, path);
    press(&r, "\r");
    read_until(&r, 0, NULL, 400);
    static const char *const forbidden[] = {"\033]",        "\a",    "\033[5m", "\xc2\x9b",
                                            "\xe2\x80\xae", "\033P", "\033_",   "\xe2\x81\xa6"};
    for (size_t i = 0; i < sizeof forbidden / sizeof *forbidden; i++) {
        const char *at = memmem(r.out.data, r.out.len, forbidden[i], strlen(forbidden[i]));
        if (at)
            print_error("forbidden sequence %zu at byte %zu\n", i, (size_t)(at - r.out.data));
        assert_null(at);
    }
    kill(r.pid, SIGTERM);
    assert_int_equal(wait_end(&r, 3000), 128 + SIGTERM);
    release(&r);
    unlink(path);
}

static int make_state(void **state)
{
    (void)state;
    strcpy(state_folder, "/tmp/attnscope-pty-XXXXXX");
    return mkdtemp(state_folder) ? 0 : -1;
}

static int remove_state(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", state_folder);
    return system(command);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest at_every_size[] = {
        cmocka_unit_test(test_the_first_frame_is_there_at_once),
        cmocka_unit_test(test_keys_are_echoed_while_the_engine_prefills),
        cmocka_unit_test(test_a_paste_of_a_megabyte_becomes_the_context_within_a_second),
        cmocka_unit_test(test_signals_restore_the_terminal_and_end_with_their_code),
        cmocka_unit_test(test_a_lost_terminal_ends_the_program),
        cmocka_unit_test(test_a_lost_device_leaves_the_screen_and_r_restarts_on_the_session),
        cmocka_unit_test(test_r_restarts_though_the_message_is_open),
        cmocka_unit_test(test_a_thousand_resizes_while_streaming_do_no_harm),
        cmocka_unit_test(test_no_outside_byte_acts_as_a_control),
    };
    const struct CMUnitTest once[] = {
        cmocka_unit_test(test_nothing_is_written_while_nothing_changes),
        cmocka_unit_test(test_streaming_keeps_to_its_bytes),
        cmocka_unit_test(test_a_crash_restores_the_terminal),
        cmocka_unit_test(test_a_dumb_terminal_is_refused_in_one_sentence),
        cmocka_unit_test(test_auto_restart_goes_on_by_itself),
        cmocka_unit_test(test_auto_restart_waits_where_the_load_lost_the_device),
        cmocka_unit_test(test_random_keys_do_no_harm),
    };
    static const int sizes[][2] = {{120, 40}, {200, 50}, {80, 24}};
    int n_failed = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        round_columns = sizes[i][0];
        round_rows = sizes[i][1];
        print_message("at %dx%d\n", round_columns, round_rows);
        n_failed += cmocka_run_group_tests(at_every_size, make_state, remove_state);
    }
    n_failed += cmocka_run_group_tests(once, make_state, remove_state);
    return n_failed;
}
