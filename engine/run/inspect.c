/* A step is computed by itself, with a gatherer that watches its attention.  What led to it, the
 * question pass and the steps before, is computed once and stays in a tail of its own: any other
 * step of the same answer is then one call. */
#include "engine/run/inspect.h"

#include <stdlib.h>
#include <string.h>

#include "engine/attention/evidence.h"
#include "engine/base/memory.h"
#include "engine/run/context.h"
#include "engine/run/memory_need.h"
#include "engine/run/prompt.h"

struct inspector {
    struct worker *w; /* borrowed */
    struct stack stack;
    bool on_dense_path; /* then the tail is no stack's */
    enum setup setup;
    uint64_t seed;
    struct token_list context, question, fed; /* whose keys are or were computed */
    int n_more;                               /* room for keys after the context */
    struct kv_tail tail;
    bool tail_open;
    int n_valid; /* rows of the tail that hold the question's and then fed's tokens */
    struct sparse_attention *attention;
    struct evidence_gatherer *gatherer;
};

void inspection_free(struct inspection *i)
{
    if (i->request)
        request_free(i->request);
    free(i->request);
    free(i->fed);
    memset(i, 0, sizeof *i);
}

/* --- The kept lane -------------------------------------------------------------------------- */

static void close_attention(struct inspector *p)
{
    evidence_gatherer_close(p->gatherer);
    sparse_attention_close(p->attention);
    p->gatherer = NULL;
    p->attention = NULL;
}

void inspector_close(struct inspector *p)
{
    if (!p)
        return;
    close_attention(p);
    if (p->tail_open)
        kv_cache_close(&p->tail.cache);
    token_list_free(&p->context);
    token_list_free(&p->question);
    token_list_free(&p->fed);
    free(p);
}

static bool same_tokens(const struct token_list *a, const struct token_list *b)
{
    return a->n == b->n && (a->n == 0 || !memcmp(a->ids, b->ids, a->n * sizeof *a->ids));
}

static bool same_path(const struct inspector *p, const struct inspection *i)
{
    const struct request *r = i->request;
    return p->on_dense_path == i->on_dense_path &&
           (i->on_dense_path ||
            (p->setup == r->setup && stack_equal(&p->stack, &r->lanes[0].stack)));
}

/* Whether the tail is, or leads to, what is wanted. */
static bool leads_there(const struct inspector *p, const struct inspection *i,
                        const struct prompt *prompt)
{
    return p && same_path(p, i) && p->seed == i->request->seed &&
           same_tokens(&p->context, &prompt->context) &&
           same_tokens(&p->question, &prompt->questions[0]) &&
           (int)prompt->questions[0].n + i->n_fed <= p->n_more;
}

static bool open_attention(struct inspector *p, struct error *err)
{
    struct worker *w = p->w;
    const struct model_config *config = &w->loaded->model->config;
    struct masker_model model = {config, w->loaded->model->path, w->kv_dtype};
    int n_context = (int)p->context.n, max_keys = n_context + p->n_more;
    p->attention = sparse_attention_open(&p->stack, w->backend, w->dev, &model, max_keys, err);
    if (!p->attention)
        return false;
    sparse_attention_stay_dense(p->attention, p->on_dense_path);
    sparse_attention_build_index(p->attention, &w->context.kv, n_context);
    p->gatherer = evidence_gatherer_open(p->attention, w->backend, w->dev, config, max_keys, err);
    return p->gatherer && worker_sync(w, err);
}

/* Another stack along the same dense path. */
static bool change_stack(struct inspector *p, const struct stack *stack, struct error *err)
{
    if (stack_equal(&p->stack, stack))
        return true;
    close_attention(p);
    p->stack = *stack;
    return open_attention(p, err);
}

