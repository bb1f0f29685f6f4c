#include "engine/run/request.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/memory.h"

void request_init(struct request *r)
{
    memset(r, 0, sizeof *r);
    r->setup = SETUP_B;
    r->keep = KEEP_HEAD;
    r->probe = true;
    r->sampling.top_p = 1;
    r->n_lanes = 1;
    snprintf(r->lanes[0].name, sizeof r->lanes[0].name, "dense");
}

void request_free(struct request *r)
{
    free(r->context);
    for (int i = 0; i < r->n_questions; i++)
        free(r->questions[i]);
    free(r->answer_prefix);
    memset(r, 0, sizeof *r);
}

bool request_add_question(struct request *r, const char *question, struct error *err)
{
    if (r->n_questions == REQUEST_MAX_QUESTIONS)
        return fail_code(err, EXIT_CODE_USAGE,
                         "a request holds at most %d questions; ask the rest in another",
                         REQUEST_MAX_QUESTIONS);
    r->questions[r->n_questions++] = xstrdup(question);
    return true;
}

bool request_add_lane(struct request *r, const char *name, const struct stack *stack,
                      struct error *err)
{
    if (r->n_lanes == REQUEST_MAX_LANES)
        return fail_code(err, EXIT_CODE_USAGE,
                         "a request holds at most %d lanes, the baseline included; leave some out",
                         REQUEST_MAX_LANES);
    struct request_lane *lane = &r->lanes[r->n_lanes++];
    lane->stack = *stack;
    if (name && *name) {
        snprintf(lane->name, sizeof lane->name, "%s", name);
        return true;
    }
    struct buf short_form = {0};
    stack_write_short(stack, &short_form);
    snprintf(lane->name, sizeof lane->name, "%s", short_form.data ? short_form.data : "dense");
    buf_free(&short_form);
    return true;
}

struct request *request_copy(const struct request *r)
{
    struct request *copy = xcalloc(1, sizeof *copy);
    *copy = *r;
    if (r->context) {
        copy->context = xcalloc(1, r->n_context + 1);
        memcpy(copy->context, r->context, r->n_context);
    }
    for (int i = 0; i < r->n_questions; i++)
        copy->questions[i] = xstrdup(r->questions[i]);
    copy->answer_prefix = r->answer_prefix ? xstrdup(r->answer_prefix) : NULL;
    return copy;
}
