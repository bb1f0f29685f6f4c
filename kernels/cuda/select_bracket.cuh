/* Where a threshold about lies: a bracket of orders, guessed from a sample of the row.
 *
 * Of the e best keys a sample of one key in s holds about e / s, so the sample's keys around that
 * rank bracket the threshold.  How far to go from it the sample tells too: pieces of a few
 * neighbouring keys are drawn one from each of many equal parts of the row, and the differences
 * between neighbouring pieces give the variance of the count of best keys, whatever the correlation
 * of neighbours and the trend along the row.  A bracket is no more than a guess: whether it holds
 * the threshold shows when all orders have been counted.  All blocks of a team guess alike. */
#ifndef ATTNSCOPE_KERNELS_CUDA_SELECT_BRACKET_CUH
#define ATTNSCOPE_KERNELS_CUDA_SELECT_BRACKET_CUH

#include "kernels/cuda/select_slice.cuh"

enum {
    PIECE_KEYS = 8, /* a sector of memory, fetched by two neighbouring threads */
    SAMPLE_BINS = 2 * CHOOSE_THREADS,
    N_BUCKETS = 256 /* that a bracket is divided into */
};

static_assert((int)SAMPLE_BINS <= (int)TEAM_SUMS, "bins lie where sums do");

#define BRACKET_SIGMAS 5.0f
#define BRACKET_LEAST 8.0f /* ranks on either side of the expected one */

/* A map of orders to 0 .. n - 1 that never falls: what lies between the scores of `first` and
 * `last` is divided evenly. */
struct ruler {
    uint32_t first, last;
    float from, scale; /* scale: divisions per unit of score */
};

struct bracket {
    uint32_t low, high; /* orders, both within */
    struct ruler ruler; /* over the bracket, as far as the sample goes, in N_BUCKETS */
};

/* What a block needs to find one, in shared memory. */
struct bracket_work {
    uint32_t least[CHOOSE_WARPS], most[CHOOSE_WARPS];
    int squares[CHOOSE_WARPS];
    int scratch[WARP];
    int centre; /* the bin of the expected rank */
};

static __device__ __forceinline__ struct ruler ruler_of(uint32_t first, uint32_t last, int n)
{
    struct ruler r = {first, last, score_of(first), 0.0f};
    r.scale = (float)n / (score_of(last) - r.from);
    return r;
}

static __device__ __forceinline__ int ruler_at(const struct ruler *r, uint32_t order, int n)
{
    if (order <= r->first || order >= r->last)
        return order >= r->last ? n - 1 : 0;
    return min(max((int)((score_of(order) - r->from) * r->scale), 0), n - 1);
}

/* Four keys of the sample; a thread without any has no bits. */
template <int HEADS> struct sampled {
    float4 x[HEADS > 0 ? HEADS : 1];
    uint32_t own;
    int key;
};

/* A group's sample is smaller, since each of its keys has several scores. */
template <int HEADS> static __device__ __forceinline__ int sample_pieces(void)
{
    return CHOOSE_THREADS * LANE_KEYS / PIECE_KEYS / (HEADS == 1 ? 1 : 2);
}

/* Pieces of the row from piece *first on. */
static __device__ __forceinline__ int row_pieces(const struct choice *c,
                                                 const struct choose_job *job, int *first)
{
    int end = min(c->plan.visible.end, job->sel.n_words * 32);
    *first = c->plan.visible.begin / PIECE_KEYS;
    return max((end + PIECE_KEYS - 1) / PIECE_KEYS - *first, 0);
}

/* Starts to fetch the sample: of each of many equal parts of the row a piece anywhere in it, or of
 * a short row all. */
template <int HEADS>
static __device__ __forceinline__ void
sample_fetch(struct sampled<HEADS> *s, const struct choice *c, const struct choose_job *job)
{
    int first, n = row_pieces(c, job, &first), part = threadIdx.x / (PIECE_KEYS / LANE_KEYS);
    int n_parts = min(n, sample_pieces<HEADS>()), piece = part;
    if (n > n_parts) {
        uint32_t within = (uint32_t)part * 0x9e3779b1u >> 16; /* of 65536 */
        uint32_t log_parts = 31 - __clz(sample_pieces<HEADS>());
        unsigned long long at = ((unsigned long long)part << 16 | within) * (uint32_t)n;
        piece = (int)(at >> (16 + log_parts));
    }
    s->key = (first + piece) * PIECE_KEYS + (int)threadIdx.x % (PIECE_KEYS / LANE_KEYS) * LANE_KEYS;
    s->own = part < n_parts ? 0xf : 0;
#pragma unroll
    for (int h = 0; h < (HEADS > 0 ? HEADS : 1); h++) {
        s->x[h] = {};
        if (s->own)
            s->x[h] = fetch_scores(c, job, c->score_begin + h, s->key);
    }
}

