/* config.json and generation_config.json: what all families share.  A family's own fields are read
 * in engine/model/families. */
#include "engine/model/config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/file.h"
#include "engine/model/config_reader.h"
#include "engine/model/config_refuse.h"
#include "engine/model/families/family.h"

enum { MAX_CONFIG_BYTES = 1 << 20 };

/* --- Shared fields ------------------------------------------------------------------------ */

static void read_eos(struct model_config *out, struct config_reader *r)
{
    if (!config_has(r, "eos_token_id"))
        return;
    const struct json *v = json_get(r->root, "eos_token_id");
    bool is_list = json_is_array(v);
    out->n_eos = 0;
    for (v = is_list ? json_first(v) : v; v; v = is_list ? json_next(v) : NULL) {
        int64_t id;
        if (!json_int(v, 0, INT32_MAX, &id)) {
            config_fail(r, "eos_token_id is not a token id or a list of them");
            return;
        }
        if (out->n_eos == MODEL_MAX_EOS) {
            config_fail(r, "eos_token_id holds more than %d ids", MODEL_MAX_EOS);
            return;
        }
        out->eos_ids[out->n_eos++] = (int32_t)id;
    }
}

static void read_stored_dtype(struct model_config *out, struct config_reader *r)
{
    const char *name = config_string_or(r, "dtype", config_string_or(r, "torch_dtype", "float32"));
    if (strncmp(name, "torch.", 6) == 0)
        name += 6;
    size_t len = strnlen(name, sizeof out->stored_dtype - 1);
    memcpy(out->stored_dtype, name, len);
    out->stored_dtype[len] = '\0';
}

/* layer_types wins over the older fields.  The one order that a config can hold: full layers
 * first, then sliding ones. */
static void read_layer_types(struct model_config *out, struct config_reader *r)
{
    const struct json *types = json_get(r->root, "layer_types");
    if (json_is_null(types) || out->window == 0)
        return;
    if (!json_is_array(types) || json_count(types) != (size_t)out->n_layers) {
        config_fail(r, "layer_types is not a list of %d layers", out->n_layers);
        return;
    }
    int layer = 0, n_full = 0;
    for (const struct json *v = json_first(types); v; v = json_next(v), layer++) {
        const char *type = json_string(v);
        bool is_full = type && strcmp(type, "full_attention") == 0;
        if (!is_full && (!type || strcmp(type, "sliding_attention") != 0)) {
            config_fail(r,
                        "layer_types holds \"%.40s\" (expected full_attention or "
                        "sliding_attention)",
                        type ? type : "no string");
            return;
        }
        if (is_full && n_full < layer) {
            config_fail(r, "layer_types: a full layer after a sliding one is not supported");
            return;
        }
        n_full += is_full;
    }
    out->window_from_layer = n_full;
}

static void check_architecture(const struct model_config *c, struct config_reader *r)
{
    const char *name = json_string(json_first(json_get(r->root, "architectures")));
    if (name && strcmp(name, c->family->architecture) != 0)
        config_fail(r, "architecture %.60s is not supported (expected %s)", name,
                    c->family->architecture);
}

static const struct model_family *find_family(struct config_reader *r)
{
    const char *type = config_string_or(r, "model_type", NULL);
    if (!type) {
        config_fail(r, "model_type is missing; is this the config.json of a transformers model?");
        return NULL;
    }
    for (size_t i = 0; model_families[i]; i++)
        if (strcmp(type, model_families[i]->model_type) == 0)
            return model_families[i];
    config_refuse_type(r, type);
    return NULL;
}

static void read_config(struct model_config *out, struct config_reader *r)
{
    if (!json_is_object(r->root)) {
        config_fail(r, "not a JSON object");
        return;
    }
    config_refuse_foreign(r);
    out->family = find_family(r);
    if (!r->ok)
        return;
    check_architecture(out, r);
    out->family->read_config(out, r);
    if (!r->ok)
        return;
    out->bos_id = config_int_or(r, "bos_token_id", -1, INT32_MAX, -1);
    read_eos(out, r);
    read_stored_dtype(out, r);
    read_layer_types(out, r);
}

/* --- generation_config.json --------------------------------------------------------------- */

static void read_generation(struct model_config *out, struct config_reader *r)
{
    if (!json_is_object(r->root)) {
        config_fail(r, "not a JSON object");
        return;
    }
    read_eos(out, r);
    out->bos_id = config_int_or(r, "bos_token_id", -1, INT32_MAX, out->bos_id);
    out->do_sample = config_bool_or(r, "do_sample", false);
    out->temperature = config_number_or(r, "temperature", 0, 100, 1);
    out->top_k = config_int_or(r, "top_k", 0, CONFIG_MAX_VOCAB, 0);
    out->top_p = config_number_or(r, "top_p", 0, 1, 1);
    if (out->top_p == 0)
        config_fail(r, "top_p is 0 (expected above 0, up to 1)");
    out->min_p = config_number_or(r, "min_p", 0, 1, 0);
    out->repetition_penalty = config_number_or(r, "repetition_penalty", 0, 1e6, 1);
    if (out->repetition_penalty == 0)
        config_fail(r, "repetition_penalty is 0 (expected above 0)");
    out->max_new_tokens = config_int_or(r, "max_new_tokens", 1, CONFIG_MAX_SEQ_LEN, 0);
}

/* --- Files -------------------------------------------------------------------------------- */

static bool read_file(struct model_config *out, const char *path,
                      void (*read)(struct model_config *out, struct config_reader *r),
                      struct error *err)
{
    struct json *root = json_parse_file(path, MAX_CONFIG_BYTES, err);
    if (!root)
        return false;
    struct config_reader r = {root, path, err, true};
    read(out, &r);
    json_free(root);
    return r.ok;
}

static void set_defaults(struct model_config *out)
{
    *out =
        (struct model_config){.bos_id = -1, .temperature = 1, .top_p = 1, .repetition_penalty = 1};
}

bool model_config_load(struct model_config *out, const char *folder, struct error *err)
{
    struct model_config config;
    set_defaults(&config);
    char *path = path_join(folder, "config.json");
    char *generation = path_join(folder, "generation_config.json");
    bool ok = read_file(&config, path, read_config, err);
    if (ok && file_exists(generation))
        ok = read_file(&config, generation, read_generation, err);
    if (ok)
        *out = config;
    free(path);
    free(generation);
    return ok;
}

/* --- Per layer ---------------------------------------------------------------------------- */

float model_config_scale(const struct model_config *config, int layer)
{
    double scale = config->scale_scores ? 1 / sqrt(config->head_dim) : 1;
    return (float)(config->scale_by_layer ? scale / (layer + 1) : scale);
}

int model_config_window(const struct model_config *config, int layer)
{
    return layer >= config->window_from_layer ? config->window : 0;
}
