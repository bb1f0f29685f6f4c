/* Keys by a few of their elements: which elements matter most for a head is found once, offline;
 * keys are scored by these alone, kept apart and in few bits. */
#include <stdlib.h>
#include <string.h>

#include "engine/attention/channel_file.h"
#include "engine/attention/maskers/maskers.h"
#include "engine/base/file.h"

enum {
    PARAM_HEAVY,
    PARAM_CHANNELS,
    PARAM_GROUP_FACTOR,
    PARAM_LABEL_BITS,
    PARAM_SELECTION,
    PARAM_TOP_P,
    PARAM_SHARE,
    N_PARAMS
};

static const char *const selection_words[] = {"qk_proj", "q_proj", "k_proj", NULL};

static const char model_file[] = "double_sparsity.json";

static int16_t *read_channels(const struct masker_values *values, const struct masker_model *model,
                              int n_channels, struct error *err)
{
    const char *selection = selection_words[(int)values->param[PARAM_SELECTION].value];
    if (strcmp(values->path, "random") == 0)
        return channel_file_random(model->config, n_channels);
    if (values->path[0])
        return channel_file_read(values->path, selection, model->config, n_channels, err);
    int16_t *channels = NULL;
    char *path = model->folder ? path_join(model->folder, model_file) : NULL;
    if (path && file_exists(path))
        channels = channel_file_read(path, selection, model->config, n_channels, err);
    else
        fail(err,
             "this model has no %s; name a file of channels calibrated for it (channels=FILE), or "
             "channels=random",
             model_file);
    free(path);
    return channels;
}

static bool double_sparsity_index(const struct masker_values *values,
                                  const struct masker_model *model, struct key_index_config *out,
                                  void **held, struct error *err)
{
    int group_factor = (int)values->param[PARAM_GROUP_FACTOR].value;
    int head_dim = model->config->head_dim;
    if (group_factor > head_dim)
        return fail(err, "group_factor %d leaves no channel of %d; it must be at most %d",
                    group_factor, head_dim, head_dim);
    out->kind = INDEX_CHANNELS;
    out->channels = (struct key_channels){.n_channels = head_dim / group_factor,
                                          .label_bits = (int)values->param[PARAM_LABEL_BITS].value};
    if (!held)
        return true;
    *held = read_channels(values, model, out->channels.n_channels, err);
    out->channels.channels = *held;
    return *held != NULL;
}

static void select_double_sparsity(const struct masker_call *call,
                                   const struct masker_values *values)
{
    const struct budget heavy = values->param[PARAM_HEAVY];
    const double top_p = values->param[PARAM_TOP_P].value;
    if (top_p == 0) /* or a large budget is no reason to keep all */
        call->backend->select_if_short(call->dev, call->selection, call->att, heavy, 0);
    call->backend->score_index(call->dev, call->selection, call->index, call->att);
    masker_select_best(call, heavy, top_p, masker_share(values, PARAM_SHARE));
}

const struct masker masker_double_sparsity = {
    .name = "double-sparsity",
    .reference_type = "DoubleSparsityTopKMaskerConfig",
    .title = "DoubleSparsity",
    .summary = "Keeps the keys that score highest by a few important channels of each head.",
    .source = "Yang et al. 2024, arXiv 2408.07092",
    .cost = "reads a few channels of all keys",
    .kind = MASKER_TOP,
    .n_params = N_PARAMS,
    .params =
        {
            [PARAM_HEAVY] = MASKER_PARAM_HEAVY(MASKER_HEAVY_KEYS),
            [PARAM_CHANNELS] =
                {
                    .name = "channels",
                    .reference_name = "sorted_channel_file",
                    .label = "channels",
                    .help = "A JSON file of channels calibrated for the model; none: the model "
                            "folder's double_sparsity.json; random: not calibrated.",
                    .kind = PARAM_PATH,
                },
            [PARAM_GROUP_FACTOR] =
                {
                    .name = "group_factor",
                    .reference_name = "group_factor",
                    .label = "group",
                    .help = "Elements of a head for each channel that is kept.",
                    .unit = "elements for a channel",
                    .kind = PARAM_COUNT,
                    .min = 1,
                    .max = 1024,
                    .step = 4,
                    .fallback = {.value = 16},
                },
            [PARAM_LABEL_BITS] =
                {
                    .name = "label_bits",
                    .reference_name = "label_bits",
                    .label = "bits",
                    .help = "Bits that a channel is rounded to; 16: not rounded.",
                    .unit = "bits",
                    .kind = PARAM_COUNT,
                    .min = 1,
                    .max = 16,
                    .step = 1,
                    .fallback = {.value = 4},
                },
            [PARAM_SELECTION] =
                {
                    .name = "selection",
                    .reference_name = "channel_selection",
                    .label = "select",
                    .help = "Which of the file's orders counts: by queries and keys, or by one "
                            "of them.",
                    .kind = PARAM_CHOICE,
                    .choices = selection_words,
                },
            [PARAM_TOP_P] = MASKER_PARAM_TOP_P("keys"),
            [PARAM_SHARE] = MASKER_PARAM_SHARE,
        },
    .select = select_double_sparsity,
    .index = double_sparsity_index,
};
