/* DoubleSparsity on the device: of each key a few elements per query head, its label, and scores
 * from the labels alone.
 *
 * Labels lie channel by channel, each an array over keys: levels packed into words of 32 bits with
 * the two ends of their range beside them, or with 16 bits the elements themselves.  A level
 * becomes a float by its bits alone: under the exponent of 2^width, whose last bits count ones, it
 * reads 2^width + level.
 * Source: Yang et al. 2024, arXiv 2408.07092. */
#include "kernels/cuda/index.cuh"
#include "kernels/cuda/index_levels.cuh"

/* --- Memory ------------------------------------------------------------------------------------
 */

/* Bits of a word that a level takes: a power of two, at most 16. */
static int label_width(const struct key_index_config *config)
{
    int width = 1;
    while (width < config->channels.label_bits)
        width *= 2;
    return width;
}

static int n_words_of(const struct key_index_config *c)
{
    if (c->channels.label_bits >= 16)
        return 0;
    return ceil_div(c->channels.n_channels * label_width(c), 32);
}

static int n_values_of(const struct key_index_config *c)
{
    return c->channels.label_bits < 16 ? 2 : c->channels.n_channels;
}

static uint64_t channels_bytes(const struct key_index_config *c, size_t stride)
{
    return (uint64_t)c->n_layers * (uint64_t)c->n_heads * stride *
           ((uint64_t)n_words_of(c) * sizeof(uint32_t) +
            (uint64_t)n_values_of(c) * dtype_bytes(c->kv_dtype));
}

static bool channels_open(struct device *dev, struct key_index *index)
{
    const struct key_index_config *c = &index->config;
    const struct key_channels *from = &c->channels;
    size_t n_lists = (size_t)c->n_layers * (size_t)c->n_heads;
    size_t n_bytes = n_lists * (size_t)from->n_channels * sizeof *index->channels;
    assert(from->n_channels > 0 && from->n_channels <= c->head_dim);
    assert(from->label_bits > 0 && from->label_bits <= 16);
    index->n_words = n_words_of(c);
    index->n_values = n_values_of(c);
    index->channels = (int16_t *)cuda_alloc(dev, n_bytes);
    if (index->channels)
        cuda_upload(dev, index->channels, from->channels, n_bytes);
    n_lists *= index->stride;
    if (index->n_words)
        index->words =
            (uint32_t *)cuda_alloc(dev, n_lists * (size_t)index->n_words * sizeof *index->words);
    index->values = cuda_alloc(dev, n_lists * (size_t)index->n_values * dtype_bytes(c->kv_dtype));
    return index->channels && index->values && (index->words || !index->n_words);
}

static void channels_close(struct device *dev, struct key_index *index)
{
    cuda_release(dev, index->channels);
    cuda_release(dev, index->words);
    cuda_release(dev, index->values);
}

/* The labels of one layer. */
struct label_arrays {
    const int16_t *channels; /* [n_heads, n_channels] */
    uint32_t *words;         /* [n_heads, n_words, stride] */
    void *values;            /* [n_heads, n_values, stride] */
    size_t stride;
    int n_channels, n_bits, width, n_words, n_values;
};

static struct label_arrays layer_labels(const struct key_index *index, int layer)
{
    const struct key_index_config *c = &index->config;
    size_t lists = (size_t)layer * (size_t)c->n_heads;
    struct label_arrays out = {};
    out.n_channels = c->channels.n_channels;
    out.n_bits = c->channels.label_bits;
    out.width = label_width(c);
    out.n_words = index->n_words;
    out.n_values = index->n_values;
    out.stride = index->stride;
    out.channels = index->channels + lists * (size_t)out.n_channels;
    if (index->words)
        out.words = index->words + lists * (size_t)out.n_words * out.stride;
    out.values = (char *)index->values +
                 lists * (size_t)out.n_values * out.stride * dtype_bytes(c->kv_dtype);
    return out;
}

/* --- Keys --------------------------------------------------------------------------------------
 */

enum { ADD_THREADS = 128, MAX_CHANNELS = 1024 };

struct channels_add_job {
    struct attention att;
    struct index_count count;
    struct label_arrays to;
};

