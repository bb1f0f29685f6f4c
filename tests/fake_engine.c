/* A test double of engine.h: no model, no thread; scripted tokens on a clock, so that screens and
 * timing are the same on every machine.  The environment sets the script:
 *   FAKE_LOAD_MS, FAKE_PREFILL_MS  how long these take
 *   FAKE_RATE                      tokens a second of each lane
 *   FAKE_TOKENS                    tokens of an answer
 *   FAKE_FAIL_LANE                 this lane ends with an error after 5 tokens
 *   FAKE_LOSE_AFTER                the device is lost after that many tokens
 *   FAKE_LOSE_LOAD                 1: it is lost while a model is loaded
 *   FAKE_HOSTILE                   1: tokens hold escape sequences */
#include "engine/run/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/memory.h"
#include "tests/made_evidence.h"

enum { TICK_MS = 4, QUEUE = 4096, METRICS_MS = 250, PROGRESS_MS = 50 };

struct engine {
    int timer_fd;
    int64_t started_ms, command_ms, last_progress_ms, last_metrics_ms;
    enum { IDLE, LOADING, PREFILL, DECODE } doing;
    struct request *request;
    bool cancelled, context_told;
    int question, n_tokens[REQUEST_MAX_LANES];
    bool done[REQUEST_MAX_LANES];
    int64_t decode_ms;
    struct event queue[QUEUE];
    size_t head, tail;
};

static const char *const DENSE_WORDS[] = {
    "The ",   "Harwick ", "bridge ", "was ",  "opened ",   "to ",       "traffic ", "in ",
    "1867, ", "after ",   "a ",      "four ", "year ",     "delay ",    "caused ",  "by ",
    "the ",   "failure ", "of ",     "the ",  "northern ", "caisson. ",
};
static const char *const SPARSE_WORDS[] = {
    "The ",   "Harwick ",  "bridge ",  "was ",     "opened ", "to ",    "traffic ", "in ",
    "1867, ", "after ",    "a ",       "delay ",   "of ",     "four ",  "years ",   "when ",
    "the ",   "northern ", "caisson ", "failed. ", "世界 ",   "héllo ",
};
enum { N_WORDS = sizeof DENSE_WORDS / sizeof *DENSE_WORDS };

