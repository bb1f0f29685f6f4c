/* Documents that are made from the program's own tables: the manual page and the page of keys. */
#ifndef ATTNSCOPE_TUI_CLI_DOCUMENT_H
#define ATTNSCOPE_TUI_CLI_DOCUMENT_H

#include "engine/base/buf.h"

/* docs/keys.md: every action by the place where its keys work. */
void document_keys(struct buf *out);
/* docs/attnscope.1, in the man macros. */
void document_manual(struct buf *out);

#endif
