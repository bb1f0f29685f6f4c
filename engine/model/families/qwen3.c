/* Qwen3: llama whose q and k heads are normalised before they are rotated. */
#include "engine/model/families/family.h"

static void read_config(struct model_config *out, struct config_reader *r)
{
    family_read_llama_fields(out, r, 128);
    out->attention_bias = out->output_bias = config_bool_or(r, "attention_bias", false);
    out->qk_norm = true;
    family_read_qwen_window(out, r);
}

const struct model_family family_qwen3 = {
    .model_type = "qwen3",
    .architecture = "Qwen3ForCausalLM",
    .read_config = read_config,
    .names = &family_llama_names,
};
