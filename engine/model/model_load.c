/* Loading a checkpoint: headers are checked and the plan bound first, then the tensors are streamed
 * in chunks through one staging buffer, so that the host never holds more than that. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/buf.h"
#include "engine/base/memory.h"
#include "engine/model/model.h"
#include "engine/model/model_storage.h"
#include "engine/model/name_list.h"
#include "engine/model/safetensors.h"
#include "engine/model/tensor_convert.h"
#include "engine/model/weights.h"

/* A chunk is read, checked and handed on while it lies in a processor's own cache. */
enum { CHUNK_BYTES = 512 << 10, REPORT_EVERY_MS = 50, TILE = 32 };

struct loader {
    struct model *m;
    const struct model_progress *progress; /* may be NULL */
    uint64_t bytes_done, bytes_total;      /* of the stored tensors */
    int64_t reported_ms;
    char *staging;                    /* [CHUNK_BYTES] as stored */
    float *converted;                 /* [CHUNK_BYTES / 2] elements of f32; NULL until needed */
    struct name_list non_finite, f64; /* tensors to warn of */
    struct buf warnings;
    struct error *err;
};

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Counts n_bytes more as done; false if the load was cancelled. */
static bool advance(struct loader *l, uint64_t n_bytes)
{
    l->bytes_done += n_bytes;
    if (!l->progress)
        return true;
    if (l->progress->cancel && atomic_load(l->progress->cancel))
        return fail_code(l->err, EXIT_CODE_RUNTIME, "%s: loading was cancelled", l->m->path);
    int64_t now = now_ms();
    bool is_last = l->bytes_done == l->bytes_total;
    if (l->progress->report && (is_last || now - l->reported_ms >= REPORT_EVERY_MS)) {
        l->reported_ms = now;
        l->progress->report(l->progress->user, l->bytes_done, l->bytes_total);
    }
    return true;
}

static size_t stored_bytes(const struct weight_piece *piece)
{
    return (size_t)tensor_dtype_bits(piece->tensor->dtype) / 8;
}

/* What goes to the device for n stored elements: themselves, or their f32 form in room [n]. */
static const void *as_device_dtype(const struct weight_slot *slot, const struct weight_piece *piece,
                                   const char *stored, size_t n, float *room)
{
    enum dtype dtype;
    if (tensor_dtype_of(piece->tensor->dtype, &dtype) && dtype == slot->dtype)
        return stored;
    tensor_to_f32(room, stored, piece->tensor->dtype, n);
    return room;
}

static void note_non_finite(struct loader *l, const struct weight_piece *piece, uint64_t n)
{
    if (n)
        name_list_add(&l->non_finite, "%s (%" PRIu64 ")", piece->name, n);
}

/* A piece stored as it is used: chunk by chunk to device + at. */
static bool load_plain(struct loader *l, const struct weight_slot *slot,
                       const struct weight_piece *piece, char *to)
{
    size_t size = stored_bytes(piece), n_max = CHUNK_BYTES / size;
    uint64_t n_elements = piece->tensor->n_elements, n_bad = 0;
    if (!l->converted && slot->dtype == DTYPE_F32)
        l->converted = xcalloc(CHUNK_BYTES / 2, sizeof *l->converted);
    for (uint64_t done = 0; done < n_elements;) {
        size_t n = n_elements - done < n_max ? (size_t)(n_elements - done) : n_max;
        if (!safetensors_read(piece->file, piece->tensor, done * size, l->staging, n * size,
                              l->err))
            return false;
        n_bad += tensor_count_non_finite(l->staging, piece->tensor->dtype, n);
        const void *bytes = as_device_dtype(slot, piece, l->staging, n, l->converted);
        l->m->backend->upload(l->m->dev, to + done * dtype_bytes(slot->dtype), bytes,
                              n * dtype_bytes(slot->dtype));
        done += n;
        if (!advance(l, n * size))
            return false;
    }
    note_non_finite(l, piece, n_bad);
    return true;
}

/* One tile; size is known where it is inlined, so that an element is moved by one instruction. */
static inline void transpose_tile(char *to, const char *from, size_t n_rows, size_t n_cols,
                                  size_t row0, size_t col0, size_t size)
{
    size_t row_end = row0 + TILE < n_rows ? row0 + TILE : n_rows;
    size_t col_end = col0 + TILE < n_cols ? col0 + TILE : n_cols;
    for (size_t col = col0; col < col_end; col++)
        for (size_t row = row0; row < row_end; row++)
            memcpy(to + (col * n_rows + row) * size, from + (row * n_cols + col) * size, size);
}

