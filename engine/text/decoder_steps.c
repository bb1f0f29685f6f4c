/* The steps of decoders: each takes parts of tokens and holds back what may still change. */
#include <assert.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/base/utf8.h"
#include "engine/text/byte_alphabet.h"
#include "engine/text/char_class.h"
#include "engine/text/decoder_parts.h"
#include "engine/text/fields.h"

static const char replacement_text[] = "\xEF\xBF\xBD";

static void hold(struct decoder_run *run, int i, const char *s, size_t n)
{
    buf_append(&run->states[i].held, s, n);
}

static void finish_nothing(struct decoder_run *run, int i)
{
    (void)run, (void)i;
}

/* ByteLevel: characters are bytes again.  Everything becomes one token, ended only at the end. */

static void byte_level_utf8(struct decoder_run *run, int i, bool is_last)
{
    struct buf *bytes = &run->states[i].bytes;
    size_t at = 0;
    while (at < bytes->len) {
        uint32_t c;
        int n_bad = 0;
        int len = utf8_decode(bytes->data + at, bytes->len - at, &c, &n_bad);
        if (len < 0 && !is_last)
            break;
        if (len > 0) {
            decoder_text(run, i + 1, bytes->data + at, (size_t)len);
            at += (size_t)len;
        } else {
            decoder_text(run, i + 1, replacement_text, 3);
            at = len < 0 ? bytes->len : at + (size_t)n_bad;
        }
    }
    size_t left = bytes->len - at;
    if (left)
        memmove(bytes->data, bytes->data + at, left);
    bytes->len = left;
}

static void byte_level_end(struct decoder_run *run, int i)
{
    struct buf *held = &run->states[i].held, *bytes = &run->states[i].bytes;
    size_t n_before = bytes->len;
    for (size_t at = 0; at < held->len;) {
        int len;
        int byte = byte_alphabet_decode(char_at(held->data + at, held->len - at, &len));
        if (byte < 0) { /* not of the alphabet: all of the token stands for itself */
            bytes->len = n_before;
            buf_append(bytes, held->data, held->len);
            break;
        }
        buf_append_char(bytes, (char)byte);
        at += (size_t)len;
    }
    buf_clear(held);
    byte_level_utf8(run, i, false);
}

static void byte_level_finish(struct decoder_run *run, int i)
{
    byte_level_utf8(run, i, true);
    decoder_end(run, i + 1);
}

/* Replace, inside one token. */

static bool replace_load(struct decoder_step *step, const struct json *v, struct error *err)
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

static void replace_end(struct decoder_run *run, int i)
{
    const struct decoder_step *step = decoder_step_at(run, i);
    struct buf *held = &run->states[i].held;
    struct buf replaced = {0};
    if (held->len) {
        /* An expression that gives up on a token leaves it as it is. */
        if (pattern_replace(step->pattern, held->data, held->len, step->content, &replaced, NULL))
            decoder_text(run, i + 1, replaced.data, replaced.len);
        else
            decoder_text(run, i + 1, held->data, held->len);
    }
    buf_free(&replaced);
    buf_clear(held);
    decoder_end(run, i + 1);
}

/* The longest end of s [n] that literal [n_literal] may go on from. */
static size_t partial_match(const char *s, size_t n, const char *literal, size_t n_literal)
{
    size_t len = n < n_literal - 1 ? n : n_literal - 1;
    while (len && memcmp(s + n - len, literal, len) != 0)
        len--;
    return len;
}

/* A literal need not wait for the end of the token, which after Fuse is the end of the text. */
static void replace_text(struct decoder_run *run, int i, const char *s, size_t n)
{
    const struct decoder_step *step = decoder_step_at(run, i);
    struct buf *held = &run->states[i].held;
    const char *literal = pattern_literal(step->pattern);
    buf_append(held, s, n);
    if (!literal)
        return;
    size_t n_literal = strlen(literal), at = 0;
    const char *found;
    while ((found = memmem(held->data + at, held->len - at, literal, n_literal))) {
        size_t start = (size_t)(found - held->data);
        decoder_text(run, i + 1, held->data + at, start - at);
        decoder_text(run, i + 1, step->content, strlen(step->content));
        at = start + n_literal;
    }
    size_t keep = partial_match(held->data + at, held->len - at, literal, n_literal);
    decoder_text(run, i + 1, held->data + at, held->len - at - keep);
    memmove(held->data, held->data + held->len - keep, keep);
    held->len = keep;
}

