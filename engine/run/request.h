/* A request: one context, questions about it, and the lanes that answer them. */
#ifndef ATTNSCOPE_ENGINE_RUN_REQUEST_H
#define ATTNSCOPE_ENGINE_RUN_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/attention/stack.h"
#include "engine/base/error.h"
#include "kernels/backend.h"

enum { REQUEST_MAX_LANES = 8, REQUEST_MAX_QUESTIONS = 256 };

/* Who reads the question with the lane's own stack: setup B (the reference's protocol) has the
 * question and the answer sparse, setup A only the answer. */
enum setup { SETUP_B, SETUP_A };

/* Which part of a context that is too long stays. */
enum keep { KEEP_HEAD, KEEP_TAIL, KEEP_MIDDLE_CUT /* head and tail stay, the middle goes */ };

struct request_lane {
    char name[STACK_NAME_MAX]; /* "dense", a preset's name, or the short form, cut */
    struct stack stack;        /* empty: dense */
};

struct request {
    char *context; /* [n_context] owned */
    size_t n_context;
    char *questions[REQUEST_MAX_QUESTIONS]; /* owned */
    int n_questions;
    struct request_lane lanes[REQUEST_MAX_LANES]; /* lane 0 is the baseline, dense unless asked */
    int n_lanes;
    char *answer_prefix; /* starts the assistant's turn; owned, may be NULL */
    int max_tokens;      /* of an answer; 0: generation_config's, else 128 */
    int max_context;     /* tokens of context kept at most; 0: what fits the window */
    enum keep keep;
    bool keep_given; /* false: a context longer than the window is an error */
    enum setup setup;
    bool forced; /* every lane is fed lane 0's tokens; what it would choose is told */
    bool probe;  /* measure recall and output error in untimed steps */
    uint64_t seed;
    struct sampling sampling; /* temperature 0: greedy */
};

/* Defaults: greedy, setup B, seed 0, lane 0 dense, probe on. */
void request_init(struct request *r);
void request_free(struct request *r);
bool request_add_question(struct request *r, const char *question, struct error *err);
/* name NULL or "": the stack's short form. */
bool request_add_lane(struct request *r, const char *name, const struct stack *stack,
                      struct error *err);
/* A deep copy, for sending. */
struct request *request_copy(const struct request *r);

#endif
