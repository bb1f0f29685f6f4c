/* What happens to q, k and v between the projection and attention: head norms, rotation, and the
 * new rows of the KV cache.
 *
 * A warp owns a head of one row and keeps it in registers, elements i and i + half, which rotate
 * together, in the same lane.  Without shared memory its blocks take no room from those of the
 * operations before and after. */
#include "kernels/cuda/norm.cuh"

enum {
    HEADS = 8,
    THREADS = HEADS * WARP,
    MAX_HEAD_DIM = 256,
    /* A lane's elements: so many, their partners in the rotation, and what lies beyond those. */
    PAIRS = MAX_HEAD_DIM / 2 / WARP,
    PARTS = 2 * PAIRS + MAX_HEAD_DIM / WARP
};

struct rotate_job {
    float *qkv; /* [n_rows, n_heads + 2 n_kv_heads, head_dim] */
    int n_heads;
    struct kv_layer kv;
    const float *inv_freq; /* [half] or NULL */
    int half;              /* n_rot / 2; 0 without rotation */
    struct row_norm q_norm, k_norm;
    const struct step_state *step;
};

/* Place in the head of a lane's element j, -1 if it has none. */
static __device__ __forceinline__ int place_of(const struct rotate_job *job, int j)
{
    const int lane = threadIdx.x % WARP, half = job->half;
    if (j >= 2 * PAIRS) {
        const int place = 2 * half + (j - 2 * PAIRS) * WARP + lane;
        return place < job->kv.head_dim ? place : -1;
    }
    const int place = j % PAIRS * WARP + lane;
    return place < half ? place + j / PAIRS * half : -1;
}

/* x [PARTS] = norm(x), a warp together.   weight [PARTS] */
static __device__ __forceinline__ void
normalise(float *x, const float *weight, const struct rotate_job *job, const struct row_norm *norm)
{
    const float dim = (float)job->kv.head_dim;
    struct row_moments moments = {0, 1};
    float sum = 0;
    if (norm->layer) {
#pragma unroll
        for (int j = 0; j < PARTS; j++)
            sum += x[j];
        moments.mean = warp_sum(sum) / dim;
        sum = 0;
    }
#pragma unroll
    for (int j = 0; j < PARTS; j++) {
        const float d = place_of(job, j) >= 0 ? x[j] - moments.mean : 0.0f;
        sum += d * d;
    }
    moments.scale = rsqrtf(warp_sum(sum) / dim + norm->eps);
#pragma unroll
    for (int j = 0; j < PARTS; j++) {
        const int place = place_of(job, j);
        x[j] = (x[j] - moments.mean) * moments.scale * weight[j];
        if (norm->bias && place >= 0)
            x[j] += norm->bias[place];
    }
}

/* Turns x [PARTS] by the row's position.  The angle is rounded to f32 before its cosine is taken,
 * as the reference does.   frequency [PAIRS] */
static __device__ __forceinline__ void rotate(float *x, const float *frequency, int half,
                                              int position)
{
#pragma unroll
    for (int j = 0; j < PAIRS; j++)
        if (j * WARP < half) {
            float sine, cosine;
            sincosf((float)position * frequency[j], &sine, &cosine);
            const float a = x[j], b = x[j + PAIRS];
            x[j] = a * cosine - b * sine;
            x[j + PAIRS] = b * cosine + a * sine;
        }
}

/* Element `at` of a cache = x. */
static __device__ __forceinline__ void put(void *cache, enum dtype dtype, size_t at, float x)
{
    if (dtype == DTYPE_F32)
        ((float *)cache)[at] = x;
    else
        ((__nv_bfloat16 *)cache)[at] = __float2bfloat16_rn(x);
}

