/* The engine thread: one command at a time from the command queue, everything it does told through
 * the event queue. */
#include "engine/run/engine.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/run/clock.h"
#include "engine/run/queue.h"
#include "engine/run/report.h"
#include "engine/run/run.h"
#include "engine/run/worker.h"

enum { N_COMMANDS = 2, N_EVENTS = 512 };

struct command {
    enum { COMMAND_LOAD, COMMAND_ASK, COMMAND_INSPECT } kind;
    char *folder;                  /* COMMAND_LOAD, owned */
    struct request *request;       /* COMMAND_ASK, owned */
    struct inspection *inspection; /* COMMAND_INSPECT, owned */
};

struct engine {
    pthread_t thread;
    struct queue *commands; /* struct command */
    struct queue *events;   /* struct event */
    atomic_bool cancel;     /* the running command is to end */
    atomic_bool busy;       /* a command was sent and has not ended */
    struct worker worker;   /* the engine thread's, once it runs */
};

/* --- The engine thread -------------------------------------------------------------------- */

static void command_free(struct command *c)
{
    free(c->folder);
    if (c->request)
        request_free(c->request);
    free(c->request);
    if (c->inspection)
        inspection_free(c->inspection);
    free(c->inspection);
}

static void tell_loaded(struct worker *w)
{
    struct event e = {.kind = EVENT_LOADED};
    model_info_copy(&e.loaded, &w->loaded->info);
    emit(&w->out, &e);
}

static bool run_command(struct engine *e, const struct command *c, struct error *err)
{
    struct worker *w = &e->worker;
    if (c->kind == COMMAND_ASK)
        return run_ask(w, c->request, err);
    if (c->kind == COMMAND_INSPECT)
        return inspect(w, c->inspection, err);
    if (!worker_load(w, c->folder, &e->cancel, err))
        return worker_cancelled(w); /* a cancelled load has not failed */
    tell_loaded(w);
    return true;
}

static void *engine_main(void *arg)
{
    struct engine *e = arg;
    struct worker *w = &e->worker;
    struct command c;
    while (queue_wait(e->commands, &c, -1)) {
        struct error err = {0};
        w->out.command_us = clock_us();
        bool ok = run_command(e, &c, &err);
        bool cancelled = worker_cancelled(w);
        if (!ok)
            worker_sync_after(w, &err);
        command_free(&c);
        /* Idle before the last event is told, so that who sees it can send the next command. */
        atomic_store(&e->busy, false);
        if (ok)
            emit_finished(&w->out, cancelled);
        else
            emit_failed(&w->out, &err, worker_device_lost(w));
    }
    worker_unload(w);
    return NULL;
}

/* --- The interface thread ------------------------------------------------------------------ */

struct engine *engine_start(const struct engine_options *options, struct error *err)
{
    struct engine *e = xcalloc(1, sizeof *e);
    struct worker *w = &e->worker;
    struct device_options device = {
        .n_threads = options->n_threads,
        .exact = options->kv_dtype == DTYPE_F32,
        .isa = options->isa,
    };
    char why[512] = "";
    w->kv_dtype = options->kv_dtype;
    w->cancel = &e->cancel;
    w->dev = backend_open(options->backend ? options->backend : "auto", &device, &w->backend, why,
                          sizeof why);
    if (!w->dev) {
        fail_code(err, EXIT_CODE_NO_DEVICE, "no device: %s", why);
        goto fail;
    }
    static const char gpu[] = "cuda: ";
    bool named = strncmp(why, gpu, strlen(gpu)) == 0;
    snprintf(w->no_gpu, sizeof w->no_gpu, "%s", why + (named ? strlen(gpu) : 0));
    e->commands = queue_open(N_COMMANDS, sizeof(struct command), err);
    e->events = e->commands ? queue_open(N_EVENTS, sizeof(struct event), err) : NULL;
    if (!e->events)
        goto fail;
    w->out.events = e->events;
    w->out.engine_us = clock_us();
    int code = pthread_create(&e->thread, NULL, engine_main, e);
    if (code == 0)
        return e;
    fail_code(err, EXIT_CODE_RUNTIME, "cannot start the engine thread: %s", strerror(code));

fail:
    if (w->dev)
        w->backend->close(w->dev);
    queue_close(e->events);
    queue_close(e->commands);
    free(e);
    return NULL;
}

void engine_stop(struct engine *e)
{
    if (!e)
        return;
    atomic_store(&e->cancel, true);
    queue_stop(e->events);
    queue_stop(e->commands);
    pthread_join(e->thread, NULL);
    struct event event;
    while (queue_take(e->events, &event))
        event_free(&event);
    e->worker.backend->close(e->worker.dev);
    queue_close(e->events);
    queue_close(e->commands);
    free(e);
}

/* Takes c.  A cancel sent after this ends it, one sent before does not. */
static bool send(struct engine *e, struct command *c)
{
    bool idle = false;
    if (!atomic_compare_exchange_strong(&e->busy, &idle, true)) {
        command_free(c);
        return false;
    }
    atomic_store(&e->cancel, false);
    return queue_push(e->commands, c);
}

bool engine_load(struct engine *e, const char *folder)
{
    struct command c = {.kind = COMMAND_LOAD, .folder = xstrdup(folder)};
    return send(e, &c);
}

bool engine_ask(struct engine *e, struct request *request)
{
    struct command c = {.kind = COMMAND_ASK, .request = request};
    return send(e, &c);
}

bool engine_inspect(struct engine *e, struct inspection *inspection)
{
    struct command c = {.kind = COMMAND_INSPECT, .inspection = inspection};
    return send(e, &c);
}

void engine_cancel(struct engine *e)
{
    atomic_store(&e->cancel, true);
}

bool engine_busy(const struct engine *e)
{
    return atomic_load(&e->busy);
}

int engine_fd(const struct engine *e)
{
    return queue_fd(e->events);
}

bool engine_poll(struct engine *e, struct event *out)
{
    return queue_take(e->events, out);
}

bool engine_wait(struct engine *e, struct event *out, int timeout_ms)
{
    return queue_wait(e->events, out, timeout_ms);
}
