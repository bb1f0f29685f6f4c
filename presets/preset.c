/* Finding and reading presets. */
#include "presets/preset.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/memory.h"

enum { MAX_PRESET_BYTES = 1 << 20, MAX_CONTEXT_BYTES = 256 << 20, MAX_ENTRIES = 1024 };

/* --- Where they are ----------------------------------------------------------------------- */

char *preset_folder(struct error *err)
{
    const char *chosen = getenv("ATTNSCOPE_PRESETS");
    if (chosen && *chosen) {
        if (file_is_folder(chosen))
            return xstrdup(chosen);
        fail(err, "%s: $ATTNSCOPE_PRESETS names no folder", chosen);
        return NULL;
    }
    if (file_is_folder(ATTNSCOPE_DATADIR))
        return xstrdup(ATTNSCOPE_DATADIR);
    if (file_is_folder(ATTNSCOPE_SOURCE_PRESETS))
        return xstrdup(ATTNSCOPE_SOURCE_PRESETS);
    fail(err, "there is no folder of presets in %s nor in %s; set $ATTNSCOPE_PRESETS",
         ATTNSCOPE_DATADIR, ATTNSCOPE_SOURCE_PRESETS);
    return NULL;
}

/* folder/kind; NULL if there is no folder of presets. */
static char *kind_folder(const char *kind, struct error *err)
{
    char *folder = preset_folder(err);
    if (!folder)
        return NULL;
    char *path = path_join(folder, kind);
    free(folder);
    return path;
}

char *preset_model_folder(void)
{
    char *path = kind_folder("model", NULL);
    if (path && file_is_folder(path))
        return path;
    free(path);
    return NULL;
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), n_end = strlen(end);
    return n > n_end && strcmp(s + n - n_end, end) == 0;
}

/* The path of the preset called name, if there is such a file; the caller frees. */
static char *preset_path(const char *kind, const char *name)
{
    if (!*name || *name == '.' || strpbrk(name, "/{[") || strlen(name) > 200)
        return NULL;
    char *folder = kind_folder(kind, NULL);
    if (!folder)
        return NULL;
    struct buf file = {0};
    buf_printf(&file, "%s.json", name);
    char *path = path_join(folder, file.data);
    buf_free(&file);
    free(folder);
    if (file_exists(path))
        return path;
    free(path);
    return NULL;
}

/* --- Stacks ------------------------------------------------------------------------------- */

static bool stack_from_file(struct stack *out, const char *path, struct error *err)
{
    struct json *v = json_parse_file(path, MAX_PRESET_BYTES, err);
    bool ok = v && stack_from_json(out, v, path, err);
    json_free(v);
    return ok;
}

/* "MASKER:...", "MASKER,..." or "dense; ...": a short form, whose last parameter may be a file's
 * path. */
static bool starts_with_masker(const char *spec)
{
    char name[32];
    size_t n = strcspn(spec, ":,;");
    if (!spec[n] || n >= sizeof name)
        return false;
    memcpy(name, spec, n);
    name[n] = '\0';
    return masker_find(name) != NULL || strcmp(name, "dense") == 0;
}

static bool names_file(const char *spec)
{
    return ends_with(spec, ".json") && *spec != '{' && *spec != '[' && !starts_with_masker(spec);
}

bool preset_stack(struct stack *out, const char *spec, struct error *err)
{
    char *path = preset_path("stacks", spec);
    if (path) {
        bool ok = stack_from_file(out, path, err);
        free(path);
        return ok;
    }
    if (names_file(spec))
        return stack_from_file(out, spec, err);
    if (stack_parse(out, spec, err))
        return true;
    if (err && !strpbrk(spec, ":,;{[") && *spec) {
        struct error masker = *err;
        fail_code(err, EXIT_CODE_USAGE, "%.400s; attnscope stacks lists presets and maskers",
                  masker.text);
    }
    return false;
}

/* --- Lists -------------------------------------------------------------------------------- */

struct ordered_entry {
    struct preset_entry entry;
    int64_t order;
};

static int compare_entries(const void *a, const void *b)
{
    const struct ordered_entry *x = a, *y = b;
    if (x->order != y->order)
        return x->order < y->order ? -1 : 1;
    return strcmp(x->entry.name, y->entry.name);
}

static char *string_or_empty(const struct json *v)
{
    const char *s = json_string(v);
    return xstrdup(s ? s : "");
}

static bool read_entry(struct ordered_entry *out, const char *folder, const char *file)
{
    char *path = path_join(folder, file);
    struct json *v = json_parse_file(path, MAX_PRESET_BYTES, NULL);
    free(path);
    if (!v)
        return false;
    out->entry.name = xstrndup(file, strlen(file) - strlen(".json"));
    out->entry.title = string_or_empty(json_get(v, "title"));
    out->entry.source = string_or_empty(json_get(v, "source"));
    if (!json_int(json_get(v, "order"), 0, INT32_MAX, &out->order))
        out->order = INT32_MAX;
    json_free(v);
    return true;
}

