/* The sentences for names that no masker or parameter has, and what is said of a group of layers.
 * For the parsers of stacks. */
#ifndef ATTNSCOPE_ENGINE_ATTENTION_STACK_NAMES_H
#define ATTNSCOPE_ENGINE_ATTENTION_STACK_NAMES_H

#include <stdbool.h>

#include "engine/attention/masker.h"
#include "engine/base/error.h"

/* Both name the nearest match and all that exist, and return false. */
bool stack_unknown_masker(const char *name, struct error *err);
bool stack_unknown_param(const struct masker *m, const char *name, struct error *err);

/* Puts "layers NAMES: " in front of err's sentence, names as a person wrote them; returns false. */
bool stack_fail_in_layers(const char *names, struct error *err);

#endif