/* Levels and ends of one key's elements. */
template <typename number>
static __device__ __forceinline__ void add_levels(const struct label_arrays *to, int head, int key,
                                                  const number *k, const int16_t *channels)
{
    number *ends = (number *)to->values + (size_t)head * 2 * to->stride + (size_t)key;
    uint32_t *words = to->words + (size_t)head * to->n_words * to->stride + (size_t)key;
    number low = k[channels[0]], high = low;
    for (int c = 1; c < to->n_channels; c++) {
        number x = k[channels[c]];
        low = to_f32(x) < to_f32(low) ? x : low;
        high = to_f32(x) > to_f32(high) ? x : high;
    }
    ends[0] = low;
    ends[to->stride] = high;
    struct levels levels = levels_between(to_f32(low), to_f32(high), to->n_bits);
    for (int c = 0, w = 0; w < to->n_words; w++) {
        uint32_t word = 0;
        for (int shift = 0; shift < 32 && c < to->n_channels; shift += to->width, c++)
            word |= (uint32_t)levels_nearest(&levels, to_f32(k[channels[c]])) << shift;
        words[(size_t)w * to->stride] = word;
    }
}

/* Block (share of the keys, head); a thread has a key at a time. */
template <typename number>
__global__ void __launch_bounds__(ADD_THREADS)
    channels_add_kernel(const __grid_constant__ struct channels_add_job job)
{
    __shared__ int16_t channels[MAX_CHANNELS];
    const struct label_arrays *to = &job.to;
    int head = blockIdx.y, kv_head = head / (job.att.n_heads / job.att.kv.n_kv_heads), kept;
    for (int c = threadIdx.x; c < to->n_channels; c += ADD_THREADS)
        channels[c] = to->channels[(size_t)head * to->n_channels + c];
    __syncthreads();
    dependency_release();
    dependency_wait();
    struct call_shape shape = call_shape(&job.att);
    struct key_range added = index_added(&job.count, &shape, &kept);
    for (int key = added.begin + (int)(blockIdx.x * ADD_THREADS + threadIdx.x); key < added.end;
         key += (int)gridDim.x * ADD_THREADS) {
        int segment;
        size_t offset = key_offset(&job.att, &shape, kv_head, key, &segment);
        const number *k = (const number *)job.att.kv.k[segment] + offset;
        number *values = (number *)to->values + (size_t)head * to->n_values * to->stride;
        if (to->n_bits < 16)
            add_levels(to, head, key, k, channels);
        else
            for (int c = 0; c < to->n_channels; c++)
                values[(size_t)c * to->stride + (size_t)key] = k[channels[c]];
    }
    index_finish(&job.count, &shape);
}

static void channels_add(struct device *dev, struct key_index *index, const struct attention *att)
{
    struct channels_add_job job = {};
    assert(index->config.channels.n_channels <= MAX_CHANNELS);
    job.att = *att;
    job.count = index_count_of(index, att);
    job.to = layer_labels(index, att->layer);
    int n_rows = att->n_rows_total ? att->n_rows_total : att->n_rows;
    int n = ceil_div(n_rows > 0 ? n_rows : att->max_keys, ADD_THREADS);
    int most = ceil_div(16 * dev->n_sms, att->n_heads);
    dim3 grid((unsigned)(n < most ? n : most), (unsigned)att->n_heads);
    if (att->kv.dtype == DTYPE_F32)
        cuda_launch(dev, channels_add_kernel<float>, grid, ADD_THREADS, 0, job);
    else
        cuda_launch(dev, channels_add_kernel<__nv_bfloat16>, grid, ADD_THREADS, 0, job);
}

/* --- Scores ----------------------------------------------------------------------------------- */

enum { SCORE_THREADS = 128, LANE_KEYS = 4, SCORE_KEYS = SCORE_THREADS * LANE_KEYS };

struct channels_score_job {
    struct attention att;
    struct select_plan plan;
    float *scores; /* [n_rows, n_heads, score_stride] */
    size_t score_stride;
    struct label_arrays from;
    unsigned long long key_bytes; /* of all heads' labels of a key */
};

