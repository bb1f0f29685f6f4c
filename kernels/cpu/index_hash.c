/* HashAttention on the cpu: keys and queries to bits by small networks, keys scored by the bits
 * that they share with the query.
 * Source: Desai et al. 2024, arXiv 2412.14468. */
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/index.h"

enum { SCORE_KEYS = 4096 /* keys of one scoring task */ };

struct hash_job {
    struct device *dev;
    const struct key_index *index;
    const struct attention *att;
    struct attention_shape shape;
    struct key_range added; /* hash_add */
    int n_blocks;           /* tasks per head */
    struct selection *sel;  /* hash_score */
    uint32_t *queries;      /* [n_rows, n_heads, n_words] */
};

/* --- Memory ---------------------------------------------------------------------------------- */

static int n_words_of(const struct key_index_config *c)
{
    return (c->hash.width[c->hash.n_linears] + 31) / 32;
}

/* Elements of one linear's weights, and of its biases, over all layers and heads. */
static size_t n_weights(const struct key_index_config *c, int linear)
{
    return (size_t)c->n_layers * (size_t)c->n_heads * (size_t)c->hash.width[linear] *
           (size_t)hash_padded(c->hash.width[linear + 1]);
}

static size_t n_biases(const struct key_index_config *c, int linear)
{
    return (size_t)c->n_layers * (size_t)c->n_heads *
           (size_t)hash_padded(c->hash.width[linear + 1]);
}

/* The type that holds x [n] exactly in the fewest bytes. */
static enum dtype narrowest(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (float_bits(x[i]) & 0xFFFF)
            return DTYPE_F32;
    return DTYPE_BF16;
}

/* to [n, padded(width)] = from [n, width], then zeros.  NULL: out of memory. */
static void *padded_copy(const float *from, size_t n, int width, enum dtype dtype)
{
    size_t padded = (size_t)hash_padded(width);
    void *to = calloc(n * padded, dtype_bytes(dtype));
    for (size_t i = 0; to && i < n; i++)
        store_f32(to, dtype, i * padded, from + i * (size_t)width, width);
    return to;
}

static bool hash_open(struct key_index *index)
{
    const struct key_index_config *c = &index->config;
    const struct hash_networks *h = &c->hash;
    size_t n = (size_t)c->n_layers * (size_t)c->n_heads;
    assert(h->n_linears > 0 && h->n_linears <= HASH_MAX_LINEARS && h->width[0] == c->head_dim);
    index->n_words = n_words_of(c);
    /* Zeroed by the system when first touched, so that it costs what is indexed. */
    index->words = calloc(n * (size_t)index->n_words * index->stride, sizeof *index->words);
    bool ok = index->words != NULL;
    for (int side = 0; side < HASH_SIDES; side++)
        for (int i = 0; ok && i < h->n_linears; i++) {
            int width = h->width[i + 1];
            size_t n_rows = n * (size_t)h->width[i];
            enum dtype dtype = narrowest(h->w[side][i], n_rows * (size_t)width);
            index->hash.dtype[side][i] = dtype;
            index->hash.w[side][i] = padded_copy(h->w[side][i], n_rows, width, dtype);
            index->hash.b[side][i] = padded_copy(h->b[side][i], n, width, DTYPE_F32);
            ok = index->hash.w[side][i] && index->hash.b[side][i];
        }
    return ok;
}

static void hash_close(struct key_index *index)
{
    for (int side = 0; side < HASH_SIDES; side++)
        for (int i = 0; i < HASH_MAX_LINEARS; i++) {
            free(index->hash.w[side][i]);
            free(index->hash.b[side][i]);
        }
    free(index->words);
}

static uint64_t hash_bytes(const struct key_index_config *c, size_t stride)
{
    uint64_t bytes = (uint64_t)c->n_layers * (uint64_t)c->n_heads * (uint64_t)n_words_of(c) *
                     stride * sizeof(uint32_t);
    for (int i = 0; i < c->hash.n_linears; i++)
        bytes += HASH_SIDES * (n_weights(c, i) + n_biases(c, i)) * sizeof(float);
    return bytes;
}

/* --- Networks -------------------------------------------------------------------------------- */

/* A thread's rows on their way through a network: two buffers [HASH_ROWS, widest]. */
struct hash_scratch {
    float *x, *y;
};

