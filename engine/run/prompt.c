#include "engine/run/prompt.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/memory.h"
#include "engine/base/utf8.h"

static const char separator[] = "\n\n";

/* --- The format of a model ---------------------------------------------------------------- */

/* The ids that the tokenizer's post-processor puts in front of a text: BOS, or none. */
static bool leading_ids(const struct tokenizer *t, struct token_list *out, struct error *err)
{
    struct token_list plain = {0}, processed = {0};
    bool ok = tokenizer_encode(t, "a", 1, TOKENIZE_PLAIN, &plain, err) &&
              tokenizer_encode(t, "a", 1, TOKENIZE_ADD_BOS_EOS, &processed, err);
    size_t n = 0;
    while (ok && plain.n && n < processed.n && processed.ids[n] != plain.ids[0])
        n++;
    if (n < processed.n)
        token_list_append(out, processed.ids, n);
    token_list_free(&plain);
    token_list_free(&processed);
    return ok;
}

/* Exactly one BOS: the template's own, or else the one that the tokenizer would add. */
static void add_prefix(struct token_list *prefix, const struct token_list *leading,
                       const struct token_list *text)
{
    size_t skip = 0;
    if (leading->n) {
        while (skip < text->n && text->ids[skip] == leading->ids[0])
            skip++;
        token_list_append(prefix, leading->ids, leading->n);
    }
    token_list_append(prefix, text->ids + skip, text->n - skip);
}

bool prompt_format_init(struct prompt_format *out, const struct tokenizer *tokenizer,
                        const struct chat_template *chat, struct error *err)
{
    struct buf prefix = {0}, suffix = {0};
    struct token_list leading = {0}, text = {0};
    struct chat_special_tokens special = {
        .bos = tokenizer_special(tokenizer, "bos_token"),
        .eos = tokenizer_special(tokenizer, "eos_token"),
        .unk = tokenizer_special(tokenizer, "unk_token"),
        .pad = tokenizer_special(tokenizer, "pad_token"),
    };
    memset(out, 0, sizeof *out);
    out->tokenizer = tokenizer;
    out->chat = chat != NULL;
    bool ok = chat_template_frame(chat, &special, (long long)time(NULL), &prefix, &suffix, err) &&
              tokenizer_encode(tokenizer, prefix.data ? prefix.data : "", prefix.len,
                               TOKENIZE_SPECIAL, &text, err) &&
              tokenizer_encode(tokenizer, suffix.data ? suffix.data : "", suffix.len,
                               TOKENIZE_SPECIAL, &out->suffix, err) &&
              tokenizer_encode(tokenizer, separator, strlen(separator), TOKENIZE_PLAIN,
                               &out->separator, err) &&
              leading_ids(tokenizer, &leading, err);
    if (ok)
        add_prefix(&out->prefix, &leading, &text);
    else
        prompt_format_free(out);
    token_list_free(&leading);
    token_list_free(&text);
    buf_free(&prefix);
    buf_free(&suffix);
    return ok;
}

void prompt_format_free(struct prompt_format *f)
{
    token_list_free(&f->prefix);
    token_list_free(&f->suffix);
    token_list_free(&f->separator);
}

/* --- The tokens of a request -------------------------------------------------------------- */

static void notice_add(struct buf *notice, const char *sentence)
{
    if (notice->len)
        buf_append_str(notice, "; ");
    buf_append_str(notice, sentence);
}

static void notice_utf8(struct buf *notice, const char *what, const char *text, size_t n)
{
    size_t bad_at = 0;
    if (utf8_valid(text, n, &bad_at))
        return;
    struct buf sentence = {0};
    buf_printf(&sentence,
               "the %s holds broken UTF-8 (first at byte %zu), read as replacement characters",
               what, bad_at);
    notice_add(notice, sentence.data);
    buf_free(&sentence);
}

static bool encode_context(const struct prompt_format *f, const struct request *r,
                           struct token_list *body, struct error *err)
{
    if (r->n_context == 0)
        return true;
    struct buf joined = {0};
    buf_append(&joined, r->context, r->n_context);
    buf_append_str(&joined, separator);
    bool ok = tokenizer_encode(f->tokenizer, joined.data, joined.len, TOKENIZE_PLAIN, body, err);
    buf_free(&joined);
    return ok;
}

static bool encode_question(const struct prompt_format *f, const char *question,
                            const char *answer_prefix, struct token_list *out, struct error *err)
{
    if (!answer_prefix)
        answer_prefix = "";
    if (f->chat) {
        if (!tokenizer_encode(f->tokenizer, question, strlen(question), TOKENIZE_PLAIN, out, err))
            return false;
        token_list_append(out, f->suffix.ids, f->suffix.n);
        return !*answer_prefix || tokenizer_encode(f->tokenizer, answer_prefix,
                                                   strlen(answer_prefix), TOKENIZE_PLAIN, out, err);
    }
    /* A base model goes on with the text: the answer's beginning is part of it. */
    struct buf joined = {0};
    buf_append_str(&joined, question);
    buf_append_str(&joined, answer_prefix);
    bool ok = tokenizer_encode(f->tokenizer, joined.data ? joined.data : "", joined.len,
                               TOKENIZE_PLAIN, out, err);
    buf_free(&joined);
    return ok;
}

