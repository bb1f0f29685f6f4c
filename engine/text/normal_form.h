/* Unicode normal forms, in linear time, as the reference tokenizers know them. */
#ifndef ATTNSCOPE_ENGINE_TEXT_NORMAL_FORM_H
#define ATTNSCOPE_ENGINE_TEXT_NORMAL_FORM_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/buf.h"

/* Appends text [n], valid UTF-8, to out in NFC (compose), NFD, NFKC (compose, compat) or NFKD
 * (compat). */
void normal_form(struct buf *out, const char *text, size_t n, bool compose, bool compat);

#endif
