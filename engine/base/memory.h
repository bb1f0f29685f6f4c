/* Host memory: small allocations that cannot fail, and size arithmetic that cannot wrap. */
#ifndef ATTNSCOPE_ENGINE_BASE_MEMORY_H
#define ATTNSCOPE_ENGINE_BASE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

/* As calloc, realloc, strdup and strndup; on failure the program ends through fatal.  For sizes
 * that a program bounds.  What a file or a request sizes goes through try_calloc. */
void *xcalloc(size_t n, size_t size);
void *xrealloc(void *p, size_t n, size_t size);
char *xstrdup(const char *s);
char *xstrndup(const char *s, size_t n);
/* Copies n raw bytes, NULs among them too, and appends a NUL: for bytes whose length travels with
 * them, where xstrndup would stop at the first NUL.  bytes may be NULL if n is 0. */
char *xmemdup0(const void *bytes, size_t n);

/* NULL on failure or on overflow of n * size. */
void *try_calloc(size_t n, size_t size);

/* *out = a * b; false, with *out untouched, if that overflows. */
bool size_mul(size_t *out, size_t a, size_t b);

/* Grows a dynamic array so that it holds at least n_wanted items of the given size; *capacity
 * is in items.  Returns the (moved) array. */
void *array_grow(void *items, size_t *capacity, size_t n_wanted, size_t item_size);

#endif
