/* GPT-2: LayerNorm, learned positions, one fused q|k|v matrix, GELU; its matrices are stored as
 * [n_in, n_out].  Source: Radford et al. 2019; names and defaults as transformers. */
#include "engine/model/families/family.h"

#include <string.h>

static const struct family_names names = {
    .prefixes = {"transformer.", ""},
    .layer = "h.",
    .embedding = "wte",
    .positions = "wpe",
    .final_norm = "ln_f",
    .lm_head = "lm_head",
    .attention_norm = "ln_1",
    .qkv = {"attn.c_attn"},
    .attention_out = "attn.c_proj",
    .ffn_norm = "ln_2",
    .ffn_up = {"mlp.c_fc"},
    .ffn_down = "mlp.c_proj",
};

static enum activation read_activation(struct config_reader *r)
{
    static const struct {
        const char *name;
        enum activation activation;
    } known[] = {
        {"gelu_new", ACTIVATION_GELU_TANH},  {"gelu_pytorch_tanh", ACTIVATION_GELU_TANH},
        {"gelu_fast", ACTIVATION_GELU_TANH}, {"gelu", ACTIVATION_GELU_ERF},
        {"relu", ACTIVATION_RELU},
    };
    const char *name = config_string_or(r, "activation_function", "gelu_new");
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i].name) == 0)
            return known[i].activation;
    config_fail(r,
                "activation_function \"%.40s\" is not supported (expected gelu_new, gelu or "
                "relu)",
                name);
    return ACTIVATION_NONE;
}

static void read_config(struct model_config *out, struct config_reader *r)
{
    out->dim = config_int(r, "n_embd", 1, CONFIG_MAX_WIDTH / 4);
    out->n_layers = config_int(r, "n_layer", 1, CONFIG_MAX_LAYERS);
    out->n_heads = out->n_kv_heads = config_int(r, "n_head", 1, CONFIG_MAX_HEADS);
    out->head_dim = out->dim / out->n_heads;
    if (out->dim % out->n_heads || out->head_dim > CONFIG_MAX_HEAD_DIM)
        config_fail(r, "n_embd %d does not make %d heads of at most %d", out->dim, out->n_heads,
                    CONFIG_MAX_HEAD_DIM);
    out->vocab_size = config_int(r, "vocab_size", 1, CONFIG_MAX_VOCAB);
    const char *positions = config_has(r, "n_positions") ? "n_positions" : "n_ctx";
    out->max_seq_len = config_int(r, positions, 1, CONFIG_MAX_SEQ_LEN);
    out->hard_limit = true;
    out->ffn_dim = config_int_or(r, "n_inner", 1, CONFIG_MAX_WIDTH, 4 * out->dim);
    out->norm_kind = NORM_LAYER;
    out->norm_eps = (float)config_number_or(r, "layer_norm_epsilon", 0, 1, 1e-5);
    out->activation = read_activation(r);
    out->attention_bias = out->output_bias = out->mlp_bias = true;
    out->tie_embeddings = config_bool_or(r, "tie_word_embeddings", true);
    out->scale_scores = config_bool_or(r, "scale_attn_weights", true);
    out->scale_by_layer = config_bool_or(r, "scale_attn_by_inverse_layer_idx", false);
    out->rope_kind = ROPE_NONE;
    if (config_bool_or(r, "add_cross_attention", false))
        config_fail(r, "add_cross_attention: encoder-decoder models are not supported");
}

const struct model_family family_gpt2 = {
    .model_type = "gpt2",
    .architecture = "GPT2LMHeadModel",
    .read_config = read_config,
    .names = &names,
    .transposed = true,
};
