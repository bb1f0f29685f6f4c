/* Reasons for refusing a config.json: see the header. */
#include "engine/model/config_refuse.h"

#include <string.h>

#include "engine/base/buf.h"
#include "engine/model/families/family.h"

/* "awq" -> "AWQ": the names that their makers use. */
static const char *method_name(const char *method)
{
    static const char *const names[][2] = {
        {"gptq", "GPTQ"},   {"awq", "AWQ"}, {"bitsandbytes", "bitsandbytes"},
        {"mxfp4", "MXFP4"}, {"fp8", "FP8"}, {"compressed-tensors", "compressed-tensors"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(method, names[i][0]) == 0)
            return names[i][1];
    return method;
}

static void refuse_quantised(struct config_reader *r)
{
    bool is_mlx = config_has(r, "quantization");
    if (!is_mlx && !config_has(r, "quantization_config"))
        return;
    struct config_reader in = *r;
    in.root = json_get(r->root, is_mlx ? "quantization" : "quantization_config");
    const char *method =
        is_mlx ? "MLX" : config_string_or(&in, "quant_method", "an unknown method");
    struct buf details = {0};
    int bits = config_int_or(&in, "bits", 1, 64, 0);
    int group = config_int_or(&in, "group_size", -1, CONFIG_MAX_WIDTH, 0);
    if (bits)
        buf_printf(&details, " (%d bit", bits);
    if (bits && group > 0)
        buf_printf(&details, ", group %d", group);
    buf_append_str(&details, bits ? ")" : "");
    config_fail(r,
                "quantised with %.40s%s. Supported weights: F32, F16, BF16. Use the unquantised "
                "checkpoint.",
                method_name(method), details.data);
    buf_free(&details);
}

/* Keys that only models of another build have. */
static const struct {
    const char *key, *build;
} foreign_keys[] = {
    {"num_experts", "mixture-of-experts"},
    {"num_local_experts", "mixture-of-experts"},
    {"n_routed_experts", "mixture-of-experts"},
    {"moe_intermediate_size", "mixture-of-experts"},
    {"kv_lora_rank", "multi-head latent attention"},
    {"ssm_cfg", "state-space"},
    {"state_size", "state-space"},
};

void config_refuse_foreign(struct config_reader *r)
{
    refuse_quantised(r);
    for (size_t i = 0; i < sizeof foreign_keys / sizeof *foreign_keys; i++)
        if (config_has(r, foreign_keys[i].key) &&
            json_number(json_get(r->root, foreign_keys[i].key), 1) != 0)
            config_fail(r, "a %s model (it has %s); these are not supported", foreign_keys[i].build,
                        foreign_keys[i].key);
    if (config_bool_or(r, "is_encoder_decoder", false))
        config_fail(r, "an encoder-decoder model; these are not supported");
}

void config_refuse_type(struct config_reader *r, const char *model_type)
{
    if (config_has(r, "auto_map")) {
        config_fail(r,
                    "model_type \"%.40s\" needs the model's own Python code, which this program "
                    "never runs",
                    model_type);
        return;
    }
    struct buf known = {0};
    for (size_t i = 0; model_families[i]; i++) {
        const char *before = i == 0 ? "" : model_families[i + 1] ? ", " : " or ";
        buf_printf(&known, "%s%s", before, model_families[i]->model_type);
    }
    config_fail(r, "model_type \"%.40s\" is not supported (expected %s)", model_type, known.data);
    buf_free(&known);
}
