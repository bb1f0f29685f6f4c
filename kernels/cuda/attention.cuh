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

static __device__ __forceinline__ struct call_shape
call_shape_of(const struct attention *att, int n_context, int n_tail, int append_tail)
{
    struct call_shape shape;
    int before = n_context + n_tail;
    shape.n_rows_total = att->n_rows_total ? att->n_rows_total : att->n_rows;
    shape.first_position = before + att->row_offset;
    shape.n_context = n_context + (append_tail ? 0 : shape.n_rows_total);
    shape.n_keys = before + shape.n_rows_total;
    return shape;
}

/* Past L1, which may know the step from before dependency_wait. */
static __device__ __forceinline__ struct call_shape call_shape(const struct attention *att)
{
    const struct step_state *step = att->step;
    return call_shape_of(att, __ldcg(&step->n_context), __ldcg(&step->n_tail),
                         __ldcg(&step->append_tail));
}

/* Before dependency_wait call_shape gives what the step holds while operations that may change it
 * still run: nearly always what it will hold afterwards.  Such a guess serves to get ready with,
 * and to fetch rows of K and V that are older than the step; then it is checked. */
static __device__ __forceinline__ bool call_shape_same(const struct call_shape *a,
                                                       const struct call_shape *b)
{
    return a->first_position == b->first_position && a->n_context == b->n_context &&
           a->n_keys == b->n_keys;
}

/* The first lane's guess, in all lanes of the warp: each reads the step at its own time. */
static __device__ __forceinline__ struct call_shape call_shape_agreed(struct call_shape guess)
{
    guess.first_position = __shfl_sync(0xffffffffu, guess.first_position, 0);
    guess.n_context = __shfl_sync(0xffffffffu, guess.n_context, 0);
    guess.n_rows_total = __shfl_sync(0xffffffffu, guess.n_rows_total, 0);
    guess.n_keys = __shfl_sync(0xffffffffu, guess.n_keys, 0);
    return guess;
}

/* Whether a guess's keys lie within the cache. */
static __device__ __forceinline__ bool call_shape_fits(const struct call_shape *guess,
                                                       const struct attention *att)
{
    return guess->n_context <= att->kv.capacity[KV_CONTEXT] &&
           guess->n_keys - guess->n_context <= att->kv.capacity[KV_TAIL];
}

/* Keys that a row sees; empty if the row is padding itself. */
static __device__ __forceinline__ struct key_range
row_visible(const struct attention *att, const struct call_shape *shape, int row)
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
