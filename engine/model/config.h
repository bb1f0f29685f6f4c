/* config.json and generation_config.json, read and checked, of every supported family. */
#ifndef ATTNSCOPE_ENGINE_MODEL_CONFIG_H
#define ATTNSCOPE_ENGINE_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/json.h"
#include "kernels/backend.h"

enum rope_kind { ROPE_NONE, ROPE_DEFAULT, ROPE_LINEAR, ROPE_LLAMA3 };

enum { MODEL_MAX_EOS = 16 };

struct model_family; /* engine/model/families/family.h */

struct model_config {
    const struct model_family *family; /* a table entry: never freed */
    int n_layers, n_heads, n_kv_heads, head_dim;
    int dim, ffn_dim, vocab_size;
    int max_seq_len; /* max_position_embeddings */
    bool hard_limit; /* learned positions: max_seq_len cannot be passed */
    enum norm_kind norm_kind;
    float norm_eps;
    enum activation activation;
    bool attention_bias; /* q, k, v have a bias */
    bool output_bias;    /* o has a bias */
    bool mlp_bias;
    bool qk_norm;
    bool tie_embeddings;
    int window;            /* sliding window in keys, 0: none */
    int window_from_layer; /* layers before it have full attention */
    enum rope_kind rope_kind;
    double rope_theta, rope_factor, rope_low_freq_factor, rope_high_freq_factor;
    int rope_original_max;
    int rope_dim;          /* head_dim * partial_rotary_factor */
    bool scale_by_layer;   /* gpt2: scores also divided by layer + 1 */
    bool scale_scores;     /* gpt2 scale_attn_weights; true elsewhere */
    char stored_dtype[16]; /* "bfloat16", as config.json says; for the screen */

    int32_t bos_id;                 /* -1: none */
    int32_t eos_ids[MODEL_MAX_EOS]; /* all of them stop */
    int n_eos;
    /* generation_config.json; defaults where absent. */
    bool do_sample;
    double temperature, top_p, min_p, repetition_penalty;
    int top_k;
    int max_new_tokens; /* 0: not given */
};

/* Reads folder/config.json (+ generation_config.json).  Refuses unknown architectures, quantised
 * checkpoints and values out of bounds with one sentence.  Any thread. */
bool model_config_load(struct model_config *out, const char *folder, struct error *err);

/* Known shapes by name for benchmarks ("llama-3.2-1b", "llama-3.1-8b", "qwen3-0.6b", ...); false
 * if name is unknown, with the list of names in err. */
bool model_config_shape(struct model_config *out, const char *name, struct error *err);

/* The softmax scale of a layer: head_dim^-1/2, less GPT-2's options. */
float model_config_scale(const struct model_config *config, int layer);
int model_config_window(const struct model_config *config, int layer);

#endif
