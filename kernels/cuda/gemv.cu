/* Few rows times a weight matrix: bound by reading the weights, which are read once.
 *
 * A block owns a run of groups of weight rows and its warps share them tile by tile: a tile is the
 * same WIDTH columns of the GROUP rows of a group.  In the order of (group, tile) warp i takes
 * tiles i, i + WARPS, ..., so that all warps have the same to do whatever the shape, and a block
 * reads a few rows of device memory from end to end.  A warp streams its tiles through its own ring
 * of stages, without a word to the others, and begins with the ring before the rows of x exist
 * (dependency_wait): weights are constants.  x lies in shared memory, already times the norm's
 * weight; RMS norm's scale is applied to the finished sums.
 *
 * Sums: a lane adds up its columns of a group's rows; the warp adds its lanes when it leaves the
 * group, into its own line of `partial`; when all groups of a segment are done, thread t adds the
 * lines of output t in order and finishes it.  A segment is as many groups as have an output for
 * every thread.  Where x is too large for shared memory, a segment is passed over several times
 * with a part of the columns each. */
#include "kernels/cuda/gemv_order.cuh"

/* --- x ---------------------------------------------------------------------------------------- */

/* Moments of the rows of x, as far as they are needed before their last element is read. */
struct x_norm {
    float squares[WARPS][GEMV_MAX_ROWS];       /* RMS norm: sums of squares, by warp */
    struct row_moments moments[GEMV_MAX_ROWS]; /* layer norm */
    float partial[MAX_WARPS];
};

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

/* Float4 of x in shared memory that holds columns 4i .. 4i + 3 of a pass: a lane's columns are
 * apart by WARP float4, so that lanes read without bank conflicts. */
template <typename T> static __device__ __forceinline__ int x_place(unsigned i)
{
    constexpr unsigned QUARTERS = PER_PIECE<T> / 4; /* float4 per lane and piece */
    unsigned piece = i / (WARP * QUARTERS), in = i % (WARP * QUARTERS);
    return (int)((piece * QUARTERS + in % QUARTERS) * WARP + in / QUARTERS);
}

static __device__ __forceinline__ float4 times(float4 a, float4 b)
{
    return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w);
}

/* Columns k .. k + 3 of a row of x, times RMS norm's weight or 1 if that is NULL; adds their
 * squares. */
static __device__ __forceinline__ float4 weighted(const float *x, const float *weight, int k,
                                                  float *squares)
{
    float4 v = *(const float4 *)(x + k), g = make_float4(1, 1, 1, 1);
    if (weight)
        g = *(const float4 *)(weight + k);
    *squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
    return times(v, g);
}

/* The same columns after layer norm. */
static __device__ __forceinline__ float4 layered(const struct linear_call *call, const float *x,
                                                 int k, struct row_moments m)
{
    float4 v = *(const float4 *)(x + k), b = make_float4(0, 0, 0, 0);
    v = make_float4((v.x - m.mean) * m.scale, (v.y - m.mean) * m.scale, (v.z - m.mean) * m.scale,
                    (v.w - m.mean) * m.scale);
    v = times(v, *(const float4 *)(call->norm.weight + k));
    if (call->norm.bias)
        b = *(const float4 *)(call->norm.bias + k);
    return make_float4(v.x + b.x, v.y + b.y, v.z + b.z, v.w + b.w);
}

/* Columns [tile_begin, tile_end) tiles of every row into shared memory, zero beyond the matrix.
 * squares [ROWS]: this thread's sums so far, which go on only with the block's first segment. */
template <typename T, int ROWS>
static __device__ __forceinline__ void load_x(const struct gemv_job *job, const struct walk *at,
                                              bool first_segment, float4 *x, float *squares,
                                              struct x_norm *norm)
{
    const struct linear_call *call = &job->call;
    const int k = at->tile_begin * WIDTH<T, ROWS>, n_in = call->w.n_in;
    const int n = (at->tile_end - at->tile_begin) * (WIDTH<T, ROWS> / 4);
    const int n_present = min(n, (n_in - k) / 4);
    const bool layer = call->norm.present && call->norm.layer;
#pragma unroll
    for (int row = 0; row < ROWS; row++, x += job->pass_tiles * (WIDTH<T, ROWS> / 4)) {
        const float *from = call->x + (size_t)row * (size_t)n_in;
        int i = threadIdx.x;
        float sum = 0;
        if (row < call->n_rows && layer) {
#pragma unroll 1
            for (; i < n_present; i += THREADS)
                x[x_place<T>(i)] = layered(call, from, k + 4 * i, norm->moments[row]);
        } else if (row < call->n_rows) {
#pragma unroll 4
            for (; i < n_present; i += THREADS)
                x[x_place<T>(i)] = weighted(from, call->norm.weight, k + 4 * i, &sum);
        }
#pragma unroll 1
        for (; i < n; i += THREADS)
            x[x_place<T>(i)] = make_float4(0, 0, 0, 0);
        squares[row] += first_segment ? sum : 0.0f;
        sum = warp_sum(squares[row]);
        if (threadIdx.x % WARP == 0)
            norm->squares[threadIdx.x / WARP][row] = sum;
    }
}

