/* Looks at names only; a pickle is never opened, because reading one can run code. */
#include "engine/model/checkpoint_files.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/base/file.h"
#include "engine/base/memory.h"

#define CONVERT "this program reads safetensors; convert the checkpoint first."
#define PICKLE "a pickle, which can run code; " CONVERT
#define FOREIGN "not a transformers folder. Use the transformers layout of this model."

static bool ends_with(const char *name, const char *suffix)
{
    size_t len = strlen(name), n = strlen(suffix);
    return len >= n && strcmp(name + len - n, suffix) == 0;
}

/* Why a file of this name cannot be the weights; NULL if it says nothing. */
static const char *reason_of(const char *name)
{
    static const struct {
        const char *suffix, *reason;
    } reasons[] = {
        {"consolidated.safetensors", FOREIGN},
        {"params.json", FOREIGN},
        {".bin", PICKLE},
        {".pt", PICKLE},
        {".pth", PICKLE},
        {".ckpt", PICKLE},
        {".h5", CONVERT},
        {".msgpack", CONVERT},
        {".gguf", "GGUF is not read by this program. Use the safetensors checkpoint."},
    };
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        if (ends_with(name, reasons[i].suffix))
            return reasons[i].reason;
    return NULL;
}

/* Names the first telling file, in the order of names, so that the message is always the same. */
static void explain_absence(const char *folder, struct error *err)
{
    DIR *dir = opendir(folder);
    if (!dir) {
        fail(err, "%s: %s", folder, strerror(errno));
        return;
    }
    char *found = NULL;
    const struct dirent *item;
    while ((item = readdir(dir)))
        if (reason_of(item->d_name) && (!found || strcmp(item->d_name, found) < 0)) {
            free(found);
            found = xstrdup(item->d_name);
        }
    closedir(dir);
    if (found)
        fail(err, "%s holds only %s: %s", folder, found, reason_of(found));
    else
        fail(err, "%s: no weights (expected model.safetensors or model.safetensors.index.json)",
             folder);
    free(found);
}

enum checkpoint_kind checkpoint_files_find(const char *folder, char **path, struct error *err)
{
    static const char *const names[] = {"model.safetensors", "model.safetensors.index.json"};
    static const enum checkpoint_kind kinds[] = {CHECKPOINT_SINGLE, CHECKPOINT_INDEX};
    *path = NULL;
    for (int i = 0; i < 2; i++) {
        char *found = path_join(folder, names[i]);
        struct stat st;
        if (file_exists(found)) {
            *path = found;
            return kinds[i];
        }
        bool dangling = lstat(found, &st) == 0 && S_ISLNK(st.st_mode);
        free(found);
        if (dangling) {
            fail(err, "%s: incomplete: %s is a link to a file that is missing. Fetch it again.",
                 folder, names[i]);
            return CHECKPOINT_NONE;
        }
    }
    explain_absence(folder, err);
    return CHECKPOINT_NONE;
}
