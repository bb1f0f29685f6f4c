/* Keys by their quantised parts: a few centroids per part of a key are found once, each key is kept
 * as the numbers of the nearest, and scored by what the query makes of these. */
#include <stdlib.h>

#include "engine/attention/maskers/maskers.h"
#include "engine/attention/planes.h"

enum {
    PARAM_HEAVY,
    PARAM_PARTS,
    PARAM_BITS,
    PARAM_ROUNDS,
    PARAM_INIT_OFFSET,
    PARAM_METRIC,
    PARAM_SEED,
    PARAM_TOP_P,
    PARAM_SHARE,
    N_PARAMS
};

static const char *const metric_words[] = {"euclidean", "ip", NULL}; /* enum code_metric */

static bool pq_index(const struct masker_values *values, const struct masker_model *model,
                     struct key_index_config *out, void **held, struct error *err)
{
    int n_parts = (int)values->param[PARAM_PARTS].value, head_dim = model->config->head_dim;
    (void)held;
    if (head_dim % n_parts != 0)
        return fail(err, "pq_group_factor %d does not divide the %d elements of a head", n_parts,
                    head_dim);
    out->kind = INDEX_CODES;
    out->codes = (struct key_codes){.n_parts = n_parts,
                                    .code_bits = (int)values->param[PARAM_BITS].value,
                                    .max_rounds = (int)values->param[PARAM_ROUNDS].value,
                                    .first_key = (int)values->param[PARAM_INIT_OFFSET].value,
                                    .metric = (enum code_metric)values->param[PARAM_METRIC].value,
                                    .seed = (uint64_t)values->param[PARAM_SEED].value};
    return true;
}

static void select_pq(const struct masker_call *call, const struct masker_values *values)
{
    const struct budget heavy = values->param[PARAM_HEAVY];
    const double top_p = values->param[PARAM_TOP_P].value;
    int n_centroids = 1 << (int)values->param[PARAM_BITS].value;
    int first_key = (int)values->param[PARAM_INIT_OFFSET].value;
    /* Too few keys to be clustered; with top-p a large budget alone is no reason to keep all. */
    struct budget short_of = top_p > 0 ? (struct budget){.value = 1} : heavy;
    call->backend->select_if_short(call->dev, call->selection, call->att, short_of,
                                   first_key + n_centroids);
    call->backend->score_index(call->dev, call->selection, call->index, call->att);
    masker_select_best(call, heavy, top_p, masker_share(values, PARAM_SHARE));
}

static const char *const aliases[] = {"PQCacheMaskerConfig", NULL};

const struct masker masker_pq = {
    .name = "pq",
    .reference_type = "PQCacheConfig",
    .reference_aliases = aliases,
    .title = "PQCache",
    .summary = "Keeps the keys that score highest by the nearest centroids of their parts.",
    .source = "Zhang et al. 2024, arXiv 2407.12820",
    .cost = "reads the codes of all keys",
    .kind = MASKER_TOP,
    .n_params = N_PARAMS,
    .params =
        {
            [PARAM_HEAVY] = MASKER_PARAM_HEAVY(MASKER_HEAVY_KEYS),
            [PARAM_PARTS] =
                {
                    .name = "pq_group_factor",
                    .reference_name = "pq_group_factor",
                    .label = "parts",
                    .help = "Parts that a key is cut into, a divisor of the head's elements.",
                    .kind = PARAM_COUNT,
                    .min = 1,
                    .max = 256,
                    .step = 1,
                    .fallback = {.value = 2},
                },
            [PARAM_BITS] =
                {
                    .name = "pq_bits",
                    .reference_name = "pq_bits",
                    .label = "bits",
                    .help = "Bits of a part's code: 2^bits centroids.",
                    .kind = PARAM_COUNT,
                    .min = 1,
                    .max = 12,
                    .step = 1,
                    .fallback = {.value = 6},
                },
            [PARAM_ROUNDS] =
                {
                    .name = "kmeans_iter",
                    .reference_name = "kmeans_iter",
                    .label = "rounds",
                    .help = "Rounds of k-means at most.",
                    .kind = PARAM_COUNT,
                    .min = 1,
                    .max = 50,
                    .step = 1,
                    .fallback = {.value = 10},
                },
            [PARAM_INIT_OFFSET] =
                {
                    .name = "init_offset",
                    .reference_name = "init_offset",
                    .label = "first",
                    .help = "First keys that have no codes and are never chosen: leave them to a "
                            "sink.",
                    .kind = PARAM_COUNT,
                    .min = 0,
                    .max = 1 << 30,
                    .step = 16,
                    .fallback = {.value = 128},
                },
            [PARAM_METRIC] =
                {
                    .name = "metric",
                    .reference_name = "metric",
                    .label = "metric",
                    .help = "What is nearest: by distance, or by inner product.",
                    .kind = PARAM_CHOICE,
                    .choices = metric_words,
                },
            [PARAM_SEED] =
                {
                    .name = "seed",
                    .label = "seed",
                    .help = "Of the keys that k-means starts from.",
                    .kind = PARAM_COUNT,
                    .min = 0,
                    .max = 1 << 30,
                    .step = 1,
                    .fallback = {.value = 42},
                },
            [PARAM_TOP_P] = MASKER_PARAM_TOP_P("keys"),
            [PARAM_SHARE] = MASKER_PARAM_SHARE,
        },
    .select = select_pq,
    .index = pq_index,
};
