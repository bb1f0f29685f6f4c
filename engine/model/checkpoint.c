/* A model folder's weights: which files hold them, and one sorted table of all their tensors.
 * Names come from a file and are not trusted: an index can name plain files of its folder only. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/memory.h"
#include "engine/model/checkpoint_files.h"
#include "engine/model/name_list.h"
#include "engine/model/safetensors.h"

enum { MAX_INDEX_BYTES = 64 << 20, MAX_TENSORS = 1000000, MAX_SHARDS = 1000 };

struct entry {
    const struct safetensor *tensor;
    const struct safetensors *file;
};

struct checkpoint {
    char *folder;
    struct safetensors **files;
    size_t n_files, files_capacity;
    struct entry *entries; /* [n], by name */
    size_t n;
    struct buf warnings;
};

/* One line of an index: both strings belong to its JSON. */
struct mapping {
    const char *tensor, *file;
};

static int compare_entries(const void *a, const void *b)
{
    return strcmp(((const struct entry *)a)->tensor->name, ((const struct entry *)b)->tensor->name);
}

static int compare_mappings(const void *a, const void *b)
{
    const struct mapping *x = a, *y = b;
    int order = strcmp(x->file, y->file);
    return order ? order : strcmp(x->tensor, y->tensor);
}

/* A link may lead to the blobs of the same cached repository, or stay in the folder; elsewhere the
 * user is told. */
static void warn_of_outside_link(struct checkpoint *c, const char *path)
{
    static const char blobs[] = "../../blobs/";
    char target[PATH_MAX], folder[PATH_MAX];
    ssize_t n = readlink(path, target, sizeof target - 1);
    if (n < 0)
        return; /* no link */
    target[n] = '\0';
    if (strncmp(target, blobs, strlen(blobs)) == 0 && !strchr(target + strlen(blobs), '/') &&
        strstr(c->folder, "/snapshots/"))
        return;
    if (!realpath(path, target) || !realpath(c->folder, folder))
        return;
    size_t len = strlen(folder);
    if (strncmp(target, folder, len) != 0 || target[len] != '/')
        buf_printf(&c->warnings, "%s is a link to %s, outside the folder\n", path, target);
}

static struct safetensors *open_file(struct checkpoint *c, const char *name, struct error *err)
{
    char *path = path_join(c->folder, name);
    struct safetensors *file = safetensors_open(path, err);
    if (file) {
        warn_of_outside_link(c, path);
        c->files = array_grow(c->files, &c->files_capacity, c->n_files + 1, sizeof *c->files);
        c->files[c->n_files++] = file;
    }
    free(path);
    return file;
}

static bool open_single(struct checkpoint *c, struct error *err)
{
    struct safetensors *file = open_file(c, "model.safetensors", err);
    if (!file)
        return false;
    c->n = safetensors_count(file);
    c->entries = xcalloc(c->n, sizeof *c->entries);
    for (size_t i = 0; i < c->n; i++)
        c->entries[i] = (struct entry){safetensors_at(file, i), file};
    return true;
}

/* --- The index ---------------------------------------------------------------------------- */

static bool is_safe_name(const char *name)
{
    size_t len = strlen(name), n_suffix = strlen(".safetensors");
    if (len <= n_suffix || len > 255 || strcmp(name + len - n_suffix, ".safetensors") != 0)
        return false;
    for (const char *c = name; *c; c++)
        if (*c == '/' || *c == '\\' || (unsigned char)*c < 0x20 || *c == 0x7F)
            return false;
    return true;
}

/* The map, sorted by file; maps [json_count(weight_map)]. */
static bool read_mappings(struct mapping *maps, const struct json *weight_map, const char *path,
                          struct error *err)
{
    size_t n = 0;
    for (const struct json *v = json_first(weight_map); v; v = json_next(v)) {
        const char *file = json_string(v);
        if (!file)
            return fail(err, "%s: the file of tensor %.80s is not a string", path, json_key(v));
        if (!is_safe_name(file))
            return fail(err,
                        "%s: index names an unsafe path: \"%.80s\" (expected the plain name of a"
                        " .safetensors file)",
                        path, file);
        maps[n++] = (struct mapping){json_key(v), file};
    }
    qsort(maps, n, sizeof *maps, compare_mappings);
    return true;
}

static bool check_shards_exist(const struct checkpoint *c, const struct mapping *maps, size_t n,
                               struct error *err)
{
    struct name_list missing = {0};
    size_t n_shards = 0;
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && strcmp(maps[i].file, maps[i - 1].file) == 0)
            continue;
        n_shards++;
        char *path = path_join(c->folder, maps[i].file);
        if (!file_exists(path))
            name_list_add(&missing, "%s", maps[i].file);
        free(path);
    }
    bool ok = true;
    if (missing.n)
        ok = fail(err, "%s: incomplete: %zu of %zu files are missing: %s. Fetch them.", c->folder,
                  missing.n, n_shards, name_list_text(&missing));
    else if (n_shards > MAX_SHARDS)
        ok = fail(err, "%s: the index names %zu files (at most %d)", c->folder, n_shards,
                  MAX_SHARDS);
    name_list_free(&missing);
    return ok;
}

