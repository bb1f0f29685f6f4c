/* The keys with the best true scores: the upper bound of what a top-k method can choose.  It reads
 * every key to know them, so that it shows quality and never speed. */
#include "engine/attention/maskers/maskers.h"

static void select_oracle_topk(const struct masker_call *call, const struct masker_values *values)
{
    call->backend->score_exact(call->dev, call->selection, call->att);
    call->backend->select_top_k(call->dev, call->selection, call->att, values->param[0],
                                masker_share(values, 1));
}

static const char *const aliases[] = {"OracleTopKMaskerConfig", NULL};

const struct masker masker_oracle_topk = {
    .name = "oracle-topk",
    .reference_type = "OracleTopKConfig",
    .reference_aliases = aliases,
    .title = "Oracle top-k",
    .summary = "Keeps the keys with the highest true scores among those not yet kept.",
    .source = "baseline of HashAttention (arXiv 2412.14468) and vAttention (arXiv 2510.05688)",
    .cost = "reads all K",
    .kind = MASKER_TOP,
    .reads_all_keys = true,
    .n_params = 2,
    .params =
        {
            MASKER_PARAM_HEAVY(MASKER_HEAVY_KEYS),
            MASKER_PARAM_SHARE,
        },
    .select = select_oracle_topk,
};
