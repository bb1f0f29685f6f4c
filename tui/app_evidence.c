/* Evidence for the Heat and Context screens: which step is looked at, and asking the engine for it
 * while it has nothing else to do. */
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "tui/app.h"

enum { HEAVY_KEYS = 64 }; /* a key that is not kept is missed if it is among so many heaviest */

static const struct question *current_question(const struct app *app)
{
    return app->current_question < app->n_questions ? &app->questions[app->current_question] : NULL;
}

static const struct report_lane *finished_lane(const struct app *app, int lane, int *at)
{
    bool stale = false;
    const struct report_lane *r = app_result(app, app->current_question, lane, &stale, at);
    return r && r->done && r->finish != FINISH_ERROR && r->n_tokens > 0 ? r : NULL;
}

int app_n_steps(const struct app *app, int lane)
{
    int at = 0;
    const struct report_lane *r = finished_lane(app, lane, &at);
    return r ? (int)r->n_tokens : 0;
}

/* The step that shows most by itself: where the answers part, else the last. */
static int step_by_itself(const struct report_lane *r)
{
    int first = r->metrics.divergence.index, last = (int)r->n_tokens - 1;
    return first >= 0 && first <= last ? first : last;
}

static bool is_of_model(const struct app *app, const struct question *q)
{
    const char *a = q->report->model.path, *b = app->model.path;
    return app->has_model && (a == b || (a && b && !strcmp(a, b)));
}

bool app_evidence_id(const struct app *app, int lane, struct evidence_id *out)
{
    const struct question *q = current_question(app);
    const struct looking *look = &app->looking;
    int at = 0;
    const struct report_lane *r = finished_lane(app, lane, &at);
    if (!q || !r || !q->run || app->running == app->current_question || !is_of_model(app, q))
        return false;
    int last = (int)r->n_tokens - 1;
    *out = (struct evidence_id){
        .run = q->run,
        .lane = at,
        .step = look->step == STEP_BY_ITSELF ? step_by_itself(r)
                : look->step > last          ? last
                                             : look->step,
        .layer = look->layer,
        .head = look->head,
    };
    return true;
}

const struct evidence *app_evidence(const struct app *app, int lane, bool any_head)
{
    struct evidence_id id;
    return app_evidence_id(app, lane, &id) ? evidence_shelf_find(&app->looking.shelf, &id, any_head)
                                           : NULL;
}

int app_difference_lane(const struct app *app)
{
    int lane = app_figures_lane(app);
    if (lane == 0)
        return -1;
    return app->lanes.n > 2 ? lane % (app->lanes.n - 1) + 1 : 0;
}

/* --- Asking --------------------------------------------------------------------------------- */

/* The run's request, less what is not looked at. */
static struct inspection *make_inspection(const struct question *q, const struct evidence_id *id,
                                          uint64_t tag)
{
    const struct request *asked = q->report->request;
    const struct report_lane *fed = report_lane(q->report, 0, asked->forced ? 0 : id->lane);
    struct inspection *i = xcalloc(1, sizeof *i);
    i->tag = tag;
    i->request = request_copy(asked);
    i->request->lanes[0] = asked->lanes[id->lane];
    i->request->n_lanes = 1;
    i->fed = xcalloc(fed->n_tokens + 1, sizeof *i->fed);
    for (size_t t = 0; t < fed->n_tokens; t++)
        i->fed[i->n_fed++] = fed->tokens[t].id;
    i->step = id->step;
    i->layer = id->layer;
    i->head = id->head;
    return i;
}

/* What the screen lacks; false: nothing. */
static bool find_wanted(const struct app *app, struct evidence_id *out)
{
    const struct looking *look = &app->looking;
    bool any_head = app->screen == SCREEN_HEAT;
    int lanes[2] = {app_figures_lane(app),
                    look->difference && any_head ? app_difference_lane(app) : -1};
    if (app->screen == SCREEN_ANSWERS)
        return false;
    for (int i = 0; i < 2 && lanes[i] >= 0; i++)
        if (app_evidence_id(app, lanes[i], out) &&
            !evidence_shelf_find(&look->shelf, out, any_head) &&
            !(look->why && evidence_id_equal(out, &look->failed)))
            return true;
    return false;
}

static void ask_for_evidence(struct app *app, const struct evidence_id *wanted)
{
    struct looking *look = &app->looking;
    uint64_t tag = ++app->n_inspections;
    if (!engine_inspect(app->engine, make_inspection(current_question(app), wanted, tag)))
        return;
    look->tag = tag;
    look->trying = false;
    look->coming = *wanted;
}

/* --- Trying the stack ------------------------------------------------------------------------- */

