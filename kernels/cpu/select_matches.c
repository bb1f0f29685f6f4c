/* MagicPIG's choice: keys that share the query's code in enough tables, each with the probability
 * of that, so that sums over them estimate sums over all keys.
 * Source: Chen et al. 2024, arXiv 2410.16179, equation of section 4. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/index_tables.h"
#include "kernels/match_probability.h"

enum { HIT_KEYS = 1024, MAX_TABLES = 512 };

struct matches_job {
    struct device *dev;
    struct selection *sel;
    const struct key_index *index;
    const struct attention *att;
    struct attention_shape shape;
    uint64_t *n_matched; /* [n_rows, n_heads] keys whose rows were read, for the counts */
    float *spare;        /* [n_threads, n_spare] a query, and its products with the planes */
    size_t n_spare;
};

/* One row and head. */
struct match_query {
    int row, head, kv_head;
    const float *q, *mean, *norms;
    double radius; /* of keys */
    double length; /* of q' before it is scaled to 1 */
    double offset; /* q' mean: q' (k - mean) = q' k - offset */
    bool centred;  /* q' is less the mean */
    uint64_t codes[MAX_TABLES];
};

/* Of the angle between the query, q' [head_dim], and a key of the run. */
static float key_probability(const struct matches_job *job, const struct match_query *m,
                             const float *q, const struct key_run *run, int key)
{
    enum dtype dtype = job->att->kv.dtype;
    size_t row_bytes = (size_t)job->shape.head_dim * dtype_bytes(dtype);
    const char *k = (const char *)run->k + (size_t)(key - run->begin) * row_bytes;
    double dot = (double)index_kernels(job->dev->isa)->dot(q, k, dtype, job->shape.head_dim);
    double size = m->length * fmax(m->radius, (double)m->norms[key]);
    const struct key_tables *c = &job->index->config.tables;
    return match_probability(c->n_tables, c->n_bits, c->min_hits,
                             size > 0.0 ? (dot - m->offset) / size : 0.0);
}

static void encode_query(const struct matches_job *job, struct match_query *m, float *x,
                         float *products)
{
    int dim = job->shape.head_dim;
    double squares = 0.0;
    m->offset = 0.0;
    for (int i = 0; i < dim; i++) {
        x[i] = m->q[i] - (m->centred ? m->mean[i] : 0.0f);
        squares += (double)x[i] * (double)x[i];
        m->offset += (double)x[i] * (double)m->mean[i];
    }
    x[dim] = 0.0f;
    m->length = sqrt(squares) + 1e-8;
    tables_encode(job->index, job->dev->isa, job->att->layer, x, products, m->codes);
}

/* Where matches go: keys [n] ascending with their p. */
struct matches {
    int n, listed; /* entries of the head's list that lie before */
    uint32_t *keys;
    float *probs;
};

/* Those of keys [begin, end), at most HIT_KEYS and of one run, that are not selected yet. */
static void add_matches(const struct matches_job *job, const struct match_query *m, const float *q,
                        const struct key_run *run, int begin, int end, struct matches *to)
{
    const struct key_tables *c = &job->index->config.tables;
    const uint32_t *list = selection_keys(job->sel, m->row, m->head);
    int n_listed = selection_list(job->sel, m->row, m->head)->n;
    int code_bytes = tables_code_bytes(&job->index->config);
    const char *codes = tables_codes(job->index, job->att->layer, m->kv_head);
    uint16_t hits[HIT_KEYS];
    index_kernels(job->dev->isa)
        ->count_hits(hits, codes + (size_t)begin * (size_t)code_bytes, code_bytes,
                     job->index->stride, m->codes, c->n_tables, end - begin);
    for (int key = begin; key < end; key++) {
        if (hits[key - begin] < c->min_hits)
            continue;
        while (to->listed < n_listed && list[to->listed] < (uint32_t)key)
            to->listed++;
        if (to->listed < n_listed && list[to->listed] == (uint32_t)key)
            continue;
        to->keys[to->n] = (uint32_t)key;
        to->probs[to->n++] = key_probability(job, m, q, run, key);
    }
}

