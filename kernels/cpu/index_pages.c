/* Quest on the cpu: bounds of pages of keys, and the score that no key of the page can pass.
 *
 * The idea to hold: sum_d max(q_d lo_d, q_d hi_d) = q- lo + q+ hi with q- = min(q, 0) and
 * q+ = max(q, 0), so that pages are rows of 2 head_dim floats, lo then hi, and are scored by the
 * inner loop that scores keys.
 * Source: Tang et al. 2024, arXiv 2406.10774. */
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/index.h"
#include "kernels/cpu/index_levels.h"

enum {
    SCORE_PAGES = 512, /* of one scoring task */
    MAX_DIM = 1024     /* of a head */
};

struct pages_job {
    struct device *dev;
    const struct key_index *index;
    const struct attention *att;
    struct attention_shape shape;
    struct key_range added; /* pages_add */
    bool widen;             /* the page of the first added key holds bounds of those before */
    struct selection *sel;  /* pages_score */
    float *queries;         /* [n_rows, n_heads, query_stride]: q- then q+, scaled */
    int query_stride;       /* 2 head_dim, padded for the inner loop */
    int n_blocks;           /* tasks per KV head */
};

/* [2 head_dim], of type index->bounds. */
static void *page_bounds(const struct key_index *index, int layer, int kv_head, int page)
{
    size_t which = (size_t)layer * (size_t)index->config.n_kv_heads + (size_t)kv_head;
    size_t width = 2 * (size_t)index->config.head_dim;
    size_t at = (which * index->stride + (size_t)page) * width;
    return (char *)index->pages + at * dtype_bytes(index->bounds);
}

/* --- Memory ---------------------------------------------------------------------------------- */

static size_t pages_n_entries(const struct key_index_config *c)
{
    return ((size_t)c->max_keys + (size_t)c->pages.page_size - 1) / (size_t)c->pages.page_size;
}

/* Bounds that are keys' own elements are exact in their type; rounded ones are not. */
static enum dtype bounds_of(const struct key_index_config *c)
{
    return c->pages.label_bits < 16 ? DTYPE_F32 : c->kv_dtype;
}

static bool pages_open(struct key_index *index)
{
    const struct key_index_config *c = &index->config;
    assert(c->pages.page_size > 0 && c->pages.label_bits > 0 && c->pages.label_bits <= 16);
    size_t n = (size_t)c->n_layers * (size_t)c->n_kv_heads * index->stride;
    index->bounds = bounds_of(c);
    index->pages = calloc(n, 2 * (size_t)c->head_dim * dtype_bytes(index->bounds));
    return index->pages != NULL;
}

static void pages_close(struct key_index *index)
{
    free(index->pages);
}

static uint64_t pages_bytes(const struct key_index_config *c, size_t stride)
{
    return (uint64_t)c->n_layers * (uint64_t)c->n_kv_heads * stride * 2 * (uint64_t)c->head_dim *
           dtype_bytes(bounds_of(c));
}

/* --- Keys ------------------------------------------------------------------------------------ */

/* Widens lo and hi [dim] by keys [begin, end). */
static void widen(const struct pages_job *job, float *lo, float *hi, int kv_head, int begin,
                  int end)
{
    size_t dim = (size_t)job->shape.head_dim;
    enum dtype dtype = job->att->kv.dtype;
    for (int segment = 0; segment < KV_SEGMENTS; segment++) {
        struct key_run run = attention_run(job->att, &job->shape, kv_head, segment, begin, end);
        for (int key = run.begin; key < run.end; key++) {
            const char *row =
                (const char *)run.k + (size_t)(key - run.begin) * dim * dtype_bytes(dtype);
            for (size_t d = 0; d < dim; d++) {
                float x = load_as_f32(row, dtype, d);
                lo[d] = x < lo[d] ? x : lo[d];
                hi[d] = x > hi[d] ? x : hi[d];
            }
        }
    }
}

/* Rounds the bounds lo and hi [dim] of a page, each over its own range, so that one may come to lie
 * on the other's side: they change places, for the score takes the larger product of the two. */
static void round_bounds(float *lo, float *hi, int dim, int n_bits)
{
    levels_round(lo, dim, n_bits);
    levels_round(hi, dim, n_bits);
    for (int d = 0; d < dim; d++) {
        float least = lo[d] < hi[d] ? lo[d] : hi[d];
        hi[d] = lo[d] < hi[d] ? hi[d] : lo[d];
        lo[d] = least;
    }
}

/* One KV head's pages from the first added key on. */
static void add_task(void *user, int kv_head, int thread_index)
{
    (void)thread_index;
    const struct pages_job *job = user;
    const struct key_pages *pages = &job->index->config.pages;
    int dim = job->shape.head_dim, begin = job->added.begin;
    while (begin < job->added.end) {
        int page = begin / pages->page_size, first = page * pages->page_size;
        int end = min_int(first + pages->page_size, job->added.end);
        void *bounds = page_bounds(job->index, job->att->layer, kv_head, page);
        float lo[2 * MAX_DIM], *hi = lo + dim;
        bool keep = job->widen && begin == job->added.begin && begin > first;
        for (int d = 0; d < dim; d++) {
            lo[d] = keep ? load_as_f32(bounds, job->index->bounds, (size_t)d) : INFINITY;
            hi[d] = keep ? load_as_f32(bounds, job->index->bounds, (size_t)(dim + d)) : -INFINITY;
        }
        widen(job, lo, hi, kv_head, keep ? begin : first, end);
        if (pages->label_bits < 16)
            round_bounds(lo, hi, dim, pages->label_bits);
        store_f32(bounds, job->index->bounds, 0, lo, 2 * dim);
        begin = end;
    }
}

