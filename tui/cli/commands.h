/* The commands of the program, in the order of its --help.  NULL-terminated. */
#ifndef ATTNSCOPE_TUI_CLI_COMMANDS_H
#define ATTNSCOPE_TUI_CLI_COMMANDS_H

#include "tui/cli/options.h"

extern const struct cli_command command_workbench; /* without a word of its own */
extern const struct cli_command command_ask;
extern const struct cli_command command_resume;
extern const struct cli_command command_models;
extern const struct cli_command command_stacks;
extern const struct cli_command command_calibrate;
extern const struct cli_command command_doctor;
extern const struct cli_command command_bench;
extern const struct cli_command command_debug;
extern const struct cli_command command_completion;
extern const struct cli_command command_manual;

extern const struct cli_command *const commands[];

#endif
