/* Putting together what the warps of a block, and then the blocks of an item, have of a head.
 *
 * One warp does it for one head, always in the same order.  Scores are in powers of two. */
#ifndef ATTNSCOPE_KERNELS_CUDA_GATHER_JOIN_CUH
#define ATTNSCOPE_KERNELS_CUDA_GATHER_JOIN_CUH

#include "kernels/cuda/attention_gather.cuh"
#include "kernels/cuda/gather_tile.cuh"

enum { PART_SUMS = 8 }; /* floats behind a part's out: a struct query_sums, padded */

/* A head's out in a warp: lane l has dims 4 l + 128 i .. + 3 in [i]. */
#define HEAD_VALUES(DIM) ((DIM + 127) / 128)

/* By what the sum of 2^(s - max) v is to be multiplied: the sink logit is one more key, without a
 * value.  0 where there is no key. */
static __device__ __forceinline__ float output_factor(const struct attention *att, int head,
                                                      const struct query_sums *sums)
{
    if (!(sums->sum > 0))
        return sums->sum == sums->sum ? 0.0f : sums->sum;
    if (!att->sink_logits)
        return 1.0f / sums->sum;
    float sink = att->sink_logits[head] * LOG2_E, top = fmaxf(sink, sums->max);
    float factor = exp2_fast(sums->max - top);
    return factor / (sums->sum * factor + exp2_fast(sink - top));
}

/* 2^(max - top), 0 for a part without keys. */
static __device__ __forceinline__ float part_factor(float max, float top)
{
    return max == -INFINITY ? 0.0f : exp2_fast(max - top);
}

/* Writes the out of the item's head number `head`, or compares it with what is there. */
template <int DIM, bool PROBE>
static __device__ __forceinline__ void
head_finish(const struct gather_job *job, const struct gather_item *item, int head,
            const struct query_sums *sums, const float4 value[], int lane)
{
    size_t slot = (size_t)item->row * job->att.n_heads + item->first_head + head;
    float *out = job->att.out + slot * DIM;
    float factor = output_factor(&job->att, item->first_head + head, sums);
    double difference = 0, norm = 0;
#pragma unroll
    for (int i = 0; i < HEAD_VALUES(DIM); i++) {
        int d = 4 * lane + 128 * i;
        if (d >= DIM)
            continue;
        float4 v = value[i];
        v.x *= factor, v.y *= factor, v.z *= factor, v.w *= factor;
        if (!PROBE) {
            *(float4 *)(out + d) = v;
            continue;
        }
        float4 was = *(const float4 *)(out + d);
        double x = (double)was.x - v.x, y = (double)was.y - v.y;
        double z = (double)was.z - v.z, w = (double)was.w - v.w;
        difference += x * x + y * y + z * z + w * w;
        norm += (double)v.x * v.x + (double)v.y * v.y + (double)v.z * v.z + (double)v.w * v.w;
    }
    if (PROBE)
        probe_write(job, item, slot, sums, part_factor(sums->own, sums->max), difference, norm);
}

template <bool PROBE>
static __device__ __forceinline__ void sums_add(struct query_sums *all,
                                                const struct query_sums *part, float factor)
{
    all->sum += factor * part->sum;
    if (PROBE) {
        all->mass += factor * part->mass;
        all->own = fmaxf(all->own, part->own);
        all->n_kept += part->n_kept;
    }
}

/* Over the lanes of a warp. */
template <bool PROBE> static __device__ __forceinline__ void sums_reduce(struct query_sums *all)
{
    all->sum = warp_sum(all->sum);
    if (PROBE) {
        all->mass = warp_sum(all->mass);
        all->own = warp_max(all->own);
        all->n_kept = warp_sum(all->n_kept);
    }
}

static __device__ __forceinline__ void add_scaled(float4 *to, float factor, float4 x)
{
    to->x += factor * x.x, to->y += factor * x.y, to->z += factor * x.z, to->w += factor * x.w;
}

/* A block's part of a head: [DIM] sum of 2^(s - max) v, then the sums. */
template <int DIM>
static __device__ __forceinline__ float *part_of(const struct gather_job *job, int block, int head)
{
    return job->parts + ((size_t)block * TILE_HEADS + head) * (DIM + PART_SUMS);
}

/* The block's warps: warp w has sums[w][head] and its out at outs + w * out_bytes, as tile_finish
 * left it.  Finishes the head, or writes the block's part of it. */
