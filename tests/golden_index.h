/* Indexes over keys opened for a run of the reference data, and what they keep of the keys held
 * against what it recorded.  What they keep is known inside of the cpu backend alone. */
#ifndef ATTNSCOPE_TESTS_GOLDEN_INDEX_H
#define ATTNSCOPE_TESTS_GOLDEN_INDEX_H

#include "engine/attention/stack_index.h"
#include "kernels/cpu/index.h"
#include "tests/golden_runs.h"

struct indexed_call {
    const struct attention_input *in;
    int b;
    const struct key_index *index;
    const struct selection *sel; /* with the index's scores */
};

static inline struct stack parsed(const struct checker *c, const struct json *run)
{
    struct stack stack;
    struct error err = {0};
    if (!parse_config(&stack, run, &err))
        fail_msg("%s", err.text);
    if (c->masker_file[0])
        use_masker_file(&stack, c->masker_file);
    return stack;
}

static inline struct stack_index open_index(const struct checker *c, const struct stack *stack,
                                            const struct attention_input *in)
{
    struct model_config config = {.n_layers = 1,
                                  .n_heads = in->n_heads,
                                  .n_kv_heads = in->n_kv_heads,
                                  .head_dim = in->head_dim};
    struct masker_model model = {.config = &config, .kv_dtype = DTYPE_F32};
    struct stack_index index;
    struct error err = {0};
    if (!stack_index_open(&index, stack, c->backend, c->dev, &model, in->n_keys, &err))
        fail_msg("%s", err.text);
    return index;
}

static inline struct attention_stage open_stage(const struct checker *c,
                                                const struct attention_input *in)
{
    struct attention_stage stage;
    struct error err = {0};
    if (!attention_stage_open(&stage, in, c->backend, c->dev, 1, &err))
        fail_msg("%s", err.text);
    return stage;
}

static inline struct selection *open_selection(const struct checker *c,
                                               const struct attention_input *in)
{
    struct selection *sel =
        c->backend->selection_open(c->dev, in->n_rows, in->n_heads, in->n_kv_heads, in->n_keys);
    assert_non_null(sel);
    return sel;
}

/* KEY/key_sig [B, H, K, bits], -1 or 1. */
static inline void check_signatures(const struct safetensors *file, const char *key,
                                    const struct indexed_call *call)
{
    const struct key_index *index = call->index;
    int64_t *sig = golden_ints(file, key, "key_sig");
    assert_non_null(sig);
    size_t n_heads = (size_t)call->in->n_heads, n_keys = (size_t)call->in->n_keys;
    size_t n_bits = (size_t)index->config.hash.width[index->config.hash.n_linears];
    for (size_t head = 0; head < n_heads; head++)
        for (size_t j = 0; j < n_keys; j++)
            for (size_t bit = 0; bit < n_bits; bit++) {
                size_t word = head * (size_t)index->n_words + bit / 32;
                bool got = index->words[word * index->stride + j] >> bit % 32 & 1;
                bool want =
                    sig[((((size_t)call->b * n_heads + head) * n_keys) + j) * n_bits + bit] > 0;
                if (got != want)
                    fail_msg("%s entry %d head %zu key %zu bit %zu: got %d, want %d", key, call->b,
                             head, j, bit, got, want);
            }
    free(sig);
}

#endif
