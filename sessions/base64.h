/* Base64 (RFC 4648, with padding): raw bytes in JSON lines. */
#ifndef ATTNSCOPE_SESSIONS_BASE64_H
#define ATTNSCOPE_SESSIONS_BASE64_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/buf.h"

void base64_encode(struct buf *out, const void *bytes, size_t n);
/* False if text is not base64; out then holds nothing more than before. */
bool base64_decode(struct buf *out, const char *text);

#endif
