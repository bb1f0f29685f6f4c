/* The backend that a test of everything above it runs on: $ATTNSCOPE_TEST_BACKEND, else cpu. */
#ifndef ATTNSCOPE_TESTS_TEST_BACKEND_H
#define ATTNSCOPE_TESTS_TEST_BACKEND_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"

enum { TEST_SKIPPED = 77 }; /* ctest's SKIP_RETURN_CODE */

static inline const char *test_backend(void)
{
    const char *name = getenv("ATTNSCOPE_TEST_BACKEND");
    return name && *name ? name : "cpu";
}

static inline bool test_backend_is_cpu(void)
{
    return strcmp(test_backend(), "cpu") == 0;
}

/* False, with the reason on stdout, where the backend cannot be opened: main returns TEST_SKIPPED.
 */
static inline bool test_backend_opens(void)
{
    const struct backend *backend;
    char why[512];
    struct device *dev =
        backend_open(test_backend(), &(struct device_options){0}, &backend, why, sizeof why);
    if (dev)
        backend->close(dev);
    else
        printf("skipped: %s\n", why);
    return dev != NULL;
}

#endif
