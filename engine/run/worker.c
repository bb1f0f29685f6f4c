#include "engine/run/worker.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/run/context.h"
#include "engine/run/inspect.h"

/* --- Loading ------------------------------------------------------------------------------ */

static void report_bytes(void *user, uint64_t done, uint64_t total)
{
    emit_progress(user, PHASE_LOAD, done, total, total ? (double)done / (double)total : 0);
}

static bool device_alloc(struct worker *w, void *out, size_t n_bytes, struct error *err)
{
    void *p = w->backend->alloc(w->dev, n_bytes);
    memcpy(out, &p, sizeof p);
    if (p)
        return true;
    struct device_info info;
    w->backend->describe(w->dev, &info);
    return fail_code(err, EXIT_CODE_NO_DEVICE,
                     "%s: no memory for %.1f MiB of scratch, %.1f MiB are free; choose a smaller "
                     "model",
                     info.name, (double)n_bytes / (1 << 20), (double)info.free_bytes / (1 << 20));
}

static bool scratch_open(struct worker *w, const struct model *m, struct error *err)
{
    struct worker_scratch *s = &w->scratch;
    size_t row = (size_t)m->config.vocab_size * sizeof(float);
    return device_alloc(w, &s->step, sizeof *s->step, err) &&
           device_alloc(w, &s->tokens, (size_t)m->max_rows * sizeof *s->tokens, err) &&
           device_alloc(w, &s->logits, row, err) &&
           device_alloc(w, &s->base_logits, WORKER_BLOCK_STEPS * row, err) &&
           device_alloc(w, &s->pick, sizeof *s->pick, err) &&
           device_alloc(w, &s->kl, sizeof *s->kl, err);
}

static void scratch_close(struct worker *w)
{
    struct worker_scratch *s = &w->scratch;
    void *all[] = {s->step, s->tokens, s->logits, s->base_logits, s->pick, s->kl};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (all[i])
            w->backend->release(w->dev, all[i]);
    memset(s, 0, sizeof *s);
}

bool worker_load(struct worker *w, const char *folder, atomic_bool *cancel, struct error *err)
{
    emit_phase(&w->out, PHASE_LOAD, 0);
    struct model_progress progress = {report_bytes, &w->out, cancel};
    struct error why = {0};
    struct loaded *fresh = loaded_open(folder, w->backend, w->dev, w->kv_dtype, &progress, &why);
    if (!fresh && why.code == EXIT_CODE_NO_DEVICE && w->loaded) {
        worker_unload(w); /* two models do not fit: the old one makes room */
        fresh = loaded_open(folder, w->backend, w->dev, w->kv_dtype, &progress, &why);
    }
    if (!fresh) {
        *err = why;
        return false;
    }
    worker_unload(w);
    w->loaded = fresh;
    if (w->no_gpu[0])
        fresh->info.no_gpu = xstrdup(w->no_gpu);
    if (scratch_open(w, fresh->model, err))
        return true;
    worker_unload(w);
    return false;
}

void worker_unload(struct worker *w)
{
    dense_cache_clear(&w->answers);
    inspector_close(w->inspector);
    w->inspector = NULL;
    context_close(w);
    forward_buffers_close(w->buffers);
    w->buffers = NULL;
    w->buffer_keys = 0;
    scratch_close(w);
    loaded_close(w->loaded);
    w->loaded = NULL;
}

int worker_buffer_rows(const struct worker *w, int max_keys)
{
    int max_rows = w->loaded->model->max_rows;
    return max_keys < max_rows ? max_keys : max_rows;
}

bool worker_reserve(struct worker *w, int max_keys, struct error *err)
{
    if (w->buffers && w->buffer_keys >= max_keys)
        return true;
    forward_buffers_close(w->buffers);
    w->buffer_keys = 0;
    w->buffers =
        forward_buffers_open(w->loaded->model, worker_buffer_rows(w, max_keys), max_keys, err);
    if (!w->buffers)
        return false;
    w->buffer_keys = max_keys;
    return true;
}

/* --- Forward calls ------------------------------------------------------------------------ */

void worker_forward(struct worker *w, const struct worker_call *call)
{
    assert(call->n_rows > 0 && call->n_rows <= w->loaded->model->max_rows);
    struct worker_scratch *s = &w->scratch;
    struct step_state step = {
        .n_context = call->n_context,
        .n_tail = call->n_tail,
        .append_tail = call->tail != NULL,
        .step = call->step,
        .seed = call->seed,
    };
    w->backend->upload(w->dev, s->step, &step, sizeof step);
    w->backend->upload(w->dev, s->tokens, call->tokens,
                       (size_t)call->n_rows * sizeof *call->tokens);
    struct forward_call forward = {
        .buffers = w->buffers,
        .tokens = s->tokens,
        .n_rows = call->n_rows,
        .context = &w->context.kv,
        .tail = call->tail,
        .step = s->step,
        .counts = call->counts,
        .method = call->method,
        .max_keys = call->n_context + call->n_tail + call->n_rows,
    };
    model_forward(w->loaded->model, &forward, call->logits, call->logits ? 1 : 0);
}

bool worker_forward_rows(struct worker *w, const struct worker_call *call, struct error *err)
{
    int max_rows = w->loaded->model->max_rows;
    for (int done = 0; done < call->n_rows;) {
        if (worker_cancelled(w))
            return false;
        struct worker_call part = *call;
        int rows = call->n_rows - done < max_rows ? call->n_rows - done : max_rows;
        bool last = done + rows == call->n_rows;
        part.tokens += done;
        part.n_rows = rows;
        part.n_tail += done;
        part.logits = last ? call->logits : NULL;
        worker_forward(w, &part);
        done += rows;
        if (!last && !worker_sync(w, err))
            return false;
    }
    return true;
}

bool worker_sync(struct worker *w, struct error *err)
{
    char why[256] = "";
    if (w->backend->sync(w->dev, why, sizeof why))
        return true;
    return fail_code(err, EXIT_CODE_RUNTIME, "the device failed: %s", why);
}

void worker_sync_after(struct worker *w, struct error *err)
{
    struct error why;
    if (!worker_sync(w, &why))
        *err = why;
}

bool worker_device_lost(const struct worker *w)
{
    return w->backend->lost && w->backend->lost(w->dev);
}
