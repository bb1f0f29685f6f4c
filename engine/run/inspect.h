/* Looks at one step of an answer that was given: what each head of each layer kept, and every key
 * of one head. */
#ifndef ATTNSCOPE_ENGINE_RUN_INSPECT_H
#define ATTNSCOPE_ENGINE_RUN_INSPECT_H

#include <stdint.h>

#include "engine/base/error.h"
#include "engine/run/request.h"
#include "engine/run/worker.h"

/* Step 0 is the question's last token, step s > 0 the one that is fed fed[s - 1]. */
struct inspection {
    uint64_t tag;            /* comes back with the evidence */
    struct request *request; /* one question and one lane, that which is looked at; owned */
    int32_t *fed;            /* [n_fed] the answer's tokens as they were fed; owned */
    int n_fed;
    int step;        /* 0 .. n_fed */
    int layer, head; /* whose keys are wanted; layer -1: the figures of all heads are enough */
    /* What led to the step, and the queries in it, are dense attention's: what the lane's stack
     * would choose along the dense answer, which fed then is.  Another stack costs but this step.
     */
    bool on_dense_path;
};
void inspection_free(struct inspection *i);

/* The lane as far as it has been computed again, kept for the next look at the same answer. */
struct inspector;
void inspector_close(struct inspector *p); /* NULL: nothing */

/* Computes the step again, after what led to it where that is not kept, and tells the evidence.
 * False: it failed, err says why.  A cancel ends it with nothing told. */
bool inspect(struct worker *w, const struct inspection *i, struct error *err);

#endif
