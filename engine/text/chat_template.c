/* Compiling, choosing, rendering and framing.  The interpreter's work is in jinja_*.c. */
#include "engine/text/chat_template.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/file.h"
#include "engine/base/memory.h"
#include "engine/base/utf8.h"
#include "engine/text/jinja_parser.h"
#include "engine/text/jinja_run.h"

#define MAX_CONFIG_BYTES ((uint64_t)16 << 20)

struct chat_template {
    char *name;
    struct jinja_trap trap; /* the arena's, only armed while compiling */
    struct jinja_arena arena;
    const struct jinja_node *body;
};

/* Parses into t; what it allocates belongs to t's arena, so that a jump leaks nothing. */
static bool compile(struct chat_template *t, const char *source, size_t n)
{
    struct jinja_parser parser;
    if (setjmp(t->trap.escape))
        return false;
    t->body = jinja_parse(&parser, source, n, &t->arena);
    return true;
}

struct chat_template *chat_template_compile(const char *source, size_t n, const char *name,
                                            struct error *err)
{
    size_t bad_at;
    struct error ignored;
    if (n > JINJA_MAX_SOURCE_BYTES) {
        fail(err, "%s: the chat template has %zu bytes, more than the limit of 1 MiB", name, n);
        return NULL;
    }
    if (!utf8_valid(source, n, &bad_at)) {
        fail(err, "%s: the chat template is not valid UTF-8 at byte %zu", name, bad_at);
        return NULL;
    }
    struct chat_template *t = xcalloc(1, sizeof *t);
    t->name = xstrdup(name);
    t->trap.err = err ? err : &ignored;
    t->trap.name = t->name;
    jinja_arena_init(&t->arena, JINJA_MAX_MEMORY_BYTES, &t->trap);
    bool ok = compile(t, source, n);
    t->trap.err = NULL;
    if (ok)
        return t;
    chat_template_free(t);
    return NULL;
}

void chat_template_free(struct chat_template *t)
{
    if (!t)
        return;
    jinja_arena_free(&t->arena);
    free(t->name);
    free(t);
}

const char *chat_template_source(const struct chat_template *t)
{
    return t->name;
}

/* The string itself, or the entry named "default" of a list; NULL if there is none. */
static const struct json *choose_entry(const struct json *v)
{
    if (!json_is_array(v))
        return v;
    for (const struct json *entry = json_first(v); entry; entry = json_next(entry)) {
        const char *name = json_string(json_get(entry, "name"));
        if (name && !strcmp(name, "default"))
            return json_get(entry, "template");
    }
    return NULL;
}

/* Takes the template out of a JSON file's member chat_template, if file and member exist. */
static bool open_in_json(struct chat_template **out, const char *folder, const char *name,
                         struct error *err)
{
    char *path = path_join(folder, name);
    bool ok = true;
    if (file_exists(path)) {
        struct json *root = json_parse_file(path, MAX_CONFIG_BYTES, err);
        const struct json *member = json_get(root, "chat_template");
        const struct json *entry = choose_entry(member);
        const char *source = json_string(entry);
        if (source)
            *out = chat_template_compile(source, strlen(source), name, err);
        ok = root && (*out || !source);
        if (ok && !source && !json_is_null(member))
            ok = fail(err,
                      "%s: chat_template is neither a string nor a list with a \"default\" "
                      "template",
                      path);
        json_free(root);
    }
    free(path);
    return ok;
}

static bool open_file(struct chat_template **out, const char *folder, const char *name,
                      struct error *err)
{
    char *path = path_join(folder, name);
    struct buf source = {0};
    bool ok = true;
    if (file_exists(path)) {
        ok = file_read(&source, path, JINJA_MAX_SOURCE_BYTES, err);
        if (ok)
            *out = chat_template_compile(source.data ? source.data : "", source.len, name, err);
        ok = ok && *out;
    }
    buf_free(&source);
    free(path);
    return ok;
}

