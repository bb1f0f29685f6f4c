/* The pre-tokenizer: a flat list of steps, each from one list of words to the next. */
#include "engine/text/pre_tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/text/byte_alphabet.h"
#include "engine/text/char_class.h"
#include "engine/text/fields.h"
#include "engine/text/pattern.h"
#include "engine/text/word_split.h"

static const char gpt2_regex[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

enum prepend_scheme { PREPEND_FIRST, PREPEND_ALWAYS, PREPEND_NEVER };

struct step {
    const struct step_kind *kind;
    struct pattern *pattern;      /* Split; ByteLevel with use_regex; Metaspace with split */
    enum split_behavior behavior; /* Split, Punctuation, Digits */
    bool invert;                  /* Split */
    bool add_prefix_space;        /* ByteLevel */
    char *replacement;            /* Metaspace */
    enum prepend_scheme prepend;  /* Metaspace */
};

/* What a run works with, kept from step to step. */
struct run {
    struct word_list out;
    struct part_list parts;
};

struct step_kind {
    const char *type;
    bool (*load)(struct step *step, const struct json *v, struct error *err); /* NULL: no fields */
    bool (*run)(const struct step *step, struct word_list *list, struct run *run,
                struct error *err);
};

struct pre_tokenizer {
    struct step *steps; /* [n_steps] */
    size_t n_steps, capacity;
};

void word_list_clear(struct word_list *list)
{
    buf_clear(&list->text);
    list->n = 0;
}

void word_list_add(struct word_list *list, size_t start, size_t n, bool is_first)
{
    list->words = array_grow(list->words, &list->capacity, list->n + 1, sizeof *list->words);
    list->words[list->n++] = (struct word){start, n, is_first};
}

void word_list_free(struct word_list *list)
{
    buf_free(&list->text);
    free(list->words);
    *list = (struct word_list){0};
}

/* The words of run->out, parts of the same text, take the place of those of list. */
static void take_words(struct word_list *list, struct run *run)
{
    struct word_list swap = *list;
    list->words = run->out.words;
    list->n = run->out.n;
    list->capacity = run->out.capacity;
    run->out.words = swap.words;
    run->out.capacity = swap.capacity;
    run->out.n = 0;
}

/* Likewise when the text is new too. */
static void take_text(struct word_list *list, struct run *run)
{
    struct buf swap = list->text;
    list->text = run->out.text;
    run->out.text = swap;
    buf_clear(&run->out.text);
    take_words(list, run);
}

static bool split_by_pattern(const struct pattern *pattern, enum split_behavior behavior,
                             bool invert, struct word_list *list, struct run *run,
                             struct error *err)
{
    for (size_t i = 0; i < list->n; i++) {
        const struct word *word = &list->words[i];
        if (!parts_by_pattern(&run->parts, pattern, list->text.data + word->start, word->n, err))
            return false;
        split_parts(&run->parts, behavior, invert, word, &run->out);
    }
    take_words(list, run);
    return true;
}

static bool split_by_class(bool (*is_in)(uint32_t c), enum split_behavior behavior,
                           struct word_list *list, struct run *run)
{
    for (size_t i = 0; i < list->n; i++) {
        const struct word *word = &list->words[i];
        parts_by_class(&run->parts, is_in, list->text.data + word->start, word->n);
        split_parts(&run->parts, behavior, false, word, &run->out);
    }
    take_words(list, run);
    return true;
}

static bool load_byte_level(struct step *step, const struct json *v, struct error *err)
{
    bool use_regex;
    if (!field_bool(&step->add_prefix_space, v, "add_prefix_space", true, err) ||
        !field_bool(&use_regex, v, "use_regex", true, err))
        return false;
    if (use_regex)
        step->pattern = pattern_new_regex(gpt2_regex, err);
    return !use_regex || step->pattern;
}

/* A new text in which every word that lacks the prefix begins with it, where wanted. */
static void prepend_words(struct word_list *list, struct run *run, const char *prefix,
                          enum prepend_scheme scheme)
{
    size_t n_prefix = strlen(prefix);
    for (size_t i = 0; i < list->n; i++) {
        const struct word *word = &list->words[i];
        const char *text = list->text.data + word->start;
        bool has = word->n >= n_prefix && memcmp(text, prefix, n_prefix) == 0;
        size_t start = run->out.text.len;
        if (!has && (scheme == PREPEND_ALWAYS || (scheme == PREPEND_FIRST && word->is_first)))
            buf_append(&run->out.text, prefix, n_prefix);
        buf_append(&run->out.text, text, word->n);
        word_list_add(&run->out, start, run->out.text.len - start, word->is_first);
    }
    take_text(list, run);
}

static bool run_byte_level(const struct step *step, struct word_list *list, struct run *run,
                           struct error *err)
{
    if (step->add_prefix_space)
        prepend_words(list, run, " ", PREPEND_ALWAYS);
    if (step->pattern && !split_by_pattern(step->pattern, SPLIT_ISOLATED, false, list, run, err))
        return false;
    for (size_t i = 0; i < list->n; i++) {
        const struct word *word = &list->words[i];
        size_t start = run->out.text.len;
        byte_alphabet_encode(&run->out.text, list->text.data + word->start, word->n);
        word_list_add(&run->out, start, run->out.text.len - start, word->is_first);
    }
    take_text(list, run);
    return true;
}

static bool load_behavior(struct step *step, const struct json *v, const char *fallback,
                          struct error *err)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    const char *name;
    if (!field_string(&name, v, "behavior", fallback, err))
        return false;
    for (int i = 0; name && i < 5; i++) {
        step->behavior = (enum split_behavior)i;
        if (strcmp(name, names[i]) == 0)
            return true;
    }
    return fail(err,
                "\"behavior\" is \"%.60s\" (expected Isolated, Removed, MergedWithPrevious, "
                "MergedWithNext or Contiguous)",
                name ? name : "");
}

