/* Runs a stack as the attention of a forward pass: the struct attention_method that
 * model_forward calls for each layer.  Chops a call's rows so that a selection fits its memory.
 * Engine thread only. */
#ifndef ATTNSCOPE_ENGINE_ATTENTION_SPARSE_ATTENTION_H
#define ATTNSCOPE_ENGINE_ATTENTION_SPARSE_ATTENTION_H

#include <stdbool.h>

#include "engine/attention/stack.h"
#include "engine/attention/stack_index.h"
#include "engine/model/kv_cache.h"
#include "engine/model/model.h"
#include "kernels/backend.h"

struct sparse_attention;

/* For calls of up to max_keys keys of a model of this shape; its folder may hold files that maskers
 * look for (NULL: none).  Each layer runs its own list of the stack.  NULL: out of memory, err says
 * the need, the stack names a layer that the model has not, or a masker cannot be had on this
 * backend.  The stack is copied.
 *   Where a layer takes an earlier one's selection over, calls come layer by layer, in order; calls
 * of several rows are dense in that layer. */
struct sparse_attention *sparse_attention_open(const struct stack *stack,
                                               const struct backend *backend, struct device *dev,
                                               const struct masker_model *model, int max_keys,
                                               struct error *err);
void sparse_attention_close(struct sparse_attention *s);

/* About the bytes of device memory that sparse_attention_open takes; 0 for a dense stack. */
uint64_t sparse_attention_bytes(const struct stack *stack, const struct backend *backend,
                                struct device *dev, const struct masker_model *model, int max_keys);

/* Builds the maskers' indexes over the n_context keys of a context that is prefilled; enqueued.
 * Without it the first call does the same. */
void sparse_attention_build_index(struct sparse_attention *s, const struct kv_cache *context,
                                  int n_context);
/* The same for one layer, over the keys that are there before a call's own rows. */
void sparse_attention_index_before(struct sparse_attention *s, const struct attention *att);

/* The method to put into struct forward_call; valid until close. */
struct attention_method sparse_attention_method(struct sparse_attention *s);
/* The same without marks of the clock, for recordings; not while probing. */
struct attention_method sparse_attention_untimed(struct sparse_attention *s);

/* While on, every call also measures recall and output error per layer and head, and its time
 * must not be counted.  The sums are read with sparse_attention_probe_result. */
void sparse_attention_probe(struct sparse_attention *s, bool on);

struct layer_probe {
    int layer;
    double recall_mean;  /* over heads and probed rows */
    double recall_worst; /* the worst head's mean */
    int worst_head;
    double output_error; /* sqrt(sum |o_sparse - o_dense|^2 / sum |o_dense|^2) */
    int n_rows;          /* rows probed; 0: nothing to report */
};
/* Fills out [n_layers] with what was gathered since the last reset. */
void sparse_attention_probe_result(const struct sparse_attention *s, struct layer_probe *out);
void sparse_attention_probe_reset(struct sparse_attention *s);

/* Shown every call of one row once its output is there: sel is what was attended to, NULL where the
 * layer is dense.  It may enqueue and wait; the calls' time must not be counted. */
struct attention_observer {
    void (*observe)(void *user, const struct attention *att, const struct selection *sel);
    void *user;
};
/* From now on; NULL: nobody. */
void sparse_attention_observe(struct sparse_attention *s,
                              const struct attention_observer *observer);
/* While on, calls of one row leave the dense output behind once an observer has seen the stack's:
 * what the stack would choose along the way of dense attention. */
void sparse_attention_stay_dense(struct sparse_attention *s, bool on);
/* For an observer, of the call that it is shown: what the first n maskers of the layer's list
 * choose by themselves, into sel, opened for one row. */
void sparse_attention_select_first(struct sparse_attention *s, const struct attention *att, int n,
                                   struct selection *sel);
/* Maskers in the list of a layer, those that are off included. */
int sparse_attention_list_length(const struct sparse_attention *s, int layer);

/* Microseconds of attention (scoring, selection and attending of all layers) in the calls since
 * the last reset, measured by the device's clock around each layer's call; calls made while
 * probing are not counted.  Waits for the device. */
double sparse_attention_us(const struct sparse_attention *s);
void sparse_attention_us_reset(struct sparse_attention *s);

/* Rows of one call that a selection of about 32 MiB holds; at least 1. */
int sparse_attention_max_rows(int n_heads, int n_kv_heads, int max_keys);

/* Rows [first, first + n_rows) of a call as a call of their own, with the same positions and the
 * same K: chopping changes no selection and no output. */
struct attention sparse_attention_rows(const struct attention *att, int first, int n_rows);

/* The choosing alone: sel holds what the call's layer selects, one that is not dense and takes no
 * other layer's selection over.  index was opened for the stack and is up to date. */
void sparse_attention_select(const struct stack *stack, const struct stack_index *index,
                             struct selection *sel, const struct attention *att);

/* Runs the stack once on one attention call or a piece of one (any number of rows that
 * selection_open accepted): `debug attention` and tests.  Indexes are made for this call alone. sel
 * is left for selection_get; a dense stack makes it full.  False: a masker's index cannot be had,
 * or the stack has groups of layers. */
bool sparse_attention_once(const struct stack *stack, const struct backend *backend,
                           struct device *dev, struct selection *sel, const struct attention *att,
                           struct error *err);

#endif
