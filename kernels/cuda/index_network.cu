/* HashAttention's networks on the device.
 *
 * A block runs the rows of one head, a tile of them at a time: x and what a linear makes of it lie
 * in shared memory, input by input, and a thread has 8 rows by 8 outputs in registers.  A call of
 * few rows, as a step is, has a block per row and a thread per output, so that the sums, which are
 * chains of one product after another, are all there at once. */
#include "kernels/cuda/index_network.cuh"
#include "kernels/cuda/warp_matrix.cuh"

enum {
    NET_THREADS = 256,
    NET_ROWS = 8, /* of a thread */
    NET_MAX_TILE = 128,
    NET_MIN_TILE = 16,
    FEW_THREADS = 128,
    FEW_ROWS = 4 /* most rows that get blocks of their own */
};

/* --- Weights ----------------------------------------------------------------------------------
 */

/* Bytes of a linear's weights of one head, which follow one another in shared memory. */
static __host__ __device__ __forceinline__ size_t linear_bytes(const struct network *net, int i)
{
    return (size_t)net->width[i] * (size_t)network_padded(net->width[i + 1]) *
           (net->dtype[i] == DTYPE_BF16 ? sizeof(uint16_t) : sizeof(float));
}

static __host__ __device__ __forceinline__ size_t network_bytes(const struct network *net)
{
    size_t n = 0;
    for (int i = 0; i < net->n_linears; i++)
        n += linear_bytes(net, i);
    return n;
}

static __device__ __forceinline__ const char *head_weights(const struct network *net, int i,
                                                           int head)
{
    return (const char *)net->w[i] + (size_t)head * linear_bytes(net, i);
}

/* Starts to copy a head's weights to shared memory.  All threads. */
static __device__ __forceinline__ void fetch_weights(char *to, const struct network *net, int head)
{
    for (int i = 0; i < net->n_linears; i++) {
        const char *from = head_weights(net, i, head);
        int n_bytes = (int)linear_bytes(net, i);
        uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
        for (int offset = (int)threadIdx.x * 16; offset < n_bytes; offset += (int)blockDim.x * 16)
            copy_async_16(at + (uint32_t)offset, from + offset, true);
        to += n_bytes;
    }
    copy_async_commit();
}

static __device__ __forceinline__ float activated(float x, enum hash_activation activation)
{
    switch (activation) {
    case HASH_RELU:
        return x > 0.0f ? x : 0.0f;
    case HASH_GELU_ERF:
        return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case HASH_TANH:
        return tanhf(x);
    default:
        return x / (1.0f + expf(-x));
    }
}

/* --- Rows --------------------------------------------------------------------------------------
 */

/* Rows [begin, end) of a head: new keys by their numbers, or queries.  One thread of the launch
 * counts what the queries are for. */
template <bool KEYS>
static __device__ __forceinline__ struct key_range rows_of(const struct network_job *job,
                                                           const struct call_shape *shape)
{
    int kept;
    bool chosen;
    if (KEYS)
        return index_added(&job->count, shape, &kept);
    if (resolve_parts(&job->plan, &job->att, shape, 0, &chosen).full)
        return {0, 0};
    if (threadIdx.x + blockIdx.x + blockIdx.y == 0)
        index_count_scores(&job->att, index_seen_keys(&job->att, shape), job->score_bytes);
    return {0, job->att.n_rows};
}

static __device__ __forceinline__ const char *
key_row(const struct network_job *job, const struct call_shape *shape, int head, int key)
{
    int segment, group = job->att.n_heads / job->att.kv.n_kv_heads;
    size_t offset = key_offset(&job->att, shape, head / group, key, &segment);
    size_t each = job->att.kv.dtype == DTYPE_BF16 ? sizeof(uint16_t) : sizeof(float);
    return (const char *)job->att.kv.k[segment] + offset * each;
}

