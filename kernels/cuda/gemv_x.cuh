/* The rows of x of a gemv in shared memory, and the sums that their norm takes. */
#ifndef ATTNSCOPE_KERNELS_CUDA_GEMV_X_CUH
#define ATTNSCOPE_KERNELS_CUDA_GEMV_X_CUH

#include "kernels/cuda/gemv_order.cuh"

/* Moments of the rows of x, as far as they are needed before their last element is read. */
struct x_norm {
    float4 squares[GEMV_MAX_ROWS][WARPS / 4];  /* RMS norm: sums of squares, by warp */
    struct row_moments moments[GEMV_MAX_ROWS]; /* layer norm */
    float partial[MAX_WARPS];
};

static __device__ __forceinline__ bool is_rms(const struct row_norm *norm)
{
    return norm->present && !norm->layer;
}

/* Ends with the block in step. */
static __device__ __forceinline__ void layer_moments(const struct linear_call *call,
                                                     struct x_norm *norm)
{
    for (int row = 0; row < call->n_rows; row++) {
        struct row_moments moments = block_moments(call->x + (size_t)row * (size_t)call->w.n_in,
                                                   call->w.n_in, &call->norm, norm->partial);
        if (threadIdx.x == 0)
            norm->moments[row] = moments;
    }
    __syncthreads();
}

/* RMS norm's factor of a row's sums, after load_x; 1 without it. */
static __device__ __forceinline__ float row_scale(const struct linear_call *call,
                                                  const struct x_norm *norm, int row)
{
    static_assert(WARPS == 8, "two times four sums");
    if (!is_rms(&call->norm))
        return 1;
    const float4 a = norm->squares[row][0], b = norm->squares[row][1];
    float squares = ((a.x + a.y) + (a.z + a.w)) + ((b.x + b.y) + (b.z + b.w));
    return rsqrtf(squares / (float)call->w.n_in + call->norm.eps);
}

/* Float4 of x in shared memory that holds columns 4i .. 4i + 3 of a pass: a lane's columns are
 * apart by WARP float4, so that lanes read without bank conflicts.  x_place(i + THREADS) is
 * x_place(i) + THREADS. */
template <typename T> static __device__ __forceinline__ int x_place(unsigned i)
{
    constexpr unsigned QUARTERS = PER_PIECE<T> / 4; /* float4 per lane and piece */
    static_assert(THREADS % (WARP * QUARTERS) == 0, "whole pieces");
    unsigned piece = i / (WARP * QUARTERS), in = i % (WARP * QUARTERS);
    return (int)((piece * QUARTERS + in % QUARTERS) * WARP + in / QUARTERS);
}

/* Columns of a pass over a row, in float4: a thread has every THREADS-th. */
struct x_columns {
    int first;     /* of the pass */
    int n;         /* of the pass's tiles */
    int n_present; /* of them, in the matrix */
};

template <typename T, int ROWS>
static __device__ __forceinline__ struct x_columns x_columns_of(const struct gemv_job *job,
                                                                int tile_begin, int tile_end)
{
    struct x_columns columns;
    columns.first = tile_begin * (WIDTH<T, ROWS> / 4);
    columns.n = (tile_end - tile_begin) * (WIDTH<T, ROWS> / 4);
    columns.n_present = min(columns.n, job->call.w.n_in / 4 - columns.first);
    return columns;
}

static __device__ __forceinline__ float4 times(float4 a, float4 b)
{
    return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w);
}

static __device__ __forceinline__ float dot(float4 a, float4 b)
{
    return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
}

/* RMS norm's weights to where load_x puts row 0; nothing without RMS norm.  They are constants, and
 * may have far to come when x is near. */
template <typename T>
static __device__ __forceinline__ void load_norm_weight(const struct row_norm *norm,
                                                        struct x_columns columns, float4 *x)
{
    const float4 *from = (const float4 *)norm->weight + columns.first + threadIdx.x;
    x += x_place<T>(threadIdx.x);
    if (is_rms(norm))
#pragma unroll 4
        for (int i = 0; i < columns.n_present - (int)threadIdx.x; i += THREADS)
            x[i] = from[i];
}

