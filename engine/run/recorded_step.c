#include "engine/run/recorded_step.h"

#include <assert.h>
#include <stdlib.h>

#include "engine/base/memory.h"
#include "engine/run/clock.h"

/* (device, and downloaded as it is) */
struct step_memory {
    struct step_state step;   /* of the next step */
    struct step_state before; /* of the last one */
    int32_t token;            /* fed to the next step */
    struct pick pick;
    struct pick log[WORKER_BLOCK_STEPS]; /* of step s at s % WORKER_BLOCK_STEPS */
    float kl[WORKER_BLOCK_STEPS];        /* of step i of the block, as the next */
    struct attention_counts counts[];    /* [WORKER_BLOCK_STEPS, n_layers], or none */
};

struct recorded_step {
    struct step_owner owner;
    size_t n_bytes;
    struct step_memory *device, *host;  /* [n_bytes] */
    struct recording *step, *attention; /* NULL until recorded */
};

struct recorded_step *recorded_step_open(const struct step_owner *owner, struct error *err)
{
    struct worker *w = owner->w;
    struct recorded_step *r = xcalloc(1, sizeof *r);
    size_t n_counts = owner->counts ? (size_t)w->loaded->model->config.n_layers : 0;
    r->owner = *owner;
    r->n_bytes = sizeof *r->host + WORKER_BLOCK_STEPS * n_counts * sizeof r->host->counts[0];
    r->host = xcalloc(1, r->n_bytes);
    r->device = w->backend->alloc(w->dev, r->n_bytes);
    if (r->device)
        return r;
    fail_code(err, EXIT_CODE_NO_DEVICE, "no device memory for a lane's steps");
    recorded_step_close(r);
    return NULL;
}

void recorded_step_close(struct recorded_step *r)
{
    if (!r)
        return;
    const struct worker *w = r->owner.w;
    if (r->step)
        w->backend->recording_close(w->dev, r->step);
    if (r->attention)
        w->backend->recording_close(w->dev, r->attention);
    if (r->device)
        w->backend->release(w->dev, r->device);
    free(r->host);
    free(r);
}

/* --- Recording ---------------------------------------------------------------------------- */

static struct forward_call call_of(const struct recorded_step *r)
{
    const struct step_owner *o = &r->owner;
    return (struct forward_call){
        .buffers = o->w->buffers,
        .tokens = &r->device->token,
        .n_rows = 1,
        .context = &o->w->context.kv,
        .tail = o->tail,
        .step = &r->device->step,
        .counts = o->counts,
        .method = sparse_attention_untimed(o->attention),
        .max_keys = o->max_keys,
    };
}

static void step_operations(const struct recorded_step *r)
{
    struct worker *w = r->owner.w;
    struct model *m = w->loaded->model;
    struct step_memory *d = r->device;
    struct forward_call call = call_of(r);
    model_forward(m, &call, w->scratch.logits, 1);
    w->backend->pick(w->dev, &d->pick, w->scratch.logits, m->config.vocab_size, r->owner.sampling,
                     &d->step);
    w->backend->advance(w->dev, &d->step, &d->before, &d->token, &d->pick, d->log,
                        WORKER_BLOCK_STEPS);
}

/* Of the step before, since it is replayed after the step has moved on. */
static void attention_operations(const struct recorded_step *r)
{
    struct forward_call call = call_of(r);
    call.step = &r->device->before;
    call.counts = NULL;
    model_attention(r->owner.w->loaded->model, &call);
}

static struct recording *record(const struct recorded_step *r,
                                void (*operations)(const struct recorded_step *r))
{
    const struct worker *w = r->owner.w;
    if (!w->backend->record_begin(w->dev))
        return NULL;
    operations(r);
    return w->backend->record_end(w->dev);
}

bool recorded_step_record(struct recorded_step *r)
{
    if (!r->step)
        r->step = record(r, step_operations);
    if (r->step && !r->attention)
        r->attention = record(r, attention_operations);
    return r->step && r->attention;
}

/* --- Running ------------------------------------------------------------------------------ */

/* Saves what step i gave before the next one overwrites it. */
static void save_results(const struct recorded_step *r, const struct step_block *block, int i)
{
    const struct worker *w = r->owner.w;
    const struct model_config *c = &w->loaded->model->config;
    float *kept = worker_base_logits(w, (int)block->state.step + i);
    size_t n_layers = (size_t)c->n_layers;
    if (r->owner.counts)
        w->backend->copy(w->dev, r->device->counts + (size_t)i * n_layers, r->owner.counts,
                         n_layers * sizeof r->device->counts[0]);
    if (block->keep_logits)
        w->backend->copy(w->dev, kept, w->scratch.logits, (size_t)c->vocab_size * sizeof *kept);
    if (block->forced)
        w->backend->kl_divergence(w->dev, &r->device->kl[i], kept, w->scratch.logits,
                                  c->vocab_size);
}

static void enqueue(const struct recorded_step *r, const struct step_block *block)
{
    const struct worker *w = r->owner.w;
    const struct backend *b = w->backend;
    b->upload(w->dev, &r->device->step, &block->state, sizeof block->state);
    for (int i = 0; i < block->n_steps; i++) {
        if (block->forced || i == 0) {
            int32_t fed = block->forced ? block->forced[i] : block->token;
            b->upload(w->dev, &r->device->token, &fed, sizeof fed);
        }
        b->time_mark(w->dev, WORKER_STEP_SLOT + 2 * i);
        b->replay(w->dev, r->step);
        b->time_mark(w->dev, WORKER_STEP_SLOT + 2 * i + 1);
        save_results(r, block, i);
    }
    b->time_mark(w->dev, WORKER_ATTENTION_SLOT);
    b->replay(w->dev, r->attention);
    b->time_mark(w->dev, WORKER_ATTENTION_SLOT + 1);
}

static void fill_steps(const struct recorded_step *r, const struct step_block *block,
                       int64_t block_us, struct answer_step *steps)
{
    const struct worker *w = r->owner.w;
    const struct backend *b = w->backend;
    double attention_us =
        b->time_between_us(w->dev, WORKER_ATTENTION_SLOT, WORKER_ATTENTION_SLOT + 1);
    /* What was run once more only to be timed is no part of the answer's time. */
    int64_t wall_us = block_us - (int64_t)attention_us;
    for (int i = 0; i < block->n_steps; i++) {
        int slot = WORKER_STEP_SLOT + 2 * i;
        steps[i] = (struct answer_step){
            .pick = r->host->log[(block->state.step + (uint32_t)i) % WORKER_BLOCK_STEPS],
            .step_us = (int64_t)b->time_between_us(w->dev, slot, slot + 1),
            .attention_us = (int64_t)attention_us,
            .wall_us = wall_us / block->n_steps,
            .kl = block->forced ? r->host->kl[i] : 0,
        };
    }
}

bool recorded_step_run(struct recorded_step *r, const struct step_block *block,
                       struct answer_step *steps, struct error *err)
{
    struct worker *w = r->owner.w;
    assert(r->step && block->n_steps > 0 && block->n_steps <= WORKER_BLOCK_STEPS);
    int64_t from_us = clock_us();
    enqueue(r, block);
    w->backend->download(w->dev, r->host, r->device, r->n_bytes);
    fill_steps(r, block, clock_us() - from_us, steps);
    return worker_sync(w, err);
}

const struct attention_counts *recorded_step_counts(const struct recorded_step *r, int i)
{
    int n_layers = r->owner.w->loaded->model->config.n_layers;
    assert(r->owner.counts);
    return r->host->counts + (size_t)i * (size_t)n_layers;
}
