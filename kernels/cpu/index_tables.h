/* MagicPIG's index from the inside: codes of keys by random planes (backend.h says what they mean).
 */
#ifndef ATTNSCOPE_KERNELS_CPU_INDEX_TABLES_H
#define ATTNSCOPE_KERNELS_CPU_INDEX_TABLES_H

#include "kernels/cpu/index.h"

static inline int tables_n_planes(const struct key_index_config *c)
{
    return c->tables.n_tables * c->tables.n_bits;
}

/* Bytes of a code: those of the smallest integer that has its bits. */
static inline int tables_code_bytes(const struct key_index_config *c)
{
    return c->tables.n_bits <= 16 ? 2 : c->tables.n_bits <= 32 ? 4 : 8;
}

static inline size_t tables_head(const struct key_index *index, int layer, int kv_head)
{
    return (size_t)layer * (size_t)index->config.n_kv_heads + (size_t)kv_head;
}

/* [n_tables, stride] of one KV head. */
static inline void *tables_codes(const struct key_index *index, int layer, int kv_head)
{
    size_t n = (size_t)index->config.tables.n_tables * index->stride;
    return (char *)index->codes +
           tables_head(index, layer, kv_head) * n * (size_t)tables_code_bytes(&index->config);
}

/* [head_dim] the mean key, zeros without one. */
static inline float *tables_mean(const struct key_index *index, int layer, int kv_head)
{
    return index->means + tables_head(index, layer, kv_head) * (size_t)index->config.head_dim;
}

/* [stride] lengths of keys less the mean. */
static inline float *tables_norms(const struct key_index *index, int layer, int kv_head)
{
    return index->norms + tables_head(index, layer, kv_head) * index->stride;
}

/* The n_tables codes of x [head_dim + 1], of any length. */
void tables_encode(const struct key_index *index, enum cpu_isa isa, int layer, const float *x,
                   float *products, uint64_t *codes);

#endif
