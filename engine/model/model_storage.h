/* A model's life on the device: made empty, given room for a plan's weights, and closed. */
#ifndef ATTNSCOPE_ENGINE_MODEL_MODEL_STORAGE_H
#define ATTNSCOPE_ENGINE_MODEL_MODEL_STORAGE_H

#include "engine/model/model.h"
#include "engine/model/weights.h"

/* A model without weights; its layers are zero.  The caller closes it with model_close. */
struct model *model_new(const struct model_config *config, const char *path,
                        const struct backend *backend, struct device *dev);

/* Allocates every slot (zeroed), sets the model's pointers to them, and uploads the rotary
 * frequencies.  Compares the need with the free memory first. */
bool model_place(struct model *m, struct weight_plan *plan, struct error *err);

/* Fails with code EXIT_CODE_NO_DEVICE, naming what is too large and what to do (advice, or NULL),
 * if n_bytes are known not to be free. */
bool model_check_memory(const struct backend *backend, struct device *dev, uint64_t n_bytes,
                        const char *what, const char *advice, struct error *err);

#endif
