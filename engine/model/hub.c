/* Finding models: see the header.  Scanning reads each model's config.json and tensor headers. */
#include "engine/model/hub.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/memory.h"
#include "engine/model/config.h"
#include "engine/model/families/family.h"
#include "engine/model/hub_names.h"
#include "engine/model/model.h"
#include "engine/model/safetensors.h"
#include "engine/model/weights.h"

enum { MAX_CONFIG_BYTES = 1 << 20 };

/* --- Resolving ---------------------------------------------------------------------------- */

/* A folder of a model, or a repository's folder in a cache. */
static char *resolve_folder(const char *path, struct error *err)
{
    char *config = path_join(path, "config.json"), *found = NULL;
    if (file_exists(config))
        found = xstrdup(path);
    else
        found = hub_find_snapshot(path, NULL);
    if (!found)
        fail(err, "%s: no config.json in this folder (expected a model in HuggingFace layout)",
             path);
    free(config);
    return found;
}

static void fail_not_cached(const char *repo, const char *revision, const struct hub_roots *roots,
                            bool repo_found, struct error *err)
{
    struct buf where = {0};
    for (int i = 0; i < roots->n; i++)
        buf_printf(&where, "%s%s", i ? ", " : "", roots->paths[i]);
    if (repo_found && revision)
        fail(err,
             "%s is cached, but not its revision \"%.80s\". Fetch it with: hf download %s "
             "--revision %.80s",
             repo, revision, repo, revision);
    else if (repo_found)
        fail(err, "%s: incomplete: no snapshot with a config.json. Fetch it with: hf download %s",
             repo, repo);
    else
        fail(err, "%s is neither a folder nor cached (looked in %s). Fetch it with: hf download %s",
             repo, where.data ? where.data : "no folder: there is no HuggingFace cache", repo);
    buf_free(&where);
}

static char *resolve_repo(const char *repo, const char *revision, struct error *err)
{
    struct hub_roots roots = hub_roots_find();
    char *folder = hub_folder_of_repo(repo), *found = NULL;
    bool repo_found = false;
    for (int i = 0; i < roots.n && !found; i++) {
        char *path = path_join(roots.paths[i], folder);
        if (file_is_folder(path)) {
            repo_found = true;
            found = hub_find_snapshot(path, revision);
        }
        free(path);
    }
    if (!found)
        fail_not_cached(repo, revision, &roots, repo_found, err);
    free(folder);
    hub_roots_free(&roots);
    return found;
}

char *hub_resolve(const char *name, struct error *err)
{
    if (file_is_folder(name))
        return resolve_folder(name, err);
    if (file_exists(name)) {
        fail(err, "%s is a file (expected the folder of a model)", name);
        return NULL;
    }
    char *repo = xstrdup(name), *found = NULL;
    char *at = strchr(repo, '@');
    if (at)
        *at++ = '\0';
    if (name[0] == '/' || name[0] == '.' || name[0] == '~')
        fail(err, "%s: there is no such folder", name);
    else if (!hub_is_repo_name(repo) || (at && !*at))
        fail(err,
             "\"%.200s\" is neither a folder nor a model's name (expected ORG/NAME or "
             "ORG/NAME@REVISION)",
             name);
    else
        found = resolve_repo(repo, at, err);
    free(repo);
    return found;
}

/* --- Scanning ----------------------------------------------------------------------------- */

/* What config.json says of a model that cannot be loaded. */
static void read_claims(struct hub_model *m)
{
    char *path = path_join(m->folder, "config.json");
    struct json *root = json_parse_file(path, MAX_CONFIG_BYTES, NULL);
    const char *architecture = json_string(json_first(json_get(root, "architectures")));
    const char *dtype = json_string(json_get(root, "dtype"));
    if (!architecture)
        architecture = json_string(json_get(root, "model_type"));
    if (!dtype)
        dtype = json_string(json_get(root, "torch_dtype"));
    m->architecture = xstrdup(architecture ? architecture : "");
    m->dtype = xstrdup(dtype ? dtype : "");
    json_free(root);
    free(path);
}