/* Layer norm of a row's columns into shared memory. */
template <typename T>
static __device__ __forceinline__ void
load_layered(float4 *x, const float4 *from, struct x_columns columns, const struct row_norm *norm,
             struct row_moments m)
{
    const float4 *weights = (const float4 *)norm->weight + columns.first;
    const float4 *biases = (const float4 *)norm->bias + columns.first;
#pragma unroll 1
    for (int i = threadIdx.x; i < columns.n_present; i += THREADS) {
        const float4 v = from[columns.first + i];
        const float4 b = norm->bias ? biases[i] : make_float4(0, 0, 0, 0);
        const float4 unit = make_float4((v.x - m.mean) * m.scale, (v.y - m.mean) * m.scale,
                                        (v.z - m.mean) * m.scale, (v.w - m.mean) * m.scale);
        const float4 a = times(unit, weights[i]);
        x[x_place<T>(i)] = make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
    }
}

/* Rows of x, as they are or times RMS norm's weights, which lie where row 0 goes; adds to
 * squares [ROWS] those of this thread's columns.   from: row 0's;  x: rows `stride` float4 apart */
template <typename T, int ROWS>
static __device__ __forceinline__ void load_weighted(float4 *x, int stride, const float4 *from,
                                                     struct x_columns columns,
                                                     const struct linear_call *call, float *squares)
{
    constexpr int AT_ONCE = ROWS == 1 ? 4 : ROWS == 2 ? 2 : 1;
    const bool rms = is_rms(&call->norm);
    const int row_length = call->w.n_in / 4, n = columns.n_present - (int)threadIdx.x;
    from += columns.first + (int)threadIdx.x;
    x += x_place<T>(threadIdx.x);
#pragma unroll 1
    for (int first = 0; first < n; first += AT_ONCE * THREADS) {
        float4 v[AT_ONCE][ROWS];
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++)
#pragma unroll
            for (int row = 0; row < ROWS; row++)
                if (first + j * THREADS < n && row < call->n_rows)
                    v[j][row] = from[(size_t)row * row_length + first + j * THREADS];
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++) {
            float4 *to = x + first + j * THREADS, weight = make_float4(1, 1, 1, 1);
            if (first + j * THREADS >= n)
                break;
            if (rms)
                weight = *to;
#pragma unroll
            for (int row = 0; row < ROWS; row++)
                if (row < call->n_rows) {
                    squares[row] += dot(v[j][row], v[j][row]);
                    to[row * stride] = times(v[j][row], weight);
                }
        }
    }
}

/* A pass's columns of every row into shared memory, zero beyond the matrix.  load_norm_weight has
 * run.  squares [ROWS]: this thread's so far, which are added up when `counts`. */
template <typename T, int ROWS>
static __device__ __forceinline__ void load_x(const struct gemv_job *job, struct x_columns columns,
                                              bool counts, float4 *x, float *squares,
                                              struct x_norm *norm)
{
    const struct linear_call *call = &job->call;
    const int stride = job->pass_tiles * (WIDTH<T, ROWS> / 4);
    const float4 *from = (const float4 *)call->x;
    if (call->norm.present && call->norm.layer) {
        for (int row = 0; row < call->n_rows; row++)
            load_layered<T>(x + row * stride, from + (size_t)row * (call->w.n_in / 4), columns,
                            &call->norm, norm->moments[row]);
    } else {
        load_weighted<T, ROWS>(x, stride, from, columns, call, squares);
    }
    if (columns.n_present < columns.n || call->n_rows < ROWS)
#pragma unroll 1
        for (int row = 0; row < ROWS; row++)
#pragma unroll 1
            for (int i = (row < call->n_rows ? columns.n_present : 0) + (int)threadIdx.x;
                 i < columns.n; i += THREADS)
                x[row * stride + x_place<T>(i)] = make_float4(0, 0, 0, 0);
    if (!is_rms(&call->norm) || !counts)
        return;
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
        const float sum = warp_sum(squares[row]);
        if (threadIdx.x % WARP == 0)
            ((float *)norm->squares[row])[threadIdx.x / WARP] = sum;
    }
}

#endif
