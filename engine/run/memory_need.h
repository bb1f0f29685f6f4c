/* What an ask takes of the device's memory, known before any of it is taken. */
#ifndef ATTNSCOPE_ENGINE_RUN_MEMORY_NEED_H
#define ATTNSCOPE_ENGINE_RUN_MEMORY_NEED_H

#include <stdbool.h>

#include "engine/base/error.h"
#include "engine/run/request.h"
#include "engine/run/worker.h"

/* Whether a context of n_context tokens, the request's lanes with up to n_more tokens each (the
 * longest question and its answer) and the computing fit the memory that is free or that the last
 * ask left behind; a kept context that is in the way is let go.  Otherwise err says what is needed,
 * what is free and what would fit. */
bool memory_need_check(struct worker *w, const struct request *request, int n_context, int n_more,
                       struct error *err);

#endif
