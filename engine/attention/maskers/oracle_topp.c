/* The fewest keys that hold a share p of the softmax mass: the upper bound of nucleus-style
 * selection.  The reference refuses top_p written as the integer 1; we read it as 1.0. */
#include "engine/attention/maskers/maskers.h"

enum { PARAM_TOP_P, PARAM_MASS, PARAM_SHARE, N_PARAMS };
enum { MASS_REMAINING, MASS_TOTAL };

static const char *const mass_words[] = {"remaining", "total", NULL};

static void select_oracle_topp(const struct masker_call *call, const struct masker_values *values)
{
    call->backend->score_exact(call->dev, call->selection, call->att);
    const struct budget no_limit = {0};
    call->backend->select_top_p(call->dev, call->selection, call->att,
                                values->param[PARAM_TOP_P].value,
                                values->param[PARAM_MASS].value == MASS_TOTAL, no_limit, 1.0f,
                                masker_share(values, PARAM_SHARE));
}

static const char *const aliases[] = {"OracleTopPConfig", NULL};

const struct masker masker_oracle_topp = {
    .name = "oracle-topp",
    .reference_type = "OracleTopPMaskerConfig",
    .reference_aliases = aliases,
    .title = "Oracle top-p",
    .summary = "Keeps the fewest keys whose true softmax mass exceeds p.",
    .source = "reference project; compare Twilight, arXiv 2502.02770",
    .cost = "reads all K",
    .kind = MASKER_TOP,
    .reads_all_keys = true,
    .n_params = N_PARAMS,
    .params =
        {
            [PARAM_TOP_P] =
                {
                    .name = "top_p",
                    .reference_name = "top_p",
                    .label = "p",
                    .help = "The share of softmax mass to exceed, from 0 (one key) to 1 (all).",
                    .unit = "of the mass",
                    .kind = PARAM_REAL,
                    .min = 0,
                    .max = 1,
                    .step = 0.05,
                    .fallback = {.value = 0.90},
                },
            [PARAM_MASS] =
                {
                    .name = "mass",
                    .label = "of mass",
                    .help = "remaining: p of the mass that earlier maskers left; total: p of all, "
                            "counting what they kept.",
                    .kind = PARAM_CHOICE,
                    .choices = mass_words,
                    .fallback = {.value = MASS_REMAINING},
                },
            [PARAM_SHARE] = MASKER_PARAM_SHARE,
        },
    .select = select_oracle_topp,
};
