/* Runs a stack as the attention of a forward pass.
 *
 * The idea to hold: a call's rows are handled in pieces, so that what a selection needs (scores and
 * lists of every head, row and key) stays small; a piece carries its offset and the whole call's
 * length, by which budgets and early exits are resolved, so that pieces choose what the whole call
 * would have. */
#include "engine/attention/sparse_attention.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/attention/stack_reuse.h"
#include "engine/base/memory.h"

enum {
    SELECTION_BYTES = 32 << 20,
    SELECTION_SHARE = 128, /* a selection may take this part of a recording device's memory */
    MAX_PIECE_ROWS = 256,
    FIRST_TIME_SLOT = 32, /* marks 32..63 of the device's clock are this module's */
    N_SPANS = 16          /* pairs of marks in flight */
};

/* Time of attention.  Reading a span waits for it, so that spans are read only when their marks
 * are wanted again, N_SPANS layers later, and at the end. */
struct attention_clock {
    int first, n; /* spans not yet read: a ring */
    double us;
};

/* What probing gathers on the host. */
struct probe_sums {
    double *recall;       /* [n_layers, n_heads] */
    double *error, *norm; /* [n_layers] squared */
    int *n_rows;          /* [n_layers] */
    float *rows_recall;   /* [max_rows, n_heads] a piece's, downloaded */
    float *rows_error;    /* [max_rows, n_heads, 2] */
    struct attention_probe device;
};

struct sparse_attention {
    struct stack stack;
    const struct backend *backend; /* borrowed, with dev */
    struct device *dev;
    int n_layers, n_heads;
    int max_rows;                /* of a piece */
    struct selection *selection; /* NULL for a dense stack */
    struct stack_index index;
    struct stack_reuse reuse;
    struct step_state *context_step;    /* (device) a call without rows after the context */
    struct attention_observer observer; /* observe NULL: nobody */
    bool stays_dense;
    bool probing;
    struct probe_sums probe;
    struct attention_clock *clock; /* owned; apart, since reading the time collects it */
};

/* --- Pieces of a call --------------------------------------------------------------------- */

/* A score, a key, its probability and its bias per head, and the index and heads per group. */
static uint64_t row_bytes(int n_heads, int n_kv_heads, int max_keys)
{
    return (uint64_t)max_keys * ((uint64_t)n_heads * 16 + (uint64_t)n_kv_heads * 8);
}

static int rows_within(uint64_t n_bytes, int n_heads, int n_kv_heads, int max_keys)
{
    uint64_t each = row_bytes(n_heads, n_kv_heads, max_keys);
    uint64_t rows = n_bytes / (each ? each : 1);
    return rows < 1 ? 1 : rows > MAX_PIECE_ROWS ? MAX_PIECE_ROWS : (int)rows;
}

int sparse_attention_max_rows(int n_heads, int n_kv_heads, int max_keys)
{
    return rows_within(SELECTION_BYTES, n_heads, n_kv_heads, max_keys);
}

/* By what the device is, not by what is free at the moment, so that a run can be repeated bit by
 * bit: a kernel may treat one row and many in different orders of sums. */
static int device_max_rows(const struct backend *backend, struct device *dev,
                           const struct model_config *config, int max_keys)
{
    uint64_t n_bytes = SELECTION_BYTES;
    if (backend->record_begin) {
        struct device_info info;
        backend->describe(dev, &info);
        uint64_t share = info.total_bytes / SELECTION_SHARE;
        n_bytes = share > n_bytes ? share : n_bytes;
    }
    return rows_within(n_bytes, config->n_heads, config->n_kv_heads, max_keys);
}

uint64_t sparse_attention_bytes(const struct stack *stack, const struct backend *backend,
                                struct device *dev, const struct masker_model *model, int max_keys)
{
    const struct model_config *config = model->config;
    if (stack_is_dense(stack))
        return 0;
    int rows = device_max_rows(backend, dev, config, max_keys) + stack_reuse_count(stack);
    return (uint64_t)rows * row_bytes(config->n_heads, config->n_kv_heads, max_keys) +
           stack_index_bytes(stack, backend, dev, model, max_keys);
}

