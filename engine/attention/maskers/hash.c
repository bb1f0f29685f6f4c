/* Keys by learned bits: small networks, trained for a model, turn keys and queries into bits, and
 * the keys that share most bits with the query are kept.
 *
 * The networks' shape is in their file; the reference's numbers beside it are only checked. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/attention/hash_weights.h"
#include "engine/attention/maskers/maskers.h"
#include "engine/base/file.h"
#include "engine/base/memory.h"

enum {
    PARAM_HEAVY,
    PARAM_WEIGHTS,
    PARAM_TOP_P,
    PARAM_SHARE,
    PARAM_BITS,
    PARAM_LAYERS,
    PARAM_HIDDEN,
    PARAM_ACTIVATION,
    N_PARAMS
};

/* "file", then hash_activation_words. */
static const char *const activation_words[] = {"file", "silu", "relu", "gelu", "tanh", NULL};

static const char model_file[] = "hash_attention.safetensors";

static bool check_number(const struct masker_values *values, int param, int is, struct error *err)
{
    int said = (int)values->param[param].value;
    return said == 0 || said == is ||
           fail(err, "%s is %d, but the weights have %d; leave it out or use other weights",
                masker_hash.params[param].name, said, is);
}

static bool check_shape(const struct masker_values *values, const struct hash_networks *h,
                        struct error *err)
{
    bool ok = check_number(values, PARAM_BITS, h->width[h->n_linears], err) &&
              check_number(values, PARAM_LAYERS, h->n_linears, err);
    for (int i = 1; ok && i < h->n_linears; i++)
        ok = check_number(values, PARAM_HIDDEN, h->width[i], err);
    return ok;
}

static bool read_weights(const struct masker_values *values, const struct masker_model *model,
                         struct hash_networks *out, void **held, struct error *err)
{
    if (strcmp(values->path, "random") == 0) {
        hash_weights_random(out, model->config, held);
        return true;
    }
    if (values->path[0])
        return hash_weights_read(out, values->path, model->config, held, err);
    char *path = model->folder ? path_join(model->folder, model_file) : NULL;
    bool ok = path && file_exists(path)
                  ? hash_weights_read(out, path, model->config, held, err)
                  : fail(err,
                         "this model has no %s; name a file of networks trained for it "
                         "(weights=FILE), or weights=random",
                         model_file);
    free(path);
    return ok;
}

static bool hash_index(const struct masker_values *values, const struct masker_model *model,
                       struct key_index_config *out, void **held, struct error *err)
{
    out->kind = INDEX_HASH;
    if (!read_weights(values, model, &out->hash, held, err))
        return false;
    int activation = (int)values->param[PARAM_ACTIVATION].value;
    if (activation)
        out->hash.activation = (enum hash_activation)(activation - 1);
    if (check_shape(values, &out->hash, err))
        return true;
    if (held) {
        free(*held);
        *held = NULL;
    }
    return false;
}

static void select_hash(const struct masker_call *call, const struct masker_values *values)
{
    call->backend->score_index(call->dev, call->selection, call->index, call->att);
    masker_select_best(call, values->param[PARAM_HEAVY], values->param[PARAM_TOP_P].value,
                       masker_share(values, PARAM_SHARE));
}

/* Bits are labels of +1 and -1, whose product over the root of their number is the estimate, as
 * DoubleSparsity's is. */
static float hash_logit_scale(const struct key_index_config *config)
{
    return 1.0f / sqrtf((float)config->hash.width[config->hash.n_linears]);
}

static const char *const aliases[] = {"HashAttentionTopKConfig", NULL};

const struct masker masker_hash = {
    .name = "hash",
    .reference_type = "HashAttentionTopKMaskerConfig",
    .reference_aliases = aliases,
    .title = "HashAttention",
    .summary = "Keeps the keys whose learned bits agree most with the query's.",
    .source = "Desai et al. 2024, arXiv 2412.14468",
    .cost = "reads the bits of all keys",
    .kind = MASKER_TOP,
    .n_params = N_PARAMS,
    .params =
        {
            [PARAM_HEAVY] = MASKER_PARAM_HEAVY(MASKER_HEAVY_KEYS),
            [PARAM_WEIGHTS] =
                {
                    .name = "weights",
                    .reference_name = "hat_weight_file",
                    .label = "weights",
                    .help = "A safetensors file of networks trained for the model; none: the "
                            "model folder's hash_attention.safetensors; random: untrained. "
                            "presets/convert_hash_networks.py makes one of published pickles.",
                    .kind = PARAM_PATH,
                },
            [PARAM_TOP_P] = MASKER_PARAM_TOP_P("keys"),
            [PARAM_SHARE] = MASKER_PARAM_SHARE,
            [PARAM_BITS] =
                {
                    .name = "bits",
                    .reference_name = "hat_bits",
                    .label = "bits",
                    .help = "Bits of a key that the weights must have; 0: any.",
                    .unit = "bits",
                    .kind = PARAM_COUNT,
                    .min = 0,
                    .max = HASH_MAX_BITS,
                    .step = 8,
                },
            [PARAM_LAYERS] =
                {
                    .name = "layers",
                    .reference_name = "hat_mlp_layers",
                    .label = "linears",
                    .help = "Linears of a network that the weights must have; 0: any.",
                    .unit = "linears",
                    .kind = PARAM_COUNT,
                    .min = 0,
                    .max = HASH_MAX_LINEARS,
                    .step = 1,
                },
            [PARAM_HIDDEN] =
                {
                    .name = "hidden",
                    .reference_name = "hat_mlp_hidden_size",
                    .label = "hidden",
                    .help = "Width between linears that the weights must have; 0: any.",
                    .unit = "elements",
                    .kind = PARAM_COUNT,
                    .min = 0,
                    .max = HASH_MAX_WIDTH,
                    .step = 16,
                },
            [PARAM_ACTIVATION] =
                {
                    .name = "activation",
                    .reference_name = "hat_mlp_activation",
                    .label = "act",
                    .help = "What lies between linears; file: what the weights say.",
                    .kind = PARAM_CHOICE,
                    .choices = activation_words,
                },
        },
    .select = select_hash,
    .index = hash_index,
    .logit_scale = hash_logit_scale,
};
