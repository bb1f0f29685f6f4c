/* Signals as bytes to read: none interrupts the program anywhere but in poll.
 *
 * signals_open blocks them before any thread starts, so that every thread inherits the mask.
 * Crashes (SEGV, ABRT, ...) restore the terminal and then take their usual course. */
#ifndef ATTNSCOPE_TUI_SIGNALS_H
#define ATTNSCOPE_TUI_SIGNALS_H

#include <stdbool.h>

/* A descriptor for poll(); -1 with errno on failure. */
int signals_open(void);
/* The next signal (SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGWINCH, SIGTSTP, SIGCONT), or 0. */
int signals_next(int fd);
/* At the program's end: SIGHUP is ignored from now on. */
void signals_close(int fd);
/* In a child, before exec: the mask that the program was started with. */
void signals_restore_mask(void);
/* Stops the process group as Ctrl-Z does; returns after it goes on. */
void signals_stop_self(void);
/* Ends the process with this code within ms milliseconds, whatever it is doing. */
void signals_exit_deadline(int code, int ms);
/* emergency: async-signal-safe, restores the terminal. */
void signals_on_crash(void (*emergency)(void));

#endif
