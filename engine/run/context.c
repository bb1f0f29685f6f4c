#include "engine/run/context.h"

#include <string.h>

#include "engine/base/memory.h"
#include "engine/run/clock.h"

enum { MIN_CHUNK_ROWS = 16, CAPACITY_STEP = 256 };

static double row_flops(const struct model *m, double pos)
{
    const struct model_config *c = &m->config;
    return 2.0 * (double)m->n_params + 4.0 * c->n_heads * c->head_dim * c->n_layers * pos;
}

/* Of rows [0, n). */
static double prefill_flops(const struct model *m, double n)
{
    return n * row_flops(m, n / 2);
}

int context_chunk_rows(const struct model *m, int pos)
{
    double rows = m->chunk_flops / row_flops(m, pos);
    if (rows >= m->max_rows)
        return m->max_rows;
    return rows < MIN_CHUNK_ROWS ? MIN_CHUNK_ROWS : (int)rows / MIN_CHUNK_ROWS * MIN_CHUNK_ROWS;
}

int context_capacity(int n)
{
    return (n / CAPACITY_STEP + 1) * CAPACITY_STEP;
}

void context_close(struct worker *w)
{
    if (w->context.open)
        kv_cache_close(&w->context.kv);
    token_list_free(&w->context.ids);
    memset(&w->context, 0, sizeof w->context);
}

static bool open_cache(struct worker *w, int n, struct error *err)
{
    context_close(w);
    w->context.open = kv_cache_open(&w->context.kv, w->backend, w->dev, &w->loaded->model->config,
                                    w->kv_dtype, context_capacity(n), err);
    return w->context.open;
}

/* The kept tokens that the same chunks would make again: all, or up to a chunk's border. */
static int reusable(const struct worker *w, const struct token_list *ids)
{
    const struct token_list *kept = &w->context.ids;
    size_t common = 0;
    while (common < kept->n && common < ids->n && kept->ids[common] == ids->ids[common])
        common++;
    if (common == ids->n && common == kept->n)
        return (int)common;
    int border = 0;
    for (;;) {
        int next = border + context_chunk_rows(w->loaded->model, border);
        if ((size_t)next > common)
            return border;
        border = next;
    }
}

static void tell(struct worker *w, int from, int done, int n)
{
    const struct model *m = w->loaded->model;
    double before = prefill_flops(m, from), all = prefill_flops(m, n) - before;
    emit_progress(&w->out, PHASE_PREFILL, (uint64_t)(done - from), (uint64_t)(n - from),
                  (prefill_flops(m, done) - before) / all);
}

/* Prefills rows [from, n), chunk by chunk, until a cancel. */
static bool run_chunks(struct worker *w, const struct token_list *ids, int from, struct error *err)
{
    struct worker_context *c = &w->context;
    int n = (int)ids->n, done = from;
    emit_phase(&w->out, PHASE_PREFILL, (uint64_t)(n - from));
    while (done < n && !worker_cancelled(w)) {
        int64_t at_us = clock_us();
        int rows = context_chunk_rows(w->loaded->model, done);
        if (rows > n - done)
            rows = n - done;
        worker_forward(
            w, &(struct worker_call){.tokens = ids->ids + done, .n_rows = rows, .n_context = done});
        if (!worker_sync(w, err))
            return false;
        token_list_append(&c->ids, ids->ids + done, (size_t)rows);
        done += rows;
        c->prefill_ms += (double)(clock_us() - at_us) * 1e-3;
        if (worker_cancelled(w))
            w->out.progress_us = 0; /* the last word: how far it came */
        tell(w, from, done, n);
    }
    return true;
}

bool context_prefill(struct worker *w, const struct token_list *ids, int n_more, bool *reused,
                     bool *complete, struct error *err)
{
    struct worker_context *c = &w->context;
    int n = (int)ids->n, kept = 0;
    *reused = *complete = false;
    if (c->open && c->kv.capacity >= n)
        kept = reusable(w, ids);
    else if (!open_cache(w, n, err))
        return false;
    if (kept == 0)
        c->prefill_ms = 0;
    c->ids.n = (size_t)kept;
    if (!worker_reserve(w, n + n_more, err))
        return false;
    if (kept < n && !run_chunks(w, ids, kept, err))
        return false;
    *reused = n > 0 && kept == n;
    *complete = c->ids.n == ids->n;
    return true;
}