static bool load_split(struct step *step, const struct json *v, struct error *err)
{
    if (!load_behavior(step, v, NULL, err) || !field_bool(&step->invert, v, "invert", false, err))
        return false;
    step->pattern = pattern_load(json_get(v, "pattern"), err);
    return step->pattern != NULL;
}

static bool run_split(const struct step *step, struct word_list *list, struct run *run,
                      struct error *err)
{
    return split_by_pattern(step->pattern, step->behavior, step->invert, list, run, err);
}

static bool load_digits(struct step *step, const struct json *v, struct error *err)
{
    bool individual;
    if (!field_bool(&individual, v, "individual_digits", false, err))
        return false;
    step->behavior = individual ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS;
    return true;
}

static bool run_digits(const struct step *step, struct word_list *list, struct run *run,
                       struct error *err)
{
    (void)err;
    return split_by_class(char_is_number, step->behavior, list, run);
}

static bool load_punctuation(struct step *step, const struct json *v, struct error *err)
{
    return load_behavior(step, v, "Isolated", err);
}

static bool run_punctuation(const struct step *step, struct word_list *list, struct run *run,
                            struct error *err)
{
    (void)err;
    return split_by_class(char_is_punctuation, step->behavior, list, run);
}

static bool is_neither_word_nor_space(uint32_t c)
{
    return !char_is_word(c) && !char_is_space(c);
}

/* \w+|[^\w\s]+: drop the spaces, then runs of one kind and of the other. */
static bool run_whitespace(const struct step *step, struct word_list *list, struct run *run,
                           struct error *err)
{
    (void)step, (void)err;
    return split_by_class(char_is_space, SPLIT_REMOVED, list, run) &&
           split_by_class(is_neither_word_nor_space, SPLIT_CONTIGUOUS, list, run);
}

static bool run_whitespace_split(const struct step *step, struct word_list *list, struct run *run,
                                 struct error *err)
{
    (void)step, (void)err;
    return split_by_class(char_is_space, SPLIT_REMOVED, list, run);
}

static bool load_metaspace(struct step *step, const struct json *v, struct error *err)
{
    const char *replacement, *scheme;
    bool old_prefix, split;
    if (!field_string(&replacement, v, "replacement", "\xE2\x96\x81", err) ||
        !field_string(&scheme, v, "prepend_scheme", "always", err) ||
        !field_bool(&old_prefix, v, "add_prefix_space", true, err) ||
        !field_bool(&split, v, "split", true, err))
        return false;
    int len = 0;
    if (*replacement)
        char_at(replacement, strlen(replacement), &len);
    if (!len || replacement[len])
        return fail(err, "\"replacement\" is not one character");
    step->replacement = xstrdup(replacement);
    if (!old_prefix || strcmp(scheme, "never") == 0)
        step->prepend = PREPEND_NEVER;
    else if (strcmp(scheme, "first") == 0)
        step->prepend = PREPEND_FIRST;
    else if (strcmp(scheme, "always") == 0)
        step->prepend = PREPEND_ALWAYS;
    else
        return fail(err, "\"prepend_scheme\" is \"%.60s\" (expected first, always or never)",
                    scheme);
    if (split)
        step->pattern = pattern_new_literal(replacement, err);
    return true;
}

