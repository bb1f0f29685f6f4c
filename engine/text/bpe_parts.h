/* What a BPE model is made of: shared by its loader and its encoder, nobody else. */
#ifndef ATTNSCOPE_ENGINE_TEXT_BPE_PARTS_H
#define ATTNSCOPE_ENGINE_TEXT_BPE_PARTS_H

#include "engine/text/bpe.h"
#include "engine/text/merge_table.h"

/* Characters below this find their token in an array: all of the byte-level alphabet. */
#define BPE_DIRECT_END 0x800u

struct bpe {
    const struct vocabulary *vocab; /* borrowed */
    struct merge_table merges;
    int32_t unk_id; /* -1: unknown characters vanish */
    bool fuse_unk, byte_fallback, ignore_merges;
    char *prefix;          /* in front of every character but the first of a word; "" for none */
    char *suffix;          /* after the last character of a word; "" for none */
    int32_t byte_ids[256]; /* of <0x00> ... <0xFF>, -1 where missing */
    int32_t direct[BPE_DIRECT_END]; /* the token of one character, -1 for none */
};

#endif