/* --- Products --------------------------------------------------------------------------------- */

/* Elements 4 half .. 4 half + 3 of a piece of weights. */
static __device__ __forceinline__ float4 widened(uint4 raw, int half, __nv_bfloat16)
{
    uint32_t a = half ? raw.z : raw.x, b = half ? raw.w : raw.y;
    return make_float4(__uint_as_float(a << 16), __uint_as_float(a & 0xFFFF0000u),
                       __uint_as_float(b << 16), __uint_as_float(b & 0xFFFF0000u));
}

static __device__ __forceinline__ float4 widened(uint4 raw, int half, __half)
{
    uint32_t a = half ? raw.z : raw.x, b = half ? raw.w : raw.y;
    float2 low = __half22float2(*(const __half2 *)&a), high = __half22float2(*(const __half2 *)&b);
    return make_float4(low.x, low.y, high.x, high.y);
}

static __device__ __forceinline__ float4 widened(uint4 raw, int, float)
{
    return make_float4(__uint_as_float(raw.x), __uint_as_float(raw.y), __uint_as_float(raw.z),
                       __uint_as_float(raw.w));
}

/* Zeroes what a stage holds beyond the matrix: columns n_valid and up. */
template <typename T, int ROWS>
static __device__ __forceinline__ void clear_tail(char *stage, int n_valid)
{
    const int lane = threadIdx.x % WARP;
    for (int piece = 0; piece < PIECES<ROWS>; piece++)
        for (int r = 0; r < GROUP<ROWS>; r++)
            if ((piece * WARP + lane) * PER_PIECE<T> >= n_valid)
                *(uint4 *)(stage + r * LINE_BYTES<ROWS> + (piece * WARP + lane) * 16) =
                    make_uint4(0, 0, 0, 0);
    ring_stored();
}

/* sums [GROUP, ROWS] += the lane's columns of a tile.   stage [GROUP, LINE_BYTES];  x: the tile's
 * columns of row 0, rows `stride` float4 apart */
template <typename T, int ROWS>
static __device__ __forceinline__ void multiply(float *sums, const char *stage, const float4 *x,
                                                int stride)
{
    constexpr int QUARTERS = PER_PIECE<T> / 4;
    const int lane = threadIdx.x % WARP;
    const uint4 *w = (const uint4 *)stage + lane;
    x += lane;
#pragma unroll
    for (int piece = 0; piece < PIECES<ROWS>; piece++) {
        uint4 raw[GROUP<ROWS>];
#pragma unroll
        for (int r = 0; r < GROUP<ROWS>; r++)
            raw[r] = w[r * (LINE_BYTES<ROWS> / 16) + piece * WARP];
#pragma unroll
        for (int quarter = 0; quarter < QUARTERS; quarter++) {
            float4 xs[ROWS];
#pragma unroll
            for (int row = 0; row < ROWS; row++)
                xs[row] = x[row * stride + (piece * QUARTERS + quarter) * WARP];
#pragma unroll
            for (int r = 0; r < GROUP<ROWS>; r++) {
                const float4 a = widened(raw[r], quarter, T());
#pragma unroll
                for (int row = 0; row < ROWS; row++) {
                    const float4 b = xs[row];
                    float *sum = sums + r * ROWS + row;
                    if (ROWS <= 2) /* few sums: short chains, to be added up */
                        *sum += a.x * b.x + a.y * b.y + (a.z * b.z + a.w * b.w);
                    else
                        *sum = fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, *sum))));
                }
            }
        }
    }
}

/* Sums over the warp of N values per lane, N a power of two up to WARP, by halving what each lane
 * still carries: value [lane / (WARP / N)] in every lane. */
