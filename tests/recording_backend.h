/* The cpu backend with recording added, so that what records and replays can be tested without a
 * GPU: while it records, operations are written down with their arguments, and a replay runs them
 * with what device memory holds by then.
 *
 * It also holds its callers to the interface: pointers to device memory must lie in what alloc
 * gave, and nothing that may not be called while recording is.  A breach ends the program.
 * The engine opens it by the name "recording": link with -Wl,--wrap=backend_open. */
#ifndef ATTNSCOPE_TESTS_RECORDING_BACKEND_H
#define ATTNSCOPE_TESTS_RECORDING_BACKEND_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"

/* What an operation was called with; each play function knows its own part. */
struct taped {
    void (*play)(struct device *dev, const struct taped *t);
    void *p[6];
    const struct step_state *step;
    struct linear linear, positions;
    struct norm norm, second_norm;
    bool has_norm, has_second_norm, has_positions;
    enum activation activation;
    struct kv_layer kv;
    struct rope rope;
    struct sampling sampling;
    struct attention att;
    struct selection *sel;
    const struct selection *from;
    struct key_index *index;
    struct adaptive_sampling sampled;
    struct budget size;
    enum share share;
    double real;
    float scale;
    bool flag;
    int n, page_size, n_rows;
    size_t n_bytes;
};

struct recording {
    struct taped *calls;
    size_t n;
};

enum { RECORDING_MAX_BLOCKS = 4096 };

struct recording_device {
    struct recording *open; /* being recorded */
    struct {
        char *at;
        size_t n_bytes;
    } blocks[RECORDING_MAX_BLOCKS]; /* what alloc gave */
    int n_blocks;
    bool failed, lost;
    /* Set by tests. */
    bool refuse;         /* record_end fails */
    long lose_at_replay; /* this replay, counted from 1, breaks the device for good; 0: none */
    uint64_t free_bytes; /* what describe tells; 0: the truth */
    /* Counted for tests. */
    long n_recordings, n_replays, n_marks, n_taped_attends;
};

static struct recording_device recording_device;

static inline void recording_reset(void)
{
    struct recording_device *r = &recording_device;
    r->failed = r->lost = r->refuse = false;
    r->lose_at_replay = r->n_recordings = r->n_replays = r->n_marks = r->n_taped_attends = 0;
    r->free_bytes = 0;
}

/* --- Breaches --------------------------------------------------------------------------------- */

static inline void recording_require(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "recording backend: %s\n", what);
    abort();
}

static inline bool recording_is_device(const void *p)
{
    const struct recording_device *r = &recording_device;
    for (int i = 0; i < r->n_blocks; i++)
        if ((const char *)p >= r->blocks[i].at &&
            (const char *)p < r->blocks[i].at + r->blocks[i].n_bytes)
            return true;
    return false;
}

static inline void recording_device_memory(const void *p, const char *what)
{
    recording_require(recording_is_device(p), what);
}

static inline void recording_not_now(const char *what)
{
    recording_require(!recording_device.open, what);
}

/* --- Memory, clock ---------------------------------------------------------------------------- */

static inline struct device *recording_open(const struct device_options *options, char *why,
                                            size_t n_why)
{
    recording_reset();
    return backend_cpu.open(options, why, n_why);
}

static inline void recording_describe(struct device *dev, struct device_info *out)
{
    backend_cpu.describe(dev, out);
    if (recording_device.free_bytes)
        out->free_bytes = recording_device.free_bytes;
}

static inline void *recording_alloc(struct device *dev, size_t n_bytes)
{
    struct recording_device *r = &recording_device;
    recording_not_now("alloc while recording");
    void *p = r->lost ? NULL : backend_cpu.alloc(dev, n_bytes);
    recording_require(r->n_blocks < RECORDING_MAX_BLOCKS, "too many allocations");
    if (p) {
        r->blocks[r->n_blocks].at = p;
        r->blocks[r->n_blocks++].n_bytes = n_bytes;
    }
    return p;
}

static inline void recording_release(struct device *dev, void *p)
{
    struct recording_device *r = &recording_device;
    recording_not_now("release while recording");
    int i = 0;
    while (p && r->blocks[i].at != p)
        recording_require(++i < r->n_blocks, "release of what alloc did not give");
    if (p)
        r->blocks[i] = r->blocks[--r->n_blocks];
    backend_cpu.release(dev, p);
}

static inline void recording_upload(struct device *dev, void *to, const void *from, size_t n_bytes)
{
    recording_not_now("upload while recording");
    recording_device_memory(to, "upload to what is no device memory");
    if (!recording_device.failed)
        backend_cpu.upload(dev, to, from, n_bytes);
}

