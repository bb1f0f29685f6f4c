#include "engine/attention/planes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/memory.h"
#include "engine/model/safetensors.h"
#include "kernels/philox.h"

/* Two normal numbers from two uniform ones in (0, 1].  Source: Box and Muller 1958. */
static void box_muller(uint32_t a, uint32_t b, float *to)
{
    double radius = sqrt(-2.0 * log(((double)a + 1.0) * 0x1p-32));
    double angle = 2.0 * 3.14159265358979323846 * ((double)b * 0x1p-32);
    to[0] = (float)(radius * cos(angle));
    to[1] = (float)(radius * sin(angle));
}

bool planes_are_random(const char *path)
{
    return path[0] == '\0' || strcmp(path, "random") == 0;
}

float *planes_random(size_t n, uint64_t seed, uint32_t stream)
{
    float *planes = xcalloc(n + 3, sizeof *planes);
    for (size_t i = 0; i < n; i += 4) {
        struct philox x = philox_4x32(seed, (uint32_t)i, (uint32_t)(i >> 32), stream, 0);
        box_muller(x.word[0], x.word[1], planes + i);
        box_muller(x.word[2], x.word[3], planes + i + 2);
    }
    return planes;
}

static bool has_shape(const struct safetensor *t, const int *shape, int n_dims)
{
    int missing = n_dims - t->n_dims;
    if (missing < 0 || missing > 1 || (missing == 1 && shape[0] != 1))
        return false;
    for (int i = 0; i < t->n_dims; i++)
        if (t->shape[i] != (uint64_t)shape[i + missing])
            return false;
    return true;
}

static bool fail_shape(struct error *err, const char *path, const char *name, const int *shape,
                       int n_dims)
{
    struct buf text = {0};
    for (int i = 0; i < n_dims; i++)
        buf_printf(&text, "%s%d", i ? ", " : "", shape[i]);
    fail(err, "%s: %s must be [%s]; set the parameters to the file's, or use another file", path,
         name, text.data);
    buf_free(&text);
    return false;
}

float *planes_read(const char *path, const char *name, const int *shape, int n_dims,
                   struct error *err)
{
    struct safetensors *file = safetensors_open(path, err);
    if (!file)
        return NULL;
    const struct safetensor *t = safetensors_find(file, name);
    size_t n = 1;
    for (int i = 0; i < n_dims; i++)
        n *= (size_t)shape[i];
    float *x = NULL;
    if (!t)
        fail(err, "%s: there is no tensor %s", path, name);
    else if (!has_shape(t, shape, n_dims))
        fail_shape(err, path, name, shape, n_dims);
    else if (!(x = try_calloc(n, sizeof *x)))
        fail_code(err, EXIT_CODE_NO_DEVICE, "%s: no memory for %s", path, name);
    else if (!safetensors_read_f32(file, t, x, err)) {
        free(x);
        x = NULL;
    }
    safetensors_close(file);
    return x;
}
