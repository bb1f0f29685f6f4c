/* Reading one safetensors file.  Nothing in the header is believed: the checks run in the order of
 * the numbered comments, and each has its own message. */
#include "engine/model/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/memory.h"
#include "engine/model/tensor_convert.h"

enum { MAX_TENSORS = 1000000, MAX_NAME_BYTES = 1024, LENGTH_BYTES = 8 };

static const uint64_t MAX_HEADER_BYTES = 100000000;

struct safetensors {
    char *path;
    int fd;
    struct stat opened; /* to see whether the file changes */
    uint64_t file_bytes, data_begin;
    struct safetensor *tensors;        /* [n], by place in the file */
    const struct safetensor **by_name; /* [n] */
    size_t n, capacity;
    struct json *metadata; /* an object of strings, or NULL */
};

/* --- The header's entries ----------------------------------------------------------------- */

static bool take_metadata(struct safetensors *s, const struct json *metadata, struct error *err)
{
    if (json_is_null(metadata))
        return true;
    if (!json_is_object(metadata))
        return fail(err, "%s: __metadata__ is not an object of strings", s->path);
    s->metadata = json_new_object();
    for (const struct json *v = json_first(metadata); v; v = json_next(v)) {
        if (!json_is_string(v))
            return fail(err, "%s: __metadata__ holds a value that is not a string: %.80s", s->path,
                        json_key(v));
        json_set_string(s->metadata, json_key(v), json_string(v));
    }
    return true;
}

static bool parse_shape(struct safetensor *t, const struct json *shape)
{
    if (!json_is_array(shape))
        return false;
    for (const struct json *v = json_first(shape); v; v = json_next(v)) {
        if (t->n_dims == SAFETENSORS_MAX_DIMS || !json_uint64(v, &t->shape[t->n_dims]))
            return false;
        t->n_dims++;
    }
    return true;
}

static bool parse_entry(struct safetensors *s, const struct json *entry, struct error *err)
{
    const char *name = json_key(entry);
    if (!json_is_object(entry))
        return fail(err, "%s: the entry of tensor %.80s is not an object", s->path, name);
    const char *dtype = json_string(json_get(entry, "dtype"));
    if (!dtype)
        return fail(err, "%s: tensor %.80s has no dtype, or one that is not a string", s->path,
                    name);
    struct safetensor t = {0};
    if (!tensor_dtype_bits(dtype))
        return fail(err, "%s: tensor %.80s has an unknown dtype \"%.40s\"", s->path, name, dtype);
    memcpy(t.dtype, dtype, strlen(dtype) + 1);
    if (!parse_shape(&t, json_get(entry, "shape")))
        return fail(err,
                    "%s: the shape of tensor %.80s is not an array of at most %d whole numbers",
                    s->path, name, SAFETENSORS_MAX_DIMS);
    const struct json *offsets = json_get(entry, "data_offsets");
    const struct json *begin = json_is_array(offsets) ? json_first(offsets) : NULL;
    const struct json *end = json_next(begin);
    if (!json_uint64(begin, &t.begin) || !json_uint64(end, &t.end) || json_next(end))
        return fail(err, "%s: the data_offsets of tensor %.80s are not two whole numbers", s->path,
                    name);
    if (s->n == MAX_TENSORS)
        return fail(err, "%s: more than %d tensors", s->path, MAX_TENSORS);
    s->tensors = array_grow(s->tensors, &s->capacity, s->n + 1, sizeof t);
    t.name = xstrdup(name);
    s->tensors[s->n++] = t;
    return true;
}

/* 6, 7: metadata, then every other entry. */
static bool parse_entries(struct safetensors *s, const struct json *root, struct error *err)
{
    if (!json_is_object(root))
        return fail(err, "%s: the header is not a JSON object", s->path);
    if (!take_metadata(s, json_get(root, "__metadata__"), err))
        return false;
    for (const struct json *v = json_first(root); v; v = json_next(v))
        if (strcmp(json_key(v), "__metadata__") != 0 && !parse_entry(s, v, err))
            return false;
    return true;
}

/* 8: the size that shape and dtype ask for, without overflow and in whole bytes. */
static bool measure(const struct safetensors *s, struct safetensor *t, uint64_t *n_bytes,
                    struct error *err)
{
    uint64_t bits = (uint64_t)tensor_dtype_bits(t->dtype);
    t->n_elements = 1;
    for (int i = 0; i < t->n_dims; i++)
        if (__builtin_mul_overflow(t->n_elements, t->shape[i], &t->n_elements))
            return fail(err, "%s: the shape of tensor %.80s overflows 64 bits", s->path, t->name);
    if (__builtin_mul_overflow(t->n_elements, bits, &bits))
        return fail(err, "%s: the size of tensor %.80s overflows 64 bits", s->path, t->name);
    if (bits % 8)
        return fail(err, "%s: tensor %.80s does not end at a whole byte", s->path, t->name);
    *n_bytes = bits / 8;
    return true;
}