/* The stack, and the dense answer that it can be tried on; false: there is none. */
static bool find_trial(const struct app *app, struct trial *out)
{
    const struct question *q = current_question(app);
    int lane = app_figures_lane(app);
    const struct stack *stack = &app->lanes.lane[lane].stack;
    struct error err;
    if (!q || !q->run || !q->report || app->running >= 0 || !is_of_model(app, q) ||
        q->context_version != app->context_version || stack_is_dense(stack) ||
        !stack_is_dense(&q->report->request->lanes[0].stack) || !app_stack_check(app, stack, &err))
        return false;
    const struct report_lane *dense = report_lane(q->report, 0, 0);
    if (!dense->done || dense->finish == FINISH_ERROR || dense->n_tokens == 0)
        return false;
    int last = (int)dense->n_tokens - 1, step = app->looking.step;
    *out = (struct trial){.stack = *stack, .run = q->run};
    out->step = step == STEP_BY_ITSELF ? (last > 0) : step > last ? last : step;
    return true;
}

static bool same_trial(const struct trial *a, const struct trial *b)
{
    return a->run == b->run && a->step == b->step && stack_equal(&a->stack, &b->stack);
}

bool app_trial_is_current(const struct app *app)
{
    struct trial now;
    return find_trial(app, &now) && same_trial(&now, &app->looking.trial);
}

static void ask_for_trial(struct app *app, const struct trial *wanted)
{
    struct looking *look = &app->looking;
    struct evidence_id dense = {.run = wanted->run, .step = wanted->step, .layer = -1};
    uint64_t tag = ++app->n_inspections;
    struct inspection *i = make_inspection(current_question(app), &dense, tag);
    i->request->lanes[0].stack = wanted->stack;
    i->on_dense_path = true;
    if (!engine_inspect(app->engine, i))
        return;
    look->tag = tag;
    look->trying = true;
    look->coming_trial = *wanted;
    look->asked_ms = app->now_ms;
}

static double mean_of(const struct evidence *e, enum evidence_figure figure)
{
    double sum = 0;
    int n = e->n_layers * e->n_heads;
    for (int i = 0; i < n; i++)
        sum += e->figures[figure][i];
    return sum / n;
}

static void take_trial(struct app *app, const struct evidence *e)
{
    struct trial *t = &app->looking.trial;
    *t = app->looking.coming_trial;
    t->recall = mean_of(e, EVIDENCE_RECALL);
    t->density = mean_of(e, EVIDENCE_DENSITY);
    t->agreement = mean_of(e, EVIDENCE_AGREEMENT);
    t->ms = (double)(app->now_ms - app->looking.asked_ms);
}

/* --- The engine's time ------------------------------------------------------------------------ */

void app_look(struct app *app)
{
    struct evidence_id wanted;
    struct trial trial;
    if (!app->engine || !app->has_model || app_needs_restart(app) || app->running >= 0 ||
        app_busy(app))
        return;
    if (find_wanted(app, &wanted))
        ask_for_evidence(app, &wanted);
    else if (find_trial(app, &trial) && !same_trial(&trial, &app->looking.trial))
        ask_for_trial(app, &trial);
}

void app_stop_looking(struct app *app)
{
    struct event e;
    if (!app->looking.tag)
        return;
    engine_cancel(app->engine);
    while (app->looking.tag && engine_wait(app->engine, &e, -1)) {
        app_apply_event(app, &e);
        event_free(&e);
    }
}

bool app_apply_inspection(struct app *app, struct event *e)
{
    struct looking *look = &app->looking;
    if (!look->tag)
        return false;
    switch (e->kind) {
    case EVENT_EVIDENCE:
        if (look->trying) {
            take_trial(app, e->evidence.evidence);
        } else {
            evidence_shelf_put(&look->shelf, &look->coming, e->evidence.evidence);
            e->evidence.evidence = NULL;
        }
        return true;
    case EVENT_FAILED:
        if (!look->trying) {
            free(look->why);
            look->why = xstrdup(e->failed.text);
        }
        if (look->trying) {
            look->trial = look->coming_trial;
            look->trial.failed = true;
        } else {
            look->failed = look->coming;
        }
        look->tag = 0;
        if (e->device_lost)
            app_device_lost(app, e->failed.text);
        return true;
    case EVENT_FINISHED:
        look->tag = 0;
        return true;
    default:
        return true; /* progress of a context that is read again */
    }
}

/* --- The cursor among the keys ---------------------------------------------------------------- */

int app_looked_key(const struct app *app, const struct evidence *e)
{
    int key = app->looking.key, heaviest[HEAVY_KEYS];
    if (key >= 0)
        return key < e->n_keys ? key : e->n_keys - 1;
    int n = evidence_heaviest(e, HEAVY_KEYS, heaviest);
    for (int i = 0; i < n; i++)
        if (!e->head.kept_by[heaviest[i]])
            return heaviest[i];
    return n > 0 ? heaviest[0] : 0;
}

void app_looking_free(struct app *app)
{
    evidence_shelf_clear(&app->looking.shelf);
    free(app->looking.search);
    free(app->looking.why);
}
