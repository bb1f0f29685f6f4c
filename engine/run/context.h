/* The context's prefill: dense, in chunks, once; kept for all questions and for the next request
 * that starts with the same tokens. */
#ifndef ATTNSCOPE_ENGINE_RUN_CONTEXT_H
#define ATTNSCOPE_ENGINE_RUN_CONTEXT_H

#include <stdbool.h>

#include "engine/base/error.h"
#include "engine/run/worker.h"
#include "engine/text/tokenizer.h"

/* Brings the KV cache to hold exactly ids [n >= 0], reusing what it holds.  n_more is the most
 * keys that will follow them (question and answer).  *reused: nothing was prefilled.  A cancel
 * leaves what was done for the next call and returns true with *complete false. */
bool context_prefill(struct worker *w, const struct token_list *ids, int n_more, bool *reused,
                     bool *complete, struct error *err);
void context_close(struct worker *w);

/* Rows of the chunk that starts at position pos: as many as suit the device, and as keep a cancel
 * within 200 ms.  A function of the model and pos alone, so that the same prompt is always cut the
 * same. */
int context_chunk_rows(const struct model *m, int pos);
/* Tokens for which the cache of a context of n tokens has room. */
int context_capacity(int n);

#endif