/* Opens every shard and finds every mapped tensor in its own. */
static bool open_shards(struct checkpoint *c, const struct mapping *maps, size_t n,
                        struct error *err)
{
    struct name_list absent = {0}, unmapped = {0};
    bool ok = false;
    c->entries = xcalloc(n, sizeof *c->entries);
    for (size_t i = 0; i < n;) {
        size_t end = i, n_before = c->n;
        struct safetensors *file = open_file(c, maps[i].file, err);
        if (!file)
            goto out;
        for (; end < n && strcmp(maps[end].file, maps[i].file) == 0; end++) {
            const struct safetensor *t = safetensors_find(file, maps[end].tensor);
            if (t)
                c->entries[c->n++] = (struct entry){t, file};
            else
                name_list_add(&absent, "%s (%s)", maps[end].tensor, maps[end].file);
        }
        if (safetensors_count(file) > c->n - n_before)
            name_list_add(&unmapped, "%s (%zu)", maps[i].file,
                          safetensors_count(file) - (c->n - n_before));
        i = end;
    }
    if (absent.n) {
        fail(err, "%s: %zu tensors of the index are not in their files: %s", c->folder, absent.n,
             name_list_text(&absent));
        goto out;
    }
    if (unmapped.n)
        buf_printf(&c->warnings, "tensors that the index does not name are ignored: %s\n",
                   name_list_text(&unmapped));
    ok = true;
out:
    name_list_free(&absent);
    name_list_free(&unmapped);
    return ok;
}

static bool open_index(struct checkpoint *c, const char *path, struct error *err)
{
    struct mapping *maps = NULL;
    bool ok = false;
    struct json *root = json_parse_file(path, MAX_INDEX_BYTES, err);
    if (!root)
        return false;
    const struct json *weight_map = json_get(root, "weight_map");
    size_t n = json_count(weight_map);
    if (!json_is_object(weight_map) || !n) {
        fail(err, "%s: no weight_map, or an empty one", path);
        goto out;
    }
    if (n > MAX_TENSORS) {
        fail(err, "%s: %zu tensors (at most %d)", path, n, MAX_TENSORS);
        goto out;
    }
    maps = xcalloc(n, sizeof *maps);
    ok = read_mappings(maps, weight_map, path, err) && check_shards_exist(c, maps, n, err) &&
         open_shards(c, maps, n, err);
out:
    free(maps);
    json_free(root);
    return ok;
}

/* --- Opening ------------------------------------------------------------------------------ */

struct checkpoint *checkpoint_open(const char *folder, struct error *err)
{
    struct checkpoint *c = xcalloc(1, sizeof *c);
    c->folder = xstrdup(folder);
    char *path = NULL;
    bool ok = false;
    switch (checkpoint_files_find(folder, &path, err)) {
    case CHECKPOINT_SINGLE:
        ok = open_single(c, err);
        break;
    case CHECKPOINT_INDEX:
        ok = open_index(c, path, err);
        break;
    case CHECKPOINT_NONE:
        break;
    }
    free(path);
    if (!ok) {
        checkpoint_close(c);
        return NULL;
    }
    if (c->n)
        qsort(c->entries, c->n, sizeof *c->entries, compare_entries);
    return c;
}

void checkpoint_close(struct checkpoint *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->n_files; i++)
        safetensors_close(c->files[i]);
    free(c->files);
    free(c->entries);
    free(c->folder);
    buf_free(&c->warnings);
    free(c);
}

static int compare_name_to(const void *name, const void *item)
{
    return strcmp(name, ((const struct entry *)item)->tensor->name);
}

const struct safetensor *checkpoint_find(const struct checkpoint *c, const char *name,
                                         const struct safetensors **file)
{
    if (!c->n)
        return NULL;
    const struct entry *found =
        bsearch(name, c->entries, c->n, sizeof *c->entries, compare_name_to);
    if (found && file)
        *file = found->file;
    return found ? found->tensor : NULL;
}

size_t checkpoint_count(const struct checkpoint *c)
{
    return c->n;
}

const struct safetensor *checkpoint_at(const struct checkpoint *c, size_t i)
{
    return c->entries[i].tensor;
}

uint64_t checkpoint_file_bytes(const struct checkpoint *c)
{
    uint64_t n_bytes = 0;
    for (size_t i = 0; i < c->n_files; i++)
        n_bytes += safetensors_file_bytes(c->files[i]);
    return n_bytes;
}

const char *checkpoint_warnings(const struct checkpoint *c)
{
    return c->warnings.data ? c->warnings.data : "";
}

bool checkpoint_check_unchanged(const struct checkpoint *c, struct error *err)
{
    for (size_t i = 0; i < c->n_files; i++)
        if (!safetensors_check_unchanged(c->files[i], err))
            return false;
    return true;
}
