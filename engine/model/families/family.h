/* What sets one model family apart: how its config.json is read and what its tensors are called.
 * Everything else (loading, the forward pass) is written once.  To add a family, write a descriptor
 * and list it in families.c. */
#ifndef ATTNSCOPE_ENGINE_MODEL_FAMILIES_FAMILY_H
#define ATTNSCOPE_ENGINE_MODEL_FAMILIES_FAMILY_H

#include "engine/model/config.h"
#include "engine/model/config_reader.h"

/* Bounds on what a config.json may ask for. */
enum {
    CONFIG_MAX_LAYERS = 1024,
    CONFIG_MAX_HEADS = 1024,
    CONFIG_MAX_HEAD_DIM = 1024,
    CONFIG_MAX_WIDTH = 1048576, /* dim, ffn_dim */
    CONFIG_MAX_VOCAB = 4194304,
    CONFIG_MAX_SEQ_LEN = 1 << 28
};

/* Tensor names without ".weight" or ".bias".  Those of a layer stand behind prefix and layer. */
struct family_names {
    const char *prefixes[2]; /* before all but lm_head; the first that fits, e.g. "model." */
    const char *layer;       /* before the layer's number: "layers." */
    const char *embedding;
    const char *positions; /* NULL: none */
    const char *final_norm;
    const char *lm_head;
    const char *attention_norm;
    const char *qkv[3]; /* q, k, v; or one fused tensor and NULLs */
    const char *q_norm, *k_norm;
    const char *attention_out;
    const char *ffn_norm;
    const char *ffn_up[2]; /* gate and up; or up and NULL */
    const char *ffn_down;
};

struct model_family {
    const char *model_type;   /* of config.json */
    const char *architecture; /* the only accepted architectures[0] */
    /* Fills the fields of out that differ from zero; failures go to the reader. */
    void (*read_config)(struct model_config *out, struct config_reader *r);
    const struct family_names *names;
    bool transposed; /* the layers' matrices are stored [n_in, n_out] */
};

/* NULL-terminated. */
extern const struct model_family *const model_families[];

extern const struct model_family family_llama, family_mistral, family_qwen2, family_qwen3,
    family_gpt2;

/* --- Shared by the families of llama's build ---------------------------------------------- */

extern const struct family_names family_llama_names;
/* The common fields; head_dim without a value is default_head_dim, or dim / n_heads if that is 0.
 */
void family_read_llama_fields(struct model_config *out, struct config_reader *r,
                              int default_head_dim);
/* use_sliding_window, sliding_window, max_window_layers (qwen2, qwen3). */
void family_read_qwen_window(struct model_config *out, struct config_reader *r);

#endif
