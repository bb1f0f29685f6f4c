/* The engine thread: owns the model, the device and every sequence; takes commands, gives events.
 *
 * The interface thread calls everything here.  Both queues are bounded; a full event queue makes
 * the engine wait, it never drops an event.  Every ask yields, for each question and lane, tokens
 * and exactly one EVENT_DONE, then one EVENT_FINISHED (or EVENT_FAILED before any lane began).
 * A load yields EVENT_LOADED and EVENT_FINISHED, only the latter when cancelled, or EVENT_FAILED.
 */
#ifndef ATTNSCOPE_ENGINE_RUN_ENGINE_H
#define ATTNSCOPE_ENGINE_RUN_ENGINE_H

#include <stdbool.h>

#include "engine/base/error.h"
#include "engine/run/event.h"
#include "engine/run/inspect.h"
#include "engine/run/request.h"
#include "kernels/backend.h"

struct engine_options {
    const char *backend; /* "auto", "cpu", "cuda" */
    int n_threads;       /* 0: all */
    enum dtype kv_dtype; /* DTYPE_BF16, or DTYPE_F32: exact f32 products too */
    enum device_isa isa;
};

struct engine;

/* Opens the device and starts the thread.  NULL on failure. */
struct engine *engine_start(const struct engine_options *options, struct error *err);
/* Cancels, waits for the thread, frees everything; events not yet taken are dropped. */
void engine_stop(struct engine *e);

/* Commands.  Each is one at a time: false while another runs.  A model that cannot be loaded leaves
 * the one before in place, unless both did not fit in memory. */
bool engine_load(struct engine *e, const char *folder);
/* Takes the request (freed by the engine) also when it returns false. */
bool engine_ask(struct engine *e, struct request *request);
/* Tells EVENT_EVIDENCE (unless it is cancelled), then EVENT_FINISHED, or EVENT_FAILED.  Takes the
 * inspection, heap memory freed by the engine, also when it returns false. */
bool engine_inspect(struct engine *e, struct inspection *inspection);
/* Asks the running command to end: within 200 ms, with what it has. */
void engine_cancel(struct engine *e);
bool engine_busy(const struct engine *e);

/* Readable while events wait: for poll(). */
int engine_fd(const struct engine *e);
/* Takes the next event; false if there is none. */
bool engine_poll(struct engine *e, struct event *out);
/* As engine_poll, but waits up to timeout_ms (-1: for ever) for one. */
bool engine_wait(struct engine *e, struct event *out, int timeout_ms);

#endif
