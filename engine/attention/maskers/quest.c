/* Pages of keys by an upper bound of what a key in them can score: two rows read per page in place
 * of all of its keys. */
#include "engine/attention/maskers/maskers.h"

enum { PARAM_HEAVY, PARAM_PAGE_SIZE, PARAM_LABEL_BITS, PARAM_TOP_P, PARAM_SHARE, N_PARAMS };

static bool quest_index(const struct masker_values *values, const struct masker_model *model,
                        struct key_index_config *out, void **held, struct error *err)
{
    (void)model;
    (void)held;
    (void)err;
    out->kind = INDEX_PAGES;
    out->pages = (struct key_pages){(int)values->param[PARAM_PAGE_SIZE].value,
                                    (int)values->param[PARAM_LABEL_BITS].value};
    return true;
}

static void select_quest(const struct masker_call *call, const struct masker_values *values)
{
    call->backend->score_index(call->dev, call->selection, call->index, call->att);
    call->backend->select_pages(call->dev, call->selection, call->att, values->param[PARAM_HEAVY],
                                (int)values->param[PARAM_PAGE_SIZE].value,
                                values->param[PARAM_TOP_P].value,
                                masker_share(values, PARAM_SHARE));
}

const struct masker masker_quest = {
    .name = "quest",
    .reference_type = "QuestTopKMaskerConfig",
    .title = "Quest",
    .summary =
        "Keeps the pages of keys whose bounds allow the highest scores, at least three or as "
        "many as top-p asks for.",
    .source = "Tang et al. 2024, arXiv 2406.10774",
    .cost = "reads two rows per page",
    .kind = MASKER_TOP,
    .overlaps = true,
    .n_params = N_PARAMS,
    .params =
        {
            [PARAM_HEAVY] = MASKER_PARAM_HEAVY(
                "How many keys the pages hold together: a count, or a share of all."),
            [PARAM_PAGE_SIZE] =
                {
                    .name = "page_size",
                    .reference_name = "page_size",
                    .label = "page",
                    .help = "Keys of one page.",
                    .unit = "keys",
                    .kind = PARAM_COUNT,
                    .min = 1,
                    .max = 1024,
                    .step = 8,
                    .fallback = {.value = 16},
                },
            [PARAM_LABEL_BITS] =
                {
                    .name = "label_bits",
                    .reference_name = "label_bits",
                    .label = "bits",
                    .help = "Bits that a page's bounds are rounded to; 16: not rounded.",
                    .unit = "bits",
                    .kind = PARAM_COUNT,
                    .min = 1,
                    .max = 16,
                    .step = 1,
                    .fallback = {.value = 16},
                },
            [PARAM_TOP_P] = MASKER_PARAM_TOP_P("pages"),
            [PARAM_SHARE] = MASKER_PARAM_SHARE,
        },
    .select = select_quest,
    .index = quest_index,
};
