/* The options that describe a request, shared by `ask` and the workbench. */
#ifndef ATTNSCOPE_TUI_CLI_REQUEST_ARGS_H
#define ATTNSCOPE_TUI_CLI_REQUEST_ARGS_H

#include <stdbool.h>

#include "engine/base/error.h"
#include "engine/run/request.h"

struct request_args {
    struct request *request;    /* owned */
    const char *sample;         /* a built-in sample's name, or NULL */
    const char *context_origin; /* the context's file as given, "-" for stdin, or NULL */
    bool baseline_given;
};

#define CLI_REQUEST_OPTIONS                                                                        \
    {"context", "FILE", "the text the questions are about; - for standard input"},                 \
        {"sample", "NAME", "a built-in context with questions: paris, needle-4k, facts-12k"},      \
        {"question", "Q", "a question; may be given several times"},                               \
        {"stack", "S", "a sparse lane: preset, file, JSON or short form; may be repeated"},        \
        {"baseline", "S", "lane 0, which the others are compared with (default: dense)"},          \
        {"max-tokens", "N", "tokens of an answer (default: the model's, else 128)"},               \
        {"forced", NULL, "feed every lane lane 0's tokens: agreement, KL"},                        \
        {"setup", "A|B", "B: question and answer sparse (default); A: only the answer"},           \
        {"seed", "N", "seed of all randomness (default 0)"},                                       \
        {"temperature", "T", "0 is greedy (default)"},                                             \
        {"top-p", "P", "nucleus sampling, above 0 to 1"},                                          \
        {"answer-prefix", "T", "text that starts the answer"},                                     \
        {"max-context", "N", "keep at most N tokens of the context"},                              \
        {"keep", "head|tail|middle", "the part of a too long context to keep"},                    \
    {                                                                                              \
        "no-probe", NULL, "do not measure recall and output error"                                 \
    }

void request_args_init(struct request_args *a);
void request_args_free(struct request_args *a);
/* True if name is one of these options; *ok is false, with err filled, if its value is wrong. */
bool request_args_option(struct request_args *a, const char *name, const char *value, bool *ok,
                         struct error *err);
/* Reads the context's file and fills in from the sample what was not given. */
bool request_args_complete(struct request_args *a, struct error *err);

#endif
