/* The one table of model families. */
#include "engine/model/families/family.h"

#include <stddef.h>

const struct model_family *const model_families[] = {
    &family_llama, &family_mistral, &family_qwen2, &family_qwen3, &family_gpt2, NULL,
};
