/* Blocks that draw one sample together, as a cluster where there are clusters, and how they meet
 * without a launch in between.  (Thresholds have teams of their own, select_team.cuh, whose last
 * block speaks for all: faster for what they do.)
 *
 * A choice (a row, and a head or group) is split over the blocks of a team, each with a slice of
 * the keys.  Every block keeps a board: words that it tells the others.  They meet, and then each
 * reads all boards and comes to the same result by itself, so that one meeting is one trip.
 *
 * On sm_90 a team is a cluster: boards are read in the other blocks' shared memory.  Before, a
 * board is copied to device memory and the blocks meet by a counter there; they take their place
 * from a ticket, so that those that a team waits for have either started or will start next.  A
 * choice small enough for one block needs none of this and takes the same way.
 *
 * The memory is a selection's select_work: a ticket, then a slot per unit (a block of a team),
 * whose counters a team uses in its first unit's slot.  The ticket is zero between operations, a
 * counter a multiple of the size of team that it is for. */
#ifndef ATTNSCOPE_KERNELS_CUDA_SELECT_CLUSTER_CUH
#define ATTNSCOPE_KERNELS_CUDA_SELECT_CLUSTER_CUH

#include "kernels/cuda/selection.cuh"

enum {
    TEAM_MAX = 16,        /* blocks, a power of two as all sizes are */
    TEAM_PORTABLE = 8,    /* of a cluster on any device that has them */
    TEAM_BOARD = 9216,    /* words */
    TEAM_COUNTERS = 32,   /* words: arrivals by size of team */
    TEAM_HEAD_WORDS = 32, /* before the slots: the ticket */
    TEAM_SLOT_WORDS = TEAM_COUNTERS + TEAM_BOARD
};

/* How a launch is split. */
struct team_split {
    int n_choices; /* of a row */
    int team;      /* blocks of one choice */
    int n_units;   /* rows * choices * team */
    bool clusters; /* teams are clusters */
};

struct team {
    int size, member;
    bool cluster;
    uint32_t *slots; /* the first member's, unless a cluster */
};

/* Words of select_work on a device. */
static inline size_t team_work_words(const struct device *dev)
{
    return TEAM_HEAD_WORDS + (dev->early ? 0 : (size_t)dev->n_sms * TEAM_SLOT_WORDS);
}

/* Teams as large as fill the device once and leave each block min_keys keys. */
static inline struct team_split team_split_of(const struct device *dev, int n_rows, int n_choices,
                                              int max_keys, int min_keys)
{
    struct team_split split = {n_choices, 1, n_rows * n_choices, dev->early};
    int wanted = ceil_div(max_keys, min_keys);
    while (split.team < TEAM_MAX && 2 * split.team <= wanted && 2 * split.n_units <= dev->n_sms) {
        split.team *= 2;
        split.n_units *= 2;
    }
    return split;
}

/* Makes teams smaller that are clusters larger than the device can run all at once. */
template <typename job>
static inline void team_fit(struct device *dev, void (*kernel)(job), struct team_split *split,
                            int n_threads, size_t n_shared_bytes)
{
    if (!split->clusters || split->team <= TEAM_PORTABLE || dev->failed)
        return;
    cudaLaunchAttribute cluster = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = (unsigned)split->team;
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)split->n_units);
    config.blockDim = dim3((unsigned)n_threads);
    config.dynamicSmemBytes = n_shared_bytes;
    config.attrs = &cluster;
    config.numAttrs = 1;
    int n = 0;
    cuda_allow_shared(dev, kernel, n_shared_bytes);
    CUDA_CALL(dev, cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
    CUDA_CALL(dev, cudaOccupancyMaxActiveClusters(&n, kernel, &config));
    if (n * split->team >= split->n_units)
        return;
    split->n_units = split->n_units / split->team * TEAM_PORTABLE;
    split->team = TEAM_PORTABLE;
}

/* One block per unit, or as many as there are slots when every unit is a choice of its own. */
template <typename job>
static inline void team_launch(struct device *dev, void (*kernel)(job), int n_threads,
                               size_t n_shared_bytes, const job *what)
{
    const struct team_split *split = &what->split;
    int n_blocks = split->n_units < dev->n_sms ? split->n_units : dev->n_sms;
    cuda_allow_shared(dev, kernel, n_shared_bytes);
    cuda_launch_clusters(dev, kernel, n_blocks, n_threads, n_shared_bytes,
                         split->clusters ? split->team : 1, *what);
}

/* --- On the device: clusters ----------------------------------------------------------------- */

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

/* Another block's variable that is at p in this block's shared memory. */
template <typename number>
static __device__ __forceinline__ number *cluster_peer(number *p, int member)
{
    return (number *)__cluster_map_shared_rank(p, (unsigned)member);
}

/* What a thread did before it arrives is seen by those that have waited. */
static __device__ __forceinline__ void cluster_arrive(void)
{
    __cluster_barrier_arrive();
}

static __device__ __forceinline__ void cluster_wait(void)
{
    __cluster_barrier_wait();
}

