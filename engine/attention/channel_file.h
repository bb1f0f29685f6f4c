/* The channels of DoubleSparsity: which elements of a head matter most, from a file or at random.
 */
#ifndef ATTNSCOPE_ENGINE_ATTENTION_CHANNEL_FILE_H
#define ATTNSCOPE_ENGINE_ATTENTION_CHANNEL_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/model/config.h"

/* Reads the first n_channels of every layer and query head from a JSON object as DoubleSparse's
 * calibration writes it: "model.layers.L.self_attn.SELECTION" for every layer L of the model, each
 * a list per query head of element numbers, the most important first.  A list may be cut short
 * after n_channels.  Returns [n_layers, n_heads, n_channels], freed with free(); on failure NULL,
 * and err names file, layer, head and rule. */
int16_t *channel_file_read(const char *path, const char *selection,
                           const struct model_config *config, int n_channels, struct error *err);

/* The same of a fixed order per layer and head that means nothing: for timing, and where nothing
 * was calibrated. */
int16_t *channel_file_random(const struct model_config *config, int n_channels);

#endif
