/* Rotary positions: see the header.  transformers 5 writes rope_parameters, which holds what older
 * versions spread over rope_theta, rope_scaling and partial_rotary_factor. */
#include "engine/model/config_rope.h"

#include <math.h>
#include <string.h>

#include "engine/model/families/family.h"

static void read_kind(struct model_config *out, struct config_reader *r, struct config_reader *in)
{
    const char *kind = config_string_or(in, "rope_type", config_string_or(in, "type", "default"));
    if (strcmp(kind, "default") == 0)
        out->rope_kind = ROPE_DEFAULT;
    else if (strcmp(kind, "linear") == 0)
        out->rope_kind = ROPE_LINEAR;
    else if (strcmp(kind, "llama3") == 0)
        out->rope_kind = ROPE_LLAMA3;
    else
        config_fail(r, "rope_type \"%.40s\" is not supported (expected default, linear or llama3)",
                    kind);
}

static void read_llama3(struct model_config *out, struct config_reader *r, struct config_reader *in)
{
    static const char original_max[] = "original_max_position_embeddings";
    out->rope_low_freq_factor = config_number(in, "low_freq_factor", 1e-6, 1e6);
    out->rope_high_freq_factor = config_number(in, "high_freq_factor", 1e-6, 1e6);
    struct config_reader *from = config_has(r, original_max) ? r : in;
    out->rope_original_max =
        config_int_or(from, original_max, 1, CONFIG_MAX_SEQ_LEN, out->max_seq_len);
    if (out->rope_high_freq_factor <= out->rope_low_freq_factor)
        config_fail(in, "high_freq_factor %g must be above low_freq_factor %g",
                    out->rope_high_freq_factor, out->rope_low_freq_factor);
}

static void read_parameters(struct model_config *out, struct config_reader *r,
                            struct config_reader *in)
{
    read_kind(out, r, in);
    struct config_reader *theta_from = config_has(in, "rope_theta") ? in : r;
    out->rope_theta = config_number_or(theta_from, "rope_theta", 1, 1e15, 10000);
    struct config_reader *part_from = config_has(in, "partial_rotary_factor") ? in : r;
    double part = config_number_or(part_from, "partial_rotary_factor", 0, 1, 1);
    out->rope_dim = (int)(out->head_dim * part);
    if (out->rope_dim < 2 || out->rope_dim % 2)
        config_fail(r, "head_dim %d x partial_rotary_factor %g is not an even number of at least 2",
                    out->head_dim, part);
    out->rope_factor = 1;
    if (out->rope_kind == ROPE_LINEAR || out->rope_kind == ROPE_LLAMA3)
        out->rope_factor = config_number(in, "factor", 1e-6, 1e6);
    if (out->rope_kind == ROPE_LLAMA3)
        read_llama3(out, r, in);
}

void config_read_rope(struct model_config *out, struct config_reader *r)
{
    const char *key = config_has(r, "rope_parameters") ? "rope_parameters" : "rope_scaling";
    const struct json *object = json_get(r->root, key);
    if (!json_is_null(object) && !json_is_object(object)) {
        config_fail(r, "%s is not an object", key);
        return;
    }
    if (json_get(object, "full_attention") || json_get(object, "sliding_attention")) {
        config_fail(r, "%s differ by layer type, which this family does not support", key);
        return;
    }
    struct buf where = {0};
    buf_printf(&where, "%s: %s", r->path, key);
    struct config_reader in = *r;
    in.root = object;
    in.path = where.data;
    read_parameters(out, r, &in);
    r->ok = r->ok && in.ok;
    buf_free(&where);
}

/* One frequency of llama3: long waves are slowed by the factor, short ones kept, and between the
 * two bounds the one blends into the other. */
static float scale_llama3(const struct model_config *c, float inv_freq)
{
    float original_max = (float)c->rope_original_max, factor = (float)c->rope_factor;
    float low = (float)c->rope_low_freq_factor, high = (float)c->rope_high_freq_factor;
    float wavelength = 2 * (float)M_PI / inv_freq;
    if (wavelength < original_max / high)
        return inv_freq;
    if (wavelength > original_max / low)
        return inv_freq / factor;
    float smooth = (original_max / wavelength - low) / (high - low);
    return (1 - smooth) * inv_freq / factor + smooth * inv_freq;
}

void config_rope_frequencies(const struct model_config *c, float *inv_freq)
{
    for (int k = 0; k < c->rope_dim / 2; k++) {
        inv_freq[k] = 1 / powf((float)c->rope_theta, (float)(2 * k) / (float)c->rope_dim);
        if (c->rope_kind == ROPE_LINEAR)
            inv_freq[k] /= (float)c->rope_factor;
        if (c->rope_kind == ROPE_LLAMA3)
            inv_freq[k] = scale_llama3(c, inv_freq[k]);
    }
}
