/* A report: what a run's events add up to, for screens, JSON output, logs and exports.  Built by
 * applying events in order, live or from a session log. */
#ifndef ATTNSCOPE_ENGINE_RUN_REPORT_H
#define ATTNSCOPE_ENGINE_RUN_REPORT_H

#include "engine/base/buf.h"
#include "engine/base/json.h"
#include "engine/run/event.h"
#include "engine/run/request.h"

struct report_token {
    int32_t id;
    size_t text_end; /* answer.len after this token: its text is [previous end, text_end) */
    float logprob;
    int64_t step_us, attention_us;
    int64_t at_us;
};

struct report_lane {
    struct buf answer;           /* raw text, special tokens left out */
    struct report_token *tokens; /* [n_tokens] */
    size_t n_tokens, capacity;
    struct lane_metrics metrics; /* latest; strings owned */
    bool done;
    enum finish finish;
    char *error;
};

struct report {
    struct model_info model; /* owned copy */
    struct context_info context;
    struct request *request;   /* owned copy */
    struct report_lane *lanes; /* [n_questions * n_lanes], question-major */
    bool finished, cancelled;
    struct error error; /* EVENT_FAILED: its text is not empty */
};

/* For the given request (copied) on the given model (copied; may be NULL). */
struct report *report_new(const struct request *request, const struct model_info *model);
void report_free(struct report *r);
/* Applies one event of the run; the event stays the caller's. */
void report_apply(struct report *r, const struct event *e);
struct report_lane *report_lane(struct report *r, int question, int lane);

void model_info_copy(struct model_info *to, const struct model_info *from);
void model_info_free(struct model_info *m);
void lane_metrics_copy(struct lane_metrics *to, const struct lane_metrics *from);
void lane_metrics_free(struct lane_metrics *m);

/* The object that `ask --json` prints (docs: command line). */
struct json *report_to_json(const struct report *r);
/* The comparison as people read it: per question a table of lanes and the answers, filtered for a
 * terminal, width columns wide. */
void report_write_text(const struct report *r, int width, bool ascii, struct buf *out);

#endif
