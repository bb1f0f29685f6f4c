/* Opening a tokenizer: which files a folder has, and in which order they count. */
#include <stdlib.h>
#include <string.h>

#include "engine/base/file.h"
#include "engine/base/memory.h"
#include "engine/text/tokenizer_parts.h"

#define MAX_TOKENIZER_BYTES ((uint64_t)256 << 20)
#define MAX_CONFIG_BYTES ((uint64_t)16 << 20)

static bool load_json_file(struct tokenizer *t, const char *path, struct error *err)
{
    struct json *root = json_parse_file(path, MAX_TOKENIZER_BYTES, err);
    if (!root)
        return false;
    bool ok = tokenizer_load_json(t, root, err) || fail_prefix(err, "%s", path);
    json_free(root);
    return ok;
}

static bool load_gpt2_files(struct tokenizer *t, const char *vocab_path, const char *merges_path,
                            struct error *err)
{
    struct buf merges = {0};
    struct json *vocab = json_parse_file(vocab_path, MAX_TOKENIZER_BYTES, err);
    bool ok = vocab && file_read(&merges, merges_path, MAX_TOKENIZER_BYTES, err);
    if (ok && merges.len != (merges.data ? strlen(merges.data) : 0))
        ok = fail(err, "%s: not a text file: it holds a zero byte", merges_path);
    else if (ok)
        ok = tokenizer_load_gpt2(t, vocab, merges.data, merges.len, err) ||
             fail_prefix(err, "%s and merges.txt", vocab_path);
    json_free(vocab);
    buf_free(&merges);
    return ok;
}

static bool load_model(struct tokenizer *t, const char *folder, struct error *err)
{
    char *json_path = path_join(folder, "tokenizer.json");
    char *vocab_path = path_join(folder, "vocab.json");
    char *merges_path = path_join(folder, "merges.txt");
    bool ok;
    if (file_exists(json_path))
        ok = load_json_file(t, json_path, err);
    else if (file_exists(vocab_path) && file_exists(merges_path))
        ok = load_gpt2_files(t, vocab_path, merges_path, err);
    else
        ok = fail(err,
                  "%s: no tokenizer (expected tokenizer.json, or vocab.json and merges.txt); "
                  "convert the tokenizer to tokenizer.json first",
                  folder);
    free(json_path);
    free(vocab_path);
    free(merges_path);
    return ok;
}

/* Reads folder/name, if it is there, and hands it to apply. */
static bool load_optional(struct tokenizer *t, const char *folder, const char *name,
                          bool (*apply)(struct tokenizer *t, const struct json *v,
                                        struct error *err),
                          struct error *err)
{
    char *path = path_join(folder, name);
    struct json *root = NULL;
    bool ok = true;
    if (file_exists(path)) {
        root = json_parse_file(path, MAX_CONFIG_BYTES, err);
        if (!root)
            ok = false;
        else if (!json_is_object(root))
            ok = fail(err, "%s: not a JSON object", path);
        else
            ok = apply(t, root, err) || fail_prefix(err, "%s", path);
    }
    json_free(root);
    free(path);
    return ok;
}

struct tokenizer *tokenizer_open(const char *folder, struct error *err)
{
    struct tokenizer *t = xcalloc(1, sizeof *t);
    t->vocab = vocabulary_new();
    t->added = added_tokens_new();
    if (load_model(t, folder, err) &&
        load_optional(t, folder, "tokenizer_config.json", tokenizer_load_special_names, err) &&
        load_optional(t, folder, "special_tokens_map.json", tokenizer_load_special_names, err) &&
        load_optional(t, folder, "tokenizer_config.json", tokenizer_apply_config, err) &&
        (added_tokens_build(t->added, t->normalizer, t->vocab, err) ||
         fail_prefix(err, "%s", folder)))
        return t;
    tokenizer_close(t);
    return NULL;
}
