/* Pairs of symbols to merges: a flat hash table, at most half full. */
#include "engine/text/merge_table.h"

#include <stdlib.h>

#include "engine/base/memory.h"

#define EMPTY UINT64_MAX

bool merge_table_init(struct merge_table *t, size_t n)
{
    int bits = 4;
    while (((size_t)1 << bits) < 2 * n)
        bits++;
    t->mask = ((size_t)1 << bits) - 1;
    t->shift = 64 - bits;
    t->places = try_calloc(t->mask + 1, sizeof *t->places);
    if (!t->places)
        return false;
    for (size_t i = 0; i <= t->mask; i++)
        t->places[i].pair = EMPTY;
    return true;
}

void merge_table_free(struct merge_table *t)
{
    free(t->places);
    t->places = NULL;
}

/* The place of a pair, or the empty one where it would go. */
static struct merge *place_of(const struct merge_table *t, uint64_t pair)
{
    size_t i = (size_t)(pair * 0x9E3779B97F4A7C15u >> t->shift);
    while (t->places[i].pair != pair && t->places[i].pair != EMPTY)
        i = (i + 1) & t->mask;
    return &t->places[i];
}

static uint64_t pair_of(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

void merge_table_add(struct merge_table *t, int32_t left, int32_t right, uint32_t rank,
                     int32_t result)
{
    struct merge *place = place_of(t, pair_of(left, right));
    *place = (struct merge){pair_of(left, right), rank, result};
}

const struct merge *merge_table_find(const struct merge_table *t, int32_t left, int32_t right)
{
    const struct merge *place = place_of(t, pair_of(left, right));
    return place->pair == EMPTY ? NULL : place;
}
