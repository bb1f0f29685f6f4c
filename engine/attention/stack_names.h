/* The sentences for names that no masker or parameter has.  For the parsers of stacks. */
#ifndef ATTNSCOPE_ENGINE_ATTENTION_STACK_NAMES_H
#define ATTNSCOPE_ENGINE_ATTENTION_STACK_NAMES_H

#include <stdbool.h>

#include "engine/attention/masker.h"
#include "engine/base/error.h"

/* Both name the nearest match and all that exist, and return false. */
bool stack_unknown_masker(const char *name, struct error *err);
bool stack_unknown_param(const struct masker *m, const char *name, struct error *err);

#endif