bool chat_template_open(struct chat_template **out, const char *folder, struct error *err)
{
    *out = NULL;
    return open_file(out, folder, "chat_template.jinja", err) &&
           (*out || open_in_json(out, folder, "tokenizer_config.json", err)) &&
           (*out || open_in_json(out, folder, "chat_template.json", err));
}

/* Runs inside of the trap; run is the caller's, so that it survives a jump unchanged. */
static bool render(struct jinja_run *run, const struct jinja_node *body,
                   const struct json *variables, struct jinja_builder *out)
{
    if (setjmp(run->trap.escape))
        return false;
    run->out = out;
    jinja_run_template(run, body, variables);
    return true;
}

bool chat_template_render(const struct chat_template *t, const struct json *variables,
                          long long now_unix_s, struct buf *out, struct error *err)
{
    struct timespec now;
    struct error ignored;
    struct jinja_run run = {.now_unix_s = now_unix_s,
                            .trap = {.err = err ? err : &ignored, .name = t->name, .line = 1}};
    struct jinja_builder page = jinja_builder_new(&run);
    page.limit_bytes = JINJA_MAX_OUTPUT_BYTES;
    clock_gettime(CLOCK_MONOTONIC, &now);
    run.deadline_ns = now.tv_sec * 1000000000LL + now.tv_nsec + JINJA_MAX_SECONDS * 1000000000LL;
    jinja_arena_init(&run.arena, JINJA_MAX_MEMORY_BYTES, &run.trap);
    bool ok = render(&run, t->body, variables, &page);
    if (ok && page.len)
        buf_append(out, page.data, page.len);
    jinja_arena_free(&run.arena);
    return ok;
}

/* Stands for what the user will ask: letters only, so that no trimming, splitting or escaping
 * touches it. */
static const char PLACEHOLDER[] = "XqUserTextOfTheFrameZw";

static void set_token(struct json *variables, const char *name, const char *token)
{
    if (token)
        json_set_string(variables, name, token);
}

static struct json *frame_variables(const struct chat_special_tokens *special)
{
    struct json *variables = json_new_object(), *messages = json_new_array();
    struct json *message = json_new_object();
    json_set_string(message, "role", "user");
    json_set_string(message, "content", PLACEHOLDER);
    json_add(messages, message);
    json_set(variables, "messages", messages);
    json_set_bool(variables, "add_generation_prompt", true);
    json_set_bool(variables, "enable_thinking", false);
    json_set_null(variables, "tools");
    json_set_null(variables, "documents");
    if (special) {
        set_token(variables, "bos_token", special->bos);
        set_token(variables, "eos_token", special->eos);
        set_token(variables, "unk_token", special->unk);
        set_token(variables, "pad_token", special->pad);
    }
    return variables;
}

bool chat_template_frame(const struct chat_template *t, const struct chat_special_tokens *special,
                         long long now_unix_s, struct buf *prefix, struct buf *suffix,
                         struct error *err)
{
    const size_t n = strlen(PLACEHOLDER);
    struct buf page = {0};
    if (!t)
        return true;
    struct json *variables = frame_variables(special);
    bool ok = chat_template_render(t, variables, now_unix_s, &page, err);
    json_free(variables);
    if (ok) {
        const char *text = page.data ? page.data : "";
        const char *found = memmem(text, page.len, PLACEHOLDER, n);
        const char *rest = found ? found + n : text;
        size_t n_rest = page.len - (size_t)(rest - text);
        if (!found || memmem(rest, n_rest, PLACEHOLDER, n)) {
            ok = fail(err,
                      "%s: chat template: the user's text appears %s in the rendered prompt, so "
                      "context and question cannot be put into it (expected: unchanged, once)",
                      t->name, found ? "more than once" : "changed or not at all");
        } else {
            buf_append(prefix, text, (size_t)(found - text));
            buf_append(suffix, rest, n_rest);
        }
    }
    buf_free(&page);
    return ok;
}
