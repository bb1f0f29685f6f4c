#include "engine/attention/hash_weights.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/file.h"
#include "engine/base/memory.h"
#include "engine/model/safetensors.h"

enum { RANDOM_BITS = 32 };

const char *const hash_activation_words[] = {"silu", "relu", "gelu", "tanh", NULL};

static const char side_letters[HASH_SIDES] = {[HASH_QUERY] = 'q', [HASH_KEY] = 'k'};

struct reader {
    const struct safetensors *file;
    const struct model_config *config;
    struct hash_networks *out;
};

/* --- Shapes ---------------------------------------------------------------------------------- */

static const struct safetensor *find(const struct reader *r, int layer, int side, char part, int i)
{
    char name[64];
    snprintf(name, sizeof name, "layer.%d.%c.%c%d", layer, side_letters[side], part, i);
    return safetensors_find(r->file, name);
}

/* Linears of layer 0's queries, by which all others are held. */
static bool read_widths(struct reader *r, struct error *err)
{
    struct hash_networks *h = r->out;
    const char *path = safetensors_path(r->file);
    h->width[0] = r->config->head_dim;
    for (h->n_linears = 0;; h->n_linears++) {
        const struct safetensor *w = find(r, 0, HASH_QUERY, 'W', h->n_linears);
        if (!w)
            break;
        uint64_t most = HASH_MAX_WIDTH;
        if (h->n_linears == HASH_MAX_LINEARS)
            return fail(err, "%s: more than %d linears in a network", path, HASH_MAX_LINEARS);
        if (w->n_dims != 3 || w->shape[2] < 1 || w->shape[2] > most)
            return fail(err, "%s: %s must be [heads, in, out] with at most %" PRIu64 " outputs",
                        path, w->name, most);
        h->width[h->n_linears + 1] = (int)w->shape[2];
    }
    if (!h->n_linears)
        return fail(err, "%s: there is no tensor layer.0.q.W0; it holds no hash networks", path);
    if (h->width[h->n_linears] > HASH_MAX_BITS)
        return fail(err, "%s: %d bits per key are more than %d", path, h->width[h->n_linears],
                    HASH_MAX_BITS);
    return true;
}

static bool read_activation(struct reader *r, struct error *err)
{
    const char *word = safetensors_metadata(r->file, "activation");
    for (int i = 0; hash_activation_words[i]; i++)
        if (!word || strcmp(word, hash_activation_words[i]) == 0) {
            r->out->activation = (enum hash_activation)i;
            return true;
        }
    return fail(err, "%s: activation \"%.40s\" is not one of silu, relu, gelu, tanh",
                safetensors_path(r->file), word);
}

/* --- Weights --------------------------------------------------------------------------------- */

static size_t n_heads_all(const struct model_config *c)
{
    return (size_t)c->n_layers * (size_t)c->n_heads;
}

/* One allocation for all weights, carved: side by side, linear by linear, w before b. */
static bool carve(struct hash_networks *h, const struct model_config *c, void **held)
{
    size_t n = n_heads_all(c), total = 0;
    for (int i = 0; i < h->n_linears; i++)
        total += HASH_SIDES * n * ((size_t)h->width[i] + 1) * (size_t)h->width[i + 1];
    float *at = try_calloc(total, sizeof *at);
    *held = at;
    for (int side = 0; at && side < HASH_SIDES; side++)
        for (int i = 0; i < h->n_linears; i++) {
            h->w[side][i] = at;
            at += n * (size_t)h->width[i] * (size_t)h->width[i + 1];
            h->b[side][i] = at;
            at += n * (size_t)h->width[i + 1];
        }
    return *held != NULL;
}