static __device__ __forceinline__ const float *query_row(const struct network_job *job, int head,
                                                         int row)
{
    return job->att.q + (size_t)row * (size_t)job->att.q_stride +
           (size_t)head * (size_t)job->att.kv.head_dim;
}

/* Element d of a row. */
template <bool KEYS>
static __device__ __forceinline__ float row_element(const struct network_job *job, const void *row,
                                                    int d)
{
    if (KEYS && job->att.kv.dtype == DTYPE_BF16)
        return to_f32(((const __nv_bfloat16 *)row)[d]);
    return ((const float *)row)[d];
}

/* x [8] = elements d .. d + 7 of an aligned row. */
template <bool KEYS>
static __device__ __forceinline__ void row_eight(float x[8], const struct network_job *job,
                                                 const void *row, int d)
{
    if (KEYS && job->att.kv.dtype == DTYPE_BF16) {
        uint4 k = *(const uint4 *)((const uint16_t *)row + d);
        uint32_t pair[4] = {k.x, k.y, k.z, k.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            x[2 * i] = __uint_as_float(pair[i] << 16);
            x[2 * i + 1] = __uint_as_float(pair[i] & 0xffff0000u);
        }
        return;
    }
    *(float4 *)x = *(const float4 *)((const float *)row + d);
    *(float4 *)(x + 4) = *(const float4 *)((const float *)row + d + 4);
}

/* --- Many rows ----------------------------------------------------------------------------------
 */

/* Where input (or output) c of rows 4 quad .. 4 quad + 3 lies in a tile: threads that write the
 * same rows of outputs 8 apart meet different banks. */
static __device__ __forceinline__ int tile_at(int tile, int c, int quad)
{
    int mask = min(tile / 4, 8) - 1;
    return c * tile + ((quad ^ (c >> 3 & mask)) << 2);
}

/* x = rows [first, end) of a head, zeros beyond.  All threads; a thread has one row. */
template <bool KEYS>
static __device__ __forceinline__ void load_tile(float *x, const struct network_job *job,
                                                 const struct call_shape *shape, int head,
                                                 int first, int end)
{
    int tile = job->tile, dim = job->net.width[0], row = (int)threadIdx.x % tile;
    int n_parts = NET_THREADS / tile, each = (dim + n_parts * 8 - 1) / (n_parts * 8) * 8;
    int begin_d = (int)threadIdx.x / tile * each, end_d = min(begin_d + each, dim);
    bool there = first + row < end;
    const void *from = NULL;
    if (there)
        from = KEYS ? (const void *)key_row(job, shape, head, first + row)
                    : (const void *)query_row(job, head, first + row);
    for (int d = begin_d; d < end_d; d += 8) {
        float eight[8] = {};
        if (there && job->aligned)
            row_eight<KEYS>(eight, job, from, d);
        else if (there)
            for (int i = 0; i < min(8, end_d - d); i++)
                eight[i] = row_element<KEYS>(job, from, d + i);
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (d + i < end_d)
                x[tile_at(tile, d + i, row / 4) + row % 4] = eight[i];
    }
}

static __device__ __forceinline__ void weights_eight(float w[8], const float *from)
{
    *(float4 *)w = *(const float4 *)from;
    *(float4 *)(w + 4) = *(const float4 *)(from + 4);
}

static __device__ __forceinline__ void weights_eight(float w[8], const __nv_bfloat16 *from)
{
    uint4 k = *(const uint4 *)from;
    uint32_t pair[4] = {k.x, k.y, k.z, k.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        w[2 * i] = __uint_as_float(pair[i] << 16);
        w[2 * i + 1] = __uint_as_float(pair[i] & 0xffff0000u);
    }
}

