/* The exact threshold of a team whose members have counted their slices' orders above a bracket and
 * sorted those within it into buckets.
 *
 * Each posts, per bucket, how many of its orders lie in higher ones, and its orders bucket by
 * bucket. The members' sums show which bucket has the threshold; its few orders are read and
 * ranked, by every block for itself.  If the bracket misses, or holds too much, all see it alike.
 */
#ifndef ATTNSCOPE_KERNELS_CUDA_SELECT_CUT_CUH
#define ATTNSCOPE_KERNELS_CUDA_SELECT_CUT_CUH

#include "kernels/cuda/select_bracket.cuh"

enum {
    CUT_KEYS = (int)TEAM_POST - (int)N_BUCKETS, /* of a slice, within the bracket */
    CUT_BUCKET = 1024                           /* of a bucket, from all slices */
};

static_assert(CUT_KEYS % 4 == 0 && (int)N_BUCKETS % (int)WARP == 0 &&
                  (int)N_BUCKETS <= (int)CHOOSE_THREADS,
              "posts are written 16 bytes at once, buckets by single threads");

/* In dynamic shared memory, in turn with what the way by digits keeps there. */
struct cut_memory {
    union {
        uint32_t found[CUT_KEYS];                /* within the bracket, in any order */
        uint32_t above[TEAM_MAX][N_BUCKETS + 1]; /* per bucket from the top, as posted */
    };
    union {
        uint32_t sorted[CUT_KEYS]; /* by bucket, from the top */
        uint32_t ranked[CUT_BUCKET];
    };
};

/* What a block knows of its own slice and of its team, in shared memory. */
struct cut_work {
    int n_found, n_above, n_candidates;
    uint32_t bucket[N_BUCKETS];
    unsigned long long told[TEAM_MAX];
    int top, n_wanted, n_ranked; /* the bucket of the threshold, and what is to be taken of it */
    struct cut cut;
};

/* --- A slice -------------------------------------------------------------------------------------
 */

/* Counts what is above the bracket, finds what is within.  work's counts and buckets are zero.  All
 * threads; the caller's next barrier shows the result. */
template <int KEYS>
static __device__ __forceinline__ void cut_collect(const uint32_t order[KEYS], uint32_t own,
                                                   const struct bracket *bracket,
                                                   struct cut_work *work, uint32_t *found)
{
    int lane = threadIdx.x % WARP, n_above = 0;
    uint32_t low = bracket->low, high = bracket->high, within = 0;
#pragma unroll
    for (int i = 0; i < KEYS; i++) {
        n_above += order[i] > high;
        within |= (uint32_t)(order[i] - low <= high - low) << i;
    }
    int n = __popc(within), sum = n, base = 0;
    for (int offset = 1; offset < WARP; offset *= 2) {
        int below = __shfl_up_sync(0xffffffffu, sum, offset);
        sum += lane >= offset ? below : 0;
    }
    n_above = __reduce_add_sync(0xffffffffu, n_above);
    int n_own = __reduce_add_sync(0xffffffffu, __popc(own));
    if (lane == WARP - 1) {
        base = atomicAdd(&work->n_found, sum);
        atomicAdd(&work->n_above, n_above);
        atomicAdd(&work->n_candidates, n_own);
    }
    int at = __shfl_sync(0xffffffffu, base, WARP - 1) + sum - n;
#pragma unroll
    for (int i = 0; i < KEYS; i++) {
        if (within >> i & 1) {
            if (at < (int)CUT_KEYS)
                found[at] = order[i];
            at++;
        }
    }
}

static __device__ __forceinline__ int bucket_of(const struct bracket *bracket, uint32_t order)
{
    return N_BUCKETS - 1 - ruler_at(&bracket->ruler, order, N_BUCKETS);
}

/* One warp: from the number in each bucket to the number in higher ones, which it posts with those
 * above the bracket. */
static __device__ __forceinline__ void cut_scan(struct cut_work *work, uint32_t *post)
{
    enum { EACH = (int)N_BUCKETS / (int)WARP };
    int lane = threadIdx.x % WARP;
    uint32_t n[EACH], sum = 0, own;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        n[i] = work->bucket[lane * EACH + i];
        sum += n[i];
    }
    own = sum;
    for (int offset = 1; offset < WARP; offset *= 2) {
        uint32_t below = __shfl_up_sync(0xffffffffu, sum, offset);
        sum += lane >= offset ? below : 0;
    }
    sum -= own;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        work->bucket[lane * EACH + i] = sum;
        post[lane * EACH + i] = (uint32_t)work->n_above + sum;
        sum += n[i];
    }
}

/* Posts what has been found, by bucket.  All threads. */
static __device__ __forceinline__ void cut_post(const struct bracket *bracket,
                                                struct cut_work *work, struct cut_memory *memory,
                                                uint32_t *post)
{
    int n = work->n_found;
    if (n > (int)CUT_KEYS)
        return;
    for (int i = threadIdx.x; i < n; i += CHOOSE_THREADS)
        atomicAdd(&work->bucket[bucket_of(bracket, memory->found[i])], 1u);
    __syncthreads();
    if (threadIdx.x < WARP)
        cut_scan(work, post);
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += CHOOSE_THREADS) {
        uint32_t order = memory->found[i];
        memory->sorted[atomicAdd(&work->bucket[bucket_of(bracket, order)], 1u)] = order;
    }
    __syncthreads();
    for (int i = (int)threadIdx.x * 4; i < n; i += CHOOSE_THREADS * 4)
        *(uint4 *)(post + N_BUCKETS + i) = *(const uint4 *)(memory->sorted + i);
}

