#include "engine/run/emit.h"

#include <string.h>

#include "engine/run/clock.h"

enum { PROGRESS_EVERY_US = 50000, ETA_AFTER_US = 400000 };

void emit(struct emitter *out, struct event *e)
{
    e->at_us = clock_us() - out->engine_us;
    if (!queue_push(out->events, e))
        event_free(e);
}

void emit_phase(struct emitter *out, enum phase phase, uint64_t total)
{
    out->phase_us = clock_us();
    out->progress_us = 0;
    emit_progress(out, phase, 0, total, 0);
}

void emit_progress(struct emitter *out, enum phase phase, uint64_t done, uint64_t total,
                   double work_done)
{
    int64_t now = clock_us();
    if (now - out->progress_us < PROGRESS_EVERY_US && done != total)
        return;
    out->progress_us = now;
    struct event e = {.kind = EVENT_PROGRESS};
    struct progress *p = &e.progress;
    int64_t elapsed_us = now - out->phase_us;
    p->phase = phase;
    p->done = done;
    p->total = total;
    p->per_s = done && elapsed_us > 0 ? (double)done * 1e6 / (double)elapsed_us : 0;
    bool stable = elapsed_us >= ETA_AFTER_US && work_done > 0.02;
    p->eta_s = stable ? (double)elapsed_us * 1e-6 * (1 - work_done) / work_done : -1;
    emit(out, &e);
}

void emit_finished(struct emitter *out, bool cancelled)
{
    struct event e = {.kind = EVENT_FINISHED};
    e.finished.cancelled = cancelled;
    e.finished.wall_ms = (double)(clock_us() - out->command_us) * 1e-3;
    emit(out, &e);
}

void emit_failed(struct emitter *out, const struct error *err, bool device_lost)
{
    struct event e = {.kind = EVENT_FAILED};
    e.failed = *err;
    e.device_lost = device_lost;
    emit(out, &e);
}