struct attention sparse_attention_rows(const struct attention *att, int first, int n_rows)
{
    assert(first >= 0 && n_rows > 0 && first + n_rows <= att->n_rows);
    struct attention piece = *att;
    size_t head_dim = (size_t)att->kv.head_dim;
    piece.out += (size_t)first * (size_t)att->n_heads * head_dim;
    piece.q += (size_t)first * (size_t)att->q_stride;
    piece.n_rows = n_rows;
    piece.n_rows_total = att->n_rows_total ? att->n_rows_total : att->n_rows;
    piece.row_offset = att->row_offset + first;
    return piece;
}

/* reuse: of the step that the call is of.  The first n_first maskers of the layer's list. */
static void run_maskers(const struct stack *stack, const struct stack_index *index,
                        const struct stack_reuse *reuse, int n_first, struct selection *sel,
                        const struct attention *att)
{
    const struct backend *backend = index->backend;
    struct stack_list list = stack_list_at(stack, stack_list_of_layer(stack, att->layer));
    backend->selection_begin(index->dev, sel, att);
    for (int i = list.first; i < list.first + list.n && i < list.first + n_first; i++) {
        const struct stack_item *item = &stack->items[i];
        if (item->off || !item->masker->select)
            continue;
        struct masker_call call = {.backend = backend,
                                   .dev = index->dev,
                                   .selection = sel,
                                   .att = att,
                                   .index = index->slot[i],
                                   .logit_scale = index->logit_scale[i],
                                   .slot = i - list.first,
                                   .again = stack_reuse_of_item(reuse, item)};
        item->masker->select(&call, &item->values);
    }
    backend->selection_end(index->dev, sel, att);
}

void sparse_attention_select(const struct stack *stack, const struct stack_index *index,
                             struct selection *sel, const struct attention *att)
{
    static const struct stack_reuse none;
    assert(!stack_reuse_in_layer(stack, att->layer));
    run_maskers(stack, index, &none, STACK_MAX_MASKERS, sel, att);
}

/* A sink as long as the call declares it full. */
static void select_all(const struct backend *backend, struct device *dev, struct selection *sel,
                       const struct attention *att)
{
    backend->selection_begin(dev, sel, att);
    backend->select_sink(dev, sel, att, (struct budget){true, 1});
    backend->selection_end(dev, sel, att);
}

/* The whole call that a piece is of, as an index reads it. */
static struct attention whole_call(const struct attention *piece)
{
    struct attention whole = *piece;
    whole.row_offset = 0;
    whole.n_rows = piece->n_rows_total ? piece->n_rows_total : piece->n_rows;
    whole.n_rows_total = 0;
    return whole;
}

bool sparse_attention_once(const struct stack *stack, const struct backend *backend,
                           struct device *dev, struct selection *sel, const struct attention *att,
                           struct error *err)
{
    if (stack->n_groups)
        return fail_code(err, EXIT_CODE_USAGE,
                         "this is one attention call and not a model's layer; give it a stack "
                         "without groups of layers");
    if (stack_is_dense(stack)) {
        select_all(backend, dev, sel, att);
    } else {
        struct model_config config = {.n_layers = att->layer + 1,
                                      .n_heads = att->n_heads,
                                      .n_kv_heads = att->kv.n_kv_heads,
                                      .head_dim = att->kv.head_dim};
        struct masker_model model = {.config = &config, .kv_dtype = att->kv.dtype};
        struct attention whole = whole_call(att);
        struct stack_index index;
        if (!stack_index_open(&index, stack, backend, dev, &model, att->max_keys, err))
            return false;
        struct attention before = whole; /* as a lane: its context, then the call's own rows */
        before.n_rows = 0;
        stack_index_update(&index, &before);
        stack_index_update(&index, &whole);
        sparse_attention_select(stack, &index, sel, att);
        stack_index_close(&index);
    }
    backend->attend_selected(dev, att, sel);
    return true;
}

