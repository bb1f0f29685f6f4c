/* The normalizer of a tokenizer: text to text, before it is cut into words. */
#ifndef ATTNSCOPE_ENGINE_TEXT_NORMALIZER_H
#define ATTNSCOPE_ENGINE_TEXT_NORMALIZER_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/buf.h"
#include "engine/base/error.h"
#include "engine/base/json.h"

struct normalizer;

/* From the "normalizer" of a tokenizer.json; null is one that changes nothing.  NULL on failure. */
struct normalizer *normalizer_load(const struct json *v, struct error *err);
void normalizer_free(struct normalizer *normalizer);

/* Appends text [n], valid UTF-8, normalized, to out.  False only if a regular expression exceeds
 * its limit.  Any thread. */
bool normalizer_run(const struct normalizer *normalizer, const char *text, size_t n,
                    struct buf *out, struct error *err);

#endif
