/* Cutting a word at matches, in the five ways of the `tokenizers` library. */
#ifndef ATTNSCOPE_ENGINE_TEXT_WORD_SPLIT_H
#define ATTNSCOPE_ENGINE_TEXT_WORD_SPLIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/text/pattern.h"
#include "engine/text/pre_tokenizer.h"

enum split_behavior {
    SPLIT_REMOVED,              /* matches vanish */
    SPLIT_ISOLATED,             /* matches and what lies between are words */
    SPLIT_MERGED_WITH_PREVIOUS, /* a match ends the word before it */
    SPLIT_MERGED_WITH_NEXT,     /* a match begins the word after it */
    SPLIT_CONTIGUOUS            /* adjacent matches are one word */
};

/* Matches and gaps of one word: they cover it, in order. */
struct part_list {
    struct part {
        size_t start, end;
        bool is_match;
    } * parts; /* [capacity] */
    size_t n, capacity;
};

void part_list_free(struct part_list *list);
/* Fill the list, emptied first, from text [n] by a pattern or by a class of characters. */
bool parts_by_pattern(struct part_list *list, const struct pattern *pattern, const char *text,
                      size_t n, struct error *err);
void parts_by_class(struct part_list *list, bool (*is_in)(uint32_t c), const char *text, size_t n);

/* Adds the words that the parts of word make to out; changes the parts. */
void split_parts(struct part_list *list, enum split_behavior behavior, bool invert,
                 const struct word *word, struct word_list *out);

#endif
