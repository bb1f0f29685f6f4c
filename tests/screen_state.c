#include "tests/screen_state.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/memory.h"

static const char *const DENSE[] = {
    "The",       " Harwick", " bridge", " was",     " opened", " to",        " traffic",
    " in",       " 1867,",   " after",  " a",       " four",   " year",      " delay",
    " caused",   " by",      " the",    " failure", " of",     " the",       " northern",
    " caisson.", " The",     " first",  " toll",    " was",    " collected", " on",
    " 3",        " May",     " 1867",   " by",      " the",    " company",   " treasurer",
};
static const char *const SPARSE[] = {
    "The",    " Harwick", " bridge",    " was",      " opened",  " to",       " traffic",
    " in",    " 1867,",   " after",     " a",        " delay",   " of",       " four",
    " years", " when",    " the",       " northern", " caisson", " failed.",  " Tolls",
    " were",  " first",   " collected", " on",       " 3",       " May",      " 1867",
    " by",    " the",     " treasurer", " of",       " the",     " company,", " who",
};
enum { N_WORDS = sizeof DENSE / sizeof *DENSE };

static int32_t id_of(const char *word)
{
    int32_t id = 0;
    for (; *word; word++)
        id = (id * 31 + (unsigned char)*word) & 0xFFFF;
    return id;
}

static void apply(struct app *app, struct event e)
{
    app_apply_event(app, &e);
    event_free(&e);
}

static void add_tokens(struct app *app, int lane, int n)
{
    for (int i = 0; i < n; i++) {
        const char *word = lane ? SPARSE[i % N_WORDS] : DENSE[i % N_WORDS];
        apply(app, (struct event){.kind = EVENT_TOKEN,
                                  .token = {.lane = lane,
                                            .index = i,
                                            .id = id_of(word),
                                            .text = xstrdup(word),
                                            .n_text = strlen(word)}});
    }
}

static void add_metrics(struct app *app, int lane, int n)
{
    struct lane_metrics m = {.lane = lane,
                             .n_tokens = n,
                             .density = lane ? 0.089 : 1,
                             .read_density = lane ? 0.1 : 1,
                             .attention_us_per_token = lane ? 2000 : 12000,
                             .step_ms_per_token = lane ? 17 : 32,
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
                             .kv_bytes_per_step = 160u << 20,
                             .kv_bytes_per_step_dense = 1840u << 20,
                             .divergence = {.index = -1}};
    if (lane && n > 11)
        m.divergence = (struct divergence){.index = 11,
                                           .base_id = id_of(" four"),
                                           .lane_id = id_of(" delay"),
                                           .base_text = xstrdup(" four"),
                                           .lane_text = xstrdup(" delay"),
                                           .base_prob = 0.44f,
                                           .lane_prob = 0.41f,
                                           .margin = 0.06f,
                                           .near_tie = true};
    apply(app, (struct event){.kind = EVENT_METRICS, .metrics = m});
}

static void load_lanes(struct app *app, int n_lanes)
{
    static const char *const stacks[] = {"", "sink:128,local:512,oracle-topp:0.9",
                                         "sink:4,local:64", "sink:4,local:64,random:0.1"};
    struct request_lane lanes[REQUEST_MAX_LANES] = {{.name = "dense"}};
    struct error err;
    for (int i = 1; i < n_lanes; i++) {
        stack_parse(&lanes[i].stack, stacks[1 + (i - 1) % 3], &err);
        lanes_name(&lanes[i].stack, lanes[i].name);
    }
    lanes_load(&app->lanes, lanes, n_lanes);
}

/* As app_run_question does, without an engine. */
static void begin_run(struct app *app)
{
    struct request r;
    struct error err;
    request_init(&r);
    request_add_question(&r, app->questions[0].text, &err);
    r.lanes[0] = app->lanes.lane[0];
    for (int i = 1; i < app->lanes.n; i++)
        request_add_lane(&r, app->lanes.lane[i].name, &app->lanes.lane[i].stack, &err);
    app->questions[0].report = report_new(&r, &app->model);
    app->questions[0].state = QUESTION_RUNNING;
    app->questions[0].context_version = app->context_version;
    app->running = 0;
    app->state = RUN_RUNNING;
    request_free(&r);
}

void screen_state_fill(struct app *app, int width, int height, int n_lanes, int n_tokens,
                       bool running)
{
    struct workbench_options options = {0};
    app_init(app, &options);
    app->width = width;
    app->height = height;
    app->now_ms = 1000;
    app->run_started_ms = -8000;
    load_lanes(app, n_lanes);
    app_set_context(app, xstrdup("The minutes of the company."), 27, "minutes.txt");
    app_add_question(app, "What year was the Harwick bridge opened to traffic?");
    app_add_question(app, "Who signed the contract?");
    app->current_question = 0;
    apply(app, (struct event){.kind = EVENT_LOADED,
                              .loaded = {.name = xstrdup("Qwen2.5-7B-Instruct"),
                                         .family = "qwen2",
                                         .dtype = "bf16",
                                         .backend = "cpu",
                                         .device = xstrdup("2 threads"),
                                         .n_layers = 28,
                                         .n_heads = 28,
                                         .n_kv_heads = 4,
                                         .max_seq_len = 131072}});
    begin_run(app);
    apply(app, (struct event){.kind = EVENT_CONTEXT, .context = {.n_tokens = 32104}});
    for (int lane = 0; lane < n_lanes; lane++) {
        add_tokens(app, lane, n_tokens);
        add_metrics(app, lane, n_tokens);
        if (!running)
            apply(app, (struct event){.kind = EVENT_DONE,
                                      .done = {.lane = lane, .finish = FINISH_STOP}});
    }
    apply(app, (struct event){.kind = EVENT_PROGRESS, .progress = {PHASE_DECODE, 41, 100, 30, 4}});
    if (!running)
        apply(app, (struct event){.kind = EVENT_FINISHED, .finished = {.wall_ms = 9100}});
    app->shown.at_ms = 0;
    app_tick(app);
    app_before_frame(app);
}