/* to [n_heads, n_in, n_out] of one layer; n_in 0: a bias [n_heads, n_out]. */
static bool read_part(const struct reader *r, const struct safetensor *t, int n_in, int n_out,
                      float *to, struct error *err)
{
    uint64_t heads = (uint64_t)r->config->n_heads, in = (uint64_t)n_in, out = (uint64_t)n_out;
    bool fits = n_in ? t->n_dims == 3 && t->shape[1] == in && t->shape[2] == out
                     : t->n_dims == 2 && t->shape[1] == out;
    if ((!fits || t->shape[0] != heads) && n_in)
        return fail(err, "%s: %s must be [%d, %d, %d] for a model of %d heads of %d elements",
                    safetensors_path(r->file), t->name, r->config->n_heads, n_in, n_out,
                    r->config->n_heads, r->config->head_dim);
    if (!fits || t->shape[0] != heads)
        return fail(err, "%s: %s must be [%d, %d]", safetensors_path(r->file), t->name,
                    r->config->n_heads, n_out);
    return safetensors_read_f32(r->file, t, to, err);
}

static bool read_linear(const struct reader *r, int layer, int side, int i, struct error *err)
{
    const struct hash_networks *h = r->out;
    const struct safetensor *w = find(r, layer, side, 'W', i), *b = find(r, layer, side, 'b', i);
    size_t n_out = (size_t)r->config->n_heads * (size_t)h->width[i + 1];
    size_t b_at = (size_t)layer * n_out, w_at = b_at * (size_t)h->width[i];
    if (!w)
        return fail(err, "%s: there is no tensor layer.%d.%c.W%d, the model has %d layers",
                    safetensors_path(r->file), layer, side_letters[side], i, r->config->n_layers);
    return read_part(r, w, h->width[i], h->width[i + 1], (float *)h->w[side][i] + w_at, err) &&
           (!b || read_part(r, b, 0, h->width[i + 1], (float *)h->b[side][i] + b_at, err));
}

static bool read_weights(struct reader *r, void **held, struct error *err)
{
    if (!carve(r->out, r->config, held))
        return fail_code(err, EXIT_CODE_NO_DEVICE, "%s: no memory for its networks",
                         safetensors_path(r->file));
    for (int layer = 0; layer < r->config->n_layers; layer++)
        for (int side = 0; side < HASH_SIDES; side++)
            for (int i = 0; i < r->out->n_linears; i++)
                if (!read_linear(r, layer, side, i, err)) {
                    free(*held);
                    *held = NULL;
                    return false;
                }
    return true;
}

static bool is_pickle(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot && (!strcmp(dot, ".pkl") || !strcmp(dot, ".pt") || !strcmp(dot, ".pth")) &&
           file_exists(path);
}

bool hash_weights_read(struct hash_networks *out, const char *path,
                       const struct model_config *config, void **held, struct error *err)
{
    struct safetensors *file = safetensors_open(path, err);
    if (!file)
        return is_pickle(path) ? fail(err,
                                      "%s: pickles can run programs and are not read; make a "
                                      "safetensors file of it: presets/convert_hash_networks.py",
                                      path)
                               : false;
    struct reader r = {file, config, out};
    *out = (struct hash_networks){0};
    bool ok = read_widths(&r, err) && read_activation(&r, err);
    ok = ok && (!held || read_weights(&r, held, err));
    safetensors_close(file);
    return ok;
}

/* --- At random ------------------------------------------------------------------------------- */

void hash_weights_random(struct hash_networks *out, const struct model_config *config, void **held)
{
    *out = (struct hash_networks){.n_linears = 1, .width = {config->head_dim, RANDOM_BITS}};
    if (!held)
        return;
    size_t n = n_heads_all(config) * (size_t)config->head_dim * RANDOM_BITS;
    *held = xcalloc(n + n_heads_all(config) * RANDOM_BITS, sizeof(float));
    float *w = *held;
    /* Sums of uniform numbers are near enough to a normal distribution; of six bits each, bf16
     * holds the sums exactly, as it does trained weights.  The numbers are those of a linear
     * congruential generator (Knuth's MMIX). */
    uint64_t state = 1;
    for (size_t i = 0; i < n; i++)
        for (int j = 0; j < 4; j++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            w[i] += (float)(state >> 58) / (1 << 6) - 0.5f;
        }
    for (int side = 0; side < HASH_SIDES; side++) {
        out->w[side][0] = w;
        out->b[side][0] = w + n;
    }
}