template <int DIM, bool PROBE>
static __device__ __forceinline__ void
join_warps(const struct gather_job *job, const struct gather_item *item,
           const struct query_sums (*sums)[TILE_HEADS], const char *outs, size_t out_bytes,
           int head, bool whole)
{
    int lane = threadIdx.x % WARP, n_warps = blockDim.x / WARP;
    struct query_sums all = {-INFINITY, 0, 0, -INFINITY, 0}, mine = all;
    if (lane < n_warps)
        mine = sums[lane][head];
    all.max = warp_max(mine.max);
    float factor = part_factor(mine.max, all.max);
    sums_add<PROBE>(&all, &mine, factor);
    sums_reduce<PROBE>(&all);
    float4 value[HEAD_VALUES(DIM)] = {};
    for (int w = 0; w < n_warps; w++) {
        float f = __shfl_sync(0xffffffffu, factor, w);
        const float *from = (const float *)(outs + w * out_bytes) + head * (DIM + 4);
#pragma unroll
        for (int i = 0; i < HEAD_VALUES(DIM); i++)
            if (4 * lane + 128 * i < DIM)
                add_scaled(&value[i], f, *(const float4 *)(from + 4 * lane + 128 * i));
    }
    if (whole) {
        head_finish<DIM, PROBE>(job, item, head, &all, value, lane);
        return;
    }
    float *to = part_of<DIM>(job, blockIdx.x, head);
#pragma unroll
    for (int i = 0; i < HEAD_VALUES(DIM); i++)
        if (4 * lane + 128 * i < DIM)
            *(float4 *)(to + 4 * lane + 128 * i) = value[i];
    if (lane == 0)
        *(struct query_sums *)(to + DIM) = all;
}

/* What a lane reads of one block's part of a head.  Past L1, which may not have what other blocks
 * wrote. */
template <int DIM>
static __device__ __forceinline__ void load_values(float4 value[HEAD_VALUES(DIM)],
                                                   const struct gather_job *job, int block,
                                                   int head, int lane)
{
    const float *from = part_of<DIM>(job, block, head) + 4 * lane;
#pragma unroll
    for (int i = 0; i < HEAD_VALUES(DIM); i++)
        if (4 * lane + 128 * i < DIM)
            value[i] = __ldcg((const float4 *)(from + 128 * i));
}

/* The sums of n blocks from first_block on, of which lane l takes every 32nd.  *factors [n]: by
 * what each is to be multiplied; the warp's own memory. */
template <int DIM, bool PROBE>
static __device__ __forceinline__ struct query_sums
join_sums(const struct gather_job *job, float *factors, int head, int first_block, int n, int lane)
{
    struct query_sums all = {-INFINITY, 0, 0, -INFINITY, 0}, mine = all;
    for (int i = lane; i < n; i += WARP) {
        const float *from = part_of<DIM>(job, first_block + i, head) + DIM;
        float4 x = __ldcg((const float4 *)from);
        struct query_sums part = {x.x, x.y, x.z, x.w, PROBE ? __ldcg(from + 4) : 0};
        float top = fmaxf(mine.max, part.max), factor = part_factor(mine.max, top);
        mine.sum *= factor;
        mine.mass *= factor;
        sums_add<PROBE>(&mine, &part, part_factor(part.max, top));
        mine.max = top;
        factors[i] = part.max;
    }
    all.max = warp_max(mine.max);
    sums_add<PROBE>(&all, &mine, part_factor(mine.max, all.max));
    sums_reduce<PROBE>(&all);
    for (int i = lane; i < n; i += WARP)
        factors[i] = part_factor(factors[i], all.max);
    __syncwarp();
    return all;
}

/* Finishes a head from the parts of n blocks from first_block on.  The first parts are asked for
 * before their sums are known, since waiting is all that this costs. */
template <int DIM, bool PROBE>
static __device__ __forceinline__ void join_blocks(const struct gather_job *job,
                                                   const struct gather_item *item, float *factors,
                                                   int head, int first_block, int n)
{
    enum { AHEAD = 16 / HEAD_VALUES(DIM) };
    int lane = threadIdx.x % WARP;
    float4 ahead[AHEAD][HEAD_VALUES(DIM)] = {}, value[HEAD_VALUES(DIM)] = {};
#pragma unroll
    for (int p = 0; p < AHEAD; p++)
        if (p < n)
            load_values<DIM>(ahead[p], job, first_block + p, head, lane);
    struct query_sums all = join_sums<DIM, PROBE>(job, factors, head, first_block, n, lane);
#pragma unroll
    for (int p = 0; p < AHEAD; p++)
        for (int i = 0; p < n && i < HEAD_VALUES(DIM); i++)
            add_scaled(&value[i], factors[p], ahead[p][i]);
#pragma unroll 4
    for (int p = AHEAD; p < n; p++) {
        float4 next[HEAD_VALUES(DIM)] = {};
        load_values<DIM>(next, job, first_block + p, head, lane);
        for (int i = 0; i < HEAD_VALUES(DIM); i++)
            add_scaled(&value[i], factors[p], next[i]);
    }
    head_finish<DIM, PROBE>(job, item, head, &all, value, lane);
    __syncwarp(); /* before factors become those of another head */
}

/* Counts the block's part of an item as written; true in the block whose part was the last.  Every
 * thread calls it, after its writes: the barriers and the one thread's atomic order them all. */
static __device__ __forceinline__ bool part_is_last(uint32_t *ticket, int n_parts, bool *is_last)
{
    __syncthreads();
    if (threadIdx.x == 0) {
        *is_last = ticket_take(ticket) == (unsigned)n_parts - 1;
        if (*is_last)
            *ticket = 0;
    }
    __syncthreads();
    return *is_last;
}

#endif
