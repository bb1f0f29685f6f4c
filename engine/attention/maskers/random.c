/* Keys drawn at random from those not yet kept, each weighted by 1 over its chance of being drawn,
 * so that sums over the sample estimate sums over all. */
#include "engine/attention/maskers/maskers.h"

static void select_random(const struct masker_call *call, const struct masker_values *values)
{
    call->backend->select_random(call->dev, call->selection, call->att, values->param[0].value,
                                 call->slot, masker_share(values, 1));
}

static const char *const aliases[] = {"RandomSamplingConfig", NULL};

const struct masker masker_random = {
    .name = "random",
    .reference_type = "RandomSamplingMaskerConfig",
    .reference_aliases = aliases,
    .title = "Random sampling",
    .summary = "Draws keys at random from those not yet kept and weights them by 1/p.",
    .source = "reference project, drawn without replacement",
    .cost = "reads the drawn keys",
    .kind = MASKER_SAMPLER,
    .n_params = 2,
    .params =
        {
            {
                .name = "sampling_rate",
                .reference_name = "sampling_rate",
                .label = "rate",
                .help = "Keys to draw as a share of all keys, above 0 and up to 1.",
                .unit = "of all keys",
                .kind = PARAM_REAL,
                .min = 0,
                .min_exclusive = true,
                .max = 1,
                .step = 0.01,
                .fallback = {.value = 0.10},
            },
            MASKER_PARAM_SHARE,
        },
    .select = select_random,
};
