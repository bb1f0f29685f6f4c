/* What the engine thread works with: device, model, scratch memory on the device, the context's
 * KV cache and the finished dense answers. */
#ifndef ATTNSCOPE_ENGINE_RUN_WORKER_H
#define ATTNSCOPE_ENGINE_RUN_WORKER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/model/kv_cache.h"
#include "engine/model/model.h"
#include "engine/run/dense_cache.h"
#include "engine/run/emit.h"
#include "engine/run/loaded.h"
#include "kernels/backend.h"

enum {
    WORKER_BLOCK_STEPS = 8, /* most steps that a lane makes before the next lane's turn */
    /* Marks of the device's clock: around step i of a block 2 i and the next, and around the
     * attention of one of its steps, computed once more. */
    WORKER_STEP_SLOT = 0,
    WORKER_ATTENTION_SLOT = 2 * WORKER_BLOCK_STEPS
};

/* Device memory that every forward call shares; sized by the model when it is loaded. */
struct worker_scratch {
    struct step_state *step;
    int32_t *tokens;    /* [model->max_rows] */
    float *logits;      /* [vocab_size] of the present step */
    float *base_logits; /* [WORKER_BLOCK_STEPS, vocab_size] of lane 0's turn, forced mode */
    struct pick *pick;
    float *kl;
};

/* The context in the KV cache. */
struct worker_context {
    struct kv_cache kv;
    bool open;             /* kv is allocated */
    struct token_list ids; /* the tokens whose keys and values kv holds, from the start */
    double prefill_ms;     /* spent on them */
};

struct worker {
    const struct backend *backend; /* borrowed, with dev */
    struct device *dev;
    char no_gpu[512]; /* why it is not a GPU, where any device would do; else empty */
    enum dtype kv_dtype;
    const atomic_bool *cancel; /* set by the interface thread */
    struct emitter out;
    struct loaded *loaded; /* NULL: no model */
    struct worker_scratch scratch;
    struct forward_buffers *buffers; /* for calls of up to buffer_keys keys */
    int buffer_keys;
    struct worker_context context;
    struct dense_cache answers;
    struct inspector *inspector; /* owned; NULL: none.  Of the kept context */
};

/* Loads a model; the old one, if any, stays until the new one is ready, as far as memory allows. */
bool worker_load(struct worker *w, const char *folder, atomic_bool *cancel, struct error *err);
/* Releases model, caches and scratch. */
void worker_unload(struct worker *w);

/* Rows of a call that buffers for max_keys keys are made for. */
int worker_buffer_rows(const struct worker *w, int max_keys);
/* Makes sure that forward calls of up to max_keys keys have their buffers. */
bool worker_reserve(struct worker *w, int max_keys, struct error *err);

static inline bool worker_cancelled(const struct worker *w)
{
    return atomic_load_explicit(w->cancel, memory_order_relaxed);
}

/* One forward call of tokens [n_rows], n_rows <= model->max_rows, appended to the context (tail
 * NULL) or to a tail.  Enqueued only: the caller downloads or syncs. */
struct worker_call {
    const int32_t *tokens;
    int n_rows;
    int n_context, n_tail; /* keys there before this call */
    const struct kv_tail *tail;
    uint32_t step;
    uint64_t seed;
    struct attention_counts *counts; /* (device) [n_layers], or NULL */
    struct attention_method method;
    float *logits; /* (device) [vocab_size] of the last row, or NULL */
};
void worker_forward(struct worker *w, const struct worker_call *call);

/* The same for any number of rows, in calls of as many as the model takes, waiting between them;
 * logits are the last row's.  False: cancelled between two calls, or err is set. */
bool worker_forward_rows(struct worker *w, const struct worker_call *call, struct error *err);

/* (device) [vocab_size] where lane 0's logits of a step are kept while its turn lasts. */
static inline float *worker_base_logits(const struct worker *w, int step)
{
    size_t vocab_size = (size_t)w->loaded->model->config.vocab_size;
    return w->scratch.base_logits + (size_t)(step % WORKER_BLOCK_STEPS) * vocab_size;
}

/* Waits; false with the device's reason if an operation failed. */
bool worker_sync(struct worker *w, struct error *err);
/* After a failure that err tells: a device that has failed does nothing more until it is waited
 * for; if it has, its reason replaces err, which may only tell what followed. */
void worker_sync_after(struct worker *w, struct error *err);
/* Whether the device has failed for good: only a new process can use it again. */
bool worker_device_lost(const struct worker *w);

#endif
