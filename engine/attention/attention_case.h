/* `attnscope debug attention`: runs a stack on one recorded case and writes what it selected and
 * what came out, in the layout of the reference data. */
#ifndef ATTNSCOPE_ENGINE_ATTENTION_ATTENTION_CASE_H
#define ATTNSCOPE_ENGINE_ATTENTION_ATTENTION_CASE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/attention/stack.h"
#include "engine/base/error.h"

struct attention_case_options {
    const char *tensors; /* safetensors file with NAME/q, NAME/k, NAME/v, NAME/allowed */
    const char *name;    /* NAME */
    const char *out;     /* safetensors file to write */
    const struct stack *stack;
    /* As the reference: weights 1/(p + 1e-6), and the columns that its fixed maskers set where a
     * row cannot see (sink: keys before its size; local: clears the future, marks padding). */
    bool compat;
    const char *backend; /* "auto", "cpu", "cuda" */
    int n_threads;       /* 0: one per processor */
    uint64_t seed;       /* of samplers */
};

/* Runs one attention call per batch entry, f32 keys and values, and writes
 *   ptr i32 [B*H*Q + 1], col i16 (i32 if K > 32767) [nnz], val f32 [nnz] (absent when all are 1):
 *     the selection's rows in (b, h, i) order; all three absent when full or empty;
 *   out f32 [B, Q, H, D];  full, empty u8 [1]: what a masker declared, and a stack without maskers.
 * Any thread. */
bool attention_case_run(const struct attention_case_options *options, struct error *err);

#endif