/* y = act(x w + b), 8 rows by 8 outputs at a time.  All threads. */
template <typename number>
static __device__ __forceinline__ void linear_tile(float *y, const float *x, const number *w,
                                                   const float *b, int n_in, int n_out, int tile,
                                                   bool last, enum hash_activation activation)
{
    int n_columns = n_out / HASH_COLUMNS, n_items = n_columns * (tile / NET_ROWS);
    for (int item = threadIdx.x; item < n_items; item += NET_THREADS) {
        int column = item % n_columns * HASH_COLUMNS, quad = item / n_columns * 2;
        float sum[HASH_COLUMNS][NET_ROWS];
#pragma unroll
        for (int c = 0; c < HASH_COLUMNS; c++)
#pragma unroll
            for (int r = 0; r < NET_ROWS; r++)
                sum[c][r] = b[column + c];
#pragma unroll 2
        for (int i = 0; i < n_in; i++) {
            float rows[NET_ROWS], weights[HASH_COLUMNS];
            *(float4 *)rows = *(const float4 *)(x + tile_at(tile, i, quad));
            *(float4 *)(rows + 4) = *(const float4 *)(x + tile_at(tile, i, quad + 1));
            weights_eight(weights, w + (size_t)i * n_out + column);
#pragma unroll
            for (int c = 0; c < HASH_COLUMNS; c++)
#pragma unroll
                for (int r = 0; r < NET_ROWS; r++)
                    sum[c][r] = fmaf(rows[r], weights[c], sum[c][r]);
        }
#pragma unroll
        for (int c = 0; c < HASH_COLUMNS; c++) {
#pragma unroll
            for (int r = 0; r < NET_ROWS; r++)
                sum[c][r] = last ? sum[c][r] : activated(sum[c][r], activation);
            *(float4 *)(y + tile_at(tile, column + c, quad)) = *(float4 *)sum[c];
            *(float4 *)(y + tile_at(tile, column + c, quad + 1)) = *(float4 *)(sum[c] + 4);
        }
    }
}

/* The signs of the outputs of rows [first, end) to words. */
static __device__ __forceinline__ void store_words(const float *y, const struct network_job *job,
                                                   int head, int first, int end)
{
    int tile = job->tile, n_bits = job->net.width[job->net.n_linears];
    for (int item = threadIdx.x; item < tile * job->n_words; item += NET_THREADS) {
        int row = item % tile, word = item / tile;
        uint32_t bits = 0;
        for (int i = word * 32; i < min(word * 32 + 32, n_bits); i++)
            bits |= (uint32_t)(y[tile_at(tile, i, row / 4) + row % 4] > 0.0f) << i % 32;
        if (first + row < end)
            job->words[(size_t)head * job->head_stride + (size_t)word * job->word_stride +
                       (size_t)(first + row) * job->row_stride] = bits;
    }
}

/* Runs a tile in x through the network, by way of y; returns the one with the outputs. */
static __device__ __forceinline__ float *run_tile(float *x, float *y, const char *resident,
                                                  const struct network_job *job, int head)
{
    const struct network *net = &job->net;
    for (int i = 0; i < net->n_linears; i++) {
        const char *w = job->resident ? resident : head_weights(net, i, head);
        int n_out = network_padded(net->width[i + 1]);
        const float *b = net->b[i] + (size_t)head * (size_t)n_out;
        bool last = i + 1 == net->n_linears;
        __syncthreads();
        if (net->dtype[i] == DTYPE_BF16)
            linear_tile(y, x, (const __nv_bfloat16 *)w, b, net->width[i], n_out, job->tile, last,
                        net->activation);
        else
            linear_tile(y, x, (const float *)w, b, net->width[i], n_out, job->tile, last,
                        net->activation);
        resident += linear_bytes(net, i);
        float *swap = x;
        x = y;
        y = swap;
    }
    __syncthreads();
    return x;
}

/* Floats of a tile, of the widest layer. */
static __host__ __device__ __forceinline__ int tile_floats(const struct network *net, int tile)
{
    int widest = 0;
    for (int i = 0; i <= net->n_linears; i++) {
        int width = network_padded(net->width[i]);
        widest = width > widest ? width : widest;
    }
    return widest * tile;
}

