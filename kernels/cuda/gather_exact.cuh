/* Attention to items (attention_gather.cuh) and its probe in plain f32, for any dtype and head
 * dimension up to 256: the way that is compared with the cpu backend, and the way of what the
 * faster one does not take.
 *
 * A block has one (row, head), its warps take 32 keys in turn.  A lane scores one key; then the
 * lanes share out the dims and add up the values. */
#ifndef ATTNSCOPE_KERNELS_CUDA_GATHER_EXACT_CUH
#define ATTNSCOPE_KERNELS_CUDA_GATHER_EXACT_CUH

#include "kernels/cuda/attention_gather.cuh"

enum { EXACT_WARPS = 8, EXACT_DIM = 256, LANE_DIMS = EXACT_DIM / WARP };

struct exact_shared {
    struct gather_item item;
    float q[EXACT_DIM]; /* scaled */
    float out[EXACT_WARPS][EXACT_DIM];
    struct query_sums sums[EXACT_WARPS];
};

/* Lane l has dims l + 32 i in acc [i]. */
struct exact_state {
    struct query_sums sums; /* the same in all lanes; scores are natural */
    float acc[LANE_DIMS];
};

/* One lane's key. */
struct exact_key {
    int key;
    bool attended, kept; /* kept: probe */
    float bias;
};

static __device__ __forceinline__ float exact_dot(const float *k, const float *q, int dim)
{
    float sum = 0;
    for (int d = 0; d < dim; d += 4) {
        float4 x = *(const float4 *)(k + d);
        sum = fmaf(q[d], x.x, sum);
        sum = fmaf(q[d + 1], x.y, sum);
        sum = fmaf(q[d + 2], x.z, sum);
        sum = fmaf(q[d + 3], x.w, sum);
    }
    return sum;
}

static __device__ __forceinline__ float exact_dot(const __nv_bfloat16 *k, const float *q, int dim)
{
    float sum = 0;
    for (int d = 0; d < dim; d += 8) {
        uint4 x = *(const uint4 *)(k + d);
        uint32_t words[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            sum = fmaf(q[d + 2 * i], __uint_as_float(words[i] << 16), sum);
            sum = fmaf(q[d + 2 * i + 1], __uint_as_float(words[i] & 0xffff0000u), sum);
        }
    }
    return sum;
}

static __device__ __forceinline__ bool in_range(struct key_range range, int key)
{
    return key >= range.begin && key < range.end;
}

/* Key number `at` of the item, for one head. */
template <bool PROBE>
static __device__ __forceinline__ struct exact_key exact_key_at(const struct gather_job *job,
                                                                const struct gather_item *item,
                                                                int row, int head, int at)
{
    const struct selection *sel = &job->sel;
    struct exact_key out = {};
    if (at >= item->n_keys)
        return out;
    size_t slot = selected_slot(sel, row, head);
    out.attended = true;
    if (at < item->n_ranged) {
        out.key = gather_ranged_key(item, at);
    } else {
        int index = row * sel->n_unions + head / sel->union_heads, bit = head % sel->union_heads;
        size_t entry = (size_t)index * sel->stride + (at - item->n_ranged);
        uint32_t x = sel->list[entry];
        out.key = (int)(x & KEY_MASK);
        out.attended = x >> (KEY_BITS + bit) & 1;
        if (sel->sampled && (sel->list_drawn[entry] >> bit & 1))
            out.bias =
                -logf(sel->mixed ? sel->key_prob[slot * sel->stride + out.key] : sel->prob[slot]);
    }
    if (PROBE) {
        out.kept = in_range(item->kept[0], out.key) || in_range(item->kept[1], out.key);
        if (sel->listed && !item->full) {
            size_t word = slot * sel->n_words + out.key / 32;
            uint32_t bits = sel->taken[word] | (sel->sampled ? sel->drawn[word] : 0);
            out.kept = out.kept || (bits >> out.key % 32 & 1);
        }
    }
    return out;
}

template <typename T>
static __device__ __forceinline__ const T *exact_row(const struct gather_job *job,
                                                     const struct call_shape *shape,
                                                     void *const segments[], int head, int key)
{
    int segment;
    size_t offset = key_offset(&job->att, shape, head / job->sel.group, key, &segment);
    return (const T *)segments[segment] + offset;
}

/* A warp adds keys number first .. first + 31. */
template <typename T, bool PROBE>
static __device__ __forceinline__ void
exact_add(const struct gather_job *job, const struct call_shape *shape,
          const struct gather_item *item, struct exact_state *state, const float *q, int row,
          int head, int first, int lane)
{
    int dim = job->att.kv.head_dim;
    struct query_sums *sums = &state->sums;
    struct exact_key mine = exact_key_at<PROBE>(job, item, row, head, first + lane);
    float z = -INFINITY;
    if (mine.attended)
        z = exact_dot(exact_row<T>(job, shape, job->att.kv.k, head, mine.key), q, dim) + mine.bias;
    float max = fmaxf(sums->max, warp_max(z));
    if (max == -INFINITY)
        return;
    float p = mine.attended ? expf(z - max) : 0.0f, factor = expf(sums->max - max);
    sums->max = max;
    sums->sum = sums->sum * factor + warp_sum(p);
    if (PROBE) {
        bool own = mine.attended && mine.key == shape->first_position + row;
        sums->mass = sums->mass * factor + warp_sum(mine.kept ? p : 0.0f);
        sums->own = fmaxf(sums->own, warp_max(own ? z : -INFINITY));
        sums->n_kept += (float)__popc(__ballot_sync(0xffffffffu, mine.kept));
    }
#pragma unroll
    for (int i = 0; i < LANE_DIMS; i++)
        state->acc[i] *= factor;
#pragma unroll 4
    for (int j = 0; j < WARP; j++) {
        float weight = __shfl_sync(0xffffffffu, p, j);
        int key = __shfl_sync(0xffffffffu, mine.key, j);
        if (weight == 0.0f)
            continue;
        const T *v = exact_row<T>(job, shape, job->att.kv.v, head, key);
#pragma unroll
        for (int i = 0; i < LANE_DIMS; i++)
            if (lane + WARP * i < dim)
                state->acc[i] = fmaf(weight, to_f32(v[lane + WARP * i]), state->acc[i]);
    }
}

