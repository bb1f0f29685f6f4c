/* Keys on sides of random planes.  Many keys go by tiles: a warp has a table at a time and a lane
 * two keys, so that a plane's element serves 64 keys.  A few keys, as a step has, get a block each,
 * with a thread per plane. */
#include "kernels/cuda/index_planes.cuh"

#include <stdlib.h>
#include <string.h>

enum {
    TILE_THREADS = 256,
    TILE_WARPS = TILE_THREADS / WARP,
    TILE_KEYS = 2 * WARP,
    TILE_PITCH = TILE_KEYS + 1,
    TILE_BITS = PLANES_SLACK, /* planes that a warp has at a time */
    FEW_THREADS = 512,
    FEW_KEYS = 4 /* most keys that get blocks of their own */
};

float *planes_upload(struct device *dev, const float *from, size_t n_rows, int n_columns)
{
    size_t padded = (size_t)planes_padded(n_columns), n = n_rows * padded;
    float *host = (float *)calloc(n, sizeof *host);
    float *to = host ? (float *)cuda_alloc(dev, n * sizeof *to) : NULL;
    for (size_t row = 0; to && row < n_rows; row++)
        memcpy(host + row * padded, from + row * (size_t)n_columns,
               (size_t)n_columns * sizeof *host);
    if (to)
        cuda_upload(dev, to, host, n * sizeof *to);
    free(host);
    return to;
}

/* --- A key -------------------------------------------------------------------------------------
 */

static __device__ __forceinline__ float element(const struct attention *att, const void *rows,
                                                size_t at)
{
    return att->kv.dtype == DTYPE_BF16 ? to_f32(((const __nv_bfloat16 *)rows)[at])
                                       : ((const float *)rows)[at];
}

/* One warp: x [n_in], elements `pitch` apart, = the key as the planes meet it, and its norm. */
static __device__ __forceinline__ void load_key(float *x, int pitch, const struct planes_job *job,
                                                const struct call_shape *shape, int kv_head,
                                                int key)
{
    const struct key_planes *p = &job->planes;
    const struct attention *att = &job->att;
    int lane = threadIdx.x % WARP, dim = att->kv.head_dim, segment;
    size_t offset = key_offset(att, shape, kv_head, key, &segment);
    const float *mean = p->lifted ? p->means + (size_t)kv_head * dim : NULL;
    float squares = 0.0f;
    for (int d = lane; d < dim; d += WARP) {
        float k = element(att, att->kv.k[segment], offset + (size_t)d);
        float v = p->lifted ? k - mean[d] : element(att, att->kv.v[segment], offset + (size_t)d);
        squares = fmaf(v, v, squares);
        x[d * pitch] = p->lifted ? v : k;
    }
    float length = sqrtf(warp_sum(squares));
    if (lane == 0)
        p->norms[(size_t)kv_head * p->stride + (size_t)key] = length;
    if (!p->lifted)
        return;
    float radius = p->radii[kv_head], scale = length > radius ? radius / length : 1.0f;
    for (int d = lane; scale < 1.0f && d < dim; d += WARP)
        x[d * pitch] *= scale;
    if (lane == 0)
        x[dim * pitch] = length < radius ? sqrtf(radius * radius - length * length) : 0.0f;
}

static __device__ __forceinline__ void store_code(const struct key_planes *p, int kv_head,
                                                  int table, int key, uint64_t code)
{
    size_t at = ((size_t)kv_head * p->n_tables + (size_t)table) * p->stride + (size_t)key;
    if (p->code_bytes == 2)
        ((uint16_t *)p->codes)[at] = (uint16_t)code;
    else if (p->code_bytes == 4)
        ((uint32_t *)p->codes)[at] = (uint32_t)code;
    else
        ((uint64_t *)p->codes)[at] = code;
}

/* Keys that the call adds; keys that are lifted by something new are all coded again. */
static __device__ __forceinline__ struct key_range keys_of(const struct planes_job *job,
                                                           const struct call_shape *shape)
{
    int kept;
    struct key_range added = index_added(&job->count, shape, &kept);
    if (job->planes.lifted)
        added.begin = min(added.begin, __ldcg(job->planes.from));
    return added;
}

/* --- Many keys ---------------------------------------------------------------------------------
 */

