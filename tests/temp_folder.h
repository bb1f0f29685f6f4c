/* A folder for one test's files, removed with all that is in it; helpers to fill it. */
#ifndef ATTNSCOPE_TESTS_TEMP_FOLDER_H
#define ATTNSCOPE_TESTS_TEMP_FOLDER_H

#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct temp_folder {
    char path[64];
};

static inline struct temp_folder temp_folder_make(void)
{
    struct temp_folder f = {"/tmp/attnscope-test-XXXXXX"};
    if (!mkdtemp(f.path))
        abort();
    return f;
}

static inline int temp_folder_remove_one(const char *path, const struct stat *st, int kind,
                                         struct FTW *ftw)
{
    (void)st, (void)kind, (void)ftw;
    return remove(path);
}

static inline void temp_folder_remove(struct temp_folder *f)
{
    nftw(f->path, temp_folder_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* folder/name; two results are good at a time. */
static inline const char *temp_path(const struct temp_folder *f, const char *name)
{
    static char paths[2][512];
    static int turn;
    turn ^= 1;
    snprintf(paths[turn], sizeof paths[turn], "%s/%s", f->path, name);
    return paths[turn];
}

static inline void temp_write(const struct temp_folder *f, const char *name, const void *bytes,
                              size_t n)
{
    FILE *file = fopen(temp_path(f, name), "wb");
    if (!file || fwrite(bytes, 1, n, file) != n || fclose(file) != 0)
        abort();
}

static inline void temp_write_text(const struct temp_folder *f, const char *name, const char *text)
{
    temp_write(f, name, text, strlen(text));
}

/* A safetensors file of any header text, valid or not, followed by n_data bytes 0, 1, 2, ... */
static inline void temp_write_safetensors(const struct temp_folder *f, const char *name,
                                          const char *header, size_t n_data)
{
    uint64_t n = strlen(header);
    char *bytes = malloc(8 + n + n_data);
    if (!bytes)
        abort();
    memcpy(bytes, &n, 8);
    memcpy(bytes + 8, header, n);
    for (size_t i = 0; i < n_data; i++)
        bytes[8 + n + i] = (char)i;
    temp_write(f, name, bytes, 8 + n + n_data);
    free(bytes);
}

static inline void temp_make_folder(const struct temp_folder *f, const char *name)
{
    if (mkdir(temp_path(f, name), 0700) != 0)
        abort();
}

#endif
