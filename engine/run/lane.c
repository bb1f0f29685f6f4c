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

static bool open_counts(struct lane *l, struct error *err)
{
    struct worker *w = l->w;
    size_t n_bytes = (size_t)w->loaded->model->config.n_layers * sizeof *l->counts;
    if (l->dense)
        return true;
    l->counts = w->backend->alloc(w->dev, n_bytes);
    return l->counts || fail_code(err, EXIT_CODE_NO_DEVICE, "no device memory for counters");
}

/* The last question's, as it was when new but for what its indexes know of the context. */
static void take_kept(struct lane *l)
{
    l->attention = l->kept->attention;
    l->kept->attention = NULL;
    sparse_attention_probe_reset(l->attention);
    sparse_attention_us_reset(l->attention);
}

static bool open_attention(struct lane *l, struct error *err)
{
    struct worker *w = l->w;
    int max_keys = l->n_context + l->kept->n_more;
    if (l->kept->attention) {
        take_kept(l);
        return true;
    }
    struct masker_model model = {&w->loaded->model->config, w->loaded->model->path, w->kv_dtype};
    l->attention = sparse_attention_open(&l->request->lanes[l->index].stack, w->backend, w->dev,
                                         &model, max_keys, err);
    if (!l->attention || !worker_sync(w, err))
        return false;
    int64_t from_us = clock_us();
    sparse_attention_build_index(l->attention, &w->context.kv, l->n_context);
    if (!worker_sync(w, err))
        return false;
    l->index_build_ms = (double)(clock_us() - from_us) * 1e-3;
    return true;
}

static bool open_recorded(struct lane *l, struct error *err)
{
    struct step_owner owner = {
        .w = l->w,
        .tail = &l->tail,
        .attention = l->attention,
        .counts = l->counts,
        .sampling = &l->request->sampling,
        .max_keys = l->n_context + l->tail.cache.capacity,
    };
    if (!l->w->backend->record_begin)
        return true;
    l->recorded = recorded_step_open(&owner, err);
    return l->recorded != NULL;
}

void lane_open(struct lane *l, struct worker *w, const struct request *request,
               const struct prompt *prompt, int question, int index, int max_tokens,
               const struct dense_answer *replay, struct lane_kept *kept)
{
    memset(l, 0, sizeof *l);
    l->w = w;
    l->kept = kept;
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
    if (!l->tail_open || !open_counts(l, &err) || !open_attention(l, &err) ||
        !open_recorded(l, &err)) {
        worker_sync_after(w, &err);
        lane_fail(l, &err);
    }
}