/* By what the sum of exp(s - max) v is to be multiplied; see attention_factor of the cpu backend.
 */
static __device__ __forceinline__ float exact_factor(const struct attention *att, int head,
                                                     const struct query_sums *sums)
{
    if (!(sums->sum > 0))
        return sums->sum == sums->sum ? 0.0f : sums->sum;
    if (!att->sink_logits)
        return 1.0f / sums->sum;
    float sink = att->sink_logits[head], top = fmaxf(sink, sums->max);
    float factor = expf(sums->max - top);
    return factor / (sums->sum * factor + expf(sink - top));
}

/* The first warp puts together what all have, and writes the out or the probe. */
template <bool PROBE>
static __device__ __forceinline__ void exact_join(const struct gather_job *job,
                                                  const struct exact_shared *shared, int row,
                                                  int head, int lane)
{
    int dim = job->att.kv.head_dim;
    size_t slot = (size_t)row * job->att.n_heads + head;
    float *out = job->att.out + slot * dim;
    struct query_sums all = {-INFINITY, 0, 0, -INFINITY, 0};
    float factors[EXACT_WARPS];
    for (int w = 0; w < EXACT_WARPS; w++)
        all.max = fmaxf(all.max, shared->sums[w].max);
    for (int w = 0; w < EXACT_WARPS; w++) {
        const struct query_sums *part = &shared->sums[w];
        factors[w] = part->max == -INFINITY ? 0.0f : expf(part->max - all.max);
        all.sum += factors[w] * part->sum;
        all.mass += factors[w] * part->mass;
        all.own = fmaxf(all.own, part->own);
        all.n_kept += part->n_kept;
    }
    float scale = exact_factor(&job->att, head, &all);
    double difference = 0, norm = 0;
    for (int d = lane; d < dim; d += WARP) {
        float x = 0;
        for (int w = 0; w < EXACT_WARPS; w++)
            x += factors[w] * shared->out[w][d];
        x *= scale;
        if (PROBE) {
            double delta = (double)out[d] - x;
            difference += delta * delta;
            norm += (double)x * x;
        } else {
            out[d] = x;
        }
    }
    if (PROBE)
        probe_write(job, &shared->item, slot, &all,
                    all.own == -INFINITY ? 0.0f : expf(all.own - all.max), difference, norm);
}

template <typename T, bool PROBE>
static __global__ void __launch_bounds__((int)EXACT_WARPS *WARP)
    exact_kernel(const __grid_constant__ struct gather_job job)
{
    __shared__ struct exact_shared shared;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, dim = job.att.kv.head_dim;
    int row = blockIdx.x / job.att.n_heads, head = blockIdx.x % job.att.n_heads;
    int index = row * job.sel.n_unions + head / job.sel.union_heads;
    dependency_wait();
    dependency_release();
    struct call_shape shape = call_shape(&job.att);
    if (threadIdx.x == 0) {
        int n_list = !PROBE && job.sel.listed ? job.sel.n_list[index] : 0;
        struct row_plan plan = resolve_plan(&job.sel.plan, &job.att, &shape, row);
        shared.item = gather_find_item<PROBE>(&job, &shape, &plan, n_list, index);
        if (!PROBE && job.att.counts && head % job.sel.union_heads == 0)
            gather_count(&job, &plan, &shared.item, n_list);
    }
    for (int d = threadIdx.x; d < dim; d += blockDim.x)
        shared.q[d] =
            job.att.q[(size_t)row * job.att.q_stride + (size_t)head * dim + d] * job.att.scale;
    __syncthreads();
    struct exact_state state = {{-INFINITY, 0, 0, -INFINITY, 0}, {}};
    for (int at = warp * WARP; at < shared.item.n_keys; at += (int)EXACT_WARPS * WARP)
        exact_add<T, PROBE>(&job, &shape, &shared.item, &state, shared.q, row, head, at, lane);
#pragma unroll
    for (int i = 0; i < LANE_DIMS; i++)
        shared.out[warp][lane + WARP * i] = state.acc[i];
    if (lane == 0)
        shared.sums[warp] = state.sums;
    __syncthreads();
    if (warp == 0)
        exact_join<PROBE>(&job, &shared, row, head, lane);
}

template <bool PROBE> static void exact_start(struct device *dev, const struct gather_job *job)
{
    const struct attention *att = &job->att;
    assert(att->kv.head_dim % 8 == 0 && att->kv.head_dim <= EXACT_DIM);
    dim3 grid(att->n_rows * att->n_heads), block((int)EXACT_WARPS * WARP);
    if (att->kv.dtype == DTYPE_BF16)
        cuda_launch(dev, exact_kernel<__nv_bfloat16, PROBE>, grid, block, 0, *job);
    else
        cuda_launch(dev, exact_kernel<float, PROBE>, grid, block, 0, *job);
}

#endif
