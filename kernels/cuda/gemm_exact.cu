/* Any linear layer in f32 throughout, plainly: for parity, for f32 weights with many rows, and for
 * shapes that the fast ways do not take.
 *
 * A first kernel computes the moments of the rows' norm; then a block makes TILE outputs of TILE
 * rows from tiles of x (normalised as they are loaded) and w in shared memory, and a thread owns
 * SIDE x SIDE of them. */
#include "kernels/cuda/linear.cuh"

enum { TILE = 64, DEPTH = 16, SIDE = 4, THREADS = (TILE / SIDE) * (TILE / SIDE), PAD = 4 };

/* moments [n_rows]; a block owns a row. */
static __global__ void __launch_bounds__(THREADS)
    moments_kernel(struct row_moments *moments, const float *x, int n_in, struct row_norm norm)
{
    __shared__ float partial[MAX_WARPS];
    dependency_release();
    dependency_wait();
    struct row_moments mine =
        block_moments(x + (size_t)blockIdx.x * (size_t)n_in, n_in, &norm, partial);
    if (threadIdx.x == 0)
        moments[blockIdx.x] = mine;
}

/* Tiles are stored k by k, so that a thread reads its SIDE rows or outputs at once. */
struct tiles {
    float x[DEPTH][TILE + PAD];
    float w[2][DEPTH][TILE + PAD]; /* the second for SwiGLU's other half */
};

/* Elements [k, k + DEPTH) of rows [first, first + TILE) of the normalised x, zero beyond. */
static __device__ __forceinline__ void load_x(float (*tile)[TILE + PAD],
                                              const struct linear_call *call,
                                              const struct row_moments *moments, int first, int k)
{
    for (int i = threadIdx.x; i < TILE * DEPTH; i += THREADS) {
        int row = first + i / DEPTH, column = k + i % DEPTH;
        float value = 0;
        if (row < call->n_rows && column < call->w.n_in) {
            struct row_moments m = {0, 1};
            if (call->norm.present)
                m = moments[row];
            value = normalised(call->x[(size_t)row * (size_t)call->w.n_in + column], column, m,
                               &call->norm);
        }
        tile[i % DEPTH][i / DEPTH] = value;
    }
}

/* The same of rows [first, end) of w. */
template <typename T>
static __device__ __forceinline__ void load_w(float (*tile)[TILE + PAD], const T *w, int n_in,
                                              int first, int end, int k)
{
    for (int i = threadIdx.x; i < TILE * DEPTH; i += THREADS) {
        int row = first + i / DEPTH, column = k + i % DEPTH;
        tile[i % DEPTH][i / DEPTH] =
            row < end && column < n_in ? to_f32(w[(size_t)row * (size_t)n_in + column]) : 0.0f;
    }
}

/* sums [SIDE rows, SIDE outputs] += products of a pair of tiles. */
static __device__ __forceinline__ void multiply(float (*sums)[SIDE], float (*x)[TILE + PAD],
                                                float (*w)[TILE + PAD])
{
    const int row = threadIdx.x / (TILE / SIDE) * SIDE, output = threadIdx.x % (TILE / SIDE) * SIDE;
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
        float a[SIDE], b[SIDE];
#pragma unroll
        for (int i = 0; i < SIDE; i++) {
            a[i] = x[k][row + i];
            b[i] = w[k][output + i];
        }
#pragma unroll
        for (int i = 0; i < SIDE; i++)
#pragma unroll
            for (int j = 0; j < SIDE; j++)
                sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
    }
}

static __device__ __forceinline__ void store(const struct linear_call *call, int row, int output,
                                             float sum, float up)
{
    if (row >= call->n_rows || output >= call->n_y)
        return;
    const float *bias = call->w.bias;
    float *y = call->y + (size_t)row * (size_t)call->n_y + output;
    float value = sum + (bias ? bias[output] : 0.0f);
    if (call->activation == ACTIVATION_SWIGLU)
        *y = silu(value) * (up + (bias ? bias[output + call->n_y] : 0.0f));
    else
        *y = activated(value, call->activation) + (call->add ? *y : 0.0f);
}

/* Grid (tiles of outputs, tiles of rows). */
template <typename T, bool PAIRS>
static __global__ void __launch_bounds__(THREADS)
    exact_kernel(const __grid_constant__ struct linear_call call, const struct row_moments *moments)
{
    __shared__ struct tiles tiles;
    const int first_row = blockIdx.y * TILE, first_output = blockIdx.x * TILE;
    const T *w = (const T *)call.w.w;
    float sums[SIDE][SIDE] = {}, up[SIDE][SIDE] = {};
    dependency_release();
    dependency_wait();
    for (int k = 0; k < call.w.n_in; k += DEPTH) {
        load_x(tiles.x, &call, moments, first_row, k);
        load_w(tiles.w[0], w, call.w.n_in, first_output, call.n_y, k);
        if (PAIRS)
            load_w(tiles.w[1], w, call.w.n_in, first_output + call.n_y, 2 * call.n_y, k);
        __syncthreads();
        multiply(sums, tiles.x, tiles.w[0]);
        if (PAIRS)
            multiply(up, tiles.x, tiles.w[1]);
        __syncthreads();
    }
    const int row = first_row + threadIdx.x / (TILE / SIDE) * SIDE;
    const int output = first_output + threadIdx.x % (TILE / SIDE) * SIDE;
#pragma unroll
    for (int i = 0; i < SIDE; i++)
#pragma unroll
        for (int j = 0; j < SIDE; j++)
            store(&call, row + i, output + j, sums[i][j], up[i][j]);
}

template <typename T>
static void launch(struct device *dev, const struct linear_call *call,
                   const struct row_moments *moments)
{
    dim3 grid(ceil_div(call->n_y, TILE), ceil_div(call->n_rows, TILE));
    if (call->activation == ACTIVATION_SWIGLU)
        cuda_launch(dev, exact_kernel<T, true>, grid, THREADS, 0, *call, moments);
    else
        cuda_launch(dev, exact_kernel<T, false>, grid, THREADS, 0, *call, moments);
}

void linear_run_exact(struct device *dev, const struct linear_call *call)
{
    struct row_moments *moments = NULL;
    if (call->norm.present) {
        moments = (struct row_moments *)cuda_workspace(dev, WORKSPACE_LINEAR,
                                                       call->n_rows * sizeof *moments);
        if (!moments)
            return;
        cuda_launch(dev, moments_kernel, call->n_rows, THREADS, 0, moments, call->x, call->w.n_in,
                    call->norm);
    }
    if (call->w.dtype == DTYPE_BF16)
        launch<__nv_bfloat16>(dev, call, moments);
    else if (call->w.dtype == DTYPE_F16)
        launch<__half>(dev, call, moments);
    else
        launch<float>(dev, call, moments);
}

size_t linear_exact_bytes(const struct workspace_need *need)
{
    return need->max_rows * sizeof(struct row_moments);
}