/* Keeps n_kept of body's tokens by the policy; where the end goes, the separator goes back. */
static void cut(struct token_list *body, int n_kept, enum keep keep,
                const struct token_list *separator_ids)
{
    size_t n = body->n, kept = (size_t)n_kept;
    if (keep == KEEP_HEAD) {
        size_t n_head = kept > separator_ids->n ? kept - separator_ids->n : 0;
        body->n = n_head;
        token_list_append(body, separator_ids->ids, kept - n_head);
        return;
    }
    size_t n_head = keep == KEEP_MIDDLE_CUT ? kept / 2 : 0;
    size_t n_tail = kept - n_head;
    memmove(body->ids + n_head, body->ids + n - n_tail, n_tail * sizeof *body->ids);
    body->n = kept;
}

static const char *keep_words(enum keep keep)
{
    return keep == KEEP_HEAD   ? "its beginning was kept"
           : keep == KEEP_TAIL ? "its end was kept"
                               : "its beginning and end were kept";
}

/* Cuts body to what the request allows and the window holds. */
static bool fit_context(struct prompt *p, const struct prompt_format *f, const struct request *r,
                        struct token_list *body, int max_seq_len, int max_tokens,
                        struct buf *notice, struct error *err)
{
    size_t n_question = 0;
    for (int i = 0; i < p->n_questions; i++)
        if (p->questions[i].n > n_question)
            n_question = p->questions[i].n;
    long long room =
        (long long)max_seq_len - max_tokens - (long long)n_question - (long long)f->prefix.n;
    if (room < 0)
        return fail_code(err, EXIT_CODE_USAGE,
                         "the question (%zu tokens) and an answer of up to %d do not fit the "
                         "model's window of %d tokens: %lld too many; shorten the question or "
                         "lower --max-tokens",
                         n_question, max_tokens, max_seq_len, -room);
    long long wanted = (long long)body->n;
    if (r->max_context > 0 && wanted > r->max_context)
        wanted = r->max_context;
    if (wanted > room && !r->keep_given)
        return fail_code(err, EXIT_CODE_USAGE,
                         "the context of %zu tokens is %lld too long: with the question (%zu) and "
                         "up to %d tokens of answer, %lld fit the model's window of %d; shorten "
                         "it, or cut it with --keep head|tail|middle (and --max-context N)",
                         body->n, wanted - room, n_question, max_tokens, room, max_seq_len);
    if (wanted > room)
        wanted = room;
    if (wanted == (long long)body->n)
        return true;
    p->n_cut = (int)((long long)body->n - wanted);
    struct buf sentence = {0};
    buf_printf(&sentence, "%d of the context's %zu tokens were left out, %s", p->n_cut, body->n,
               keep_words(r->keep));
    notice_add(notice, sentence.data);
    buf_free(&sentence);
    cut(body, (int)wanted, r->keep, &f->separator);
    return true;
}

/* The question pass needs a row to answer from: the context's last token, if the question has
 * none of its own. */
static bool fill_empty_questions(struct prompt *p, struct error *err)
{
    bool any = false;
    for (int i = 0; i < p->n_questions; i++)
        any = any || p->questions[i].n == 0;
    if (!any)
        return true;
    if (p->context.n == 0)
        return fail_code(err, EXIT_CODE_USAGE,
                         "context and question are both empty: there is nothing to go on from");
    int32_t last = p->context.ids[--p->context.n];
    for (int i = 0; i < p->n_questions; i++) {
        struct token_list with_last = {0};
        token_list_add(&with_last, last);
        token_list_append(&with_last, p->questions[i].ids, p->questions[i].n);
        token_list_free(&p->questions[i]);
        p->questions[i] = with_last;
    }
    return true;
}

bool prompt_build(struct prompt *out, const struct prompt_format *format,
                  const struct request *request, int max_seq_len, int max_tokens, struct error *err)
{
    struct token_list body = {0};
    struct buf notice = {0};
    memset(out, 0, sizeof *out);
    if (request->n_questions == 0)
        return fail_code(err, EXIT_CODE_USAGE, "the request has no question; add one");
    out->n_questions = request->n_questions;
    out->questions = xcalloc((size_t)out->n_questions, sizeof *out->questions);

    bool ok = encode_context(format, request, &body, err);
    for (int i = 0; ok && i < out->n_questions; i++) {
        ok = encode_question(format, request->questions[i], request->answer_prefix,
                             &out->questions[i], err);
        notice_utf8(&notice, "question", request->questions[i], strlen(request->questions[i]));
    }
    notice_utf8(&notice, "context", request->context ? request->context : "", request->n_context);
    ok = ok && fit_context(out, format, request, &body, max_seq_len, max_tokens, &notice, err);
    if (ok) {
        token_list_append(&out->context, format->prefix.ids, format->prefix.n);
        token_list_append(&out->context, body.ids, body.n);
        ok = fill_empty_questions(out, err);
    }
    if (ok && notice.len)
        out->notice = buf_take(&notice);
    if (!ok)
        prompt_free(out);
    token_list_free(&body);
    buf_free(&notice);
    return ok;
}

void prompt_free(struct prompt *p)
{
    token_list_free(&p->context);
    for (int i = 0; i < p->n_questions; i++)
        token_list_free(&p->questions[i]);
    free(p->questions);
    free(p->notice);
    memset(p, 0, sizeof *p);
}
