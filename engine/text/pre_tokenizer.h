/* The pre-tokenizer: cuts normalized text into the words that the model sees one by one. */
#ifndef ATTNSCOPE_ENGINE_TEXT_PRE_TOKENIZER_H
#define ATTNSCOPE_ENGINE_TEXT_PRE_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/buf.h"
#include "engine/base/error.h"
#include "engine/base/json.h"

/* Words of one text, in order. */
struct word_list {
    struct buf text; /* what the words are parts of */
    struct word {
        size_t start, n; /* bytes of text */
        bool is_first;   /* begins at the very start of the user's input */
    } * words;           /* [capacity] */
    size_t n, capacity;
};

void word_list_clear(struct word_list *list);
void word_list_add(struct word_list *list, size_t start, size_t n, bool is_first);
void word_list_free(struct word_list *list);

struct pre_tokenizer;

/* From the "pre_tokenizer" of a tokenizer.json; null is one that leaves the text whole.  NULL on
 * failure. */
struct pre_tokenizer *pre_tokenizer_load(const struct json *v, struct error *err);
/* ByteLevel with the expression of GPT-2. */
struct pre_tokenizer *pre_tokenizer_byte_level(bool add_prefix_space, struct error *err);
void pre_tokenizer_free(struct pre_tokenizer *p);
/* Overrides add_prefix_space of every ByteLevel step. */
void pre_tokenizer_set_prefix_space(struct pre_tokenizer *p, bool add_prefix_space);

/* Cuts every word of the list further.  False only if a regular expression exceeds its limit.
 * Any thread, each with its own list. */
bool pre_tokenizer_run(const struct pre_tokenizer *p, struct word_list *list, struct error *err);

#endif