static void find_matches(const struct matches_job *job, const struct match_query *m, const float *q,
                         struct matches *to)
{
    struct candidates open;
    select_candidates(job->sel, m->row, &open);
    for (int i = 0; i < open.n; i++)
        for (int segment = 0; segment < KV_SEGMENTS; segment++) {
            struct key_run run = attention_run(job->att, &job->shape, m->kv_head, segment,
                                               open.range[i].begin, open.range[i].end);
            for (int key = run.begin; key < run.end; key += HIT_KEYS)
                add_matches(job, m, q, &run, key, min_int(key + HIT_KEYS, run.end), to);
        }
}

static void matches_task(void *user, int task_index, int thread_index)
{
    const struct matches_job *job = user;
    const struct key_index *index = job->index;
    int layer = job->att->layer;
    struct match_query m = {.row = task_index / job->att->n_heads,
                            .head = task_index % job->att->n_heads};
    m.kv_head = m.head / job->shape.group;
    m.q = attention_query(job->att, &job->shape, m.row, m.head);
    m.mean = tables_mean(index, layer, m.kv_head);
    m.norms = tables_norms(index, layer, m.kv_head);
    m.radius = (double)index->radii[tables_head(index, layer, m.kv_head)];
    m.centred = index->config.tables.center == CENTER_BOTH;
    float *spare = job->spare + (size_t)thread_index * job->n_spare;
    struct select_scratch scratch;
    if (!select_scratch_get(job->dev, thread_index, job->sel, &scratch))
        return;
    encode_query(job, &m, spare, spare + job->shape.head_dim + 1);
    struct matches found = {.keys = scratch.keys, .probs = scratch.scores};
    find_matches(job, &m, spare, &found);
    job->n_matched[task_index] = (uint64_t)found.n;
    selection_add_keys(job->sel, m.row, m.head, found.keys, found.probs, 1.0f, found.n);
}

/* Bytes of codes read, told as K rows, and the rows of keys that match. */
static void count_rows(const struct matches_job *job)
{
    const struct key_index_config *c = &job->index->config;
    size_t row_bytes = (size_t)c->head_dim * dtype_bytes(c->kv_dtype);
    size_t key_bytes =
        (size_t)c->n_kv_heads * (size_t)c->tables.n_tables * (size_t)tables_code_bytes(c);
    uint64_t n_bytes = 0, n_rows = 0;
    for (int row = 0; row < job->sel->n_rows; row++)
        n_bytes += key_bytes * (size_t)(job->sel->visible[row].end - job->sel->visible[row].begin);
    for (int i = 0; i < job->sel->n_rows * job->sel->n_heads; i++)
        n_rows += job->n_matched[i];
    job->att->counts->score_rows += (n_bytes + row_bytes - 1) / row_bytes + n_rows;
}

void cpu_select_matches(struct device *dev, struct selection *sel, const struct key_index *index,
                        const struct attention *att)
{
    if (selection_skips(dev, sel, att))
        return;
    assert(index->config.kind == INDEX_TABLES && index->n_indexed[att->layer] == sel->n_keys);
    struct matches_job job = {.dev = dev, .sel = sel, .index = index, .att = att};
    size_t n = (size_t)sel->n_rows * (size_t)sel->n_heads;
    job.shape = attention_shape(att);
    job.n_spare =
        (size_t)job.shape.head_dim + 1 + (size_t)hash_padded(tables_n_planes(&index->config));
    job.n_matched = cpu_workspace(dev, CPU_WORKSPACE_INDEX,
                                  n * sizeof *job.n_matched +
                                      (size_t)dev->n_threads * job.n_spare * sizeof *job.spare);
    if (!job.n_matched)
        return;
    job.spare = (float *)(job.n_matched + n);
    memset(job.n_matched, 0, n * sizeof *job.n_matched);
    selection_prepare_lists(sel, SHARE_HEAD);
    cpu_parallel(dev, (int)n, matches_task, &job);
    if (att->counts)
        count_rows(&job);
}