void lane_close(struct lane *l)
{
    recorded_step_close(l->recorded);
    if (l->error)
        sparse_attention_close(l->attention);
    else if (l->attention)
        l->kept->attention = l->attention;
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

void lane_kept_close(struct lane_kept *kept)
{
    sparse_attention_close(kept->attention);
    kept->attention = NULL;
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

/* --- Telling ------------------------------------------------------------------------------ */

static void tell_token(struct lane *l, const struct answer_step *step, size_t text_before)
{
    struct event e = {.kind = EVENT_TOKEN};
    struct token_event *t = &e.token;
    t->question = l->question_index;
    t->lane = l->index;
    t->index = l->n_steps - 1;
    t->id = step->pick.token;
    t->n_text = l->text.len - text_before;
    t->text = xmemdup0(l->text.data ? l->text.data + text_before : "", t->n_text);
    t->logprob = answer_logprob(step);
    t->step_us = step->step_us;
    t->attention_us = step->attention_us;
    t->at_us = clock_us() - l->w->out.command_us;
    t->probed = step->probed;
    t->cached = l->replay != NULL;
    emit(&l->w->out, &e);
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

/* The next of l->steps is filled: it becomes part of the answer.  from_us: when a step that was
 * made alone began; 0: its wall_us is known. */
static void take_step(struct lane *l, const struct lane *base, int64_t from_us)
{
    struct answer_step *step = &l->steps[l->n_steps++];
    size_t text_before = l->text.len;
    end_if_last(l, base);
    detokenizer_push(&l->detokenizer, step->pick.token, &l->text);
    if (l->ended)
        detokenizer_flush(&l->detokenizer, &l->text);
    if (from_us)
        step->wall_us = clock_us() - from_us;
    tell_token(l, step, text_before);
}

static bool check_token(const struct lane *l, const struct answer_step *step, int index,
                        struct error *err)
{
    int32_t token = step->pick.token;
    return (token >= 0 && token < l->w->loaded->model->config.vocab_size) ||
           fail_code(err, EXIT_CODE_RUNTIME,
                     "the model gave no usable logits at answer token %d; its weights may be "
                     "damaged",
                     index);
}

/* *sum = layers [n_layers] together. */
static void sum_counts(const struct attention_counts *layers, int n_layers,
                       struct attention_counts *sum)
{
    memset(sum, 0, sizeof *sum);
    for (int i = 0; i < n_layers; i++) {
        sum->selected += layers[i].selected;
        sum->visible += layers[i].visible;
        sum->rows_read += layers[i].rows_read;
        sum->rows_visible += layers[i].rows_visible;
        sum->score_rows += layers[i].score_rows;
        sum->rescued += layers[i].rescued;
        sum->full += layers[i].full;
        sum->calls += layers[i].calls;
    }
}

/* --- A step by itself ----------------------------------------------------------------------- */

static struct worker_call call_of(const struct lane *l, const int32_t *tokens, int n_rows,
                                  int n_tail, float *logits)
{
    return (struct worker_call){
        .tokens = tokens,
        .n_rows = n_rows,
        .n_context = l->n_context,
        .n_tail = n_tail,
        .tail = &l->tail,
        .step = (uint32_t)l->n_steps,
        .seed = l->request->seed,
        .method = sparse_attention_method(l->attention),
        .counts = l->counts,
        .logits = logits,
    };
}

/* All question tokens in one call where they fit one, under the lane's own stack in setup B.
 * False: cancelled between two calls, or err is set. */
static bool question_pass(struct lane *l, float *logits, struct error *err)
{
    struct worker_call call = call_of(l, l->question->ids, (int)l->question->n, 0, logits);
    if (!l->dense && l->request->setup == SETUP_A) {
        call.method = (struct attention_method){0};
        call.counts = NULL;
    }
    return worker_forward_rows(l->w, &call, err);
}

static void read_counts(struct lane *l)
{
    struct worker *w = l->w;
    int n_layers = w->loaded->model->config.n_layers;
    if (!l->counts)
        return;
    struct attention_counts *layers = xcalloc((size_t)n_layers, sizeof *layers);
    w->backend->download(w->dev, layers, l->counts, (size_t)n_layers * sizeof *layers);
    sum_counts(layers, n_layers, &l->counted);
    free(layers);
}

/* Lane 0's logits are kept for its turn when other lanes are forced along it, so that each can be
 * compared with them. */
static bool keeps_logits(const struct lane *l)
{
    return l->request->forced && l->index == 0;
}

static void measure_kl(struct lane *l, struct answer_step *step)
{
    struct worker *w = l->w;
    w->backend->kl_divergence(w->dev, w->scratch.kl, worker_base_logits(w, l->n_steps),
                              w->scratch.logits, w->loaded->model->config.vocab_size);
    w->backend->download(w->dev, &step->kl, w->scratch.kl, sizeof step->kl);
}

/* Recall and output error are measured in the first decode step and then now and again. */
static bool is_probed(const struct lane *l, int step)
{
    return step > 0 && !l->dense && l->request->probe && (step - 1) % LANE_PROBE_EVERY == 0;
}

/* The question pass, or one decode step.  False: cancelled, or err is set. */
static bool compute_step(struct lane *l, const struct lane *base, struct answer_step *step,
                         struct error *err)
{
    struct worker *w = l->w;
    const struct backend *b = w->backend;
    float *logits = keeps_logits(l) ? worker_base_logits(w, l->n_steps) : w->scratch.logits;
    step->probed = is_probed(l, l->n_steps);
    sparse_attention_us_reset(l->attention);
    sparse_attention_probe(l->attention, step->probed);
    b->time_mark(w->dev, WORKER_STEP_SLOT);
    if (l->n_steps == 0) {
        if (!question_pass(l, logits, err))
            return false;
    } else {
        const struct answer_step *fed = &(base ? base : l)->steps[l->n_steps - 1];
        struct worker_call call =
            call_of(l, &fed->pick.token, 1, (int)l->question->n + l->n_steps - 1, logits);
        worker_forward(w, &call);
    }
    b->pick(w->dev, w->scratch.pick, logits, w->loaded->model->config.vocab_size,
            &l->request->sampling, w->scratch.step);
    b->time_mark(w->dev, WORKER_STEP_SLOT + 1);
    b->download(w->dev, &step->pick, w->scratch.pick, sizeof step->pick);
    sparse_attention_probe(l->attention, false);
    step->step_us = (int64_t)b->time_between_us(w->dev, WORKER_STEP_SLOT, WORKER_STEP_SLOT + 1);
    step->attention_us = (int64_t)sparse_attention_us(l->attention);
    read_counts(l);
    if (l->n_steps == 0)
        l->question_counts = l->counted;
    if (base)
        measure_kl(l, step);
    return worker_sync(w, err) && check_token(l, step, l->n_steps, err);
}

static void single_step(struct lane *l, const struct lane *base)
{
    struct error err = {0};
    struct answer_step *step = &l->steps[l->n_steps];
    int64_t from_us = clock_us();
    if (l->replay)
        *step = l->replay->steps[l->n_steps];
    else if (!compute_step(l, base, step, &err)) {
        if (err.text[0])
            lane_fail(l, &err);
        else
            lane_end(l, FINISH_CANCELLED);
        return;
    }
    take_step(l, base, l->replay ? 0 : from_us);
}

/* --- Recorded steps -------------------------------------------------------------------------- */

/* The steps from here on that replays can make: none before every operation has run once by
 * itself, and none that is probed. */
static int recorded_run(const struct lane *l, int n_most)
{
    int n = 0, most = l->max_tokens - l->n_steps;
    most = n_most < most ? n_most : most;
    if (!l->recorded || l->n_steps < 2)
        return 0;
    while (n < most && n < WORKER_BLOCK_STEPS && !is_probed(l, l->n_steps + n))
        n++;
    return n;
}

/* False: the lane goes on with steps by themselves, or it has failed with the device. */
static bool record(struct lane *l)
{
    struct error err = {0};
    if (recorded_step_record(l->recorded))
        return true;
    recorded_step_close(l->recorded);
    l->recorded = NULL;
    if (!worker_sync(l->w, &err) && worker_device_lost(l->w))
        lane_fail(l, &err);
    return false;
}

static void recorded_steps(struct lane *l, const struct lane *base, int n_steps)
{
    struct error err = {0};
    int32_t forced[WORKER_BLOCK_STEPS];
    struct answer_step *steps = &l->steps[l->n_steps];
    for (int i = 0; base && i < n_steps; i++)
        forced[i] = base->steps[l->n_steps + i - 1].pick.token;
    struct step_block block = {
        .n_steps = n_steps,
        .state = {.n_context = l->n_context,
                  .n_tail = (int)l->question->n + l->n_steps - 1,
                  .append_tail = 1,
                  .step = (uint32_t)l->n_steps,
                  .seed = l->request->seed},
        .token = steps[-1].pick.token,
        .forced = base ? forced : NULL,
        .keep_logits = keeps_logits(l),
    };
    if (!recorded_step_run(l->recorded, &block, steps, &err)) {
        lane_fail(l, &err);
        return;
    }
    int n_layers = l->w->loaded->model->config.n_layers;
    for (int i = 0; i < n_steps && !l->ended; i++) {
        if (!check_token(l, &steps[i], l->n_steps, &err)) {
            lane_fail(l, &err);
            return;
        }
        if (l->counts)
            sum_counts(recorded_step_counts(l->recorded, i), n_layers, &l->counted);
        take_step(l, base, 0);
    }
}

void lane_step(struct lane *l, const struct lane *base, int n_most)
{
    assert(!l->ended && l->n_steps < l->max_tokens && n_most > 0);
    int n = recorded_run(l, n_most);
    if (n > 0 && !record(l)) {
        if (l->ended)
            return;
        n = 0;
    }
    if (n > 0)
        recorded_steps(l, base, n);
    else
        single_step(l, base);
}
