/* HashAttention on the device: keys and queries to bits by small networks, keys scored by the bits
 * that they share with the query.
 *
 * A network's sums run over the inputs in order, in f32, whatever goes together, so that a key gets
 * the same bits alone as among others.  Its weights, which no step changes, come into shared memory
 * while the kernel before still runs, if they fit.
 * Source: Desai et al. 2024, arXiv 2412.14468. */
#include "kernels/cuda/index.cuh"
#include "kernels/cuda/index_network.cuh"

#include <stdlib.h>
#include <string.h>

/* --- Memory ------------------------------------------------------------------------------------
 */

static int n_bits_of(const struct key_index_config *c)
{
    return c->hash.width[c->hash.n_linears];
}

static int n_words_of(const struct key_index_config *c)
{
    return ceil_div(n_bits_of(c), 32);
}

/* Elements of one linear's weights, and of its biases, over all layers and heads. */
static size_t n_weights(const struct key_index_config *c, int linear)
{
    return (size_t)c->n_layers * (size_t)c->n_heads * (size_t)c->hash.width[linear] *
           (size_t)network_padded(c->hash.width[linear + 1]);
}

static size_t n_biases(const struct key_index_config *c, int linear)
{
    return (size_t)c->n_layers * (size_t)c->n_heads *
           (size_t)network_padded(c->hash.width[linear + 1]);
}

static uint32_t float_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* The type that holds x [n] exactly in the fewest bytes. */
static enum dtype narrowest(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (float_bits(x[i]) & 0xFFFF)
            return DTYPE_F32;
    return DTYPE_BF16;
}

/* (device) [n, padded(width)] = from [n, width], then zeros.  NULL: out of memory. */
static void *padded_copy(struct device *dev, const float *from, size_t n, int width,
                         enum dtype dtype)
{
    size_t padded = (size_t)network_padded(width), n_bytes = n * padded * dtype_bytes(dtype);
    char *host = (char *)calloc(n_bytes, 1);
    void *to = host ? cuda_alloc(dev, n_bytes) : NULL;
    for (size_t i = 0; to && i < n * (size_t)width; i++) {
        size_t at = i / (size_t)width * padded + i % (size_t)width;
        uint32_t bits = float_bits(from[i]);
        if (dtype == DTYPE_F32)
            ((uint32_t *)host)[at] = bits;
        else
            ((uint16_t *)host)[at] = (uint16_t)(bits >> 16); /* the rest is 0 */
    }
    if (to)
        cuda_upload(dev, to, host, n_bytes);
    free(host);
    return to;
}

static bool hash_open(struct device *dev, struct key_index *index)
{
    const struct key_index_config *c = &index->config;
    const struct hash_networks *h = &c->hash;
    size_t n = (size_t)c->n_layers * (size_t)c->n_heads;
    assert(h->n_linears > 0 && h->n_linears <= HASH_MAX_LINEARS && h->width[0] == c->head_dim);
    index->n_words = n_words_of(c);
    index->words = (uint32_t *)cuda_alloc(dev, n * (size_t)index->n_words * index->stride *
                                                   sizeof *index->words);
    bool ok = index->words != NULL;
    for (int side = 0; side < HASH_SIDES; side++)
        for (int i = 0; ok && i < h->n_linears; i++) {
            int width = h->width[i + 1];
            size_t n_rows = n * (size_t)h->width[i];
            enum dtype dtype = narrowest(h->w[side][i], n_rows * (size_t)width);
            index->hash.dtype[side][i] = dtype;
            index->hash.w[side][i] = padded_copy(dev, h->w[side][i], n_rows, width, dtype);
            index->hash.b[side][i] = (float *)padded_copy(dev, h->b[side][i], n, width, DTYPE_F32);
            ok = index->hash.w[side][i] && index->hash.b[side][i];
        }
    return ok;
}

static void hash_close(struct device *dev, struct key_index *index)
{
    for (int side = 0; side < HASH_SIDES; side++)
        for (int i = 0; i < HASH_MAX_LINEARS; i++) {
            cuda_release(dev, index->hash.w[side][i]);
            cuda_release(dev, index->hash.b[side][i]);
        }
    cuda_release(dev, index->words);
}

/* At most: networks that bf16 holds take half. */
static uint64_t hash_bytes(const struct key_index_config *c, size_t stride)
{
    uint64_t bytes = (uint64_t)c->n_layers * (uint64_t)c->n_heads * (uint64_t)n_words_of(c) *
                     stride * sizeof(uint32_t);
    for (int i = 0; i < c->hash.n_linears; i++)
        bytes += HASH_SIDES * (n_weights(c, i) + n_biases(c, i)) * sizeof(float);
    return bytes;
}

size_t cuda_index_workspace_bytes(const struct device *dev, const struct workspace_need *need)
{
    (void)dev;
    return (size_t)need->max_rows * (size_t)need->n_heads * (HASH_MAX_BITS / 32) * sizeof(uint32_t);
}

/* --- Networks --------------------------------------------------------------------------------- */

static struct network network_of(const struct key_index *index, enum hash_side side, int layer)
{
    const struct hash_networks *h = &index->config.hash;
    struct network net = {};
    net.n_linears = h->n_linears;
    net.activation = h->activation;
    net.width[0] = h->width[0];
    for (int i = 0; i < h->n_linears; i++) {
        size_t n =
            (size_t)layer * (size_t)index->config.n_heads * (size_t)network_padded(h->width[i + 1]);
        enum dtype dtype = index->hash.dtype[side][i];
        net.width[i + 1] = h->width[i + 1];
        net.dtype[i] = dtype;
        net.w[i] =
            (const char *)index->hash.w[side][i] + n * (size_t)h->width[i] * dtype_bytes(dtype);
        net.b[i] = index->hash.b[side][i] + n;
    }
    return net;
}

