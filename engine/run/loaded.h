/* A model ready to be asked: weights, tokenizer, prompt format, stop ids. */
#ifndef ATTNSCOPE_ENGINE_RUN_LOADED_H
#define ATTNSCOPE_ENGINE_RUN_LOADED_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/model/model.h"
#include "engine/run/event.h"
#include "engine/run/prompt.h"
#include "engine/text/tokenizer.h"

enum { LOADED_MAX_STOP = MODEL_MAX_EOS + 4 };

struct loaded {
    struct model *model;
    struct tokenizer *tokenizer;
    struct prompt_format format;
    int32_t stop_ids[LOADED_MAX_STOP]; /* every one of them ends an answer */
    int n_stop;
    struct model_info info;
};

/* Loads a model folder onto the device.  NULL on failure, with all of it released. */
struct loaded *loaded_open(const char *folder, const struct backend *backend, struct device *dev,
                           enum dtype kv_dtype, const struct model_progress *progress,
                           struct error *err);
void loaded_close(struct loaded *l);

bool loaded_stops(const struct loaded *l, int32_t id);

#endif