template <int N, int OFFSET = WARP / 2>
static __device__ __forceinline__ float warp_sum_of(float *values)
{
    if constexpr (N == 1 && OFFSET == 0) {
        return values[0];
    } else if constexpr (N == 1) {
        values[0] += __shfl_xor_sync(0xffffffffu, values[0], OFFSET);
        return warp_sum_of<1, OFFSET / 2>(values);
    } else {
        const bool upper = threadIdx.x & OFFSET;
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            const float given = upper ? values[i] : values[i + N / 2];
            const float kept = upper ? values[i + N / 2] : values[i];
            values[i] = kept + __shfl_xor_sync(0xffffffffu, given, OFFSET);
        }
        return warp_sum_of<N / 2, OFFSET / 2>(values);
    }
}

/* line [GROUP, ROWS] (shared memory) += the warp's sums, which become zero. */
template <int ROWS> static __device__ __forceinline__ void leave_group(float *sums, float *line)
{
    constexpr int N = GROUP<ROWS> * ROWS, AT_ONCE = N < WARP ? N : WARP;
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int first = 0; first < N; first += AT_ONCE) {
        float sum = warp_sum_of<AT_ONCE>(sums + first);
        if (lane % (WARP / AT_ONCE) == 0)
            line[first + lane / (WARP / AT_ONCE)] += sum;
    }
#pragma unroll
    for (int i = 0; i < N; i++)
        sums[i] = 0;
}

/* --- Outputs ---------------------------------------------------------------------------------- */

/* What thread t makes of column t of a segment. */
struct output {
    bool active;
    float *y;
    int row;                     /* of x */
    float before, bias, bias_up; /* fetched while the sums are made */
};

template <int ROWS>
static __device__ __forceinline__ struct output output_of(const struct gemv_job *job,
                                                          const struct walk *at)
{
    const struct linear_call *call = &job->call;
    struct output out = {};
    int row = threadIdx.x % ROWS, r = threadIdx.x / ROWS;
    int group = at->group_begin + r / GROUP<ROWS>, in_group = r % GROUP<ROWS>;
    int index =
        job->pairs ? group * (GROUP<ROWS> / 2) + in_group / 2 : group * GROUP<ROWS> + in_group;
    out.row = row;
    out.active = row < call->n_rows && group < at->group_end && index < call->n_y &&
                 !(job->pairs && in_group % 2);
    if (!out.active)
        return out;
    out.y = call->y + (size_t)row * (size_t)call->n_y + index;
    out.before = call->add ? *out.y : 0.0f;
    if (call->w.bias) {
        out.bias = call->w.bias[index];
        out.bias_up = job->pairs ? call->w.bias[index + call->n_y] : 0.0f;
    }
    return out;
}

/* Sum of a column's lines, in order; they become zero.   partial [WARPS, n_columns] */
static __device__ __forceinline__ float take_column(float *partial, int n_columns, int column)
{
    float sum = 0;
    for (int warp = 0; warp < WARPS; warp++) {
        sum += partial[warp * n_columns + column];
        partial[warp * n_columns + column] = 0;
    }
    return sum;
}

template <int ROWS>
static __device__ __forceinline__ void finish(const struct gemv_job *job, const struct output *out,
                                              float *partial, const struct x_norm *norm)
{
    const struct linear_call *call = &job->call;
    if (!out->active)
        return;
    float scale = 1;
    if (call->norm.present && !call->norm.layer) {
        float squares = 0;
        for (int warp = 0; warp < WARPS; warp++)
            squares += norm->squares[warp][out->row];
        scale = rsqrtf(squares / (float)call->w.n_in + call->norm.eps);
    }
    int column = threadIdx.x;
    float value = take_column(partial, job->n_columns, column) * scale + out->bias;
    if (job->pairs)
        value = silu(value) *
                (take_column(partial, job->n_columns, column + ROWS) * scale + out->bias_up);
    else
        value = activated(value, call->activation) + out->before;
    *out->y = value;
}

/* --- The kernel ------------------------------------------------------------------------------- */

/* Shared memory: rings [WARPS, n_stages, STAGE_BYTES], x [ROWS, pass_tiles, WIDTH] float, partial
 * [n_buffers, WARPS, n_columns] float. */