static int compare_places(const void *a, const void *b)
{
    const struct safetensor *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

/* 9: no hole, no overlap, sizes as shapes and dtypes say. */
static bool check_place(const struct safetensors *s, const struct safetensor *t, uint64_t previous,
                        uint64_t n_bytes, struct error *err)
{
    if (t->begin > previous)
        return fail(err, "%s: a hole of %" PRIu64 " bytes before tensor %.80s", s->path,
                    t->begin - previous, t->name);
    if (t->begin < previous)
        return fail(err, "%s: tensor %.80s overlaps the one before it", s->path, t->name);
    if (t->end < t->begin)
        return fail(err, "%s: tensor %.80s ends before it begins", s->path, t->name);
    if (t->end - t->begin != n_bytes)
        return fail(err,
                    "%s: tensor %.80s has the wrong size (expected %" PRIu64
                    " bytes by shape and dtype, found %" PRIu64 ")",
                    s->path, t->name, n_bytes, t->end - t->begin);
    return true;
}

static bool check_layout(struct safetensors *s, struct error *err)
{
    uint64_t n_bytes, previous = 0, n_data = s->file_bytes - s->data_begin;
    for (size_t i = 0; i < s->n; i++)
        if (!measure(s, &s->tensors[i], &n_bytes, err))
            return false;
    if (s->n)
        qsort(s->tensors, s->n, sizeof *s->tensors, compare_places);
    for (size_t i = 0; i < s->n; i++) {
        struct safetensor *t = &s->tensors[i];
        if (!measure(s, t, &n_bytes, err) || !check_place(s, t, previous, n_bytes, err))
            return false;
        previous = t->end;
    }
    /* 10 */
    if (previous > n_data)
        return fail(err, "%s: truncated: %" PRIu64 " bytes missing. Fetch the file again.", s->path,
                    previous - n_data);
    if (previous < n_data)
        return fail(err, "%s: %" PRIu64 " trailing bytes after the last tensor", s->path,
                    n_data - previous);
    return true;
}

/* 11: names that can be shown and compared as C strings.  Doubled names fell at 5. */
static bool check_names(const struct safetensors *s, struct error *err)
{
    for (size_t i = 0; i < s->n; i++) {
        const char *name = s->tensors[i].name;
        size_t len = strlen(name);
        if (len < 1 || len > MAX_NAME_BYTES)
            return fail(err, "%s: a tensor name of %zu bytes (expected 1 to %d)", s->path, len,
                        MAX_NAME_BYTES);
        for (const char *c = name; *c; c++)
            if ((unsigned char)*c < 0x20 || *c == 0x7F)
                return fail(err, "%s: a tensor name holds a control character, 0x%02x", s->path,
                            (unsigned char)*c);
    }
    return true;
}

/* --- Opening ------------------------------------------------------------------------------ */

/* 1 to 3: the length of the header. */
static bool read_header_length(struct safetensors *s, uint64_t *n_header, struct error *err)
{
    if (s->file_bytes < LENGTH_BYTES)
        return fail(err, "%s: header too small: the file has %" PRIu64 " bytes (expected %d)",
                    s->path, s->file_bytes, LENGTH_BYTES);
    unsigned char bytes[LENGTH_BYTES];
    if (!file_pread(s->fd, bytes, sizeof bytes, 0, s->path, err))
        return false;
    uint64_t n = 0;
    for (int i = LENGTH_BYTES; i-- > 0;)
        n = n << 8 | bytes[i];
    if (n > MAX_HEADER_BYTES)
        return fail(err,
                    "%s: header too large: %" PRIu64 " bytes (at most %" PRIu64
                    "). It may not be a safetensors file.",
                    s->path, n, MAX_HEADER_BYTES);
    if (n > s->file_bytes - LENGTH_BYTES)
        return fail(err,
                    "%s: invalid header length: %" PRIu64 " bytes in a file of %" PRIu64
                    ". Fetch the file again.",
                    s->path, n, s->file_bytes);
    s->data_begin = LENGTH_BYTES + n;
    *n_header = n;
    return true;
}

static bool read_header(struct safetensors *s, struct error *err)
{
    uint64_t n_header = 0;
    if (!read_header_length(s, &n_header, err))
        return false;
    bool ok = false;
    struct json *root = NULL;
    struct buf where = {0};
    char *header = try_calloc(n_header + 1, 1);
    if (!header)
        return fail_code(err, EXIT_CODE_NO_DEVICE,
                         "%s: no memory for its header of %" PRIu64 " bytes", s->path, n_header);
    if (!file_pread(s->fd, header, n_header, LENGTH_BYTES, s->path, err))
        goto out;
    buf_printf(&where, "%s: header", s->path);
    root = json_parse(header, n_header, where.data, err); /* 4, 5 */
    if (!root)
        goto out;
    ok = parse_entries(s, root, err) && check_layout(s, err) && check_names(s, err);
out:
    json_free(root);
    buf_free(&where);
    free(header);
    return ok;
}

static int compare_names(const void *a, const void *b)
{
    const struct safetensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static void index_names(struct safetensors *s)
{
    s->by_name = xcalloc(s->n, sizeof *s->by_name);
    for (size_t i = 0; i < s->n; i++) {
        s->tensors[i].begin += s->data_begin;
        s->tensors[i].end += s->data_begin;
        s->by_name[i] = &s->tensors[i];
    }
    if (s->n)
        qsort(s->by_name, s->n, sizeof *s->by_name, compare_names);
}

struct safetensors *safetensors_open(const char *path, struct error *err)
{
    uint64_t n_bytes;
    int fd = file_open(path, &n_bytes, err);
    if (fd < 0)
        return NULL;
    struct safetensors *s = xcalloc(1, sizeof *s);
    s->path = xstrdup(path);
    s->fd = fd;
    s->file_bytes = n_bytes;
    if (fstat(fd, &s->opened) != 0 || !read_header(s, err)) {
        safetensors_close(s);
        return NULL;
    }
    index_names(s);
    return s;
}

void safetensors_close(struct safetensors *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->n; i++)
        free(s->tensors[i].name);
    free(s->tensors);
    free(s->by_name);
    json_free(s->metadata);
    free(s->path);
    close(s->fd);
    free(s);
}

/* --- Reading ------------------------------------------------------------------------------ */

static int compare_name_to(const void *name, const void *item)
{
    return strcmp(name, (*(const struct safetensor *const *)item)->name);
}

const struct safetensor *safetensors_find(const struct safetensors *s, const char *name)
{
    if (!s->n)
        return NULL;
    const struct safetensor **found =
        bsearch(name, s->by_name, s->n, sizeof *s->by_name, compare_name_to);
    return found ? *found : NULL;
}

size_t safetensors_count(const struct safetensors *s)
{
    return s->n;
}

const struct safetensor *safetensors_at(const struct safetensors *s, size_t i)
{
    return &s->tensors[i];
}

const char *safetensors_metadata(const struct safetensors *s, const char *key)
{
    return s->metadata ? json_string(json_get(s->metadata, key)) : NULL;
}

const char *safetensors_path(const struct safetensors *s)
{
    return s->path;
}

uint64_t safetensors_file_bytes(const struct safetensors *s)
{
    return s->file_bytes;
}

bool safetensors_check_unchanged(const struct safetensors *s, struct error *err)
{
    struct stat now;
    if (fstat(s->fd, &now) != 0 || now.st_size != s->opened.st_size ||
        now.st_mtim.tv_sec != s->opened.st_mtim.tv_sec ||
        now.st_mtim.tv_nsec != s->opened.st_mtim.tv_nsec)
        return fail(err, "%s: changed while it was read. Load it again.", s->path);
    return true;
}

bool safetensors_read(const struct safetensors *s, const struct safetensor *t, uint64_t offset,
                      void *to, size_t n_bytes, struct error *err)
{
    uint64_t size = t->end - t->begin;
    if (offset > size || n_bytes > size - offset)
        return fail(err, "%s: tensor %.80s has %" PRIu64 " bytes, %zu were wanted at %" PRIu64,
                    s->path, t->name, size, n_bytes, offset);
    return file_pread(s->fd, to, n_bytes, t->begin + offset, s->path, err);
}

/* The tensor's bytes, freed by the caller; NULL on failure. */
static void *read_whole(const struct safetensors *s, const struct safetensor *t, struct error *err)
{
    size_t n_bytes = (size_t)(t->end - t->begin);
    void *bytes = try_calloc(n_bytes, 1);
    if (!bytes) {
        fail_code(err, EXIT_CODE_NO_DEVICE, "%s: no memory for tensor %.80s, %zu bytes", s->path,
                  t->name, n_bytes);
        return NULL;
    }
    if (!safetensors_read(s, t, 0, bytes, n_bytes, err)) {
        free(bytes);
        return NULL;
    }
    return bytes;
}

bool safetensors_read_f32(const struct safetensors *s, const struct safetensor *t, float *to,
                          struct error *err)
{
    void *bytes = read_whole(s, t, err);
    if (!bytes)
        return false;
    bool ok = tensor_to_f32(to, bytes, t->dtype, (size_t)t->n_elements);
    free(bytes);
    return ok || fail(err, "%s: tensor %.80s is %s (expected F32, F16, BF16 or F64)", s->path,
                      t->name, t->dtype);
}

bool safetensors_read_i64(const struct safetensors *s, const struct safetensor *t, int64_t *to,
                          struct error *err)
{
    void *bytes = read_whole(s, t, err);
    if (!bytes)
        return false;
    bool ok = tensor_to_i64(to, bytes, t->dtype, (size_t)t->n_elements);
    free(bytes);
    return ok || fail(err, "%s: tensor %.80s is %s (expected integers below 2^63)", s->path,
                      t->name, t->dtype);
}
