/* Finished dense answers of the loaded model, so that changing only the sparse side computes only
 * the sparse side.  Engine thread only. */
#ifndef ATTNSCOPE_ENGINE_RUN_DENSE_CACHE_H
#define ATTNSCOPE_ENGINE_RUN_DENSE_CACHE_H

#include <stdint.h>

#include "engine/run/answer.h"
#include "engine/run/event.h"
#include "engine/text/tokenizer.h"

enum { DENSE_CACHE_ENTRIES = 64 };

/* All that a dense answer depends on. */
struct dense_key {
    uint64_t hash[2]; /* two hashes of the context's and the question's tokens */
    size_t n_context, n_question;
    uint64_t seed;
    struct sampling sampling;
    int max_tokens;
};

struct dense_key dense_key_make(const struct token_list *context, const struct token_list *question,
                                uint64_t seed, const struct sampling *sampling, int max_tokens);

struct dense_answer {
    struct dense_key key;
    struct answer_step *steps; /* [n_steps] owned */
    int n_steps;
    enum finish finish; /* FINISH_STOP or FINISH_LENGTH */
    double index_build_ms;
};

struct dense_cache {
    struct dense_answer entries[DENSE_CACHE_ENTRIES];
    int n, next; /* entries used; the one to replace next */
};

/* NULL if there is none; valid until the next put or clear. */
const struct dense_answer *dense_cache_find(const struct dense_cache *c,
                                            const struct dense_key *key);
/* Copies answer in, in place of the oldest. */
void dense_cache_put(struct dense_cache *c, const struct dense_answer *answer);
void dense_cache_clear(struct dense_cache *c);

#endif
