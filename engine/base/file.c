/* Reading whole files safely: see the header. */
#include "engine/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/memory.h"

int file_open(const char *path, uint64_t *n_bytes, struct error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        fail(err, "%s: %s", path, strerror(errno));
        return -1;
    }
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        fail(err, "%s: not a regular file", path);
        return -1;
    }
    if (n_bytes)
        *n_bytes = (uint64_t)st.st_size;
    return fd;
}

bool file_read_fd(struct buf *out, int fd, const char *name, uint64_t max_bytes, struct error *err)
{
    uint64_t n_read = 0;
    for (;;) {
        char *to = buf_reserve(out, 1 << 16);
        ssize_t n = read(fd, to, 1 << 16);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail_code(err, EXIT_CODE_RUNTIME, "%s: %s", name, strerror(errno));
        out->len += (size_t)n;
        out->data[out->len] = '\0';
        if (n == 0)
            return true;
        n_read += (uint64_t)n;
        if (n_read > max_bytes)
            return fail(err, "%s: larger than %" PRIu64 " bytes, the limit for this kind of file",
                        name, max_bytes);
    }
}

bool file_read(struct buf *out, const char *path, uint64_t max_bytes, struct error *err)
{
    uint64_t n_bytes;
    int fd = file_open(path, &n_bytes, err);
    if (fd < 0)
        return false;
    bool ok;
    if (n_bytes > max_bytes)
        ok = fail(err, "%s: %" PRIu64 " bytes, larger than the limit of %" PRIu64 " bytes", path,
                  n_bytes, max_bytes);
    else
        ok = file_read_fd(out, fd, path, max_bytes, err);
    close(fd);
    return ok;
}

bool file_pread(int fd, void *to, size_t n, uint64_t offset, const char *path, struct error *err)
{
    char *at = to;
    while (n > 0) {
        ssize_t got = pread(fd, at, n, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail_code(err, EXIT_CODE_RUNTIME, "%s: %s at byte %" PRIu64, path,
                             strerror(errno), offset);
        if (got == 0)
            return fail(err, "%s: truncated: %zu bytes missing at byte %" PRIu64, path, n, offset);
        at += got;
        n -= (size_t)got;
        offset += (uint64_t)got;
    }
    return true;
}

static bool write_all(int fd, const char *text, size_t n)
{
    while (n > 0) {
        ssize_t done = write(fd, text, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return false;
        text += done;
        n -= (size_t)done;
    }
    return fsync(fd) == 0;
}

/* A link, unlike a rename, does not replace what is there. */
static bool put_in_place(const char *temporary, const char *path, bool replace)
{
    return replace ? rename(temporary, path) == 0
                   : link(temporary, path) == 0 && unlink(temporary) == 0;
}

bool file_write(const char *path, const char *text, size_t n, bool replace, struct error *err)
{
    struct buf temporary = {0};
    buf_printf(&temporary, "%s.%ld.tmp", path, (long)getpid());
    int fd = open(temporary.data, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    bool ok = fd >= 0 && write_all(fd, text, n);
    int reason = errno;
    if (fd >= 0 && close(fd) != 0 && ok) {
        ok = false;
        reason = errno;
    }
    if (ok && !put_in_place(temporary.data, path, replace)) {
        ok = false;
        reason = errno;
    }
    if (!ok && fd >= 0)
        unlink(temporary.data);
    buf_free(&temporary);
    if (!ok && reason == EEXIST && fd >= 0)
        return fail_code(err, EXIT_CODE_USAGE, "%s is there already; give another name", path);
    return ok || fail_code(err, EXIT_CODE_RUNTIME, "%s: could not be written: %s", path,
                           strerror(reason));
}

bool file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

bool file_is_folder(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

char *path_join(const char *folder, const char *name)
{
    struct buf b = {0};
    buf_append_str(&b, folder);
    if (b.len && b.data[b.len - 1] != '/')
        buf_append_char(&b, '/');
    buf_append_str(&b, name);
    return buf_take(&b);
}

const char *path_home(void)
{
    const char *home = getenv("HOME");
    return home && *home ? home : ".";
}

char *path_xdg(const char *env, const char *fallback)
{
    const char *value = getenv(env);
    return value && value[0] == '/' ? xstrdup(value) : path_join(path_home(), fallback);
}

bool path_make_folders(const char *folder, struct error *err)
{
    char *path = xstrdup(folder);
    bool ok = true;
    for (char *at = path + 1; ok; at++) {
        if (*at && *at != '/')
            continue;
        char end = *at;
        *at = '\0';
        if (mkdir(path, 0700) != 0 && errno != EEXIST)
            ok = fail_code(err, EXIT_CODE_RUNTIME, "%s: could not make this folder: %s", path,
                           strerror(errno));
        *at = end;
        if (!end)
            break;
    }
    free(path);
    return ok;
}
