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
 * with a part of the columns each.  Matrices of very many rows need no sums over warps:
 * gemv_whole.cuh. */
#include "kernels/cuda/gemv_tile.cuh"
#include "kernels/cuda/gemv_whole.cuh"
#include "kernels/cuda/gemv_x.cuh"

/* --- Sums ------------------------------------------------------------------------------------ */

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
    const float scale = row_scale(call, norm, out->row);
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

/* Blocks that a multiprocessor has registers for: of one row, so many that two later operations can
 * begin their rings. */
template <int ROWS> constexpr int SM_BLOCKS = ROWS == 1 ? 3 : ROWS == 2 ? 2 : 1;

/* Shared memory: rings [WARPS, n_stages, STAGE_BYTES], x [ROWS, pass_tiles, WIDTH] float, partial
 * [n_buffers, WARPS, n_columns] float. */
template <typename T, int ROWS>
static __global__ void __launch_bounds__(THREADS, SM_BLOCKS<ROWS>)
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
    const uint64_t policy = cache_policy(job.read_once);

    ring_open(barriers, n_stages);
    struct walk sheet = walk_begin(&job, segment_groups, 0);
    struct walk now = walk_begin(&job, segment_groups, warp), ahead = now;
    const int first_group = sheet.group;
#pragma unroll 1
    for (int stage = 0; stage < n_stages && ahead.group < ahead.block_end; stage++) {
        fetch<T, ROWS>(&job, ahead.group, ahead.tile, ring_at + stage * STAGE_BYTES<ROWS>,
                       barriers + 8 * stage, policy);
        walk_on(&ahead, &job, segment_groups);
    }
    dependency_release();
    for (int i = threadIdx.x; i < job.n_buffers * WARPS * job.n_columns; i += THREADS)
        partial[i] = 0;
    struct x_columns columns = x_columns_of<T, ROWS>(&job, 0, job.pass_tiles);
    load_norm_weight<T>(&job.call.norm, columns, x);
    dependency_wait();
    if (job.call.norm.present && job.call.norm.layer)
        layer_moments(&job.call, &norm);

    const bool several_passes = job.pass_tiles < job.n_tiles;
    float squares[ROWS] = {}, sums[GROUP<ROWS> * ROWS] = {};
    struct output out = {};
    int stage = 0, buffer = 0;
    uint32_t parity = 0;
    for (; sheet.group < sheet.block_end; next_sheet(&sheet, &job, segment_groups)) {
        if (several_passes && sheet.sheet > 0) {
            __syncthreads(); /* the last pass's x is no longer read */
            columns = x_columns_of<T, ROWS>(&job, sheet.tile_begin, sheet.tile_end);
            load_norm_weight<T>(&job.call.norm, columns, x);
        }
        if (several_passes || sheet.sheet == 0)
            load_x<T, ROWS>(&job, columns, sheet.group_begin == first_group, x, squares, &norm);
        if (sheet.tile_begin == 0)
            out = output_of<ROWS>(&job, &sheet);
        if (several_passes || sheet.sheet == 0)
            __syncthreads();
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
                fetch<T, ROWS>(&job, ahead.group, ahead.tile, ring_at + stage * STAGE_BYTES<ROWS>,
                               barrier, policy);
                walk_on(&ahead, &job, segment_groups);
            }
            if (++stage == n_stages) {
                stage = 0;
                parity ^= 1;
            }
            walk_on(&now, &job, segment_groups);
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

/* Shared memory that a block fills: two such have room on a multiprocessor, and one beside a block
 * that cuda_one_per_sm has made large. */
static const size_t SHARED_WANTED = (size_t)108 << 10;
/* Of x, per block, where one or two rows leave room for a neighbour, and where more do not. */
static const size_t X_WANTED_FEW = (size_t)64 << 10, X_WANTED_MANY = (size_t)128 << 10;
static const size_t STATIC_SHARED = 2048; /* at most, of the kernel's own variables */
/* A matrix of that many bytes does not stay in the second-level cache until the next token. */
static const size_t READ_ONCE_BYTES = (size_t)8 << 20;
/* A matrix of that many bytes may have no two blocks on one multiprocessor, which would work much
 * longer than the others.  Of smaller ones most is in the rings before x is there, if those find
 * room beside the operation before.  What is added follows such an operation, one of whose blocks
 * is on every multiprocessor and leaves room for one more. */
