/* What panes and actions look up in the state. */
#include <math.h>
#include <string.h>

#include "tui/app.h"

static bool same_run(const struct app *app, const struct question *q, const struct request *r)
{
    return q->context_version == app->context_version && r->forced == app->forced &&
           r->setup == app->setup;
}

struct report_lane *app_result(const struct app *app, int question, int lane, bool *stale,
                               int *report_index)
{
    *stale = false;
    if (question < 0 || question >= app->n_questions || lane >= app->lanes.n)
        return NULL;
    struct question *q = &app->questions[question];
    if (!q->report || !q->report->request)
        return NULL;
    const struct request *r = q->report->request;
    const struct stack *stack = &app->lanes.lane[lane].stack;
    int at = -1;
    if (lane < r->n_lanes && stack_equal(&r->lanes[lane].stack, stack))
        at = lane;
    for (int i = 1; lane > 0 && at < 0 && i < r->n_lanes; i++)
        if (stack_equal(&r->lanes[i].stack, stack))
            at = i;
    *stale = at < 0 || !same_run(app, q, r);
    if (at < 0)
        at = lane < r->n_lanes ? lane : -1;
    if (at < 0)
        return NULL;
    if (report_index)
        *report_index = at;
    return report_lane(q->report, 0, at);
}

const char *app_notice(const struct app *app, int width, enum role *role)
{
    *role = app->message ? app->message_role : ROLE_ERROR;
    if (app->message || !app->lost)
        return app->message;
    return (int)strlen(app->lost) <= width
               ? app->lost
               : "The GPU failed: R restarts on this session; reading and saving still work.";
}

int app_n_keys(const struct app *app)
{
    return app->context_info.n_tokens;
}

int app_figures_lane(const struct app *app)
{
    return app->lanes.current > 0 || app->lanes.n < 2 ? app->lanes.current : 1;
}

double app_tokens_per_s(const struct report_lane *r)
{
    if (!r || r->metrics.step_ms_per_token <= 0)
        return 0;
    return 1000 / r->metrics.step_ms_per_token;
}
