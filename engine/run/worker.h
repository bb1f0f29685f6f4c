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
    WORKER_MAX_ROWS = 512,  /* of one forward call */
    WORKER_BLOCK_STEPS = 4, /* steps that a lane makes before the next lane's turn */
    WORKER_STEP_SLOT = 0    /* marks of the device's clock around a step: this and the next */
};

/* Device memory that every forward call shares; sized by the model when it is loaded. */
struct worker_scratch {
    struct step_state *step;
    int32_t *tokens;    /* [WORKER_MAX_ROWS] */
    float *logits;      /* [vocab_size] of the present step */
    float *base_logits; /* [WORKER_BLOCK_STEPS, vocab_size] of lane 0's block, forced mode */
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
    enum dtype kv_dtype;
    const atomic_bool *cancel; /* set by the interface thread */
    struct emitter out;
    struct loaded *loaded; /* NULL: no model */
    struct worker_scratch scratch;
    struct forward_buffers *buffers; /* for calls of up to buffer_keys keys */
    int buffer_keys;
    struct worker_context context;
    struct dense_cache answers;
};

/* Loads a model; the old one, if any, stays until the new one is ready, as far as memory allows. */
bool worker_load(struct worker *w, const char *folder, atomic_bool *cancel, struct error *err);
/* Releases model, caches and scratch. */
void worker_unload(struct worker *w);

/* Makes sure that forward calls of up to max_keys keys have their buffers. */
bool worker_reserve(struct worker *w, int max_keys, struct error *err);

static inline bool worker_cancelled(const struct worker *w)
{
    return atomic_load_explicit(w->cancel, memory_order_relaxed);
}

/* One forward call of tokens [n_rows], n_rows <= WORKER_MAX_ROWS, appended to the context (tail
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
/* Waits; false with the device's reason if an operation failed. */
bool worker_sync(struct worker *w, struct error *err);

#endif
