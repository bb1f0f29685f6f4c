#include "engine/run/lane.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/run/clock.h"

/* --- Opening and closing ------------------------------------------------------------------ */

static int tail_capacity(size_t n_question, int max_tokens)
{
    return (int)n_question + max_tokens;
}

uint64_t lane_tail_bytes(const struct worker *w, size_t n_question, int max_tokens)
{
    return model_kv_bytes_per_token(&w->loaded->model->config, w->kv_dtype) *
           (uint64_t)tail_capacity(n_question, max_tokens);
}

static bool open_counts(struct lane *l, struct error *err)
{
    struct worker *w = l->w;
    size_t n_bytes = (size_t)w->loaded->model->config.n_layers * sizeof *l->counts;
    if (l->dense)
        return true;
    l->counts = w->backend->alloc(w->dev, n_bytes);
    return l->counts || fail_code(err, EXIT_CODE_NO_DEVICE, "no device memory for counters");
}

static bool open_attention(struct lane *l, struct error *err)
{
    struct worker *w = l->w;
    int max_keys = l->n_context + tail_capacity(l->question->n, l->max_tokens);
    int64_t from_us = clock_us();
    l->attention = sparse_attention_open(&l->request->lanes[l->index].stack, w->backend, w->dev,
                                         &w->loaded->model->config, max_keys, err);
    if (!l->attention || !worker_sync(w, err))
        return false;
    l->index_build_ms = (double)(clock_us() - from_us) * 1e-3;
    return true;
}

void lane_open(struct lane *l, struct worker *w, const struct request *request,
               const struct prompt *prompt, int question, int index, int max_tokens,
               const struct dense_answer *replay)
{
    memset(l, 0, sizeof *l);
    l->w = w;
    l->request = request;
    l->question = &prompt->questions[question];
    l->question_index = question;
    l->index = index;
    l->n_context = (int)prompt->context.n;
    l->max_tokens = max_tokens;
    l->dense = stack_is_dense(&request->lanes[index].stack);
    l->replay = replay;
    l->steps = xcalloc((size_t)max_tokens, sizeof *l->steps);
    detokenizer_init(&l->detokenizer, w->loaded->tokenizer);
    if (replay) {
        l->index_build_ms = replay->index_build_ms;
        return;
    }
    struct error err = {0};
    l->tail_open = kv_cache_open(&l->tail.cache, w->backend, w->dev, &w->loaded->model->config,
                                 w->kv_dtype, tail_capacity(l->question->n, max_tokens), &err);
    if (!l->tail_open || !open_counts(l, &err) || !open_attention(l, &err))
        lane_fail(l, &err);
}

void lane_close(struct lane *l)
{
    sparse_attention_close(l->attention);
    if (l->counts)
        l->w->backend->release(l->w->dev, l->counts);
    if (l->tail_open)
        kv_cache_close(&l->tail.cache);
    detokenizer_free(&l->detokenizer);
    buf_free(&l->text);
    free(l->steps);
    free(l->error);
    memset(l, 0, sizeof *l);
}

void lane_end(struct lane *l, enum finish finish)
{
    l->ended = true;
    l->finish = finish;
}

void lane_fail(struct lane *l, const struct error *err)
{
    free(l->error);
    l->error = xstrdup(err->text);
    lane_end(l, FINISH_ERROR);
}

/* --- One step ----------------------------------------------------------------------------- */

static void forward(struct lane *l, const int32_t *tokens, int n_rows, int n_tail, bool own_stack,
                    float *logits)
{
    struct worker_call call = {
        .tokens = tokens,
        .n_rows = n_rows,
        .n_context = l->n_context,
        .n_tail = n_tail,
        .tail = &l->tail,
        .step = (uint32_t)l->n_steps,
        .seed = l->request->seed,
        .logits = logits,
    };
    if (own_stack) {
        call.method = sparse_attention_method(l->attention);
        call.counts = l->counts;
    }
    worker_forward(l->w, &call);
}

/* All question tokens in one call where they fit one, under the lane's own stack in setup B.
 * False: cancelled between two calls, or err is set. */
static bool question_pass(struct lane *l, float *logits, struct error *err)
{
    bool own_stack = l->dense || l->request->setup == SETUP_B;
    int n = (int)l->question->n;
    for (int done = 0; done < n;) {
        if (worker_cancelled(l->w))
            return false;
        int rows = n - done < WORKER_MAX_ROWS ? n - done : WORKER_MAX_ROWS;
        bool last = done + rows == n;
        forward(l, l->question->ids + done, rows, done, own_stack, last ? logits : NULL);
        done += rows;
        if (!last && !worker_sync(l->w, err))
            return false;
    }
    return true;
}

void lane_counts(const struct lane *l, struct attention_counts *sum)
{
    memset(sum, 0, sizeof *sum);
    if (!l->counts)
        return;
    struct worker *w = l->w;
    int n_layers = w->loaded->model->config.n_layers;
    struct attention_counts *all = xcalloc((size_t)n_layers, sizeof *all);
    w->backend->download(w->dev, all, l->counts, (size_t)n_layers * sizeof *all);
    for (int i = 0; i < n_layers; i++) {
        sum->selected += all[i].selected;
        sum->visible += all[i].visible;
        sum->rows_read += all[i].rows_read;
        sum->rows_visible += all[i].rows_visible;
        sum->score_rows += all[i].score_rows;
        sum->rescued += all[i].rescued;
        sum->full += all[i].full;
        sum->calls += all[i].calls;
    }
    free(all);
}

