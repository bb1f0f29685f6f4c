/* A list of names for a message: the first ten, then how many more. */
#ifndef ATTNSCOPE_ENGINE_MODEL_NAME_LIST_H
#define ATTNSCOPE_ENGINE_MODEL_NAME_LIST_H

#include <stddef.h>

#include "engine/base/buf.h"

struct name_list {
    struct buf text;
    size_t n; /* names added, also those not shown */
};

void name_list_add(struct name_list *list, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* "a, b, c and 12 more"; "" when empty.  Owned by the list; call once, after the last add. */
const char *name_list_text(struct name_list *list);
void name_list_free(struct name_list *list);

#endif
