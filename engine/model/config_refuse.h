/* Kinds of models that this program does not run, told by name before anything is allocated. */
#ifndef ATTNSCOPE_ENGINE_MODEL_CONFIG_REFUSE_H
#define ATTNSCOPE_ENGINE_MODEL_CONFIG_REFUSE_H

#include "engine/model/config_reader.h"

/* Fails the reader if config.json tells of quantised weights, experts, an encoder, ... */
void config_refuse_foreign(struct config_reader *r);
/* Fails the reader: the model_type is none of ours, with the best reason that can be told. */
void config_refuse_type(struct config_reader *r, const char *model_type);

#endif
