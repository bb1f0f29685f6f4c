/* MagicPIG's index from the inside: what select_matches.cu reads of it.  index_tables.cu */
#ifndef ATTNSCOPE_KERNELS_CUDA_INDEX_TABLES_CUH
#define ATTNSCOPE_KERNELS_CUDA_INDEX_TABLES_CUH

#include "kernels/cuda/index_planes.cuh"

/* What a query is turned into, besides its codes [n_tables] of 64 bits, which follow it. */
struct table_query {
    double length; /* of q' before it is scaled to 1 */
    double offset; /* q' mean: q' (k - mean) = q' k - offset */
};

static __host__ __device__ __forceinline__ size_t query_bytes(int n_tables)
{
    return sizeof(struct table_query) + (size_t)n_tables * sizeof(uint64_t);
}

struct key_planes tables_planes(const struct key_index *index, int layer);

#endif
