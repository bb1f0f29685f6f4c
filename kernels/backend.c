/* The backends by name, the loading of those that are modules, and the choice of one. */
#include "kernels/backend.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CUDA_MODULE "attnscope-cuda.so"

const char *const backend_names[] = {"cuda", "cpu", NULL};

/* --- Modules --------------------------------------------------------------------------------- */

static bool is_file(const char *path)
{
    return access(path, R_OK) == 0;
}

/* Beside the program, then in the library folder; $ATTNSCOPE_CUDA_MODULE goes before both. */
static bool find_module(char *path, size_t n_path)
{
    const char *named = getenv("ATTNSCOPE_CUDA_MODULE");
    if (named) {
        snprintf(path, n_path, "%s", named);
        return is_file(path);
    }
    char program[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (n > 0) {
        program[n] = '\0';
        char *slash = strrchr(program, '/');
        if (slash) {
            *slash = '\0';
            int len = snprintf(path, n_path, "%s/%s", program, CUDA_MODULE);
            if (len > 0 && (size_t)len < n_path && is_file(path))
                return true;
        }
    }
    snprintf(path, n_path, "%s/%s", ATTNSCOPE_LIBDIR, CUDA_MODULE);
    return is_file(path);
}

static const struct backend *load_cuda(char *why, size_t n_why)
{
    static const struct backend *loaded; /* the device's one thread at a time loads */
    char path[PATH_MAX];
    if (loaded)
        return loaded;
    if (!find_module(path, sizeof path)) {
        snprintf(why, n_why,
                 "the CUDA module %s is not there: this build was made without the CUDA toolkit",
                 CUDA_MODULE);
        return NULL;
    }
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        snprintf(why, n_why, "the CUDA module cannot be loaded: %s", dlerror());
        return NULL;
    }
    backend_module *module = NULL;
    *(void **)&module = dlsym(handle, "attnscope_backend");
    loaded = module ? module(BACKEND_INTERFACE) : NULL;
    if (!loaded) {
        snprintf(why, n_why, "%s belongs to another version of attnscope", path);
        dlclose(handle);
    }
    return loaded;
}

const struct backend *backend_find(const char *name, char *why, size_t n_why)
{
    if (n_why)
        why[0] = '\0';
    if (strcmp(name, "cpu") == 0)
        return &backend_cpu;
    if (strcmp(name, "cuda") == 0)
        return load_cuda(why, n_why);
    snprintf(why, n_why, "there is no backend '%s' (there are: auto, cuda, cpu)", name);
    return NULL;
}

/* --- Choosing -------------------------------------------------------------------------------- */

struct device *backend_open(const char *name, const struct device_options *options,
                            const struct backend **backend, char *why, size_t n_why)
{
    bool any = strcmp(name, "auto") == 0, known = any;
    size_t used = 0;
    if (n_why)
        why[0] = '\0';
    for (const char *const *each = backend_names; *each; each++) {
        if (!any && strcmp(*each, name) != 0)
            continue;
        known = true;
        char reason[512] = "";
        const struct backend *found = backend_find(*each, reason, sizeof reason);
        struct device *dev = found ? found->open(options, reason, sizeof reason) : NULL;
        if (dev) {
            *backend = found;
            return dev;
        }
        if (used < n_why)
            used += (size_t)snprintf(why + used, n_why - used, "%s%s: %s", used ? "; " : "", *each,
                                     reason);
    }
    if (!known)
        backend_find(name, why, n_why);
    return NULL;
}
