/* A growing byte string.  data is always NUL-terminated once something was appended, but may
 * hold NUL bytes: len is the truth. */
#ifndef ATTNSCOPE_ENGINE_BASE_BUF_H
#define ATTNSCOPE_ENGINE_BASE_BUF_H

#include <stddef.h>
#include <stdint.h>

struct buf {
    char *data; /* [capacity], owned; NULL while empty */
    size_t len;
    size_t capacity;
};

void buf_append(struct buf *b, const void *bytes, size_t n);
void buf_append_str(struct buf *b, const char *s);
void buf_append_char(struct buf *b, char c);
void buf_append_utf8(struct buf *b, uint32_t code_point);
void buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Makes room for n more bytes (and the NUL) and returns where they go; the caller adds to len. */
char *buf_reserve(struct buf *b, size_t n);
void buf_clear(struct buf *b);
void buf_free(struct buf *b);
/* Hands the string to the caller, who frees it; b is empty after.  Never NULL. */
char *buf_take(struct buf *b);

#endif
