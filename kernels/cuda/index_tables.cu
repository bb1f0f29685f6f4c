/* MagicPIG on the device, its keys: codes by the signs of random planes, in several tables.
 *
 * What keys are centred and scaled by is frozen at a layer's first update, so that codes stay
 * comparable; where some of those first keys are forgotten, all keys are coded anew.  Only the
 * device knows when that is, since a step is replayed.
 * Source: Chen et al. 2024, arXiv 2410.16179. */
#include "kernels/cuda/index_tables.cuh"

enum { FREEZE_THREADS = 1024, FREEZE_WARPS = FREEZE_THREADS / WARP };

static int n_columns_of(const struct key_index_config *c)
{
    return c->tables.n_tables * c->tables.n_bits;
}

static int code_bytes_of(const struct key_index_config *c)
{
    return c->tables.n_bits <= 16 ? 2 : c->tables.n_bits <= 32 ? 4 : 8;
}

/* --- Memory ------------------------------------------------------------------------------------
 */

static bool tables_open(struct device *dev, struct key_index *index)
{
    const struct key_index_config *c = &index->config;
    size_t n = (size_t)c->n_layers * (size_t)c->n_kv_heads, dim = (size_t)c->head_dim;
    size_t n_codes = n * (size_t)c->tables.n_tables * index->stride;
    index->planes =
        planes_upload(dev, c->tables.projections, (size_t)c->n_layers * (dim + 1), n_columns_of(c));
    index->codes = cuda_alloc(dev, n_codes * (size_t)code_bytes_of(c));
    index->norms = (float *)cuda_alloc(dev, n * index->stride * sizeof(float));
    index->means = (float *)cuda_alloc(dev, n * dim * sizeof(float));
    index->radii = (float *)cuda_alloc(dev, n * sizeof(float));
    index->n_frozen = (int32_t *)cuda_alloc(dev, (size_t)c->n_layers * 2 * sizeof(int32_t));
    index->queries = cuda_alloc(dev, (size_t)PLANES_QUERY_ROWS * (size_t)c->n_heads *
                                         query_bytes(c->tables.n_tables));
    if (!index->planes || !index->codes || !index->norms || !index->means || !index->radii ||
        !index->n_frozen || !index->queries)
        return false;
    if (c->tables.mean)
        cuda_upload(dev, index->means, c->tables.mean, n * dim * sizeof(float));
    if (c->tables.norm)
        cuda_upload(dev, index->radii, c->tables.norm, n * sizeof(float));
    return true;
}

static void tables_close(struct device *dev, struct key_index *index)
{
    cuda_release(dev, index->planes);
    cuda_release(dev, index->codes);
    cuda_release(dev, index->norms);
    cuda_release(dev, index->means);
    cuda_release(dev, index->radii);
    cuda_release(dev, index->n_frozen);
    cuda_release(dev, index->queries);
}

static uint64_t tables_bytes(const struct key_index_config *c, size_t stride)
{
    return (uint64_t)c->n_layers * (uint64_t)c->n_kv_heads * stride *
           ((uint64_t)c->tables.n_tables * (uint64_t)code_bytes_of(c) + sizeof(float));
}

struct key_planes tables_planes(const struct key_index *index, int layer)
{
    const struct key_index_config *c = &index->config;
    struct key_planes p = {};
    size_t head = (size_t)layer * (size_t)c->n_kv_heads;
    p.n_in = c->head_dim + 1;
    p.n_tables = c->tables.n_tables;
    p.n_bits = c->tables.n_bits;
    p.n_columns = planes_padded(n_columns_of(c));
    p.w = index->planes + (size_t)layer * (size_t)p.n_in * (size_t)p.n_columns;
    p.code_bytes = code_bytes_of(c);
    p.stride = index->stride;
    p.codes =
        (char *)index->codes + head * (size_t)p.n_tables * index->stride * (size_t)p.code_bytes;
    p.norms = index->norms + head * index->stride;
    p.lifted = true;
    p.means = index->means + head * (size_t)c->head_dim;
    p.radii = index->radii + head;
    p.from = index->n_frozen + 2 * layer + 1;
    return p;
}

/* --- What keys are centred and scaled by --------------------------------------------------------
 */

struct freeze_job {
    struct attention att;
    struct index_count count; /* read alone */
    int32_t *n_frozen;        /* of the layer: number of keys, first key to code anew */
    float *means, *radii;     /* of the layer */
    bool centred, given_mean, given_radius;
};

