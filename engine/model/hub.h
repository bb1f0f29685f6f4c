/* Finding model folders: a path, an "org/name[@rev]" in the HuggingFace cache, and the list of
 * all that is cached.  Reads config.json and safetensors headers only; never a network. */
#ifndef ATTNSCOPE_ENGINE_MODEL_HUB_H
#define ATTNSCOPE_ENGINE_MODEL_HUB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"

/* Resolves what a user typed to a folder.  The caller frees it; NULL on failure. */
char *hub_resolve(const char *name, struct error *err);

struct hub_model {
    char *name;       /* "org/name", or the path of a plain folder */
    char *folder;     /* the snapshot folder */
    char revision[8]; /* 7 hex digits, or "" */
    char *architecture;
    char *dtype;
    int n_layers, n_heads, n_kv_heads, max_seq_len;
    uint64_t n_params, n_bytes;
    uint64_t kv_bytes_per_token; /* bf16 */
    char *problem;               /* NULL if loadable; else why not, naming the file */
};

struct hub_list {
    struct hub_model *models;
    size_t n;
};

/* All models in the cache roots, sorted by name; broken ones with their problem. */
void hub_scan(struct hub_list *out);
void hub_list_free(struct hub_list *list);

#endif
