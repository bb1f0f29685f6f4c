/* Pairs of symbols to the rank and the result of their merge: one flat table.
 *
 * Open addressing in place of uthash: a text of a million characters asks several million times,
 * and a table without pointers answers from one cache line. */
#ifndef ATTNSCOPE_ENGINE_TEXT_MERGE_TABLE_H
#define ATTNSCOPE_ENGINE_TEXT_MERGE_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct merge {
    uint64_t pair; /* left << 32 | right; UINT64_MAX marks an empty place */
    uint32_t rank;
    int32_t result;
};

struct merge_table {
    struct merge *places; /* [mask + 1], a power of two */
    size_t mask;
    int shift;
};

/* Makes room for n merges; false if there is no memory. */
bool merge_table_init(struct merge_table *t, size_t n);
void merge_table_free(struct merge_table *t);
/* Adds a merge; a later one of the same pair wins. */
void merge_table_add(struct merge_table *t, int32_t left, int32_t right, uint32_t rank,
                     int32_t result);
/* NULL if the pair does not merge. */
const struct merge *merge_table_find(const struct merge_table *t, int32_t left, int32_t right);

#endif
