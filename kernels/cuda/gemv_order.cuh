/* How few rows times a matrix are cut into tiles, and the order in which warps take them; see
 * gemv.cu. */
#ifndef ATTNSCOPE_KERNELS_CUDA_GEMV_ORDER_CUH
#define ATTNSCOPE_KERNELS_CUDA_GEMV_ORDER_CUH

#include "kernels/cuda/gemv_ring.cuh"
#include "kernels/cuda/linear.cuh"

enum { WARPS = 8, THREADS = WARPS * WARP, MIN_STAGES = 2, MAX_STAGES = 4 };

/* Shape of a tile.  More rows of x take more rows of weights at once, so that what is read of x
 * serves more products. */
template <int ROWS> constexpr int GROUP = ROWS == 1 ? 2 : ROWS == 8 ? 8 : 4;
template <int ROWS> constexpr int PIECES = 8 / GROUP<ROWS>; /* of 16 bytes per lane and row */
template <typename T> constexpr int PER_PIECE = 16 / (int)sizeof(T);
template <typename T, int ROWS> constexpr int WIDTH = WARP *PER_PIECE<T> *PIECES<ROWS>;
template <int ROWS> constexpr int LINE_BYTES = WARP * 16 * PIECES<ROWS>; /* of a row in a tile */
template <int ROWS> constexpr int STAGE_BYTES = GROUP<ROWS> *LINE_BYTES<ROWS>;

struct gemv_job {
    struct linear_call call;
    bool pairs;     /* SwiGLU: rows 2i and 2i + 1 of a group are gate and up of an output */
    bool read_once; /* see READ_ONCE_BYTES */
    int n_groups;   /* of the matrix */
    int block_groups, n_longer_blocks; /* a block's groups; the first blocks have one more */
    int n_tiles;                       /* of a group */
    int pass_tiles;                    /* of them whose x is in shared memory at once */
    int step_groups, step_tiles; /* WARPS / n_tiles and the rest: a warp's way to its next tile */
    int n_columns;               /* of a line of partial: weight rows of a segment times ROWS */
    int n_buffers;               /* of partial: 2 if a block has several segments, used in turn */
    int n_stages;                /* of a warp's ring */
};

/* --- The order of tiles ----------------------------------------------------------------------- */

/* Groups [begin, end). */
struct group_range {
    int begin, end;
};

static __device__ __forceinline__ struct group_range block_groups(const struct gemv_job *job)
{
    const int block = (int)blockIdx.x;
    struct group_range range;
    range.begin = block * job->block_groups + min(block, job->n_longer_blocks);
    range.end = range.begin + job->block_groups + (block < job->n_longer_blocks);
    return range;
}

/* A place in the order of (segment, pass, group, tile).  A sheet is one pass over a segment. */
struct walk {
    int sheet;
    int group, group_begin, group_end; /* of the segment */
    int tile, tile_begin, tile_end;    /* of the pass */
    int block_end;
};

/* Puts the walk at the start of the next sheet; beyond the last, group is block_end. */
static __device__ __forceinline__ void next_sheet(struct walk *at, const struct gemv_job *job,
                                                  int segment_groups)
{
    at->sheet++;
    at->tile_begin = at->tile_end;
    if (at->tile_begin == job->n_tiles) {
        at->tile_begin = 0;
        at->group_begin = at->group_end;
        at->group_end = min(at->group_begin + segment_groups, at->block_end);
    }
    at->tile_end = min(at->tile_begin + job->pass_tiles, job->n_tiles);
    at->group = at->group_begin;
    at->tile = at->tile_begin;
}

/* Carries tiles beyond the pass over into groups, and groups beyond the segment into sheets. */
static __device__ __forceinline__ void settle(struct walk *at, const struct gemv_job *job,
                                              int segment_groups)
{
    for (;;) {
        const int width = at->tile_end - at->tile_begin;
#pragma unroll 1
        for (; at->tile >= at->tile_end; at->tile -= width)
            at->group++;
        if (at->group < at->group_end || at->group_begin == at->block_end)
            return;
        const int left = (at->group - at->group_end) * width + at->tile - at->tile_begin;
        next_sheet(at, job, segment_groups);
        at->tile += left;
    }
}

/* Goes on by WARPS tiles of the order. */
static __device__ __forceinline__ void walk_on(struct walk *at, const struct gemv_job *job,
                                               int segment_groups)
{
    const bool whole = job->pass_tiles == job->n_tiles;
    at->group += whole ? job->step_groups : 0;
    at->tile += whole ? job->step_tiles : (int)WARPS;
    settle(at, job, segment_groups);
}

/* The first tile of a warp of the block. */
static __device__ __forceinline__ struct walk walk_begin(const struct gemv_job *job,
                                                         int segment_groups, int warp)
{
    struct group_range mine = block_groups(job);
    struct walk at = {};
    at.group = at.group_begin = mine.begin;
    at.group_end = min(mine.begin + segment_groups, mine.end);
    at.tile = warp;
    at.tile_end = min(job->pass_tiles, job->n_tiles);
    at.block_end = mine.end;
    settle(&at, job, segment_groups);
    return at;
}

/* Row of the matrix that is row r of a group; the last group may repeat the last rows. */
template <int ROWS>
static __device__ __forceinline__ int weight_row(const struct gemv_job *job, int group, int r)
{
    if (job->pairs)
        return min(group * (GROUP<ROWS> / 2) + r / 2, job->call.n_y - 1) + r % 2 * job->call.n_y;
    return min(group * GROUP<ROWS> + r, job->call.w.n_out - 1);
}

/* Starts the copy of a tile of a group into a stage. */
template <typename T, int ROWS>
static __device__ __forceinline__ void fetch(const struct gemv_job *job, int group, int tile,
                                             uint32_t stage, uint32_t barrier, uint64_t policy)
{
    const int row_bytes = job->call.w.n_in * (int)sizeof(T), from = tile * LINE_BYTES<ROWS>;
    const uint32_t n_bytes = (uint32_t)min(row_bytes - from, LINE_BYTES<ROWS>);
    const char *w = (const char *)job->call.w.w + from;
    ring_expect(barrier, GROUP<ROWS> * n_bytes);
#pragma unroll
    for (int r = 0; r < GROUP<ROWS>; r++)
        ring_copy<LINE_BYTES<ROWS>>(stage + r * LINE_BYTES<ROWS>,
                                    w + (size_t)weight_row<ROWS>(job, group, r) * (size_t)row_bytes,
                                    n_bytes, barrier, policy);
    ring_commit(barrier);
}

#endif
