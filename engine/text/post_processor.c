/* The post-processor: kinds come down to ids before and after the text. */
#include "engine/text/post_processor.h"

#include <inttypes.h>
#include <string.h>

#include "engine/text/fields.h"

static bool check_id(const struct json *v, const struct vocabulary *vocab, int32_t *id,
                     struct error *err)
{
    int64_t value = 0;
    if (!json_int(v, 0, MAX_TOKEN_ID - 1, &value))
        return fail(err, "a token id is not an integer from 0 to %d", MAX_TOKEN_ID - 1);
    if (!vocabulary_by_id(vocab, value))
        return fail(err, "id %" PRId64 " belongs to no token", value);
    *id = (int32_t)value;
    return true;
}

/* New ids go around what earlier processors of a sequence put there. */
static void wrap(struct post_processor *p, struct post_processor *outer)
{
    token_list_append(&outer->before, p->before.ids, p->before.n);
    token_list_append(&p->after, outer->after.ids, outer->after.n);
    token_list_free(&p->before);
    token_list_free(&outer->after);
    p->before = outer->before;
}

/* The ids of {"SpecialToken": {"id": "<s>"}} as listed under "special_tokens". */
static bool add_special(struct token_list *list, const struct json *item,
                        const struct json *special_tokens, const struct vocabulary *vocab,
                        struct error *err)
{
    const char *name = json_string(json_get(item, "id"));
    if (!name)
        return fail(err, "a SpecialToken has no \"id\"");
    const struct json *ids = json_get(json_get(special_tokens, name), "ids");
    if (!json_is_array(ids))
        return fail(err, "\"%.60s\" has no list of ids in \"special_tokens\"", name);
    for (const struct json *v = json_first(ids); v; v = json_next(v)) {
        int32_t id = 0;
        if (!check_id(v, vocab, &id, err))
            return false;
        token_list_add(list, id);
    }
    return true;
}

static bool load_template(struct post_processor *p, const struct json *v,
                          const struct vocabulary *vocab, struct error *err)
{
    const struct json *single = json_get(v, "single");
    int n_texts = 0;
    if (!json_is_array(single))
        return fail(err, "\"single\" is not a list");
    for (const struct json *item = json_first(single); item; item = json_next(item)) {
        const struct json *special = json_get(item, "SpecialToken");
        const char *sequence = json_string(json_get(json_get(item, "Sequence"), "id"));
        if (special) {
            if (!add_special(n_texts ? &p->after : &p->before, special,
                             json_get(v, "special_tokens"), vocab, err))
                return false;
        } else if (sequence && strcmp(sequence, "A") == 0) {
            n_texts++;
        } else {
            return fail(err, "\"single\" holds something that is neither a SpecialToken nor the "
                             "Sequence A");
        }
    }
    return n_texts == 1 ||
           fail(err, "\"single\" holds the Sequence A %d times (expected once)", n_texts);
}

/* "cls" and "sep" are ["<s>", 0]. */
static bool load_cls_sep(struct post_processor *p, const struct json *v,
                         const struct vocabulary *vocab, struct error *err)
{
    static const char *const keys[] = {"cls", "sep"};
    for (int i = 0; i < 2; i++) {
        const struct json *pair = json_get(v, keys[i]);
        const struct json *name = json_first(pair);
        int32_t id = 0;
        if (!json_is_array(pair) || !json_is_string(name))
            return fail(err, "\"%s\" is not [token, id]", keys[i]);
        if (!check_id(json_next(name), vocab, &id, err))
            return fail_prefix(err, "\"%s\"", keys[i]);
        token_list_add(i == 0 ? &p->before : &p->after, id);
    }
    return true;
}

static bool load_byte_level(struct post_processor *p, const struct json *v,
                            const struct vocabulary *vocab, struct error *err)
{
    (void)p, (void)v, (void)vocab, (void)err; /* only moves offsets */
    return true;
}

static const struct {
    const char *type;
    bool (*load)(struct post_processor *p, const struct json *v, const struct vocabulary *vocab,
                 struct error *err);
} kinds[] = {
    {"TemplateProcessing", load_template},
    {"ByteLevel", load_byte_level},
    {"RobertaProcessing", load_cls_sep},
    {"BertProcessing", load_cls_sep},
};

static bool add_processor(struct post_processor *p, const struct json *v,
                          const struct vocabulary *vocab, struct error *err);

static bool add_sequence(struct post_processor *p, const struct json *v,
                         const struct vocabulary *vocab, struct error *err)
{
    const struct json *list = json_get(v, "processors");
    if (!json_is_array(list))
        return fail(err, "Sequence: \"processors\" is not a list");
    for (const struct json *item = json_first(list); item; item = json_next(item))
        if (!add_processor(p, item, vocab, err))
            return false;
    return true;
}

static bool add_processor(struct post_processor *p, const struct json *v,
                          const struct vocabulary *vocab, struct error *err)
{
    const char *type = field_type(v, "post_processor", err);
    if (!type)
        return false;
    if (strcmp(type, "Sequence") == 0)
        return add_sequence(p, v, vocab, err);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(type, kinds[i].type) != 0)
            continue;
        struct post_processor outer = {0};
        bool ok = kinds[i].load(&outer, v, vocab, err) || fail_prefix(err, "%s", type);
        wrap(p, &outer);
        return ok;
    }
    return fail(err, "unknown type \"%.60s\"", type);
}

bool post_processor_load(struct post_processor *out, const struct json *v,
                         const struct vocabulary *vocab, struct error *err)
{
    if (json_is_null(v) || add_processor(out, v, vocab, err))
        return true;
    post_processor_free(out);
    return fail_prefix(err, "post_processor");
}

void post_processor_free(struct post_processor *p)
{
    token_list_free(&p->before);
    token_list_free(&p->after);
}

static bool holds(const struct token_list *list, int32_t id)
{
    for (size_t i = 0; i < list->n; i++)
        if (list->ids[i] == id)
            return true;
    return false;
}

static void take_away(struct token_list *list, int32_t id)
{
    size_t kept = 0;
    for (size_t i = 0; i < list->n; i++)
        if (list->ids[i] != id)
            list->ids[kept++] = list->ids[i];
    list->n = kept;
}

void post_processor_set_before(struct post_processor *p, int32_t id, bool on)
{
    if (!on) {
        take_away(&p->before, id);
    } else if (!holds(&p->before, id)) {
        struct post_processor outer = {0};
        token_list_add(&outer.before, id);
        wrap(p, &outer);
    }
}

void post_processor_set_after(struct post_processor *p, int32_t id, bool on)
{
    if (!on)
        take_away(&p->after, id);
    else if (!holds(&p->after, id))
        token_list_add(&p->after, id);
}
