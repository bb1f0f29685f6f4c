/* attnscope: picks the command and runs it.  Everything else lies in the commands. */
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "tui/cli/commands.h"

const struct cli_command *const commands[] = {
    &command_ask,
    &command_resume,
    &command_models,
    &command_stacks,
    &command_calibrate,
    &command_doctor,
    &command_bench,
    &command_debug,
    &command_completion,
    &command_manual,
    NULL,
};

static void show_usage(FILE *to)
{
    fputs("attnscope: compare dense and sparse attention in language models\n\n"
          "  attnscope [MODEL] [OPTION]...   the workbench; MODEL is a folder, org/name in the\n"
          "                                  HuggingFace cache, or nothing: the embedded model\n",
          to);
    for (const struct cli_command *const *c = commands; *c; c++)
        fprintf(to, "  attnscope %-21s %s\n", (*c)->name, (*c)->summary);
    fputs("\nEach command has --help.  Exit codes:\n", to);
    for (const struct cli_exit_code *c = cli_exit_codes; c->text; c++)
        fprintf(to, "  %-6s %s\n", c->number, c->text);
}

int main(int argc, char **argv)
{
    /* LC_NUMERIC stays "C": JSON and numbers on the command line use a point. */
    setlocale(LC_CTYPE, "");
    signal(SIGPIPE, SIG_IGN); /* a closed pipe and a file-size limit are errors of the write */
    signal(SIGXFSZ, SIG_IGN);
    if (argc > 1) {
        if (strcmp(argv[1], "--version") == 0) {
            puts("attnscope " ATTNSCOPE_VERSION);
            return EXIT_CODE_OK;
        }
        if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
            show_usage(stdout);
            return EXIT_CODE_OK;
        }
        for (const struct cli_command *const *c = commands; *c; c++)
            if (strcmp(argv[1], (*c)->name) == 0)
                return (*c)->run(argc - 1, argv + 1);
    }
    return command_workbench.run(argc, argv);
}
