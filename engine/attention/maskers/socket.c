/* Keys by soft collisions: in each of many tables of random planes a key lies in one bucket, the
 * query in every bucket with a probability, and a key counts as much as its buckets' probabilities
 * times its value's length. */
#include "engine/attention/maskers/maskers.h"
#include "engine/attention/planes.h"

enum {
    PARAM_HEAVY,
    PARAM_BITS,
    PARAM_TABLES,
    PARAM_TAU,
    PARAM_SEED,
    PARAM_PER_LAYER,
    PARAM_PLANES,
    PARAM_SHARE,
    N_PARAMS
};

static const char *const per_layer_words[] = {"no", "yes", NULL};

static bool socket_index(const struct masker_values *values, const struct masker_model *model,
                         struct key_index_config *out, void **held, struct error *err)
{
    struct key_buckets *b = &out->buckets;
    out->kind = INDEX_BUCKETS;
    *b = (struct key_buckets){
        .n_tables = (int)values->param[PARAM_TABLES].value,
        .n_bits = (int)values->param[PARAM_BITS].value,
        .tau = (float)values->param[PARAM_TAU].value,
        .n_planes = values->param[PARAM_PER_LAYER].value != 0 ? model->config->n_layers : 1};
    if (!held)
        return true;
    int shape[] = {b->n_planes, b->n_tables, b->n_bits, model->config->head_dim};
    size_t n = (size_t)shape[0] * (size_t)shape[1] * (size_t)shape[2] * (size_t)shape[3];
    *held = planes_are_random(values->path)
                ? planes_random(n, (uint64_t)values->param[PARAM_SEED].value, 0)
                : planes_read(values->path, "planes", shape, 4, err);
    b->planes = *held;
    return *held != NULL;
}

static void select_socket(const struct masker_call *call, const struct masker_values *values)
{
    call->backend->score_index(call->dev, call->selection, call->index, call->att);
    call->backend->select_top_k(call->dev, call->selection, call->att, values->param[PARAM_HEAVY],
                                masker_share(values, PARAM_SHARE));
}

const struct masker masker_socket = {
    .name = "socket",
    .reference_type = "SocketMaskerConfig",
    .title = "SOCKET",
    .summary = "Keeps the keys that share buckets of random planes with the query most likely.",
    .source = "arXiv 2602.06283",
    .cost = "reads the buckets of all keys",
    .kind = MASKER_TOP,
    .overlaps = true,
    .n_params = N_PARAMS,
    .params =
        {
            [PARAM_HEAVY] = MASKER_PARAM_HEAVY(
                "How many keys to keep, kept already or not: a count, or a share of all keys."),
            [PARAM_BITS] =
                {
                    .name = "bits",
                    .reference_name = "K",
                    .label = "bits",
                    .help = "Planes of a table: it has 2^bits buckets.",
                    .kind = PARAM_COUNT,
                    .min = 1,
                    .max = 32,
                    .step = 1,
                    .fallback = {.value = 10},
                },
            [PARAM_TABLES] =
                {
                    .name = "tables",
                    .reference_name = "L",
                    .label = "tables",
                    .help = "How many tables: more rank better and cost more.",
                    .kind = PARAM_COUNT,
                    .min = 1,
                    .max = 128,
                    .step = 4,
                    .fallback = {.value = 40},
                },
            [PARAM_TAU] =
                {
                    .name = "tau",
                    .reference_name = "tau",
                    .label = "tau",
                    .help = "Temperature of the query's choice of buckets; lower is sharper.",
                    .kind = PARAM_REAL,
                    .min = 0.05,
                    .max = 5,
                    .step = 0.05,
                    .fallback = {.value = 0.3},
                },
            [PARAM_SEED] =
                {
                    .name = "seed",
                    .label = "seed",
                    .help = "Of random planes.",
                    .kind = PARAM_COUNT,
                    .min = 0,
                    .max = 1 << 30,
                    .step = 1,
                    .fallback = {.value = 42},
                },
            [PARAM_PER_LAYER] =
                {
                    .name = "per_layer",
                    .label = "per layer",
                    .help = "no: all layers have the same planes, as the reference's have; yes: "
                            "each layer has its own.",
                    .kind = PARAM_CHOICE,
                    .choices = per_layer_words,
                },
            [PARAM_PLANES] =
                {
                    .name = "planes",
                    .label = "planes",
                    .help = "A safetensors file with a tensor planes [tables, bits, head_dim], "
                            "per layer with the layers first; none: random by the seed.",
                    .kind = PARAM_PATH,
                },
            [PARAM_SHARE] = MASKER_PARAM_SHARE,
        },
    .select = select_socket,
    .index = socket_index,
};
