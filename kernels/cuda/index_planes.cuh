/* Rows on sides of planes: what SOCKET's and MagicPIG's indexes have in common.  index_planes.cu
 *
 * The planes of a layer are columns, table by table and bit by bit; a row's product with a column
 * is summed over its elements in order, in f32. */
#ifndef ATTNSCOPE_KERNELS_CUDA_INDEX_PLANES_CUH
#define ATTNSCOPE_KERNELS_CUDA_INDEX_PLANES_CUH

#include "kernels/cuda/index.cuh"

enum {
    PLANES_QUERY_ROWS = 8, /* rows of queries that are coded together */
    PLANES_SLACK = 8       /* columns that may be read beyond the last */
};

/* The planes of one layer, and the codes of its keys. */
struct key_planes {
    const float *w; /* (device) [n_in, n_columns] */
    int n_in;       /* head_dim, and one more where keys are lifted */
    int n_tables, n_bits, n_columns;
    bool zero_counts; /* a product of 0 sets its bit */
    void *codes;      /* (device) [n_kv_heads, n_tables, stride] of code_bytes */
    int code_bytes;
    size_t stride;
    float *norms; /* (device) [n_kv_heads, stride] of values; of keys less the mean if lifted */
    bool lifted;  /* keys are centred and lengthened by a coordinate */
    const float *means;  /* (device) [n_kv_heads, head_dim], if lifted */
    const float *radii;  /* (device) [n_kv_heads], if lifted */
    const int32_t *from; /* (device) the first key to be coded anew, if lifted */
};

struct planes_job {
    struct attention att;
    struct key_planes planes;
    struct index_count count;
};

static inline int planes_padded(int n_columns)
{
    return ceil_div(n_columns + PLANES_SLACK, 32) * 32;
}

/* Floats of shared memory that a row takes: what reads elements by fours reads nothing else. */
static __host__ __device__ __forceinline__ int planes_row(int n_in)
{
    return (n_in + 15) / 16 * 16;
}

/* (device) from [n_rows, n_columns] with padded columns.  NULL: out of memory. */
float *planes_upload(struct device *dev, const float *from, size_t n_rows, int n_columns);

/* Codes the new keys of the call. */
void planes_add(struct device *dev, const struct planes_job *job);

/* --- Queries: one block each ------------------------------------------------------------------ */

/* The product of x [n_in], in shared memory, with a column. */
static __device__ __forceinline__ float plane_product(const struct key_planes *planes,
                                                      const float *x, int column)
{
    const float *w = planes->w + column;
    float sum = 0.0f;
    int d = 0;
    for (; d + 16 <= planes->n_in; d += 16) {
        float part[16];
#pragma unroll
        for (int j = 0; j < 16; j++)
            part[j] = w[(size_t)(d + j) * planes->n_columns];
#pragma unroll
        for (int j = 0; j < 16; j++)
            sum = fmaf(x[d + j], part[j], sum);
    }
    for (; d < planes->n_in; d++)
        sum = fmaf(x[d], w[(size_t)d * planes->n_columns], sum);
    return sum;
}

static __device__ __forceinline__ bool plane_sets(const struct key_planes *planes, float product)
{
    return planes->zero_counts ? product >= 0.0f : product > 0.0f;
}

/* The code of a table from the sides [n_tables * n_bits], a byte each. */
static __device__ __forceinline__ uint64_t plane_code(const struct key_planes *planes,
                                                      const uint8_t *sides, int table)
{
    uint64_t code = 0;
    for (int bit = 0; bit < planes->n_bits; bit++)
        code |= (uint64_t)sides[table * planes->n_bits + bit] << bit;
    return code;
}

#endif