/* --- Time --------------------------------------------------------------------------------- */

static void clock_read_oldest(struct sparse_attention *s)
{
    struct attention_clock *c = s->clock;
    int slot = FIRST_TIME_SLOT + 2 * c->first;
    c->us += s->backend->time_between_us(s->dev, slot, slot + 1);
    c->first = (c->first + 1) % N_SPANS;
    c->n--;
}

static int clock_start(struct sparse_attention *s)
{
    struct attention_clock *c = s->clock;
    if (c->n == N_SPANS)
        clock_read_oldest(s);
    int slot = FIRST_TIME_SLOT + 2 * ((c->first + c->n) % N_SPANS);
    s->backend->time_mark(s->dev, slot);
    return slot;
}

static void clock_stop(struct sparse_attention *s, int slot)
{
    s->backend->time_mark(s->dev, slot + 1);
    s->clock->n++;
}

double sparse_attention_us(const struct sparse_attention *s)
{
    while (s->clock->n)
        clock_read_oldest((struct sparse_attention *)s); /* changes only what clock points to */
    return s->clock->us;
}

void sparse_attention_us_reset(struct sparse_attention *s)
{
    *s->clock = (struct attention_clock){0};
}

/* --- Probing ------------------------------------------------------------------------------ */

static void probe_piece(struct sparse_attention *s, const struct attention *piece,
                        const struct selection *sel)
{
    struct probe_sums *p = &s->probe;
    assert(piece->layer >= 0 && piece->layer < s->n_layers);
    size_t n = (size_t)piece->n_rows * (size_t)s->n_heads;
    s->backend->probe(s->dev, piece, sel, &p->device);
    s->backend->download(s->dev, p->rows_recall, p->device.recall, n * sizeof(float));
    s->backend->download(s->dev, p->rows_error, p->device.error, 2 * n * sizeof(float));
    double *recall = p->recall + (size_t)piece->layer * (size_t)s->n_heads;
    for (size_t i = 0; i < n; i++) {
        recall[i % (size_t)s->n_heads] += p->rows_recall[i];
        p->error[piece->layer] += p->rows_error[2 * i];
        p->norm[piece->layer] += p->rows_error[2 * i + 1];
    }
    p->n_rows[piece->layer] += piece->n_rows;
}

/* A layer without a selection has all mass and no error. */
static void probe_dense(struct sparse_attention *s, const struct attention *att)
{
    struct probe_sums *p = &s->probe;
    for (int h = 0; h < s->n_heads; h++)
        p->recall[(size_t)att->layer * (size_t)s->n_heads + (size_t)h] += att->n_rows;
    p->n_rows[att->layer] += att->n_rows;
}

void sparse_attention_probe(struct sparse_attention *s, bool on)
{
    s->probing = on;
}

void sparse_attention_probe_result(const struct sparse_attention *s, struct layer_probe *out)
{
    const struct probe_sums *p = &s->probe;
    for (int layer = 0; layer < s->n_layers; layer++) {
        struct layer_probe r = {.layer = layer, .n_rows = s->selection ? p->n_rows[layer] : 0};
        if (r.n_rows) {
            const double *recall = p->recall + (size_t)layer * (size_t)s->n_heads;
            r.recall_worst = INFINITY;
            for (int h = 0; h < s->n_heads; h++) {
                double mean = recall[h] / r.n_rows;
                r.recall_mean += mean / s->n_heads;
                if (mean < r.recall_worst) {
                    r.recall_worst = mean;
                    r.worst_head = h;
                }
            }
            r.output_error = p->norm[layer] > 0 ? sqrt(p->error[layer] / p->norm[layer]) : 0;
        }
        out[layer] = r;
    }
}