/* Block (share of the tiles, head). */
template <bool KEYS>
__global__ void __launch_bounds__(NET_THREADS, 1)
    network_kernel(const __grid_constant__ struct network_job job)
{
    extern __shared__ __align__(16) char net_shared[];
    int head = blockIdx.y;
    char *weights = net_shared;
    float *x = (float *)(net_shared + (job.resident ? network_bytes(&job.net) : 0));
    float *y = x + tile_floats(&job.net, job.tile);
    if (job.resident)
        fetch_weights(weights, &job.net, head);
    dependency_release();
    dependency_wait();
    struct call_shape shape = call_shape(&job.att);
    struct key_range rows = rows_of<KEYS>(&job, &shape);
    copy_async_wait<0>();
    for (int first = rows.begin + (int)blockIdx.x * job.tile; first < rows.end;
         first += (int)gridDim.x * job.tile) {
        load_tile<KEYS>(x, &job, &shape, head, first, rows.end);
        const float *out = run_tile(x, y, weights, &job, head);
        store_words(out, &job, head, first, rows.end);
        __syncthreads();
    }
    if (KEYS)
        index_finish(&job.count, &shape);
}

/* --- Few rows -----------------------------------------------------------------------------------
 */

static __device__ __forceinline__ float weight(const float *w)
{
    return *w;
}

static __device__ __forceinline__ float weight(const __nv_bfloat16 *w)
{
    return __bfloat162float(*w);
}

/* Output c of one row: the same sum as in linear_tile. */
template <typename number>
static __device__ __forceinline__ float linear_one(const float *x, const number *w, float b,
                                                   int n_in, int n_out)
{
    float sum = b;
    int i = 0;
    for (; i + 16 <= n_in; i += 16) {
        float weights[16];
#pragma unroll
        for (int j = 0; j < 16; j++)
            weights[j] = weight(w + (size_t)(i + j) * n_out);
#pragma unroll
        for (int j = 0; j < 16; j++)
            sum = fmaf(x[i + j], weights[j], sum);
    }
    for (; i < n_in; i++)
        sum = fmaf(x[i], weight(w + (size_t)i * n_out), sum);
    return sum;
}

static __device__ __forceinline__ float output_of(const struct network *net, int i, const char *w,
                                                  const float *x, int head, int c)
{
    int n_out = network_padded(net->width[i + 1]);
    float b = net->b[i][(size_t)head * n_out + c];
    if (net->dtype[i] == DTYPE_BF16)
        return linear_one(x, (const __nv_bfloat16 *)w + c, b, net->width[i], n_out);
    return linear_one(x, (const float *)w + c, b, net->width[i], n_out);
}

/* One row through the network.  All threads. */
static __device__ __forceinline__ void run_row(float (*x)[HASH_MAX_WIDTH], const char *resident,
                                               const struct network_job *job, int head, int row)
{
    const struct network *net = &job->net;
    int lane = threadIdx.x % WARP;
    for (int i = 0; i < net->n_linears; i++) {
        const char *w = job->resident ? resident : head_weights(net, i, head);
        bool last = i + 1 == net->n_linears;
        __syncthreads();
        for (int c = threadIdx.x; c < (net->width[i + 1] + WARP - 1) / WARP * WARP;
             c += FEW_THREADS) {
            float out = 0.0f;
            if (c < net->width[i + 1])
                out = output_of(net, i, w, x[i % 2], head, c);
            if (!last)
                x[(i + 1) % 2][c] = activated(out, net->activation);
            uint32_t bits = __ballot_sync(0xffffffffu, out > 0.0f);
            if (last && lane == 0)
                job->words[(size_t)head * job->head_stride + (size_t)(c / 32) * job->word_stride +
                           (size_t)row * job->row_stride] = bits;
        }
        resident += linear_bytes(net, i);
    }
}

