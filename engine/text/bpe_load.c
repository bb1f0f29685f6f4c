/* Reading a BPE model, both forms of its merges, and checking it. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/base/utf8.h"
#include "engine/text/bpe_parts.h"
#include "engine/text/fields.h"

/* Adds the merge of left [n_left] and right; joined is scratch. */
static bool add_merge(struct bpe *bpe, uint32_t rank, const char *left, size_t n_left,
                      const char *right, size_t n_right, struct buf *joined, struct error *err)
{
    size_t n_prefix = strlen(bpe->prefix);
    int32_t left_id = vocabulary_model_id(bpe->vocab, left, n_left);
    int32_t right_id = vocabulary_model_id(bpe->vocab, right, n_right);
    if (left_id < 0 || right_id < 0) {
        size_t n = left_id < 0 ? n_left : n_right;
        return fail(err, "merge %" PRIu32 " has a part \"%.*s\" that is not in the vocabulary",
                    rank, n < 60 ? (int)n : 60, left_id < 0 ? left : right);
    }
    buf_clear(joined);
    buf_append(joined, left, n_left);
    size_t cut = n_prefix < n_right ? n_prefix : n_right;
    buf_append(joined, right + cut, n_right - cut);
    int32_t result = vocabulary_model_id(bpe->vocab, joined->data, joined->len);
    if (result < 0)
        return fail(err, "merge %" PRIu32 " makes \"%.60s\", which is not in the vocabulary", rank,
                    joined->data);
    merge_table_add(&bpe->merges, left_id, right_id, rank, result);
    return true;
}

/* Adds a merge written "left right": exactly one space. */
static bool add_line(struct bpe *bpe, uint32_t rank, const char *line, size_t n, struct buf *joined,
                     struct error *err)
{
    const char *space = memchr(line, ' ', n);
    size_t n_left = space ? (size_t)(space - line) : 0;
    if (!space || memchr(space + 1, ' ', n - n_left - 1))
        return fail(err, "merge %" PRIu32 " is \"%.60s\" (expected two parts and one space)", rank,
                    line);
    return add_merge(bpe, rank, line, n_left, space + 1, n - n_left - 1, joined, err);
}

static bool add_json_merge(struct bpe *bpe, uint32_t rank, const struct json *v, struct buf *joined,
                           struct error *err)
{
    const char *line = json_string(v);
    if (line)
        return add_line(bpe, rank, line, strlen(line), joined, err);
    const struct json *first = json_first(v);
    const char *left = json_string(first);
    const struct json *second = first ? json_next(first) : NULL;
    const char *right = json_string(second);
    if (!json_is_array(v) || !left || !right || json_next(second))
        return fail(err, "merge %" PRIu32 " is neither \"left right\" nor [\"left\", \"right\"]",
                    rank);
    return add_merge(bpe, rank, left, strlen(left), right, strlen(right), joined, err);
}

static bool init_merges(struct bpe *bpe, size_t n, struct error *err)
{
    if (n > MAX_MERGES)
        return fail(err, "%zu merges (expected at most %d)", n, MAX_MERGES);
    if (!merge_table_init(&bpe->merges, n))
        return fail_code(err, EXIT_CODE_NO_DEVICE, "out of memory for %zu merges", n);
    return true;
}

static bool is_version_line(const char *line)
{
    return line && strncmp(line, "#version", 8) == 0;
}

static bool load_merges(struct bpe *bpe, const struct json *merges, struct error *err)
{
    if (!json_is_array(merges))
        return fail(err, "\"merges\" is not a list");
    if (!init_merges(bpe, json_count(merges), err))
        return false;
    struct buf joined = {0};
    uint32_t rank = 0;
    bool ok = true;
    const struct json *v = json_first(merges);
    if (v && is_version_line(json_string(v)))
        v = json_next(v);
    for (; ok && v; v = json_next(v))
        ok = add_json_merge(bpe, rank++, v, &joined, err);
    buf_free(&joined);
    return ok;
}

