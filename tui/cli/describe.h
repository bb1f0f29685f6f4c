/* The maskers described from their schema: for a terminal of 80 columns, and as docs/maskers.md. */
#ifndef ATTNSCOPE_TUI_CLI_DESCRIBE_H
#define ATTNSCOPE_TUI_CLI_DESCRIBE_H

#include "engine/base/buf.h"

/* Appends every masker of the table. */
void describe_maskers_text(struct buf *out);
void describe_maskers_markdown(struct buf *out);

#endif
