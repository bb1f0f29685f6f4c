/* What a chain of decoder steps is made of: shared by its runner and the steps, nobody else. */
#ifndef ATTNSCOPE_ENGINE_TEXT_DECODER_PARTS_H
#define ATTNSCOPE_ENGINE_TEXT_DECODER_PARTS_H

#include "engine/text/decoder.h"
#include "engine/text/pattern.h"

#define MAX_DECODER_STEPS 64

/* A step as the file gives it. */
struct decoder_step {
    const struct decoder_kind *kind;
    struct pattern *pattern; /* Replace */
    char *content;           /* Replace: what to put; Strip, Metaspace: one character */
    size_t n_content;
    size_t start, stop; /* Strip: how many to cut at most */
    bool drop_first;    /* Metaspace: no spaces in the first token */
};

/* A step in the middle of a text. */
struct decoder_state {
    struct buf held;  /* of the token at hand */
    struct buf bytes; /* ByteFallback: the run; ByteLevel: the unfinished character */
    size_t n_cut;     /* Strip: characters cut from the start of this token */
    bool past_start;  /* Strip: this token has begun with something else */
    size_t n_pending; /* Strip: characters at the end so far that may be cut */
    bool past_first;  /* Metaspace, joining: not the first token any more */
};

struct decoder_run {
    const struct decoder *decoder; /* borrowed */
    struct decoder_state *states;  /* [n_steps] */
    struct buf *out;               /* during a call */
};

/* The functions of a step i.  text: a part of the token at hand, whole characters.  end: the token
 * is over.  finish: all tokens are.  Each passes on through decoder_text and decoder_end. */
struct decoder_kind {
    const char *type;
    bool (*load)(struct decoder_step *step, const struct json *v, struct error *err);
    void (*text)(struct decoder_run *run, int i, const char *s, size_t n);
    void (*end)(struct decoder_run *run, int i);
    void (*finish)(struct decoder_run *run, int i);
};

extern const struct decoder_kind decoder_kinds[];
extern const int decoder_kinds_n;
extern const struct decoder_kind decoder_join; /* what null stands for */

const struct decoder_step *decoder_step_at(const struct decoder_run *run, int i);
/* Hand on to step i, or to the text that comes out when there is none. */
void decoder_text(struct decoder_run *run, int i, const char *s, size_t n);
void decoder_end(struct decoder_run *run, int i);

#endif
