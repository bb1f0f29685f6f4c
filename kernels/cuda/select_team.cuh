/* Blocks that make one choice together, and how they meet without a launch in between.
 *
 * A choice (a row, and a head or group) is split over the blocks of a team, each with a slice of
 * the keys.  They meet by a counter: the block that arrives last puts together what all have told,
 * publishes the result and lets the others go on.  Blocks take their place from a ticket, so that
 * those that a team waits for have either started or will start next: no block waits for one that
 * cannot run.  A choice small enough for one block needs none of this and takes the same way.
 *
 * Or each tells all others one word, and what it has posted before that word is there for them to
 * read: the shortest way if every block can work out the result by itself.
 *
 * The memory is a selection's select_work: a ticket, then a slot per unit (a block of a team).  A
 * team uses the slot of its first unit; boards and posts are each unit's own.  Counters, gathering
 * sums, told words and the ticket are zero between operations, the epoch keeps its last value. */
#ifndef ATTNSCOPE_KERNELS_CUDA_SELECT_TEAM_CUH
#define ATTNSCOPE_KERNELS_CUDA_SELECT_TEAM_CUH

#include "kernels/cuda/block_scan.cuh"
#include "kernels/cuda/selection.cuh"

enum {
    TEAM_MAX = 16,       /* blocks */
    TEAM_SUMS = 2048,    /* 64-bit sums that a team's blocks add to */
    TEAM_BOARD = 1024,   /* words that each block tells */
    TEAM_RESULTS = 512,  /* words that the last to arrive publishes */
    TEAM_TALKS = 2,      /* words that each block can tell all others */
    TEAM_POST = 8448,    /* words that each block posts for the others */
    TEAM_COUNTERS = 32,  /* words: arrivals, epoch, departures */
    TEAM_HEAD_WORDS = 32 /* before the slots: the ticket */
};

/* Where the parts of a slot begin, in words: after the counters. */
enum {
    TEAM_AT_RESULTS = TEAM_COUNTERS,
    TEAM_AT_SUMS = TEAM_AT_RESULTS + TEAM_RESULTS,
    TEAM_AT_BOARD = TEAM_AT_SUMS + 2 * TEAM_SUMS,
    TEAM_AT_TOLD = TEAM_AT_BOARD + TEAM_BOARD,
    TEAM_AT_POST = TEAM_AT_TOLD + 2 * TEAM_TALKS * TEAM_MAX,
    TEAM_SLOT_WORDS = TEAM_AT_POST + TEAM_POST
};

static_assert(TEAM_AT_POST % 4 == 0 && TEAM_SLOT_WORDS % 4 == 0, "posts are read 16 bytes at once");

/* How a launch is split. */
struct team_split {
    int n_choices; /* of a row */
    int team;      /* blocks of one choice */
    int n_units;   /* rows * choices * team */
};

struct team {
    int size, member;
    uint32_t *counters;       /* [3] arrivals, epoch, departures */
    uint32_t *results;        /* [TEAM_RESULTS] */
    unsigned long long *sums; /* [TEAM_SUMS] */
    uint32_t *board, *boards; /* [TEAM_BOARD] this block's; the first member's */
    unsigned long long *told; /* [TEAM_TALKS, TEAM_MAX] not 0: the member has told it */
    uint32_t *posts;          /* [TEAM_POST] the first member's; see team_post */
    uint32_t seen;            /* the epoch before the next meeting: thread 0's */
    int last;                 /* this block came last */
};

/* Words of select_work on a device; see team_split_of. */
static inline size_t team_work_words(int n_sms)
{
    return TEAM_HEAD_WORDS + (size_t)n_sms * TEAM_SLOT_WORDS;
}

/* Teams as large as fill the device once and leave each block min_keys keys. */
static inline struct team_split team_split_of(const struct device *dev, int n_rows, int n_choices,
                                              int max_keys, int min_keys)
{
    struct team_split split = {n_choices, 1, 0};
    int n = n_rows * n_choices, fitting = dev->n_sms / n;
    int wanted = ceil_div(max_keys, min_keys);
    wanted = wanted < TEAM_MAX ? wanted : TEAM_MAX;
    split.team = fitting < 1 ? 1 : fitting < wanted ? fitting : wanted;
    split.n_units = n * split.team;
    return split;
}

/* Blocks to launch: one per unit, or as many as there are slots when every unit is a choice of its
 * own. */
static inline int team_grid(const struct device *dev, const struct team_split *split)
{
    return split->n_units < dev->n_sms ? split->n_units : dev->n_sms;
}

/* --- On the device ------------------------------------------------------------------------- */

static __device__ __forceinline__ volatile uint32_t *team_epoch(const struct team *t)
{
    return t->counters + 1;
}

/* The block's first unit; the next ones are gridDim.x apart.  All threads call it, once, and may do
 * so before dependency_wait if they release the next kernel only afterwards: the ticket starts over
 * by itself once all units are taken. */
