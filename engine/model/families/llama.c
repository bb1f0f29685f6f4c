/* Llama 2, 3 and the many models of its build: RMSNorm, rotary positions, grouped heads, SwiGLU.
 * Source: Touvron et al. 2023; names and defaults as transformers. */
#include "engine/model/families/family.h"

#include <string.h>

#include "engine/model/config_rope.h"

const struct family_names family_llama_names = {
    .prefixes = {"model."},
    .layer = "layers.",
    .embedding = "embed_tokens",
    .final_norm = "norm",
    .lm_head = "lm_head",
    .attention_norm = "input_layernorm",
    .qkv = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"},
    .q_norm = "self_attn.q_norm",
    .k_norm = "self_attn.k_norm",
    .attention_out = "self_attn.o_proj",
    .ffn_norm = "post_attention_layernorm",
    .ffn_up = {"mlp.gate_proj", "mlp.up_proj"},
    .ffn_down = "mlp.down_proj",
};

static void read_heads(struct model_config *out, struct config_reader *r, int default_head_dim)
{
    out->n_heads = config_int(r, "num_attention_heads", 1, CONFIG_MAX_HEADS);
    out->n_kv_heads = config_int_or(r, "num_key_value_heads", 1, CONFIG_MAX_HEADS, out->n_heads);
    if (out->n_heads % out->n_kv_heads)
        config_fail(r, "num_key_value_heads %d does not divide num_attention_heads %d",
                    out->n_kv_heads, out->n_heads);
    if (!default_head_dim && !config_has(r, "head_dim")) {
        if (out->dim % out->n_heads)
            config_fail(r, "num_attention_heads %d does not divide hidden_size %d", out->n_heads,
                        out->dim);
        default_head_dim = out->dim / out->n_heads;
    }
    out->head_dim = config_int_or(r, "head_dim", 1, CONFIG_MAX_HEAD_DIM, default_head_dim);
    if (out->head_dim < 1 || out->head_dim > CONFIG_MAX_HEAD_DIM)
        config_fail(r,
                    "hidden_size / num_attention_heads is out of range (expected 1 to %d, "
                    "found %d)",
                    CONFIG_MAX_HEAD_DIM, out->head_dim);
}

void family_read_llama_fields(struct model_config *out, struct config_reader *r,
                              int default_head_dim)
{
    out->dim = config_int(r, "hidden_size", 1, CONFIG_MAX_WIDTH);
    out->ffn_dim = config_int(r, "intermediate_size", 1, CONFIG_MAX_WIDTH);
    out->n_layers = config_int(r, "num_hidden_layers", 1, CONFIG_MAX_LAYERS);
    out->vocab_size = config_int(r, "vocab_size", 1, CONFIG_MAX_VOCAB);
    read_heads(out, r, default_head_dim);
    out->max_seq_len = config_int(r, "max_position_embeddings", 1, CONFIG_MAX_SEQ_LEN);
    out->norm_kind = NORM_RMS;
    out->norm_eps = (float)config_number_or(r, "rms_norm_eps", 0, 1, 1e-6);
    const char *act = config_string_or(r, "hidden_act", "silu");
    if (strcmp(act, "silu") != 0)
        config_fail(r, "hidden_act \"%.40s\" is not supported (expected silu)", act);
    out->activation = ACTIVATION_SWIGLU;
    out->tie_embeddings = config_bool_or(r, "tie_word_embeddings", false);
    out->scale_scores = true;
    config_read_rope(out, r);
}

static void read_config(struct model_config *out, struct config_reader *r)
{
    family_read_llama_fields(out, r, 0);
    out->attention_bias = out->output_bias = config_bool_or(r, "attention_bias", false);
    out->mlp_bias = config_bool_or(r, "mlp_bias", false);
}

const struct model_family family_llama = {
    .model_type = "llama",
    .architecture = "LlamaForCausalLM",
    .read_config = read_config,
    .names = &family_llama_names,
};
