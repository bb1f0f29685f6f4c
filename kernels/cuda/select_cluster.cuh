/* Blocks that draw one sample together: a cluster where there are clusters, whose shared memory
 * they all reach.  Each has a slice of the keys; without clusters (before sm_90) each works by
 * itself. Thresholds have teams of their own (select_team.cuh), which meet in device memory. */
#ifndef ATTNSCOPE_KERNELS_CUDA_SELECT_CLUSTER_CUH
#define ATTNSCOPE_KERNELS_CUDA_SELECT_CLUSTER_CUH

#include "kernels/cuda/selection.cuh"

enum { TEAM_MAX = 8 }; /* blocks: as many as a cluster has on any device that has clusters */

/* How a launch is split. */
struct team_split {
    int n_choices; /* of a row */
    int log2_team; /* a choice has 2^log2_team blocks */
    int n_units;   /* rows * choices * blocks of one */
    bool clusters; /* teams are clusters */
};

struct team {
    int size, member;
    bool cluster;
};

/* Teams as large as fill the device once and leave each block min_keys keys. */
static inline struct team_split team_split_of(const struct device *dev, int n_rows, int n_choices,
                                              int max_keys, int min_keys)
{
    struct team_split split = {n_choices, 0, n_rows * n_choices, dev->early};
    int wanted = ceil_div(max_keys, min_keys);
    while (2 << split.log2_team <= TEAM_MAX && 2 << split.log2_team <= wanted &&
           2 * split.n_units <= dev->n_sms) {
        split.log2_team++;
        split.n_units *= 2;
    }
    return split;
}

/* One block per unit, or one per multiprocessor when there are more. */
template <typename job>
static inline void team_launch(struct device *dev, void (*kernel)(job), int n_threads,
                               size_t n_shared_bytes, const job *what)
{
    const struct team_split *split = &what->split;
    int n_blocks = split->n_units < dev->n_sms ? split->n_units : dev->n_sms;
    cuda_allow_shared(dev, kernel, n_shared_bytes);
    cuda_launch_clusters(dev, kernel, n_blocks, n_threads, n_shared_bytes,
                         split->clusters ? 1 << split->log2_team : 1, *what);
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

/* --- On the device: teams --------------------------------------------------------------------- */

/* The team of a unit.  A block of a team of several has one unit. */
static __device__ __forceinline__ struct team team_of(const struct team_split *split, int unit)
{
    int size = 1 << split->log2_team;
    struct team t = {size, unit & (size - 1), size > 1 && split->clusters};
    return t;
}

#endif
