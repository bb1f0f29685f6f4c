/* From text to tokens: the context and each question, apart, in the model's chat format.
 *
 *   prefix (template) | context + "\n\n" | question | suffix (template) | answer prefix
 *   '------------ context tokens -------'   '--------- question tokens ----------------'
 *
 * The two halves are tokenised apart, so that no merge crosses the border and the context's tokens
 * are the same for every question.  The separator goes with the context: tokenised so, context and
 * question give the same ids as the joined text for all but freak borders.  What people type is
 * plain text: a special token spelled in it stays text. */
#ifndef ATTNSCOPE_ENGINE_RUN_PROMPT_H
#define ATTNSCOPE_ENGINE_RUN_PROMPT_H

#include <stdbool.h>

#include "engine/base/buf.h"
#include "engine/base/error.h"
#include "engine/run/request.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"

/* How a model wants its prompts; made once when it is loaded. */
struct prompt_format {
    const struct tokenizer *tokenizer; /* borrowed */
    struct token_list prefix;          /* the template's text before the message, BOS included */
    struct token_list suffix;          /* after it, up to where the answer starts */
    struct token_list separator;       /* "\n\n" on its own, for a context that was cut */
    bool chat;                         /* false: a base model, prompts are continued */
};

/* chat may be NULL: completion mode.  A template that cannot frame a message is an error whose
 * sentence says why; the caller may try again with NULL. */
bool prompt_format_init(struct prompt_format *out, const struct tokenizer *tokenizer,
                        const struct chat_template *chat, struct error *err);
void prompt_format_free(struct prompt_format *f);

struct prompt {
    struct token_list context;    /* may be empty */
    struct token_list *questions; /* [n_questions], none empty */
    int n_questions;
    int n_cut;    /* tokens of the context left out */
    char *notice; /* sentences for the person, or NULL; owned */
};

/* Builds the prompts of a request for a window of max_seq_len tokens of which max_tokens are kept
 * for the answer.  Fails if it does not fit (and the request does not say what to cut): err says
 * by how much and what to do.  On success the caller frees out; on failure it is empty. */
bool prompt_build(struct prompt *out, const struct prompt_format *format,
                  const struct request *request, int max_seq_len, int max_tokens,
                  struct error *err);
void prompt_free(struct prompt *p);

#endif
