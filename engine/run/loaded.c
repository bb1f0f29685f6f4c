#include "engine/run/loaded.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/model/families/family.h"
#include "engine/run/clock.h"
#include "engine/run/report.h"

/* How chat templates end a turn, where the tokenizer has it as one special token. */
static const char *const turn_ends[] = {"<|im_end|>", "<|eot_id|>", "<end_of_turn>",
                                        "<|end|>",    "</s>",       NULL};

bool loaded_stops(const struct loaded *l, int32_t id)
{
    for (int i = 0; i < l->n_stop; i++)
        if (l->stop_ids[i] == id)
            return true;
    return false;
}

static void add_stop(struct loaded *l, int32_t id)
{
    if (id >= 0 && l->n_stop < LOADED_MAX_STOP && !loaded_stops(l, id))
        l->stop_ids[l->n_stop++] = id;
}

/* All eos ids of generation_config.json or config.json, else the tokenizer's eos_token; and the
 * end of turn that the template itself writes after a message. */
static void find_stops(struct loaded *l)
{
    const struct model_config *config = &l->model->config;
    for (int i = 0; i < config->n_eos; i++)
        add_stop(l, config->eos_ids[i]);
    const char *eos = tokenizer_special(l->tokenizer, "eos_token");
    if (config->n_eos == 0 && eos)
        add_stop(l, tokenizer_find(l->tokenizer, eos));
    for (size_t i = 0; i < l->format.suffix.n; i++) {
        int32_t id = l->format.suffix.ids[i];
        const char *piece = tokenizer_piece(l->tokenizer, id);
        if (!piece || !tokenizer_is_special(l->tokenizer, id))
            continue;
        for (const char *const *end = turn_ends; *end; end++)
            if (strcmp(piece, *end) == 0)
                add_stop(l, id);
    }
}

/* The folder's chat format, or completion mode where it has no template.  A template that cannot be
 * used is an error: answers to a prompt the model was not trained on would compare nothing. */
static bool open_format(struct loaded *l, const char *folder, struct error *err)
{
    struct chat_template *chat = NULL;
    bool ok = chat_template_open(&chat, folder, err) &&
              prompt_format_init(&l->format, l->tokenizer, chat, err);
    if (ok)
        l->info.template_source = xstrdup(chat ? chat_template_source(chat) : "none (completion)");
    chat_template_free(chat);
    return ok;
}

/* Every id of the tokenizer must be a row of the embedding; known before the weights are read. */
static bool check_vocabulary(const struct tokenizer *t, const char *folder, struct error *err)
{
    struct model_config config;
    if (!model_config_load(&config, folder, err))
        return false;
    int32_t n = tokenizer_vocab_size(t);
    return n <= config.vocab_size ||
           fail(err,
                "%s: tokenizer.json has token %d, but the model (config.json) knows ids below %d; "
                "the two do not belong together: fetch both of one revision",
                folder, n - 1, config.vocab_size);
}

static const char *last_part(const char *path, size_t *n)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/')
        start--;
    *n = end - start;
    return path + start;
}

/* "org/name" for a snapshot in the HuggingFace cache (models--org--name/snapshots/REV), else the
 * last part of the path. */
static char *model_name(const char *path)
{
    const char *hub = strstr(path, "/models--");
    const char *snapshots = hub ? strstr(hub, "/snapshots/") : NULL;
    size_t n;
    const char *last = last_part(path, &n);
    if (!snapshots)
        return xstrndup(last, n);
    hub += strlen("/models--");
    char *name = xstrndup(hub, (size_t)(snapshots - hub));
    char *dashes = strstr(name, "--");
    if (dashes) {
        *dashes = '/';
        memmove(dashes + 1, dashes + 2, strlen(dashes + 2) + 1);
    }
    return name;
}

static const char *short_dtype(const char *stored)
{
    static const char *const names[][2] = {
        {"bfloat16", "bf16"}, {"float16", "f16"}, {"float32", "f32"}, {"", "f32"}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(stored, names[i][0]) == 0)
            return names[i][1];
    return stored;
}

static void fill_info(struct loaded *l, const char *folder, enum dtype kv_dtype)
{
    struct model_info *info = &l->info;
    const struct model *m = l->model;
    const struct model_config *c = &m->config;
    struct device_info device;
    m->backend->describe(m->dev, &device);
    info->path = xstrdup(folder);
    info->name = model_name(folder);
    snprintf(info->family, sizeof info->family, "%s", c->family->model_type);
    snprintf(info->dtype, sizeof info->dtype, "%s", short_dtype(c->stored_dtype));
    snprintf(info->kv_dtype, sizeof info->kv_dtype, "%s", kv_dtype == DTYPE_F32 ? "f32" : "bf16");
    snprintf(info->backend, sizeof info->backend, "%s", m->backend->name);
    info->device = xstrdup(device.name);
    info->n_layers = c->n_layers;
    info->n_heads = c->n_heads;
    info->n_kv_heads = c->n_kv_heads;
    info->head_dim = c->head_dim;
    info->dim = c->dim;
    info->vocab_size = c->vocab_size;
    info->max_seq_len = c->max_seq_len;
    info->n_params = m->n_params;
    info->weight_bytes = m->weight_bytes;
    info->kv_bytes_per_token = model_kv_bytes_per_token(c, kv_dtype);
}

struct loaded *loaded_open(const char *folder, const struct backend *backend, struct device *dev,
                           enum dtype kv_dtype, const struct model_progress *progress,
                           struct error *err)
{
    int64_t from_us = clock_us();
    struct loaded *l = xcalloc(1, sizeof *l);
    /* The small files first: a broken tokenizer is known before gigabytes are read. */
    l->tokenizer = tokenizer_open(folder, err);
    if (!l->tokenizer || !open_format(l, folder, err))
        goto fail;
    if (!check_vocabulary(l->tokenizer, folder, err))
        goto fail;
    l->model = model_load(folder, backend, dev, progress, err);
    if (!l->model)
        goto fail;
    find_stops(l);
    fill_info(l, folder, kv_dtype);
    l->info.warnings = l->model->warnings ? xstrdup(l->model->warnings) : NULL;
    l->info.load_ms = (double)(clock_us() - from_us) * 1e-3;
    return l;

fail:
    loaded_close(l);
    return NULL;
}

void loaded_close(struct loaded *l)
{
    if (!l)
        return;
    model_close(l->model);
    prompt_format_free(&l->format);
    tokenizer_close(l->tokenizer);
    model_info_free(&l->info);
    free(l);
}
