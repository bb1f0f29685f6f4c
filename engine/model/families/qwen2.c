/* Qwen2 and Qwen2.5: llama with a bias on q, k and v, and a window on the upper layers if asked. */
#include "engine/model/families/family.h"

void family_read_qwen_window(struct model_config *out, struct config_reader *r)
{
    if (!config_bool_or(r, "use_sliding_window", false))
        return;
    out->window = config_int_or(r, "sliding_window", 1, CONFIG_MAX_SEQ_LEN, 4096);
    out->window_from_layer = config_int_or(r, "max_window_layers", 0, CONFIG_MAX_LAYERS, 28);
}

static void read_config(struct model_config *out, struct config_reader *r)
{
    family_read_llama_fields(out, r, 0);
    out->attention_bias = true;
    family_read_qwen_window(out, r);
}

const struct model_family family_qwen2 = {
    .model_type = "qwen2",
    .architecture = "Qwen2ForCausalLM",
    .read_config = read_config,
    .names = &family_llama_names,
};