/* ByteFallback: a run of tokens <0xHH> becomes the text of its bytes. */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte that token [n] stands for, or -1. */
static int byte_of_token(const char *token, size_t n)
{
    if (n != 6 || memcmp(token, "<0x", 3) != 0 || token[5] != '>')
        return -1;
    int high = hex_digit(token[3]), low = hex_digit(token[4]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

/* The run is over: its text as one token, or a U+FFFD for each byte, each a token. */
static void byte_fallback_flush(struct decoder_run *run, int i)
{
    struct buf *bytes = &run->states[i].bytes;
    if (!bytes->len)
        return;
    if (utf8_valid(bytes->data, bytes->len, NULL)) {
        decoder_text(run, i + 1, bytes->data, bytes->len);
        decoder_end(run, i + 1);
    } else {
        for (size_t k = 0; k < bytes->len; k++) {
            decoder_text(run, i + 1, replacement_text, 3);
            decoder_end(run, i + 1);
        }
    }
    buf_clear(bytes);
}

static void byte_fallback_end(struct decoder_run *run, int i)
{
    struct buf *held = &run->states[i].held;
    int byte = byte_of_token(held->data, held->len);
    if (byte >= 0) {
        buf_append_char(&run->states[i].bytes, (char)byte);
    } else {
        byte_fallback_flush(run, i);
        decoder_text(run, i + 1, held->data, held->len);
        decoder_end(run, i + 1);
    }
    buf_clear(held);
}

/* Fuse: all tokens become one. */

static void fuse_text(struct decoder_run *run, int i, const char *s, size_t n)
{
    decoder_text(run, i + 1, s, n);
}

static void fuse_end(struct decoder_run *run, int i)
{
    (void)run, (void)i;
}

static void fuse_finish(struct decoder_run *run, int i)
{
    decoder_end(run, i + 1);
}

/* Strip: up to so many of one character from both ends of every token. */

static bool load_character(struct decoder_step *step, const struct json *v, const char *key,
                           const char *fallback, struct error *err)
{
    const char *content;
    int len = 0;
    if (!field_string(&content, v, key, fallback, err))
        return false;
    if (content && *content)
        char_at(content, strlen(content), &len);
    if (!len || content[len])
        return fail(err, "\"%s\" is not one character", key);
    step->content = xstrdup(content);
    step->n_content = (size_t)len;
    return true;
}

static bool strip_load(struct decoder_step *step, const struct json *v, struct error *err)
{
    int64_t start, stop;
    if (!load_character(step, v, "content", NULL, err) ||
        !field_int(&start, v, "start", 0, INT32_MAX, 0, err) ||
        !field_int(&stop, v, "stop", 0, INT32_MAX, 0, err))
        return false;
    step->start = (size_t)start;
    step->stop = (size_t)stop;
    return true;
}

static void strip_text(struct decoder_run *run, int i, const char *s, size_t n)
{
    const struct decoder_step *step = decoder_step_at(run, i);
    struct decoder_state *state = &run->states[i];
    for (size_t at = 0; at < n;) {
        int len;
        char_at(s + at, n - at, &len);
        const char *c = s + at;
        at += (size_t)len;
        bool same = (size_t)len == step->n_content && memcmp(c, step->content, (size_t)len) == 0;
        if (same && !state->past_start && state->n_cut < step->start) {
            state->n_cut++;
            continue;
        }
        state->past_start = true;
        if (same && state->n_pending < step->stop) {
            state->n_pending++;
            continue;
        }
        if (!same)
            for (; state->n_pending; state->n_pending--)
                decoder_text(run, i + 1, step->content, step->n_content);
        decoder_text(run, i + 1, c, (size_t)len);
    }
}

static void strip_end(struct decoder_run *run, int i)
{
    struct decoder_state *state = &run->states[i];
    state->n_cut = state->n_pending = 0;
    state->past_start = false;
    decoder_end(run, i + 1);
}

/* Metaspace: the replacement is a space again, but in the first token it is nothing. */

static bool metaspace_load(struct decoder_step *step, const struct json *v, struct error *err)
{
    const char *scheme;
    bool old_prefix;
    if (!load_character(step, v, "replacement", "\xE2\x96\x81", err) ||
        !field_string(&scheme, v, "prepend_scheme", "always", err) ||
        !field_bool(&old_prefix, v, "add_prefix_space", true, err))
        return false;
    if (strcmp(scheme, "first") != 0 && strcmp(scheme, "always") != 0 &&
        strcmp(scheme, "never") != 0)
        return fail(err, "\"prepend_scheme\" is \"%.60s\" (expected first, always or never)",
                    scheme);
    step->drop_first = old_prefix && strcmp(scheme, "never") != 0;
    return true;
}

static void metaspace_text(struct decoder_run *run, int i, const char *s, size_t n)
{
    const struct decoder_step *step = decoder_step_at(run, i);
    bool drop = step->drop_first && !run->states[i].past_first;
    while (n) {
        const char *found = memmem(s, n, step->content, step->n_content);
        size_t before = found ? (size_t)(found - s) : n;
        decoder_text(run, i + 1, s, before);
        if (!found)
            return;
        if (!drop)
            decoder_text(run, i + 1, " ", 1);
        s = found + step->n_content;
        n -= before + step->n_content;
    }
}

static void metaspace_end(struct decoder_run *run, int i)
{
    run->states[i].past_first = true;
    decoder_end(run, i + 1);
}

/* No decoder: tokens with spaces between them. */

static void join_end(struct decoder_run *run, int i)
{
    struct decoder_state *state = &run->states[i];
    if (state->past_first)
        decoder_text(run, i + 1, " ", 1);
    decoder_text(run, i + 1, state->held.data, state->held.len);
    buf_clear(&state->held);
    state->past_first = true;
}

const struct decoder_kind decoder_kinds[] = {
    {"ByteLevel", NULL, hold, byte_level_end, byte_level_finish},
    {"Replace", replace_load, replace_text, replace_end, finish_nothing},
    {"ByteFallback", NULL, hold, byte_fallback_end, byte_fallback_flush},
    {"Fuse", NULL, fuse_text, fuse_end, fuse_finish},
    {"Strip", strip_load, strip_text, strip_end, finish_nothing},
    {"Metaspace", metaspace_load, metaspace_text, metaspace_end, finish_nothing},
};
const int decoder_kinds_n = sizeof decoder_kinds / sizeof decoder_kinds[0];

const struct decoder_kind decoder_join = {"", NULL, hold, join_end, finish_nothing};
