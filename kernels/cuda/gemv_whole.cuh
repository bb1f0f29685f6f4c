/* One row of x times a matrix of very many rows, such as the vocabulary's: a warp has whole groups
 * of weight rows to itself, WARPS groups apart, and finishes their outputs alone.  Rings, tiles and
 * x are as in gemv.cu. */
#ifndef ATTNSCOPE_KERNELS_CUDA_GEMV_WHOLE_CUH
#define ATTNSCOPE_KERNELS_CUDA_GEMV_WHOLE_CUH

#include "kernels/cuda/gemv_tile.cuh"
#include "kernels/cuda/gemv_x.cuh"

/* A warp's tiles in order: those of its first group, then of its next. */
struct whole_walk {
    int group, tile;
};

static __device__ __forceinline__ void whole_walk_on(struct whole_walk *at, int n_tiles)
{
    if (++at->tile == n_tiles) {
        at->tile = 0;
        at->group += WARPS;
    }
}

/* The output that a lane's sum after warp_sum_of becomes; -1 if none. */
template <int ROWS>
static __device__ __forceinline__ int whole_output(const struct gemv_job *job, int group)
{
    const int lane = threadIdx.x % WARP, r = lane / (WARP / GROUP<ROWS>);
    const int index = job->pairs ? group * (GROUP<ROWS> / 2) + r / 2 : group * GROUP<ROWS> + r;
    const bool writes = lane % (WARP / GROUP<ROWS>) == 0 && !(job->pairs && r % 2);
    return writes && index < job->call.n_y ? index : -1;
}

/* Shared memory: rings [WARPS, n_stages, STAGE_BYTES], x [n_tiles, WIDTH] float. */
template <typename T>
static __global__ void __launch_bounds__(THREADS, 2)
    gemv_whole_kernel(const __grid_constant__ struct gemv_job job)
{
    constexpr int ROWS = 1;
    extern __shared__ __align__(128) char shared[];
    __shared__ uint64_t barrier_memory[WARPS][MAX_STAGES];
    __shared__ struct x_norm norm;
    const int warp = threadIdx.x / WARP, n_stages = job.n_stages, n_tiles = job.n_tiles;
    const struct linear_call *call = &job.call;
    char *ring = shared + kept(warp * n_stages * STAGE_BYTES<ROWS>);
    float4 *x = (float4 *)(shared + WARPS * n_stages * STAGE_BYTES<ROWS>);
    const uint32_t ring_at = shared_address(ring), barriers = shared_address(barrier_memory[warp]);
    const uint64_t policy = cache_policy(job.read_once);

    ring_open(barriers, n_stages);
    const struct group_range mine = block_groups(&job);
    struct whole_walk ahead = {mine.begin + warp, 0};
#pragma unroll 1
    for (int stage = 0; stage < n_stages && ahead.group < mine.end; stage++) {
        fetch<T, ROWS>(&job, ahead.group, ahead.tile, ring_at + stage * STAGE_BYTES<ROWS>,
                       barriers + 8 * stage, policy);
        whole_walk_on(&ahead, n_tiles);
    }
    dependency_release();
    const struct x_columns columns = x_columns_of<T, ROWS>(&job, 0, n_tiles);
    load_norm_weight<T>(&call->norm, columns, x);
    dependency_wait();
    if (call->norm.present && call->norm.layer)
        layer_moments(call, &norm);
    float squares[ROWS] = {};
    load_x<T, ROWS>(&job, columns, true, x, squares, &norm);
    __syncthreads();

    const float scale = row_scale(call, &norm, 0);
    int stage = 0;
    uint32_t parity = 0;
#pragma unroll 1
    for (int group = mine.begin + warp; group < mine.end; group += WARPS) {
        const int index = whole_output<ROWS>(&job, group);
        const float before = index >= 0 && call->add ? call->y[index] : 0.0f;
        const float bias = index >= 0 && call->w.bias ? call->w.bias[index] : 0.0f;
        const float bias_up =
            index >= 0 && call->w.bias && job.pairs ? call->w.bias[index + call->n_y] : 0.0f;
        float sums[GROUP<ROWS>] = {};
#pragma unroll 1
        for (int tile = 0; tile < n_tiles; tile++) {
            const int n_valid = call->w.n_in - tile * WIDTH<T, ROWS>;
            char *from = ring + stage * STAGE_BYTES<ROWS>;
            const uint32_t barrier = barriers + 8 * stage;
            ring_wait(barrier, parity);
            if (n_valid < WIDTH<T, ROWS>)
                clear_tail<T, ROWS>(from, n_valid);
            multiply<T, ROWS>(sums, from, x + tile * (WIDTH<T, ROWS> / 4), 0);
            __syncwarp();
            if (ahead.group < mine.end) {
                fetch<T, ROWS>(&job, ahead.group, ahead.tile, ring_at + stage * STAGE_BYTES<ROWS>,
                               barrier, policy);
                whole_walk_on(&ahead, n_tiles);
            }
            if (++stage == n_stages) {
                stage = 0;
                parity ^= 1;
            }
        }
        const float sum = warp_sum_of<GROUP<ROWS>>(sums) * scale;
        const float up = __shfl_xor_sync(0xffffffffu, sum, WARP / GROUP<ROWS>);
        if (index < 0)
            continue;
        if (job.pairs)
            call->y[index] = silu(sum + bias) * (up + bias_up);
        else
            call->y[index] = activated(sum + bias, call->activation) + before;
    }
}

#endif
