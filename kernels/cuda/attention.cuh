/* What an attention call sees, computed on the device: kernels take struct attention by value and
 * read lengths and positions from the step it points to. */
#ifndef ATTNSCOPE_KERNELS_CUDA_ATTENTION_CUH
#define ATTNSCOPE_KERNELS_CUDA_ATTENTION_CUH

#include "kernels/cuda/cuda.cuh"

/* Keys [begin, end). */
struct key_range {
    int begin, end;
};

/* Numbers of a call, the same for all its rows. */
struct call_shape {
    int first_position; /* of row 0 */
    int n_context;      /* keys in the context segment, this call's rows included */
    int n_rows_total;   /* Q */
    int n_keys;         /* K */
};

static __device__ __forceinline__ struct call_shape call_shape(const struct attention *att)
{
    const struct step_state *step = att->step;
    struct call_shape shape;
    int before = step->n_context + step->n_tail;
    shape.n_rows_total = att->n_rows_total ? att->n_rows_total : att->n_rows;
    shape.first_position = before + att->row_offset;
    shape.n_context = step->n_context + (step->append_tail ? 0 : shape.n_rows_total);
    shape.n_keys = before + shape.n_rows_total;
    return shape;
}

/* Keys that a row sees; empty if the row is padding itself. */
static __device__ __forceinline__ struct key_range row_visible(const struct attention *att,
                                                               const struct call_shape *shape,
                                                               int row)
{
    int position = shape->first_position + row, begin = max(att->first_key, 0);
    if (att->window > 0)
        begin = max(begin, position - att->window + 1);
    struct key_range range = {begin, max(begin, position + 1)};
    return range;
}

/* Element offset of a key's row of K or V within its segment, and the segment. */
static __device__ __forceinline__ size_t key_offset(const struct attention *att,
                                                    const struct call_shape *shape, int kv_head,
                                                    int key, int *segment)
{
    *segment = key < shape->n_context ? KV_CONTEXT : KV_TAIL;
    int row = *segment == KV_CONTEXT ? key : key - shape->n_context;
    return ((size_t)kv_head * (size_t)att->kv.capacity[*segment] + (size_t)row) *
           (size_t)att->kv.head_dim;
}

#endif