/* Where this step's logits go.  Lane 0's are kept for its block when other lanes are forced along
 * it, so that each can be compared with them. */
static float *logits_place(const struct lane *l)
{
    const struct worker_scratch *s = &l->w->scratch;
    if (!l->request->forced || l->index != 0)
        return s->logits;
    size_t vocab_size = (size_t)l->w->loaded->model->config.vocab_size;
    return s->base_logits + (size_t)(l->n_steps % WORKER_BLOCK_STEPS) * vocab_size;
}

static void measure_kl(struct lane *l, struct answer_step *step)
{
    struct worker *w = l->w;
    int vocab_size = w->loaded->model->config.vocab_size;
    const float *base =
        w->scratch.base_logits + (size_t)(l->n_steps % WORKER_BLOCK_STEPS) * (size_t)vocab_size;
    w->backend->kl_divergence(w->dev, w->scratch.kl, base, w->scratch.logits, vocab_size);
    w->backend->download(w->dev, &step->kl, w->scratch.kl, sizeof step->kl);
}

/* The forward pass of a step, measured.  False: cancelled, or err is set. */
static bool compute_step(struct lane *l, const struct lane *base, struct answer_step *step,
                         struct error *err)
{
    struct worker *w = l->w;
    const struct backend *b = w->backend;
    float *logits = logits_place(l);
    step->probed = l->n_steps > 0 && !l->dense && l->request->probe &&
                   (l->n_steps - 1) % LANE_PROBE_EVERY == 0;
    sparse_attention_us_reset(l->attention);
    sparse_attention_probe(l->attention, step->probed);
    b->time_mark(w->dev, WORKER_STEP_SLOT);
    if (l->n_steps == 0) {
        if (!question_pass(l, logits, err))
            return false;
    } else {
        const struct answer_step *fed = &(base ? base : l)->steps[l->n_steps - 1];
        forward(l, &fed->pick.token, 1, (int)l->question->n + l->n_steps - 1, true, logits);
    }
    int vocab_size = w->loaded->model->config.vocab_size;
    b->pick(w->dev, w->scratch.pick, logits, vocab_size, &l->request->sampling, w->scratch.step);
    b->time_mark(w->dev, WORKER_STEP_SLOT + 1);
    b->download(w->dev, &step->pick, w->scratch.pick, sizeof step->pick);
    if (!worker_sync(w, err))
        return false;
    if (step->pick.token < 0 || step->pick.token >= vocab_size)
        return fail_code(err, EXIT_CODE_RUNTIME,
                         "the model gave no usable logits at answer token %d; its weights may be "
                         "damaged",
                         l->n_steps);
    step->step_us = (int64_t)b->time_between_us(w->dev, WORKER_STEP_SLOT, WORKER_STEP_SLOT + 1);
    step->attention_us = (int64_t)sparse_attention_us(l->attention);
    if (l->n_steps == 0)
        lane_counts(l, &l->question_counts);
    if (base)
        measure_kl(l, step);
    return true;
}

/* Whether the step just made is the last: in forced mode lane 0 decides. */
static void end_if_last(struct lane *l, const struct lane *base)
{
    if (base) {
        if (base->ended && l->n_steps == base->n_steps)
            lane_end(l, base->finish);
    } else if (loaded_stops(l->w->loaded, l->steps[l->n_steps - 1].pick.token)) {
        lane_end(l, FINISH_STOP);
    } else if (l->n_steps == l->max_tokens) {
        lane_end(l, FINISH_LENGTH);
    }
}

static void tell_token(struct lane *l, struct answer_step *step, int64_t from_us)
{
    size_t before = l->text.len;
    detokenizer_push(&l->detokenizer, step->pick.token, &l->text);
    if (l->ended)
        detokenizer_flush(&l->detokenizer, &l->text);
    if (!l->replay)
        step->wall_us = clock_us() - from_us;
    struct event e = {.kind = EVENT_TOKEN};
    struct token_event *t = &e.token;
    t->question = l->question_index;
    t->lane = l->index;
    t->index = l->n_steps - 1;
    t->id = step->pick.token;
    t->n_text = l->text.len - before;
    t->text = xmemdup0(l->text.data ? l->text.data + before : "", t->n_text);
    t->logprob = answer_logprob(step);
    t->step_us = step->step_us;
    t->attention_us = step->attention_us;
    t->at_us = clock_us() - l->w->out.command_us;
    t->probed = step->probed;
    t->cached = l->replay != NULL;
    emit(&l->w->out, &e);
}

void lane_step(struct lane *l, const struct lane *base)
{
    assert(!l->ended && l->n_steps < l->max_tokens);
    struct error err = {0};
    struct answer_step *step = &l->steps[l->n_steps];
    int64_t from_us = clock_us();
    if (l->replay) {
        *step = l->replay->steps[l->n_steps];
    } else if (!compute_step(l, base, step, &err)) {
        if (err.text[0])
            lane_fail(l, &err);
        else
            lane_end(l, FINISH_CANCELLED);
        return;
    }
    l->n_steps++;
    end_if_last(l, base);
    tell_token(l, step, from_us);
}