/* --- The team -----------------------------------------------------------------------------------
 */

enum { TOLD_BITS = 20 }; /* of each count; the slice of a block is far shorter */

static __device__ __forceinline__ unsigned long long told_of(int a, int b, int c)
{
    return 1ull << 63 | (unsigned long long)a << 2 * TOLD_BITS |
           (unsigned long long)b << TOLD_BITS | (unsigned long long)c;
}

static __device__ __forceinline__ int told_part(unsigned long long told, int part)
{
    return (int)(told >> (2 - part) * TOLD_BITS) & ((1 << TOLD_BITS) - 1);
}

/* Finds the threshold's bucket and reads its orders.  False if they are too many.  All threads. */
static __device__ __forceinline__ bool cut_read(const struct team *team, int n_wanted,
                                                struct cut_work *work, struct cut_memory *memory)
{
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
#pragma unroll
    for (int i = 0; i < TEAM_MAX * N_BUCKETS / CHOOSE_THREADS; i++) {
        int at = (int)threadIdx.x + i * CHOOSE_THREADS, member = at / N_BUCKETS;
        if (member < team->size)
            memory->above[member][at % N_BUCKETS] =
                __ldcg(team_post(team, member) + at % N_BUCKETS);
    }
    if ((int)threadIdx.x < team->size)
        memory->above[threadIdx.x][N_BUCKETS] = (uint32_t)(told_part(work->told[threadIdx.x], 0) +
                                                           told_part(work->told[threadIdx.x], 1));
    __syncthreads();
    if (threadIdx.x < N_BUCKETS) {
        int above = 0, both = 0;
        for (int i = 0; i < team->size; i++) {
            above += (int)memory->above[i][threadIdx.x];
            both += (int)memory->above[i][threadIdx.x + 1];
        }
        if (above < n_wanted && n_wanted <= both) {
            work->top = (int)threadIdx.x;
            work->n_wanted = n_wanted - above;
            work->n_ranked = both - above;
        }
    }
    __syncthreads();
    if (work->n_ranked > (int)CUT_BUCKET)
        return false;
    if (warp < team->size) { /* a warp reads what a member has */
        int begin = 0, n = 0;
        if (lane < team->size) {
            begin = (int)memory->above[lane][work->top];
            n = (int)memory->above[lane][work->top + 1] - begin;
            begin -= told_part(work->told[lane], 1);
        }
        int to = __reduce_add_sync(0xffffffffu, lane < warp ? n : 0);
        n = __shfl_sync(0xffffffffu, n, warp);
        begin = __shfl_sync(0xffffffffu, begin, warp);
        const uint32_t *from = team_post(team, warp) + N_BUCKETS + begin;
        for (int i = lane; i < n; i += WARP)
            memory->ranked[to + i] = __ldcg(from + i);
    }
    __syncthreads();
    return true;
}

/* Ranks the orders of the bucket: a thread each. */
static __device__ __forceinline__ void cut_rank(const struct team *team, struct cut_work *work,
                                                const struct cut_memory *memory)
{
    int n = work->n_ranked, before = 0, n_before = 0;
    if ((int)threadIdx.x >= n)
        return;
    uint32_t own = memory->ranked[threadIdx.x];
    for (int i = 0; i < team->member; i++) {
        before += (int)memory->above[i][work->top];
        n_before += (int)(memory->above[i][work->top + 1] - memory->above[i][work->top]);
    }
    int n_above = 0, n_equal = 0, ties_before = 0;
#pragma unroll 4
    for (int i = 0; i < n; i++) {
        uint32_t order = memory->ranked[i];
        n_above += order > own;
        n_equal += order == own;
        before += order > own && i < n_before;
        ties_before += order == own && i < n_before;
    }
    if (n_above >= work->n_wanted || work->n_wanted > n_above + n_equal)
        return;
    /* In all threads whose order is the threshold, alike. */
    work->cut.order = own;
    work->cut.n_ties = work->n_wanted - n_above;
    work->cut.n_equal = n_equal;
    work->cut.ties_before = ties_before;
    work->cut.selected_before = before + min(ties_before, work->n_wanted - n_above);
}

/* The cut, from what all members have told: found, above, candidates.  False if the bracket does
 * not lead to it.  All threads; the caller's next barrier shows the result. */
static __device__ __forceinline__ bool cut_find(const struct choice *c, const struct team *team,
                                                struct cut_work *work, struct cut_memory *memory)
{
    int lane = threadIdx.x % WARP;
    unsigned long long told = lane < team->size ? work->told[lane] : 0;
    int found = told_part(told, 0), candidates = told_part(told, 2);
    int n_found = __reduce_add_sync(0xffffffffu, found);
    int n_above = __reduce_add_sync(0xffffffffu, told_part(told, 1));
    int n_candidates = __reduce_add_sync(0xffffffffu, candidates);
    int before = __reduce_add_sync(0xffffffffu, lane < team->member ? candidates : 0);
    int n_wanted = min(c->e, n_candidates);
    if (n_wanted == n_candidates) {
        if (threadIdx.x == 0)
            work->cut = {1, 0, 0, n_wanted, 0, before}; /* all */
        return true;
    }
    if (threadIdx.x == 0)
        work->cut.n_selected = n_wanted;
    if (__any_sync(0xffffffffu, found > (int)CUT_KEYS) || n_wanted <= n_above ||
        n_wanted > n_above + n_found || !cut_read(team, n_wanted, work, memory))
        return false;
    cut_rank(team, work, memory);
    return true;
}

#endif