/* q [n_channels] = the query's label, over sqrt(n_channels).  One warp; returns the sum of q. */
static __device__ __forceinline__ float label_query(float *q, const struct channels_score_job *job,
                                                    int row, int head)
{
    const struct label_arrays *from = &job->from;
    const int16_t *channels = from->channels + (size_t)head * from->n_channels;
    const float *query =
        job->att.q + (size_t)row * job->att.q_stride + (size_t)head * job->att.kv.head_dim;
    int lane = threadIdx.x % WARP, n = from->n_channels;
    float low = INFINITY, high = -INFINITY, sum = 0.0f;
    for (int c = lane; c < n; c += WARP) {
        q[c] = query[channels[c]];
        low = fminf(low, q[c]);
        high = fmaxf(high, q[c]);
    }
    struct levels levels = levels_between(-warp_max(-low), warp_max(high), from->n_bits);
    for (int c = lane; c < n; c += WARP) {
        if (from->n_bits < 16)
            q[c] = levels_value(&levels, levels_nearest(&levels, q[c]));
        q[c] = __fdiv_rn(q[c], sqrtf((float)n));
        sum += q[c];
    }
    return warp_sum(sum);
}

/* x [LANE_KEYS] = four neighbouring values. */
static __device__ __forceinline__ void four_values(float x[LANE_KEYS], const float *from)
{
    *(float4 *)x = __ldcg((const float4 *)from);
}

static __device__ __forceinline__ void four_values(float x[LANE_KEYS], const __nv_bfloat16 *from)
{
    uint2 k = __ldcg((const uint2 *)from);
    x[0] = __uint_as_float(k.x << 16);
    x[1] = __uint_as_float(k.x & 0xffff0000u);
    x[2] = __uint_as_float(k.y << 16);
    x[3] = __uint_as_float(k.y & 0xffff0000u);
}

/* 2^WIDTH + the level at the lowest bits of the word. */
template <int WIDTH> static __device__ __forceinline__ float level_above_base(uint32_t word)
{
    uint32_t mask = ((1u << WIDTH) - 1) << (23 - WIDTH);
    return __uint_as_float((word << (23 - WIDTH) & mask) | (127u + WIDTH) << 23);
}

/* s [LANE_KEYS] = scores of the thread's keys: sum_c q_c (level_c step + low) =
 * step sum_c q_c level_c + low sum_c q_c. */
template <int WIDTH, typename number>
static __device__ __forceinline__ void score_levels(float s[LANE_KEYS],
                                                    const struct label_arrays *from, int head,
                                                    int key, const float *q, float q_sum)
{
    const uint32_t *words = from->words + (size_t)head * from->n_words * from->stride + (size_t)key;
    const number *ends =
        (const number *)from->values + (size_t)head * 2 * from->stride + (size_t)key;
    float low[LANE_KEYS], high[LANE_KEYS], unit = 1.0f / (float)((1 << from->n_bits) - 1);
    four_values(low, ends);
    four_values(high, ends + from->stride);
#pragma unroll
    for (int i = 0; i < LANE_KEYS; i++)
        s[i] = 0.0f;
    for (int c = 0, w = 0; w < from->n_words; w++) {
        uint4 k = __ldcg((const uint4 *)(words + (size_t)w * from->stride));
        uint32_t word[LANE_KEYS] = {k.x, k.y, k.z, k.w};
#pragma unroll
        for (int j = 0; j < 32 / WIDTH; j++, c++) {
            float x = q[c]; /* 0 beyond the channels */
#pragma unroll
            for (int i = 0; i < LANE_KEYS; i++)
                s[i] = fmaf(x, level_above_base<WIDTH>(word[i] >> j * WIDTH), s[i]);
        }
    }
#pragma unroll
    for (int i = 0; i < LANE_KEYS; i++)
        s[i] = fmaf((s[i] - q_sum * (float)(1 << WIDTH)) * unit, high[i] - low[i], q_sum * low[i]);
}

