/* The table of maskers, and looking things up in it. */
#include "engine/attention/masker.h"

#include <limits.h>
#include <string.h>

#include "engine/attention/maskers/maskers.h"

const struct masker *const maskers[] = {
    &masker_sink,
    &masker_local,
    &masker_causal,
    &masker_oracle_topk,
    &masker_oracle_topp,
    &masker_hash,
    &masker_quest,
    &masker_double_sparsity,
    &masker_pq,
    &masker_socket,
    &masker_random,
    &masker_magicpig,
    &masker_adaptive,
    &masker_reuse,
    NULL,
};

const char *const masker_share_words[] = {"head", "group", NULL};

static bool same_name(const char *a, const char *b)
{
    for (; *a && *b; a++, b++)
        if ((*a == '_' ? '-' : *a) != (*b == '_' ? '-' : *b))
            return false;
    return *a == *b;
}

const struct masker *masker_find(const char *name)
{
    for (const struct masker *const *m = maskers; *m; m++)
        if (same_name((*m)->name, name))
            return *m;
    return NULL;
}

static bool has_reference_type(const struct masker *m, const char *type)
{
    if (m->reference_type && strcmp(m->reference_type, type) == 0)
        return true;
    for (const char *const *alias = m->reference_aliases; alias && *alias; alias++)
        if (strcmp(*alias, type) == 0)
            return true;
    return false;
}

const struct masker *masker_find_reference(const char *type)
{
    for (const struct masker *const *m = maskers; *m; m++)
        if (has_reference_type(*m, type))
            return *m;
    return NULL;
}

int masker_param_index(const struct masker *m, const char *name)
{
    for (int i = 0; i < m->n_params; i++)
        if (same_name(m->params[i].name, name))
            return i;
    return -1;
}

struct masker_values masker_defaults(const struct masker *m)
{
    struct masker_values values = {0};
    for (int i = 0; i < m->n_params; i++)
        values.param[i] = m->params[i].fallback;
    return values;
}

bool masker_reads_all_keys(const struct masker *m, const struct masker_values *values)
{
    return m->reads_all_with ? m->reads_all_with(values) : m->reads_all_keys;
}

int budget_keys(struct budget size, int n_keys)
{
    double n = size.is_fraction ? size.value * n_keys : size.value;
    return n >= INT_MAX ? INT_MAX : n > 0 ? (int)n : 0;
}
