/* The first keys of the sequence, on which attention rests when it has nowhere else to go. */
#include "engine/attention/maskers/maskers.h"

static void select_sink(const struct masker_call *call, const struct masker_values *values)
{
    call->backend->select_sink(call->dev, call->selection, call->att, values->param[0]);
}

static const char *const aliases[] = {"SinkConfig", NULL};

const struct masker masker_sink = {
    .name = "sink",
    .reference_type = "SinkMaskerConfig",
    .reference_aliases = aliases,
    .title = "Sink",
    .summary = "Keeps the first keys of the sequence.",
    .source = "StreamingLLM, Xiao et al. 2023, arXiv 2309.17453",
    .cost = "reads the kept keys",
    .kind = MASKER_FIXED,
    .n_params = 1,
    .params =
        {
            {
                .name = "sink_size",
                .reference_name = "sink_size",
                .label = "size",
                .help = "How many of the first keys to keep: a count, or a share of all keys.",
                .kind = PARAM_BUDGET,
                MASKER_BUDGET_BOUNDS,
                .step = 4,
                .fallback = {.value = 128},
            },
        },
    .select = select_sink,
};