static __device__ __forceinline__ int team_first_unit(const struct team_split *split,
                                                      uint32_t *work, int *shared_unit)
{
    if (split->team == 1)
        return blockIdx.x;
    if (threadIdx.x == 0)
        *shared_unit = (int)atomicInc(&work[0], gridDim.x - 1);
    __syncthreads();
    return *shared_unit;
}

/* One thread: where the team of a unit meets.  It may be called before dependency_wait. */
static __device__ __forceinline__ void team_place(struct team *t, const struct team_split *split,
                                                  uint32_t *work, int unit)
{
    t->size = split->team;
    t->member = unit % split->team;
    int own = split->team == 1 ? (int)blockIdx.x : unit;
    uint32_t *slot = work + TEAM_HEAD_WORDS + (size_t)(own - t->member) * TEAM_SLOT_WORDS;
    t->counters = slot;
    t->results = slot + TEAM_AT_RESULTS;
    t->sums = (unsigned long long *)(slot + TEAM_AT_SUMS);
    t->boards = slot + TEAM_AT_BOARD;
    t->board = t->boards + (size_t)t->member * TEAM_SLOT_WORDS;
    t->told = (unsigned long long *)(slot + TEAM_AT_TOLD);
    t->posts = slot + TEAM_AT_POST;
}

/* One thread, before the first team_arrive: no member's epoch moves before all have arrived once,
 * so they read it alike. */
static __device__ __forceinline__ void team_see(struct team *t)
{
    t->seen = t->size > 1 ? *team_epoch(t) : 0;
}

/* The team of a unit, in shared memory: thread 0 fills in, and the caller's next barrier shows it
 * to the others. */
static __device__ __forceinline__ void team_start(struct team *t, const struct team_split *split,
                                                  uint32_t *work, int unit)
{
    if (threadIdx.x > 0)
        return;
    team_place(t, split, work, unit);
    team_see(t);
}

/* All threads arrive, after the block has told what it has to tell.  True in the block that comes
 * last: what the others told is there to be read (past the first-level cache: __ldcg), and
 * team_publish must follow; elsewhere team_await.  One thread's fences order what the whole block
 * did before and does after the barriers around them. */
static __device__ __forceinline__ bool team_arrive(struct team *t)
{
    __syncthreads();
    if (t->size == 1)
        return true;
    if (threadIdx.x == 0) {
        __threadfence();
        bool last = atomicAdd(&t->counters[0], 1u) == (uint32_t)t->size - 1;
        if (last)
            t->counters[0] = 0;
        __threadfence();
        t->last = last;
    }
    __syncthreads();
    return t->last;
}

/* The last block's threads have written the results. */
static __device__ __forceinline__ void team_publish(struct team *t)
{
    __syncthreads();
    if (t->size > 1 && threadIdx.x == 0) {
        __threadfence();
        *team_epoch(t) = ++t->seen;
    }
}

/* The others wait for them. */
static __device__ __forceinline__ void team_await(struct team *t)
{
    if (threadIdx.x == 0) {
        while (*team_epoch(t) == t->seen)
            ;
        t->seen++;
        __threadfence();
    }
    __syncthreads();
}

/* --- Words for all ---------------------------------------------------------------------------- */

/* What a member posts. */
static __device__ __forceinline__ uint32_t *team_post(const struct team *t, int member)
{
    return t->posts + (size_t)member * TEAM_SLOT_WORDS;
}

/* Thread 0's word, not 0, goes to all members: all [TEAM_MAX], shared, is what they tell.  What the
 * block's threads wrote before is there for the others to read (past the first-level cache).  All
 * threads; of talks 0 .. TEAM_TALKS - 1 each once. */
static __device__ __forceinline__ void team_tell(const struct team *t, int talk,
                                                 unsigned long long word, unsigned long long *all)
{
    volatile unsigned long long *told = t->told + talk * TEAM_MAX;
    __syncthreads();
    if (t->size == 1) {
        if (threadIdx.x == 0)
            all[0] = word;
    } else if (threadIdx.x < WARP) {
        if (threadIdx.x == 0) {
            __threadfence();
            told[t->member] = word;
        }
        __syncwarp();
        if ((int)threadIdx.x < t->size) {
            unsigned long long other;
            while ((other = told[threadIdx.x]) == 0)
                ;
            all[threadIdx.x] = other;
        }
        __threadfence();
    }
    __syncthreads();
}

/* One thread, once the block has heard all that it asked for: the last to leave takes back what has
 * been told. */
static __device__ __forceinline__ void team_leave(const struct team *t)
{
    if (t->size == 1)
        return;
    __threadfence();
    if (atomicInc(&t->counters[2], (uint32_t)t->size - 1) != (uint32_t)t->size - 1)
        return;
    for (int i = 0; i < TEAM_TALKS * TEAM_MAX; i++)
        t->told[i] = 0;
}

#endif