static bool hash_scratch_get(const struct hash_job *job, int thread_index, struct hash_scratch *out)
{
    const struct hash_networks *h = &job->index->config.hash;
    int widest = h->width[0];
    for (int i = 1; i <= h->n_linears; i++)
        widest = max_int(widest, hash_padded(h->width[i]));
    size_t n = HASH_ROWS * (size_t)widest;
    out->x = cpu_scratch(job->dev, thread_index, 2 * n * sizeof(float));
    out->y = out->x ? out->x + n : NULL;
    return out->x != NULL;
}

/* Runs rows x [n, head_dim] through the network of one side, layer and head.  Returns the last
 * linear's outputs [n, padded(bits)], in scratch. */
static const float *run_network(const struct hash_job *job, enum hash_side side, int head,
                                struct hash_scratch *scratch, int n)
{
    const struct key_index *index = job->index;
    const struct hash_networks *h = &index->config.hash;
    const struct index_kernels *kernels = index_kernels(job->dev->isa);
    size_t which = (size_t)job->att->layer * (size_t)index->config.n_heads + (size_t)head;
    for (int i = 0; i < h->n_linears; i++) {
        int n_in = h->width[i], n_out = hash_padded(h->width[i + 1]);
        enum dtype dtype = index->hash.dtype[side][i];
        /* The outputs before lie a padded width apart. */
        int x_width = i ? hash_padded(n_in) : n_in;
        for (int row = 1; row < n && x_width > n_in; row++)
            memmove(scratch->x + row * n_in, scratch->x + row * x_width,
                    (size_t)n_in * sizeof(float));
        kernels->linear(scratch->y, scratch->x,
                        (const char *)index->hash.w[side][i] +
                            which * (size_t)n_in * (size_t)n_out * dtype_bytes(dtype),
                        dtype, index->hash.b[side][i] + which * (size_t)n_out, n, n_in, n_out);
        if (i + 1 < h->n_linears)
            kernels->activate(scratch->y, n * n_out, h->activation);
        float *swap = scratch->x;
        scratch->x = scratch->y;
        scratch->y = swap;
    }
    return scratch->x;
}

/* words [n_words], `apart` words from one to the next, = the signs of x [bits]. */
static void pack_bits(const struct key_index *index, uint32_t *words, size_t apart, const float *x)
{
    int n_bits = index->config.hash.width[index->config.hash.n_linears];
    for (int first = 0; first < n_bits; first += 32, words += apart) {
        uint32_t word = 0;
        for (int i = first; i < min_int(first + 32, n_bits); i++)
            word |= (uint32_t)(x[i] > 0.0f) << (i - first);
        *words = word;
    }
}

/* --- Keys ------------------------------------------------------------------------------------ */

/* x [n, head_dim] = keys [begin, end) as f32. */
static void load_keys(const struct hash_job *job, float *x, int kv_head, int begin, int end)
{
    size_t dim = (size_t)job->shape.head_dim;
    for (int segment = 0; segment < KV_SEGMENTS; segment++) {
        struct key_run run = attention_run(job->att, &job->shape, kv_head, segment, begin, end);
        if (run.begin >= run.end)
            continue;
        size_t n = (size_t)(run.end - run.begin) * dim;
        float *to = x + (size_t)(run.begin - begin) * dim;
        for (size_t i = 0; i < n; i++)
            to[i] = load_as_f32(run.k, job->att->kv.dtype, i);
    }
}

static void add_task(void *user, int task_index, int thread_index)
{
    const struct hash_job *job = user;
    const struct key_index *index = job->index;
    int head = task_index / job->n_blocks, block = task_index % job->n_blocks;
    int begin = job->added.begin + block * HASH_ROWS;
    int end = min_int(begin + HASH_ROWS, job->added.end);
    size_t padded = (size_t)hash_padded(index->config.hash.width[index->config.hash.n_linears]);
    struct hash_scratch scratch;
    if (!hash_scratch_get(job, thread_index, &scratch))
        return;
    load_keys(job, scratch.x, head / job->shape.group, begin, end);
    const float *signs = run_network(job, HASH_KEY, head, &scratch, end - begin);
    uint32_t *words = index_words(index, job->att->layer, head);
    for (int key = begin; key < end; key++)
        pack_bits(index, words + key, index->stride, signs + (size_t)(key - begin) * padded);
}

