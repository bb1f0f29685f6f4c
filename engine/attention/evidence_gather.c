/* Watches a step of one row: after each layer's attention it measures what the layer's heads kept,
 * and of one head looks at every key.
 *
 * Only operations that every backend has for other ends are used, at the pace of a person who
 * looks: a few hundred small downloads, and the one head's keys. */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/attention/evidence.h"
#include "engine/base/memory.h"

struct evidence_gatherer {
    struct sparse_attention *attention; /* borrowed, as the next two */
    const struct backend *backend;
    struct device *dev;
    int n_heads, n_kv_heads, head_dim, max_keys;
    struct selection *other;       /* one row: the heaviest keys, or a part of the stack */
    struct attention_probe device; /* of one row */
    int32_t *keys, *heaviest;      /* [max_keys] a head's list, from the device */
    float *prob;                   /* [max_keys] */
    int n_context, n_tail;         /* of the step */
    struct evidence *out;
};

struct evidence_gatherer *evidence_gatherer_open(struct sparse_attention *attention,
                                                 const struct backend *backend, struct device *dev,
                                                 const struct model_config *config, int max_keys,
                                                 struct error *err)
{
    struct evidence_gatherer *g = xcalloc(1, sizeof *g);
    size_t n_heads = (size_t)config->n_heads, n_keys = (size_t)max_keys;
    *g = (struct evidence_gatherer){.attention = attention,
                                    .backend = backend,
                                    .dev = dev,
                                    .n_heads = config->n_heads,
                                    .n_kv_heads = config->n_kv_heads,
                                    .head_dim = config->head_dim,
                                    .max_keys = max_keys};
    g->keys = xcalloc(n_keys, sizeof *g->keys);
    g->heaviest = xcalloc(n_keys, sizeof *g->heaviest);
    g->prob = xcalloc(n_keys, sizeof *g->prob);
    g->other = backend->selection_open(dev, 1, config->n_heads, config->n_kv_heads, max_keys);
    g->device.recall = backend->alloc(dev, n_heads * sizeof(float));
    g->device.error = backend->alloc(dev, 2 * n_heads * sizeof(float));
    if (g->other && g->device.recall && g->device.error)
        return g;
    evidence_gatherer_close(g);
    fail_code(err, EXIT_CODE_NO_DEVICE,
              "no device memory to look at what %d heads keep of %d keys; shorten the context",
              config->n_heads, max_keys);
    return NULL;
}

void evidence_gatherer_close(struct evidence_gatherer *g)
{
    if (!g)
        return;
    if (g->other)
        g->backend->selection_close(g->dev, g->other);
    if (g->device.recall)
        g->backend->release(g->dev, g->device.recall);
    if (g->device.error)
        g->backend->release(g->dev, g->device.error);
    free(g->keys);
    free(g->heaviest);
    free(g->prob);
    free(g);
}

static int n_keys_of(const struct evidence_gatherer *g)
{
    return g->n_context + g->n_tail + 1;
}

/* The first key that the row sees. */
static int first_visible(const struct evidence_gatherer *g, const struct attention *att)
{
    int first = att->first_key, in_window = att->window ? n_keys_of(g) - att->window : 0;
    return first > in_window ? first : in_window;
}

static float *figure(const struct evidence_gatherer *g, enum evidence_figure which, int layer)
{
    return g->out->figures[which] + (size_t)layer * (size_t)g->n_heads;
}

/* --- Figures of all heads ------------------------------------------------------------------ */

static void measure_outputs(struct evidence_gatherer *g, const struct attention *att,
                            const struct selection *sel)
{
    size_t n_heads = (size_t)g->n_heads;
    float *recall = figure(g, EVIDENCE_RECALL, att->layer);
    float *error = figure(g, EVIDENCE_ERROR, att->layer);
    float *squares = xcalloc(2 * n_heads, sizeof *squares);
    g->backend->probe(g->dev, att, sel, &g->device);
    g->backend->download(g->dev, recall, g->device.recall, n_heads * sizeof *recall);
    g->backend->download(g->dev, squares, g->device.error, 2 * n_heads * sizeof *squares);
    for (size_t h = 0; h < n_heads; h++)
        error[h] = squares[2 * h + 1] > 0 ? sqrtf(squares[2 * h] / squares[2 * h + 1]) : 0;
    free(squares);
}

