/* The arena: small pieces share 64 KiB blocks, a large piece is a block of its own, so that it can
 * be grown. */
#include "engine/text/jinja_arena.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"

#define BLOCK_BYTES ((size_t)64 * 1024)
#define LARGE_BYTES ((size_t)16 * 1024)
#define ALIGNMENT sizeof(max_align_t)

struct jinja_block {
    struct jinja_block *older, *newer;
    size_t used, capacity;
    max_align_t data[];
};

void jinja_raise(struct jinja_trap *trap, const char *format, ...)
{
    char text[sizeof trap->err->text];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fail(trap->err, "%s: chat template, line %d: %s", trap->name, trap->line, text);
    longjmp(trap->escape, 1);
}

void jinja_arena_init(struct jinja_arena *arena, size_t limit_bytes, struct jinja_trap *trap)
{
    *arena = (struct jinja_arena){.limit_bytes = limit_bytes, .trap = trap};
}

void jinja_arena_free(struct jinja_arena *arena)
{
    for (struct jinja_block *block = arena->blocks; block;) {
        struct jinja_block *older = block->older;
        free(block);
        block = older;
    }
    arena->blocks = NULL;
    arena->n_bytes = 0;
}

/* Counts n more bytes against the limit. */
static void charge(struct jinja_arena *arena, size_t n)
{
    if (n > arena->limit_bytes - arena->n_bytes)
        jinja_raise(arena->trap, "the template needs more than %zu MiB of memory, the limit",
                    arena->limit_bytes >> 20);
    arena->n_bytes += n;
}

static struct jinja_block *add_block(struct jinja_arena *arena, size_t capacity)
{
    charge(arena, capacity);
    struct jinja_block *block = malloc(sizeof *block + capacity);
    if (!block)
        jinja_raise(arena->trap, "out of memory: %zu bytes were wanted", capacity);
    *block = (struct jinja_block){.older = arena->blocks, .capacity = capacity};
    if (arena->blocks)
        arena->blocks->newer = block;
    arena->blocks = block;
    return block;
}

static size_t round_up(struct jinja_arena *arena, size_t n)
{
    if (n > arena->limit_bytes)
        charge(arena, n);
    return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static void *take(struct jinja_arena *arena, size_t n)
{
    if (n >= LARGE_BYTES) {
        /* Goes behind the block in use, which keeps its free room. */
        struct jinja_block *current = arena->blocks;
        struct jinja_block *own = add_block(arena, n);
        own->used = n;
        if (current && current->used < current->capacity) {
            own->older = current->older;
            own->newer = current;
            if (own->older)
                own->older->newer = own;
            current->older = own;
            current->newer = NULL;
            arena->blocks = current;
        }
        return own->data;
    }
    struct jinja_block *block = arena->blocks;
    if (!block || block->capacity - block->used < n)
        block = add_block(arena, BLOCK_BYTES);
    void *piece = (char *)block->data + block->used;
    block->used += n;
    return piece;
}

void *jinja_alloc(struct jinja_arena *arena, size_t n)
{
    n = round_up(arena, n);
    return memset(take(arena, n), 0, n);
}

void *jinja_alloc_array(struct jinja_arena *arena, size_t n, size_t size)
{
    size_t n_bytes;
    if (!size_mul(&n_bytes, n, size))
        n_bytes = SIZE_MAX;
    return jinja_alloc(arena, n_bytes);
}

/* Extends a block that one large piece has to itself. */
static void *grow_own_block(struct jinja_arena *arena, void *old, size_t new_n)
{
    struct jinja_block *block =
        (struct jinja_block *)((char *)old - offsetof(struct jinja_block, data));
    charge(arena, new_n - block->capacity);
    struct jinja_block *moved = realloc(block, sizeof *block + new_n);
    if (!moved)
        jinja_raise(arena->trap, "out of memory: %zu bytes were wanted", new_n);
    moved->used = moved->capacity = new_n;
    if (moved->older)
        moved->older->newer = moved;
    if (moved->newer)
        moved->newer->older = moved;
    else
        arena->blocks = moved;
    return moved->data;
}

void *jinja_grow(struct jinja_arena *arena, void *old, size_t old_n, size_t new_n)
{
    old_n = old ? round_up(arena, old_n) : 0;
    new_n = round_up(arena, new_n);
    if (new_n <= old_n)
        return old;
    if (old_n >= LARGE_BYTES)
        return grow_own_block(arena, old, new_n);
    void *moved = take(arena, new_n);
    if (old_n)
        memcpy(moved, old, old_n);
    return moved;
}
