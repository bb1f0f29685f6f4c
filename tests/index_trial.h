/* An index over keys under test: a selection's trial, one layer of several. */
#ifndef ATTNSCOPE_TESTS_INDEX_TRIAL_H
#define ATTNSCOPE_TESTS_INDEX_TRIAL_H

#include "kernels/cpu/index.h"
#include "tests/index_params.h"
#include "tests/selection_trial.h"

enum { N_LAYERS = 3, LAYER = 1 };

static inline struct key_index_config config_of(const struct trial *t, enum key_index_kind kind)
{
    return (struct key_index_config){.kind = kind,
                                     .n_layers = N_LAYERS,
                                     .n_heads = t->m.n_heads,
                                     .n_kv_heads = t->m.n_kv_heads,
                                     .head_dim = t->c.att.kv.head_dim,
                                     .max_keys = t->m.n_keys,
                                     .kv_dtype = t->c.att.kv.dtype};
}

static inline struct key_index *open_index(const struct trial *t,
                                           const struct key_index_config *config)
{
    char why[256] = "";
    struct key_index *index = backend_cpu.index_open(t->dev, config, why, sizeof why);
    if (!index)
        fail_msg("%s", why);
    return index;
}

#endif
