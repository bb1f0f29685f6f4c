/* Errors as values, and the one way out for a broken program.
 *
 * A function that can fail because of a user, a file or the machine returns bool and fills a
 * struct error with one sentence fit for the status line: where, what, the rule, what to do. */
#ifndef ATTNSCOPE_ENGINE_BASE_ERROR_H
#define ATTNSCOPE_ENGINE_BASE_ERROR_H

#include <stdbool.h>
#include <stdint.h>

/* The program's exit codes (docs: "Exit codes"). */
enum exit_code {
    EXIT_CODE_OK = 0,
    EXIT_CODE_RUNTIME = 1,  /* something went wrong while running */
    EXIT_CODE_USAGE = 2,    /* the command line is wrong */
    EXIT_CODE_ASSERT = 3,   /* an --assert expression is false */
    EXIT_CODE_INVALID = 4,  /* a model or file is invalid or unsupported */
    EXIT_CODE_NO_DEVICE = 5 /* no device, or out of memory */
};

struct error {
    enum exit_code code; /* set by fail*: which exit code a command line ends with */
    char text[1024];     /* one sentence, NUL-terminated, may hold raw bytes of file names */
};

/* Writes a sentence into err (which may be NULL) and returns false, so that
 * `return fail(err, "...")` reads as one step.  The code is EXIT_CODE_INVALID for fail. */
bool fail(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool fail_code(struct error *err, enum exit_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts `prefix: ` in front of err's sentence; returns false. */
bool fail_prefix(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Ends the program: runs the hook (flush the log, restore the terminal), prints one sentence on
 * stderr, exits with code 5.  Any thread; the hook runs at most once. */
void fatal(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
void fatal_set_hook(void (*hook)(void));

#endif