template <typename number>
static __device__ __forceinline__ void
score_values(float s[LANE_KEYS], const struct label_arrays *from, int head, int key, const float *q)
{
    const number *values =
        (const number *)from->values + (size_t)head * from->n_values * from->stride + (size_t)key;
#pragma unroll
    for (int i = 0; i < LANE_KEYS; i++)
        s[i] = 0.0f;
#pragma unroll 4
    for (int c = 0; c < from->n_channels; c++) {
        float x[LANE_KEYS];
        four_values(x, values + (size_t)c * from->stride);
#pragma unroll
        for (int i = 0; i < LANE_KEYS; i++)
            s[i] = fmaf(q[c], x[i], s[i]);
    }
}

/* Block (keys, head, row); a thread has four keys side by side.  WIDTH 0: labels are values. */
template <int WIDTH, typename number>
__global__ void __launch_bounds__(SCORE_THREADS)
    channels_score_kernel(const __grid_constant__ struct channels_score_job job)
{
    __shared__ float q[MAX_CHANNELS + 32], q_sum;
    int key = (int)(blockIdx.x * SCORE_KEYS + threadIdx.x * LANE_KEYS);
    int head = blockIdx.y, row = blockIdx.z, n_heads = gridDim.y;
    size_t slot = (size_t)row * (size_t)n_heads + (size_t)head;
    dependency_release();
    dependency_wait();
    struct call_shape shape = call_shape(&job.att);
    bool chosen;
    struct row_plan plan = resolve_parts(&job.plan, &job.att, &shape, row, &chosen);
    if (threadIdx.x + blockIdx.x + blockIdx.y + blockIdx.z == 0 && !plan.full)
        index_count_scores(&job.att, index_seen_keys(&job.att, &shape), job.key_bytes);
    if (plan.full || (int)(blockIdx.x * SCORE_KEYS) >= plan.visible.end)
        return;
    if (threadIdx.x < WARP) {
        float sum = label_query(q, &job, row, head);
        q[job.from.n_channels + threadIdx.x] = 0.0f;
        if (threadIdx.x == 0)
            q_sum = sum;
    }
    __syncthreads();
    if (key >= plan.visible.end)
        return;
    float s[LANE_KEYS];
    if constexpr (WIDTH > 0)
        score_levels<WIDTH, number>(s, &job.from, head, key, q, q_sum);
    else
        score_values<number>(s, &job.from, head, key, q);
    *(float4 *)(job.scores + slot * job.score_stride + (size_t)key) = *(float4 *)s;
}

template <typename number>
static void launch_score(struct device *dev, const struct channels_score_job *job)
{
    const struct attention *att = &job->att;
    dim3 grid((unsigned)ceil_div(att->max_keys, SCORE_KEYS), (unsigned)att->n_heads,
              (unsigned)att->n_rows);
    void (*kernel)(struct channels_score_job) = channels_score_kernel<0, number>;
    switch (job->from.n_bits < 16 ? job->from.width : 0) {
    case 1:
        kernel = channels_score_kernel<1, number>;
        break;
    case 2:
        kernel = channels_score_kernel<2, number>;
        break;
    case 4:
        kernel = channels_score_kernel<4, number>;
        break;
    case 8:
        kernel = channels_score_kernel<8, number>;
        break;
    case 16:
        kernel = channels_score_kernel<16, number>;
        break;
    }
    cuda_launch(dev, kernel, grid, SCORE_THREADS, 0, *job);
}

static void channels_score(struct device *dev, struct selection *sel, const struct key_index *index,
                           const struct attention *att)
{
    struct channels_score_job job = {};
    size_t value_bytes = dtype_bytes(index->config.kv_dtype);
    job.att = *att;
    job.plan = sel->plan;
    job.scores = sel->scores;
    job.score_stride = sel->stride;
    job.from = layer_labels(index, att->layer);
    job.key_bytes = (unsigned long long)att->n_heads * ((size_t)index->n_values * value_bytes +
                                                        (size_t)index->n_words * sizeof(uint32_t));
    if (index->config.kv_dtype == DTYPE_F32)
        launch_score<float>(dev, &job);
    else
        launch_score<__nv_bfloat16>(dev, &job);
}

const struct index_kind index_channels = {index_n_keys,   channels_open, channels_close,
                                          channels_bytes, channels_add,  channels_score};