void sparse_attention_probe_reset(struct sparse_attention *s)
{
    if (!s->selection)
        return;
    size_t n_layers = (size_t)s->n_layers;
    memset(s->probe.recall, 0, n_layers * (size_t)s->n_heads * sizeof(double));
    memset(s->probe.error, 0, n_layers * sizeof(double));
    memset(s->probe.norm, 0, n_layers * sizeof(double));
    memset(s->probe.n_rows, 0, n_layers * sizeof(int));
}

static bool probe_open(struct sparse_attention *s)
{
    struct probe_sums *p = &s->probe;
    size_t n_layers = (size_t)s->n_layers, n_heads = (size_t)s->n_heads;
    size_t n = (size_t)s->max_rows * n_heads;
    p->recall = xcalloc(n_layers * n_heads, sizeof(double));
    p->error = xcalloc(n_layers, sizeof(double));
    p->norm = xcalloc(n_layers, sizeof(double));
    p->n_rows = xcalloc(n_layers, sizeof(int));
    p->rows_recall = xcalloc(n, sizeof(float));
    p->rows_error = xcalloc(2 * n, sizeof(float));
    p->device.recall = s->backend->alloc(s->dev, n * sizeof(float));
    p->device.error = s->backend->alloc(s->dev, 2 * n * sizeof(float));
    return p->device.recall && p->device.error;
}

static void probe_close(struct sparse_attention *s)
{
    struct probe_sums *p = &s->probe;
    if (p->device.recall)
        s->backend->release(s->dev, p->device.recall);
    if (p->device.error)
        s->backend->release(s->dev, p->device.error);
    free(p->rows_error);
    free(p->rows_recall);
    free(p->n_rows);
    free(p->norm);
    free(p->error);
    free(p->recall);
}

/* --- The method --------------------------------------------------------------------------- */

static void show(const struct sparse_attention *s, const struct attention *att,
                 const struct selection *sel)
{
    if (s->observer.observe)
        s->observer.observe(s->observer.user, att, sel);
}

static void attend_pieces(struct sparse_attention *s, const struct attention *att)
{
    stack_index_update(&s->index, att);
    struct selection *kept = att->n_rows == 1 ? stack_reuse_of_layer(&s->reuse, att->layer) : NULL;
    struct selection *sel = kept ? kept : s->selection;
    for (int row = 0; row < att->n_rows; row += s->max_rows) {
        int left = att->n_rows - row;
        struct attention piece =
            sparse_attention_rows(att, row, left < s->max_rows ? left : s->max_rows);
        run_maskers(&s->stack, &s->index, &s->reuse, STACK_MAX_MASKERS, sel, &piece);
        s->backend->attend_selected(s->dev, &piece, sel);
        if (s->probing)
            probe_piece(s, &piece, sel);
        if (att->n_rows == 1)
            show(s, &piece, sel);
    }
    if (s->stays_dense && att->n_rows == 1) {
        struct attention again = *att;
        again.counts = NULL;
        s->backend->attend_dense(s->dev, &again);
    }
}

/* Several rows may be more than one piece, and a piece's selection is gone before the next layer
 * runs: whoever takes a selection over is dense there, however many pieces there are. */
static bool attends_densely(const struct sparse_attention *s, const struct attention *att)
{
    return !s->selection || stack_layer_is_dense(&s->stack, att->layer) ||
           (att->n_rows > 1 && stack_reuse_in_layer(&s->stack, att->layer));
}

static void attend(void *user, const struct attention *att)
{
    struct sparse_attention *s = user;
    if (!attends_densely(s, att)) {
        attend_pieces(s, att);
        return;
    }
    s->backend->attend_dense(s->dev, att);
    if (s->selection && s->probing)
        probe_dense(s, att);
    if (att->n_rows == 1)
        show(s, att, NULL);
}

static void attend_timed(void *user, const struct attention *att)
{
    struct sparse_attention *s = user;
    int slot = s->probing ? -1 : clock_start(s);
    attend(s, att);
    if (slot >= 0)
        clock_stop(s, slot);
}