static bool run_metaspace(const struct step *step, struct word_list *list, struct run *run,
                          struct error *err)
{
    size_t n_replacement = strlen(step->replacement);
    for (size_t i = 0; i < list->n; i++) {
        const struct word *word = &list->words[i];
        const char *at = list->text.data + word->start, *end = at + word->n;
        size_t start = run->out.text.len;
        while (at < end) {
            const char *space = memchr(at, ' ', (size_t)(end - at));
            buf_append(&run->out.text, at, (size_t)((space ? space : end) - at));
            if (space)
                buf_append(&run->out.text, step->replacement, n_replacement);
            at = space ? space + 1 : end;
        }
        word_list_add(&run->out, start, run->out.text.len - start, word->is_first);
    }
    take_text(list, run);
    if (step->prepend != PREPEND_NEVER)
        prepend_words(list, run, step->replacement, step->prepend);
    return !step->pattern ||
           split_by_pattern(step->pattern, SPLIT_MERGED_WITH_NEXT, false, list, run, err);
}

static const struct step_kind kinds[] = {
    {"ByteLevel", load_byte_level, run_byte_level},
    {"Split", load_split, run_split},
    {"Digits", load_digits, run_digits},
    {"Punctuation", load_punctuation, run_punctuation},
    {"Whitespace", NULL, run_whitespace},
    {"WhitespaceSplit", NULL, run_whitespace_split},
    {"Metaspace", load_metaspace, run_metaspace},
};

static struct step *add_step(struct pre_tokenizer *p, const struct step_kind *kind)
{
    p->steps = array_grow(p->steps, &p->capacity, p->n_steps + 1, sizeof *p->steps);
    struct step *step = &p->steps[p->n_steps++];
    *step = (struct step){.kind = kind};
    return step;
}

static bool add_steps(struct pre_tokenizer *p, const struct json *v, struct error *err);

static bool add_sequence(struct pre_tokenizer *p, const struct json *v, struct error *err)
{
    const struct json *list = json_get(v, "pretokenizers");
    if (!json_is_array(list))
        return fail(err, "Sequence: \"pretokenizers\" is not a list");
    for (const struct json *item = json_first(list); item; item = json_next(item))
        if (!add_steps(p, item, err))
            return false;
    return true;
}

static bool add_steps(struct pre_tokenizer *p, const struct json *v, struct error *err)
{
    const char *type = field_type(v, "pre_tokenizer", err);
    if (!type)
        return false;
    if (strcmp(type, "Sequence") == 0)
        return add_sequence(p, v, err);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(type, kinds[i].type) == 0) {
            struct step *step = add_step(p, &kinds[i]);
            return !kinds[i].load || kinds[i].load(step, v, err) || fail_prefix(err, "%s", type);
        }
    return fail(err, "unknown type \"%.60s\"", type);
}

struct pre_tokenizer *pre_tokenizer_load(const struct json *v, struct error *err)
{
    struct pre_tokenizer *p = xcalloc(1, sizeof *p);
    if (json_is_null(v) || add_steps(p, v, err))
        return p;
    fail_prefix(err, "pre_tokenizer");
    pre_tokenizer_free(p);
    return NULL;
}

struct pre_tokenizer *pre_tokenizer_byte_level(bool add_prefix_space, struct error *err)
{
    struct pre_tokenizer *p = xcalloc(1, sizeof *p);
    struct step *step = add_step(p, &kinds[0]);
    step->add_prefix_space = add_prefix_space;
    step->pattern = pattern_new_regex(gpt2_regex, err);
    if (step->pattern)
        return p;
    pre_tokenizer_free(p);
    return NULL;
}

void pre_tokenizer_free(struct pre_tokenizer *p)
{
    if (!p)
        return;
    for (size_t i = 0; i < p->n_steps; i++) {
        pattern_free(p->steps[i].pattern);
        free(p->steps[i].replacement);
    }
    free(p->steps);
    free(p);
}

void pre_tokenizer_set_prefix_space(struct pre_tokenizer *p, bool add_prefix_space)
{
    for (size_t i = 0; i < p->n_steps; i++)
        if (p->steps[i].kind == &kinds[0])
            p->steps[i].add_prefix_space = add_prefix_space;
}

bool pre_tokenizer_run(const struct pre_tokenizer *p, struct word_list *list, struct error *err)
{
    struct run run = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < p->n_steps; i++)
        ok = p->steps[i].kind->run(&p->steps[i], list, &run, err);
    word_list_free(&run.out);
    part_list_free(&run.parts);
    return ok;
}
