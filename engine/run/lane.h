/* A lane: one stack answering one question over the shared context, step by step.
 *
 * A lane owns its tail of the KV cache, its stack's state and what was measured of each step.  The
 * engine thread steps the lanes of a question in turn. */
#ifndef ATTNSCOPE_ENGINE_RUN_LANE_H
#define ATTNSCOPE_ENGINE_RUN_LANE_H

#include <stdbool.h>

#include "engine/attention/sparse_attention.h"
#include "engine/base/buf.h"
#include "engine/base/error.h"
#include "engine/run/answer.h"
#include "engine/run/dense_cache.h"
#include "engine/run/event.h"
#include "engine/run/prompt.h"
#include "engine/run/recorded_step.h"
#include "engine/run/request.h"
#include "engine/run/worker.h"
#include "engine/text/tokenizer.h"

enum { LANE_PROBE_EVERY = 16 };

/* What a lane of a request keeps from one question to the next: its attention, whose indexes over
 * the context are built once.  Owned by the run; zeroed at first. */
struct lane_kept {
    struct sparse_attention *attention; /* NULL: not yet, or it failed */
    int n_more;                         /* keys beside the context that it must have room for */
};

struct lane {
    struct worker *w; /* borrowed, as the next two */
    const struct request *request;
    const struct token_list *question; /* its tokens */
    int question_index, index;         /* which question, which lane of the request */
    int n_context, max_tokens;
    bool dense;             /* its stack has no maskers */
    struct lane_kept *kept; /* borrowed */
    struct sparse_attention *attention;
    struct kv_tail tail;
    bool tail_open;
    struct attention_counts *counts; /* (device) [n_layers]; NULL for dense */
    struct attention_counts counted; /* their sum over layers, of the steps in steps; dense: 0 */
    struct attention_counts question_counts; /* the same after the question pass */
    struct recorded_step *recorded;          /* NULL: every step is enqueued anew */
    const struct dense_answer *replay; /* a cached answer that is told again; NULL: computed */
    double index_build_ms;             /* 0: it was kept */
    struct answer_step *steps;         /* [max_tokens], n_steps made */
    int n_steps;
    struct detokenizer detokenizer;
    struct buf text; /* the answer so far */
    bool ended;
    enum finish finish; /* once ended */
    char *error;        /* FINISH_ERROR */
};

/* Makes a lane ready for its question pass.  Always leaves a lane that lane_close frees; if
 * memory is missing the lane has ended with FINISH_ERROR. */
void lane_open(struct lane *l, struct worker *w, const struct request *request,
               const struct prompt *prompt, int question, int index, int max_tokens,
               const struct dense_answer *replay, struct lane_kept *kept);
/* Gives what is kept back, unless the lane failed. */
void lane_close(struct lane *l);
void lane_kept_close(struct lane_kept *kept);

/* Makes and tells the next token, or up to n_most of them where they can be had in one go: step 0
 * is the question pass.  base is lane 0 in forced mode: its tokens are fed in place of the lane's
 * own, and it is at least n_most steps ahead (or has ended there); NULL otherwise, and for lane 0
 * itself.  The lane may have ended after. */
void lane_step(struct lane *l, const struct lane *base, int n_most);

/* Ends a lane that is still running. */
void lane_end(struct lane *l, enum finish finish);
void lane_fail(struct lane *l, const struct error *err);

#endif
