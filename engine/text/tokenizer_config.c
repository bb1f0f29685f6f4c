/* What tokenizer_config.json changes in a tokenizer that is loaded otherwise. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/text/fields.h"
#include "engine/text/tokenizer_parts.h"

bool tokenizer_load_special_names(struct tokenizer *t, const struct json *v, struct error *err)
{
    static const char *const names[N_SPECIAL_TOKENS] = {"bos_token", "eos_token", "unk_token",
                                                        "pad_token"};
    for (int i = 0; i < N_SPECIAL_TOKENS; i++) {
        const struct json *named = json_get(v, names[i]);
        const struct json *content = json_is_object(named) ? json_get(named, "content") : named;
        if (json_is_null(named))
            continue;
        if (!json_is_string(content))
            return fail(err, "\"%s\" is neither a string nor an object with a \"content\"",
                        names[i]);
        if (!t->special[i])
            t->special[i] = xstrdup(json_string(content));
    }
    return true;
}

/* A whole string of decimal digits, or -1. */
static int64_t parse_id(const char *text)
{
    char *end;
    if (*text < '0' || *text > '9')
        return -1;
    errno = 0;
    long long id = strtoll(text, &end, 10);
    return errno || *end ? -1 : id;
}

static bool load_added(struct tokenizer *t, const struct json *list, struct error *err)
{
    if (json_is_null(list))
        return true;
    if (!json_is_object(list))
        return fail(err, "\"added_tokens_decoder\" is not an object of ids and tokens");
    for (const struct json *item = json_first(list); item; item = json_next(item))
        if (!added_tokens_load(t->added, item, parse_id(json_key(item)), t->vocab, err))
            return fail_prefix(err, "added_tokens_decoder");
    return true;
}

static bool has_prefix_of(const char *name, const char *const *prefixes)
{
    for (; *prefixes; prefixes++)
        if (strncmp(name, *prefixes, strlen(*prefixes)) == 0)
            return true;
    return false;
}

/* add_bos_token and add_eos_token: on, off, or, if absent, as the template has it. */
static bool set_bos_eos(struct tokenizer *t, const struct json *config, const char *key,
                        enum special_token which, struct error *err)
{
    bool on;
    if (!field_bool(&on, config, key, false, err))
        return false;
    if (json_is_null(json_get(config, key)))
        return true;
    int32_t id = t->special[which] ? tokenizer_find(t, t->special[which]) : -1;
    if (id < 0)
        return !on || fail(err, "\"%s\" is true, but there is no such token", key);
    if (which == SPECIAL_BOS)
        post_processor_set_before(&t->post_processor, id, on);
    else
        post_processor_set_after(&t->post_processor, id, on);
    return true;
}

bool tokenizer_apply_config(struct tokenizer *t, const struct json *config, struct error *err)
{
    /* Classes of transformers that look at these fields. */
    static const char *const llama_like[] = {"Llama", "CodeLlama", "Gemma", "Cohere", NULL};
    static const char *const gpt2_like[] = {"GPT2",    "GPTNeoX", "Roberta",    "Bart",
                                            "CodeGen", "LED",     "Longformer", NULL};
    const char *class_name;
    bool add_prefix_space;
    if (!load_added(t, json_get(config, "added_tokens_decoder"), err) ||
        !field_string(&class_name, config, "tokenizer_class", "", err))
        return false;
    if (has_prefix_of(class_name, llama_like) &&
        (!set_bos_eos(t, config, "add_bos_token", SPECIAL_BOS, err) ||
         !set_bos_eos(t, config, "add_eos_token", SPECIAL_EOS, err)))
        return false;
    if ((t->is_gpt2 || has_prefix_of(class_name, gpt2_like)) &&
        !json_is_null(json_get(config, "add_prefix_space"))) {
        if (!field_bool(&add_prefix_space, config, "add_prefix_space", false, err))
            return false;
        pre_tokenizer_set_prefix_space(t->pre_tokenizer, add_prefix_space);
    }
    return true;
}
