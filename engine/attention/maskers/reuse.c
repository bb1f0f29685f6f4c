/* The keys that an earlier layer chose in the same step: neighbouring layers attend to much the
 * same keys, so that choosing in a few of them is enough. */
#include "engine/attention/layer_set.h"
#include "engine/attention/maskers/maskers.h"

static int reused_layer(const struct masker_values *values)
{
    return (int)values->param[0].value;
}

static void select_reused(const struct masker_call *call, const struct masker_values *values)
{
    (void)values;
    call->backend->select_again(call->dev, call->selection, call->att, call->again);
}

const struct masker masker_reuse = {
    .name = "reuse",
    .title = "Layer reuse",
    .summary = "Takes over the keys that an earlier layer chose in the same step.",
    .source = "Yang et al. 2024 (TidalDecode), arXiv 2410.05076",
    .cost = "reads the keys taken over",
    .kind = MASKER_TOP,
    .n_params = 1,
    .params =
        {
            {
                .name = "layer",
                .label = "layer",
                .help =
                    "The layer, counted from 0, whose keys are taken over: an earlier one, with "
                    "maskers. In calls of several rows (a question) attention is dense.",
                .kind = PARAM_COUNT,
                .min = 0,
                .max = LAYER_SET_MAX - 1,
                .step = 1,
            },
        },
    .select = select_reused,
    .source_layer = reused_layer,
};
