#include "engine/run/memory_need.h"

#include <stdio.h>

#include "engine/attention/sparse_attention.h"
#include "engine/run/context.h"

struct need {
    uint64_t context, lanes, computing; /* bytes */
};

static uint64_t total(const struct need *n)
{
    return n->context + n->lanes + n->computing;
}

static uint64_t computing_bytes(const struct worker *w, int max_keys)
{
    return forward_buffers_bytes(w->loaded->model, worker_buffer_rows(w, max_keys));
}

/* What is there from the last ask: used again, or released before more is taken. */
static struct need held(const struct worker *w)
{
    struct need n = {0};
    if (w->context.open)
        n.context = w->context.kv.bytes;
    if (w->buffers)
        n.computing = computing_bytes(w, w->buffer_keys);
    return n;
}

/* fresh: the context gets a cache of its own size in place of the kept one. */
static struct need need_of(const struct worker *w, const struct request *request, int n_context,
                           int n_more, bool fresh)
{
    const struct model_config *c = &w->loaded->model->config;
    uint64_t per_token = model_kv_bytes_per_token(c, w->kv_dtype);
    struct masker_model model = {c, w->loaded->model->path, w->kv_dtype};
    int max_keys = n_context + n_more;
    struct need n = held(w);
    if (fresh || !w->context.open || w->context.kv.capacity < n_context)
        n.context = per_token * (uint64_t)context_capacity(n_context);
    if (!w->buffers || w->buffer_keys < max_keys)
        n.computing = computing_bytes(w, max_keys);
    for (int i = 0; i < request->n_lanes; i++)
        n.lanes +=
            per_token * (uint64_t)n_more +
            sparse_attention_bytes(&request->lanes[i].stack, w->backend, w->dev, &model, max_keys);
    return n;
}

/* The longest context that fits; -1 if none does. */
static int fitting_context(const struct worker *w, const struct request *request, int n_context,
                           int n_more, uint64_t free_bytes)
{
    int fits = -1, too_long = n_context;
    while (too_long - fits > 1) {
        int middle = fits + (too_long - fits) / 2;
        struct need n = need_of(w, request, middle, n_more, true);
        if (total(&n) <= free_bytes)
            fits = middle;
        else
            too_long = middle;
    }
    return fits;
}

static double mib(uint64_t n_bytes)
{
    return (double)n_bytes / (1 << 20);
}

bool memory_need_check(struct worker *w, const struct request *request, int n_context, int n_more,
                       struct error *err)
{
    struct device_info info;
    w->backend->describe(w->dev, &info);
    struct need kept = held(w), need = need_of(w, request, n_context, n_more, false);
    uint64_t free_bytes = info.free_bytes + total(&kept);
    if (info.free_bytes == 0 || total(&need) <= free_bytes)
        return true;
    need = need_of(w, request, n_context, n_more, true);
    if (total(&need) <= free_bytes) {
        context_close(w); /* the kept cache is larger than what is left to this ask */
        return true;
    }
    char advice[96] = "use fewer lanes, shorter answers (--max-tokens) or a smaller model";
    int fits = fitting_context(w, request, n_context, n_more, free_bytes);
    if (fits > 0)
        snprintf(advice, sizeof advice, "about %d tokens of context fit (--max-context)", fits);
    return fail_code(
        err, EXIT_CODE_NO_DEVICE,
        "%s: %d tokens of context (%.1f MiB), %d lane%s (%.1f MiB) and computing (%.1f "
        "MiB) need %.1f MiB, %.1f MiB are free; %s",
        info.name, n_context, mib(need.context), request->n_lanes, request->n_lanes == 1 ? "" : "s",
        mib(need.lanes), mib(need.computing), mib(total(&need)), mib(free_bytes), advice);
}