/* Block (row, head); rows beyond the grid follow those before. */
template <bool KEYS>
__global__ void __launch_bounds__(FEW_THREADS)
    network_few_kernel(const __grid_constant__ struct network_job job)
{
    extern __shared__ __align__(16) char net_shared[];
    __shared__ float x[2][HASH_MAX_WIDTH];
    int head = blockIdx.y;
    if (job.resident)
        fetch_weights(net_shared, &job.net, head);
    dependency_release();
    dependency_wait();
    struct call_shape shape = call_shape(&job.att);
    struct key_range rows = rows_of<KEYS>(&job, &shape);
    copy_async_wait<0>();
    for (int row = rows.begin + (int)blockIdx.x; row < rows.end; row += (int)gridDim.x) {
        const void *from = KEYS ? (const void *)key_row(&job, &shape, head, row)
                                : (const void *)query_row(&job, head, row);
        for (int d = threadIdx.x; d < job.net.width[0]; d += FEW_THREADS)
            x[0][d] = row_element<KEYS>(&job, from, d);
        run_row(x, net_shared, &job, head, row);
        __syncthreads();
    }
    if (KEYS)
        index_finish(&job.count, &shape);
}

/* --- Launches -----------------------------------------------------------------------------------
 */

static void run_few(struct device *dev, struct network_job *job, bool keys, int n_rows)
{
    size_t n_shared = network_bytes(&job->net);
    size_t room = dev->properties.sharedMemPerBlockOptin - 2 * HASH_MAX_WIDTH * sizeof(float);
    job->resident = n_shared <= room;
    n_shared = job->resident ? n_shared : 0;
    void (*kernel)(struct network_job) =
        keys ? network_few_kernel<true> : network_few_kernel<false>;
    cuda_allow_shared(dev, kernel, n_shared);
    cuda_launch(dev, kernel, dim3((unsigned)n_rows, (unsigned)job->att.n_heads), FEW_THREADS,
                n_shared, *job);
}

/* The largest tile with which the weights fit too, or else without. */
static size_t choose_tile(const struct device *dev, struct network_job *job)
{
    size_t room = dev->properties.sharedMemPerBlockOptin, n_weights = network_bytes(&job->net);
    for (int resident = 1; resident >= 0; resident--)
        for (int tile = NET_MAX_TILE; tile >= NET_MIN_TILE; tile /= 2) {
            size_t n = 2 * sizeof(float) * (size_t)tile_floats(&job->net, tile);
            n += resident ? n_weights : 0;
            if (n > room)
                continue;
            job->tile = tile;
            job->resident = resident;
            return n;
        }
    assert(!"a network is wider than HASH_MAX_WIDTH");
    return 0;
}

static void run_many(struct device *dev, struct network_job *job, bool keys)
{
    size_t n_shared = choose_tile(dev, job);
    int n_rows = keys ? job->att.max_keys : job->att.n_rows;
    int n = ceil_div(n_rows, job->tile), most = ceil_div(dev->n_sms, job->att.n_heads);
    dim3 grid((unsigned)(n < most ? n : most), (unsigned)job->att.n_heads);
    void (*kernel)(struct network_job) = keys ? network_kernel<true> : network_kernel<false>;
    cuda_allow_shared(dev, kernel, n_shared);
    cuda_launch(dev, kernel, grid, NET_THREADS, n_shared, *job);
}

void network_run(struct device *dev, struct network_job *job, bool keys, int n_rows)
{
    const struct kv_layer *kv = &job->att.kv;
    job->aligned =
        kv->head_dim % 8 == 0 &&
        (keys ? (uintptr_t)kv->k[KV_CONTEXT] % 16 == 0 && (uintptr_t)kv->k[KV_TAIL] % 16 == 0
              : (uintptr_t)job->att.q % 16 == 0 && job->att.q_stride % 4 == 0);
    if (n_rows >= 1 && n_rows <= FEW_ROWS)
        run_few(dev, job, keys, n_rows);
    else
        run_many(dev, job, keys);
}
