/* Reading and writing whole files safely, and a few path helpers. */
#ifndef ATTNSCOPE_ENGINE_BASE_FILE_H
#define ATTNSCOPE_ENGINE_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/base/error.h"

/* Opens for reading: O_CLOEXEC, never blocks on a FIFO, regular files only.  -1 on failure. */
int file_open(const char *path, uint64_t *n_bytes, struct error *err);

/* Appends the whole file to out; a file of more than max_bytes is refused.  Any thread. */
bool file_read(struct buf *out, const char *path, uint64_t max_bytes, struct error *err);

/* As file_read, from a descriptor such as stdin; name is for messages. */
bool file_read_fd(struct buf *out, int fd, const char *name, uint64_t max_bytes, struct error *err);

/* Reads exactly n bytes at offset; a short file is an error that names path. */
bool file_pread(int fd, void *to, size_t n, uint64_t offset, const char *path, struct error *err);

/* Writes all of it or leaves path as it was: a temporary file beside it, flushed to the disk, takes
 * its place.  Without replace a file that is there is an error. */
bool file_write(const char *path, const char *text, size_t n, bool replace, struct error *err);

bool file_exists(const char *path);
bool file_is_folder(const char *path);

/* "a/b"; the caller frees. */
char *path_join(const char *folder, const char *name);
/* $HOME, or "." without one: borrowed. */
const char *path_home(void);
/* $env if set and absolute, else $HOME/fallback; the caller frees.  E.g. XDG_STATE_HOME,
 * ".local/state". */
char *path_xdg(const char *env, const char *fallback);
/* Creates folder and its parents with mode 0700 where missing. */
bool path_make_folders(const char *folder, struct error *err);

#endif
