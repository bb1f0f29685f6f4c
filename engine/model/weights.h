/* The plan of a model's weights: one slot per matrix or vector on the device, and the stored
 * tensors (pieces) whose rows make it up.  Loading, random filling and checking all walk the plan,
 * so that names and shapes are written down once. */
#ifndef ATTNSCOPE_ENGINE_MODEL_WEIGHTS_H
#define ATTNSCOPE_ENGINE_MODEL_WEIGHTS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/base/error.h"
#include "engine/model/model.h"
#include "engine/model/safetensors.h"

enum { WEIGHT_MAX_PIECES = 3 };

struct weight_piece {
    char *name;                      /* in the checkpoint; owned by the plan */
    uint64_t n_rows, n_cols;         /* as used, [n_out, n_in]; n_cols 0: a vector [n_rows] */
    const struct safetensor *tensor; /* set by weights_bind; borrowed from the checkpoint */
    const struct safetensors *file;
};

struct weight_slot {
    struct linear *linear;                         /* what the slot fills: a matrix, */
    const float **vector;                          /* or a vector of f32; the other is NULL */
    struct weight_piece pieces[WEIGHT_MAX_PIECES]; /* their rows, one after the other */
    int n_pieces;
    bool transposed;     /* stored as [n_in, n_out] */
    bool is_norm_weight; /* 1 in a model of random weights */
    enum dtype dtype;    /* on the device */
    void *device;        /* set by model_place */
};

struct weight_plan {
    struct weight_slot *slots;
    size_t n, capacity;
};

/* All slots of m (its config and layers are set), pointing into m.  prefix stands before all names
 * but lm_head; own_lm_head: it is stored apart from the embedding. */
void weights_plan(struct weight_plan *plan, struct model *m, const char *prefix, bool own_lm_head);
/* As above, with prefix and lm_head as the checkpoint has them. */
void weights_plan_checkpoint(struct weight_plan *plan, struct model *m, const struct checkpoint *c,
                             struct buf *warnings);
void weights_plan_free(struct weight_plan *plan);

uint64_t weight_slot_elements(const struct weight_slot *slot);
uint64_t weight_slot_bytes(const struct weight_slot *slot);
uint64_t weights_elements(const struct weight_plan *plan);
uint64_t weights_bytes(const struct weight_plan *plan);

/* Finds every piece in the checkpoint and checks its shape and dtype; all that is wrong is listed
 * in one error.  Sets the slots' dtypes.  Unexpected tensors are noted in warnings. */
bool weights_bind(struct weight_plan *plan, const struct model_config *config,
                  const struct checkpoint *c, const char *folder, struct buf *warnings,
                  struct error *err);

/* Plan and bind without a device: whether the checkpoint fits the config.  *n_params may be
 * NULL. */
bool weights_check(const struct model_config *config, const struct checkpoint *c,
                   const char *folder, uint64_t *n_params, struct error *err);

#endif