/* The head's row of the segment that takes this call's rows. */
static __device__ __forceinline__ size_t cache_offset(const struct rotate_job *job, int kv_head,
                                                      int row, int *segment)
{
    const struct step_state *step = job->step;
    *segment = step->append_tail ? KV_TAIL : KV_CONTEXT;
    int at = (step->append_tail ? step->n_tail : step->n_context) + row;
    return ((size_t)kv_head * (size_t)job->kv.capacity[*segment] + (size_t)at) *
           (size_t)job->kv.head_dim;
}

/* Grid (row, group of heads).  Heads are those of q, then k, then v. */
static __global__ void __launch_bounds__(THREADS)
    rotate_append_kernel(const __grid_constant__ struct rotate_job job)
{
    const int warp = threadIdx.x / WARP, row = blockIdx.x, n_kv = job.kv.n_kv_heads;
    const int n_all = job.n_heads + 2 * n_kv, index = blockIdx.y * HEADS + warp;
    const bool is_q = index < job.n_heads, is_k = !is_q && index < job.n_heads + n_kv;
    const struct row_norm *norm = is_q ? &job.q_norm : &job.k_norm;
    const bool is_normed = (is_q || is_k) && norm->present;
    float *qkv = job.qkv + ((size_t)row * (size_t)n_all + (size_t)index) * job.kv.head_dim;
    float x[PARTS], weight[PARTS], frequency[PAIRS];
    dependency_release();
    if (index >= n_all)
        return;
#pragma unroll
    for (int j = 0; j < PARTS; j++)
        weight[j] = is_normed && place_of(&job, j) >= 0 ? norm->weight[place_of(&job, j)] : 0.0f;
#pragma unroll
    for (int j = 0; j < PAIRS; j++)
        frequency[j] = place_of(&job, j) >= 0 ? job.inv_freq[place_of(&job, j)] : 0.0f;
    dependency_wait();

    const int position = job.step->n_context + job.step->n_tail + row;
    int segment;
    const int kv_head = is_q ? 0 : index - job.n_heads - (is_k ? 0 : n_kv);
    const size_t at = cache_offset(&job, kv_head, row, &segment);
#pragma unroll
    for (int j = 0; j < PARTS; j++)
        x[j] = place_of(&job, j) >= 0 ? qkv[place_of(&job, j)] : 0.0f;
    if (is_normed)
        normalise(x, weight, &job, norm);
    if (is_q || is_k) {
        rotate(x, frequency, job.half, position);
#pragma unroll
        for (int j = 0; j < PARTS; j++)
            if (place_of(&job, j) >= 0)
                qkv[place_of(&job, j)] = x[j];
    }
    if (is_q)
        return;
    void *cache = is_k ? job.kv.k[segment] : job.kv.v[segment];
#pragma unroll
    for (int j = 0; j < PARTS; j++)
        if (place_of(&job, j) >= 0)
            put(cache, job.kv.dtype, at + place_of(&job, j), x[j]);
}

void cuda_rotate_append(struct device *dev, float *qkv, int n_heads, const struct kv_layer *kv,
                        const struct rope *rope, const struct norm *q_norm,
                        const struct norm *k_norm, const struct step_state *step, int n_rows)
{
    bool rotates = rope && rope->inv_freq;
    assert(!rotates || (rope->n_rot % 2 == 0 && rope->n_rot <= kv->head_dim));
    assert(kv->dtype == DTYPE_F32 || kv->dtype == DTYPE_BF16);
    assert(kv->head_dim <= MAX_HEAD_DIM);
    if (dev->failed || n_rows <= 0)
        return;
    struct rotate_job job = {};
    job.qkv = qkv;
    job.n_heads = n_heads;
    job.kv = *kv;
    job.inv_freq = rotates ? rope->inv_freq : NULL;
    job.half = rotates ? rope->n_rot / 2 : 0;
    job.q_norm = row_norm_of(q_norm);
    job.k_norm = row_norm_of(k_norm);
    job.step = step;
    dim3 grid(n_rows, ceil_div(n_heads + 2 * kv->n_kv_heads, HEADS));
    cuda_launch(dev, rotate_append_kernel, grid, THREADS, 0, job);
}
