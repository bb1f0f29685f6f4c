/* Rotary positions: reading their settings in the old and the new form, and their frequencies. */
#ifndef ATTNSCOPE_ENGINE_MODEL_CONFIG_ROPE_H
#define ATTNSCOPE_ENGINE_MODEL_CONFIG_ROPE_H

#include "engine/model/config.h"
#include "engine/model/config_reader.h"

/* Fills the rope_* fields of out from rope_parameters, or from rope_theta and rope_scaling; out's
 * head_dim and max_seq_len are set before.  Kinds: default, linear, llama3; others are refused. */
void config_read_rope(struct model_config *out, struct config_reader *r);

/* inv_freq [rope_dim / 2], in f32 arithmetic as the reference does it. */
void config_rope_frequencies(const struct model_config *config, float *inv_freq);

#endif