static inline void recording_download(struct device *dev, void *to, const void *from,
                                      size_t n_bytes)
{
    recording_not_now("download while recording");
    recording_device_memory(from, "download from what is no device memory");
    if (recording_device.failed)
        memset(to, 0, n_bytes);
    else
        backend_cpu.download(dev, to, from, n_bytes);
}

static inline bool recording_sync(struct device *dev, char *why, size_t n_why)
{
    struct recording_device *r = &recording_device;
    recording_not_now("sync while recording");
    if (!r->failed)
        return backend_cpu.sync(dev, why, n_why);
    snprintf(why, n_why, "a failure made by a test");
    r->failed = r->lost;
    return false;
}

static inline bool recording_lost(struct device *dev)
{
    (void)dev;
    return recording_device.lost;
}

static inline bool recording_reserve(struct device *dev, const struct workspace_need *need)
{
    recording_not_now("reserve while recording");
    return backend_cpu.reserve(dev, need);
}

static inline void recording_time_mark(struct device *dev, int slot)
{
    recording_not_now("time_mark while recording");
    recording_require(slot >= 0 && slot < 64, "no such mark");
    recording_device.n_marks++;
    backend_cpu.time_mark(dev, slot);
}

static inline double recording_time_between_us(struct device *dev, int from_slot, int to_slot)
{
    recording_not_now("time_between while recording");
    return backend_cpu.time_between_us(dev, from_slot, to_slot);
}

/* --- Recording -------------------------------------------------------------------------------- */

static inline bool recording_begin(struct device *dev)
{
    (void)dev;
    recording_not_now("record_begin while recording");
    recording_device.open = calloc(1, sizeof *recording_device.open);
    return true;
}

static inline void recording_close(struct device *dev, struct recording *recording)
{
    (void)dev;
    free(recording->calls);
    free(recording);
}

static inline struct recording *recording_end(struct device *dev)
{
    struct recording_device *r = &recording_device;
    struct recording *done = r->open;
    recording_require(done != NULL, "record_end without record_begin");
    r->open = NULL;
    r->n_recordings++;
    if (!r->refuse)
        return done;
    r->failed = true;
    recording_close(dev, done);
    return NULL;
}

static inline void recording_replay(struct device *dev, struct recording *recording)
{
    struct recording_device *r = &recording_device;
    recording_not_now("replay while recording");
    if (++r->n_replays == r->lose_at_replay)
        r->failed = r->lost = true;
    for (size_t i = 0; i < recording->n && !r->failed; i++)
        recording->calls[i].play(dev, &recording->calls[i]);
}

static inline void play_attend_dense(struct device *dev, const struct taped *t);
static inline void play_attend_selected(struct device *dev, const struct taped *t);

/* Runs a call, or writes it down. */
static inline void recording_do(struct device *dev, const struct taped *t)
{
    struct recording *open = recording_device.open;
    if (!open) {
        if (!recording_device.failed)
            t->play(dev, t);
        return;
    }
    recording_device.n_taped_attends +=
        t->play == play_attend_dense || t->play == play_attend_selected;
    open->calls = realloc(open->calls, (open->n + 1) * sizeof *open->calls);
    open->calls[open->n++] = *t;
}

/* --- Operations of the forward pass ----------------------------------------------------------- */

static inline void play_embed(struct device *dev, const struct taped *t)
{
    backend_cpu.embed(dev, t->p[0], &t->linear, t->has_positions ? &t->positions : NULL, t->p[1],
                      t->step, t->n_rows);
}

static inline void recording_embed(struct device *dev, float *x, const struct linear *table,
                                   const struct linear *positions, const int32_t *tokens,
                                   const struct step_state *step, int n_rows)
{
    recording_device_memory(tokens, "embed: tokens are not on the device");
    recording_device_memory(step, "embed: step is not on the device");
    struct taped t = {.play = play_embed, .linear = *table, .step = step, .n_rows = n_rows};
    t.p[0] = x;
    t.p[1] = (void *)(uintptr_t)tokens;
    t.has_positions = positions != NULL;
    if (positions)
        t.positions = *positions;
    recording_do(dev, &t);
}

static inline void play_norm_linear(struct device *dev, const struct taped *t)
{
    backend_cpu.norm_linear(dev, t->p[0], t->p[1], t->has_norm ? &t->norm : NULL, &t->linear,
                            t->activation, t->n_rows);
}

