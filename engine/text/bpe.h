/* Byte-pair encoding: one word to token ids by ranked merges.
 *
 * A word starts as one symbol a character; the adjacent pair with the lowest rank is merged,
 * leftmost first, until no pair has a rank.  SentencePiece-style tokenizers hand over a whole
 * prompt as one word, so the pairs wait in a heap: O(n log n).
 * Source: Sennrich et al. 2016; details as in the `tokenizers` library. */
#ifndef ATTNSCOPE_ENGINE_TEXT_BPE_H
#define ATTNSCOPE_ENGINE_TEXT_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/json.h"
#include "engine/text/tokenizer.h"
#include "engine/text/vocabulary.h"

#define MAX_MERGES 8000000

struct bpe;

/* From the "model" of a tokenizer.json, whose vocabulary is loaded already and is borrowed. */
struct bpe *bpe_load(const struct json *model, const struct vocabulary *vocab, struct error *err);
/* From the lines of a merges.txt [n]. */
struct bpe *bpe_load_lines(char *lines, size_t n, const struct vocabulary *vocab,
                           struct error *err);
void bpe_free(struct bpe *bpe);

/* Room to work in, used again from word to word.  Zero-initialise; one per thread. */
struct bpe_scratch {
    struct bpe_symbol *symbols; /* [symbols_capacity] */
    size_t n_symbols, symbols_capacity;
    uint64_t *heap; /* [heap_capacity], rank << 32 | position */
    size_t n_heap, heap_capacity;
};

void bpe_scratch_free(struct bpe_scratch *s);

/* Appends the ids of word [n], valid UTF-8, n < 2^31.  With avoid_special a word spelled like a
 * special token does not become that token by ignore_merges. */
void bpe_encode(const struct bpe *bpe, const char *word, size_t n, bool avoid_special,
                struct bpe_scratch *scratch, struct token_list *out);

#endif