static bool open_inspector(struct worker *w, const struct inspection *i,
                           const struct prompt *prompt, int n_more, struct error *err)
{
    struct inspector *p = xcalloc(1, sizeof *p);
    const struct token_list *question = &prompt->questions[0];
    p->w = w;
    p->stack = i->request->lanes[0].stack;
    p->on_dense_path = i->on_dense_path;
    p->setup = i->request->setup;
    p->seed = i->request->seed;
    p->n_more = n_more;
    token_list_append(&p->context, prompt->context.ids, prompt->context.n);
    token_list_append(&p->question, question->ids, question->n);
    w->inspector = p;
    p->tail_open = kv_cache_open(&p->tail.cache, w->backend, w->dev, &w->loaded->model->config,
                                 w->kv_dtype, n_more, err);
    return p->tail_open && open_attention(p, err);
}

/* --- Computing ------------------------------------------------------------------------------ */

static struct worker_call call_of(const struct inspector *p, const int32_t *tokens, int n_rows,
                                  int n_tail)
{
    int n_question = (int)p->question.n;
    bool in_question = n_tail < n_question;
    bool dense = p->on_dense_path || (in_question && p->setup == SETUP_A);
    return (struct worker_call){
        .tokens = tokens,
        .n_rows = n_rows,
        .n_context = (int)p->context.n,
        .n_tail = n_tail,
        .tail = &p->tail,
        .step = in_question ? 0 : (uint32_t)(n_tail - n_question + 1),
        .seed = p->seed,
        .method = dense ? (struct attention_method){0} : sparse_attention_method(p->attention),
    };
}

/* The rows of the tail that an answer shares with the one that was fed before stay. */
static void take_fed(struct inspector *p, const struct inspection *i)
{
    int n_question = (int)p->question.n, same = 0;
    while (same < i->n_fed && same < (int)p->fed.n && i->fed[same] == p->fed.ids[same])
        same++;
    p->n_valid = p->n_valid > n_question + same ? n_question + same : p->n_valid;
    p->fed.n = 0;
    token_list_append(&p->fed, i->fed, (size_t)i->n_fed);
}

/* Fills the tail with the rows before the step's own.  False: cancelled, or err is set. */
static bool lead_up(struct inspector *p, int n_rows, struct error *err)
{
    int n_question = (int)p->question.n;
    if (p->n_valid == 0 && n_rows > 0) {
        struct worker_call call = call_of(p, p->question.ids, n_question, 0);
        if (!worker_forward_rows(p->w, &call, err) || !worker_sync(p->w, err))
            return false;
        p->n_valid = n_question;
    }
    for (; p->n_valid < n_rows; p->n_valid++) {
        if (worker_cancelled(p->w))
            return false;
        struct worker_call call = call_of(p, &p->fed.ids[p->n_valid - n_question], 1, p->n_valid);
        worker_forward(p->w, &call);
        if (!worker_sync(p->w, err))
            return false;
    }
    return true;
}

/* The texts of the keys' tokens; special ones as they are spelled. */
static void write_texts(const struct inspector *p, struct evidence *e)
{
    const struct tokenizer *t = p->w->loaded->tokenizer;
    const struct token_list *parts[] = {&p->context, &p->question, &p->fed};
    struct detokenizer d;
    struct buf text = {0};
    detokenizer_init(&d, t);
    for (int part = 0, key = 0; part < 3; part++)
        for (size_t j = 0; j < parts[part]->n && key < e->n_keys; j++) {
            int32_t id = parts[part]->ids[j];
            if (tokenizer_is_special(t, id)) {
                detokenizer_flush(&d, &text);
                buf_append_str(&text, tokenizer_piece(t, id));
            } else {
                detokenizer_push(&d, id, &text);
            }
            e->text_end[key++] = (uint32_t)text.len;
        }
    detokenizer_flush(&d, &text);
    if (e->n_keys > 0)
        e->text_end[e->n_keys - 1] = (uint32_t)text.len;
    detokenizer_free(&d);
    e->text = buf_take(&text);
}

