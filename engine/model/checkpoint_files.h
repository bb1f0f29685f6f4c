/* Which file of a model folder holds the weights; for folders without any, the reason. */
#ifndef ATTNSCOPE_ENGINE_MODEL_CHECKPOINT_FILES_H
#define ATTNSCOPE_ENGINE_MODEL_CHECKPOINT_FILES_H

#include "engine/base/error.h"

enum checkpoint_kind { CHECKPOINT_NONE, CHECKPOINT_SINGLE, CHECKPOINT_INDEX };

/* model.safetensors if it exists, else the index; *path is the caller's, NULL for
 * CHECKPOINT_NONE, where err says what the folder holds instead (pickle, GGUF, ...). */
enum checkpoint_kind checkpoint_files_find(const char *folder, char **path, struct error *err);

#endif
