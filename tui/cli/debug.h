/* The kinds of `attnscope debug`. */
#ifndef ATTNSCOPE_TUI_CLI_DEBUG_H
#define ATTNSCOPE_TUI_CLI_DEBUG_H

#include "tui/cli/options.h"

extern const struct cli_command command_debug_tokens;
extern const struct cli_command command_debug_template;
extern const struct cli_command command_debug_logits;
extern const struct cli_command command_debug_attention;

/* The folder of the model named on the command line; NULL names the embedded one.  The caller
 * frees it. */
char *cli_model_folder(const char *name, struct error *err);

#endif