static __device__ __forceinline__ float key_element(const struct attention *att,
                                                    const struct call_shape *shape, int kv_head,
                                                    int key, int d)
{
    int segment;
    size_t offset = key_offset(att, shape, kv_head, key, &segment) + (size_t)d;
    return att->kv.dtype == DTYPE_BF16 ? to_f32(((const __nv_bfloat16 *)att->kv.k[segment])[offset])
                                       : ((const float *)att->kv.k[segment])[offset];
}

/* mean [head_dim] of n keys; sums [FREEZE_WARPS, WARP] in shared memory. */
static __device__ __forceinline__ void find_mean(float *mean, const struct freeze_job *job,
                                                 const struct call_shape *shape, int n,
                                                 double (*sums)[WARP])
{
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, dim = job->att.kv.head_dim;
    for (int first = 0; first < dim; first += WARP) {
        double sum = 0.0;
        for (int key = warp; key < n && first + lane < dim; key += FREEZE_WARPS)
            sum += (double)key_element(&job->att, shape, blockIdx.x, key, first + lane);
        sums[warp][lane] = sum;
        __syncthreads();
        for (int i = 1; warp == 0 && i < FREEZE_WARPS; i++)
            sum += sums[i][lane];
        if (warp == 0 && first + lane < dim)
            mean[first + lane] = (float)(sum / n);
        __syncthreads();
    }
}

/* The largest length of n keys less the mean, in all threads. */
static __device__ __forceinline__ float find_radius(const float *mean, const struct freeze_job *job,
                                                    const struct call_shape *shape, int n,
                                                    uint32_t *longest)
{
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, dim = job->att.kv.head_dim;
    if (threadIdx.x == 0)
        *longest = 0;
    __syncthreads();
    for (int key = warp; key < n; key += FREEZE_WARPS) {
        float sum = 0.0f;
        for (int d = lane; d < dim; d += WARP) {
            float x = key_element(&job->att, shape, blockIdx.x, key, d) - mean[d];
            sum = fmaf(x, x, sum);
        }
        sum = sqrtf(warp_sum(sum));
        if (lane == 0)
            atomicMax(longest, __float_as_uint(sum)); /* which rises with what is not negative */
    }
    __syncthreads();
    return __uint_as_float(*longest);
}

/* Block per KV head.  The last one to be done notes down what is frozen. */
__global__ void __launch_bounds__(FREEZE_THREADS, 1)
    freeze_kernel(const __grid_constant__ struct freeze_job job)
{
    __shared__ double sums[FREEZE_WARPS][WARP];
    __shared__ uint32_t longest;
    int kept;
    dependency_release();
    dependency_wait();
    struct call_shape shape = call_shape(&job.att);
    struct key_range added = index_added(&job.count, &shape, &kept);
    int n_frozen = __ldcg(job.n_frozen), n = shape.n_keys;
    bool again = n > 0 && (n_frozen == 0 || added.begin < n_frozen);
    float *mean = job.means + (size_t)blockIdx.x * (size_t)job.att.kv.head_dim;
    if (again) {
        if (job.centred && !job.given_mean)
            find_mean(mean, &job, &shape, n, sums);
        __syncthreads();
        if (!job.given_radius) {
            float radius = find_radius(mean, &job, &shape, n, &longest);
            if (threadIdx.x == 0)
                job.radii[blockIdx.x] = radius;
        }
    }
    __syncthreads(); /* all threads have read n_frozen */
    if (threadIdx.x == 0 && ticket_take(job.count.ticket) == gridDim.x - 1) {
        job.n_frozen[0] = again ? n : n_frozen;
        job.n_frozen[1] = again ? 0 : INT32_MAX;
        *job.count.ticket = 0;
    }
}

static void tables_add(struct device *dev, struct key_index *index, const struct attention *att)
{
    const struct key_index_config *c = &index->config;
    size_t head = (size_t)att->layer * (size_t)c->n_kv_heads;
    struct freeze_job freeze = {};
    freeze.att = *att;
    freeze.count = index_count_of(index, att);
    freeze.n_frozen = index->n_frozen + 2 * att->layer;
    freeze.means = index->means + head * (size_t)c->head_dim;
    freeze.radii = index->radii + head;
    freeze.centred = c->tables.center != CENTER_NONE;
    freeze.given_mean = c->tables.mean != NULL;
    freeze.given_radius = c->tables.norm != NULL;
    cuda_launch(dev, freeze_kernel, (unsigned)c->n_kv_heads, FREEZE_THREADS, 0, freeze);
    struct planes_job job = {};
    job.att = *att;
    job.planes = tables_planes(index, att->layer);
    job.count = freeze.count;
    planes_add(dev, &job);
}

/* Nothing is scored: select_matches chooses by the codes. */
const struct index_kind index_tables = {index_n_keys, tables_open, tables_close,
                                        tables_bytes, tables_add,  NULL};
