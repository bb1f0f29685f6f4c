/* Which elements of each head matter most, measured in forward passes: what DoubleSparsity's files
 * of channels are made from. */
#ifndef ATTNSCOPE_ENGINE_ATTENTION_CHANNEL_STATS_H
#define ATTNSCOPE_ENGINE_ATTENTION_CHANNEL_STATS_H

#include "engine/base/json.h"
#include "engine/model/config.h"
#include "engine/model/model.h"
#include "kernels/backend.h"

struct channel_stats;

/* For calls of up to max_rows rows of a model of this shape.  backend and dev are borrowed. */
struct channel_stats *channel_stats_open(const struct backend *backend, struct device *dev,
                                         const struct model_config *config, int max_rows);
void channel_stats_close(struct channel_stats *s);

/* Dense attention that also measures every row of the call: rows appended to the context, keys in
 * f32.  Waits for the device in each call.  Valid until close. */
struct attention_method channel_stats_method(struct channel_stats *s);

/* "model.layers.L.self_attn.qk_proj" for every layer: per query head its elements by falling mean
 * of |q k|, each row's query by its own key, ties to the lower element; as channel_file_read reads
 * it.  The caller frees.
 * Source: the calibration of DoubleSparse, Yang et al. 2024, arXiv 2408.07092. */
struct json *channel_stats_to_json(const struct channel_stats *s);

#endif