static const size_t ALONE_BYTES = (size_t)24 << 20;
/* Short rows, whose sums over warps would cost more than those over lanes, and groups per warp, so
 * many that it does not matter whether one has one more. */
enum { WHOLE_TILES = 2, WHOLE_GROUPS = 24 };

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Divides the matrix and a block's shared memory; returns the bytes of the latter, `wanted` if that
 * will do.  whole: for gemv_whole_kernel. */
template <typename T, int ROWS>
static size_t divide(struct gemv_job *job, int n_blocks, bool whole, size_t wanted, size_t most)
{
    const size_t stage_bytes = (size_t)WARPS * STAGE_BYTES<ROWS>;
    const size_t tile_bytes = (size_t)ROWS * WIDTH<T, ROWS> * sizeof(float);
    job->block_groups = job->n_groups / n_blocks;
    job->n_longer_blocks = job->n_groups % n_blocks;
    int block_groups = ceil_div(job->n_groups, n_blocks);
    int segment_groups = THREADS / (GROUP<ROWS> * ROWS);
    if (segment_groups > block_groups)
        segment_groups = block_groups;
    job->n_columns = whole ? 0 : segment_groups * GROUP<ROWS> * ROWS;
    job->n_buffers = block_groups > segment_groups ? 2 : 1;
    size_t partial_bytes = (size_t)job->n_buffers * WARPS * job->n_columns * sizeof(float);

    size_t x_bytes = min_size(ROWS <= 2 ? X_WANTED_FEW : X_WANTED_MANY,
                              most - partial_bytes - MIN_STAGES * stage_bytes);
    job->n_tiles = ceil_div(job->call.w.n_in, WIDTH<T, ROWS>);
    job->step_groups = WARPS / job->n_tiles;
    job->step_tiles = WARPS % job->n_tiles;
    job->pass_tiles = (int)min_size(x_bytes / tile_bytes, (size_t)job->n_tiles);
    x_bytes = job->pass_tiles * tile_bytes;

    int warp_tiles = ceil_div(block_groups * job->n_tiles, WARPS);
    job->n_stages = warp_tiles < MIN_STAGES ? warp_tiles : (int)MIN_STAGES;
    while (job->n_stages < MAX_STAGES && job->n_stages < warp_tiles &&
           x_bytes + partial_bytes + (size_t)(job->n_stages + 1) * stage_bytes <= wanted)
        job->n_stages++;
    return x_bytes + partial_bytes + (size_t)job->n_stages * stage_bytes;
}

/* Whether each warp takes whole groups. */
template <typename T, int ROWS> static bool is_whole(const struct gemv_job *job, int n_blocks)
{
    return ROWS == 1 && job->call.w.n_in <= WHOLE_TILES * WIDTH<T, ROWS> &&
           job->n_groups >= n_blocks * WARPS * WHOLE_GROUPS;
}

template <typename T, int ROWS>
static void launch(struct device *dev, const struct linear_call *call)
{
    const size_t most = dev->properties.sharedMemPerBlockOptin - STATIC_SHARED;
    struct gemv_job job = {};
    job.call = *call;
    job.pairs = call->activation == ACTIVATION_SWIGLU;
    job.n_groups =
        job.pairs ? ceil_div(call->n_y, GROUP<ROWS> / 2) : ceil_div(call->w.n_out, GROUP<ROWS>);
    size_t matrix_bytes = (size_t)call->w.n_out * (size_t)call->w.n_in * sizeof(T);
    job.read_once = matrix_bytes >= READ_ONCE_BYTES;
    bool alone = matrix_bytes >= ALONE_BYTES && !call->add;
    int n_blocks = job.n_groups < dev->n_sms ? job.n_groups : dev->n_sms;
    size_t wanted = alone ? cuda_one_per_sm(dev, SHARED_WANTED) : SHARED_WANTED;
    wanted = ROWS <= 2 ? min_size(wanted, most) : most;
    bool whole = is_whole<T, ROWS>(&job, n_blocks);
    size_t n_bytes = divide<T, ROWS>(&job, n_blocks, whole, wanted, most);
    void (*kernel)(struct gemv_job) = whole ? gemv_whole_kernel<T> : gemv_kernel<T, ROWS>;
    if (alone)
        n_bytes = cuda_one_per_sm(dev, n_bytes);
    cuda_allow_shared(dev, kernel, n_bytes);
    cuda_launch(dev, kernel, n_blocks, THREADS, n_bytes, job);
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