static int setting(const char *name, int fallback)
{
    const char *value = getenv(name);
    return value && *value ? atoi(value) : fallback;
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void push(struct engine *e, struct event event)
{
    event.at_us = (now_ms() - e->started_ms) * 1000;
    e->queue[e->tail++ % QUEUE] = event;
}

struct engine *engine_start(const struct engine_options *options, struct error *err)
{
    (void)options;
    (void)err;
    struct engine *e = xcalloc(1, sizeof *e);
    e->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    e->started_ms = now_ms();
    return e;
}

static void set_timer(struct engine *e, bool on)
{
    struct itimerspec t = {0};
    if (on)
        t.it_value.tv_nsec = t.it_interval.tv_nsec = TICK_MS * 1000000L;
    timerfd_settime(e->timer_fd, 0, &t, NULL);
}

static void begin(struct engine *e, int doing)
{
    e->doing = doing;
    e->command_ms = now_ms();
    e->cancelled = false;
    e->last_progress_ms = e->last_metrics_ms = 0;
    set_timer(e, true);
}

static void end(struct engine *e)
{
    push(e, (struct event){.kind = EVENT_FINISHED,
                           .finished = {.cancelled = e->cancelled,
                                        .wall_ms = (double)(now_ms() - e->command_ms)}});
    if (e->request)
        request_free(e->request);
    free(e->request);
    e->request = NULL;
    e->doing = IDLE;
}

void engine_stop(struct engine *e)
{
    struct event event;
    while (e->head < e->tail) {
        event = e->queue[e->head++ % QUEUE];
        event_free(&event);
    }
    if (e->request)
        request_free(e->request);
    free(e->request);
    close(e->timer_fd);
    free(e);
}

bool engine_load(struct engine *e, const char *folder)
{
    (void)folder;
    if (e->doing != IDLE)
        return false;
    begin(e, LOADING);
    return true;
}

bool engine_ask(struct engine *e, struct request *request)
{
    if (e->doing != IDLE) {
        request_free(request);
        free(request);
        return false;
    }
    e->request = request;
    memset(e->n_tokens, 0, sizeof e->n_tokens);
    memset(e->done, 0, sizeof e->done);
    e->context_told = false;
    begin(e, PREFILL);
    return true;
}

/* At once: 28 layers of 28 heads, and the keys of the context. */
bool engine_inspect(struct engine *e, struct inspection *inspection)
{
    bool idle = e->doing == IDLE;
    if (idle) {
        begin(e, LOADING);
        push(e, (struct event){.kind = EVENT_EVIDENCE,
                               .evidence = {inspection->tag, inspection->step,
                                            made_evidence(28, 28, 2000, inspection->layer,
                                                          inspection->head)}});
        end(e);
    }
    if (inspection->request)
        request_free(inspection->request);
    free(inspection->request);
    free(inspection->fed);
    free(inspection);
    return idle;
}

void engine_cancel(struct engine *e)
{
    e->cancelled = true;
}

bool engine_busy(const struct engine *e)
{
    return e->doing != IDLE;
}

int engine_fd(const struct engine *e)
{
    return e->timer_fd;
}

static void progress(struct engine *e, enum phase phase, uint64_t done, uint64_t total, double eta)
{
    int64_t now = now_ms();
    if (now - e->last_progress_ms < PROGRESS_MS)
        return;
    e->last_progress_ms = now;
    push(e, (struct event){.kind = EVENT_PROGRESS, .progress = {phase, done, total, 0, eta}});
}

static void token(struct engine *e, int lane)
{
    int i = e->n_tokens[lane]++;
    bool sparse = lane > 0;
    const char *word = sparse ? SPARSE_WORDS[i % N_WORDS] : DENSE_WORDS[i % N_WORDS];
    if (setting("FAKE_HOSTILE", 0) && i % 3 == 1)
        word = "\033]0;owned\a\033[2J\033[31m\xC2\x9B"
               "5mEVIL\xE2\x80\xAE ";
    int32_t id = 0;
    for (const char *c = word; *c; c++)
        id = (id * 31 + (unsigned char)*c) & 0xFFFF;
    push(e, (struct event){.kind = EVENT_TOKEN,
                           .token = {.lane = lane,
                                     .index = i,
                                     .id = id,
                                     .text = xstrdup(word),
                                     .n_text = strlen(word),
                                     .logprob = -0.5f,
                                     .step_us = sparse ? 17000 : 32000,
                                     .attention_us = sparse ? 2000 : 12000}});
}

static void metrics(struct engine *e, int lane)
{
    struct lane_metrics m = {.lane = lane,
                             .n_tokens = e->n_tokens[lane],
                             .density = lane ? 0.089 : 1,
                             .read_density = lane ? 0.12 : 1,
                             .attention_us_per_token = lane ? 2000 : 12000,
                             .step_ms_per_token = lane ? 17.0 : 32.0,
                             .ttft_ms = 120,
                             .speedup_attention = lane ? 6.1 : 1,
                             .speedup_step = lane ? 1.88 : 1,
                             .speedup_answer = lane ? 1.41 : 1,
                             .jaccard = lane ? 0.871 : 1,
                             .agreement = -1,
                             .mean_kl = -1,
                             .recall_mean = lane ? 0.962 : 1,
                             .recall_worst = lane ? 0.71 : 1,
                             .recall_worst_layer = 14,
                             .recall_worst_head = 3,
                             .kv_bytes_per_step = 160000000,
                             .kv_bytes_per_step_dense = 1840000000,
                             .divergence = {.index = -1}};
    m.reads_all_keys = lane && stack_reads_all_keys(&e->request->lanes[lane].stack);
    if (lane && e->n_tokens[lane] > 11) {
        m.divergence = (struct divergence){.index = 11,
                                           .base_id = 1,
                                           .lane_id = 2,
                                           .base_text = xstrdup(" four"),
                                           .lane_text = xstrdup(" delay"),
                                           .base_prob = 0.44f,
                                           .lane_prob = 0.41f,
                                           .margin = 0.06f,
                                           .near_tie = true};
    }
    push(e, (struct event){.kind = EVENT_METRICS, .metrics = m});
}

static void end_lane(struct engine *e, int lane, enum finish finish)
{
    e->done[lane] = true;
    metrics(e, lane);
    push(e, (struct event){.kind = EVENT_DONE,
                           .done = {.lane = lane,
                                    .finish = finish,
                                    .error = finish == FINISH_ERROR
                                                 ? xstrdup("out of memory: 3.1 GiB asked")
                                                 : NULL}});
}

static const char LOST[] = "the device failed: an illegal memory access was encountered";

static void lose_lane(struct engine *e, int lane)
{
    e->done[lane] = true;
    push(e, (struct event){.kind = EVENT_DONE,
                           .done = {.lane = lane,
                                    .finish = FINISH_ERROR,
                                    .error = xstrdup(LOST),
                                    .device_lost = true}});
}

static void decode(struct engine *e, int64_t now)
{
    int n_lanes = e->request->n_lanes, total = setting("FAKE_TOKENS", 40), n_done = 0;
    int lose_after = setting("FAKE_LOSE_AFTER", INT32_MAX);
    int due = (int)((now - e->decode_ms) * setting("FAKE_RATE", 60) / 1000);
    bool tell = now - e->last_metrics_ms >= METRICS_MS;
    for (int lane = 0; lane < n_lanes; lane++) {
        while (!e->done[lane] && e->n_tokens[lane] < due && e->n_tokens[lane] < total &&
               e->tail - e->head < QUEUE / 2)
            token(e, lane);
        if (!e->done[lane] && tell)
            metrics(e, lane);
        if (!e->done[lane] && e->cancelled)
            end_lane(e, lane, FINISH_CANCELLED);
        else if (!e->done[lane] && e->n_tokens[lane] >= lose_after)
            lose_lane(e, lane);
        else if (!e->done[lane] && lane == setting("FAKE_FAIL_LANE", -1) && e->n_tokens[lane] >= 5)
            end_lane(e, lane, FINISH_ERROR);
        else if (!e->done[lane] && e->n_tokens[lane] >= total)
            end_lane(e, lane, FINISH_STOP);
        n_done += e->done[lane];
    }
    if (tell)
        e->last_metrics_ms = now;
    progress(e, PHASE_DECODE, (uint64_t)e->n_tokens[0], (uint64_t)total, 1);
    if (n_done == n_lanes)
        end(e);
}

static void loaded(struct engine *e)
{
    push(e, (struct event){.kind = EVENT_LOADED,
                           .loaded = {.path = xstrdup("/models/fake"),
                                      .name = xstrdup("Qwen2.5-7B-Instruct"),
                                      .family = "qwen2",
                                      .dtype = "bf16",
                                      .kv_dtype = "bf16",
                                      .backend = "fake",
                                      .device = xstrdup("no device"),
                                      .template_source = xstrdup("test"),
                                      .n_layers = 28,
                                      .n_heads = 28,
                                      .n_kv_heads = 4,
                                      .head_dim = 128,
                                      .dim = 3584,
                                      .vocab_size = 65536,
                                      .max_seq_len = 131072}});
}

static void advance(struct engine *e)
{
    int64_t now = now_ms(), spent = now - e->command_ms;
    if (e->doing == LOADING) {
        int ms = setting("FAKE_LOAD_MS", 100);
        progress(e, PHASE_LOAD, (uint64_t)spent, (uint64_t)ms, -1);
        if (setting("FAKE_LOSE_LOAD", 0)) {
            struct event failed = {.kind = EVENT_FAILED, .device_lost = true};
            fail_code(&failed.failed, EXIT_CODE_RUNTIME, "%s", LOST);
            push(e, failed);
            e->doing = IDLE;
        } else if (e->cancelled || spent >= ms) {
            if (!e->cancelled)
                loaded(e);
            end(e);
        }
    } else if (e->doing == PREFILL) {
        int ms = setting("FAKE_PREFILL_MS", 200);
        progress(e, PHASE_PREFILL, (uint64_t)spent, (uint64_t)(ms ? ms : 1),
                 (double)(ms - spent) / 1000);
        if (e->cancelled || spent >= ms) {
            push(e, (struct event){.kind = EVENT_CONTEXT,
                                   .context = {.n_tokens = 32104, .prefill_ms = ms}});
            e->doing = DECODE;
            e->decode_ms = now;
        }
    } else if (e->doing == DECODE) {
        decode(e, now);
    }
}

bool engine_poll(struct engine *e, struct event *out)
{
    uint64_t n_ticks;
    if (read(e->timer_fd, &n_ticks, sizeof n_ticks) > 0 || e->head == e->tail)
        advance(e);
    if (e->head == e->tail) {
        if (e->doing == IDLE)
            set_timer(e, false);
        return false;
    }
    *out = e->queue[e->head++ % QUEUE];
    return true;
}

bool engine_wait(struct engine *e, struct event *out, int timeout_ms)
{
    for (int64_t end_ms = now_ms() + timeout_ms; !engine_poll(e, out);) {
        if (timeout_ms >= 0 && now_ms() >= end_ms)
            return false;
        usleep(1000);
    }
    return true;
}
