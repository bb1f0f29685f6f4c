/* `attnscope manual`: the manual page and the page of keys, from the program's tables. */
#include <string.h>

#include "tui/cli/commands.h"
#include "tui/cli/document.h"

static bool handle(void *user, const char *name, const char *value, struct error *err)
{
    (void)value;
    (void)err;
    *(bool *)user = name && !strcmp(name, "keys");
    return true;
}

static int run(int argc, char **argv)
{
    struct error err = {0};
    struct buf out = {0};
    bool keys = false;
    int code;
    if (!cli_parse(&command_manual, argc, argv, handle, &keys, &code))
        return code;
    if (keys)
        document_keys(&out);
    else
        document_manual(&out);
    bool ok = cli_write(out.data, out.len, &err);
    buf_free(&out);
    return ok ? EXIT_CODE_OK : cli_fail(&err);
}

const struct cli_command command_manual = {
    .name = "manual",
    .usage = "[--keys]",
    .summary = "the manual page, or all keys and actions as Markdown",
    .examples = "  attnscope manual > attnscope.1 && man ./attnscope.1\n",
    .options = (const struct cli_option[]){{"keys", NULL, "keys and actions, in Markdown"},
                                           {NULL, NULL, NULL}},
    .run = run,
};