static struct preset_list list_kind(const char *kind)
{
    struct preset_list list = {0};
    struct ordered_entry *found = NULL;
    size_t n = 0, capacity = 0;
    char *folder = kind_folder(kind, NULL);
    DIR *dir = folder ? opendir(folder) : NULL;
    for (struct dirent *d; dir && n < MAX_ENTRIES && (d = readdir(dir));) {
        if (d->d_name[0] == '.' || !ends_with(d->d_name, ".json"))
            continue;
        found = array_grow(found, &capacity, n + 1, sizeof *found);
        n += read_entry(&found[n], folder, d->d_name);
    }
    if (dir)
        closedir(dir);
    free(folder);
    if (n)
        qsort(found, n, sizeof *found, compare_entries);
    list.entries = xcalloc(n + 1, sizeof *list.entries);
    list.n = n;
    for (size_t i = 0; i < n; i++)
        list.entries[i] = found[i].entry;
    free(found);
    return list;
}

struct preset_list preset_list_stacks(void)
{
    return list_kind("stacks");
}

struct preset_list preset_list_samples(void)
{
    return list_kind("samples");
}

void preset_list_free(struct preset_list *list)
{
    for (size_t i = 0; i < list->n; i++) {
        free(list->entries[i].name);
        free(list->entries[i].title);
        free(list->entries[i].source);
    }
    free(list->entries);
    *list = (struct preset_list){0};
}

/* --- Samples ------------------------------------------------------------------------------ */

/* "context_file" is relative to the sample's own folder. */
static bool read_context(struct sample *s, const struct json *v, const char *path,
                         struct error *err)
{
    const char *inline_text = json_string(json_get(v, "context"));
    const char *file = json_string(json_get(v, "context_file"));
    if (!inline_text == !file)
        return fail(err, "%s: exactly one of \"context\" and \"context_file\" must be given", path);
    struct buf text = {0};
    bool ok = true;
    if (inline_text) {
        buf_append_str(&text, inline_text);
    } else {
        const char *slash = strrchr(path, '/');
        char *folder = slash ? xstrndup(path, (size_t)(slash - path)) : xstrdup(".");
        char *full = *file == '/' ? xstrdup(file) : path_join(folder, file);
        ok = file_read(&text, full, MAX_CONTEXT_BYTES, err);
        free(full);
        free(folder);
    }
    s->n_context = text.len;
    s->context = buf_take(&text);
    return ok;
}

static bool read_questions(struct sample *s, const struct json *questions, const char *path,
                           struct error *err)
{
    if (!json_is_array(questions) || !json_first(questions))
        return fail(err, "%s: \"questions\" must be an array of at least one question", path);
    s->questions = xcalloc(json_count(questions), sizeof *s->questions);
    for (const struct json *q = json_first(questions); q; q = json_next(q)) {
        if (!json_string(q))
            return fail(err, "%s: question %zu is not a string", path, s->n_questions + 1);
        s->questions[s->n_questions++] = xstrdup(json_string(q));
    }
    return true;
}

static bool sample_from_file(struct sample *out, const char *path, struct error *err)
{
    struct json *v = json_parse_file(path, MAX_PRESET_BYTES, err);
    if (!v)
        return false;
    struct sample s = {.name = string_or_empty(json_get(v, "name")),
                       .title = string_or_empty(json_get(v, "title"))};
    bool ok =
        read_context(&s, v, path, err) && read_questions(&s, json_get(v, "questions"), path, err);
    json_free(v);
    if (ok)
        *out = s;
    else
        sample_free(&s);
    return ok;
}

bool preset_sample(struct sample *out, const char *name, struct error *err)
{
    char *path = preset_path("samples", name);
    if (!path && ends_with(name, ".json"))
        path = xstrdup(name);
    if (path) {
        bool ok = sample_from_file(out, path, err);
        free(path);
        return ok;
    }
    struct preset_list list = preset_list_samples();
    struct buf names = {0};
    for (size_t i = 0; i < list.n; i++)
        buf_printf(&names, "%s%s", i ? ", " : "", list.entries[i].name);
    fail_code(err, EXIT_CODE_USAGE, "there is no sample \"%.60s\"; there are: %s", name,
              names.len ? names.data : "none");
    buf_free(&names);
    preset_list_free(&list);
    return false;
}

void sample_free(struct sample *s)
{
    for (size_t i = 0; i < s->n_questions; i++)
        free(s->questions[i]);
    free(s->questions);
    free(s->context);
    free(s->title);
    free(s->name);
    *s = (struct sample){0};
}
