/* Lists of ids on the command line: "1,2,3", or @FILE with the same text. */
#ifndef ATTNSCOPE_TUI_CLI_ID_LIST_H
#define ATTNSCOPE_TUI_CLI_ID_LIST_H

#include <stdbool.h>

#include "engine/base/error.h"
#include "engine/text/tokenizer.h"

/* Appends to out; blanks and brackets around the numbers are allowed. */
bool id_list_parse(const char *text, const char *option, struct token_list *out, struct error *err);

#endif
