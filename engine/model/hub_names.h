/* The layout of the HuggingFace cache: its roots, its folder names, the snapshot that a revision
 * means.  Source: huggingface_hub, "Understand caching". */
#ifndef ATTNSCOPE_ENGINE_MODEL_HUB_NAMES_H
#define ATTNSCOPE_ENGINE_MODEL_HUB_NAMES_H

#include <stdbool.h>

enum { HUB_MAX_ROOTS = 5 };

struct hub_roots {
    char *paths[HUB_MAX_ROOTS]; /* existing folders, each once, the first wins; owned */
    int n;
};

/* From HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME, XDG_CACHE_HOME and HOME, in this order. */
struct hub_roots hub_roots_find(void);
void hub_roots_free(struct hub_roots *roots);

/* "org/name" or "name", free of tricks: no "..", no empty part, no "--", no control characters. */
bool hub_is_repo_name(const char *name);
/* "org/name" -> "models--org--name", and back; NULL if folder is no model's.  The caller frees. */
char *hub_folder_of_repo(const char *name);
char *hub_repo_of_folder(const char *folder);

/* The snapshot folder of a repository's folder: of a ref or a commit's beginning, or, with
 * revision NULL, of refs/main, else the newest one with a config.json.  NULL if there is none; the
 * caller frees. */
char *hub_find_snapshot(const char *repo_folder, const char *revision);

#endif
