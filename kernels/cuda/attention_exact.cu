/* Dense attention in plain f32, for any dtype, head size and number of rows: what parity is tested
 * with, and what the fast ways leave over.
 *
 * A block has up to 64 queries (row, head) of one KV head and walks over tiles of 32 keys, which it
 * copies to shared memory as f32, first K, then V in the same place.  256 threads make a square of
 * 16 x 16: thread (ty, tx) has queries ty + 16 i; of a tile it scores keys tx and tx + 16, and of
 * the output it has dimensions 4 tx + 64 c .. + 3.  So the 16 threads that share a query are half a
 * warp, which keeps its running maximum and sum by shuffles.  Where there are too few queries to
 * fill the device the keys are split over blocks, and a second kernel merges the parts. */
#include "kernels/cuda/attention_paths.cuh"

enum {
    EXACT_THREADS = 256,
    SIDE = 16,
    EXACT_KEYS = 32, /* of a tile */
    EXACT_PAD = 4,   /* floats behind a row in shared memory: rows differ in their banks */
    SCORE_PITCH = EXACT_KEYS + EXACT_PAD,
    FEW_QUERIES = 16,     /* of a KV head: up to here one query per thread */
    BLOCKS_PER_SM = 2,    /* resident, and wanted before keys stay whole */
    MIN_SPLIT_KEYS = 128, /* a part should outweigh its merging */
    MAX_BLOCK_QUERIES = 64,
    MERGE_THREADS = 128
};

struct exact_call {
    struct attention att;
    int group;     /* query heads per KV head */
    int n_queries; /* of a KV head: n_rows * group; query i is row i / group, head i % group */
    int n_splits;
    float *parts; /* [n_splits, n_kv_heads, n_queries, head_dim + 2]: sums of exp(z - max) v, then
                     max, then the sum of exp(z - max); NULL if n_splits is 1 */
};

static __device__ __forceinline__ float *exact_part(const struct exact_call *call, int split,
                                                    int kv_head, int query)
{
    size_t slot = ((size_t)split * (size_t)call->att.kv.n_kv_heads + (size_t)kv_head) *
                      (size_t)call->n_queries +
                  (size_t)query;
    return call->parts + slot * (size_t)(call->att.kv.head_dim + 2);
}

static __device__ __forceinline__ float *exact_out(const struct exact_call *call, int kv_head,
                                                   int query, int *head)
{
    *head = kv_head * call->group + query % call->group;
    size_t row = (size_t)(query / call->group);
    return call->att.out +
           (row * (size_t)call->att.n_heads + (size_t)*head) * (size_t)call->att.kv.head_dim;
}

/* What sums of exp(z - max) v are multiplied by; the sink logit is one more key, without value. */
static __device__ __forceinline__ float exact_factor(const struct attention *att, int head,
                                                     float max, float sum)
{
    if (sum == 0.0f) /* a row of padding sees nothing */
        return 0.0f;
    if (!att->sink_logits)
        return 1.0f / sum;
    float sink = att->sink_logits[head], top = fmaxf(sink, max);
    return expf(max - top) / (sum * expf(max - top) + expf(sink - top));
}

/* The rows of keys [keys.begin, keys.end) of a tile, as f32; missing ones are zeros, and so is what
 * lies behind head_dim.  to [EXACT_KEYS, DIM + EXACT_PAD]. */
template <typename T, int DIM>
static __device__ __forceinline__ void
load_tile(float *to, const struct exact_call *call, const struct call_shape *shape,
          void *const segments[KV_SEGMENTS], int kv_head, struct key_range keys)
{
    int d = (int)threadIdx.x % DIM;
#pragma unroll 4
    for (int i = (int)threadIdx.x / DIM; i < EXACT_KEYS; i += EXACT_THREADS / DIM) {
        float x = 0.0f;
        if (keys.begin + i < keys.end && d < call->att.kv.head_dim) {
            int segment;
            size_t at = key_offset(&call->att, shape, kv_head, keys.begin + i, &segment);
            const T *rows =
                (const T *)(segment == KV_CONTEXT ? segments[KV_CONTEXT] : segments[KV_TAIL]);
            x = to_f32(rows[at + (size_t)d]);
        }
        to[i * (DIM + EXACT_PAD) + d] = x;
    }
}

/* The block's queries from `first` on, scaled, padded with zeros.  to [N * SIDE, DIM + EXACT_PAD]
 */
