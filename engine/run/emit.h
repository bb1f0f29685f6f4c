/* The engine thread's way out: stamps events and moves them into the event queue. */
#ifndef ATTNSCOPE_ENGINE_RUN_EMIT_H
#define ATTNSCOPE_ENGINE_RUN_EMIT_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/run/event.h"
#include "engine/run/queue.h"

struct emitter {
    struct queue *events; /* borrowed */
    int64_t engine_us;    /* monotonic: when the engine started */
    int64_t command_us;   /* monotonic: when the running command started */
    int64_t phase_us;     /* monotonic: when its phase started */
    int64_t progress_us;  /* monotonic: when progress was told last */
};

/* Stamps e and moves it into the queue, waiting for room; once the engine stops it is freed. */
void emit(struct emitter *out, struct event *e);
/* Begins a phase: its rate and ETA count from here, and its first progress is told at once. */
void emit_phase(struct emitter *out, enum phase phase, uint64_t total);
/* Tells how far the phase is, at most ~20 times a second (always when done == total).
 * work_done in 0..1 is the share of the work, from which the ETA is taken: prefill slows as it
 * goes, so its share of tokens would promise too much. */
void emit_progress(struct emitter *out, enum phase phase, uint64_t done, uint64_t total,
                   double work_done);
/* The command has ended, well or badly. */
void emit_finished(struct emitter *out, bool cancelled);
void emit_failed(struct emitter *out, const struct error *err, bool device_lost);

#endif