/* to [n_cols, n_rows] = from [n_rows, n_cols], in tiles that stay in the cache; size 2 or 4. */
static void transpose(char *to, const char *from, size_t n_rows, size_t n_cols, size_t size)
{
    for (size_t row0 = 0; row0 < n_rows; row0 += TILE)
        for (size_t col0 = 0; col0 < n_cols; col0 += TILE)
            if (size == 2)
                transpose_tile(to, from, n_rows, n_cols, row0, col0, 2);
            else
                transpose_tile(to, from, n_rows, n_cols, row0, col0, 4);
}

/* A piece stored as [n_in, n_out]: the whole matrix is turned on the host. */
static bool load_transposed(struct loader *l, const struct weight_slot *slot,
                            const struct weight_piece *piece, char *to)
{
    size_t size = stored_bytes(piece), n = (size_t)piece->tensor->n_elements;
    size_t device_size = dtype_bytes(slot->dtype), wider = size > device_size ? size : device_size;
    char *stored = try_calloc(n, wider), *turned = try_calloc(n, wider);
    bool ok = false;
    if (!stored || !turned) {
        fail_code(l->err, EXIT_CODE_NO_DEVICE, "%s: no host memory to turn %s", l->m->path,
                  piece->name);
        goto out;
    }
    if (!safetensors_read(piece->file, piece->tensor, 0, stored, n * size, l->err))
        goto out;
    note_non_finite(l, piece, tensor_count_non_finite(stored, piece->tensor->dtype, n));
    const void *bytes = as_device_dtype(slot, piece, stored, n, (float *)turned);
    /* as_device_dtype may have used `turned`; then `stored` is free to take the result. */
    char *result = bytes == stored ? turned : stored;
    transpose(result, bytes, piece->n_cols, piece->n_rows, device_size);
    l->m->backend->upload(l->m->dev, to, result, n * device_size);
    ok = advance(l, n * size);
out:
    free(stored);
    free(turned);
    return ok;
}

static bool load_slot(struct loader *l, const struct weight_slot *slot)
{
    char *to = slot->device;
    for (int i = 0; i < slot->n_pieces; i++) {
        const struct weight_piece *piece = &slot->pieces[i];
        if (strcmp(piece->tensor->dtype, "F64") == 0)
            name_list_add(&l->f64, "%s", piece->name);
        bool ok =
            slot->transposed ? load_transposed(l, slot, piece, to) : load_plain(l, slot, piece, to);
        if (!ok)
            return false;
        to += piece->tensor->n_elements * dtype_bytes(slot->dtype);
    }
    return true;
}

static bool load_weights(struct loader *l, const struct weight_plan *plan)
{
    for (size_t i = 0; i < plan->n; i++)
        for (int n = 0; n < plan->slots[i].n_pieces; n++)
            l->bytes_total += plan->slots[i].pieces[n].tensor->n_elements *
                              stored_bytes(&plan->slots[i].pieces[n]);
    for (size_t i = 0; i < plan->n; i++)
        if (!load_slot(l, &plan->slots[i]))
            return false;
    char why[256];
    if (!l->m->backend->sync(l->m->dev, why, sizeof why))
        return fail_code(l->err, EXIT_CODE_NO_DEVICE, "%s: %s", l->m->path, why);
    return true;
}

static bool load(struct loader *l, const struct checkpoint *c)
{
    struct weight_plan plan = {0};
    weights_plan_checkpoint(&plan, l->m, c, &l->warnings);
    bool ok = weights_bind(&plan, &l->m->config, c, l->m->path, &l->warnings, l->err) &&
              model_place(l->m, &plan, l->err) && load_weights(l, &plan) &&
              checkpoint_check_unchanged(c, l->err);
    weights_plan_free(&plan);
    return ok;
}

static void warn(struct loader *l)
{
    if (l->non_finite.n)
        buf_printf(&l->warnings, "values that are not finite: %s\n",
                   name_list_text(&l->non_finite));
    if (l->f64.n)
        buf_printf(&l->warnings, "F64 is used as F32: %s\n", name_list_text(&l->f64));
    if (l->warnings.len)
        l->m->warnings = xstrdup(l->warnings.data);
}

struct model *model_load(const char *folder, const struct backend *backend, struct device *dev,
                         const struct model_progress *progress, struct error *err)
{
    struct model_config config;
    if (!model_config_load(&config, folder, err))
        return NULL;
    struct checkpoint *c = checkpoint_open(folder, err);
    if (!c)
        return NULL;
    struct loader l = {.progress = progress, .err = err, .reported_ms = now_ms()};
    l.m = model_new(&config, folder, backend, dev);
    l.staging = xcalloc(CHUNK_BYTES, 1);
    buf_append_str(&l.warnings, checkpoint_warnings(c));
    bool ok = load(&l, c);
    if (ok) {
        warn(&l);
    } else {
        model_close(l.m);
        l.m = NULL;
    }
    name_list_free(&l.non_finite);
    name_list_free(&l.f64);
    free(l.staging);
    free(l.converted);
    buf_free(&l.warnings);
    checkpoint_close(c);
    return l.m;
}
