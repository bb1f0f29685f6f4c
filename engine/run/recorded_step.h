/* A lane's decode step, recorded once and replayed for every further token.
 *
 * The idea to hold: all that changes from one step to the next (where it stands, the token it is
 * fed) lies in device memory of the lane's own, and the recording's last operation moves that on to
 * the next token.  So a block of steps is enqueued without waiting for any of them, and the host
 * learns afterwards what was chosen.  Steps after one that turns out to end the answer were
 * computed for nothing: since what each step counted is kept apart, they leave no trace. */
#ifndef ATTNSCOPE_ENGINE_RUN_RECORDED_STEP_H
#define ATTNSCOPE_ENGINE_RUN_RECORDED_STEP_H

#include <stdbool.h>

#include "engine/attention/sparse_attention.h"
#include "engine/base/error.h"
#include "engine/run/answer.h"
#include "engine/run/worker.h"
#include "kernels/backend.h"

/* Whose step it is; all borrowed. */
struct step_owner {
    struct worker *w;
    const struct kv_tail *tail;
    struct sparse_attention *attention;
    struct attention_counts *counts; /* (device) [n_layers]; NULL: nothing is counted */
    const struct sampling *sampling;
    int max_keys; /* of the lane's last step */
};

struct recorded_step;

/* Memory only; NULL with err if there is none. */
struct recorded_step *recorded_step_open(const struct step_owner *owner, struct error *err);
void recorded_step_close(struct recorded_step *r);

/* Records the step, unless that is done.  Every kind of operation that a step holds must have run
 * before, which sizes what it works in.  False: it cannot be recorded. */
bool recorded_step_record(struct recorded_step *r);

/* A block of steps. */
struct step_block {
    int n_steps;             /* 1..WORKER_BLOCK_STEPS */
    struct step_state state; /* before the first one */
    int32_t token;           /* fed to the first one */
    /* [n_steps] or NULL: fed to each step in place of what the last one chose; the logits are then
     * compared with those that were kept of the same step. */
    const int32_t *forced;
    bool keep_logits; /* keep the logits of every step, for others to be compared with */
};

/* Makes the steps and waits for them: fills steps [n_steps]. */
bool recorded_step_run(struct recorded_step *r, const struct step_block *block,
                       struct answer_step *steps, struct error *err);
/* What the owner's counts were after step i of the last block: [n_layers], until the next. */
const struct attention_counts *recorded_step_counts(const struct recorded_step *r, int i);

#endif
