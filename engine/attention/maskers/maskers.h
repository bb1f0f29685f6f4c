/* The maskers by name, for the table, and what several of them share. */
#ifndef ATTNSCOPE_ENGINE_ATTENTION_MASKERS_MASKERS_H
#define ATTNSCOPE_ENGINE_ATTENTION_MASKERS_MASKERS_H

#include "engine/attention/masker.h"

extern const struct masker masker_sink;
extern const struct masker masker_local;
extern const struct masker masker_causal;
extern const struct masker masker_oracle_topk;
extern const struct masker masker_oracle_topp;
extern const struct masker masker_random;
extern const struct masker masker_adaptive;
extern const struct masker masker_hash;
extern const struct masker masker_quest;
extern const struct masker masker_double_sparsity;
extern const struct masker masker_pq;
extern const struct masker masker_socket;
extern const struct masker masker_magicpig;
extern const struct masker masker_reuse;

/* Words of `share`, in the order of enum share. */
extern const char *const masker_share_words[];

/* Bounds of a number of keys: any count of at least one, any fraction above 0. */
#define MASKER_BUDGET_BOUNDS .min = 1, .max = 1 << 30, .min_fraction = 0, .max_fraction = 1e6

/* How much a top-k masker adds; what: its help. */
#define MASKER_PARAM_HEAVY(what)                                                                   \
    {                                                                                              \
        .name = "heavy_size", .reference_name = "heavy_size", .label = "size", .help = what,       \
        .kind = PARAM_BUDGET, MASKER_BUDGET_BOUNDS, .step = 16,                                    \
        .fallback = {.is_fraction = true, .value = 0.10},                                          \
    }
#define MASKER_HEAVY_KEYS "How many keys to add: a count, or a share of all keys."

/* Top-p within the budget, over an index's scores. */
#define MASKER_PARAM_TOP_P(what)                                                                   \
    {                                                                                              \
        .name = "top_p", .label = "top-p", .unit = "of the mass", .kind = PARAM_REAL, .min = 0,    \
        .max = 1, .max_exclusive = true, .step = 0.05,                                             \
        .help = "Only the fewest best " what " that hold more than this share of the mass by "     \
                "their scores, at most heavy_size (Twilight, arXiv 2502.02770); 0: off.",          \
    }

#define MASKER_PARAM_SHARE                                                                         \
    {                                                                                              \
        .name = "share", .label = "share", .kind = PARAM_CHOICE, .choices = masker_share_words,    \
        .help = "head: each query head chooses its own keys; group: the heads of a KV group "      \
                "choose together, which reads fewer rows.",                                        \
        .fallback = {.value = SHARE_HEAD},                                                         \
    }

static inline enum share masker_share(const struct masker_values *values, int param)
{
    return values->param[param].value == SHARE_GROUP ? SHARE_GROUP : SHARE_HEAD;
}

/* Chooses by the score buffer: the best `heavy` keys, or fewer where top_p > 0. */
static inline void masker_select_best(const struct masker_call *call, struct budget heavy,
                                      double top_p, enum share share)
{
    if (top_p > 0)
        call->backend->select_top_p(call->dev, call->selection, call->att, top_p, false, heavy,
                                    call->logit_scale, share);
    else
        call->backend->select_top_k(call->dev, call->selection, call->att, heavy, share);
}

#endif
