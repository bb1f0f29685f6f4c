/* Command-line options from one table per command: parsing through getopt_long, and the --help
 * text from the same table. */
#ifndef ATTNSCOPE_TUI_CLI_OPTIONS_H
#define ATTNSCOPE_TUI_CLI_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/base/error.h"
#include "engine/base/json.h"
#include "engine/run/engine.h"

struct cli_option {
    const char *name; /* "max-tokens"; NULL ends a table */
    const char *arg;  /* "N" for help; NULL: a switch */
    const char *help;
};

struct cli_command {
    const char *name;     /* "ask" */
    const char *usage;    /* what follows the name: "[MODEL] --question Q [OPTION]..." */
    const char *summary;  /* one line */
    const char *examples; /* lines, shown first in --help; may be NULL */
    const struct cli_option *options;
    bool shows_figures; /* --help ends with the definitions of the figures it prints */
    int max_positional;
    /* argv is what is left after the command's own options. Returns the exit code. */
    int (*run)(int argc, char **argv);
};

/* What cli_parse hands over, one call per option or positional argument (name NULL). */
typedef bool cli_handler(void *user, const char *name, const char *value, struct error *err);

/* Parses argv[1..]; argv[0] is the command's name.  True: go on.  False: *code is what to exit
 * with, after --help was printed, or one sentence on stderr about what is wrong. */
bool cli_parse(const struct cli_command *command, int argc, char **argv, cli_handler *handle,
               void *user, int *code);

/* What the program's exit codes mean; text NULL ends the table. */
struct cli_exit_code {
    const char *number, *text;
};
extern const struct cli_exit_code cli_exit_codes[];

/* Options that several commands share: backend, threads, kv, isa.  CLI_ENGINE_OPTIONS goes into a
 * command's table; cli_engine_option returns true if it took the option (err->text set: wrong). */
#define CLI_ENGINE_OPTIONS                                                                         \
    {"backend", "auto|cpu|cuda", "the backend (auto: the first that works)"},                      \
        {"threads", "N", "processor threads (default: all)"},                                      \
        {"kv", "bf16|f32", "type of the KV cache; f32 also computes in f32 throughout"},           \
    {                                                                                              \
        "isa", "auto|reference|avx2|avx512", "the newest instruction set to use"                   \
    }

void cli_engine_defaults(struct engine_options *out);
bool cli_engine_option(struct engine_options *out, const char *name, const char *value,
                       struct error *err, bool *ok);

/* A whole number within [min, max]; err names the option and the range. */
bool cli_int(const char *name, const char *value, int64_t min, int64_t max, int64_t *out,
             struct error *err);
bool cli_real(const char *name, const char *value, double min, double max, double *out,
              struct error *err);
/* The index of value in choices (NULL-terminated). */
bool cli_choice(const char *name, const char *value, const char *const *choices, int *out,
                struct error *err);

/* Prints "attnscope: SENTENCE" on stderr, filtered for a terminal; returns err->code. */
int cli_fail(const struct error *err);
/* Appends an object as people read it: "name  value" lines. */
void cli_append_fields(struct buf *out, const struct json *object);
/* Writes text to stdout and flushes; false with err if stdout is closed or full. */
bool cli_write(const char *text, size_t n, struct error *err);

#endif