template <int HEADS>
static __device__ __forceinline__ void
sample_orders(uint32_t order[LANE_KEYS], struct sampled<HEADS> *s, const struct choice *c,
              const struct choose_job *job)
{
    if (s->own)
        s->own = candidates(c, job, s->key / 32) >> s->key % 32 & 0xf;
#pragma unroll
    for (int h = 1; h < HEADS; h++)
        add_scores(&s->x[0], s->x[h]);
    for (int head = c->score_begin + 1; HEADS == 0 && s->own && head < c->score_end; head++)
        add_scores(&s->x[0], fetch_scores(c, job, head, s->key));
    order[0] = s->own & 1 ? order_of(s->x[0].x) : 0;
    order[1] = s->own & 2 ? order_of(s->x[0].y) : 0;
    order[2] = s->own & 4 ? order_of(s->x[0].z) : 0;
    order[3] = s->own & 8 ? order_of(s->x[0].w) : 0;
}

/* The ruler over the sample.  All threads. */
static __device__ __forceinline__ struct ruler sample_ruler(const uint32_t order[LANE_KEYS],
                                                            struct bracket_work *work)
{
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    uint32_t least = 0xffffffffu, most = 0;
#pragma unroll
    for (int i = 0; i < LANE_KEYS; i++) {
        least = order[i] ? min(least, order[i]) : least;
        most = max(most, order[i]);
    }
    least = __reduce_min_sync(0xffffffffu, least);
    most = __reduce_max_sync(0xffffffffu, most);
    if (lane == 0) {
        work->least[warp] = least;
        work->most[warp] = most;
    }
    __syncthreads();
    least = __reduce_min_sync(0xffffffffu, work->least[lane]);
    most = __reduce_max_sync(0xffffffffu, work->most[lane]);
    return ruler_of(min(least, most), most, SAMPLE_BINS);
}

/* The variance of the sample's count of keys in bins from `bin` up, times 4.  All threads. */
static __device__ __forceinline__ int sample_variance(const int bin[LANE_KEYS], int from,
                                                      struct bracket_work *work)
{
    int lane = threadIdx.x % WARP, n = 0;
#pragma unroll
    for (int i = 0; i < LANE_KEYS; i++)
        n += bin[i] >= from;
    n += __shfl_xor_sync(0xffffffffu, n, 1);
    n -= __shfl_xor_sync(0xffffffffu, n, 2); /* two pieces, in four lanes */
    int squares = __reduce_add_sync(0xffffffffu, n * n);
    if (lane == 0)
        work->squares[threadIdx.x / WARP] = squares;
    __syncthreads();
    return __reduce_add_sync(0xffffffffu, work->squares[lane]);
}

/* The end of a bin, in score: half a bin further out than it is, for what rounding may do. */
static __device__ __forceinline__ uint32_t bin_edge(const struct ruler *r, int bin, bool above)
{
    float width = (score_of(r->last) - r->from) / SAMPLE_BINS;
    float edge = r->from + ((float)bin + (above ? 1.5f : -0.5f)) * width;
    return order_of(edge);
}

/* The bracket of the e-th largest order, while the slice is on its way.  bins [SAMPLE_BINS] are
 * zero.  All threads; the caller's next barrier shows `out`. */
template <int HEADS>
static __device__ __forceinline__ void
bracket_find(struct bracket *out, struct sampled<HEADS> *sample, const struct choice *c,
             const struct choose_job *job, uint32_t *bins, struct bracket_work *work)
{
    uint32_t order[LANE_KEYS];
    int bin[LANE_KEYS], first, n_row = row_pieces(c, job, &first);
    sample_orders<HEADS>(order, sample, c, job);
    struct ruler ruler = sample_ruler(order, work);
    float rank = (float)c->e * (float)min(n_row, sample_pieces<HEADS>()) / (float)max(n_row, 1);
#pragma unroll
    for (int i = 0; i < LANE_KEYS; i++) {
        bin[i] = order[i] ? ruler_at(&ruler, order[i], SAMPLE_BINS) : -1;
        if (bin[i] >= 0)
            atomicAdd(&bins[bin[i]], 1u);
    }
    if (threadIdx.x == 0) {
        work->centre = 0;
        out->low = 1;
        out->high = 0xffffffffu;
    }
    __syncthreads();
    /* Of two bins of this thread, from the top: keys above them, with the first, with both. */
    int top_bin = SAMPLE_BINS - 1 - 2 * (int)threadIdx.x, n;
    int in_top = (int)bins[top_bin], in_both = in_top + (int)bins[top_bin - 1];
    int above = block_scan(in_both, work->scratch, &n);
    if (rank >= (float)above && rank < (float)(above + in_both))
        work->centre = top_bin - (rank >= (float)(above + in_top));
    __syncthreads();
    float squares = (float)sample_variance(bin, work->centre, work) / 4.0f;
    float margin = BRACKET_SIGMAS * sqrtf(squares) + BRACKET_LEAST;
    float high = rank - margin, low = rank + margin;
    bool has_high = high >= (float)above && high < (float)(above + in_both);
    bool has_low = low >= (float)above && low < (float)(above + in_both);
    if (has_high)
        out->high = bin_edge(&ruler, top_bin - (high >= (float)(above + in_top)), true);
    if (has_low)
        out->low = max(bin_edge(&ruler, top_bin - (low >= (float)(above + in_top)), false), 1u);
    __syncthreads();
    if (threadIdx.x == 0) {
        out->low = min(out->low, out->high);
        out->ruler = ruler_of(max(out->low, ruler.first), min(out->high, ruler.last), N_BUCKETS);
    }
}

#endif
