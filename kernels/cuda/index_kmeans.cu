/* k-means on the device, and the codes of keys.
 *
 * Over a context that was prefilled, rounds are launches over all points at once.  Within a step,
 * where only the device knows whether there is something to cluster, a block has a problem: it
 * codes the new keys or, rarely, runs all rounds by itself.
 * Sums of points are fixed-point numbers, so that they do not depend on their order. */
#include "kernels/cuda/index_codes.cuh"
#include "kernels/permutation.h"

enum {
    POINT_THREADS = 128, /* a point each */
    MOVE_THREADS = 256,
    GROUP = 8 /* centroids that a point is held against at a time */
};

/* 2^24 keys of up to 2^14 in size fit into 63 bits. */
#define FIXED_POINT 16777216.0
#define FIXED_MOST 16384.0f

static const double LEAST_SHIFT = 1e-4; /* its square, under which rounds end */

/* What a block works on. */
struct problem {
    int kv_head, part;
    float *centroids, *phi;
    unsigned long long *sums;
    uint32_t *counts, *done;
};

static __device__ __forceinline__ struct problem problem_of(const struct layer_codes *of, int which)
{
    struct problem p;
    size_t n = (size_t)of->dim * (size_t)of->padded;
    p.kv_head = which / of->n_parts;
    p.part = which % of->n_parts;
    p.centroids = of->centroids + (size_t)which * n;
    p.phi = of->phi + which;
    p.sums = of->sums + (size_t)which * n;
    p.counts = of->counts + (size_t)which * of->padded;
    p.done = of->done + which;
    return p;
}

/* --- Points ------------------------------------------------------------------------------------
 */

static __device__ __forceinline__ float key_element(const struct codes_job *job,
                                                    const struct call_shape *shape,
                                                    const struct problem *p, int key, int d)
{
    int segment;
    const struct attention *att = &job->att;
    size_t at = key_offset(att, shape, p->kv_head, key, &segment) +
                (size_t)(p->part * job->of.part_dim + d);
    return att->kv.dtype == DTYPE_BF16 ? to_f32(((const __nv_bfloat16 *)att->kv.k[segment])[at])
                                       : ((const float *)att->kv.k[segment])[at];
}

static __device__ __forceinline__ float square_of(const struct codes_job *job,
                                                  const struct call_shape *shape,
                                                  const struct problem *p, int key)
{
    float sum = 0.0f;
    for (int d = 0; d < job->of.part_dim; d++) {
        float x = key_element(job, shape, p, key, d);
        sum = fmaf(x, x, sum);
    }
    return sum;
}

/* x [dim], elements `pitch` apart, = the point of a key. */
static __device__ __forceinline__ void load_point(float *x, int pitch, const struct codes_job *job,
                                                  const struct call_shape *shape,
                                                  const struct problem *p, int key)
{
    float squares = 0.0f;
    for (int d = 0; d < job->of.part_dim; d++) {
        float k = key_element(job, shape, p, key, d);
        squares = fmaf(k, k, squares);
        x[d * pitch] = k;
    }
    if (job->of.lifted)
        x[job->of.part_dim * pitch] = sqrtf(fmaxf(0.0f, __ldcg(p->phi) - squares));
}

/* The first of the centroids that are nearest to x. */
static __device__ __forceinline__ int
nearest_to(const float *x, int pitch, const struct layer_codes *of, const float *centroids)
{
    float least = INFINITY;
    int nearest = 0;
    for (int first = 0; first < of->padded; first += GROUP) {
        float sum[GROUP] = {};
        for (int d = 0; d < of->dim; d++) {
            float own = x[d * pitch], c[GROUP];
            const float4 *from = (const float4 *)(centroids + (size_t)d * of->padded + first);
            *(float4 *)c = __ldcg(from);
            *(float4 *)(c + 4) = __ldcg(from + 1);
#pragma unroll
            for (int i = 0; i < GROUP; i++)
                sum[i] = fmaf(own - c[i], own - c[i], sum[i]);
        }
#pragma unroll
        for (int i = 0; i < GROUP; i++)
            if (sum[i] < least) {
                least = sum[i];
                nearest = first + i;
            }
    }
    return nearest;
}

/* Adds x to the sums of a centroid. */
static __device__ __forceinline__ void add_point(const float *x, int pitch,
                                                 const struct layer_codes *of,
                                                 const struct problem *p, int centroid)
{
    for (int d = 0; d < of->dim; d++) {
        float own = fminf(fmaxf(x[d * pitch], -FIXED_MOST), FIXED_MOST);
        long long fixed = __double2ll_rn((double)own * FIXED_POINT);
        atomicAdd(&p->sums[(size_t)d * of->padded + (size_t)centroid], (unsigned long long)fixed);
    }
    atomicAdd(&p->counts[centroid], 1u);
}

