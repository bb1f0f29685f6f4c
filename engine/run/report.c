#include "engine/run/report.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"

/* --- Copies of what events carry ---------------------------------------------------------- */

static char *copy_or_null(const char *s)
{
    return s ? xstrdup(s) : NULL;
}

void model_info_copy(struct model_info *to, const struct model_info *from)
{
    *to = *from;
    to->path = copy_or_null(from->path);
    to->name = copy_or_null(from->name);
    to->device = copy_or_null(from->device);
    to->no_gpu = copy_or_null(from->no_gpu);
    to->template_source = copy_or_null(from->template_source);
    to->warnings = copy_or_null(from->warnings);
}

void model_info_free(struct model_info *m)
{
    free(m->path);
    free(m->name);
    free(m->device);
    free(m->no_gpu);
    free(m->template_source);
    free(m->warnings);
    memset(m, 0, sizeof *m);
}

void lane_metrics_copy(struct lane_metrics *to, const struct lane_metrics *from)
{
    *to = *from;
    to->divergence.base_text = copy_or_null(from->divergence.base_text);
    to->divergence.lane_text = copy_or_null(from->divergence.lane_text);
    if (from->layers) {
        to->layers = xcalloc((size_t)from->n_layers, sizeof *to->layers);
        memcpy(to->layers, from->layers, (size_t)from->n_layers * sizeof *to->layers);
    }
}

void lane_metrics_free(struct lane_metrics *m)
{
    free(m->divergence.base_text);
    free(m->divergence.lane_text);
    free(m->layers);
    memset(m, 0, sizeof *m);
}

/* --- The report --------------------------------------------------------------------------- */

static size_t lane_count(const struct report *r)
{
    return (size_t)r->request->n_questions * (size_t)r->request->n_lanes;
}

/* A lane of which nothing is known yet: no figure may be taken for a measured one. */
static void metrics_unknown(struct lane_metrics *m, int question, int lane)
{
    m->question = question;
    m->lane = lane;
    m->density = m->read_density = m->jaccard = -1;
    m->divergence.index = m->divergence.base_id = m->divergence.lane_id = -1;
    m->agreement = m->mean_kl = m->recall_mean = m->recall_worst = -1;
}

struct report *report_new(const struct request *request, const struct model_info *model)
{
    struct report *r = xcalloc(1, sizeof *r);
    r->request = request_copy(request);
    if (model)
        model_info_copy(&r->model, model);
    r->lanes = xcalloc(lane_count(r) + 1, sizeof *r->lanes);
    for (int q = 0; q < request->n_questions; q++)
        for (int lane = 0; lane < request->n_lanes; lane++)
            metrics_unknown(&report_lane(r, q, lane)->metrics, q, lane);
    return r;
}

void report_free(struct report *r)
{
    if (!r)
        return;
    for (size_t i = 0; i < lane_count(r); i++) {
        struct report_lane *lane = &r->lanes[i];
        buf_free(&lane->answer);
        free(lane->tokens);
        lane_metrics_free(&lane->metrics);
        free(lane->error);
    }
    free(r->lanes);
    free(r->context.notice);
    model_info_free(&r->model);
    request_free(r->request);
    free(r->request);
    free(r);
}

struct report_lane *report_lane(struct report *r, int question, int lane)
{
    assert(question >= 0 && question < r->request->n_questions);
    assert(lane >= 0 && lane < r->request->n_lanes);
    return &r->lanes[question * r->request->n_lanes + lane];
}

/* NULL for a question or lane that the request does not have, as a damaged log may name. */
static struct report_lane *lane_of(struct report *r, int question, int lane)
{
    if (question < 0 || question >= r->request->n_questions || lane < 0 ||
        lane >= r->request->n_lanes)
        return NULL;
    return report_lane(r, question, lane);
}

static void apply_token(struct report *r, const struct token_event *t)
{
    struct report_lane *lane = lane_of(r, t->question, t->lane);
    if (!lane)
        return;
    if (t->n_text)
        buf_append(&lane->answer, t->text, t->n_text);
    lane->tokens =
        array_grow(lane->tokens, &lane->capacity, lane->n_tokens + 1, sizeof *lane->tokens);
    lane->tokens[lane->n_tokens++] = (struct report_token){
        .id = t->id,
        .text_end = lane->answer.len,
        .logprob = t->logprob,
        .step_us = t->step_us,
        .attention_us = t->attention_us,
        .at_us = t->at_us,
    };
}

static void apply_done(struct report *r, const struct done_event *done)
{
    struct report_lane *lane = lane_of(r, done->question, done->lane);
    if (!lane)
        return;
    lane->done = true;
    lane->finish = done->finish;
    free(lane->error);
    lane->error = copy_or_null(done->error);
}

static void apply_metrics(struct report *r, const struct lane_metrics *m)
{
    struct report_lane *lane = lane_of(r, m->question, m->lane);
    if (!lane)
        return;
    lane_metrics_free(&lane->metrics);
    lane_metrics_copy(&lane->metrics, m);
}

void report_apply(struct report *r, const struct event *e)
{
    switch (e->kind) {
    case EVENT_LOADED:
        model_info_free(&r->model);
        model_info_copy(&r->model, &e->loaded);
        break;
    case EVENT_CONTEXT:
        free(r->context.notice);
        r->context = e->context;
        r->context.notice = copy_or_null(e->context.notice);
        break;
    case EVENT_TOKEN:
        apply_token(r, &e->token);
        break;
    case EVENT_METRICS:
        apply_metrics(r, &e->metrics);
        break;
    case EVENT_DONE:
        apply_done(r, &e->done);
        break;
    case EVENT_FINISHED:
        r->finished = true;
        r->cancelled = e->finished.cancelled;
        break;
    case EVENT_FAILED:
        r->finished = true;
        r->error = e->failed;
        break;
    case EVENT_EVIDENCE:
    case EVENT_PROGRESS:
        break;
    }
}