template <int DIM, int N>
static __device__ __forceinline__ void load_queries(float *to, const struct exact_call *call,
                                                    int kv_head, int first)
{
    const struct attention *att = &call->att;
    int d = (int)threadIdx.x % DIM, head_dim = att->kv.head_dim;
    for (int i = (int)threadIdx.x / DIM; i < N * SIDE; i += EXACT_THREADS / DIM) {
        int query = first + i;
        float x = 0.0f;
        if (query < call->n_queries && d < head_dim) {
            size_t head = (size_t)(kv_head * call->group + query % call->group);
            size_t row = (size_t)(query / call->group) * (size_t)att->q_stride;
            x = att->q[row + head * (size_t)head_dim + (size_t)d] * att->scale;
        }
        to[i * (DIM + EXACT_PAD) + d] = x;
    }
}

static __device__ __forceinline__ float dot_add(float sum, float4 x, float4 y)
{
    sum = fmaf(x.x, y.x, sum);
    sum = fmaf(x.y, y.y, sum);
    sum = fmaf(x.z, y.z, sum);
    return fmaf(x.w, y.w, sum);
}

/* s = q k^T: the thread's N queries with keys tx and tx + 16. */
template <int DIM, int N>
static __device__ __forceinline__ void score_tile(float s[N][2], const float *q, const float *k)
{
    const int pitch = DIM + EXACT_PAD;
    int ty = (int)threadIdx.x / SIDE, tx = (int)threadIdx.x % SIDE;
#pragma unroll
    for (int i = 0; i < N; i++)
        s[i][0] = s[i][1] = 0.0f;
#pragma unroll 4
    for (int d = 0; d < DIM; d += 4) {
        float4 a = *(const float4 *)(k + tx * pitch + d);
        float4 b = *(const float4 *)(k + (tx + SIDE) * pitch + d);
#pragma unroll
        for (int i = 0; i < N; i++) {
            float4 x = *(const float4 *)(q + (ty + SIDE * i) * pitch + d);
            s[i][0] = dot_add(s[i][0], x, a);
            s[i][1] = dot_add(s[i][1], x, b);
        }
    }
}

