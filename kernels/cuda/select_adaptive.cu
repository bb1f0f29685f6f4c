/* As many random keys as the softmax denominator needs to be known well enough, on the device.
 *
 * A block makes a choice: it numbers the keys that are left, reads a base sample of them and all
 * that is selected, and by their spread draws more.  Scores are summed in the order that the other
 * backend sums them in, and everything after in f64, since a sample's size hangs on it.
 * Source: Desai et al. 2025, "vAttention", arXiv 2510.05688. */
#include "kernels/adaptive_budget.h"
#include "kernels/cuda/block_scan.cuh"
#include "kernels/cuda/selection.cuh"
#include "kernels/normal_quantile.h"
#include "kernels/permutation.h"

enum {
    ADAPTIVE_THREADS = 512,
    ADAPTIVE_WARPS = ADAPTIVE_THREADS / WARP,
    SCORE_SUMS = 16, /* element d of a product goes to sum d % 16 */
    CHOICE_ARRAYS = 4
};

static_assert((int)CHOICE_ARRAYS * (int)UNION_MAX_HEADS <= 32, "arrays lie where lists will");

struct adaptive_job {
    struct attention att;
    struct selection sel;
    struct budget base, init_offset, local_offset;
    double epsilon, quantile;
    enum share share;
    int slot;
    bool first, first_drawn; /* the bitmaps, and `drawn` among them, hold nothing yet */
};

/* What a block works on, in shared memory. */
struct adaptive_choice {
    struct row_plan plan;
    struct permutation permutation;
    int row, which, n_words;
    int head_begin, head_end; /* whose scores count */
    int list_begin, list_end; /* whose bitmaps they are */
    struct key_range window;
    int n_left, n_base, n_rest, n_more;
    /* (device) [n_words] each: keys that are left, how many lie in the words before, the base
     * sample, and what is drawn beside it. */
    uint32_t *left, *before, *base, *more;
};

struct adaptive_work {
    struct adaptive_choice c;
    int scan[WARP];
    int n_fresh, n_read;
    float max[ADAPTIVE_WARPS];
    double sum[3][ADAPTIVE_WARPS];
};

/* --- Keys that are left ------------------------------------------------------------------------
 */

static __device__ __forceinline__ size_t list_word(const struct adaptive_job *job, int row,
                                                   int head, int word)
{
    return ((size_t)row * (size_t)job->sel.n_heads + (size_t)head) * (size_t)job->sel.n_words +
           (size_t)word;
}

/* What a list holds beside the ranges. */
static __device__ __forceinline__ uint32_t held_bits(const struct adaptive_job *job,
                                                     const struct adaptive_choice *c, int head,
                                                     int word, uint32_t open)
{
    size_t at = list_word(job, c->row, head, word);
    uint32_t bits = job->first ? 0 : __ldcg(job->sel.taken + at);
    if (!job->first_drawn)
        bits |= __ldcg(job->sel.drawn + at);
    return bits & open;
}

/* One thread. */
static __device__ __forceinline__ void choice_begin(struct adaptive_choice *c,
                                                    const struct adaptive_job *job,
                                                    const struct call_shape *shape)
{
    const struct selection *sel = &job->sel;
    bool shared = job->share == SHARE_GROUP;
    int n = shared ? sel->group : 1;
    c->row = blockIdx.y;
    c->which = blockIdx.x;
    c->plan = resolve_plan(&sel->plan, &job->att, shape, c->row);
    c->n_words = min(row_words(shape, c->row), sel->n_words);
    c->head_begin = c->which * n;
    c->head_end = c->head_begin + n;
    c->list_begin = c->head_begin;
    c->list_end = sel->shared ? c->list_begin + 1 : c->head_end;
    c->window = {budget_resolve(job->init_offset, shape->n_keys),
                 shape->n_keys - budget_resolve(job->local_offset, shape->n_keys)};
    c->left = sel->list + (size_t)c->row * (size_t)sel->n_unions * sel->stride +
              (size_t)c->which * CHOICE_ARRAYS * (size_t)sel->n_words;
    c->before = c->left + sel->n_words;
    c->base = c->before + sel->n_words;
    c->more = c->base + sel->n_words;
    c->n_more = 0;
}