static bool compute(struct inspector *p, const struct inspection *i, struct error *err)
{
    struct worker *w = p->w;
    const struct model_config *config = &w->loaded->model->config;
    int n_context = (int)p->context.n, row = (int)p->question.n - 1 + i->step;
    take_fed(p, i);
    if (!lead_up(p, row, err))
        return false;
    struct evidence *e = evidence_new(config->n_layers, config->n_heads, n_context + row + 1);
    e->head.layer = i->layer;
    e->head.head = i->head;
    const int32_t *token = i->step ? &p->fed.ids[i->step - 1] : &p->question.ids[row];
    struct worker_call call = call_of(p, token, 1, row);
    call.method = sparse_attention_method(p->attention);
    evidence_gather_begin(p->gatherer, n_context, row, e);
    worker_forward(w, &call);
    evidence_gather_end(p->gatherer);
    /* Its keys by itself are not quite those that the question pass gave. */
    p->n_valid = i->step == 0 ? 0 : p->n_valid > row ? p->n_valid : row + 1;
    if (!worker_sync(w, err)) {
        evidence_free(e);
        return false;
    }
    if (i->layer >= 0)
        write_texts(p, e);
    emit(&w->out, &(struct event){.kind = EVENT_EVIDENCE,
                                  .evidence = {.tag = i->tag, .step = i->step, .evidence = e}});
    return true;
}

/* --- The command ---------------------------------------------------------------------------- */

static bool check(const struct worker *w, const struct inspection *i, struct error *err)
{
    const struct request *r = i->request;
    if (!w->loaded)
        return fail_code(err, EXIT_CODE_USAGE, "no model is loaded; load one first");
    const struct model_config *c = &w->loaded->model->config;
    if (r->n_lanes != 1 || r->n_questions != 1)
        return fail_code(err, EXIT_CODE_USAGE, "an inspection is of one question and one lane");
    if (i->step < 0 || i->step > i->n_fed)
        return fail_code(err, EXIT_CODE_USAGE, "step %d: the answer has steps 0 to %d", i->step,
                         i->n_fed);
    if (i->layer < -1 || i->layer >= c->n_layers || i->head < 0 || i->head >= c->n_heads)
        return fail_code(err, EXIT_CODE_USAGE,
                         "layer %d, head %d: the model has layers 0 to %d and heads 0 to %d",
                         i->layer, i->head, c->n_layers - 1, c->n_heads - 1);
    return stack_check(&r->lanes[0].stack, err) &&
           stack_check_layers(&r->lanes[0].stack, c->n_layers, err);
}

static bool prepare(struct worker *w, const struct inspection *i, const struct prompt *prompt,
                    bool *complete, struct error *err)
{
    int n_more = (int)prompt->questions[0].n + i->n_fed + 1;
    bool reused;
    *complete = true;
    if (leads_there(w->inspector, i, prompt))
        return change_stack(w->inspector, &i->request->lanes[0].stack, err);
    inspector_close(w->inspector);
    w->inspector = NULL;
    return memory_need_check(w, i->request, (int)prompt->context.n, n_more, err) &&
           context_prefill(w, &prompt->context, n_more, &reused, complete, err) &&
           (!*complete || open_inspector(w, i, prompt, n_more, err));
}

bool inspect(struct worker *w, const struct inspection *i, struct error *err)
{
    struct prompt prompt;
    bool complete;
    if (!check(w, i, err) || !prompt_build(&prompt, &w->loaded->format, i->request,
                                           w->loaded->model->config.max_seq_len, i->n_fed, err))
        return false;
    bool ok = prepare(w, i, &prompt, &complete, err);
    if (ok && complete)
        ok = compute(w->inspector, i, err) || worker_cancelled(w);
    if (!ok) {
        inspector_close(w->inspector);
        w->inspector = NULL;
    }
    prompt_free(&prompt);
    return ok;
}
