/* The lanes of one question, stepped in alternating blocks (D A B D A B ...), so that all panes
 * stream and every lane meets the machine in the same state. */
#ifndef ATTNSCOPE_ENGINE_RUN_DECODE_H
#define ATTNSCOPE_ENGINE_RUN_DECODE_H

#include "engine/run/lane.h"
#include "engine/run/prompt.h"
#include "engine/run/request.h"
#include "engine/run/worker.h"

/* Answers one question in all lanes, the context being in the KV cache.  Tells tokens, metrics and
 * exactly one done for each lane, whatever happens.  kept [n_lanes]. */
void decode_question(struct worker *w, const struct request *request, const struct prompt *prompt,
                     int question, int max_tokens, struct lane_kept *kept);

/* Tells that a lane of a question ended before it began; error may be NULL. */
void decode_tell_done(struct worker *w, int question, int lane, enum finish finish,
                      const char *error);

#endif