static void hash_add(struct device *dev, struct key_index *index, const struct attention *att,
                     struct key_range added, int kept)
{
    (void)kept;
    struct hash_job job = {.dev = dev, .index = index, .att = att, .added = added};
    job.shape = attention_shape(att);
    job.n_blocks = (added.end - added.begin + HASH_ROWS - 1) / HASH_ROWS;
    cpu_parallel(dev, index->config.n_heads * job.n_blocks, add_task, &job);
}

/* --- Scores ---------------------------------------------------------------------------------- */

static void query_task(void *user, int task_index, int thread_index)
{
    const struct hash_job *job = user;
    const struct key_index *index = job->index;
    int head = task_index / job->n_blocks, first = task_index % job->n_blocks * HASH_ROWS;
    int n = min_int(HASH_ROWS, job->att->n_rows - first);
    size_t dim = (size_t)job->shape.head_dim, n_words = (size_t)index->n_words;
    size_t padded = (size_t)hash_padded(index->config.hash.width[index->config.hash.n_linears]);
    struct hash_scratch scratch;
    if (!hash_scratch_get(job, thread_index, &scratch))
        return;
    for (int i = 0; i < n; i++)
        memcpy(scratch.x + (size_t)i * dim, attention_query(job->att, &job->shape, first + i, head),
               dim * sizeof(float));
    const float *signs = run_network(job, HASH_QUERY, head, &scratch, n);
    for (int i = 0; i < n; i++) {
        size_t slot = selection_slot(job->sel, first + i, head);
        pack_bits(index, job->queries + slot * n_words, 1, signs + (size_t)i * padded);
    }
}

static void score_task(void *user, int task_index, int thread_index)
{
    (void)thread_index;
    const struct hash_job *job = user;
    const struct key_index *index = job->index;
    int head = task_index / job->n_blocks, block = task_index % job->n_blocks;
    const uint32_t *words = index_words(index, job->att->layer, head);
    float n_bits = (float)index->config.hash.width[index->config.hash.n_linears];
    for (int row = 0; row < job->att->n_rows; row++) {
        struct key_range visible = job->sel->visible[row];
        int begin = max_int(visible.begin, block * SCORE_KEYS);
        int end = min_int(visible.end, (block + 1) * SCORE_KEYS);
        size_t slot = selection_slot(job->sel, row, head);
        if (begin < end)
            index_kernels(job->dev->isa)
                ->score_bits(selection_scores(job->sel, row, head) + begin, words + begin,
                             index->stride, job->queries + slot * (size_t)index->n_words,
                             index->n_words, n_bits, end - begin);
    }
}

/* Bytes of bits read, told as K rows. */
static void count_scores(const struct hash_job *job)
{
    size_t row_bytes = (size_t)job->shape.head_dim * dtype_bytes(job->att->kv.dtype);
    size_t key_bytes = (size_t)job->att->n_heads * (size_t)job->index->n_words * sizeof(uint32_t);
    uint64_t n_bytes = 0;
    for (int row = 0; row < job->sel->n_rows; row++)
        n_bytes += key_bytes * (size_t)(job->sel->visible[row].end - job->sel->visible[row].begin);
    job->att->counts->score_rows += (n_bytes + row_bytes - 1) / row_bytes;
}

static void hash_score(struct device *dev, struct selection *sel, const struct key_index *index,
                       const struct attention *att)
{
    struct hash_job job = {.dev = dev, .index = index, .att = att, .sel = sel};
    size_t n_words = (size_t)att->n_rows * (size_t)att->n_heads * (size_t)index->n_words;
    job.shape = attention_shape(att);
    job.queries = cpu_workspace(dev, CPU_WORKSPACE_INDEX, n_words * sizeof *job.queries);
    if (!job.queries)
        return;
    job.n_blocks = (att->n_rows + HASH_ROWS - 1) / HASH_ROWS;
    cpu_parallel(dev, att->n_heads * job.n_blocks, query_task, &job);
    job.n_blocks = (sel->visible[sel->n_rows - 1].end + SCORE_KEYS - 1) / SCORE_KEYS;
    cpu_parallel(dev, att->n_heads * job.n_blocks, score_task, &job);
    if (att->counts)
        count_scores(&job);
}

const struct index_kind index_hash = {
    .n_entries = index_n_keys,
    .open = hash_open,
    .close = hash_close,
    .bytes = hash_bytes,
    .add = hash_add,
    .score = hash_score,
};
