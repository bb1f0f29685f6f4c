/* Names for a message: see the header. */
#include "engine/model/name_list.h"

#include <stdarg.h>
#include <stdio.h>

enum { SHOWN = 10, MAX_NAME = 200 };

void name_list_add(struct name_list *list, const char *format, ...)
{
    if (list->n++ >= SHOWN)
        return;
    char name[MAX_NAME];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    if (list->n > 1)
        buf_append_str(&list->text, ", ");
    buf_append_str(&list->text, name);
}

const char *name_list_text(struct name_list *list)
{
    if (list->n > SHOWN)
        buf_printf(&list->text, " and %zu more", list->n - SHOWN);
    return list->text.data ? list->text.data : "";
}

void name_list_free(struct name_list *list)
{
    buf_free(&list->text);
    *list = (struct name_list){0};
}
