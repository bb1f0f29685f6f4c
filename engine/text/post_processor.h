/* The post-processor: the special tokens around an encoded text, such as BOS and EOS. */
#ifndef ATTNSCOPE_ENGINE_TEXT_POST_PROCESSOR_H
#define ATTNSCOPE_ENGINE_TEXT_POST_PROCESSOR_H

#include <stdbool.h>

#include "engine/base/error.h"
#include "engine/base/json.h"
#include "engine/text/tokenizer.h"
#include "engine/text/vocabulary.h"

/* What every kind comes down to for one text: ids before it and ids after it. */
struct post_processor {
    struct token_list before, after;
};

/* From the "post_processor" of a tokenizer.json; null adds nothing.  On success *out, zero before,
 * is freed with post_processor_free. */
bool post_processor_load(struct post_processor *out, const struct json *v,
                         const struct vocabulary *vocab, struct error *err);
void post_processor_free(struct post_processor *p);

/* Makes id the first before the text (or the last after it), or takes it away. */
void post_processor_set_before(struct post_processor *p, int32_t id, bool on);
void post_processor_set_after(struct post_processor *p, int32_t id, bool on);

#endif
