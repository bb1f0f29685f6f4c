/* A HuggingFace tokenizer.json, read whole: text to token ids and back.
 *
 * Byte-level BPE (GPT-2, Llama 3, Qwen, ...) and SentencePiece-style BPE (Llama 2, Mistral,
 * TinyLlama).  Source: the `tokenizers` library; behaviour as docs and tests describe it.
 * A loaded tokenizer is immutable: any thread may use it. */
#ifndef ATTNSCOPE_ENGINE_TEXT_TOKENIZER_H
#define ATTNSCOPE_ENGINE_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/base/error.h"

struct tokenizer;

/* Token ids, in order.  Zero-initialise; free with token_list_free. */
struct token_list {
    int32_t *ids; /* [capacity], owned */
    size_t n;
    size_t capacity;
};

void token_list_add(struct token_list *list, int32_t id);
void token_list_append(struct token_list *list, const int32_t *ids, size_t n);
void token_list_free(struct token_list *list);

enum tokenize_flags {
    TOKENIZE_PLAIN = 0,           /* special-token text inside the input is plain text */
    TOKENIZE_SPECIAL = 1 << 0,    /* recognise added special tokens in the text */
    TOKENIZE_ADD_BOS_EOS = 1 << 1 /* run the post-processor (adds BOS and the like) */
};

/* Reads folder/tokenizer.json, or vocab.json + merges.txt, with what tokenizer_config.json
 * changes.  NULL on failure.  The caller closes it with tokenizer_close. */
struct tokenizer *tokenizer_open(const char *folder, struct error *err);
void tokenizer_close(struct tokenizer *t);

#define MAX_TOKENIZER_TEXT_BYTES ((size_t)64 << 20)

/* Appends the ids of text [n bytes] to out.  Broken UTF-8 becomes U+FFFD first.  False, with out as
 * it was, only if n is over the limit or a regular expression exceeds its own. */
bool tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, int flags,
                      struct token_list *out, struct error *err);

/* Appends the text of ids [n] to out, special tokens left out when skip_special. */
void tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                      struct buf *out);

/* The token's own spelling in the vocabulary (e.g. "Ġthe"), NULL for an id without token. */
const char *tokenizer_piece(const struct tokenizer *t, int32_t id);
/* The id of a token spelled exactly so (added tokens too), or -1. */
int32_t tokenizer_find(const struct tokenizer *t, const char *piece);
bool tokenizer_is_special(const struct tokenizer *t, int32_t id);
/* One past the largest id. */
int32_t tokenizer_vocab_size(const struct tokenizer *t);
/* The content of bos_token, eos_token, unk_token, pad_token in tokenizer_config.json, by that
 * name; NULL if there is none. */
const char *tokenizer_special(const struct tokenizer *t, const char *name);

/* Streaming: ids one at a time, whole characters out, special tokens left out.  The concatenation
 * of what is appended (with the flush) equals tokenizer_decode of all ids with skip_special; after
 * the flush a new text may begin.  The tokenizer outlives the detokenizer. */
struct detokenizer {
    const struct tokenizer *tokenizer; /* borrowed */
    struct decoder_run *run;           /* owned: what may still change is held back in it */
};

void detokenizer_init(struct detokenizer *d, const struct tokenizer *t);
void detokenizer_push(struct detokenizer *d, int32_t id, struct buf *out);
void detokenizer_flush(struct detokenizer *d, struct buf *out);
void detokenizer_free(struct detokenizer *d);

#endif
