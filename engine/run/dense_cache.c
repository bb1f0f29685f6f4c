#include "engine/run/dense_cache.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"

/* FNV-1a over the ids, with the second hash started elsewhere. */
static void hash_ids(uint64_t hash[2], const struct token_list *list)
{
    for (size_t i = 0; i < list->n; i++) {
        for (int shift = 0; shift < 32; shift += 8) {
            uint64_t byte = (uint32_t)list->ids[i] >> shift & 0xFF;
            hash[0] = (hash[0] ^ byte) * 0x100000001B3u;
            hash[1] = (hash[1] ^ byte) * 0x9E3779B97F4A7C15u;
            hash[1] ^= hash[1] >> 29;
        }
    }
}

struct dense_key dense_key_make(const struct token_list *context, const struct token_list *question,
                                uint64_t seed, const struct sampling *sampling, int max_tokens)
{
    struct dense_key key = {
        .hash = {0xCBF29CE484222325u, 0x6A09E667F3BCC909u},
        .n_context = context->n,
        .n_question = question->n,
        .seed = seed,
        .sampling = *sampling,
        .max_tokens = max_tokens,
    };
    hash_ids(key.hash, context);
    hash_ids(key.hash, question);
    return key;
}

static bool key_equal(const struct dense_key *a, const struct dense_key *b)
{
    return a->hash[0] == b->hash[0] && a->hash[1] == b->hash[1] && a->n_context == b->n_context &&
           a->n_question == b->n_question && a->seed == b->seed &&
           a->sampling.temperature == b->sampling.temperature &&
           a->sampling.top_p == b->sampling.top_p && a->sampling.min_p == b->sampling.min_p &&
           a->sampling.top_k == b->sampling.top_k && a->max_tokens == b->max_tokens;
}

const struct dense_answer *dense_cache_find(const struct dense_cache *c,
                                            const struct dense_key *key)
{
    for (int i = 0; i < c->n; i++)
        if (key_equal(&c->entries[i].key, key))
            return &c->entries[i];
    return NULL;
}

void dense_cache_put(struct dense_cache *c, const struct dense_answer *answer)
{
    struct dense_answer *to = &c->entries[c->next];
    free(to->steps);
    *to = *answer;
    to->steps = xcalloc((size_t)answer->n_steps, sizeof *to->steps);
    memcpy(to->steps, answer->steps, (size_t)answer->n_steps * sizeof *to->steps);
    c->next = (c->next + 1) % DENSE_CACHE_ENTRIES;
    if (c->n < DENSE_CACHE_ENTRIES)
        c->n++;
}

void dense_cache_clear(struct dense_cache *c)
{
    for (int i = 0; i < c->n; i++)
        free(c->entries[i].steps);
    memset(c, 0, sizeof *c);
}