/* Numbers the keys that are left: those of the window that some list lacks.  All threads. */
static __device__ __forceinline__ void number_left(struct adaptive_work *work,
                                                   const struct adaptive_job *job)
{
    struct adaptive_choice *c = &work->c;
    int n_before = 0;
    for (int first = 0; first < c->n_words; first += ADAPTIVE_THREADS) {
        int word = first + (int)threadIdx.x, n;
        uint32_t left = 0;
        if (word < c->n_words) {
            uint32_t open = open_bits(&c->plan, word), held = 0xffffffffu;
            for (int head = c->list_begin; head < c->list_end; head++)
                held &= held_bits(job, c, head, word, open);
            left = open & ~held & range_bits(word, c->window.begin, c->window.end);
        }
        int before = n_before + block_scan(__popc(left), work->scan, &n);
        n_before += n;
        if (word < c->n_words) {
            c->left[word] = left;
            c->before[word] = (uint32_t)before;
            c->base[word] = c->more[word] = 0;
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        c->n_left = n_before;
        c->n_base = adaptive_base(job->base, n_before);
        c->n_rest = n_before - c->n_base;
        if (n_before > 0)
            c->permutation = permutation_make(
                (uint32_t)n_before, job->att.step->seed, (uint32_t)job->att.layer,
                (uint32_t)c->which, (uint32_t)(call_shape(&job->att).first_position + c->row),
                (uint32_t)job->slot);
    }
    __syncthreads();
}

/* Sets the bits of the keys whose numbers are the images of begin .. end - 1.  All threads. */
static __device__ __forceinline__ void mark_images(const struct adaptive_choice *c, uint32_t *marks,
                                                   int begin, int end)
{
    for (int i = begin + (int)threadIdx.x; i < end; i += ADAPTIVE_THREADS) {
        uint32_t number = permutation_image(&c->permutation, (uint32_t)i);
        int low = 0, high = c->n_words - 1; /* the last word that has no more before it */
        while (low < high) {
            int middle = (low + high + 1) / 2;
            if (__ldcg(c->before + middle) <= number)
                low = middle;
            else
                high = middle - 1;
        }
        uint32_t bits = __ldcg(c->left + low);
        for (uint32_t skip = number - __ldcg(c->before + low); skip > 0; skip--)
            bits &= bits - 1;
        atomicOr(marks + low, bits & -bits);
    }
    __syncthreads();
}

/* --- Scores ------------------------------------------------------------------------------------
 */

static __device__ __forceinline__ void load_eight(float x[8], const float *from)
{
    *(float4 *)x = __ldg((const float4 *)from);
    *(float4 *)(x + 4) = __ldg((const float4 *)from + 1);
}

static __device__ __forceinline__ void load_eight(float x[8], const __nv_bfloat16 *from)
{
    uint4 k = __ldg((const uint4 *)from);
    uint32_t pair[4] = {k.x, k.y, k.z, k.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        x[2 * i] = __uint_as_float(pair[i] << 16);
        x[2 * i + 1] = __uint_as_float(pair[i] & 0xffff0000u);
    }
}

/* scale q k in the one order of sums; q [dim], in shared memory. */
template <typename number>
static __device__ __forceinline__ float ordered_score(const float *q, const number *k, int dim,
                                                      float scale)
{
    float sum[SCORE_SUMS] = {};
    bool aligned = dim % 8 == 0;
    for (int d = 0; d < dim; d += SCORE_SUMS)
#pragma unroll
        for (int half = 0; half < SCORE_SUMS; half += 8) {
            float x[8] = {};
            if (aligned && d + half < dim)
                load_eight(x, k + d + half);
            else
                for (int i = 0; i < 8; i++)
                    x[i] = d + half + i < dim ? to_f32(k[d + half + i]) : 0.0f;
#pragma unroll
            for (int i = 0; i < 8; i++)
                if (d + half + i < dim)
                    sum[half + i] = fmaf(q[d + half + i], x[i], sum[half + i]);
        }
#pragma unroll
    for (int i = 0; i < SCORE_SUMS; i++)
        if (!(i & 2))
            sum[i] += sum[i + 2];
#pragma unroll
    for (int i = 0; i < SCORE_SUMS; i += 4)
        sum[i] += sum[i + 1];
    sum[0] += sum[4];
    sum[8] += sum[12];
    return scale * (sum[0] + sum[8]);
}

/* --- The estimate ------------------------------------------------------------------------------
 */

/* Sums of u = exp(z - max), as far as a thread has come. */
struct sums {
    float max;
    double held, drawn, squares;
    int n_fresh, n_read;
};

static __device__ __forceinline__ double factor(float from, float to)
{
    return from == -INFINITY ? 0.0 : exp((double)from - (double)to);
}

static __device__ __forceinline__ void rescale(struct sums *s, float max)
{
    double f = factor(s->max, max);
    s->held *= f;
    s->drawn *= f;
    s->squares *= f * f;
    s->max = max;
}

/* Adds the keys of eight bits of a word: those that are held, with their probabilities, and those
 * that the base sample adds. */
template <typename number>
static __device__ __forceinline__ void
add_eight(struct sums *s, const struct adaptive_job *job, const struct adaptive_choice *c,
          const struct call_shape *shape, const float *q, int head, int list, int word, int shift)
{
    uint32_t eight = 0xffu << shift, open = open_bits(&c->plan, word);
    uint32_t ranged = range_bits(word, c->plan.visible.begin, c->plan.visible.end) & ~open;
    uint32_t held = held_bits(job, c, list, word, open);
    uint32_t drawn =
        job->first_drawn ? 0 : __ldcg(job->sel.drawn + list_word(job, c->row, list, word));
    uint32_t fresh = __ldcg(c->base + word) & ~held & eight;
    uint32_t certain = ranged | (held & ~drawn);
    uint32_t all = ((ranged | held) & eight) | fresh;
    int kv_head = head / job->sel.group, dim = job->att.kv.head_dim;
    size_t slot = (size_t)c->row * (size_t)job->sel.n_heads + (size_t)list;
    s->n_fresh += __popc(fresh);
    s->n_read += __popc(held & eight);
    for (; all; all &= all - 1) {
        int bit = __ffs((int)all) - 1, key = word * 32 + bit, segment;
        size_t offset = key_offset(&job->att, shape, kv_head, key, &segment);
        float z =
            ordered_score(q, (const number *)job->att.kv.k[segment] + offset, dim, job->att.scale);
        if (z > s->max)
            rescale(s, z);
        double u = exp((double)z - (double)s->max);
        if (fresh >> bit & 1) {
            s->drawn += u;
            s->squares += u * u;
        } else if (certain >> bit & 1) {
            s->held += u;
        } else {
            float p = job->sel.mixed ? job->sel.key_prob[slot * job->sel.stride + (size_t)key]
                                     : job->sel.prob[slot];
            s->held += u / (double)p;
        }
    }
}

static __device__ __forceinline__ double block_sum(double x, double *warps)
{
    for (int offset = WARP / 2; offset > 0; offset /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, offset);
    if (threadIdx.x % WARP == 0)
        warps[threadIdx.x / WARP] = x;
    __syncthreads();
    double total = 0.0;
    for (int i = 0; i < ADAPTIVE_WARPS; i++)
        total += warps[i];
    return total;
}

/* Puts the threads' sums together, in all of them. */
static __device__ __forceinline__ void join_sums(struct sums *s, struct adaptive_work *work)
{
    float max = warp_max(s->max);
    if (threadIdx.x % WARP == 0)
        work->max[threadIdx.x / WARP] = max;
    if (threadIdx.x == 0)
        work->n_fresh = work->n_read = 0;
    __syncthreads();
    for (int i = 0; i < ADAPTIVE_WARPS; i++)
        max = fmaxf(max, work->max[i]);
    rescale(s, max);
    s->held = block_sum(s->held, work->sum[0]);
    s->drawn = block_sum(s->drawn, work->sum[1]);
    s->squares = block_sum(s->squares, work->sum[2]);
    atomicAdd(&work->n_fresh, s->n_fresh);
    atomicAdd(&work->n_read, s->n_read);
    __syncthreads();
}

/* Keys that a head needs of those beside the base sample: thread 0 notes down the most.  Returns
 * how many keys of its list were read.  All threads. */
template <typename number>
static __device__ __forceinline__ int ask_head(struct adaptive_work *work,
                                               const struct adaptive_job *job,
                                               const struct call_shape *shape, float *q, int head)
{
    struct adaptive_choice *c = &work->c;
    int dim = job->att.kv.head_dim, list = job->sel.shared ? c->list_begin : head;
    for (int d = threadIdx.x; d < dim; d += ADAPTIVE_THREADS)
        q[d] = job->att.q[(size_t)c->row * (size_t)job->att.q_stride + (size_t)(head * dim + d)];
    __syncthreads();
    struct sums s = {-INFINITY};
    for (int item = threadIdx.x; item < c->n_words * 4; item += ADAPTIVE_THREADS)
        add_eight<number>(&s, job, c, shape, q, head, list, item / 4, item % 4 * 8);
    join_sums(&s, work);
    if (threadIdx.x == 0) {
        double mean = s.drawn / c->n_base;
        double variance = (s.squares - mean * s.drawn) / (c->n_base - 1);
        double denominator = adaptive_denominator(s.held, s.drawn, c->n_base, c->n_left);
        double sample = adaptive_sample(job->quantile, sqrt(fmax(variance, 0.0)), c->n_rest,
                                        job->epsilon, denominator);
        c->n_more = max(c->n_more, adaptive_keys(sample, c->n_base, c->n_rest));
    }
    __syncthreads();
    return work->n_read;
}

/* --- Putting it down ---------------------------------------------------------------------------
 */

/* Adds what is sure and what is drawn to the lists of the choice, less what they have.  All
 * threads. */
static __device__ __forceinline__ void put_down(const struct adaptive_choice *c,
                                                const struct adaptive_job *job, bool all)
{
    const struct selection *sel = &job->sel;
    float p = c->n_rest > 0 ? (float)((double)c->n_more / c->n_rest) : 1.0f;
    for (int word = threadIdx.x; word < c->n_words; word += ADAPTIVE_THREADS) {
        uint32_t sure = all ? c->left[word] : __ldcg(c->base + word);
        uint32_t more = all ? 0 : __ldcg(c->more + word);
        for (int head = c->list_begin; head < c->list_end; head++) {
            size_t at = list_word(job, c->row, head, word);
            uint32_t taken = job->first ? 0 : sel->taken[at];
            uint32_t drawn = job->first_drawn ? 0 : sel->drawn[at], had = taken | drawn;
            uint32_t added = more & ~had;
            sel->taken[at] = taken | (sure & ~had);
            sel->drawn[at] = drawn | added;
            size_t slot = (size_t)c->row * (size_t)sel->n_heads + (size_t)head;
            for (; sel->mixed && added; added &= added - 1)
                sel->key_prob[slot * sel->stride + (size_t)(word * 32 + __ffs((int)added) - 1)] = p;
        }
    }
    for (int head = c->head_begin + (int)threadIdx.x; !sel->mixed && head < c->head_end;
         head += ADAPTIVE_THREADS)
        sel->prob[(size_t)c->row * (size_t)sel->n_heads + (size_t)head] = p;
}

/* Block (choice, row). */
template <typename number>
__global__ void __launch_bounds__(ADAPTIVE_THREADS)
    adaptive_kernel(const __grid_constant__ struct adaptive_job job)
{
    extern __shared__ __align__(16) float q[]; /* [head_dim] */
    __shared__ struct adaptive_work work;
    struct adaptive_choice *c = &work.c;
    dependency_release();
    dependency_wait();
    struct call_shape shape = call_shape(&job.att);
    if (threadIdx.x == 0)
        choice_begin(c, &job, &shape);
    __syncthreads();
    if (c->plan.full) /* nobody reads the bitmaps */
        return;
    number_left(&work, &job);
    if (c->n_rest > 0) {
        mark_images(c, c->base, 0, c->n_base);
        int n_read = 0;
        for (int head = c->head_begin; head < c->head_end; head++) {
            int n = ask_head<number>(&work, &job, &shape, q, head);
            n_read = job.sel.shared && head > c->head_begin ? n_read : n_read + n;
        }
        for (int i = 0; i < c->plan.n_ranges; i++)
            n_read += c->plan.range[i].end - c->plan.range[i].begin;
        if (threadIdx.x == 0 && job.att.counts)
            atomicAdd((unsigned long long *)&job.att.counts->score_rows,
                      (unsigned long long)(n_read + c->n_base));
    }
    bool all = c->n_more == c->n_rest;
    if (!all)
        mark_images(c, c->more, c->n_base, c->n_base + c->n_more);
    put_down(c, &job, all);
}

void cuda_select_adaptive(struct device *dev, struct selection *sel, const struct attention *att,
                          const struct adaptive_sampling *sampling, int slot, enum share share)
{
    assert(att->n_rows == sel->n_rows && sampling->mode == DRAW_UNIFORM);
    selection_catch_up(dev, sel);
    selection_plan(dev, sel, SELECT_WINDOW, sampling->init_offset);
    selection_plan(dev, sel, SELECT_WINDOW_END, sampling->local_offset);
    struct adaptive_job job = {};
    job.first = selection_choose(dev, sel, att, share);
    job.first_drawn = !sel->sampled;
    if (sel->sampled)
        selection_mix(dev, sel);
    sel->sampled = true;
    job.att = *att;
    job.sel = *sel;
    job.base = sampling->base;
    job.init_offset = sampling->init_offset;
    job.local_offset = sampling->local_offset;
    job.epsilon = sampling->epsilon;
    job.quantile = normal_quantile(sampling->delta / (sampling->one_sided ? 1.0 : 2.0));
    job.share = share;
    job.slot = slot;
    dim3 grid((unsigned)(share == SHARE_GROUP ? sel->n_kv_heads : sel->n_heads),
              (unsigned)att->n_rows);
    size_t n_bytes = (size_t)att->kv.head_dim * sizeof(float);
    if (att->kv.dtype == DTYPE_F32)
        cuda_launch(dev, adaptive_kernel<float>, grid, ADAPTIVE_THREADS, n_bytes, job);
    else
        cuda_launch(dev, adaptive_kernel<__nv_bfloat16>, grid, ADAPTIVE_THREADS, n_bytes, job);
}