/* The weights' dtype is that of most of their bytes. */
static void read_weights(struct hub_model *m, const struct checkpoint *c)
{
    static const char *const dtypes[][2] = {
        {"BF16", "bfloat16"}, {"F16", "float16"}, {"F32", "float32"}};
    uint64_t n_bytes[3] = {0};
    m->n_bytes = checkpoint_file_bytes(c);
    for (size_t i = 0; i < checkpoint_count(c); i++) {
        const struct safetensor *t = checkpoint_at(c, i);
        m->n_params += t->n_elements;
        for (int d = 0; d < 3; d++)
            if (strcmp(t->dtype, dtypes[d][0]) == 0)
                n_bytes[d] += t->end - t->begin;
    }
    int best = 0;
    for (int d = 1; d < 3; d++)
        if (n_bytes[d] > n_bytes[best])
            best = d;
    if (n_bytes[best]) {
        free(m->dtype);
        m->dtype = xstrdup(dtypes[best][1]);
    }
}

static void copy_config(struct hub_model *m, const struct model_config *config)
{
    m->architecture = xstrdup(config->family->architecture);
    m->dtype = xstrdup(config->stored_dtype);
    m->n_layers = config->n_layers;
    m->n_heads = config->n_heads;
    m->n_kv_heads = config->n_kv_heads;
    m->max_seq_len = config->max_seq_len;
    m->kv_bytes_per_token = model_kv_bytes_per_token(config, DTYPE_BF16);
}

/* Fills what can be known; what stands in the way of loading becomes m->problem. */
static void inspect(struct hub_model *m)
{
    struct error err = {0};
    struct model_config config;
    bool ok = model_config_load(&config, m->folder, &err);
    if (ok)
        copy_config(m, &config);
    else
        read_claims(m);
    struct checkpoint *c = checkpoint_open(m->folder, ok ? &err : NULL);
    if (c) {
        read_weights(m, c);
        if (ok)
            ok = weights_check(&config, c, m->folder, &m->n_params, &err);
        checkpoint_close(c);
    } else {
        ok = false;
    }
    if (!ok)
        m->problem = xstrdup(err.text);
}

static void set_revision(struct hub_model *m)
{
    const char *commit = strrchr(m->folder, '/');
    size_t n = strlen(commit + 1);
    n = n < sizeof m->revision - 1 ? n : sizeof m->revision - 1;
    memcpy(m->revision, commit + 1, n);
    m->revision[n] = '\0';
}

static bool holds(const struct hub_list *list, const char *name)
{
    for (size_t i = 0; i < list->n; i++)
        if (strcmp(list->models[i].name, name) == 0)
            return true;
    return false;
}

static void add_model(struct hub_list *list, size_t *capacity, char *name, const char *repo_folder)
{
    list->models = array_grow(list->models, capacity, list->n + 1, sizeof *list->models);
    struct hub_model *m = &list->models[list->n++];
    *m = (struct hub_model){.name = name, .folder = hub_find_snapshot(repo_folder, NULL)};
    if (m->folder) {
        set_revision(m);
        inspect(m);
        return;
    }
    struct buf problem = {0};
    buf_printf(&problem, "%s: incomplete: no snapshot with a config.json", repo_folder);
    m->folder = xstrdup(repo_folder);
    m->architecture = xstrdup("");
    m->dtype = xstrdup("");
    m->problem = buf_take(&problem);
}

static void scan_root(struct hub_list *list, size_t *capacity, const char *root)
{
    DIR *dir = opendir(root);
    if (!dir)
        return;
    size_t n_before = list->n; /* names differ within a root: only earlier roots are searched */
    const struct dirent *item;
    while ((item = readdir(dir))) {
        const struct hub_list earlier = {list->models, n_before};
        char *name = hub_repo_of_folder(item->d_name);
        char *path = path_join(root, item->d_name);
        if (name && file_is_folder(path) && !holds(&earlier, name))
            add_model(list, capacity, name, path);
        else
            free(name);
        free(path);
    }
    closedir(dir);
}

static int compare_models(const void *a, const void *b)
{
    return strcmp(((const struct hub_model *)a)->name, ((const struct hub_model *)b)->name);
}

void hub_scan(struct hub_list *out)
{
    *out = (struct hub_list){0};
    size_t capacity = 0;
    struct hub_roots roots = hub_roots_find();
    for (int i = 0; i < roots.n; i++)
        scan_root(out, &capacity, roots.paths[i]);
    hub_roots_free(&roots);
    if (out->n)
        qsort(out->models, out->n, sizeof *out->models, compare_models);
}

void hub_list_free(struct hub_list *list)
{
    for (size_t i = 0; i < list->n; i++) {
        struct hub_model *m = &list->models[i];
        free(m->name);
        free(m->folder);
        free(m->architecture);
        free(m->dtype);
        free(m->problem);
    }
    free(list->models);
    *list = (struct hub_list){0};
}
