/* Keys by chance collisions: a key is taken where it shares the query's code in enough tables of
 * random planes, which is the likelier the smaller their angle, and weighs one over that chance. */
#include <stdlib.h>
#include <string.h>

#include "engine/attention/maskers/maskers.h"
#include "engine/attention/planes.h"
#include "engine/base/memory.h"

enum {
    PARAM_TABLES,
    PARAM_BITS,
    PARAM_HITS,
    PARAM_CENTER,
    PARAM_SEED,
    PARAM_PROJECTIONS,
    N_PARAMS
};

/* In the order of enum key_center. */
static const char *const center_words[] = {"none", "keys", "both", NULL};
static const int center_bool[] = {CENTER_NONE, CENTER_BOTH};

/* Each layer's from a stream of its own. */
static float *random_projections(const struct model_config *c, size_t n, uint64_t seed)
{
    float *all = xcalloc(n * (size_t)c->n_layers, sizeof *all);
    for (int layer = 0; layer < c->n_layers; layer++) {
        float *one = planes_random(n, seed, (uint32_t)layer);
        memcpy(all + (size_t)layer * n, one, n * sizeof *one);
        free(one);
    }
    return all;
}

static bool magicpig_index(const struct masker_values *values, const struct masker_model *model,
                           struct key_index_config *out, void **held, struct error *err)
{
    const struct model_config *c = model->config;
    struct key_tables *t = &out->tables;
    out->kind = INDEX_TABLES;
    *t = (struct key_tables){.n_tables = (int)values->param[PARAM_TABLES].value,
                             .n_bits = (int)values->param[PARAM_BITS].value,
                             .min_hits = (int)values->param[PARAM_HITS].value,
                             .center = (enum key_center)values->param[PARAM_CENTER].value};
    if (!held)
        return true;
    int shape[] = {c->n_layers, c->head_dim + 1, t->n_tables * t->n_bits};
    *held = planes_are_random(values->path)
                ? random_projections(c, (size_t)shape[1] * (size_t)shape[2],
                                     (uint64_t)values->param[PARAM_SEED].value)
                : planes_read(values->path, "projections", shape, 3, err);
    t->projections = *held;
    return *held != NULL;
}

static void select_magicpig(const struct masker_call *call, const struct masker_values *values)
{
    (void)values;
    call->backend->select_matches(call->dev, call->selection, call->index, call->att);
}

static const char *const aliases[] = {"MagicPigMaskerConfig", NULL};
static const char *const ignored[] = {"packing", NULL}; /* how it stores bits */

const struct masker masker_magicpig = {
    .name = "magicpig",
    .reference_type = "MagicPigConfig",
    .reference_aliases = aliases,
    .reference_ignored = ignored,
    .title = "MagicPIG",
    .summary = "Draws keys by collisions of random codes and weights them by 1/p.",
    .source = "Chen et al. 2024, arXiv 2410.16179",
    .cost = "reads the codes of all keys",
    .kind = MASKER_SAMPLER,
    .n_params = N_PARAMS,
    .params =
        {
            [PARAM_TABLES] =
                {
                    .name = "tables",
                    .reference_name = "lsh_l",
                    .label = "tables",
                    .help = "How many tables (L): more collide more often.",
                    .kind = PARAM_COUNT,
                    .min = 1,
                    .max = 512,
                    .step = 5,
                    .fallback = {.value = 75},
                },
            [PARAM_BITS] =
                {
                    .name = "bits",
                    .reference_name = "lsh_k",
                    .label = "bits",
                    .help = "Bits of a code (K): more collide less often.",
                    .kind = PARAM_COUNT,
                    .min = 1,
                    .max = 64,
                    .step = 1,
                    .fallback = {.value = 8},
                },
            [PARAM_HITS] =
                {
                    .name = "hits",
                    .label = "hits",
                    .help = "In how many tables a key must share the query's code: 1 as the "
                            "reference has it, 2 as the paper has it.",
                    .kind = PARAM_COUNT,
                    .min = 1,
                    .max = 2,
                    .step = 1,
                    .fallback = {.value = 1},
                },
            [PARAM_CENTER] =
                {
                    .name = "center",
                    .reference_name = "center",
                    .reference_bool = center_bool,
                    .label = "center",
                    .help = "What codes are made of less the mean key: keys as in the paper, both "
                            "keys and queries as in the reference, or none.",
                    .kind = PARAM_CHOICE,
                    .choices = center_words,
                    .fallback = {.value = CENTER_KEYS},
                },
            [PARAM_SEED] =
                {
                    .name = "seed",
                    .reference_name = "seed",
                    .label = "seed",
                    .help = "Of random planes.",
                    .kind = PARAM_COUNT,
                    .min = 0,
                    .max = 1 << 30,
                    .step = 1,
                    .fallback = {.value = 42},
                },
            [PARAM_PROJECTIONS] =
                {
                    .name = "projections",
                    .label = "planes",
                    .help = "A safetensors file with a tensor projections [layers, head_dim + 1, "
                            "tables * bits]; none: random by the seed.",
                    .kind = PARAM_PATH,
                },
        },
    .select = select_magicpig,
    .index = magicpig_index,
};
