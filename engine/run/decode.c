#include "engine/run/decode.h"

#include <stdlib.h>

#include "engine/base/memory.h"
#include "engine/run/clock.h"
#include "engine/run/figures.h"
#include "engine/run/lane.h"

enum {
    METRICS_EVERY_US = 250000,
    /* A turn is as many steps of a lane as take about this long: a cancel waits no longer, and the
     * panes fill evenly.  In its first turn every lane makes its question pass and one step by
     * itself, so that no operation runs for the first time once a lane has recorded its step. */
    TURN_US = 100000,
    FIRST_TURN_STEPS = 2
};

struct round {
    struct worker *w;
    const struct request *request;
    const struct prompt *prompt;
    int question, max_tokens;
    struct dense_key key; /* of lane 0's answer, if it is dense */
    struct lane lanes[REQUEST_MAX_LANES];
    bool told[REQUEST_MAX_LANES]; /* done was told */
    int64_t metrics_us;
};

/* --- Telling ------------------------------------------------------------------------------ */

void decode_tell_done(struct worker *w, int question, int lane, enum finish finish,
                      const char *error)
{
    struct event e = {.kind = EVENT_DONE};
    e.done.question = question;
    e.done.lane = lane;
    e.done.finish = finish;
    e.done.error = error ? xstrdup(error) : NULL;
    e.done.device_lost = finish == FINISH_ERROR && worker_device_lost(w);
    emit(&w->out, &e);
}

static void tell_metrics(struct round *r, int lane)
{
    struct event e = {.kind = EVENT_METRICS};
    figures_of_lane(&r->lanes[lane], &r->lanes[0], &e.metrics);
    emit(&r->w->out, &e);
}

static void tell_ended(struct round *r)
{
    for (int i = 0; i < r->request->n_lanes; i++) {
        const struct lane *l = &r->lanes[i];
        if (!l->ended || r->told[i])
            continue;
        tell_metrics(r, i);
        decode_tell_done(r->w, r->question, i, l->finish, l->error);
        r->told[i] = true;
    }
}

static void tell_running(struct round *r)
{
    int64_t now = clock_us();
    if (now - r->metrics_us < METRICS_EVERY_US)
        return;
    r->metrics_us = now;
    for (int i = 0; i < r->request->n_lanes; i++)
        if (!r->lanes[i].ended)
            tell_metrics(r, i);
}

/* --- The dense answer that is not computed twice ------------------------------------------- */

/* Forced lanes are compared with lane 0's logits, which only computing it gives. */
static const struct dense_answer *cached_answer(struct round *r)
{
    if (!stack_is_dense(&r->request->lanes[0].stack))
        return NULL;
    r->key = dense_key_make(&r->prompt->context, &r->prompt->questions[r->question],
                            r->request->seed, &r->request->sampling, r->max_tokens);
    return r->request->forced ? NULL : dense_cache_find(&r->w->answers, &r->key);
}

static void keep_answer(struct round *r)
{
    const struct lane *l = &r->lanes[0];
    bool whole = l->finish == FINISH_STOP || l->finish == FINISH_LENGTH;
    if (!l->dense || l->replay || !whole || dense_cache_find(&r->w->answers, &r->key))
        return;
    dense_cache_put(&r->w->answers, &(struct dense_answer){.key = r->key,
                                                           .steps = l->steps,
                                                           .n_steps = l->n_steps,
                                                           .finish = l->finish,
                                                           .index_build_ms = l->index_build_ms});
}

/* --- Rounds ------------------------------------------------------------------------------- */

/* Steps a lane up to n_steps tokens.  A forced lane waits for lane 0, and ends with it. */
static void run_block(struct round *r, int lane, int n_steps)
{
    struct lane *l = &r->lanes[lane];
    const struct lane *base = r->request->forced && lane > 0 ? &r->lanes[0] : NULL;
    while (!l->ended && l->n_steps < n_steps) {
        if (worker_cancelled(r->w)) {
            lane_end(l, FINISH_CANCELLED);
            return;
        }
        if (base && l->n_steps == base->n_steps) {
            if (base->ended && base->finish == FINISH_ERROR)
                lane_fail(l, &(struct error){.text = "lane 0, which it follows, has failed"});
            else if (base->ended)
                lane_end(l, base->finish);
            return;
        }
        int n_most = n_steps - l->n_steps;
        if (base && base->n_steps - l->n_steps < n_most)
            n_most = base->n_steps - l->n_steps;
        lane_step(l, base, n_most);
    }
}

static bool all_ended(const struct round *r)
{
    for (int i = 0; i < r->request->n_lanes; i++)
        if (!r->lanes[i].ended)
            return false;
    return true;
}

static int most_steps(const struct round *r)
{
    int most = 0;
    for (int i = 0; i < r->request->n_lanes; i++)
        if (r->lanes[i].n_steps > most)
            most = r->lanes[i].n_steps;
    return most;
}

/* The device's time of a lane's latest decode step that is timed; 0: unknown. */
static int64_t latest_step_us(const struct lane *l)
{
    for (int i = l->n_steps - 1; i > 0; i--)
        if (!l->steps[i].probed)
            return l->steps[i].step_us;
    return 0;
}

/* Steps of the next turn, the same for all lanes that are still running. */
static int turn_steps(const struct round *r)
{
    int64_t slowest_us = 1;
    for (int i = 0; i < r->request->n_lanes; i++) {
        const struct lane *l = &r->lanes[i];
        int64_t us = l->ended || l->replay ? 0 : latest_step_us(l);
        slowest_us = us > slowest_us ? us : slowest_us;
    }
    int64_t steps = TURN_US / slowest_us;
    return steps < 1 ? 1 : steps < WORKER_BLOCK_STEPS ? (int)steps : WORKER_BLOCK_STEPS;
}

static void run_rounds(struct round *r)
{
    struct emitter *out = &r->w->out;
    uint64_t total = (uint64_t)r->max_tokens;
    tell_ended(r);
    for (int n_steps = FIRST_TURN_STEPS; !all_ended(r); n_steps += turn_steps(r)) {
        for (int i = 0; i < r->request->n_lanes; i++) {
            run_block(r, i, n_steps);
            tell_ended(r);
        }
        tell_running(r);
        if (n_steps == FIRST_TURN_STEPS)
            emit_phase(out, PHASE_DECODE, total);
        uint64_t done = (uint64_t)most_steps(r);
        emit_progress(out, PHASE_DECODE, done, total, (double)done / (double)total);
    }
}

void decode_question(struct worker *w, const struct request *request, const struct prompt *prompt,
                     int question, int max_tokens, struct lane_kept *kept)
{
    struct round *r = xcalloc(1, sizeof *r);
    r->w = w;
    r->request = request;
    r->prompt = prompt;
    r->question = question;
    r->max_tokens = max_tokens;
    r->metrics_us = clock_us();
    emit_phase(&w->out, PHASE_QUESTION, prompt->questions[question].n);
    const struct dense_answer *cached = cached_answer(r);
    for (int i = 0; i < request->n_lanes; i++)
        lane_open(&r->lanes[i], w, request, prompt, question, i, max_tokens, i == 0 ? cached : NULL,
                  &kept[i]);
    run_rounds(r);
    /* Once more, now that every lane's baseline is complete. */
    for (int i = 1; i < request->n_lanes; i++)
        tell_metrics(r, i);
    keep_answer(r);
    for (int i = 0; i < request->n_lanes; i++)
        lane_close(&r->lanes[i]);
    free(r);
}
