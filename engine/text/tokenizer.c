/* Encoding: the raw text is cut at added tokens, what lies between is normalized and cut again,
 * what lies between then goes through the pre-tokenizer to the model, word by word. */
#include "engine/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/base/utf8.h"
#include "engine/text/tokenizer_parts.h"

void token_list_add(struct token_list *list, int32_t id)
{
    list->ids = array_grow(list->ids, &list->capacity, list->n + 1, sizeof *list->ids);
    list->ids[list->n++] = id;
}

void token_list_append(struct token_list *list, const int32_t *ids, size_t n)
{
    if (!n)
        return;
    list->ids = array_grow(list->ids, &list->capacity, list->n + n, sizeof *list->ids);
    memcpy(list->ids + list->n, ids, n * sizeof *ids);
    list->n += n;
}

void token_list_free(struct token_list *list)
{
    free(list->ids);
    *list = (struct token_list){0};
}

void tokenizer_close(struct tokenizer *t)
{
    if (!t)
        return;
    bpe_free(t->bpe);
    added_tokens_free(t->added);
    vocabulary_free(t->vocab);
    normalizer_free(t->normalizer);
    pre_tokenizer_free(t->pre_tokenizer);
    post_processor_free(&t->post_processor);
    decoder_free(t->decoder);
    for (int i = 0; i < N_SPECIAL_TOKENS; i++)
        free(t->special[i]);
    free(t);
}

/* One call of tokenizer_encode. */
struct encoding {
    const struct tokenizer *t;
    bool avoid_special;
    struct buf normalized;
    struct word_list words;
    struct bpe_scratch scratch;
    struct token_list *out;
    struct error *err;
};

static bool encode_words(struct encoding *e, const char *text, size_t n, bool is_first)
{
    struct word_list *words = &e->words;
    word_list_clear(words);
    buf_append(&words->text, text, n);
    word_list_add(words, 0, n, is_first);
    if (!pre_tokenizer_run(e->t->pre_tokenizer, words, e->err))
        return false;
    for (size_t i = 0; i < words->n; i++)
        bpe_encode(e->t->bpe, words->text.data + words->words[i].start, words->words[i].n,
                   e->avoid_special, &e->scratch, e->out);
    return true;
}

/* The text between added tokens that are looked for in the raw text. */
static bool encode_piece(struct encoding *e, const char *text, size_t n, bool is_first)
{
    buf_clear(&e->normalized);
    if (!normalizer_run(e->t->normalizer, text, n, &e->normalized, e->err))
        return false;
    const char *normalized = e->normalized.data;
    size_t n_normalized = e->normalized.len, done = 0;
    struct added_walk walk;
    added_walk_start(&walk, e->t->added, true, e->avoid_special, normalized, n_normalized);
    while (added_walk_next(&walk)) {
        if (done < walk.start &&
            !encode_words(e, normalized + done, walk.start - done, is_first && done == 0))
            return false;
        token_list_add(e->out, walk.id);
        done = walk.end;
    }
    return done >= n_normalized ||
           encode_words(e, normalized + done, n_normalized - done, is_first && done == 0);
}

static bool encode_text(struct encoding *e, const char *text, size_t n)
{
    struct added_walk walk;
    size_t done = 0;
    added_walk_start(&walk, e->t->added, false, e->avoid_special, text, n);
    while (added_walk_next(&walk)) {
        if (done < walk.start && !encode_piece(e, text + done, walk.start - done, done == 0))
            return false;
        token_list_add(e->out, walk.id);
        done = walk.end;
    }
    return done >= n || encode_piece(e, text + done, n - done, done == 0);
}

/* Appends text [n] with each broken part replaced. */
static void repair_utf8(struct buf *out, const char *text, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t n_good;
        if (utf8_valid(text + i, n - i, &n_good))
            n_good = n - i;
        buf_append(out, text + i, n_good);
        i += n_good;
        if (i == n)
            break;
        uint32_t c;
        int n_bad;
        bool unfinished = utf8_decode(text + i, n - i, &c, &n_bad) < 0;
        buf_append_utf8(out, UTF8_REPLACEMENT);
        i += unfinished ? n - i : (size_t)n_bad;
    }
}

bool tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, int flags,
                      struct token_list *out, struct error *err)
{
    if (n > MAX_TOKENIZER_TEXT_BYTES)
        return fail_code(err, EXIT_CODE_RUNTIME,
                         "a text of %zu bytes is too long for the tokenizer (at most %zu)", n,
                         MAX_TOKENIZER_TEXT_BYTES);
    struct encoding e = {
        .t = t, .avoid_special = !(flags & TOKENIZE_SPECIAL), .out = out, .err = err};
    struct buf repaired = {0};
    size_t n_before = out->n;
    if (flags & TOKENIZE_ADD_BOS_EOS)
        token_list_append(out, t->post_processor.before.ids, t->post_processor.before.n);
    bool is_valid = utf8_valid(text, n, NULL);
    if (!is_valid)
        repair_utf8(&repaired, text, n);
    bool ok = is_valid ? encode_text(&e, text, n) : encode_text(&e, repaired.data, repaired.len);
    if (ok && flags & TOKENIZE_ADD_BOS_EOS)
        token_list_append(out, t->post_processor.after.ids, t->post_processor.after.n);
    if (!ok)
        out->n = n_before;
    buf_free(&repaired);
    buf_free(&e.normalized);
    word_list_free(&e.words);
    bpe_scratch_free(&e.scratch);
    return ok;
}

const char *tokenizer_piece(const struct tokenizer *t, int32_t id)
{
    const struct token *token = vocabulary_by_id(t->vocab, id);
    return token ? token->text : NULL;
}

int32_t tokenizer_find(const struct tokenizer *t, const char *piece)
{
    const struct token *token = vocabulary_by_text(t->vocab, piece, strlen(piece));
    return token ? token->id : -1;
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    const struct token *token = vocabulary_by_id(t->vocab, id);
    return token && token->special;
}

int32_t tokenizer_vocab_size(const struct tokenizer *t)
{
    return vocabulary_id_end(t->vocab);
}

const char *tokenizer_special(const struct tokenizer *t, const char *name)
{
    static const char *const names[N_SPECIAL_TOKENS] = {"bos_token", "eos_token", "unk_token",
                                                        "pad_token"};
    for (int i = 0; i < N_SPECIAL_TOKENS; i++)
        if (strcmp(name, names[i]) == 0)
            return t->special[i];
    return NULL;
}