static inline void recording_norm_linear(struct device *dev, float *y, const float *x,
                                         const struct norm *norm, const struct linear *w,
                                         enum activation activation, int n_rows)
{
    recording_device_memory(y, "norm_linear: y is not on the device");
    struct taped t = {.play = play_norm_linear, .linear = *w, .n_rows = n_rows};
    t.p[0] = y;
    t.p[1] = (void *)(uintptr_t)x;
    t.activation = activation;
    t.has_norm = norm != NULL;
    if (norm)
        t.norm = *norm;
    recording_do(dev, &t);
}

static inline void play_linear_add(struct device *dev, const struct taped *t)
{
    backend_cpu.linear_add(dev, t->p[0], t->p[1], &t->linear, t->n_rows);
}

static inline void recording_linear_add(struct device *dev, float *x, const float *y,
                                        const struct linear *w, int n_rows)
{
    struct taped t = {.play = play_linear_add, .linear = *w, .n_rows = n_rows};
    t.p[0] = x;
    t.p[1] = (void *)(uintptr_t)y;
    recording_do(dev, &t);
}

static inline void play_rotate_append(struct device *dev, const struct taped *t)
{
    backend_cpu.rotate_append(dev, t->p[0], t->n, &t->kv, &t->rope, t->has_norm ? &t->norm : NULL,
                              t->has_second_norm ? &t->second_norm : NULL, t->step, t->n_rows);
}

static inline void recording_rotate_append(struct device *dev, float *qkv, int n_heads,
                                           const struct kv_layer *kv, const struct rope *rope,
                                           const struct norm *q_norm, const struct norm *k_norm,
                                           const struct step_state *step, int n_rows)
{
    recording_device_memory(step, "rotate_append: step is not on the device");
    struct taped t = {.play = play_rotate_append, .kv = *kv, .rope = *rope, .step = step};
    t.p[0] = qkv;
    t.n = n_heads;
    t.n_rows = n_rows;
    t.has_norm = q_norm != NULL;
    t.has_second_norm = k_norm != NULL;
    if (q_norm)
        t.norm = *q_norm;
    if (k_norm)
        t.second_norm = *k_norm;
    recording_do(dev, &t);
}

static inline void play_pick(struct device *dev, const struct taped *t)
{
    backend_cpu.pick(dev, t->p[0], t->p[1], t->n, &t->sampling, t->step);
}

static inline void recording_pick(struct device *dev, struct pick *out, const float *logits,
                                  int vocab_size, const struct sampling *sampling,
                                  const struct step_state *step)
{
    recording_device_memory(out, "pick: out is not on the device");
    recording_device_memory(step, "pick: step is not on the device");
    struct taped t = {.play = play_pick, .sampling = *sampling, .step = step, .n = vocab_size};
    t.p[0] = out;
    t.p[1] = (void *)(uintptr_t)logits;
    recording_do(dev, &t);
}

static inline void play_advance(struct device *dev, const struct taped *t)
{
    backend_cpu.advance(dev, t->p[0], t->p[1], t->p[2], t->p[3], t->p[4], t->n);
}

static inline void recording_advance(struct device *dev, struct step_state *step,
                                     struct step_state *before, int32_t *token,
                                     const struct pick *chosen, struct pick *log, int n_log)
{
    recording_device_memory(step, "advance: step is not on the device");
    recording_device_memory(token, "advance: token is not on the device");
    recording_device_memory(log + n_log - 1, "advance: log is not on the device");
    struct taped t = {.play = play_advance, .n = n_log};
    t.p[0] = step;
    t.p[1] = before;
    t.p[2] = token;
    t.p[3] = (void *)(uintptr_t)chosen;
    t.p[4] = log;
    recording_do(dev, &t);
}

static inline void play_kl_divergence(struct device *dev, const struct taped *t)
{
    backend_cpu.kl_divergence(dev, t->p[0], t->p[1], t->p[2], t->n);
}

static inline void recording_kl_divergence(struct device *dev, float *out, const float *p,
                                           const float *q, int vocab_size)
{
    recording_device_memory(out, "kl_divergence: out is not on the device");
    struct taped t = {.play = play_kl_divergence, .n = vocab_size};
    t.p[0] = out;
    t.p[1] = (void *)(uintptr_t)p;
    t.p[2] = (void *)(uintptr_t)q;
    recording_do(dev, &t);
}

static inline void play_copy(struct device *dev, const struct taped *t)
{
    backend_cpu.copy(dev, t->p[0], t->p[1], t->n_bytes);
}

