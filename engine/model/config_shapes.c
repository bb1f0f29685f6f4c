/* The shapes of well-known models, for benchmarks without their weights.
 * Source: each model's own config.json. */
#include <string.h>

#include "engine/base/buf.h"
#include "engine/model/config.h"
#include "engine/model/families/family.h"

struct shape {
    const char *name;
    const struct model_family *family;
    int n_layers, n_heads, n_kv_heads, head_dim, dim, ffn_dim, vocab_size, max_seq_len;
    float norm_eps;
    double rope_theta;
    double llama3_factor; /* 0: no llama3 scaling */
    bool tied;
};

/* clang-format off */
static const struct shape shapes[] = {
    {"embedded",       &family_llama,    8,  6,  2,  64,  384,  1024,   8192,  16384, 1e-5f,  500000,  0, true},
    {"smollm2-135m",   &family_llama,   30,  9,  3,  64,  576,  1536,  49152,   8192, 1e-5f,  100000,  0, true},
    {"smollm2-1.7b",   &family_llama,   24, 32, 32,  64, 2048,  8192,  49152,   8192, 1e-5f,  130000,  0, true},
    {"tinyllama-1.1b", &family_llama,   22, 32,  4,  64, 2048,  5632,  32000,   2048, 1e-5f,   10000,  0, false},
    {"llama-3.2-1b",   &family_llama,   16, 32,  8,  64, 2048,  8192, 128256, 131072, 1e-5f,  500000, 32, true},
    {"llama-3.2-3b",   &family_llama,   28, 24,  8, 128, 3072,  8192, 128256, 131072, 1e-5f,  500000, 32, true},
    {"llama-3.1-8b",   &family_llama,   32, 32,  8, 128, 4096, 14336, 128256, 131072, 1e-5f,  500000,  8, false},
    {"mistral-7b",     &family_mistral, 32, 32,  8, 128, 4096, 14336,  32768,  32768, 1e-5f, 1000000,  0, false},
    {"qwen2.5-0.5b",   &family_qwen2,   24, 14,  2,  64,  896,  4864, 151936,  32768, 1e-6f, 1000000,  0, true},
    {"qwen2.5-7b",     &family_qwen2,   28, 28,  4, 128, 3584, 18944, 152064,  32768, 1e-6f, 1000000,  0, false},
    {"qwen3-0.6b",     &family_qwen3,   28, 16,  8, 128, 1024,  3072, 151936,  40960, 1e-6f, 1000000,  0, true},
    {"qwen3-8b",       &family_qwen3,   36, 32,  8, 128, 4096, 12288, 151936,  40960, 1e-6f, 1000000,  0, false},
    {"gpt2",           &family_gpt2,    12, 12, 12,  64,  768,  3072,  50257,   1024, 1e-5f,       0,  0, true},
};
/* clang-format on */

static void fill_gpt2(struct model_config *c)
{
    c->norm_kind = NORM_LAYER;
    c->activation = ACTIVATION_GELU_TANH;
    c->hard_limit = true;
    c->attention_bias = c->output_bias = c->mlp_bias = true;
}

static void fill_llama(struct model_config *c, const struct shape *s)
{
    c->norm_kind = NORM_RMS;
    c->activation = ACTIVATION_SWIGLU;
    c->attention_bias = s->family == &family_qwen2;
    c->qk_norm = s->family == &family_qwen3;
    c->rope_kind = ROPE_DEFAULT;
    c->rope_theta = s->rope_theta;
    c->rope_dim = s->head_dim;
    c->rope_factor = 1;
    if (s->llama3_factor == 0)
        return;
    c->rope_kind = ROPE_LLAMA3;
    c->rope_factor = s->llama3_factor;
    c->rope_low_freq_factor = 1;
    c->rope_high_freq_factor = 4;
    c->rope_original_max = 8192;
}

static struct model_config config_of(const struct shape *s)
{
    struct model_config c = {.family = s->family,
                             .n_layers = s->n_layers,
                             .n_heads = s->n_heads,
                             .n_kv_heads = s->n_kv_heads,
                             .head_dim = s->head_dim,
                             .dim = s->dim,
                             .ffn_dim = s->ffn_dim,
                             .vocab_size = s->vocab_size,
                             .max_seq_len = s->max_seq_len,
                             .norm_eps = s->norm_eps,
                             .tie_embeddings = s->tied,
                             .scale_scores = true,
                             .stored_dtype = "bfloat16",
                             .bos_id = -1,
                             .temperature = 1,
                             .top_p = 1,
                             .repetition_penalty = 1};
    if (s->family == &family_gpt2)
        fill_gpt2(&c);
    else
        fill_llama(&c, s);
    return c;
}

bool model_config_shape(struct model_config *out, const char *name, struct error *err)
{
    struct buf known = {0};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (strcmp(name, shapes[i].name) == 0) {
            *out = config_of(&shapes[i]);
            buf_free(&known);
            return true;
        }
        buf_printf(&known, "%s%s", i ? ", " : "", shapes[i].name);
    }
    fail_code(err, EXIT_CODE_USAGE, "no known shape is called \"%.40s\" (expected one of %s)", name,
              known.data);
    buf_free(&known);
    return false;
}