#else

template <typename number> static __device__ __forceinline__ number *cluster_peer(number *p, int)
{
    return p;
}

static __device__ __forceinline__ void cluster_arrive(void)
{
}

static __device__ __forceinline__ void cluster_wait(void)
{
}

#endif

/* --- On the device: teams ----------------------------------------------------------------------
 */

/* The block's first unit; the next ones are gridDim.x apart.  All threads call it, once, and may do
 * so before dependency_wait if they release the next kernel only afterwards: the ticket starts over
 * by itself once all units are taken. */
static __device__ __forceinline__ int team_first_unit(const struct team_split *split,
                                                      uint32_t *work, int *shared_unit)
{
    if (split->team == 1 || split->clusters)
        return blockIdx.x;
    if (threadIdx.x == 0)
        *shared_unit = (int)atomicInc(&work[0], gridDim.x - 1);
    __syncthreads();
    return *shared_unit;
}

/* The team of a unit. */
static __device__ __forceinline__ struct team team_of(const struct team_split *split,
                                                      uint32_t *work, int unit)
{
    struct team t = {split->team, unit & (split->team - 1), split->team > 1 && split->clusters,
                     NULL};
    if (t.size > 1 && !t.cluster)
        t.slots = work + TEAM_HEAD_WORDS + (size_t)(unit - t.member) * TEAM_SLOT_WORDS;
    return t;
}

/* Waits for the team's blocks by their counter; thread 0's fences order what the whole block did
 * before and does after the barriers around them. */
static __device__ __forceinline__ void team_count(const struct team *t)
{
    volatile uint32_t *counter = t->slots + __ffs(t->size);
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        uint32_t size = (uint32_t)t->size;
        uint32_t goal = (atomicAdd((uint32_t *)counter, 1u) / size + 1) * size;
        while ((int32_t)(*counter - goal) < 0)
            ;
        __threadfence();
    }
    __syncthreads();
}

/* All threads of all blocks, once they have written words [from, from + n) of their boards, which
 * are then to be read by team_told until the words are told anew. */
static __device__ __forceinline__ void team_meet(const struct team *t, const uint32_t *board,
                                                 int from, int n)
{
    if (t->cluster) {
        cluster_arrive();
        cluster_wait();
        return;
    }
    __syncthreads();
    if (t->size == 1)
        return;
    uint32_t *slot = t->slots + (size_t)t->member * TEAM_SLOT_WORDS + TEAM_COUNTERS;
    for (int i = from + (int)threadIdx.x; i < from + n; i += blockDim.x)
        slot[i] = board[i];
    team_count(t);
}

/* Of word i of the boards: its sums over all members and over those before this one, and its
 * maximum. */
template <typename number> struct told {
    number all, before, most;
};

template <typename number>
static __device__ __forceinline__ struct told<number> team_told(const struct team *t,
                                                                const uint32_t *board, int i) {
    struct told<number> sum = {
    };
    if (t->size == 1) {
        sum.all = sum.most = board[i];
        return sum;
    }
#pragma unroll 4
    for (int member = 0; member < t->size; member++) {
        number x = t->cluster
                       ? *cluster_peer(board + i, member)
                       : __ldcg(t->slots + (size_t)member * TEAM_SLOT_WORDS + TEAM_COUNTERS + i);
        sum.all += x;
        sum.before += member < t->member ? x : 0;
        sum.most = max(sum.most, x);
    }
    return sum;
}

/* A block's last words with its team: it has read all that it wants to.  All threads, once. */
static __device__ __forceinline__ void
team_part(const struct team *t)
{
    if (t->cluster)
        cluster_arrive();
}

/* Before a block ends that has parted: the others read its board no more. */
static __device__ __forceinline__ void team_leave(const struct team *t)
{
    if (t->cluster)
        cluster_wait();
}

/* --- Sums over a block ------------------------------------------------------------------------ */

/* The sum of x over the threads before this one, and over all.  Every thread calls it; scratch
 * [32] is free again when it returns. */
template <typename number>
static __device__ __forceinline__ number block_scan(number x, number *scratch, number *total)
{
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, n_warps = blockDim.x / WARP;
    number sum = x;
    for (int offset = 1; offset < WARP; offset *= 2) {
        number below = __shfl_up_sync(0xffffffffu, sum, offset);
        sum += lane >= offset ? below : 0;
    }
    if (lane == WARP - 1)
        scratch[warp] = sum;
    __syncthreads();
    number warps = lane < n_warps ? scratch[lane] : 0;
    for (int offset = 1; offset < WARP; offset *= 2) {
        number below = __shfl_up_sync(0xffffffffu, warps, offset);
        warps += lane >= offset ? below : 0;
    }
    *total = __shfl_sync(0xffffffffu, warps, WARP - 1);
    number before = __shfl_sync(0xffffffffu, warps, max(warp - 1, 0));
    __syncthreads();
    return (warp > 0 ? before : 0) + sum - x;
}

#endif
