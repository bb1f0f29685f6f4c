/* What the engine thread tells: moved by value through a bounded queue.  A consumer frees each
 * event with event_free. */
#ifndef ATTNSCOPE_ENGINE_RUN_EVENT_H
#define ATTNSCOPE_ENGINE_RUN_EVENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/attention/evidence.h"
#include "engine/attention/sparse_attention.h"
#include "engine/base/error.h"
#include "engine/run/request.h"

enum event_kind {
    EVENT_LOADED,   /* a model is ready */
    EVENT_PROGRESS, /* how far the present phase is; at most ~20 a second */
    EVENT_CONTEXT,  /* the context is in the KV cache */
    EVENT_TOKEN,    /* one token of one lane */
    EVENT_METRICS,  /* a lane's figures so far: about 4 a second, before its done, and once more
                     * when all lanes of the question have ended and can be compared whole */
    EVENT_DONE,     /* a lane's answer to a question has ended; exactly one for each */
    EVENT_EVIDENCE, /* what a step kept, as an inspection asked */
    EVENT_FINISHED, /* the command (load, ask, inspect) has ended; the engine is idle again */
    EVENT_FAILED    /* the command ended with an error (then no EVENT_FINISHED) */
};

enum phase { PHASE_LOAD, PHASE_TOKENIZE, PHASE_PREFILL, PHASE_QUESTION, PHASE_DECODE };

enum finish { FINISH_STOP, FINISH_LENGTH, FINISH_CANCELLED, FINISH_ERROR };

const char *phase_name(enum phase phase);    /* "load", "prefill", ... */
const char *finish_name(enum finish finish); /* "stop", "length", "cancelled", "error" */

/* What is loaded, for headers and reports.  Strings are owned by the event. */
struct model_info {
    char *path; /* folder as given or resolved */
    char *name; /* last part of the path, or org/name */
    char family[32];
    char dtype[16]; /* of the weights: "bf16" */
    char kv_dtype[8];
    char backend[16];
    char *device;          /* the device's own description */
    char *no_gpu;          /* why the cpu backend is used where any would do; NULL if it is not */
    char *template_source; /* where the chat template is from; "none (completion)" */
    char *warnings;        /* lines; NULL if none */
    int n_layers, n_heads, n_kv_heads, head_dim, dim, vocab_size, max_seq_len;
    uint64_t n_params, weight_bytes, kv_bytes_per_token;
    double load_ms;
};

struct progress {
    enum phase phase;
    uint64_t done, total; /* bytes, or tokens */
    double per_s;         /* rate; 0 while unknown */
    double eta_s;         /* < 0 while not stable */
};

struct context_info {
    int n_tokens;      /* in the cache, template text included */
    int n_cut;         /* tokens of the context left out by --keep / --max-context */
    bool reused;       /* the KV cache of the same context was kept: nothing was prefilled */
    double prefill_ms; /* of the prefill that made it */
    uint64_t kv_bytes;
    char *notice; /* e.g. "broken UTF-8 was replaced"; NULL if none */
};

/* One token of a lane, the one that ends an answer included (its text is empty).  In forced mode
 * the lane's own choice, not what it is fed next.  Times are of this step alone. */
struct token_event {
    int question, lane, index; /* index in the answer, from 0 */
    int32_t id;
    char *text; /* [n_text] whole characters that this token completed; may be empty; owned */
    size_t n_text;
    float logprob;
    int64_t step_us;      /* whole step; of the question pass for index 0 */
    int64_t attention_us; /* attention alone */
    int64_t at_us;        /* since the command started */
    bool probed;          /* the step was a probe: its times are not in the averages */
    bool cached;          /* replayed from the cache of dense answers */
};

struct divergence {
    int index;                   /* first index where ids differ; -1: none so far */
    int32_t base_id, lane_id;    /* -1 where that answer has ended */
    char *base_text, *lane_text; /* owned pieces, decoded; NULL if ended */
    float base_prob, lane_prob;  /* each under its own lane's distribution */
    float margin;                /* base lane's logit of base_id less its logit of lane_id */
    bool margin_is_bound; /* lane_id is not among the kept candidates: margin is at least this */
    bool near_tie;
};

struct lane_metrics {
    int question, lane;
    int n_tokens;
    double density, read_density; /* of question (setup B) and answer; 1 for dense, < 0 unknown */
    double attention_us_per_token, step_ms_per_token; /* means over timed decode steps */
    double index_build_ms, question_ms, answer_ms, ttft_ms, itl_ms;
    double speedup_attention, speedup_step, speedup_answer; /* against lane 0; 0: not known yet */
    bool reads_all_keys; /* marked: the speed-up of an oracle says nothing */
    double jaccard;      /* of the words against lane 0's answer so far; < 0 unknown */
    struct divergence divergence;
    double agreement, mean_kl;        /* forced mode; < 0 otherwise */
    double recall_mean, recall_worst; /* < 0 before the first probe */
    int recall_worst_layer, recall_worst_head;
    uint64_t kv_bytes_per_step, kv_bytes_per_step_dense; /* read by attention, mean */
    uint64_t rescued;
    int n_layers;
    struct layer_probe *layers; /* [n_layers] owned, NULL before the first probe */
};

struct done_event {
    int question, lane;
    enum finish finish;
    char *error;      /* FINISH_ERROR: the sentence; owned */
    bool device_lost; /* FINISH_ERROR: only a new process can use the device again */
};

struct evidence_event {
    uint64_t tag; /* the inspection's */
    int step;
    struct evidence *evidence; /* owned */
};

struct event {
    enum event_kind kind;
    int64_t at_us; /* monotonic, since the engine started */
    union {
        struct model_info loaded;
        struct progress progress;
        struct context_info context;
        struct token_event token;
        struct lane_metrics metrics;
        struct done_event done;
        struct evidence_event evidence;
        struct {
            bool cancelled;
            double wall_ms;
        } finished;
        struct {
            struct error failed;
            bool device_lost; /* only a new process can use the device again */
        };
    };
};

void event_free(struct event *e);

#endif