template <typename T, int ROWS>
static __global__ void __launch_bounds__(THREADS, ROWS <= 2 ? 2 : 1)
    gemv_kernel(const __grid_constant__ struct gemv_job job)
{
    extern __shared__ __align__(128) char shared[];
    __shared__ uint64_t barrier_memory[WARPS][MAX_STAGES];
    __shared__ struct x_norm norm;
    const int warp = threadIdx.x / WARP, n_stages = job.n_stages;
    const int segment_groups = job.n_columns / (GROUP<ROWS> * ROWS);
    char *ring = shared + kept(warp * n_stages * STAGE_BYTES<ROWS>);
    float4 *x = (float4 *)(shared + WARPS * n_stages * STAGE_BYTES<ROWS>);
    const int x_stride = job.pass_tiles * (WIDTH<T, ROWS> / 4);
    float *partial = (float *)(x + ROWS * x_stride);
    const uint32_t ring_at = shared_address(ring), barriers = shared_address(barrier_memory[warp]);
    const uint64_t policy = ring_policy(job.read_once);

    ring_open(barriers, n_stages);
    struct walk sheet = walk_begin(&job, segment_groups), now = sheet;
    const int first_group = sheet.group;
    walk_on(&now, &job, segment_groups, warp);
    struct walk ahead = now;
#pragma unroll 1
    for (int stage = 0; stage < n_stages && ahead.group < ahead.block_end; stage++) {
        fetch<T, ROWS>(&job, &ahead, ring_at + stage * STAGE_BYTES<ROWS>, barriers + 8 * stage,
                       policy);
        walk_on(&ahead, &job, segment_groups, WARPS);
    }
    dependency_release();
    for (int i = threadIdx.x; i < job.n_buffers * WARPS * job.n_columns; i += THREADS)
        partial[i] = 0;
    dependency_wait();
    if (job.call.norm.present && job.call.norm.layer)
        layer_moments(&job.call, &norm);

    const bool several_passes = job.pass_tiles < job.n_tiles;
    float squares[ROWS] = {}, sums[GROUP<ROWS> * ROWS] = {};
    struct output out = {};
    int stage = 0, buffer = 0;
    uint32_t parity = 0;
    for (; sheet.group < sheet.block_end; next_sheet(&sheet, &job, segment_groups)) {
        if (several_passes && sheet.sheet > 0)
            __syncthreads(); /* the last pass's x is no longer read */
        if (several_passes || sheet.sheet == 0) {
            load_x<T, ROWS>(&job, &sheet, sheet.group_begin == first_group, x, squares, &norm);
            __syncthreads();
        }
        if (sheet.tile_begin == 0)
            out = output_of<ROWS>(&job, &sheet);
        float *lines = partial + buffer * WARPS * job.n_columns;
        float *line = lines + warp * job.n_columns;
#pragma unroll 1
        while (now.sheet == sheet.sheet) {
            const int group = now.group, n_valid = job.call.w.n_in - now.tile * WIDTH<T, ROWS>;
            char *from = ring + stage * STAGE_BYTES<ROWS>;
            const uint32_t barrier = barriers + 8 * stage;
            ring_wait(barrier, parity);
            if (n_valid < WIDTH<T, ROWS>)
                clear_tail<T, ROWS>(from, n_valid);
            multiply<T, ROWS>(sums, from, x + (now.tile - sheet.tile_begin) * (WIDTH<T, ROWS> / 4),
                              x_stride);
            __syncwarp();
            if (ahead.group < ahead.block_end) {
                fetch<T, ROWS>(&job, &ahead, ring_at + stage * STAGE_BYTES<ROWS>, barrier, policy);
                walk_on(&ahead, &job, segment_groups, WARPS);
            }
            if (++stage == n_stages) {
                stage = 0;
                parity ^= 1;
            }
            walk_on(&now, &job, segment_groups, WARPS);
            if (now.group != group || now.sheet != sheet.sheet)
                leave_group<ROWS>(sums, line + (group - sheet.group_begin) * GROUP<ROWS> * ROWS);
        }
        if (sheet.tile_end == job.n_tiles) {
            __syncthreads();
            finish<ROWS>(&job, &out, lines, &norm);
            buffer = (buffer + 1) % job.n_buffers;
        }
    }
}

/* --- Launch ----------------------------------------------------------------------------------- */

