/* The layout of the HuggingFace cache: see the header. */
#include "engine/model/hub_names.h"

#include <ctype.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/base/buf.h"
#include "engine/base/file.h"
#include "engine/base/memory.h"

static const char folder_prefix[] = "models--";

/* --- Roots -------------------------------------------------------------------------------- */

/* Takes path. */
static void add_root(struct hub_roots *roots, char *path)
{
    char *real = file_is_folder(path) ? realpath(path, NULL) : NULL;
    for (int i = 0; real && i < roots->n; i++)
        if (strcmp(roots->paths[i], real) == 0) {
            free(real);
            real = NULL;
        }
    if (real)
        roots->paths[roots->n++] = real;
    free(path);
}

static void add_env_root(struct hub_roots *roots, const char *env, const char *below)
{
    const char *value = getenv(env);
    if (value && *value)
        add_root(roots, path_join(value, below));
}

struct hub_roots hub_roots_find(void)
{
    struct hub_roots roots = {0};
    add_env_root(&roots, "HF_HUB_CACHE", "");
    add_env_root(&roots, "HUGGINGFACE_HUB_CACHE", "");
    add_env_root(&roots, "HF_HOME", "hub");
    add_env_root(&roots, "XDG_CACHE_HOME", "huggingface/hub");
    add_root(&roots, path_join(path_home(), ".cache/huggingface/hub"));
    return roots;
}

void hub_roots_free(struct hub_roots *roots)
{
    for (int i = 0; i < roots->n; i++)
        free(roots->paths[i]);
    roots->n = 0;
}

/* --- Names -------------------------------------------------------------------------------- */

bool hub_is_repo_name(const char *name)
{
    const char *slash = strchr(name, '/');
    if (strstr(name, "..") || strstr(name, "--") || strchr(name, '\\') || name[0] == '\0' ||
        name[0] == '.' || strlen(name) > 200)
        return false;
    if (slash && (slash == name || !slash[1] || strchr(slash + 1, '/')))
        return false;
    for (const char *c = name; *c; c++)
        if ((unsigned char)*c <= 0x20 || *c == 0x7F)
            return false;
    return true;
}

char *hub_folder_of_repo(const char *name)
{
    struct buf b = {0};
    buf_append_str(&b, folder_prefix);
    for (const char *c = name; *c; c++)
        buf_append_str(&b, *c == '/' ? "--" : (char[]){*c, '\0'});
    return buf_take(&b);
}

char *hub_repo_of_folder(const char *folder)
{
    size_t n_prefix = strlen(folder_prefix);
    if (strncmp(folder, folder_prefix, n_prefix) != 0 || !folder[n_prefix])
        return NULL;
    char *name = xstrdup(folder + n_prefix);
    char *separator = strstr(name, "--");
    if (separator) {
        *separator = '/';
        memmove(separator + 1, separator + 2, strlen(separator + 2) + 1);
    }
    if (hub_is_repo_name(name))
        return name;
    free(name);
    return NULL;
}

/* --- Snapshots ---------------------------------------------------------------------------- */

/* Letters and digits only, so that what a ref's file says stays below snapshots/. */
static bool is_commit(const char *text)
{
    size_t n = 0;
    for (; text[n]; n++)
        if (!isalnum((unsigned char)text[n]))
            return false;
    return n > 0 && n <= 64;
}

/* "main" or "refs/pr/3": no part may be "." or "..". */
static bool is_ref_name(const char *ref)
{
    for (const char *part = ref; part; part = strchr(part, '/') ? strchr(part, '/') + 1 : NULL)
        if (!*part || *part == '/' || *part == '.')
            return false;
    return true;
}

/* snapshots/COMMIT if it is a folder. */
static char *snapshot_of_commit(const char *repo_folder, const char *commit)
{
    struct buf path = {0};
    buf_printf(&path, "%s/snapshots/%s", repo_folder, commit);
    if (is_commit(commit) && file_is_folder(path.data))
        return buf_take(&path);
    buf_free(&path);
    return NULL;
}

static char *snapshot_of_ref(const char *repo_folder, const char *ref)
{
    if (!is_ref_name(ref))
        return NULL;
    struct buf path = {0}, commit = {0};
    buf_printf(&path, "%s/refs/%s", repo_folder, ref);
    char *found = NULL;
    if (file_read(&commit, path.data, 256, NULL) && commit.len) {
        commit.data[strcspn(commit.data, " \r\n")] = '\0';
        found = snapshot_of_commit(repo_folder, commit.data);
    }
    buf_free(&path);
    buf_free(&commit);
    return found;
}

/* The newest snapshot with a config.json whose name begins with commit ("" for any). */
static char *newest_snapshot(const char *repo_folder, const char *commit)
{
    char *snapshots = path_join(repo_folder, "snapshots"), *best = NULL;
    struct timespec best_time = {0};
    DIR *dir = opendir(snapshots);
    const struct dirent *item;
    while (dir && (item = readdir(dir))) {
        if (!is_commit(item->d_name) || strncmp(item->d_name, commit, strlen(commit)) != 0)
            continue;
        char *folder = path_join(snapshots, item->d_name);
        char *config = path_join(folder, "config.json");
        struct stat st;
        bool newer =
            file_exists(config) && stat(folder, &st) == 0 &&
            (!best || st.st_mtim.tv_sec > best_time.tv_sec ||
             (st.st_mtim.tv_sec == best_time.tv_sec && st.st_mtim.tv_nsec > best_time.tv_nsec));
        free(config);
        if (newer) {
            best_time = st.st_mtim;
            free(best);
            best = folder;
        } else {
            free(folder);
        }
    }
    if (dir)
        closedir(dir);
    free(snapshots);
    return best;
}

char *hub_find_snapshot(const char *repo_folder, const char *revision)
{
    char *found = snapshot_of_ref(repo_folder, revision ? revision : "main");
    if (found)
        return found;
    if (!revision)
        return newest_snapshot(repo_folder, "");
    return is_commit(revision) && strlen(revision) >= 4 ? newest_snapshot(repo_folder, revision)
                                                        : NULL;
}
