#include "engine/run/event.h"

#include <stdlib.h>
#include <string.h>

#include "engine/run/report.h"

const char *phase_name(enum phase phase)
{
    static const char *const names[] = {
        [PHASE_LOAD] = "load",         [PHASE_TOKENIZE] = "tokenize", [PHASE_PREFILL] = "prefill",
        [PHASE_QUESTION] = "question", [PHASE_DECODE] = "decode",
    };
    return names[phase];
}

const char *finish_name(enum finish finish)
{
    static const char *const names[] = {
        [FINISH_STOP] = "stop",
        [FINISH_LENGTH] = "length",
        [FINISH_CANCELLED] = "cancelled",
        [FINISH_ERROR] = "error",
    };
    return names[finish];
}

void event_free(struct event *e)
{
    switch (e->kind) {
    case EVENT_LOADED:
        model_info_free(&e->loaded);
        break;
    case EVENT_CONTEXT:
        free(e->context.notice);
        break;
    case EVENT_TOKEN:
        free(e->token.text);
        break;
    case EVENT_METRICS:
        lane_metrics_free(&e->metrics);
        break;
    case EVENT_DONE:
        free(e->done.error);
        break;
    case EVENT_EVIDENCE:
        evidence_free(e->evidence.evidence);
        break;
    case EVENT_PROGRESS:
    case EVENT_FINISHED:
    case EVENT_FAILED:
        break;
    }
    memset(e, 0, sizeof *e);
}
