/* Mistral: llama with a sliding window on every layer (none since its version 0.2). */
#include "engine/model/families/family.h"

static void read_config(struct model_config *out, struct config_reader *r)
{
    family_read_llama_fields(out, r, 0);
    out->window = config_int_or(r, "sliding_window", 1, CONFIG_MAX_SEQ_LEN, 0);
}

const struct model_family family_mistral = {
    .model_type = "mistral",
    .architecture = "MistralForCausalLM",
    .read_config = read_config,
    .names = &family_llama_names,
};