/* Of two ascending lists. */
static int n_common(const int32_t *a, int n_a, const int32_t *b, int n_b)
{
    int n = 0;
    for (int i = 0, j = 0; i < n_a && j < n_b;) {
        n += a[i] == b[j];
        int32_t least = a[i] < b[j] ? a[i] : b[j];
        i += a[i] == least;
        j += b[j] == least;
    }
    return n;
}

/* One more head of the looked-at layer keeps these: keys [n], or all visible ones if n < 0. */
static void count_head(struct evidence_gatherer *g, const struct attention *att, int n)
{
    uint16_t *n_heads = g->out->head.n_heads;
    if (att->layer != g->out->head.layer)
        return;
    for (int k = 0; k < n; k++)
        n_heads[g->keys[k]]++;
    for (int key = n < 0 ? first_visible(g, att) : n_keys_of(g); key < n_keys_of(g); key++)
        n_heads[key]++;
}

/* What the heads kept, against as many of the heaviest keys. */
static void measure_choice(struct evidence_gatherer *g, const struct attention *att,
                           const struct selection *sel)
{
    const struct backend *b = g->backend;
    float *density = figure(g, EVIDENCE_DENSITY, att->layer);
    float *agreement = figure(g, EVIDENCE_AGREEMENT, att->layer);
    int n_visible = n_keys_of(g) - first_visible(g, att);
    double n_kept = 0;
    for (int h = 0; h < g->n_heads; h++) {
        int n = b->selection_get(g->dev, sel, 0, h, g->keys, g->prob);
        count_head(g, att, n);
        n = n < 0 ? n_visible : n;
        density[h] = (float)n / (float)n_visible;
        n_kept += n;
    }
    int n_heavy = (int)lround(n_kept / g->n_heads);
    b->selection_begin(g->dev, g->other, att);
    b->score_exact(g->dev, g->other, att);
    b->select_top_k(g->dev, g->other, att, (struct budget){.value = n_heavy < 1 ? 1 : n_heavy},
                    SHARE_HEAD);
    b->selection_end(g->dev, g->other, att);
    for (int h = 0; h < g->n_heads; h++) {
        int n = b->selection_get(g->dev, sel, 0, h, g->keys, g->prob);
        int heavy = b->selection_get(g->dev, g->other, 0, h, g->heaviest, g->prob);
        agreement[h] = n < 0       ? 1.0f
                       : heavy < 0 ? density[h]
                                   : (float)n_common(g->keys, n, g->heaviest, heavy) / (float)heavy;
    }
}

static void measure_dense(struct evidence_gatherer *g, const struct attention *att)
{
    int layer = att->layer;
    for (int h = 0; h < g->n_heads; h++) {
        count_head(g, att, -1);
        figure(g, EVIDENCE_RECALL, layer)[h] = 1;
        figure(g, EVIDENCE_DENSITY, layer)[h] = 1;
        figure(g, EVIDENCE_ERROR, layer)[h] = 0;
        figure(g, EVIDENCE_AGREEMENT, layer)[h] = 1;
    }
}

/* --- Every key of one head ------------------------------------------------------------------ */