/* The codes of a table for a lane's two keys. */
static __device__ __forceinline__ void tile_codes(uint64_t code[2], const struct key_planes *p,
                                                  const float *x, int table)
{
    int lane = threadIdx.x % WARP;
    code[0] = code[1] = 0;
    for (int first = 0; first < p->n_bits; first += TILE_BITS) {
        const float *w = p->w + (size_t)(table * p->n_bits + first);
        float sum[2][TILE_BITS] = {};
        for (int d = 0; d < p->n_in; d++) {
            float a = x[d * TILE_PITCH + lane], b = x[d * TILE_PITCH + WARP + lane];
#pragma unroll
            for (int i = 0; i < TILE_BITS; i++) { /* beyond the bits: what comes after, unused */
                float plane = w[(size_t)d * p->n_columns + i];
                sum[0][i] = fmaf(a, plane, sum[0][i]);
                sum[1][i] = fmaf(b, plane, sum[1][i]);
            }
        }
#pragma unroll
        for (int i = 0; i < TILE_BITS; i++)
            if (first + i < p->n_bits) {
                code[0] |= (uint64_t)plane_sets(p, sum[0][i]) << (first + i);
                code[1] |= (uint64_t)plane_sets(p, sum[1][i]) << (first + i);
            }
    }
}

/* Block (share of the tiles, KV head). */
__global__ void __launch_bounds__(TILE_THREADS)
    planes_tile_kernel(const __grid_constant__ struct planes_job job)
{
    extern __shared__ __align__(16) float tile[]; /* [n_in, TILE_PITCH] */
    const struct key_planes *p = &job.planes;
    int kv_head = blockIdx.y, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    dependency_release();
    dependency_wait();
    struct call_shape shape = call_shape(&job.att);
    struct key_range keys = keys_of(&job, &shape);
    for (int first = keys.begin + (int)blockIdx.x * TILE_KEYS; first < keys.end;
         first += (int)gridDim.x * TILE_KEYS) {
        int n = min((int)TILE_KEYS, keys.end - first);
        for (int i = warp; i < TILE_KEYS; i += TILE_WARPS) {
            if (i < n)
                load_key(tile + i, TILE_PITCH, &job, &shape, kv_head, first + i);
            else
                for (int d = lane; d < p->n_in; d += WARP)
                    tile[d * TILE_PITCH + i] = 0.0f;
        }
        __syncthreads();
        for (int table = warp; table < p->n_tables; table += TILE_WARPS) {
            uint64_t code[2];
            tile_codes(code, p, tile, table);
#pragma unroll
            for (int i = 0; i < 2; i++)
                if (i * WARP + lane < n)
                    store_code(p, kv_head, table, first + i * WARP + lane, code[i]);
        }
        __syncthreads();
    }
    index_finish(&job.count, &shape);
}

/* --- Few keys ----------------------------------------------------------------------------------
 */

/* Block (key, KV head); keys beyond the grid follow those before. */
__global__ void __launch_bounds__(FEW_THREADS)
    planes_few_kernel(const __grid_constant__ struct planes_job job)
{
    extern __shared__ __align__(16) float row[]; /* [planes_row], then a byte per plane */
    const struct key_planes *p = &job.planes;
    uint8_t *sides = (uint8_t *)(row + planes_row(p->n_in));
    int kv_head = blockIdx.y;
    dependency_release();
    dependency_wait();
    struct call_shape shape = call_shape(&job.att);
    struct key_range keys = keys_of(&job, &shape);
    for (int key = keys.begin + (int)blockIdx.x; key < keys.end; key += (int)gridDim.x) {
        if (threadIdx.x < WARP)
            load_key(row, 1, &job, &shape, kv_head, key);
        __syncthreads();
        for (int i = threadIdx.x; i < p->n_tables * p->n_bits; i += FEW_THREADS)
            sides[i] = plane_sets(p, plane_product(p, row, i));
        __syncthreads();
        for (int table = threadIdx.x; table < p->n_tables; table += FEW_THREADS)
            store_code(p, kv_head, table, key, plane_code(p, sides, table));
    }
    index_finish(&job.count, &shape);
}

void planes_add(struct device *dev, const struct planes_job *job)
{
    const struct attention *att = &job->att;
    const struct key_planes *p = &job->planes;
    int n_rows = att->n_rows_total ? att->n_rows_total : att->n_rows, n_kv = att->kv.n_kv_heads;
    if (n_rows >= 1 && n_rows <= FEW_KEYS) {
        size_t n_bytes =
            (size_t)planes_row(p->n_in) * sizeof(float) + (size_t)(p->n_tables * p->n_bits);
        cuda_allow_shared(dev, planes_few_kernel, n_bytes);
        cuda_launch(dev, planes_few_kernel, dim3((unsigned)n_rows, (unsigned)n_kv), FEW_THREADS,
                    n_bytes, *job);
        return;
    }
    int n = ceil_div(n_rows > 0 ? n_rows : att->max_keys, TILE_KEYS);
    int most = ceil_div(4 * dev->n_sms, n_kv);
    size_t n_bytes = (size_t)p->n_in * TILE_PITCH * sizeof(float);
    cuda_allow_shared(dev, planes_tile_kernel, n_bytes);
    cuda_launch(dev, planes_tile_kernel, dim3((unsigned)(n < most ? n : most), (unsigned)n_kv),
                TILE_THREADS, n_bytes, *job);
}
