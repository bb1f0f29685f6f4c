/* The normalizer: a flat list of steps, each from one buffer to the next. */
#include "engine/text/normalizer.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/text/char_class.h"
#include "engine/text/fields.h"
#include "engine/text/normal_form.h"
#include "engine/text/pattern.h"

struct step {
    const struct step_kind *kind;
    struct pattern *pattern; /* Replace */
    char *content;           /* Replace, Prepend */
    bool left, right;        /* Strip */
};

struct step_kind {
    const char *type;
    bool (*load)(struct step *step, const struct json *v, struct error *err); /* NULL: no fields */
    bool (*run)(const struct step *step, const char *text, size_t n, struct buf *out,
                struct error *err);
};

struct normalizer {
    struct step *steps; /* [n_steps] */
    size_t n_steps, capacity;
};

static bool run_nfc(const struct step *step, const char *text, size_t n, struct buf *out,
                    struct error *err)
{
    (void)step, (void)err;
    normal_form(out, text, n, true, false);
    return true;
}

static bool run_nfd(const struct step *step, const char *text, size_t n, struct buf *out,
                    struct error *err)
{
    (void)step, (void)err;
    normal_form(out, text, n, false, false);
    return true;
}

static bool run_nfkc(const struct step *step, const char *text, size_t n, struct buf *out,
                     struct error *err)
{
    (void)step, (void)err;
    normal_form(out, text, n, true, true);
    return true;
}

static bool run_nfkd(const struct step *step, const char *text, size_t n, struct buf *out,
                     struct error *err)
{
    (void)step, (void)err;
    normal_form(out, text, n, false, true);
    return true;
}

static bool run_lowercase(const struct step *step, const char *text, size_t n, struct buf *out,
                          struct error *err)
{
    (void)step, (void)err;
    for (size_t i = 0; i < n;) {
        int len;
        uint32_t lower[2];
        int n_lower = char_lower(char_at(text + i, n - i, &len), lower);
        for (int k = 0; k < n_lower; k++)
            buf_append_utf8(out, lower[k]);
        i += (size_t)len;
    }
    return true;
}

static bool load_strip(struct step *step, const struct json *v, struct error *err)
{
    return field_bool(&step->left, v, "strip_left", true, err) &&
           field_bool(&step->right, v, "strip_right", true, err);
}

static bool run_strip(const struct step *step, const char *text, size_t n, struct buf *out,
                      struct error *err)
{
    (void)err;
    int len;
    while (step->left && n && char_is_space(char_at(text, n, &len))) {
        text += len;
        n -= (size_t)len;
    }
    while (step->right && n && char_is_space(char_before(text, n, &len)))
        n -= (size_t)len;
    buf_append(out, text, n);
    return true;
}

static bool load_prepend(struct step *step, const struct json *v, struct error *err)
{
    const char *prepend;
    if (!field_string(&prepend, v, "prepend", NULL, err))
        return false;
    if (!prepend)
        return fail(err, "\"prepend\" is missing");
    step->content = xstrdup(prepend);
    return true;
}

static bool run_prepend(const struct step *step, const char *text, size_t n, struct buf *out,
                        struct error *err)
{
    (void)err;
    if (n)
        buf_append_str(out, step->content);
    buf_append(out, text, n);
    return true;
}

static bool load_replace(struct step *step, const struct json *v, struct error *err)
{
    const char *content;
    if (!field_string(&content, v, "content", NULL, err))
        return false;
    if (!content)
        return fail(err, "\"content\" is missing");
    step->content = xstrdup(content);
    step->pattern = pattern_load(json_get(v, "pattern"), err);
    return step->pattern != NULL;
}

static bool run_replace(const struct step *step, const char *text, size_t n, struct buf *out,
                        struct error *err)
{
    return pattern_replace(step->pattern, text, n, step->content, out, err);
}

static const struct step_kind kinds[] = {
    {"NFC", NULL, run_nfc},
    {"NFD", NULL, run_nfd},
    {"NFKC", NULL, run_nfkc},
    {"NFKD", NULL, run_nfkd},
    {"Lowercase", NULL, run_lowercase},
    {"Strip", load_strip, run_strip},
    {"Prepend", load_prepend, run_prepend},
    {"Replace", load_replace, run_replace},
};

static bool add_steps(struct normalizer *normalizer, const struct json *v, struct error *err);

static bool add_sequence(struct normalizer *normalizer, const struct json *v, struct error *err)
{
    const struct json *list = json_get(v, "normalizers");
    if (!json_is_array(list))
        return fail(err, "Sequence: \"normalizers\" is not a list");
    for (const struct json *item = json_first(list); item; item = json_next(item))
        if (!add_steps(normalizer, item, err))
            return false;
    return true;
}

static bool add_steps(struct normalizer *normalizer, const struct json *v, struct error *err)
{
    const char *type = field_type(v, "normalizer", err);
    if (!type)
        return false;
    if (strcmp(type, "Sequence") == 0)
        return add_sequence(normalizer, v, err);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(type, kinds[i].type) != 0)
            continue;
        normalizer->steps = array_grow(normalizer->steps, &normalizer->capacity,
                                       normalizer->n_steps + 1, sizeof *normalizer->steps);
        struct step *step = &normalizer->steps[normalizer->n_steps++];
        *step = (struct step){.kind = &kinds[i]};
        return !kinds[i].load || kinds[i].load(step, v, err) || fail_prefix(err, "%s", type);
    }
    return fail(err, "unknown type \"%.60s\"", type);
}

struct normalizer *normalizer_load(const struct json *v, struct error *err)
{
    struct normalizer *normalizer = xcalloc(1, sizeof *normalizer);
    if (json_is_null(v) || add_steps(normalizer, v, err))
        return normalizer;
    fail_prefix(err, "normalizer");
    normalizer_free(normalizer);
    return NULL;
}

void normalizer_free(struct normalizer *normalizer)
{
    if (!normalizer)
        return;
    for (size_t i = 0; i < normalizer->n_steps; i++) {
        pattern_free(normalizer->steps[i].pattern);
        free(normalizer->steps[i].content);
    }
    free(normalizer->steps);
    free(normalizer);
}

bool normalizer_run(const struct normalizer *normalizer, const char *text, size_t n,
                    struct buf *out, struct error *err)
{
    if (!normalizer->n_steps) {
        buf_append(out, text, n);
        return true;
    }
    struct buf from = {0}, to = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < normalizer->n_steps; i++) {
        const struct step *step = &normalizer->steps[i];
        bool is_last = i + 1 == normalizer->n_steps;
        ok =
            step->kind->run(step, i ? from.data : text, i ? from.len : n, is_last ? out : &to, err);
        struct buf swap = from;
        from = to;
        to = swap;
        buf_clear(&to);
    }
    buf_free(&from);
    buf_free(&to);
    return ok;
}
