/* Filling a tokenizer from a parsed tokenizer.json, or from a vocab.json and a merges.txt. */
#include <inttypes.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/text/fields.h"
#include "engine/text/tokenizer_parts.h"

static bool load_vocab(struct vocabulary *vocab, const struct json *v, struct error *err)
{
    if (!json_is_object(v))
        return fail(err, "the vocabulary is not an object of tokens and ids");
    size_t n = json_count(v);
    if (n > MAX_VOCAB_TOKENS)
        return fail(err, "the vocabulary has %zu tokens (expected at most %d)", n,
                    MAX_VOCAB_TOKENS);
    for (const struct json *item = json_first(v); item; item = json_next(item)) {
        int64_t id;
        if (!json_int(item, 0, MAX_TOKEN_ID - 1, &id))
            return fail(err, "the id of token \"%.60s\" is not an integer from 0 to %d",
                        json_key(item), MAX_TOKEN_ID - 1);
        if (!vocabulary_add(vocab, json_key(item), id, true, err))
            return false;
    }
    return true;
}

static bool load_model(struct tokenizer *t, const struct json *model, struct error *err)
{
    const char *type;
    if (!json_is_object(model))
        return fail(err, "\"model\" is missing or not an object");
    /* Old files name no type; only BPE has merges. */
    const char *fallback = json_get(model, "merges") ? "BPE" : "";
    if (!field_string(&type, model, "type", fallback, err))
        return fail_prefix(err, "model");
    if (strcmp(type, "BPE") != 0)
        return fail(err, "model: type \"%.60s\" is not supported (expected \"BPE\")", type);
    if (!load_vocab(t->vocab, json_get(model, "vocab"), err))
        return fail_prefix(err, "model");
    t->bpe = bpe_load(model, t->vocab, err);
    return t->bpe || fail_prefix(err, "model");
}

static bool load_added(struct tokenizer *t, const struct json *list, struct error *err)
{
    if (json_is_null(list))
        return true;
    if (!json_is_array(list))
        return fail(err, "\"added_tokens\" is not a list");
    for (const struct json *item = json_first(list); item; item = json_next(item)) {
        int64_t id;
        if (!field_int(&id, item, "id", 0, MAX_TOKEN_ID - 1, -1, err) ||
            !added_tokens_load(t->added, item, id, t->vocab, err))
            return fail_prefix(err, "added_tokens");
    }
    return true;
}

bool tokenizer_load_json(struct tokenizer *t, const struct json *root, struct error *err)
{
    if (!json_is_object(root))
        return fail(err, "not a JSON object");
    if (!load_model(t, json_get(root, "model"), err) ||
        !load_added(t, json_get(root, "added_tokens"), err))
        return false;
    t->normalizer = normalizer_load(json_get(root, "normalizer"), err);
    if (!t->normalizer)
        return false;
    t->pre_tokenizer = pre_tokenizer_load(json_get(root, "pre_tokenizer"), err);
    if (!t->pre_tokenizer)
        return false;
    t->decoder = decoder_load(json_get(root, "decoder"), err);
    return t->decoder &&
           post_processor_load(&t->post_processor, json_get(root, "post_processor"), t->vocab, err);
}

bool tokenizer_load_gpt2(struct tokenizer *t, const struct json *vocab, char *merges, size_t n,
                         struct error *err)
{
    static const char end_of_text[] = "<|endoftext|>";
    t->is_gpt2 = true;
    if (!load_vocab(t->vocab, vocab, err))
        return false;
    t->bpe = bpe_load_lines(merges, n, t->vocab, err);
    if (!t->bpe)
        return false;
    t->normalizer = normalizer_load(NULL, err);
    t->pre_tokenizer = pre_tokenizer_byte_level(false, err);
    if (!t->pre_tokenizer)
        return false;
    t->decoder = decoder_byte_level();
    int32_t id = vocabulary_model_id(t->vocab, end_of_text, strlen(end_of_text));
    if (id < 0)
        return true;
    struct added_token token = {.content = xstrdup(end_of_text), .id = id, .special = true};
    return added_tokens_put(t->added, token, t->vocab, err);
}
