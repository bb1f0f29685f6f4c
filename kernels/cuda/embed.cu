/* Token (and position) embeddings: rows of a table as f32. */
#include "kernels/cuda/cuda.cuh"

enum { THREADS = 256 };

struct embed_job {
    float *x;
    struct linear table, positions; /* positions.w NULL: none */
    const int32_t *tokens;
    const struct step_state *step;
};

/* Element i of an array of the given type. */
static __device__ __forceinline__ float load_as_f32(const void *p, enum dtype dtype, size_t i)
{
    switch (dtype) {
    case DTYPE_F16:
        return to_f32(((const __half *)p)[i]);
    case DTYPE_BF16:
        return to_f32(((const __nv_bfloat16 *)p)[i]);
    default:
        return ((const float *)p)[i];
    }
}

/* A thread owns an element; grid (row, piece of the row). */
static __global__ void __launch_bounds__(THREADS) embed_kernel(struct embed_job job)
{
    dependency_release();
    dependency_wait();
    int i = blockIdx.y * THREADS + threadIdx.x;
    size_t row = blockIdx.x, dim = (size_t)job.table.n_in;
    if (i >= job.table.n_in)
        return;
    float x = load_as_f32(job.table.w, job.table.dtype, (size_t)job.tokens[row] * dim + i);
    if (job.positions.w) {
        size_t position = (size_t)(job.step->n_context + job.step->n_tail) + row;
        x += load_as_f32(job.positions.w, job.positions.dtype, position * dim + i);
    }
    job.x[row * dim + i] = x;
}

void cuda_embed(struct device *dev, float *x, const struct linear *table,
                const struct linear *positions, const int32_t *tokens,
                const struct step_state *step, int n_rows)
{
    assert(!positions || positions->n_in == table->n_in);
    if (dev->failed || n_rows <= 0)
        return;
    struct embed_job job = {};
    job.x = x;
    job.table = *table;
    if (positions)
        job.positions = *positions;
    job.tokens = tokens;
    job.step = step;
    cuda_launch(dev, embed_kernel, dim3(n_rows, ceil_div(table->n_in, THREADS)), THREADS, 0, job);
}