static inline void recording_copy(struct device *dev, void *to, const void *from, size_t n_bytes)
{
    recording_device_memory(to, "copy: to is not on the device");
    recording_device_memory((const char *)to + n_bytes - 1, "copy: to is too small");
    recording_device_memory(from, "copy: from is not on the device");
    struct taped t = {.play = play_copy, .n_bytes = n_bytes};
    t.p[0] = to;
    t.p[1] = (void *)(uintptr_t)from;
    recording_do(dev, &t);
}

/* --- Operations of attention ------------------------------------------------------------------ */

static inline struct taped taped_attention(void (*play)(struct device *dev, const struct taped *t),
                                           const struct selection *sel, const struct attention *att)
{
    recording_device_memory(att->q, "attention: q is not on the device");
    recording_device_memory(att->out, "attention: out is not on the device");
    recording_device_memory(att->step, "attention: step is not on the device");
    return (struct taped){.play = play, .att = *att, .sel = (struct selection *)(uintptr_t)sel};
}

static inline void play_attend_dense(struct device *dev, const struct taped *t)
{
    backend_cpu.attend_dense(dev, &t->att);
}

static inline void recording_attend_dense(struct device *dev, const struct attention *att)
{
    struct taped t = taped_attention(play_attend_dense, NULL, att);
    recording_do(dev, &t);
}