static __device__ __forceinline__ void store_code(const struct layer_codes *of, int which, int key,
                                                  int code)
{
    size_t at = (size_t)which * of->stride + (size_t)key;
    if (of->wide)
        ((uint16_t *)of->codes)[at] = (uint16_t)code;
    else
        ((uint8_t *)of->codes)[at] = (uint8_t)code;
}

/* Points of keys begin + first, + step, ... to their nearest centroids: their codes, or sums.
 * x [dim, POINT_THREADS] in shared memory. */
static __device__ __forceinline__ void walk_points(float *x, const struct codes_job *job,
                                                   const struct call_shape *shape,
                                                   const struct problem *p, int which, int begin,
                                                   int end, int step, bool code)
{
    x += threadIdx.x;
    for (int key = begin + (int)threadIdx.x; key < end; key += step) {
        load_point(x, POINT_THREADS, job, shape, p, key);
        int nearest = nearest_to(x, POINT_THREADS, &job->of, p->centroids);
        if (code)
            store_code(&job->of, which, key, nearest);
        else
            add_point(x, POINT_THREADS, &job->of, p, nearest);
    }
}

/* --- A problem ---------------------------------------------------------------------------------
 */

/* phi, and centroids at distinct points.  All threads; `longest` in shared memory. */
static __device__ __forceinline__ void start_problem(const struct codes_job *job,
                                                     const struct call_shape *shape,
                                                     const struct problem *p, uint32_t *longest)
{
    const struct layer_codes *of = &job->of;
    int n_points = shape->n_keys - of->first_key;
    if (threadIdx.x == 0)
        *longest = 0;
    __syncthreads();
    if (of->lifted) {
        for (int i = threadIdx.x; i < n_points; i += blockDim.x)
            atomicMax(longest, __float_as_uint(square_of(job, shape, p, of->first_key + i)));
        __syncthreads();
        if (threadIdx.x == 0)
            *p->phi = __uint_as_float(*longest);
        __threadfence_block();
        __syncthreads();
    }
    struct permutation draw =
        permutation_make((uint32_t)n_points, of->seed, (uint32_t)job->att.layer,
                         (uint32_t)p->kv_head, (uint32_t)p->part, 0);
    for (int c = threadIdx.x; c < of->padded; c += blockDim.x) {
        int key = of->first_key;
        if (c < of->n_centroids)
            key += (int)permutation_image(&draw, (uint32_t)c);
        load_point(p->centroids + c, of->padded, job, shape, p, key);
        for (int d = 0; c >= of->n_centroids && d < of->dim; d++)
            p->centroids[(size_t)d * of->padded + c] = INFINITY;
        for (int d = 0; d < of->dim; d++)
            p->sums[(size_t)d * of->padded + c] = 0;
        p->counts[c] = 0;
    }
    if (threadIdx.x == 0)
        *p->done = 0;
}

/* Moves the centroids to the means of their points, and empties the sums; true if that was the last
 * round.  All threads. */
static __device__ __forceinline__ bool move_centroids(const struct codes_job *job,
                                                      const struct call_shape *shape,
                                                      const struct problem *p, int round,
                                                      double *shifts)
{
    const struct layer_codes *of = &job->of;
    int n_points = shape->n_keys - of->first_key;
    double shift = 0.0;
    for (int c = threadIdx.x; c < of->n_centroids; c += blockDim.x) {
        uint32_t n = __ldcg(p->counts + c);
        double squares = 0.0;
        uint32_t drawn = philox_4x32(of->seed, (uint32_t)job->att.layer,
                                     (uint32_t)p->kv_head << 16 | (uint32_t)p->part,
                                     (uint32_t)round + 1, (uint32_t)c)
                             .word[0];
        int other = of->first_key + (int)philox_below(drawn, (uint32_t)n_points);
        float squares_of_other = n || !of->lifted ? 0.0f : square_of(job, shape, p, other);
        for (int d = 0; d < of->dim; d++) {
            size_t at = (size_t)d * of->padded + (size_t)c;
            float to;
            if (n)
                to = (float)((double)(long long)__ldcg(p->sums + at) / FIXED_POINT / n);
            else if (d < of->part_dim)
                to = key_element(job, shape, p, other, d);
            else
                to = sqrtf(fmaxf(0.0f, __ldcg(p->phi) - squares_of_other));
            double moved = (double)to - (double)__ldcg(p->centroids + at);
            squares += moved * moved;
            p->centroids[at] = to;
            p->sums[at] = 0;
        }
        p->counts[c] = 0;
        shift += sqrt(squares);
    }
    shifts[threadIdx.x] = shift;
    __syncthreads();
    double total = 0.0;
    for (int i = 0; i < (int)blockDim.x; i++)
        total += shifts[i];
    __syncthreads();
    return total * total < LEAST_SHIFT || round + 1 == of->max_rounds;
}

