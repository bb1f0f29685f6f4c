/* Added tokens: spellings found in the text itself, before the model sees what lies between. */
#ifndef ATTNSCOPE_ENGINE_TEXT_ADDED_TOKENS_H
#define ATTNSCOPE_ENGINE_TEXT_ADDED_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/json.h"
#include "engine/text/normalizer.h"
#include "engine/text/vocabulary.h"

struct added_token {
    char *content;
    int32_t id;
    bool special;
    bool single_word; /* no match where a word character touches it */
    bool lstrip;      /* a match swallows the white space on its left */
    bool rstrip;      /* and on its right */
    bool normalized;  /* looked for in the normalized text, else in the raw text */
};

struct added_tokens;

struct added_tokens *added_tokens_new(void);
void added_tokens_free(struct added_tokens *added);

/* Puts one token in, owned content and all; one with the same id gives way to it.  The vocabulary
 * gets the token if it lacks it.  Fails if the id or the spelling is another's. */
bool added_tokens_put(struct added_tokens *added, struct added_token token,
                      struct vocabulary *vocab, struct error *err);
/* Reads {"content": ..., "special": ..., ...} under the given id and puts it in. */
bool added_tokens_load(struct added_tokens *added, const struct json *v, int64_t id,
                       struct vocabulary *vocab, struct error *err);
/* Makes ready for matching: once, after the last put.  As in the reference, a token that is looked
 * for in normalized text is also decoded to its normalized spelling. */
bool added_tokens_build(struct added_tokens *added, const struct normalizer *normalizer,
                        struct vocabulary *vocab, struct error *err);

/* One walk over a text [n], valid UTF-8, from left to right: leftmost match, then longest. */
struct added_walk {
    const struct added_matcher *matcher; /* borrowed */
    const char *text;
    size_t n;
    size_t at;          /* where the next search begins */
    bool avoid_special; /* special tokens are plain text */
    size_t start, end;  /* the match, with the space that it swallowed */
    int32_t id;
};

void added_walk_start(struct added_walk *w, const struct added_tokens *added, bool normalized,
                      bool avoid_special, const char *text, size_t n);
/* False when there are no more. */
bool added_walk_next(struct added_walk *w);

#endif
