/* Host memory: see the header. */
#include "engine/base/memory.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/error.h"

bool size_mul(size_t *out, size_t a, size_t b)
{
    return !__builtin_mul_overflow(a, b, out);
}

void *try_calloc(size_t n, size_t size)
{
    return calloc(n ? n : 1, size ? size : 1);
}

void *xcalloc(size_t n, size_t size)
{
    void *p = try_calloc(n, size);
    if (!p)
        fatal("out of memory: could not allocate %zu x %zu bytes", n, size);
    return p;
}

void *xrealloc(void *p, size_t n, size_t size)
{
    size_t n_bytes;
    void *moved = NULL;
    if (size_mul(&n_bytes, n ? n : 1, size ? size : 1))
        moved = realloc(p, n_bytes);
    if (!moved)
        fatal("out of memory: could not allocate %zu x %zu bytes", n, size);
    return moved;
}

char *xstrndup(const char *s, size_t n)
{
    size_t len = strnlen(s, n);
    char *copy = xcalloc(len + 1, 1);
    memcpy(copy, s, len);
    return copy;
}

char *xmemdup0(const void *bytes, size_t n)
{
    char *copy = xrealloc(NULL, n + 1, 1);
    if (n)
        memcpy(copy, bytes, n);
    copy[n] = '\0';
    return copy;
}

char *xstrdup(const char *s)
{
    return xstrndup(s, strlen(s));
}

void *array_grow(void *items, size_t *capacity, size_t n_wanted, size_t item_size)
{
    if (n_wanted <= *capacity)
        return items;
    size_t grown = *capacity ? *capacity + *capacity / 2 : 16;
    if (grown < n_wanted)
        grown = n_wanted;
    *capacity = grown;
    return xrealloc(items, grown, item_size);
}