/* Over the 16 threads of a query. */
static __device__ __forceinline__ float side_max(float x)
{
#pragma unroll
    for (int offset = SIDE / 2; offset > 0; offset /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
    return x;
}

static __device__ __forceinline__ float side_sum(float x)
{
#pragma unroll
    for (int offset = SIDE / 2; offset > 0; offset /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}

/* Turns a query's scores into weights exp(z - max), written to p [EXACT_KEYS]; returns the factor
 * for what was summed before. */
static __device__ __forceinline__ float soften_tile(const float z[2], float *max, float *sum,
                                                    float *p)
{
    int tx = (int)threadIdx.x % SIDE;
    float top = fmaxf(*max, side_max(fmaxf(z[0], z[1])));
    float base = top == -INFINITY ? 0.0f : top; /* nothing visible so far */
    float factor = expf(*max - base), a = expf(z[0] - base), b = expf(z[1] - base);
    p[tx] = a;
    p[tx + SIDE] = b;
    *max = top;
    *sum = *sum * factor + side_sum(a + b);
    return factor;
}

/* out += p v: the thread's N queries and dimensions. */
template <int DIM, int N>
static __device__ __forceinline__ void accumulate_tile(float out[N][DIM / 64][4], const float *p,
                                                       const float *v)
{
    int ty = (int)threadIdx.x / SIDE, tx = (int)threadIdx.x % SIDE;
#pragma unroll 4
    for (int key = 0; key < EXACT_KEYS; key++)
#pragma unroll
        for (int c = 0; c < DIM / 64; c++) {
            float4 x = *(const float4 *)(v + key * (DIM + EXACT_PAD) + 4 * tx + 64 * c);
#pragma unroll
            for (int i = 0; i < N; i++) {
                float w = p[(ty + SIDE * i) * SCORE_PITCH + key];
                out[i][c][0] += w * x.x;
                out[i][c][1] += w * x.y;
                out[i][c][2] += w * x.z;
                out[i][c][3] += w * x.w;
            }
        }
}

/* Writes the thread's dimensions of a query: its output, or a part. */
template <int DIM>
static __device__ __forceinline__ void
write_query(const struct exact_call *call, int split, int kv_head, int query,
            const float out[DIM / 64][4], float max, float sum)
{
    int tx = (int)threadIdx.x % SIDE, head_dim = call->att.kv.head_dim, head;
    float factor = 1.0f, *to = exact_out(call, kv_head, query, &head);
    if (call->parts) {
        to = exact_part(call, split, kv_head, query);
        if (tx == 0) {
            to[head_dim] = max;
            to[head_dim + 1] = sum;
        }
    } else {
        factor = exact_factor(&call->att, head, max, sum);
    }
#pragma unroll
    for (int c = 0; c < DIM / 64; c++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int d = 4 * tx + 64 * c + e;
            if (d < head_dim)
                to[d] = out[c][e] * factor;
        }
}

/* The keys that the block's queries from `first` on see, or its split of them. */
template <int N>
static __device__ __forceinline__ struct key_range
exact_keys(const struct exact_call *call, const struct call_shape *shape, int first, int split)
{
    int last = min(first + N * SIDE, call->n_queries) - 1;
    struct key_range keys;
    keys.begin = row_visible(&call->att, shape, first / call->group).begin;
    keys.end = row_visible(&call->att, shape, last / call->group).end;
    int n_tiles = (keys.end - keys.begin + EXACT_KEYS - 1) / EXACT_KEYS;
    int n = (n_tiles + call->n_splits - 1) / call->n_splits * EXACT_KEYS;
    keys.begin = min(keys.begin + split * n, keys.end);
    keys.end = min(keys.begin + n, keys.end);
    return keys;
}

/* DIM: head_dim padded to 64, 128 or 256; N: queries of a thread. */
template <typename T, int DIM, int N>
static __global__ void __launch_bounds__(EXACT_THREADS, BLOCKS_PER_SM)
    exact_kernel(const __grid_constant__ struct exact_call call)
{
    extern __shared__ __align__(16) float exact_shared[];
    float *q = exact_shared;                                /* [N * SIDE, DIM + EXACT_PAD] */
    float *tile = q + N * SIDE * (DIM + EXACT_PAD);         /* [EXACT_KEYS, DIM + EXACT_PAD] */
    float *weights = tile + EXACT_KEYS * (DIM + EXACT_PAD); /* [N * SIDE, SCORE_PITCH] */
    int ty = (int)threadIdx.x / SIDE, tx = (int)threadIdx.x % SIDE, kv_head = (int)blockIdx.y;
    /* The last rows see the most keys: first come the longest blocks. */
    int n_blocks = (int)gridDim.x / call.n_splits;
    int first = (n_blocks - 1 - (int)blockIdx.x / call.n_splits) * N * SIDE;
    int split = (int)blockIdx.x % call.n_splits;
    dependency_wait();
    dependency_release();
    struct call_shape shape = call_shape(&call.att);
    struct key_range keys = exact_keys<N>(&call, &shape, first, split), visible[N];
    float max[N], sum[N], out[N][DIM / 64][4] = {};
    load_queries<DIM, N>(q, &call, kv_head, first);
#pragma unroll
    for (int i = 0; i < N; i++) {
        visible[i] = row_visible(&call.att, &shape, (first + ty + SIDE * i) / call.group);
        max[i] = -INFINITY;
        sum[i] = 0.0f;
    }
    for (int from = keys.begin; from < keys.end; from += EXACT_KEYS) {
        struct key_range at = {from, min(from + EXACT_KEYS, keys.end)};
        float z[N][2];
        __syncthreads(); /* V and the weights before are used up */
        load_tile<T, DIM>(tile, &call, &shape, call.att.kv.k, kv_head, at);
        __syncthreads();
        score_tile<DIM, N>(z, q, tile);
#pragma unroll
        for (int i = 0; i < N; i++) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                int key = from + tx + SIDE * j;
                if (key >= at.end || key < visible[i].begin || key >= visible[i].end)
                    z[i][j] = -INFINITY;
            }
            float factor =
                soften_tile(z[i], &max[i], &sum[i], weights + (ty + SIDE * i) * SCORE_PITCH);
#pragma unroll
            for (int c = 0; c < DIM / 64; c++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    out[i][c][e] *= factor;
        }
        __syncthreads(); /* K is used up */
        load_tile<T, DIM>(tile, &call, &shape, call.att.kv.v, kv_head, at);
        __syncthreads();
        accumulate_tile<DIM, N>(out, weights, tile);
    }
#pragma unroll
    for (int i = 0; i < N; i++) {
        int query = first + ty + SIDE * i;
        if (query < call.n_queries)
            write_query<DIM>(&call, split, kv_head, query, out[i], max[i], sum[i]);
    }
}

/* out = the merged parts.  A block per query and KV head, a thread per dimension. */
static __global__ void __launch_bounds__(MERGE_THREADS)
    exact_merge_kernel(const __grid_constant__ struct exact_call call)
{
    int query = (int)blockIdx.x, kv_head = (int)blockIdx.y, head_dim = call.att.kv.head_dim, head;
    dependency_wait();
    dependency_release();
    float *out = exact_out(&call, kv_head, query, &head), max = -INFINITY;
    for (int split = 0; split < call.n_splits; split++)
        max = fmaxf(max, exact_part(&call, split, kv_head, query)[head_dim]);
    float base = max == -INFINITY ? 0.0f : max;
    for (int d = (int)threadIdx.x; d < head_dim; d += MERGE_THREADS) {
        float sum = 0.0f, total = 0.0f;
        for (int split = 0; split < call.n_splits; split++) {
            const float *part = exact_part(&call, split, kv_head, query);
            float factor = expf(part[head_dim] - base);
            sum += factor * part[head_dim + 1];
            total += factor * part[d];
        }
        out[d] = total * exact_factor(&call.att, head, max, sum);
    }
}

/* --- The call --------------------------------------------------------------------------------- */

/* Into how many parts the keys are cut for n_blocks blocks. */
static int exact_splits(const struct device *dev, const struct attention *att, int n_blocks)
{
    int n_keys = att->max_keys;
    if (att->window > 0 && att->window < n_keys - att->n_rows)
        n_keys = att->window + att->n_rows;
    int n = BLOCKS_PER_SM * dev->n_sms / n_blocks, most = n_keys / MIN_SPLIT_KEYS;
    n = n < most ? n : most;
    return n > 1 ? n : 1;
}

template <typename T, int DIM, int N>
static void exact_launch(struct device *dev, struct exact_call *call)
{
    const struct kv_layer *kv = &call->att.kv;
    int n_blocks = ceil_div(call->n_queries, N * SIDE);
    call->n_splits = exact_splits(dev, &call->att, n_blocks * kv->n_kv_heads);
    if (call->n_splits > 1) {
        size_t n = (size_t)call->n_splits * (size_t)kv->n_kv_heads * (size_t)call->n_queries *
                   (size_t)(kv->head_dim + 2);
        call->parts = (float *)cuda_workspace(dev, WORKSPACE_ATTENTION, n * sizeof(float));
    }
    size_t n_shared =
        (size_t)((N * SIDE + EXACT_KEYS) * (DIM + EXACT_PAD) + N * SIDE * SCORE_PITCH);
    n_shared *= sizeof(float);
    cuda_allow_shared(dev, exact_kernel<T, DIM, N>, n_shared);
    cuda_launch(dev, exact_kernel<T, DIM, N>,
                dim3((unsigned)(n_blocks * call->n_splits), (unsigned)kv->n_kv_heads),
                dim3(EXACT_THREADS), n_shared, *call);
    if (call->n_splits > 1)
        cuda_launch(dev, exact_merge_kernel,
                    dim3((unsigned)call->n_queries, (unsigned)kv->n_kv_heads), dim3(MERGE_THREADS),
                    0, *call);
}

template <typename T> static void exact_dispatch(struct device *dev, struct exact_call *call)
{
    bool few = call->n_queries <= FEW_QUERIES;
    int dim = call->att.kv.head_dim;
    if (dim <= 64 && few)
        exact_launch<T, 64, 1>(dev, call);
    else if (dim <= 64)
        exact_launch<T, 64, 4>(dev, call);
    else if (dim <= 128 && few)
        exact_launch<T, 128, 1>(dev, call);
    else if (dim <= 128)
        exact_launch<T, 128, 4>(dev, call);
    else if (few)
        exact_launch<T, 256, 1>(dev, call);
    else
        exact_launch<T, 256, 2>(dev, call);
}

void attention_exact(struct device *dev, const struct attention *att)
{
    struct exact_call call = {};
    assert(att->kv.head_dim <= 256 && att->kv.dtype != DTYPE_F16);
    if (dev->failed)
        return;
    call.att = *att;
    call.group = att->n_heads / att->kv.n_kv_heads;
    call.n_queries = att->n_rows * call.group;
    if (att->kv.dtype == DTYPE_F32)
        exact_dispatch<float>(dev, &call);
    else
        exact_dispatch<__nv_bfloat16>(dev, &call);
}

/* Keys are split for at most BLOCKS_PER_SM blocks per multiprocessor in all. */
size_t attention_exact_workspace_bytes(const struct device *dev, const struct workspace_need *need)
{
    return (size_t)(BLOCKS_PER_SM * dev->n_sms) * MAX_BLOCK_QUERIES * (size_t)(need->head_dim + 2) *
           sizeof(float);
}