/* Whether centroids are to be found anew, and whether there are enough keys for it. */
static __device__ __forceinline__ bool is_time(const struct codes_job *job,
                                               const struct call_shape *shape, bool *enough)
{
    int kept, n_frozen = __ldcg(job->of.state);
    struct key_range added = index_added(&job->count, shape, &kept);
    *enough = shape->n_keys - job->of.first_key >= job->of.n_centroids;
    return !job->of.given && (n_frozen == 0 || added.begin < n_frozen);
}

/* Thread 0 of the launch's last block: what the layer's centroids are of now. */
static __device__ __forceinline__ void
note_state(const struct codes_job *job, const struct call_shape *shape, bool again, bool enough)
{
    if (again)
        job->of.state[0] = enough ? shape->n_keys : 0;
    job->of.state[1] = again && enough;
}

/* --- Over a context ----------------------------------------------------------------------------
 */

/* Block per problem. */
__global__ void __launch_bounds__(MOVE_THREADS)
    codes_start_kernel(const __grid_constant__ struct codes_job job)
{
    __shared__ uint32_t longest;
    bool enough;
    dependency_release();
    dependency_wait();
    struct call_shape shape = call_shape(&job.att);
    struct problem p = problem_of(&job.of, (int)blockIdx.x);
    bool again = is_time(&job, &shape, &enough);
    if (again && enough)
        start_problem(&job, &shape, &p, &longest);
    __syncthreads(); /* all threads have read the state */
    if (threadIdx.x == 0 && ticket_take(job.count.ticket) == gridDim.x - 1) {
        note_state(&job, &shape, again, enough);
        *job.count.ticket = 0;
    }
}

/* Block (share of the points, problem). */
__global__ void __launch_bounds__(POINT_THREADS)
    codes_assign_kernel(const __grid_constant__ struct codes_job job)
{
    extern __shared__ __align__(16) float x[]; /* [dim, POINT_THREADS] */
    dependency_release();
    dependency_wait();
    struct problem p = problem_of(&job.of, (int)blockIdx.y);
    if (!__ldcg(job.of.state + 1) || __ldcg(p.done))
        return;
    struct call_shape shape = call_shape(&job.att);
    walk_points(x, &job, &shape, &p, (int)blockIdx.y,
                job.of.first_key + (int)blockIdx.x * POINT_THREADS, shape.n_keys,
                (int)gridDim.x * POINT_THREADS, false);
}

/* Block per problem. */
__global__ void __launch_bounds__(MOVE_THREADS)
    codes_move_kernel(const __grid_constant__ struct codes_job job)
{
    __shared__ double shifts[MOVE_THREADS];
    dependency_release();
    dependency_wait();
    struct problem p = problem_of(&job.of, (int)blockIdx.x);
    if (!__ldcg(job.of.state + 1) || __ldcg(p.done))
        return;
    struct call_shape shape = call_shape(&job.att);
    __syncthreads(); /* all threads have read that it goes on */
    bool last = move_centroids(&job, &shape, &p, job.round, shifts);
    if (threadIdx.x == 0 && last)
        *p.done = 1;
}

/* Keys to code: the new ones or, where centroids are new, all that have codes; none before there
 * are centroids. */
static __device__ __forceinline__ struct key_range
keys_to_code(const struct codes_job *job, const struct call_shape *shape, bool again)
{
    int kept;
    struct key_range keys = index_added(&job->count, shape, &kept);
    keys.begin = again ? job->of.first_key : max(keys.begin, job->of.first_key);
    return keys;
}

/* Block (share of the keys, problem). */
__global__ void __launch_bounds__(POINT_THREADS)
    codes_code_kernel(const __grid_constant__ struct codes_job job)
{
    extern __shared__ __align__(16) float x[];
    dependency_release();
    dependency_wait();
    struct call_shape shape = call_shape(&job.att);
    struct problem p = problem_of(&job.of, (int)blockIdx.y);
    if (job.of.given || __ldcg(job.of.state) > 0) {
        struct key_range keys = keys_to_code(&job, &shape, __ldcg(job.of.state + 1));
        walk_points(x, &job, &shape, &p, (int)blockIdx.y,
                    keys.begin + (int)blockIdx.x * POINT_THREADS, keys.end,
                    (int)gridDim.x * POINT_THREADS, true);
    }
    index_finish(&job.count, &shape);
}

/* --- Within a step -----------------------------------------------------------------------------
 */

