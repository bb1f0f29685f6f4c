/* Memory and errors of the template interpreter.
 *
 * A template is compiled into one arena and each rendering runs in another; both are freed as a
 * whole.  Because nothing else is owned, an error may leave from any depth: jinja_raise writes the
 * sentence and jumps to the one place that set the trap, as an exception does in the language that
 * templates were written for.  Nothing between the trap and the raise may hold a resource. */
#ifndef ATTNSCOPE_ENGINE_TEXT_JINJA_ARENA_H
#define ATTNSCOPE_ENGINE_TEXT_JINJA_ARENA_H

#include <setjmp.h>
#include <stddef.h>

#include "engine/base/error.h"

struct jinja_trap {
    jmp_buf escape;
    struct error *err;
    const char *name; /* of the template, for messages; borrowed */
    int line;         /* where the parser or the rendering is */
};

/* Writes "NAME: chat template, line N: ..." and jumps to the trap. */
void jinja_raise(struct jinja_trap *trap, const char *format, ...)
    __attribute__((format(printf, 2, 3), noreturn));

struct jinja_arena {
    struct jinja_block *blocks; /* newest first */
    size_t n_bytes, limit_bytes;
    struct jinja_trap *trap; /* raised when the limit or the machine's memory is reached */
};

void jinja_arena_init(struct jinja_arena *arena, size_t limit_bytes, struct jinja_trap *trap);
void jinja_arena_free(struct jinja_arena *arena);
/* Zeroed, aligned for any type; n may be 0. */
void *jinja_alloc(struct jinja_arena *arena, size_t n);
/* Room for n items of the given size. */
void *jinja_alloc_array(struct jinja_arena *arena, size_t n, size_t size);
/* Moves old [old_n bytes] into room for new_n >= old_n; the new part is not zeroed.  Large pieces
 * are extended in place where the allocator can, so that a growing string costs no garbage. */
void *jinja_grow(struct jinja_arena *arena, void *old, size_t old_n, size_t new_n);

#endif
