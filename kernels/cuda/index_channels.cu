/* DoubleSparsity on the device: of each key a few elements per query head, its label, and scores
 * from the labels alone.
 *
 * Labels lie channel by channel, each an array over keys: levels packed into words of 32 bits with
 * the two ends of their range beside them, or with 16 bits the elements themselves.  A query's
 * label is levels too, so that with x = level step + low of both
 *   sum_c q_c k_c = step_q step_k sum_c level_qc level_kc + step_q low_k sum_c level_qc
 *                   + low_q step_k sum_c level_kc + n low_q low_k,
 * whose sums of levels are exact in whole numbers, four bytes at a time.  Levels wider than a byte
 * become floats.
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

/* A query's label, over sqrt(n_channels), in shared memory. */
struct query_label {
    float step, low, sum; /* q_c = level step + low; the sum of q_c */
    int level_sum;
    float q[(int)MAX_CHANNELS + (int)WARP]; /* 0 beyond the channels */
    /* Levels as bytes, as word_bytes takes a key's word apart. */
    uint32_t bytes[(int)MAX_CHANNELS / 4 + (int)WARP];
};

/* Part `part` of a word of levels of WIDTH bits, at most 8: byte b is the level at place
 * b PARTS + part, PARTS = 8 / WIDTH. */
template <int WIDTH> static __device__ __forceinline__ uint32_t word_bytes(uint32_t word, int part)
{
    return word >> part * WIDTH & ((1u << WIDTH) - 1) * 0x01010101u;
}

/* One warp: levels of q to bytes.  Returns their sum. */
static __device__ __forceinline__ int
label_levels(struct query_label *to, const struct label_arrays *from, const struct levels *levels)
{
    int lane = threadIdx.x % WARP, each = 32 / from->width, parts = 8 / from->width, sum = 0;
    for (int i = lane; i < from->n_words * parts; i += WARP)
        to->bytes[i] = 0;
    __syncwarp();
    for (int c = lane; c < from->n_channels; c += WARP) {
        int place = c % each, level = (int)levels_nearest(levels, to->q[c]);
        int at = (c / each * parts + place % parts) * 4 + place / parts;
        ((uint8_t *)to->bytes)[at] = (uint8_t)level;
        sum += level;
    }
    return __reduce_add_sync(0xffffffffu, sum);
}

/* One warp. */
static __device__ __forceinline__ void
label_query(struct query_label *to, const struct channels_score_job *job, int row, int head)
{
    const struct label_arrays *from = &job->from;
    const int16_t *channels = from->channels + (size_t)head * from->n_channels;
    const float *query =
        job->att.q + (size_t)row * job->att.q_stride + (size_t)head * job->att.kv.head_dim;
    int lane = threadIdx.x % WARP, n = from->n_channels, level_sum = 0;
    float low = INFINITY, high = -INFINITY, sum = 0.0f, root = sqrtf((float)n);
    for (int c = lane; c < n; c += WARP) {
        to->q[c] = query[channels[c]];
        low = fminf(low, to->q[c]);
        high = fmaxf(high, to->q[c]);
    }
    struct levels levels = levels_between(-warp_max(-low), warp_max(high), from->n_bits);
    if (from->width <= 8)
        level_sum = label_levels(to, from, &levels);
    for (int c = lane; c < n; c += WARP) {
        if (from->n_bits < 16)
            to->q[c] = levels_value(&levels, levels_nearest(&levels, to->q[c]));
        to->q[c] = __fdiv_rn(to->q[c], root);
        sum += to->q[c];
    }
    to->q[n + lane] = 0.0f;
    sum = warp_sum(sum);
    if (lane > 0)
        return;
    to->step = 1.0f / (levels.scale * root);
    to->low = levels.low / root;
    to->sum = sum;
    to->level_sum = level_sum;
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

/* The levels' range of the thread's keys. */
struct level_ends {
    float low[LANE_KEYS], step[LANE_KEYS];
};

template <typename number>
static __device__ __forceinline__ struct level_ends fetch_ends(const struct label_arrays *from,
                                                               int head, int key)
{
    const number *ends =
        (const number *)from->values + (size_t)head * 2 * from->stride + (size_t)key;
    struct level_ends out;
    float unit = 1.0f / (float)((1 << from->n_bits) - 1);
    four_values(out.low, ends);
    four_values(out.step, ends + from->stride);
#pragma unroll
    for (int i = 0; i < LANE_KEYS; i++)
        out.step[i] = (out.step[i] - out.low[i]) * unit;
    return out;
}

/* s [LANE_KEYS] = scores of the thread's keys, by levels of at most a byte. */
template <int WIDTH, typename number>
static __device__ __forceinline__ void score_bytes(float s[LANE_KEYS],
                                                   const struct label_arrays *from, int head,
                                                   int key, const struct query_label *q)
{
    enum { PARTS = 8 / WIDTH };
    const uint32_t *words = from->words + (size_t)head * from->n_words * from->stride + (size_t)key;
    struct level_ends ends = fetch_ends<number>(from, head, key);
    uint32_t product[LANE_KEYS] = {}, level_sum[LANE_KEYS] = {};
#pragma unroll 4
    for (int w = 0; w < from->n_words; w++) {
        uint4 k = __ldcg((const uint4 *)(words + (size_t)w * from->stride));
        uint32_t word[LANE_KEYS] = {k.x, k.y, k.z, k.w};
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            uint32_t own = q->bytes[w * PARTS + part];
#pragma unroll
            for (int i = 0; i < LANE_KEYS; i++) {
                uint32_t bytes = word_bytes<WIDTH>(word[i], part);
                product[i] = __dp4a(bytes, own, product[i]);
                level_sum[i] = __dp4a(bytes, 0x01010101u, level_sum[i]);
            }
        }
    }
    float n_low = (float)from->n_channels * q->low, sum_q = (float)q->level_sum * q->step;
#pragma unroll
    for (int i = 0; i < LANE_KEYS; i++) {
        float by_step = fmaf((float)product[i], q->step, (float)level_sum[i] * q->low);
        s[i] = fmaf(by_step, ends.step[i], (sum_q + n_low) * ends.low[i]);
    }
}