static float element(const void *p, enum dtype dtype, size_t i)
{
    if (dtype == DTYPE_F32)
        return ((const float *)p)[i];
    uint32_t bits = (uint32_t)((const uint16_t *)p)[i] << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Scores of the n keys of a segment from its row 0 on. */
static void score_segment(struct evidence_gatherer *g, const struct attention *att,
                          enum kv_segment segment, int n, const float *q, double *scores)
{
    const struct kv_layer *kv = &att->kv;
    size_t dim = (size_t)kv->head_dim, size = kv->dtype == DTYPE_F32 ? 4 : 2;
    size_t kv_head = (size_t)(g->out->head.head / (g->n_heads / g->n_kv_heads));
    if (n == 0)
        return;
    void *rows = xcalloc((size_t)n * dim, size);
    const char *from =
        (const char *)kv->k[segment] + kv_head * (size_t)kv->capacity[segment] * dim * size;
    g->backend->download(g->dev, rows, from, (size_t)n * dim * size);
    for (size_t j = 0; j < (size_t)n; j++) {
        double sum = 0;
        for (size_t d = 0; d < dim; d++)
            sum += (double)q[d] * element(rows, kv->dtype, j * dim + d);
        scores[j] = att->scale * sum;
    }
    free(rows);
}

/* Softmax over the visible keys and, where the model has one, the extra logit. */
static void weigh(struct evidence_gatherer *g, const struct attention *att)
{
    struct head_evidence *head = &g->out->head;
    int n = n_keys_of(g), first = first_visible(g, att);
    size_t dim = (size_t)g->head_dim, h = (size_t)head->head;
    double *scores = xcalloc((size_t)n, sizeof *scores), most = -INFINITY, sum = 0;
    float *q = xcalloc(dim, sizeof *q), sink = -INFINITY;
    g->backend->download(g->dev, q, att->q + h * dim, dim * sizeof *q);
    if (att->sink_logits)
        g->backend->download(g->dev, &sink, att->sink_logits + h, sizeof sink);
    score_segment(g, att, KV_CONTEXT, g->n_context, q, scores);
    score_segment(g, att, KV_TAIL, g->n_tail + 1, q, scores + g->n_context);
    for (int j = first; j < n; j++)
        most = scores[j] > most ? scores[j] : most;
    for (int j = first; j < n; j++)
        sum += exp(scores[j] - most);
    sum += exp(sink - most);
    for (int j = first; j < n; j++)
        head->weight[j] = (float)(exp(scores[j] - most) / sum);
    free(scores);
    free(q);
}

/* Keys that no masker before the list's i-th has kept are its own. */
static void attribute(struct evidence_gatherer *g, const struct attention *att, int i)
{
    struct head_evidence *head = &g->out->head;
    sparse_attention_select_first(g->attention, att, i + 1, g->other);
    int n = g->backend->selection_get(g->dev, g->other, 0, head->head, g->keys, g->prob);
    bool full = n < 0;
    int first = first_visible(g, att);
    n = full ? n_keys_of(g) - first : n;
    for (int k = 0; k < n; k++) {
        int key = full ? first + k : g->keys[k];
        if (head->kept_by[key])
            continue;
        head->kept_by[key] = (uint8_t)(i + 1);
        head->prob[key] = full ? 1.0f : g->prob[k];
        head->n_kept++;
    }
}

static void keep_densely(struct evidence_gatherer *g, const struct attention *att)
{
    struct head_evidence *head = &g->out->head;
    for (int j = first_visible(g, att); j < n_keys_of(g); j++) {
        head->kept_by[j] = EVIDENCE_KEPT_DENSELY;
        head->prob[j] = 1;
        head->n_kept++;
    }
}

static void look_at_head(struct evidence_gatherer *g, const struct attention *att, bool dense)
{
    weigh(g, att);
    if (dense)
        keep_densely(g, att);
    for (int i = 0; !dense && i < sparse_attention_list_length(g->attention, att->layer); i++)
        attribute(g, att, i);
}

/* --- A step --------------------------------------------------------------------------------- */

static void observe(void *user, const struct attention *call, const struct selection *sel)
{
    struct evidence_gatherer *g = user;
    struct attention att = *call;
    att.counts = NULL; /* what is asked here is no part of the step */
    if (sel) {
        measure_outputs(g, &att, sel);
        measure_choice(g, &att, sel);
    } else {
        measure_dense(g, &att);
    }
    if (att.layer == g->out->head.layer)
        look_at_head(g, &att, !sel);
}

void evidence_gather_begin(struct evidence_gatherer *g, int n_context, int n_tail,
                           struct evidence *out)
{
    assert(out->n_keys == n_context + n_tail + 1 && out->n_keys <= g->max_keys);
    g->n_context = n_context;
    g->n_tail = n_tail;
    g->out = out;
    sparse_attention_observe(g->attention, &(struct attention_observer){observe, g});
}

void evidence_gather_end(struct evidence_gatherer *g)
{
    g->out = NULL;
    sparse_attention_observe(g->attention, NULL);
}
