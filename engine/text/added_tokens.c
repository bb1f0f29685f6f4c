/* Added tokens: a sorted list of spellings, searched at every place where one may begin.
 *
 * The longest spelling that the text begins with is, of all spellings not after the text in byte
 * order, the last one or one of that one's own beginnings; so a binary search and a short walk
 * find it however many tokens there are. */
#include "engine/text/added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/text/char_class.h"
#include "engine/text/fields.h"

struct spelling {
    char *text; /* [n], owned: normalized where the token is */
    size_t n;
    int parent; /* the longest other spelling that this one begins with, or -1 */
    const struct added_token *token;
};

struct added_matcher {
    struct spelling *spellings; /* [n], sorted by bytes, no two alike */
    int n;
    int starts[257]; /* of those whose first byte is the index or greater */
};

struct added_tokens {
    struct added_token *tokens; /* [n] */
    size_t n, capacity;
    struct added_matcher raw, normalized;
};

struct added_tokens *added_tokens_new(void)
{
    return xcalloc(1, sizeof(struct added_tokens));
}

static void matcher_free(struct added_matcher *m)
{
    for (int i = 0; i < m->n; i++)
        free(m->spellings[i].text);
    free(m->spellings);
}

void added_tokens_free(struct added_tokens *added)
{
    if (!added)
        return;
    for (size_t i = 0; i < added->n; i++)
        free(added->tokens[i].content);
    free(added->tokens);
    matcher_free(&added->raw);
    matcher_free(&added->normalized);
    free(added);
}

bool added_tokens_put(struct added_tokens *added, struct added_token token,
                      struct vocabulary *vocab, struct error *err)
{
    const struct token *known = vocabulary_by_id(vocab, token.id);
    bool is_known = known && strcmp(known->text, token.content) == 0;
    int32_t at = is_known ? known->added_at : -1;
    bool ok = at >= 0 || added->n < MAX_ADDED_TOKENS ||
              fail(err, "more than %d added tokens", MAX_ADDED_TOKENS);
    if (!ok || (!is_known && !vocabulary_add(vocab, token.content, token.id, false, err))) {
        free(token.content);
        return false;
    }
    if (at < 0) {
        at = (int32_t)added->n++;
        added->tokens = array_grow(added->tokens, &added->capacity, added->n, sizeof token);
    } else {
        free(added->tokens[at].content);
    }
    added->tokens[at] = token;
    vocabulary_set_added(vocab, token.id, at, token.special);
    return true;
}

bool added_tokens_load(struct added_tokens *added, const struct json *v, int64_t id,
                       struct vocabulary *vocab, struct error *err)
{
    const char *content;
    struct added_token token = {0};
    if (!field_string(&content, v, "content", NULL, err))
        return false;
    if (!content)
        return fail(err, "an added token has no \"content\"");
    if (id < 0 || id >= MAX_TOKEN_ID)
        return fail(err, "added token \"%.60s\" has no id from 0 to %d", content, MAX_TOKEN_ID - 1);
    if (!*content)
        return true; /* matches nothing, and the reference ignores it */
    if (!field_bool(&token.special, v, "special", false, err) ||
        !field_bool(&token.single_word, v, "single_word", false, err) ||
        !field_bool(&token.lstrip, v, "lstrip", false, err) ||
        !field_bool(&token.rstrip, v, "rstrip", false, err) ||
        !field_bool(&token.normalized, v, "normalized", !token.special, err))
        return fail_prefix(err, "added token \"%.60s\"", content);
    token.content = xstrdup(content);
    token.id = (int32_t)id;
    return added_tokens_put(added, token, vocab, err);
}

/* By bytes; alike ones in the reference's order: special tokens first, then as they were added. */
static int compare_spellings(const void *a, const void *b)
{
    const struct spelling *x = a, *y = b;
    int order = memcmp(x->text, y->text, x->n < y->n ? x->n : y->n);
    if (order == 0 && x->n != y->n)
        order = x->n < y->n ? -1 : 1;
    if (order == 0 && x->token->special != y->token->special)
        order = x->token->special ? -1 : 1;
    if (order == 0)
        order = x->token < y->token ? -1 : x->token > y->token;
    return order;
}

static bool begins_with(const struct spelling *long_one, const struct spelling *short_one)
{
    return long_one->n >= short_one->n &&
           memcmp(long_one->text, short_one->text, short_one->n) == 0;
}

