#include "engine/run/run.h"

#include "engine/base/memory.h"
#include "engine/run/context.h"
#include "engine/run/decode.h"
#include "engine/run/inspect.h"
#include "engine/run/memory_need.h"
#include "engine/run/prompt.h"

enum { DEFAULT_MAX_TOKENS = 128 };

static bool check_request(const struct worker *w, const struct request *r, struct error *err)
{
    if (!w->loaded)
        return fail_code(err, EXIT_CODE_USAGE, "no model is loaded; load one before asking");
    if (r->n_lanes < 1)
        return fail_code(err, EXIT_CODE_USAGE, "the request has no lane; add one");
    if (r->max_tokens < 0 || r->max_context < 0)
        return fail_code(err, EXIT_CODE_USAGE,
                         "--max-tokens %d and --max-context %d must be 0 (default) or more",
                         r->max_tokens, r->max_context);
    for (int i = 0; i < r->n_lanes; i++) {
        const struct stack *stack = &r->lanes[i].stack;
        if (!stack_check(stack, err) ||
            !stack_check_layers(stack, w->loaded->model->config.n_layers, err)) {
            fail_prefix(err, "lane %d", i);
            return false;
        }
    }
    return true;
}

static int answer_limit(const struct worker *w, const struct request *r)
{
    int given = r->max_tokens ? r->max_tokens : w->loaded->model->config.max_new_tokens;
    return given > 0 ? given : DEFAULT_MAX_TOKENS;
}

static bool make_prompt(struct worker *w, const struct request *r, int max_tokens,
                        struct prompt *out, struct error *err)
{
    const struct model *m = w->loaded->model;
    emit_phase(&w->out, PHASE_TOKENIZE, r->n_context);
    return prompt_build(out, &w->loaded->format, r, m->config.max_seq_len, max_tokens, err);
}

static size_t longest_question(const struct prompt *p)
{
    size_t longest = 0;
    for (int i = 0; i < p->n_questions; i++)
        if (p->questions[i].n > longest)
            longest = p->questions[i].n;
    return longest;
}

static void tell_context(struct worker *w, const struct prompt *p, bool reused)
{
    struct event e = {.kind = EVENT_CONTEXT};
    e.context.n_tokens = (int)p->context.n;
    e.context.n_cut = p->n_cut;
    e.context.reused = reused;
    e.context.prefill_ms = w->context.prefill_ms;
    e.context.kv_bytes = w->context.kv.bytes;
    e.context.notice = p->notice ? xstrdup(p->notice) : NULL;
    emit(&w->out, &e);
}

bool run_ask(struct worker *w, const struct request *request, struct error *err)
{
    struct prompt prompt;
    if (!check_request(w, request, err))
        return false;
    inspector_close(w->inspector); /* its memory, and maybe its context, are needed */
    w->inspector = NULL;
    int max_tokens = answer_limit(w, request);
    if (!make_prompt(w, request, max_tokens, &prompt, err))
        return false;

    int n_more = (int)longest_question(&prompt) + max_tokens;
    bool reused, complete;
    bool ok = memory_need_check(w, request, (int)prompt.context.n, n_more, err) &&
              context_prefill(w, &prompt.context, n_more, &reused, &complete, err);
    if (ok && complete)
        tell_context(w, &prompt, reused);
    struct lane_kept kept[REQUEST_MAX_LANES];
    for (int lane = 0; lane < REQUEST_MAX_LANES; lane++)
        kept[lane] = (struct lane_kept){.n_more = n_more};
    for (int q = 0; ok && q < prompt.n_questions; q++) {
        if (complete && !worker_cancelled(w)) {
            decode_question(w, request, &prompt, q, max_tokens, kept);
            continue;
        }
        for (int lane = 0; lane < request->n_lanes; lane++)
            decode_tell_done(w, q, lane, FINISH_CANCELLED, NULL);
    }
    for (int lane = 0; lane < REQUEST_MAX_LANES; lane++)
        lane_kept_close(&kept[lane]);
    prompt_free(&prompt);
    return ok;
}
