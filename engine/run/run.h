/* One ask from its text to its last done. */
#ifndef ATTNSCOPE_ENGINE_RUN_RUN_H
#define ATTNSCOPE_ENGINE_RUN_RUN_H

#include "engine/base/error.h"
#include "engine/run/request.h"
#include "engine/run/worker.h"

/* Tokenises, prefills, answers every question in every lane; tells all of it.  False: it failed
 * before any lane began, err says why; the caller tells that.  Otherwise every lane has had its
 * done (cancelled ones too), and the caller tells that the command has ended. */
bool run_ask(struct worker *w, const struct request *request, struct error *err);

#endif