/* One key's code by all threads: a centroid each.  All threads; best in shared memory. */
static __device__ __forceinline__ void code_one(float *x, const struct codes_job *job,
                                                const struct call_shape *shape,
                                                const struct problem *p, int which, int key,
                                                unsigned long long *best)
{
    const struct layer_codes *of = &job->of;
    if (threadIdx.x == 0) {
        *best = ~0ull;
        load_point(x, 1, job, shape, p, key);
    }
    __syncthreads();
    for (int c = threadIdx.x; c < of->n_centroids; c += POINT_THREADS) {
        float sum = 0.0f;
        for (int d = 0; d < of->dim; d++) {
            float apart = x[d] - __ldcg(p->centroids + (size_t)d * of->padded + c);
            sum = fmaf(apart, apart, sum);
        }
        /* Not negative: its bits rise as it does; the lower number wins a tie. */
        atomicMin(best, (unsigned long long)__float_as_uint(sum) << 32 | (unsigned)c);
    }
    __syncthreads();
    if (threadIdx.x == 0)
        store_code(of, which, key, (int)(uint32_t)*best);
    __syncthreads();
}

/* All rounds of a problem. All threads. */
static __device__ __forceinline__ void run_rounds(float *x, const struct codes_job *job,
                                                  const struct call_shape *shape,
                                                  const struct problem *p, int which,
                                                  double *shifts)
{
    for (int round = 0;; round++) {
        __threadfence();
        __syncthreads();
        walk_points(x, job, shape, p, which, job->of.first_key, shape->n_keys, POINT_THREADS,
                    false);
        __threadfence();
        __syncthreads();
        if (move_centroids(job, shape, p, round, shifts))
            break;
    }
    __threadfence();
    __syncthreads();
}

/* Block per problem. */
__global__ void __launch_bounds__(POINT_THREADS)
    codes_step_kernel(const __grid_constant__ struct codes_job job)
{
    extern __shared__ __align__(16) float x[];
    __shared__ double shifts[POINT_THREADS];
    __shared__ unsigned long long best;
    __shared__ uint32_t longest;
    int which = blockIdx.x, n_frozen;
    bool enough;
    dependency_release();
    dependency_wait();
    struct call_shape shape = call_shape(&job.att);
    struct problem p = problem_of(&job.of, which);
    bool again = is_time(&job, &shape, &enough);
    n_frozen = __ldcg(job.of.state);
    struct key_range keys = keys_to_code(&job, &shape, again && enough);
    if (again && enough) {
        start_problem(&job, &shape, &p, &longest);
        run_rounds(x, &job, &shape, &p, which, shifts);
        walk_points(x, &job, &shape, &p, which, keys.begin, keys.end, POINT_THREADS, true);
    } else if (job.of.given || (!again && n_frozen > 0)) {
        for (int key = keys.begin; key < keys.end; key++)
            code_one(x, &job, &shape, &p, which, key, &best);
    }
    __syncthreads();
    if (threadIdx.x == 0 && ticket_take(job.count.ticket) == gridDim.x - 1) {
        note_state(&job, &shape, again, enough);
        *job.count.n_indexed = shape.n_keys;
        *job.count.ticket = 0;
    }
}

void codes_update(struct device *dev, const struct codes_job *job)
{
    const struct layer_codes *of = &job->of;
    int n_problems = job->att.kv.n_kv_heads * of->n_parts;
    size_t n_bytes = (size_t)of->dim * POINT_THREADS * sizeof(float);
    if (job->att.n_rows_total + job->att.n_rows > 0) {
        cuda_allow_shared(dev, codes_step_kernel, n_bytes);
        cuda_launch(dev, codes_step_kernel, (unsigned)n_problems, POINT_THREADS, n_bytes, *job);
        return;
    }
    int n = ceil_div(job->att.max_keys, POINT_THREADS),
        most = ceil_div(16 * dev->n_sms, n_problems);
    dim3 grid((unsigned)(n < most ? n : most), (unsigned)n_problems);
    struct codes_job round = *job;
    cuda_allow_shared(dev, codes_assign_kernel, n_bytes);
    cuda_allow_shared(dev, codes_code_kernel, n_bytes);
    cuda_launch(dev, codes_start_kernel, (unsigned)n_problems, MOVE_THREADS, 0, *job);
    for (; !of->given && round.round < of->max_rounds; round.round++) {
        cuda_launch(dev, codes_assign_kernel, grid, POINT_THREADS, n_bytes, round);
        cuda_launch(dev, codes_move_kernel, (unsigned)n_problems, MOVE_THREADS, 0, round);
    }
    cuda_launch(dev, codes_code_kernel, grid, POINT_THREADS, n_bytes, *job);
}
