#include "tui/signals.h"

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/signalfd.h>
#include <sys/time.h>
#include <unistd.h>

static sigset_t original_mask;
static int deadline_code;
static void (*on_crash)(void);

static void handled_set(sigset_t *set)
{
    static const int handled[] = {SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGWINCH, SIGTSTP, SIGCONT};
    sigemptyset(set);
    for (unsigned i = 0; i < sizeof handled / sizeof *handled; i++)
        sigaddset(set, handled[i]);
}

int signals_open(void)
{
    sigset_t set;
    handled_set(&set);
    signal(SIGPIPE, SIG_IGN);
    pthread_sigmask(SIG_BLOCK, &set, &original_mask);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int signals_next(int fd)
{
    struct signalfd_siginfo info;
    return read(fd, &info, sizeof info) == sizeof info ? (int)info.ssi_signo : 0;
}

void signals_close(int fd)
{
    if (fd >= 0)
        close(fd);
    /* A terminal that goes away shows at its descriptor and hangs up besides: what comes second
     * must not kill a program that is ending with its own code. */
    signal(SIGHUP, SIG_IGN);
    pthread_sigmask(SIG_SETMASK, &original_mask, NULL);
}

void signals_restore_mask(void)
{
    pthread_sigmask(SIG_SETMASK, &original_mask, NULL);
}

void signals_stop_self(void)
{
    sigset_t stop;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTSTP);
    signal(SIGTSTP, SIG_DFL);
    kill(0, SIGTSTP);
    pthread_sigmask(SIG_UNBLOCK, &stop, NULL); /* the process stops here */
    pthread_sigmask(SIG_BLOCK, &stop, NULL);
}

static void deadline_passed(int signal_number)
{
    (void)signal_number;
    _exit(deadline_code);
}

void signals_exit_deadline(int code, int ms)
{
    deadline_code = code;
    signal(SIGALRM, deadline_passed);
    struct itimerval timer = {.it_value = {ms / 1000, (ms % 1000) * 1000}};
    setitimer(ITIMER_REAL, &timer, NULL);
}

static void crashed(int signal_number)
{
    if (on_crash)
        on_crash();
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

void signals_on_crash(void (*emergency)(void))
{
    static const int fatal_signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    on_crash = emergency;
    for (unsigned i = 0; i < sizeof fatal_signals / sizeof *fatal_signals; i++) {
        struct sigaction old;
        /* A sanitizer that has its own handler keeps it. */
        if (sigaction(fatal_signals[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL)
            signal(fatal_signals[i], crashed);
    }
}
