/* Writing one safetensors file: header, bytes, then a rename, so that a reader never sees half. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/buf.h"
#include "engine/base/json.h"
#include "engine/model/safetensors.h"
#include "engine/model/tensor_convert.h"

static uint64_t bytes_of(const struct safetensors_out *t)
{
    uint64_t n = (uint64_t)tensor_dtype_bits(t->dtype) / 8;
    for (int i = 0; i < t->n_dims; i++)
        n *= t->shape[i];
    return n;
}

/* Appends the 8-byte length and the header, padded so that the data starts at a multiple of 8. */
static void write_header(struct buf *out, const struct safetensors_out *tensors, size_t n)
{
    struct json *root = json_new_object();
    uint64_t at = 0;
    for (size_t i = 0; i < n; i++) {
        struct json *entry = json_new_object(), *shape = json_new_array();
        struct json *offsets = json_new_array();
        for (int dim = 0; dim < tensors[i].n_dims; dim++)
            json_add_int(shape, (int64_t)tensors[i].shape[dim]);
        json_add_int(offsets, (int64_t)at);
        at += bytes_of(&tensors[i]);
        json_add_int(offsets, (int64_t)at);
        json_set_string(entry, "dtype", tensors[i].dtype);
        json_set(entry, "shape", shape);
        json_set(entry, "data_offsets", offsets);
        json_set(root, tensors[i].name, entry);
    }
    struct buf header = {0};
    json_write(&header, root, false);
    json_free(root);
    while (header.len % 8)
        buf_append_char(&header, ' ');
    for (int i = 0; i < 8; i++)
        buf_append_char(out, (char)((uint64_t)header.len >> 8 * i));
    buf_append(out, header.data, header.len);
    buf_free(&header);
}

static bool write_file(FILE *file, const struct safetensors_out *tensors, size_t n)
{
    struct buf header = {0};
    write_header(&header, tensors, n);
    bool ok = fwrite(header.data, 1, header.len, file) == header.len;
    buf_free(&header);
    for (size_t i = 0; i < n && ok; i++) {
        size_t n_bytes = (size_t)bytes_of(&tensors[i]);
        ok = !n_bytes || fwrite(tensors[i].data, 1, n_bytes, file) == n_bytes;
    }
    return ok && fflush(file) == 0 && fsync(fileno(file)) == 0;
}

bool safetensors_write(const char *path, const struct safetensors_out *tensors, size_t n,
                       struct error *err)
{
    struct buf temporary = {0};
    buf_printf(&temporary, "%s.%ld.tmp", path, (long)getpid());
    FILE *file = fopen(temporary.data, "wbe");
    bool ok = file && write_file(file, tensors, n);
    int reason = errno;
    if (file && fclose(file) != 0 && ok) {
        ok = false;
        reason = errno;
    }
    if (ok && rename(temporary.data, path) != 0) {
        ok = false;
        reason = errno;
    }
    if (!ok) {
        unlink(temporary.data);
        fail_code(err, EXIT_CODE_RUNTIME, "%s: could not be written: %s", path, strerror(reason));
    }
    buf_free(&temporary);
    return ok;
}
