#include "tui/settings.h"

#include <stdlib.h>
#include <string.h>

#include "engine/attention/nearest.h"
#include "engine/base/file.h"
#include "engine/base/json.h"
#include "tui/theme.h"

enum { MAX_FILE_BYTES = 1 << 16 };

static const char *const keys[] = {"theme", "ascii", "live", NULL};

static char *file_path(bool make_folder, struct error *err)
{
    char *config = path_xdg("XDG_CONFIG_HOME", ".config");
    char *folder = path_join(config, "attnscope");
    bool ok = !make_folder || path_make_folders(folder, err);
    char *path = ok ? path_join(folder, "config.json") : NULL;
    free(folder);
    free(config);
    return path;
}

void settings_init(struct settings *s)
{
    *s = (struct settings){.theme = THEME_BY_BACKGROUND};
}

static void read_theme(struct settings *s, const char *path, const struct json *v,
                       struct buf *notice)
{
    const char *name = json_string(v);
    for (int i = 0; name && theme_names[i]; i++)
        if (!strcmp(theme_names[i], name)) {
            s->theme = i;
            return;
        }
    buf_printf(notice, "%s: theme must be dark, light, colour-blind or mono.\n", path);
}

static void read_switch(bool *out, const char *path, const struct json *v, struct buf *notice)
{
    if (json_is_bool(v))
        *out = json_bool(v, false);
    else
        buf_printf(notice, "%s: %s must be true or false.\n", path, json_key(v));
}

static void tell_unknown(const char *path, const char *key, struct buf *notice)
{
    struct nearest nearest = {.given = key};
    for (int i = 0; keys[i]; i++)
        nearest_offer(&nearest, keys[i]);
    buf_printf(notice, "%s: there is no setting \"%s\"", path, key);
    if (nearest.best)
        buf_printf(notice, "; did you mean %s?", nearest.best);
    buf_append_str(notice, "\n");
}

void settings_read(struct settings *s, struct buf *notice)
{
    struct error err = {0};
    char *path = file_path(false, &err);
    settings_init(s);
    struct json *root = file_exists(path) ? json_parse_file(path, MAX_FILE_BYTES, &err) : NULL;
    if (err.text[0])
        buf_printf(notice, "%s\n", err.text);
    for (const struct json *v = json_first(root); v; v = json_next(v)) {
        if (!strcmp(json_key(v), "theme"))
            read_theme(s, path, v, notice);
        else if (!strcmp(json_key(v), "ascii"))
            read_switch(&s->ascii, path, v, notice);
        else if (!strcmp(json_key(v), "live"))
            read_switch(&s->live, path, v, notice);
        else
            tell_unknown(path, json_key(v), notice);
    }
    json_free(root);
    free(path);
}

bool settings_write(const struct settings *s, char **path, struct error *err)
{
    struct buf text = {0};
    *path = file_path(true, err);
    if (!*path)
        return false;
    struct json *root = json_new_object();
    if (s->theme != THEME_BY_BACKGROUND)
        json_set_string(root, "theme", theme_names[s->theme]);
    json_set_bool(root, "ascii", s->ascii);
    json_set_bool(root, "live", s->live);
    json_write(&text, root, true);
    buf_append_char(&text, '\n');
    json_free(root);
    bool ok = file_write(*path, text.data, text.len, true, err);
    buf_free(&text);
    return ok;
}