struct attention_method sparse_attention_method(struct sparse_attention *s)
{
    return (struct attention_method){attend_timed, s};
}

struct attention_method sparse_attention_untimed(struct sparse_attention *s)
{
    assert(!s->probing);
    return (struct attention_method){attend, s};
}

void sparse_attention_observe(struct sparse_attention *s, const struct attention_observer *observer)
{
    s->observer = observer ? *observer : (struct attention_observer){0};
}

void sparse_attention_stay_dense(struct sparse_attention *s, bool on)
{
    s->stays_dense = on;
}

void sparse_attention_select_first(struct sparse_attention *s, const struct attention *att, int n,
                                   struct selection *sel)
{
    run_maskers(&s->stack, &s->index, &s->reuse, n, sel, att);
}

int sparse_attention_list_length(const struct sparse_attention *s, int layer)
{
    return stack_list_at(&s->stack, stack_list_of_layer(&s->stack, layer)).n;
}

void sparse_attention_build_index(struct sparse_attention *s, const struct kv_cache *context,
                                  int n_context)
{
    struct step_state step = {.n_context = n_context};
    if (!s->selection || n_context == 0)
        return;
    s->backend->upload(s->dev, s->context_step, &step, sizeof step);
    for (int layer = 0; layer < s->n_layers; layer++) {
        struct attention att = {
            .n_heads = s->n_heads,
            .kv = kv_cache_layer(context, NULL, layer),
            .step = s->context_step,
            .layer = layer,
            .max_keys = n_context,
        };
        stack_index_update(&s->index, &att);
    }
}

void sparse_attention_index_before(struct sparse_attention *s, const struct attention *att)
{
    struct attention before = *att;
    before.n_rows = 0;
    if (s->selection)
        stack_index_update(&s->index, &before);
}

static bool fail_memory(struct sparse_attention *s, int max_keys, struct error *err)
{
    struct device_info info;
    s->backend->describe(s->dev, &info);
    return fail_code(
        err, EXIT_CODE_NO_DEVICE,
        "%s: no memory to choose among %d keys for %d heads; %.0f MiB are free; shorten the "
        "context",
        info.name, max_keys, s->n_heads, (double)info.free_bytes / (1 << 20));
}

struct sparse_attention *sparse_attention_open(const struct stack *stack,
                                               const struct backend *backend, struct device *dev,
                                               const struct masker_model *model, int max_keys,
                                               struct error *err)
{
    const struct model_config *config = model->config;
    assert(max_keys > 0);
    struct sparse_attention *s = xcalloc(1, sizeof *s);
    s->stack = *stack;
    s->backend = backend;
    s->dev = dev;
    s->n_layers = config->n_layers;
    s->n_heads = config->n_heads;
    s->clock = xcalloc(1, sizeof *s->clock);
    if (!stack_check_layers(stack, config->n_layers, err)) {
        sparse_attention_close(s);
        return NULL;
    }
    if (stack_is_dense(stack))
        return s;
    s->max_rows = device_max_rows(backend, dev, config, max_keys);
    s->selection =
        backend->selection_open(dev, s->max_rows, s->n_heads, config->n_kv_heads, max_keys);
    s->context_step = backend->alloc(dev, sizeof *s->context_step);
    bool ok = (s->selection && s->context_step && probe_open(s)) || fail_memory(s, max_keys, err);
    if (ok && stack_index_open(&s->index, stack, backend, dev, model, max_keys, err) &&
        stack_reuse_open(&s->reuse, stack, backend, dev, config, max_keys, err))
        return s;
    sparse_attention_close(s);
    return NULL;
}

void sparse_attention_close(struct sparse_attention *s)
{
    if (!s)
        return;
    stack_reuse_close(&s->reuse);
    stack_index_close(&s->index);
    probe_close(s);
    if (s->context_step)
        s->backend->release(s->dev, s->context_step);
    if (s->selection)
        s->backend->selection_close(s->dev, s->selection);
    free(s->clock);
    free(s);
}
