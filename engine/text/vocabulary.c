/* Tokens by id (a dense array, holes allowed) and by spelling (uthash). */
#include "engine/text/vocabulary.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"

#define uthash_malloc(n) xcalloc(1, n)
#define uthash_fatal(message) fatal("out of memory: %s", message)
#include <uthash.h>

/* Tokens and their texts come from blocks, so that a large vocabulary is a few allocations. */
#define BLOCK_BYTES ((size_t)1 << 18)

struct entry {
    struct token token;
    UT_hash_handle hh;
};

struct block {
    struct block *next;
    size_t used, capacity;
    max_align_t bytes[];
};

struct vocabulary {
    struct entry **by_id; /* [capacity], NULL for a hole */
    size_t capacity;
    int32_t id_end;
    struct entry *by_text; /* uthash */
    struct block *blocks;
};

struct vocabulary *vocabulary_new(void)
{
    return xcalloc(1, sizeof(struct vocabulary));
}

void vocabulary_free(struct vocabulary *v)
{
    if (!v)
        return;
    HASH_CLEAR(hh, v->by_text);
    while (v->blocks) {
        struct block *next = v->blocks->next;
        free(v->blocks);
        v->blocks = next;
    }
    free(v->by_id);
    free(v);
}

static void *allocate(struct vocabulary *v, size_t n)
{
    n = (n + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t);
    struct block *block = v->blocks;
    if (!block || block->capacity - block->used < n) {
        size_t capacity = n > BLOCK_BYTES ? n : BLOCK_BYTES;
        block = xcalloc(1, sizeof *block + capacity);
        block->capacity = capacity;
        block->next = v->blocks;
        v->blocks = block;
    }
    void *p = (char *)block->bytes + block->used;
    block->used += n;
    return p;
}

static void reserve_id(struct vocabulary *v, int32_t id)
{
    size_t old = v->capacity;
    v->by_id = array_grow(v->by_id, &v->capacity, (size_t)id + 1, sizeof *v->by_id);
    if (v->capacity > old)
        memset(v->by_id + old, 0, (v->capacity - old) * sizeof *v->by_id);
}

static struct entry *find_text(const struct vocabulary *v, const char *text, size_t n)
{
    struct entry *entry;
    HASH_FIND(hh, v->by_text, text, n, entry);
    return entry;
}

bool vocabulary_add(struct vocabulary *v, const char *text, int64_t id, bool in_model,
                    struct error *err)
{
    size_t n = strlen(text);
    if (id < 0 || id >= MAX_TOKEN_ID)
        return fail(err, "token \"%.60s\" has id %" PRId64 " (expected 0 to %d)", text, id,
                    MAX_TOKEN_ID - 1);
    if (n > MAX_TOKEN_BYTES)
        return fail(err, "token %" PRId64 " is %zu bytes long (expected at most %d)", id, n,
                    MAX_TOKEN_BYTES);
    const struct token *same = vocabulary_by_id(v, id);
    if (same)
        return fail(err, "id %" PRId64 " belongs to two tokens, \"%.60s\" and \"%.60s\"", id,
                    same->text, text);
    struct entry *twin = find_text(v, text, n);
    if (twin)
        return fail(err, "token \"%.60s\" has two ids, %d and %" PRId64, text, twin->token.id, id);

    char *copy = allocate(v, n + 1);
    memcpy(copy, text, n + 1);
    struct entry *entry = allocate(v, sizeof *entry);
    entry->token = (struct token){.text = copy,
                                  .decoded = copy,
                                  .n = (uint32_t)n,
                                  .n_decoded = (uint32_t)n,
                                  .id = (int32_t)id,
                                  .in_model = in_model,
                                  .added_at = -1};
    HASH_ADD_KEYPTR(hh, v->by_text, copy, n, entry);
    reserve_id(v, (int32_t)id);
    v->by_id[id] = entry;
    if (id >= v->id_end)
        v->id_end = (int32_t)id + 1;
    return true;
}

void vocabulary_set_added(struct vocabulary *v, int32_t id, int32_t added_at, bool special)
{
    v->by_id[id]->token.added_at = added_at;
    v->by_id[id]->token.special = special;
}

void vocabulary_set_decoded(struct vocabulary *v, int32_t id, const char *text, size_t n)
{
    char *copy = allocate(v, n + 1);
    if (n)
        memcpy(copy, text, n);
    v->by_id[id]->token.decoded = copy;
    v->by_id[id]->token.n_decoded = (uint32_t)n;
}

const struct token *vocabulary_by_id(const struct vocabulary *v, int64_t id)
{
    if (id < 0 || id >= v->id_end || !v->by_id[id])
        return NULL;
    return &v->by_id[id]->token;
}

const struct token *vocabulary_by_text(const struct vocabulary *v, const char *text, size_t n)
{
    const struct entry *entry = find_text(v, text, n);
    return entry ? &entry->token : NULL;
}

int32_t vocabulary_model_id(const struct vocabulary *v, const char *text, size_t n)
{
    const struct entry *entry = find_text(v, text, n);
    return entry && entry->token.in_model ? entry->token.id : -1;
}

int32_t vocabulary_id_end(const struct vocabulary *v)
{
    return v->id_end;
}
