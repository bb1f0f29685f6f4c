#include "engine/attention/channel_file.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/base/memory.h"

enum {
    MAX_BYTES = 64 << 20, /* 128 layers of 128 heads of 256 elements, three selections, and more */
    MAX_HEAD_DIM = 1024,
    NAME_BYTES = 128
};

struct reader {
    const char *path, *selection;
    const struct model_config *config;
    int n_channels;
    const struct json *root;
};

static void layer_name(const struct reader *r, int layer, char name[NAME_BYTES])
{
    snprintf(name, NAME_BYTES, "model.layers.%d.self_attn.%s", layer, r->selection);
}

/* --- One head ----------------------------------------------------------------------------------
 */

/* to [n_channels] = the first of list, all of which is checked. */
static bool read_head(const struct reader *r, const struct json *list, int16_t *to,
                      struct error *err)
{
    int head_dim = r->config->head_dim, n = 0;
    bool seen[MAX_HEAD_DIM] = {false};
    if (!json_is_array(list))
        return fail(err, "it is no list of channels");
    for (const struct json *v = json_first(list); v; v = json_next(v), n++) {
        int64_t channel;
        if (!json_int(v, 0, head_dim - 1, &channel))
            return fail(err, "channel %d of it is no whole number from 0 to %d", n + 1,
                        head_dim - 1);
        if (seen[channel])
            return fail(err, "channel %d is in it twice", (int)channel);
        seen[channel] = true;
        if (n < r->n_channels)
            to[n] = (int16_t)channel;
    }
    return n >= r->n_channels ||
           fail(err, "it has %d channels where %d are wanted", n, r->n_channels);
}

/* --- Layers ------------------------------------------------------------------------------------
 */

/* to [n_heads, n_channels] */
static bool read_layer(const struct reader *r, int layer, int16_t *to, struct error *err)
{
    char name[NAME_BYTES];
    layer_name(r, layer, name);
    const struct json *heads = json_get(r->root, name);
    if (!heads)
        return fail(err, "%s: there is no \"%s\", the model has %d layers", r->path, name,
                    r->config->n_layers);
    if (!json_is_array(heads))
        return fail(err, "%s: %s must be a list of lists, one per query head", r->path, name);
    if (json_count(heads) != (size_t)r->config->n_heads)
        return fail(err, "%s: %s has channels of %zu heads, the model has %d query heads", r->path,
                    name, json_count(heads), r->config->n_heads);
    int head = 0;
    for (const struct json *v = json_first(heads); v; v = json_next(v), head++)
        if (!read_head(r, v, to + (size_t)head * (size_t)r->n_channels, err))
            return fail_prefix(err, "%s: %s, head %d", r->path, name, head);
    return true;
}

static bool read_layers(const struct reader *r, int16_t *to, struct error *err)
{
    char beyond[NAME_BYTES];
    if (!json_is_object(r->root))
        return fail(err, "%s: it must be an object of layers' channels", r->path);
    for (int layer = 0; layer < r->config->n_layers; layer++)
        if (!read_layer(r, layer,
                        to + (size_t)layer * (size_t)r->config->n_heads * (size_t)r->n_channels,
                        err))
            return false;
    layer_name(r, r->config->n_layers, beyond);
    return !json_get(r->root, beyond) ||
           fail(err, "%s: it has \"%s\", but the model has only %d layers", r->path, beyond,
                r->config->n_layers);
}

static size_t n_channels_all(const struct model_config *c, int n_channels)
{
    assert(n_channels > 0 && n_channels <= c->head_dim && c->head_dim <= MAX_HEAD_DIM);
    return (size_t)c->n_layers * (size_t)c->n_heads * (size_t)n_channels;
}

int16_t *channel_file_read(const char *path, const char *selection,
                           const struct model_config *config, int n_channels, struct error *err)
{
    struct json *root = json_parse_file(path, MAX_BYTES, err);
    if (!root)
        return NULL;
    struct reader r = {path, selection, config, n_channels, root};
    int16_t *channels = try_calloc(n_channels_all(config, n_channels), sizeof *channels);
    bool ok = channels ? read_layers(&r, channels, err)
                       : fail_code(err, EXIT_CODE_NO_DEVICE, "%s: no memory for it", path);
    json_free(root);
    if (ok)
        return channels;
    free(channels);
    return NULL;
}

/* --- At random ---------------------------------------------------------------------------------
 */

int16_t *channel_file_random(const struct model_config *config, int n_channels)
{
    size_t n_heads = (size_t)config->n_layers * (size_t)config->n_heads;
    int16_t *channels = xcalloc(n_channels_all(config, n_channels), sizeof *channels);
    int16_t order[MAX_HEAD_DIM];
    uint64_t state = 1; /* a linear congruential generator (Knuth's MMIX) */
    for (size_t head = 0; head < n_heads; head++) {
        for (int i = 0; i < config->head_dim; i++)
            order[i] = (int16_t)i;
        for (int i = 0; i < config->head_dim; i++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            int other = i + (int)((state >> 33) % (uint64_t)(config->head_dim - i));
            int16_t swap = order[i];
            order[i] = order[other];
            order[other] = swap;
        }
        memcpy(channels + head * (size_t)n_channels, order, (size_t)n_channels * sizeof *order);
    }
    return channels;
}
