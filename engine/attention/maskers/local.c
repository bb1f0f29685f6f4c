/* The most recent keys: a window that slides along with the query. */
#include "engine/attention/maskers/maskers.h"

static void select_local(const struct masker_call *call, const struct masker_values *values)
{
    call->backend->select_local(call->dev, call->selection, call->att, values->param[0]);
}

static const char *const aliases[] = {"LocalConfig", NULL};

const struct masker masker_local = {
    .name = "local",
    .reference_type = "LocalMaskerConfig",
    .reference_aliases = aliases,
    .title = "Local window",
    .summary = "Keeps the most recent keys, the query's own included.",
    .source = "StreamingLLM, Xiao et al. 2023, arXiv 2309.17453",
    .cost = "reads the kept keys",
    .kind = MASKER_FIXED,
    .n_params = 1,
    .params =
        {
            {
                .name = "window_size",
                .reference_name = "window_size",
                .label = "window",
                .help = "How many of the latest keys to keep: a count, or a share of all keys.",
                .kind = PARAM_BUDGET,
                MASKER_BUDGET_BOUNDS,
                .step = 16,
                .fallback = {.value = 128},
            },
        },
    .select = select_local,
};
