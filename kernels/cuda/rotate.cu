/* What happens to q, k and v between the projection and attention: head norms, rotation, and the
 * new rows of the KV cache.
 *
 * A block owns HEADS heads of one row, a warp one of them; the block shares the cosines and sines
 * of the row's position. */
#include "kernels/cuda/norm.cuh"

enum { HEADS = 8, THREADS = HEADS * WARP, MAX_HEAD_DIM = 256, PER_LANE = MAX_HEAD_DIM / WARP };

struct rotate_job {
    float *qkv; /* [n_rows, n_heads + 2 n_kv_heads, head_dim] */
    int n_heads;
    struct kv_layer kv;
    const float *inv_freq; /* [half] or NULL */
    int half;              /* n_rot / 2; 0 without rotation */
    struct row_norm q_norm, k_norm;
    const struct step_state *step;
};

/* head [dim] (shared memory) = norm(from [dim]), a warp together. */
static __device__ __forceinline__ void load_head(float *head, const float *from, int dim,
                                                 struct row_norm norm)
{
    const int lane = threadIdx.x % WARP;
    float x[PER_LANE];
    struct row_moments moments = {0, 1};
#pragma unroll
    for (int i = 0; i < PER_LANE; i++)
        x[i] = lane + i * WARP < dim ? from[lane + i * WARP] : 0.0f;
    if (norm.present) {
        float sum = 0;
        if (norm.layer) {
#pragma unroll
            for (int i = 0; i < PER_LANE; i++)
                sum += x[i];
            moments.mean = warp_sum(sum) / (float)dim;
            sum = 0;
        }
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) {
            float d = lane + i * WARP < dim ? x[i] - moments.mean : 0.0f;
            sum += d * d;
        }
        moments.scale = rsqrtf(warp_sum(sum) / (float)dim + norm.eps);
    }
#pragma unroll
    for (int i = 0; i < PER_LANE; i++)
        if (lane + i * WARP < dim)
            head[lane + i * WARP] = normalised(x[i], lane + i * WARP, moments, &norm);
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
    __shared__ float cosine[MAX_HEAD_DIM / 2], sine[MAX_HEAD_DIM / 2];
    __shared__ float heads[HEADS][MAX_HEAD_DIM];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, row = blockIdx.x;
    const int dim = job.kv.head_dim, n_kv = job.kv.n_kv_heads;
    const int n_all = job.n_heads + 2 * n_kv, index = blockIdx.y * HEADS + warp;
    const bool is_q = index < job.n_heads, is_k = !is_q && index < job.n_heads + n_kv;
    const float frequency = threadIdx.x < job.half ? job.inv_freq[threadIdx.x] : 0.0f;
    struct row_norm norm = is_q ? job.q_norm : job.k_norm;
    norm.present = norm.present && (is_q || is_k);
    float *qkv = job.qkv + ((size_t)row * (size_t)n_all + (size_t)index) * (size_t)dim;
    float *head = heads[warp];
    dependency_release();
    dependency_wait();

    const int position = job.step->n_context + job.step->n_tail + row;
    if (index < n_all)
        load_head(head, qkv, dim, norm);
    /* The angle is rounded to f32 before its cosine is taken, as the reference does. */
    if (threadIdx.x < job.half)
        sincosf((float)position * frequency, &sine[threadIdx.x], &cosine[threadIdx.x]);
    __syncthreads();
    if (index >= n_all)
        return;
    if (is_q || is_k) {
        for (int i = lane; i < job.half; i += WARP) {
            float a = head[i], b = head[i + job.half];
            head[i] = a * cosine[i] - b * sine[i];
            head[i + job.half] = b * cosine[i] + a * sine[i];
        }
        __syncwarp();
        for (int i = lane; i < dim; i += WARP)
            qkv[i] = head[i];
    }
    if (is_q)
        return;
    int segment;
    size_t at = cache_offset(&job, index - job.n_heads - (is_k ? 0 : n_kv), row, &segment);
    void *cache = is_k ? job.kv.k[segment] : job.kv.v[segment];
    for (int i = lane; i < dim; i += WARP) {
        if (job.kv.dtype == DTYPE_F32)
            ((float *)cache)[at + i] = head[i];
        else
            ((__nv_bfloat16 *)cache)[at + i] = __float2bfloat16_rn(head[i]);
    }
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
