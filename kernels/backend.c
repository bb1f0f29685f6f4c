/* The table of backends, and the choice of one. */
#include "kernels/backend.h"

#include <stdio.h>
#include <string.h>

const struct backend *const backends[] = {&backend_cpu, NULL};

struct device *backend_open(const char *name, const struct device_options *options,
                            const struct backend **backend, char *why, size_t n_why)
{
    bool any = strcmp(name, "auto") == 0;
    size_t used = 0;
    if (n_why)
        why[0] = '\0';
    for (const struct backend *const *b = backends; *b; b++) {
        if (!any && strcmp((*b)->name, name) != 0)
            continue;
        char reason[256] = "";
        struct device *dev = (*b)->open(options, reason, sizeof reason);
        if (dev) {
            *backend = *b;
            return dev;
        }
        if (used < n_why)
            used += (size_t)snprintf(why + used, n_why - used, "%s%s: %s", used ? "; " : "",
                                     (*b)->name, reason);
    }
    if (!used && n_why)
        snprintf(why, n_why, "there is no backend '%s' in this build (it has: auto, cpu)", name);
    return NULL;
}
