/* For tests of the engine: run one ask to its end and look at what it told. */
#ifndef ATTNSCOPE_TESTS_ENGINE_RUN_H
#define ATTNSCOPE_TESTS_ENGINE_RUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "engine/run/clock.h"
#include "engine/run/engine.h"
#include "engine/run/report.h"

/* What an ask told, in the order it told it. */
struct ask_result {
    struct report *report;
    int n_tokens[REQUEST_MAX_QUESTIONS][REQUEST_MAX_LANES];
    int n_done[REQUEST_MAX_QUESTIONS][REQUEST_MAX_LANES];
    int n_cached, n_finished, n_failed;
    bool device_lost; /* some event said so */
    int n_lost;       /* events that say that the device is lost */
    /* Tokens by index, none after its lane's done, nothing after the end; progress never falls. */
    bool in_order;
    uint64_t prefilled; /* tokens, as the last progress said */
    int64_t cancel_us;  /* from engine_cancel to the end; -1: not cancelled */
    enum phase last_phase;
};

/* When to cancel: so long after the phase was first seen. */
struct ask_cancel {
    enum phase phase;
    int after_ms;
};

static inline void ask_take(struct ask_result *a, const struct event *e)
{
    if (a->n_finished + a->n_failed)
        a->in_order = false;
    if (e->kind == EVENT_TOKEN) {
        const struct token_event *t = &e->token;
        if (t->index != a->n_tokens[t->question][t->lane]++ || a->n_done[t->question][t->lane])
            a->in_order = false;
        a->n_cached += t->cached;
    }
    if (e->kind == EVENT_DONE)
        a->n_done[e->done.question][e->done.lane]++;
    a->n_lost += e->kind == EVENT_DONE && e->done.device_lost;
    a->n_lost += e->kind == EVENT_FAILED && e->device_lost;
    a->device_lost = a->n_lost > 0;
    a->n_finished += e->kind == EVENT_FINISHED;
    a->n_failed += e->kind == EVENT_FAILED;
    if (e->kind == EVENT_PROGRESS) {
        const struct progress *p = &e->progress;
        a->last_phase = p->phase;
        if (p->done > p->total)
            a->in_order = false;
        if (p->phase == PHASE_PREFILL) {
            a->in_order = a->in_order && p->done >= a->prefilled;
            a->prefilled = p->done;
        }
    }
    report_apply(a->report, e);
}

/* Runs request (borrowed) to its end; gives up after two minutes without an event. */
static inline struct ask_result *ask_run(struct engine *e, const struct request *request,
                                         const struct ask_cancel *cancel)
{
    struct ask_result *a = calloc(1, sizeof *a);
    a->report = report_new(request, NULL);
    a->in_order = true;
    a->cancel_us = -1;
    int64_t phase_us = 0, cancelled_us = 0;
    struct event event;
    if (!engine_ask(e, request_copy(request)))
        return a;
    while (a->n_finished + a->n_failed == 0) {
        bool got = engine_wait(e, &event, cancel && !cancelled_us ? 1 : 120000);
        if (!got && (!cancel || cancelled_us))
            break;
        if (got) {
            ask_take(a, &event);
            event_free(&event);
        }
        if (cancel && !phase_us && a->last_phase == cancel->phase)
            phase_us = clock_us();
        if (phase_us && !cancelled_us && clock_us() - phase_us >= cancel->after_ms * 1000) {
            cancelled_us = clock_us();
            engine_cancel(e);
        }
    }
    if (cancelled_us)
        a->cancel_us = clock_us() - cancelled_us;
    return a;
}

static inline void ask_free(struct ask_result *a)
{
    report_free(a->report);
    free(a);
}

/* Waits for the end of a load; false if it failed, with the error. */
static inline bool load_run(struct engine *e, const char *folder, struct error *err)
{
    struct event event;
    if (!engine_load(e, folder))
        return false;
    while (engine_wait(e, &event, 120000)) {
        enum event_kind kind = event.kind;
        if (kind == EVENT_FAILED)
            *err = event.failed;
        event_free(&event);
        if (kind == EVENT_FAILED || kind == EVENT_FINISHED)
            return kind == EVENT_FINISHED;
    }
    return false;
}

#endif