/* Sorts, drops doubles, and fills parents and starts. */
static void matcher_finish(struct added_matcher *m)
{
    if (m->n)
        qsort(m->spellings, (size_t)m->n, sizeof *m->spellings, compare_spellings);
    int kept = 0;
    for (int i = 0; i < m->n; i++) {
        struct spelling *last = kept ? &m->spellings[kept - 1] : NULL;
        if (last && last->n == m->spellings[i].n && begins_with(last, &m->spellings[i]))
            free(m->spellings[i].text);
        else
            m->spellings[kept++] = m->spellings[i];
    }
    m->n = kept;
    for (int i = 0; i < m->n; i++) {
        struct spelling *spelling = &m->spellings[i];
        spelling->parent = i - 1;
        while (spelling->parent >= 0 && !begins_with(spelling, &m->spellings[spelling->parent]))
            spelling->parent = m->spellings[spelling->parent].parent;
        m->starts[(unsigned char)spelling->text[0] + 1]++;
    }
    for (int byte = 0; byte < 256; byte++)
        m->starts[byte + 1] += m->starts[byte];
}

/* Adds the spelling of a token to a matcher; an empty one would match everywhere. */
static void add_spelling(struct added_matcher *m, const struct added_token *token, struct buf *text)
{
    size_t n = text->len;
    if (n)
        m->spellings[m->n++] = (struct spelling){.text = buf_take(text), .n = n, .token = token};
}

bool added_tokens_build(struct added_tokens *added, const struct normalizer *normalizer,
                        struct vocabulary *vocab, struct error *err)
{
    bool ok = true;
    added->raw.spellings = xcalloc(added->n, sizeof *added->raw.spellings);
    added->normalized.spellings = xcalloc(added->n, sizeof *added->normalized.spellings);
    for (size_t i = 0; ok && i < added->n; i++) {
        const struct added_token *token = &added->tokens[i];
        struct buf text = {0};
        if (!token->normalized) {
            buf_append_str(&text, token->content);
            add_spelling(&added->raw, token, &text);
        } else {
            ok = normalizer_run(normalizer, token->content, strlen(token->content), &text, err);
            if (ok)
                vocabulary_set_decoded(vocab, token->id, text.data, text.len);
            add_spelling(&added->normalized, token, &text);
        }
        buf_free(&text);
    }
    matcher_finish(&added->raw);
    matcher_finish(&added->normalized);
    return ok;
}

/* The longest spelling that text [n] begins with, or NULL. */
static const struct spelling *longest_at(const struct added_matcher *m, const char *text, size_t n)
{
    int low = m->starts[(unsigned char)*text], high = m->starts[(unsigned char)*text + 1];
    int first = low;
    while (low < high) { /* to the first spelling after the text in byte order */
        int middle = low + (high - low) / 2;
        const struct spelling *s = &m->spellings[middle];
        int order = memcmp(s->text, text, s->n < n ? s->n : n);
        if (order < 0 || (order == 0 && s->n <= n))
            low = middle + 1;
        else
            high = middle;
    }
    if (low == first)
        return NULL;
    int found = low - 1;
    while (found >= 0 && (m->spellings[found].n > n ||
                          memcmp(m->spellings[found].text, text, m->spellings[found].n) != 0))
        found = m->spellings[found].parent;
    return found >= 0 ? &m->spellings[found] : NULL;
}

void added_walk_start(struct added_walk *w, const struct added_tokens *added, bool normalized,
                      bool avoid_special, const char *text, size_t n)
{
    *w = (struct added_walk){.matcher = normalized ? &added->normalized : &added->raw,
                             .text = text,
                             .n = n,
                             .avoid_special = avoid_special};
}

static bool touches_word(const struct added_walk *w, size_t start, size_t end)
{
    int len;
    return (start > 0 && char_is_word(char_before(w->text, start, &len))) ||
           (end < w->n && char_is_word(char_at(w->text + end, w->n - end, &len)));
}

/* Widens the match by white space, on the left no further than the last match. */
static void swallow_space(struct added_walk *w, const struct added_token *token, size_t last_end)
{
    int len;
    if (token->lstrip) {
        while (w->start > 0 && char_is_space(char_before(w->text, w->start, &len)))
            w->start -= (size_t)len;
        if (w->start < last_end)
            w->start = last_end;
    }
    while (token->rstrip && w->end < w->n &&
           char_is_space(char_at(w->text + w->end, w->n - w->end, &len)))
        w->end += (size_t)len;
}

bool added_walk_next(struct added_walk *w)
{
    const struct added_matcher *m = w->matcher;
    size_t last_end = w->end;
    while (m->n && w->at < w->n) {
        unsigned char first = (unsigned char)w->text[w->at];
        const struct spelling *found = NULL;
        if (m->starts[first] != m->starts[first + 1])
            found = longest_at(m, w->text + w->at, w->n - w->at);
        if (!found) {
            w->at++;
            continue;
        }
        size_t start = w->at, end = start + found->n;
        w->at = end;
        if (w->avoid_special && found->token->special)
            continue;
        if (found->token->single_word && touches_word(w, start, end))
            continue;
        w->start = start;
        w->end = end;
        w->id = found->token->id;
        swallow_space(w, found->token, last_end);
        return true;
    }
    return false;
}
