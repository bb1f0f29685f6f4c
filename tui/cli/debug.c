/* `attnscope debug tokens|template|logits|attention`: each part below the terminal on its own,
 * for tests and for looking closely. */
#include <stdio.h>
#include <string.h>

#include "tui/cli/commands.h"
#include "tui/cli/debug.h"

struct debug_kind {
    const struct cli_command *command;
};

static const struct debug_kind kinds[] = {
    {&command_debug_tokens},
    {&command_debug_template},
    {&command_debug_logits},
    {&command_debug_attention},
    {NULL},
};

static int run(int argc, char **argv)
{
    for (const struct debug_kind *k = kinds; argc > 1 && k->command; k++)
        if (strcmp(argv[1], strchr(k->command->name, ' ') + 1) == 0)
            return k->command->run(argc - 1, argv + 1);
    bool asked = argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0);
    FILE *to = asked ? stdout : stderr;
    for (const struct debug_kind *k = kinds; k->command; k++)
        fprintf(to, "  attnscope %s %s\n      %s\n", k->command->name, k->command->usage,
                k->command->summary);
    return asked ? EXIT_CODE_OK : EXIT_CODE_USAGE;
}

const struct cli_command command_debug = {
    .name = "debug",
    .usage = "tokens|template|logits|attention [OPTION]...",
    .summary = "look at tokens, templates, logits or one attention call",
    .options = (const struct cli_option[]){{NULL, NULL, NULL}},
    .run = run,
};