/* Shared memory that a block fills. */
static const size_t SHARED_WANTED = (size_t)112 << 10;
/* Of x, per block, where one or two rows leave room for a neighbour, and where more do not. */
static const size_t X_WANTED_FEW = (size_t)64 << 10, X_WANTED_MANY = (size_t)128 << 10;
static const size_t STATIC_SHARED = 2048; /* at most, of the kernel's own variables */
/* A matrix of that many bytes does not stay in the second-level cache until the next token. */
static const size_t READ_ONCE_BYTES = (size_t)8 << 20;

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Divides the matrix and a block's shared memory; returns the bytes of the latter. */
template <typename T, int ROWS>
static size_t divide(struct gemv_job *job, int n_blocks, size_t most)
{
    const size_t stage_bytes = (size_t)WARPS * STAGE_BYTES<ROWS>;
    const size_t tile_bytes = (size_t)ROWS * WIDTH<T, ROWS> * sizeof(float);
    int block_groups = ceil_div(job->n_groups, n_blocks);
    int segment_groups = THREADS / (GROUP<ROWS> * ROWS);
    if (segment_groups > block_groups)
        segment_groups = block_groups;
    job->n_columns = segment_groups * GROUP<ROWS> * ROWS;
    job->n_buffers = block_groups > segment_groups ? 2 : 1;
    size_t partial_bytes = (size_t)job->n_buffers * WARPS * job->n_columns * sizeof(float);

    size_t x_bytes = min_size(ROWS <= 2 ? X_WANTED_FEW : X_WANTED_MANY,
                              most - partial_bytes - MIN_STAGES * stage_bytes);
    job->n_tiles = ceil_div(job->call.w.n_in, WIDTH<T, ROWS>);
    job->pass_tiles = (int)min_size(x_bytes / tile_bytes, (size_t)job->n_tiles);
    x_bytes = job->pass_tiles * tile_bytes;

    size_t wanted = ROWS <= 2 ? min_size(SHARED_WANTED, most) : most;
    job->n_stages = MIN_STAGES;
    while (job->n_stages < MAX_STAGES &&
           x_bytes + partial_bytes + (size_t)(job->n_stages + 1) * stage_bytes <= wanted)
        job->n_stages++;
    return x_bytes + partial_bytes + (size_t)job->n_stages * stage_bytes;
}

template <typename T, int ROWS>
static void launch(struct device *dev, const struct linear_call *call)
{
    struct gemv_job job = {};
    job.call = *call;
    job.pairs = call->activation == ACTIVATION_SWIGLU;
    job.n_groups =
        job.pairs ? ceil_div(call->n_y, GROUP<ROWS> / 2) : ceil_div(call->w.n_out, GROUP<ROWS>);
    job.read_once = (size_t)call->w.n_out * (size_t)call->w.n_in * sizeof(T) >= READ_ONCE_BYTES;
    int n_blocks = job.n_groups < dev->n_sms ? job.n_groups : dev->n_sms;
    size_t n_bytes =
        divide<T, ROWS>(&job, n_blocks, dev->properties.sharedMemPerBlockOptin - STATIC_SHARED);
    n_bytes = cuda_one_per_sm(dev, n_bytes);
    cuda_allow_shared(dev, gemv_kernel<T, ROWS>, n_bytes);
    cuda_launch(dev, gemv_kernel<T, ROWS>, n_blocks, THREADS, n_bytes, job);
}

template <typename T> static void launch_rows(struct device *dev, const struct linear_call *call)
{
    if (call->n_rows == 1)
        launch<T, 1>(dev, call);
    else if (call->n_rows == 2)
        launch<T, 2>(dev, call);
    else if (call->n_rows <= 4)
        launch<T, 4>(dev, call);
    else
        launch<T, 8>(dev, call);
}

bool linear_gemv_takes(const struct linear_call *call)
{
    return call->w.n_in % (COPY_BYTES / (int)dtype_bytes(call->w.dtype)) == 0 &&
           is_aligned(call->w.w, COPY_BYTES) && is_aligned(call->x, COPY_BYTES) &&
           is_aligned(call->norm.weight, COPY_BYTES) && is_aligned(call->norm.bias, COPY_BYTES);
}

void linear_run_gemv(struct device *dev, const struct linear_call *call)
{
    assert(call->n_rows > 0 && call->n_rows <= GEMV_MAX_ROWS && linear_gemv_takes(call));
    if (call->w.dtype == DTYPE_BF16)
        launch_rows<__nv_bfloat16>(dev, call);
    else if (call->w.dtype == DTYPE_F16)
        launch_rows<__half>(dev, call);
    else
        launch_rows<float>(dev, call);
}
