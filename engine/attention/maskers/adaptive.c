/* As many random keys as it takes to know the softmax denominator to a relative error: few where
 * the scores that are left are alike, many where they differ. */
#include "engine/attention/maskers/maskers.h"

enum {
    PARAM_BASE,
    PARAM_EPSILON,
    PARAM_DELTA,
    PARAM_INIT_OFFSET,
    PARAM_LOCAL_OFFSET,
    PARAM_SIDES,
    PARAM_MODE,
    PARAM_TEMPERATURE,
    PARAM_SHARE,
    N_PARAMS
};

static const char *const side_words[] = {"two", "one", NULL};
static const char *const mode_words[] = {"uniform", "multinomial", "gumbel", NULL}; /* draw_mode */

static enum draw_mode mode_of(const struct masker_values *values)
{
    return (enum draw_mode)(int)values->param[PARAM_MODE].value;
}

static bool draws_by_score(const struct masker_values *values)
{
    return mode_of(values) != DRAW_UNIFORM;
}

static const char *missing_mode(const struct masker_values *values, const struct backend *backend)
{
    static const char *const modes[] = {
        [DRAW_MULTINOMIAL] = "mode=multinomial", [DRAW_GUMBEL] = "mode=gumbel"};
    return draws_by_score(values) && !backend->draws_by_score ? modes[mode_of(values)] : NULL;
}

static void select_adaptive(const struct masker_call *call, const struct masker_values *values)
{
    struct adaptive_sampling sampling = {
        .base = values->param[PARAM_BASE],
        .init_offset = values->param[PARAM_INIT_OFFSET],
        .local_offset = values->param[PARAM_LOCAL_OFFSET],
        .epsilon = values->param[PARAM_EPSILON].value,
        .delta = values->param[PARAM_DELTA].value,
        .one_sided = values->param[PARAM_SIDES].value == 1,
        .mode = mode_of(values),
        .temperature = values->param[PARAM_TEMPERATURE].value,
    };
    if (sampling.base.value == 0) /* as in the reference's configs: off */
        return;
    if (draws_by_score(values))
        call->backend->score_exact(call->dev, call->selection, call->att);
    call->backend->select_adaptive(call->dev, call->selection, call->att, &sampling, call->slot,
                                   masker_share(values, PARAM_SHARE));
}

/* Keys that other maskers are there for. */
#define OFFSET_PARAM(what, short_name, text)                                                       \
    {                                                                                              \
        .name = what, .reference_name = what, .label = short_name, .help = text,                   \
        .kind = PARAM_BUDGET, .min = 0, .max = 1 << 30, .min_fraction = 0, .max_fraction = 1,      \
        .step = 16, .fallback = {.value = 128},                                                    \
    }

#define CHANCE_PARAM(what, text)                                                                   \
    {                                                                                              \
        .name = what, .reference_name = what, .label = what, .help = text, .kind = PARAM_REAL,     \
        .min = 0, .min_exclusive = true, .max = 1, .max_exclusive = true, .step = 0.05,            \
        .fallback = {.value = 0.10},                                                               \
    }

const struct masker masker_adaptive = {
    .name = "adaptive",
    .reference_type = "AdaptiveSamplingMaskerConfig",
    .title = "Adaptive sampling (vAttention)",
    .summary = "Draws as many random keys as bounding the error of the softmax denominator takes.",
    .source = "Desai et al. 2025 (vAttention), arXiv 2510.05688, unbiased for any sample size",
    .cost = "reads what is kept, and the drawn keys",
    .kind = MASKER_SAMPLER,
    .n_params = N_PARAMS,
    .params =
        {
            [PARAM_BASE] =
                {
                    .name = "base_rate_sampling",
                    .reference_name = "base_rate_sampling",
                    .label = "base",
                    .help = "Keys of the sample that tells how many more to draw, which are at "
                            "least as many: a count, or a share of the keys left; 0: off.",
                    .kind = PARAM_BUDGET,
                    .min = 0,
                    .max = 1 << 30,
                    .min_fraction = 0,
                    .max_fraction = 1,
                    .step = 16,
                    .fallback = {.is_fraction = true, .value = 0.05},
                },
            [PARAM_EPSILON] = CHANCE_PARAM("epsilon", "The relative error of the softmax "
                                                      "denominator that is allowed."),
            [PARAM_DELTA] = CHANCE_PARAM("delta", "How often the error may be larger than that."),
            [PARAM_INIT_OFFSET] = OFFSET_PARAM(
                "init_offset", "first",
                "First keys that are never drawn: what a sink before it keeps; 0: none."),
            [PARAM_LOCAL_OFFSET] = OFFSET_PARAM(
                "local_offset", "latest",
                "Latest keys that are never drawn: what a local window before it keeps; 0: none."),
            [PARAM_SIDES] =
                {
                    .name = "sides",
                    .label = "sides",
                    .help = "two: delta covers errors both ways; one: each way, as the reference "
                            "has it, which draws fewer keys.",
                    .kind = PARAM_CHOICE,
                    .choices = side_words,
                },
            [PARAM_MODE] =
                {
                    .name = "mode",
                    .label = "mode",
                    .help = "How keys beside the base are drawn: uniform: all alike; multinomial, "
                            "gumbel: by their true scores, which reads all keys.",
                    .kind = PARAM_CHOICE,
                    .choices = mode_words,
                },
            [PARAM_TEMPERATURE] =
                {
                    .name = "temperature",
                    .label = "temperature",
                    .help = "By what scores are divided in the modes that draw by them.",
                    .kind = PARAM_REAL,
                    .min = 0.25,
                    .max = 16,
                    .step = 0.25,
                    .fallback = {.value = 1},
                },
            [PARAM_SHARE] = MASKER_PARAM_SHARE,
        },
    .select = select_adaptive,
    .missing = missing_mode,
    .reads_all_with = draws_by_score,
};