/* The same by levels of 16 bits. */
template <typename number>
static __device__ __forceinline__ void score_wide(float s[LANE_KEYS],
                                                  const struct label_arrays *from, int head,
                                                  int key, const struct query_label *q)
{
    const uint32_t *words = from->words + (size_t)head * from->n_words * from->stride + (size_t)key;
    struct level_ends ends = fetch_ends<number>(from, head, key);
#pragma unroll
    for (int i = 0; i < LANE_KEYS; i++)
        s[i] = 0.0f;
    for (int w = 0; w < from->n_words; w++) {
        uint4 k = __ldcg((const uint4 *)(words + (size_t)w * from->stride));
        uint32_t word[LANE_KEYS] = {k.x, k.y, k.z, k.w};
        float first = q->q[2 * w], second = q->q[2 * w + 1];
#pragma unroll
        for (int i = 0; i < LANE_KEYS; i++)
            s[i] =
                fmaf(second, (float)(word[i] >> 16), fmaf(first, (float)(word[i] & 0xffffu), s[i]));
    }
#pragma unroll
    for (int i = 0; i < LANE_KEYS; i++)
        s[i] = fmaf(s[i], ends.step[i], q->sum * ends.low[i]);
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

/* Block (share of the keys, head, row); a thread has four keys side by side.  WIDTH 0: labels are
 * values. */
template <int WIDTH, typename number>
__global__ void __launch_bounds__(SCORE_THREADS)
    channels_score_kernel(const __grid_constant__ struct channels_score_job job)
{
    __shared__ struct query_label q;
    int head = blockIdx.y, row = blockIdx.z, n_heads = gridDim.y;
    float *scores = job.scores + ((size_t)row * (size_t)n_heads + (size_t)head) * job.score_stride;
    dependency_release();
    dependency_wait();
    struct call_shape shape = call_shape(&job.att);
    bool chosen;
    struct row_plan plan = resolve_parts(&job.plan, &job.att, &shape, row, &chosen);
    if (plan.full)
        return;
    if (threadIdx.x + blockIdx.x + blockIdx.y + blockIdx.z == 0)
        index_count_scores(&job.att, index_seen_keys(&job.att, &shape), job.key_bytes);
    if (threadIdx.x < WARP)
        label_query(&q, &job, row, head);
    __syncthreads();
    for (int key = (int)(blockIdx.x * SCORE_KEYS + threadIdx.x * LANE_KEYS); key < plan.visible.end;
         key += (int)gridDim.x * SCORE_KEYS) {
        float s[LANE_KEYS];
        if constexpr (WIDTH == 16)
            score_wide<number>(s, &job.from, head, key, &q);
        else if constexpr (WIDTH > 0)
            score_bytes<WIDTH, number>(s, &job.from, head, key, &q);
        else
            score_values<number>(s, &job.from, head, key, q.q);
        *(float4 *)(scores + key) = *(float4 *)s;
    }
}

template <typename number>
static void launch_score(struct device *dev, const struct channels_score_job *job)
{
    const struct attention *att = &job->att;
    int n = ceil_div(att->max_keys, SCORE_KEYS);
    int most = ceil_div(12 * dev->n_sms, att->n_heads * att->n_rows);
    dim3 grid((unsigned)(n < most ? n : most), (unsigned)att->n_heads, (unsigned)att->n_rows);
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
