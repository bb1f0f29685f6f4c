/* What a tokenizer is made of: shared by its loaders and its entry points, nobody else. */
#ifndef ATTNSCOPE_ENGINE_TEXT_TOKENIZER_PARTS_H
#define ATTNSCOPE_ENGINE_TEXT_TOKENIZER_PARTS_H

#include "engine/base/json.h"
#include "engine/text/added_tokens.h"
#include "engine/text/bpe.h"
#include "engine/text/decoder.h"
#include "engine/text/normalizer.h"
#include "engine/text/post_processor.h"
#include "engine/text/pre_tokenizer.h"
#include "engine/text/tokenizer.h"
#include "engine/text/vocabulary.h"

/* The special tokens that tokenizer_config.json names. */
enum special_token { SPECIAL_BOS, SPECIAL_EOS, SPECIAL_UNK, SPECIAL_PAD, N_SPECIAL_TOKENS };

struct tokenizer {
    struct vocabulary *vocab;
    struct added_tokens *added;
    struct normalizer *normalizer;
    struct pre_tokenizer *pre_tokenizer;
    struct bpe *bpe;
    struct post_processor post_processor;
    struct decoder *decoder;
    bool is_gpt2;                    /* from vocab.json and merges.txt */
    char *special[N_SPECIAL_TOKENS]; /* NULL where not named */
};

/* Each fills its share of *t, zero before except for vocab and added; errors do not name the
 * file.  What was filled is freed with t, on failure too. */
bool tokenizer_load_json(struct tokenizer *t, const struct json *root, struct error *err);
/* From vocab.json and the text of merges.txt [n], which it changes. */
bool tokenizer_load_gpt2(struct tokenizer *t, const struct json *vocab, char *merges, size_t n,
                         struct error *err);
/* Names of special tokens: those that t has not got yet. */
bool tokenizer_load_special_names(struct tokenizer *t, const struct json *v, struct error *err);
/* What tokenizer_config.json changes, last of all. */
bool tokenizer_apply_config(struct tokenizer *t, const struct json *config, struct error *err);

#endif