/* Fills what the encoder looks up without hashing. */
static void fill_direct(struct bpe *bpe)
{
    for (uint32_t c = 0; c < BPE_DIRECT_END; c++) {
        char text[4];
        bpe->direct[c] = vocabulary_model_id(bpe->vocab, text, utf8_encode(text, c));
    }
    for (int byte = 0; byte < 256; byte++) {
        char text[8];
        int n = snprintf(text, sizeof text, "<0x%02X>", (unsigned)byte);
        bpe->byte_ids[byte] = vocabulary_model_id(bpe->vocab, text, (size_t)n);
    }
}

static struct bpe *new_bpe(const struct vocabulary *vocab)
{
    struct bpe *bpe = xcalloc(1, sizeof *bpe);
    bpe->vocab = vocab;
    bpe->unk_id = -1;
    return bpe;
}

static bool load_flags(struct bpe *bpe, const struct json *model, struct error *err)
{
    const char *prefix, *suffix, *unk;
    double dropout = json_number(json_get(model, "dropout"), 0);
    if (dropout != 0)
        return fail(err, "\"dropout\" is %g (expected null or 0): it makes ids random", dropout);
    if (!field_bool(&bpe->fuse_unk, model, "fuse_unk", false, err) ||
        !field_bool(&bpe->byte_fallback, model, "byte_fallback", false, err) ||
        !field_bool(&bpe->ignore_merges, model, "ignore_merges", false, err) ||
        !field_string(&prefix, model, "continuing_subword_prefix", "", err) ||
        !field_string(&suffix, model, "end_of_word_suffix", "", err) ||
        !field_string(&unk, model, "unk_token", NULL, err))
        return false;
    bpe->prefix = xstrdup(prefix);
    bpe->suffix = xstrdup(suffix);
    if (unk) {
        bpe->unk_id = vocabulary_model_id(bpe->vocab, unk, strlen(unk));
        if (bpe->unk_id < 0)
            return fail(err, "\"unk_token\" is \"%.60s\", which is not in the vocabulary", unk);
    }
    return true;
}

struct bpe *bpe_load(const struct json *model, const struct vocabulary *vocab, struct error *err)
{
    struct bpe *bpe = new_bpe(vocab);
    if (!load_flags(bpe, model, err) || !load_merges(bpe, json_get(model, "merges"), err)) {
        bpe_free(bpe);
        return NULL;
    }
    fill_direct(bpe);
    return bpe;
}

static size_t count_lines(const char *text, size_t n)
{
    size_t count = 1;
    for (size_t i = 0; i < n; i++)
        count += text[i] == '\n';
    return count;
}

struct bpe *bpe_load_lines(char *lines, size_t n, const struct vocabulary *vocab, struct error *err)
{
    struct bpe *bpe = new_bpe(vocab);
    bpe->prefix = xstrdup("");
    bpe->suffix = xstrdup("");
    struct buf joined = {0};
    uint32_t rank = 0;
    bool ok = init_merges(bpe, count_lines(lines, n), err);
    for (size_t at = 0; ok && at < n;) {
        char *end = memchr(lines + at, '\n', n - at);
        size_t len = end ? (size_t)(end - (lines + at)) : n - at;
        char *line = lines + at;
        at += len + 1;
        if (len && line[len - 1] == '\r')
            len--;
        line[len] = '\0';
        bool is_first = line == lines;
        if (len && !(is_first && is_version_line(line)))
            ok = add_line(bpe, rank++, line, len, &joined, err);
    }
    buf_free(&joined);
    if (!ok) {
        bpe_free(bpe);
        return NULL;
    }
    fill_direct(bpe);
    return bpe;
}

void bpe_free(struct bpe *bpe)
{
    if (!bpe)
        return;
    merge_table_free(&bpe->merges);
    free(bpe->prefix);
    free(bpe->suffix);
    free(bpe);
}
