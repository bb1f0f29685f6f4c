/* Tokens by id and by spelling.  Immutable once loaded. */
#ifndef ATTNSCOPE_ENGINE_TEXT_VOCABULARY_H
#define ATTNSCOPE_ENGINE_TEXT_VOCABULARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"

#define MAX_VOCAB_TOKENS 4000000
#define MAX_ADDED_TOKENS 100000
#define MAX_TOKEN_BYTES 65536
#define MAX_TOKEN_ID (MAX_VOCAB_TOKENS + MAX_ADDED_TOKENS)

struct vocabulary;

struct token {
    const char *text;    /* [n] and a NUL, owned by the vocabulary */
    const char *decoded; /* [n_decoded]: what the decoder gets; the text, unless set otherwise */
    uint32_t n, n_decoded;
    int32_t id;
    bool in_model;    /* the model itself can give it; false for one that is only added */
    bool special;     /* left out of decoded text when asked */
    int32_t added_at; /* its place among the added tokens, or -1 */
};

struct vocabulary *vocabulary_new(void);
void vocabulary_free(struct vocabulary *v);

/* Adds a token.  Fails if its id or its spelling is taken by another, or is out of bounds. */
bool vocabulary_add(struct vocabulary *v, const char *text, int64_t id, bool in_model,
                    struct error *err);
void vocabulary_set_added(struct vocabulary *v, int32_t id, int32_t added_at, bool special);
/* Makes the decoder get another text [n], which is copied. */
void vocabulary_set_decoded(struct vocabulary *v, int32_t id, const char *text, size_t n);

/* NULL if there is none.  Valid until the next vocabulary_add. */
const struct token *vocabulary_by_id(const struct vocabulary *v, int64_t id);
const struct token *vocabulary_by_text(const struct vocabulary *v, const char *text, size_t n);
/* The id of a token of the model itself, or -1. */
int32_t vocabulary_model_id(const struct vocabulary *v, const char *text, size_t n);

int32_t vocabulary_id_end(const struct vocabulary *v); /* one past the largest id */

#endif