static void hash_add(struct device *dev, struct key_index *index, const struct attention *att)
{
    size_t words_of_layer = (size_t)index->config.n_heads * (size_t)index->n_words * index->stride;
    struct network_job job = {};
    job.att = *att;
    job.net = network_of(index, HASH_KEY, att->layer);
    job.count = index_count_of(index, att);
    job.words = index->words + (size_t)att->layer * words_of_layer;
    job.n_words = index->n_words;
    job.head_stride = (size_t)index->n_words * index->stride;
    job.word_stride = index->stride;
    job.row_stride = 1;
    network_run(dev, &job, true, att->n_rows_total ? att->n_rows_total : att->n_rows);
}

/* words [n_rows, n_heads, n_words] = the bits of the call's queries. */
static void hash_queries(struct device *dev, const struct selection *sel,
                         const struct key_index *index, const struct attention *att,
                         uint32_t *words)
{
    struct network_job job = {};
    job.att = *att;
    job.net = network_of(index, HASH_QUERY, att->layer);
    job.words = words;
    job.n_words = index->n_words;
    job.head_stride = (size_t)index->n_words;
    job.word_stride = 1;
    job.row_stride = (size_t)att->n_heads * (size_t)index->n_words;
    job.plan = sel->plan;
    job.score_bytes = (unsigned long long)att->n_heads * (size_t)index->n_words * sizeof(uint32_t);
    network_run(dev, &job, false, att->n_rows);
}

/* --- Scores ----------------------------------------------------------------------------------- */

enum { SCORE_THREADS = 256, LANE_KEYS = 4, SCORE_KEYS = SCORE_THREADS * LANE_KEYS };

struct hash_score_job {
    struct level_scores from;
    float *scores; /* [n_rows, n_heads, stride] */
    size_t stride;
};

/* Block (share of the keys, head, row); a thread has four keys side by side. */
__global__ void __launch_bounds__(SCORE_THREADS)
    hash_score_kernel(const __grid_constant__ struct hash_score_job job)
{
    const struct level_scores *from = &job.from;
    int head = blockIdx.y, row = blockIdx.z, n_heads = gridDim.y;
    size_t slot = (size_t)row * (size_t)n_heads + (size_t)head;
    const uint32_t *words = from->words + (size_t)head * from->n_words * from->stride;
    float *scores = job.scores + slot * job.stride;
    dependency_release();
    dependency_wait();
    struct call_shape shape = call_shape(&from->att);
    int end = row_visible(&from->att, &shape, row).end;
    for (int key = (int)(blockIdx.x * SCORE_KEYS + threadIdx.x * LANE_KEYS); key < end;
         key += (int)gridDim.x * SCORE_KEYS) {
        int distance[LANE_KEYS] = {};
        for (int w = 0; w < from->n_words; w++) {
            uint32_t query = __ldcg(from->queries + slot * from->n_words + w);
            uint4 k = __ldcg((const uint4 *)(words + w * from->stride + key));
            distance[0] += __popc(k.x ^ query);
            distance[1] += __popc(k.y ^ query);
            distance[2] += __popc(k.z ^ query);
            distance[3] += __popc(k.w ^ query);
        }
        float4 out = {
            (float)(from->n_bits - 2 * distance[0]), (float)(from->n_bits - 2 * distance[1]),
            (float)(from->n_bits - 2 * distance[2]), (float)(from->n_bits - 2 * distance[3])};
        *(float4 *)(scores + key) = out;
    }
}

/* For maskers that read the score buffer. */
static void hash_write_scores(struct device *dev, struct selection *sel,
                              const struct level_scores *levels)
{
    struct hash_score_job job = {*levels, sel->scores, sel->stride};
    const struct attention *att = &levels->att;
    int n = ceil_div(att->max_keys, SCORE_KEYS);
    int most = ceil_div(16 * dev->n_sms, att->n_heads * att->n_rows);
    dim3 grid((unsigned)(n < most ? n : most), (unsigned)att->n_heads, (unsigned)att->n_rows);
    cuda_launch(dev, hash_score_kernel, grid, SCORE_THREADS, 0, job);
}

static void hash_score(struct device *dev, struct selection *sel, const struct key_index *index,
                       const struct attention *att)
{
    size_t n_words = (size_t)index->n_words, n_heads = (size_t)att->n_heads;
    uint32_t *queries = (uint32_t *)cuda_workspace(
        dev, WORKSPACE_INDEX, (size_t)att->n_rows * n_heads * n_words * sizeof *queries);
    if (!queries)
        return;
    hash_queries(dev, sel, index, att, queries);
    sel->late->levels.write = hash_write_scores;
    sel->late->levels.att = *att;
    sel->late->levels.words = index->words + (size_t)att->layer * n_heads * n_words * index->stride;
    sel->late->levels.queries = queries;
    sel->late->levels.n_known = index->n_indexed + att->layer;
    sel->late->levels.stride = index->stride;
    sel->late->levels.n_words = index->n_words;
    sel->late->levels.n_bits = n_bits_of(&index->config);
}

const struct index_kind index_hash = {index_n_keys, hash_open, hash_close,
                                      hash_bytes,   hash_add,  hash_score};
