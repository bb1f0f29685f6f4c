/* The decoder: token spellings back to text, one token at a time.
 *
 * A decoder is a chain of steps, each of which passes text and ends of tokens on to the next and
 * holds back only what may still change: the unfinished character, the unfinished run of bytes.
 * Decoding at once is the same run, fed in one go, so that streamed text and whole text agree by
 * construction. */
#ifndef ATTNSCOPE_ENGINE_TEXT_DECODER_H
#define ATTNSCOPE_ENGINE_TEXT_DECODER_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/buf.h"
#include "engine/base/error.h"
#include "engine/base/json.h"

struct decoder;
struct decoder_run;

/* From the "decoder" of a tokenizer.json; null joins the tokens with spaces.  NULL on failure. */
struct decoder *decoder_load(const struct json *v, struct error *err);
struct decoder *decoder_byte_level(void);
void decoder_free(struct decoder *d);

/* The decoder is borrowed.  A run belongs to one thread. */
struct decoder_run *decoder_run_new(const struct decoder *d);
void decoder_run_free(struct decoder_run *run);
/* Takes the spelling of a token [n] and appends to out the text that is certain by now. */
void decoder_run_token(struct decoder_run *run, const char *text, size_t n, struct buf *out);
/* Appends what was held back and makes the run new. */
void decoder_run_finish(struct decoder_run *run, struct buf *out);

#endif
