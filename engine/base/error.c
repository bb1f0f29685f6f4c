/* Errors as values: formatting only, no state but the hook of fatal. */
#include "engine/base/error.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void (*fatal_hook)(void);
static atomic_flag fatal_started = ATOMIC_FLAG_INIT;

static bool fail_v(struct error *err, enum exit_code code, const char *format, va_list args)
{
    if (err) {
        err->code = code;
        vsnprintf(err->text, sizeof err->text, format, args);
    }
    return false;
}

bool fail(struct error *err, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fail_v(err, EXIT_CODE_INVALID, format, args);
    va_end(args);
    return false;
}

bool fail_code(struct error *err, enum exit_code code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fail_v(err, code, format, args);
    va_end(args);
    return false;
}

bool fail_prefix(struct error *err, const char *format, ...)
{
    if (!err)
        return false;
    char sentence[sizeof err->text];
    memcpy(sentence, err->text, sizeof sentence);
    va_list args;
    va_start(args, format);
    int n = vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    size_t left = n >= 0 && (size_t)n < sizeof err->text ? sizeof err->text - (size_t)n : 0;
    if (left > 2)
        snprintf(err->text + n, left, ": %.*s", (int)(left - 3), sentence);
    return false;
}

void fatal_set_hook(void (*hook)(void))
{
    fatal_hook = hook;
}

void fatal(const char *format, ...)
{
    if (!atomic_flag_test_and_set(&fatal_started) && fatal_hook)
        fatal_hook();
    va_list args;
    va_start(args, format);
    fputs("attnscope: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    _Exit(EXIT_CODE_NO_DEVICE);
}