static void pages_add(struct device *dev, struct key_index *index, const struct attention *att,
                      struct key_range added, int kept)
{
    struct pages_job job = {.dev = dev, .index = index, .att = att, .added = added};
    job.shape = attention_shape(att);
    assert(job.shape.head_dim <= MAX_DIM);
    assert(index->bounds == DTYPE_F32 || index->bounds == att->kv.dtype);
    /* Rounded bounds, and those of keys that are forgotten, cannot be widened. */
    job.widen = kept == added.begin && index->config.pages.label_bits >= 16;
    cpu_parallel(dev, index->config.n_kv_heads, add_task, &job);
}

/* --- Scores ---------------------------------------------------------------------------------- */

static void split_query(const struct pages_job *job, int row, int head)
{
    const float *q = attention_query(job->att, &job->shape, row, head);
    int dim = job->shape.head_dim;
    float *to = job->queries + selection_slot(job->sel, row, head) * (size_t)job->query_stride;
    for (int d = 0; d < dim; d++) {
        float x = q[d] * job->att->scale;
        to[d] = x < 0.0f ? x : 0.0f;
        to[dim + d] = x > 0.0f ? x : 0.0f;
    }
    for (int d = 2 * dim; d < job->query_stride; d++)
        to[d] = 0.0f;
}

/* Pages [begin, end) for the query heads [first, first + n) of one row. */
static void score_row(const struct pages_job *job, int row, int kv_head, int first, int n,
                      struct key_range pages)
{
    float s[ROW_QUERIES * ROW_KEYS];
    struct row_list bounds = {.dtype = job->index->bounds, .head_dim = 2 * job->shape.head_dim};
    const float *q =
        job->queries + selection_slot(job->sel, row, first) * (size_t)job->query_stride;
    for (int page = pages.begin; page < pages.end; page += ROW_KEYS) {
        bounds.base = page_bounds(job->index, job->att->layer, kv_head, page);
        bounds.n = min_int(ROW_KEYS, pages.end - page);
        attention_kernels(job->dev->isa)->scores(s, q, job->query_stride, n, &bounds, NULL);
        for (int i = 0; i < n; i++)
            memcpy(selection_scores(job->sel, row, first + i) + page, s + (size_t)i * ROW_KEYS,
                   (size_t)bounds.n * sizeof(float));
    }
}

static void score_task(void *user, int task_index, int thread_index)
{
    (void)thread_index;
    const struct pages_job *job = user;
    int kv_head = task_index / job->n_blocks, block = task_index % job->n_blocks;
    int group = job->shape.group, head = kv_head * group;
    for (int row = 0; row < job->att->n_rows; row++) {
        struct key_range pages =
            select_visible_pages(job->sel, row, job->index->config.pages.page_size);
        pages.begin = max_int(pages.begin, block * SCORE_PAGES);
        pages.end = min_int(pages.end, (block + 1) * SCORE_PAGES);
        for (int i = 0; i < group; i += ROW_QUERIES)
            score_row(job, row, kv_head, head + i, min_int(ROW_QUERIES, group - i), pages);
    }
}

/* Bytes of bounds read, told as K rows. */
static void count_scores(const struct pages_job *job)
{
    size_t dim = (size_t)job->shape.head_dim, n_pages = 0;
    size_t row_bytes = dim * dtype_bytes(job->att->kv.dtype);
    for (int row = 0; row < job->sel->n_rows; row++) {
        struct key_range pages =
            select_visible_pages(job->sel, row, job->index->config.pages.page_size);
        n_pages += (size_t)(pages.end - pages.begin);
    }
    job->att->counts->score_rows += (uint64_t)n_pages * (uint64_t)job->sel->n_kv_heads * 2 * dim *
                                    dtype_bytes(job->index->bounds) / row_bytes;
}

static void pages_score(struct device *dev, struct selection *sel, const struct key_index *index,
                        const struct attention *att)
{
    struct pages_job job = {.dev = dev, .index = index, .att = att, .sel = sel};
    job.shape = attention_shape(att);
    job.query_stride = round_up(2 * job.shape.head_dim, 16);
    size_t n = (size_t)att->n_rows * (size_t)att->n_heads * (size_t)job.query_stride;
    job.queries = cpu_workspace(dev, CPU_WORKSPACE_INDEX, n * sizeof *job.queries);
    if (!job.queries)
        return;
    for (int row = 0; row < att->n_rows; row++)
        for (int head = 0; head < att->n_heads; head++)
            split_query(&job, row, head);
    job.n_blocks = (index_n_pages(index, sel->n_keys) + SCORE_PAGES - 1) / SCORE_PAGES;
    cpu_parallel(dev, sel->n_kv_heads * job.n_blocks, score_task, &job);
    if (att->counts)
        count_scores(&job);
}

const struct index_kind index_pages = {
    .n_entries = pages_n_entries,
    .open = pages_open,
    .close = pages_close,
    .bytes = pages_bytes,
    .add = pages_add,
    .score = pages_score,
};