/* name(dev, sel, att, ARGUMENTS): three lines for each kind of selection. */
#define RECORDING_SELECT(name, parameters, keep, arguments)                                        \
    static inline void play_##name(struct device *dev, const struct taped *t)                      \
    {                                                                                              \
        backend_cpu.name arguments;                                                                \
    }                                                                                              \
    static inline void recording_##name parameters                                                 \
    {                                                                                              \
        struct taped t = taped_attention(play_##name, sel, att);                                   \
        keep;                                                                                      \
        recording_do(dev, &t);                                                                     \
    }

RECORDING_SELECT(selection_begin,
                 (struct device * dev, struct selection *sel, const struct attention *att), (void)0,
                 (dev, t->sel, &t->att))
RECORDING_SELECT(selection_end,
                 (struct device * dev, struct selection *sel, const struct attention *att), (void)0,
                 (dev, t->sel, &t->att))
RECORDING_SELECT(score_exact,
                 (struct device * dev, struct selection *sel, const struct attention *att), (void)0,
                 (dev, t->sel, &t->att))
RECORDING_SELECT(select_sink,
                 (struct device * dev, struct selection *sel, const struct attention *att,
                  struct budget size),
                 t.size = size, (dev, t->sel, &t->att, t->size))
RECORDING_SELECT(select_local,
                 (struct device * dev, struct selection *sel, const struct attention *att,
                  struct budget size),
                 t.size = size, (dev, t->sel, &t->att, t->size))
RECORDING_SELECT(select_top_k,
                 (struct device * dev, struct selection *sel, const struct attention *att,
                  struct budget size, enum share share),
                 (t.size = size, t.share = share), (dev, t->sel, &t->att, t->size, t->share))
RECORDING_SELECT(select_top_p,
                 (struct device * dev, struct selection *sel, const struct attention *att,
                  double top_p, bool of_total, struct budget most, float logit_scale,
                  enum share share),
                 (t.real = top_p, t.flag = of_total, t.size = most, t.scale = logit_scale,
                  t.share = share),
                 (dev, t->sel, &t->att, t->real, t->flag, t->size, t->scale, t->share))
RECORDING_SELECT(select_random,
                 (struct device * dev, struct selection *sel, const struct attention *att,
                  double rate, int slot, enum share share),
                 (t.real = rate, t.n = slot, t.share = share),
                 (dev, t->sel, &t->att, t->real, t->n, t->share))
RECORDING_SELECT(select_adaptive,
                 (struct device * dev, struct selection *sel, const struct attention *att,
                  const struct adaptive_sampling *sampling, int slot, enum share share),
                 (t.sampled = *sampling, t.n = slot, t.share = share),
                 (dev, t->sel, &t->att, &t->sampled, t->n, t->share))
RECORDING_SELECT(select_again,
                 (struct device * dev, struct selection *sel, const struct attention *att,
                  const struct selection *from),
                 t.from = from, (dev, t->sel, &t->att, t->from))
RECORDING_SELECT(select_if_short,
                 (struct device * dev, struct selection *sel, const struct attention *att,
                  struct budget size, int more),
                 (t.size = size, t.n = more), (dev, t->sel, &t->att, t->size, t->n))
RECORDING_SELECT(select_pages,
                 (struct device * dev, struct selection *sel, const struct attention *att,
                  struct budget size, int page_size, double top_p, enum share share),
                 (t.size = size, t.page_size = page_size, t.real = top_p, t.share = share),
                 (dev, t->sel, &t->att, t->size, t->page_size, t->real, t->share))
RECORDING_SELECT(select_matches,
                 (struct device * dev, struct selection *sel, const struct key_index *index,
                  const struct attention *att),
                 t.index = (struct key_index *)(uintptr_t)index, (dev, t->sel, t->index, &t->att))
RECORDING_SELECT(score_index,
                 (struct device * dev, struct selection *sel, const struct key_index *index,
                  const struct attention *att),
                 t.index = (struct key_index *)(uintptr_t)index, (dev, t->sel, t->index, &t->att))
RECORDING_SELECT(attend_selected,
                 (struct device * dev, const struct attention *att, const struct selection *sel),
                 (void)0, (dev, &t->att, t->sel))

/* Also called for keys that no query of this call sees: without q and out. */
static inline void play_index_update(struct device *dev, const struct taped *t)
{
    backend_cpu.index_update(dev, t->index, &t->att);
}

static inline void recording_index_update(struct device *dev, struct key_index *index,
                                          const struct attention *att)
{
    recording_device_memory(att->step, "index_update: step is not on the device");
    struct taped t = {.play = play_index_update, .index = index, .att = *att};
    recording_do(dev, &t);
}

static inline void recording_probe(struct device *dev, const struct attention *att,
                                   const struct selection *sel, const struct attention_probe *out)
{
    recording_not_now("probe in a recorded step");
    if (!recording_device.failed)
        backend_cpu.probe(dev, att, sel, out);
}

/* --- The table -------------------------------------------------------------------------------- */

/* Every entry is named, so that a new one is missing until somebody says how it is recorded. */
static inline const struct backend *recording_backend(void)
{
    static struct backend b;
    b = (struct backend){
        .name = "recording",
        .draws_by_score = backend_cpu.draws_by_score,
        .open = recording_open,
        .close = backend_cpu.close,
        .describe = recording_describe,
        .alloc = recording_alloc,
        .release = recording_release,
        .upload = recording_upload,
        .download = recording_download,
        .copy = recording_copy,
        .sync = recording_sync,
        .lost = recording_lost,
        .reserve = recording_reserve,
        .time_mark = recording_time_mark,
        .time_between_us = recording_time_between_us,
        .record_begin = recording_begin,
        .record_end = recording_end,
        .replay = recording_replay,
        .recording_close = recording_close,
        .embed = recording_embed,
        .norm_linear = recording_norm_linear,
        .linear_add = recording_linear_add,
        .rotate_append = recording_rotate_append,
        .pick = recording_pick,
        .advance = recording_advance,
        .kl_divergence = recording_kl_divergence,
        .attend_dense = recording_attend_dense,
        .selection_open = backend_cpu.selection_open,
        .selection_close = backend_cpu.selection_close,
        .selection_begin = recording_selection_begin,
        .selection_end = recording_selection_end,
        .select_sink = recording_select_sink,
        .select_local = recording_select_local,
        .score_exact = recording_score_exact,
        .select_top_k = recording_select_top_k,
        .select_top_p = recording_select_top_p,
        .select_random = recording_select_random,
        .selection_put = backend_cpu.selection_put,
        .selection_get = backend_cpu.selection_get,
        .attend_selected = recording_attend_selected,
        .probe = recording_probe,
        .fill_random = backend_cpu.fill_random,
        .measure_read_bandwidth = backend_cpu.measure_read_bandwidth,
        .measure_read_of = backend_cpu.measure_read_of,
        .measure_peak_flops = backend_cpu.measure_peak_flops,
        .index_open = backend_cpu.index_open,
        .index_close = backend_cpu.index_close,
        .index_bytes = backend_cpu.index_bytes,
        .index_update = recording_index_update,
        .score_index = recording_score_index,
        .select_pages = recording_select_pages,
        .select_if_short = recording_select_if_short,
        .select_matches = recording_select_matches,
        .select_adaptive = recording_select_adaptive,
        .select_again = recording_select_again,
    };
    return &b;
}

struct device *__real_backend_open(const char *name, const struct device_options *options,
                                   const struct backend **backend, char *why, size_t n_why);
struct device *__wrap_backend_open(const char *name, const struct device_options *options,
                                   const struct backend **backend, char *why, size_t n_why);

struct device *__wrap_backend_open(const char *name, const struct device_options *options,
                                   const struct backend **backend, char *why, size_t n_why)
{
    if (strcmp(name, "recording") != 0)
        return __real_backend_open(name, options, backend, why, n_why);
    *backend = recording_backend();
    return (*backend)->open(options, why, n_why);
}

#endif
