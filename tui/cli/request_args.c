/* The options that describe a request: see the header. */
#include "tui/cli/request_args.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/memory.h"
#include "presets/preset.h"
#include "tui/cli/options.h"

#define MAX_CONTEXT_BYTES (UINT64_C(1) << 30)

static bool read_context(struct request_args *a, const char *path, struct error *err)
{
    struct buf text = {0};
    bool ok = strcmp(path, "-") == 0
                  ? file_read_fd(&text, STDIN_FILENO, "standard input", MAX_CONTEXT_BYTES, err)
                  : file_read(&text, path, MAX_CONTEXT_BYTES, err);
    if (!ok) {
        buf_free(&text);
        return false;
    }
    free(a->request->context);
    a->request->n_context = text.len;
    a->request->context = buf_take(&text);
    a->context_origin = path;
    return true;
}

static bool add_stack(struct request_args *a, const char *spec, bool baseline, struct error *err)
{
    struct stack stack;
    if (!preset_stack(&stack, spec, err))
        return false;
    if (!baseline)
        return request_add_lane(a->request, stack.name, &stack, err);
    struct request_lane *lane = &a->request->lanes[0];
    lane->stack = stack;
    snprintf(lane->name, sizeof lane->name, "%s", stack.name[0] ? stack.name : spec);
    a->baseline_given = true;
    return true;
}

/* Options that set one number of the request. */
static bool set_number(struct request *r, const char *name, const char *value, bool *ok,
                       struct error *err)
{
    int64_t n = 0;
    double real = 0;
    if (strcmp(name, "max-tokens") == 0) {
        *ok = cli_int(name, value, 1, 1 << 20, &n, err);
        r->max_tokens = (int)n;
    } else if (strcmp(name, "max-context") == 0) {
        *ok = cli_int(name, value, 1, 1 << 30, &n, err);
        r->max_context = (int)n;
        r->keep_given = true;
    } else if (strcmp(name, "seed") == 0) {
        *ok = cli_int(name, value, 0, INT64_MAX, &n, err);
        r->seed = (uint64_t)n;
    } else if (strcmp(name, "temperature") == 0) {
        *ok = cli_real(name, value, 0, 100, &real, err);
        r->sampling.temperature = (float)real;
    } else if (strcmp(name, "top-p") == 0) {
        *ok = cli_real(name, value, 0, 1, &real, err);
        if (*ok && real == 0)
            *ok = fail(err, "--top-p %s: expected a number above 0, up to 1", value);
        r->sampling.top_p = (float)real;
    } else {
        return false;
    }
    return true;
}

bool request_args_option(struct request_args *a, const char *name, const char *value, bool *ok,
                         struct error *err)
{
    static const char *const setups[] = {"B", "A", NULL};
    static const char *const keeps[] = {"head", "tail", "middle", NULL};
    struct request *r = a->request;
    int choice = 0;
    *ok = true;
    if (set_number(r, name, value, ok, err))
        return true;
    if (strcmp(name, "context") == 0) {
        a->context_origin = value; /* read later: an unreadable file is no mistake of usage */
    } else if (strcmp(name, "sample") == 0) {
        a->sample = value;
    } else if (strcmp(name, "question") == 0) {
        *ok = request_add_question(r, value, err);
    } else if (strcmp(name, "stack") == 0) {
        *ok = add_stack(a, value, false, err);
    } else if (strcmp(name, "baseline") == 0) {
        *ok = add_stack(a, value, true, err);
    } else if (strcmp(name, "setup") == 0) {
        *ok = cli_choice(name, value, setups, &choice, err);
        r->setup = choice ? SETUP_A : SETUP_B;
    } else if (strcmp(name, "keep") == 0) {
        *ok = cli_choice(name, value, keeps, &choice, err);
        r->keep = (enum keep)choice;
        r->keep_given = true;
    } else if (strcmp(name, "answer-prefix") == 0) {
        free(r->answer_prefix);
        r->answer_prefix = xstrdup(value);
    } else if (strcmp(name, "forced") == 0) {
        r->forced = true;
    } else if (strcmp(name, "no-probe") == 0) {
        r->probe = false;
    } else {
        return false;
    }
    return true;
}

/* Small enough to leave something out of the shortest sample. */
static const char *const sample_stacks[] = {"sink:4,local:16", "sink:4,local:8,oracle-topk:20%"};

static bool take_sample(struct request_args *a, struct error *err)
{
    struct request *r = a->request;
    struct sample sample;
    if (!preset_sample(&sample, a->sample, err))
        return false;
    bool ok = true;
    if (!r->context) {
        r->context = sample.context;
        r->n_context = sample.n_context;
        sample.context = NULL;
    }
    bool own_questions = r->n_questions > 0, own_stacks = r->n_lanes > 1;
    for (size_t i = 0; ok && !own_questions && i < sample.n_questions; i++)
        ok = request_add_question(r, sample.questions[i], err);
    for (size_t i = 0; ok && !own_stacks && i < sizeof sample_stacks / sizeof *sample_stacks; i++)
        ok = add_stack(a, sample_stacks[i], false, err);
    sample_free(&sample);
    return ok;
}

bool request_args_complete(struct request_args *a, struct error *err)
{
    if (a->context_origin && !read_context(a, a->context_origin, err))
        return false;
    return !a->sample || take_sample(a, err);
}

void request_args_init(struct request_args *a)
{
    *a = (struct request_args){.request = xcalloc(1, sizeof *a->request)};
    request_init(a->request);
}

void request_args_free(struct request_args *a)
{
    request_free(a->request);
    free(a->request);
}
