/* Strings are cut at code points only, so every piece stays valid UTF-8 and can share its bytes. */
#include "engine/text/jinja_text.h"

#include <string.h>

#include "engine/base/utf8.h"
#include "engine/text/jinja_lexer.h"
#include "engine/text/jinja_run.h"

static uint32_t decode(const char *s, size_t n, size_t *len)
{
    uint32_t c = 0;
    int n_bad;
    *len = (size_t)utf8_decode(s, n, &c, &n_bad);
    return c;
}

/* The last code point of s [n bytes], n > 0. */
static uint32_t decode_last(const char *s, size_t n, size_t *len)
{
    size_t start = n - 1;
    while (start > 0 && ((unsigned char)s[start] & 0xC0) == 0x80)
        start--;
    return decode(s + start, n - start, len);
}

static bool is_stripped(uint32_t c, const struct jinja_string *set)
{
    if (!set)
        return jinja_is_space(c);
    for (size_t i = 0, len; i < set->len; i += len)
        if (decode(set->data + i, set->len - i, &len) == c)
            return true;
    return false;
}

struct jinja_value jinja_strip(struct jinja_run *run, const struct jinja_string *s,
                               const struct jinja_string *set, enum jinja_side side)
{
    size_t start = 0, end = s->len, len;
    size_t cost = set ? set->len / 64 : 0;
    while ((side & JINJA_LEFT) && start < end &&
           is_stripped(decode(s->data + start, end - start, &len), set)) {
        start += len;
        jinja_charge(run, cost);
    }
    while ((side & JINJA_RIGHT) && end > start &&
           is_stripped(decode_last(s->data + start, end - start, &len), set)) {
        end -= len;
        jinja_charge(run, cost);
    }
    struct jinja_value out = jinja_text(run, s->data + start, end - start);
    out.string->markup = s->markup;
    return out;
}

struct jinja_value jinja_cased(struct jinja_run *run, const struct jinja_string *s,
                               enum jinja_case to)
{
    struct jinja_builder b = jinja_builder_new(run);
    jinja_charge(run, s->len / 32);
    jinja_put_cased(&b, s->data, s->len, to);
    struct jinja_value out = jinja_built(&b);
    out.string->markup = s->markup;
    return out;
}

/* Replacing nothing puts new before every character and at the end. */
static struct jinja_value replace_empty(struct jinja_run *run, const struct jinja_string *s,
                                        const struct jinja_string *new, int64_t count)
{
    struct jinja_builder b = jinja_builder_new(run);
    size_t len;
    for (size_t i = 0; i < s->len; i += len) {
        if (count-- > 0)
            jinja_put(&b, new->data, new->len);
        decode(s->data + i, s->len - i, &len);
        jinja_put(&b, s->data + i, len);
    }
    if (count > 0)
        jinja_put(&b, new->data, new->len);
    return jinja_built(&b);
}

struct jinja_value jinja_replace(struct jinja_run *run, const struct jinja_string *s,
                                 const struct jinja_string *old, const struct jinja_string *new,
                                 int64_t count)
{
    if (count < 0)
        count = INT64_MAX;
    jinja_charge(run, s->len / 64);
    if (!old->len)
        return replace_empty(run, s, new, count);
    struct jinja_builder b = jinja_builder_new(run);
    size_t pos = 0;
    for (; count > 0; count--) {
        const char *found = memmem(s->data + pos, s->len - pos, old->data, old->len);
        if (!found)
            break;
        size_t at = (size_t)(found - s->data);
        jinja_put(&b, s->data + pos, at - pos);
        jinja_put(&b, new->data, new->len);
        pos = at + old->len;
    }
    jinja_put(&b, s->data + pos, s->len - pos);
    return jinja_built(&b);
}

static void push_piece(struct jinja_run *run, struct jinja_value list, const struct jinja_string *s,
                       size_t start, size_t end)
{
    jinja_charge(run, 1);
    struct jinja_value piece = jinja_text(run, s->data + start, end - start);
    piece.string->markup = s->markup;
    jinja_push(run, list.sequence, piece);
}

static struct jinja_value split_at_space(struct jinja_run *run, const struct jinja_string *s,
                                         int64_t max_splits)
{
    struct jinja_value list = jinja_sequence_new(run, JINJA_LIST);
    size_t i = 0, len;
    for (;;) {
        while (i < s->len && jinja_is_space(decode(s->data + i, s->len - i, &len)))
            i += len;
        if (i == s->len)
            return list;
        size_t start = i;
        if (max_splits-- == 0) {
            push_piece(run, list, s, start, s->len);
            return list;
        }
        while (i < s->len && !jinja_is_space(decode(s->data + i, s->len - i, &len)))
            i += len;
        push_piece(run, list, s, start, i);
    }
}

static struct jinja_value split_at(struct jinja_run *run, const struct jinja_string *s,
                                   const struct jinja_string *separator, int64_t max_splits)
{
    struct jinja_value list = jinja_sequence_new(run, JINJA_LIST);
    size_t pos = 0;
    const char *found;
    while (max_splits-- != 0 &&
           (found = memmem(s->data + pos, s->len - pos, separator->data, separator->len))) {
        push_piece(run, list, s, pos, (size_t)(found - s->data));
        pos = (size_t)(found - s->data) + separator->len;
    }
    push_piece(run, list, s, pos, s->len);
    return list;
}

static void reverse(struct jinja_sequence *list)
{
    for (size_t i = 0; i < list->n / 2; i++) {
        struct jinja_value other = list->items[list->n - 1 - i];
        list->items[list->n - 1 - i] = list->items[i];
        list->items[i] = other;
    }
}

/* Last occurrence of part in s[0, end), or SIZE_MAX. */
static size_t find_last(const char *s, size_t end, const char *part, size_t n)
{
    for (size_t at = end < n ? 0 : end - n + 1; at > 0; at--)
        if (!memcmp(s + at - 1, part, n))
            return at - 1;
    return SIZE_MAX;
}

static struct jinja_value split_from_right(struct jinja_run *run, const struct jinja_string *s,
                                           const struct jinja_string *separator, int64_t max_splits)
{
    struct jinja_value list = jinja_sequence_new(run, JINJA_LIST);
    size_t end = s->len, at, len;
    if (separator) {
        while (max_splits-- != 0 &&
               (at = find_last(s->data, end, separator->data, separator->len)) != SIZE_MAX) {
            push_piece(run, list, s, at + separator->len, end);
            end = at;
        }
        push_piece(run, list, s, 0, end);
        reverse(list.sequence);
        return list;
    }
    for (;;) {
        while (end > 0 && jinja_is_space(decode_last(s->data, end, &len)))
            end -= len;
        if (!end)
            break;
        size_t start = end;
        if (max_splits-- == 0) {
            push_piece(run, list, s, 0, end);
            break;
        }
        while (start > 0 && !jinja_is_space(decode_last(s->data, start, &len)))
            start -= len;
        push_piece(run, list, s, start, end);
        end = start;
    }
    reverse(list.sequence);
    return list;
}

struct jinja_value jinja_split(struct jinja_run *run, const struct jinja_string *s,
                               const struct jinja_string *separator, int64_t max_splits,
                               bool from_right)
{
    jinja_charge(run, s->len / 64);
    if (separator && !separator->len)
        jinja_raise(&run->trap, "a string cannot be split at nothing");
    if (max_splits < 0)
        max_splits = -1;
    if (from_right && max_splits >= 0)
        return split_from_right(run, s, separator, max_splits);
    return separator ? split_at(run, s, separator, max_splits) : split_at_space(run, s, max_splits);
}

static bool is_line_end(uint32_t c)
{
    return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
           c == 0x2029;
}

struct jinja_value jinja_split_lines(struct jinja_run *run, const struct jinja_string *s,
                                     bool keep_ends)
{
    struct jinja_value list = jinja_sequence_new(run, JINJA_LIST);
    size_t start = 0, len;
    jinja_charge(run, s->len / 64);
    for (size_t i = 0; i < s->len;) {
        uint32_t c = decode(s->data + i, s->len - i, &len);
        size_t end = i;
        i += len;
        if (!is_line_end(c))
            continue;
        if (c == '\r' && i < s->len && s->data[i] == '\n')
            i++;
        push_piece(run, list, s, start, keep_ends ? i : end);
        start = i;
    }
    if (start < s->len)
        push_piece(run, list, s, start, s->len);
    return list;
}

size_t jinja_byte_offset(struct jinja_run *run, const struct jinja_string *s, size_t index)
{
    if (index >= s->n_chars)
        return s->len;
    if (s->n_chars == s->len)
        return index;
    jinja_charge(run, index / 64);
    size_t pos = 0;
    while (index--)
        do
            pos++;
        while (((unsigned char)s->data[pos] & 0xC0) == 0x80);
    return pos;
}

int64_t jinja_find(struct jinja_run *run, const struct jinja_string *s,
                   const struct jinja_string *part, size_t start, size_t end, bool last)
{
    if (start > end || start > s->n_chars)
        return -1;
    size_t from = jinja_byte_offset(run, s, start), to = jinja_byte_offset(run, s, end), at;
    jinja_charge(run, (to - from) / 64);
    if (last) {
        at = find_last(s->data + from, to - from, part->data, part->len);
        if (at == SIZE_MAX)
            return -1;
    } else {
        const char *found = memmem(s->data + from, to - from, part->data, part->len);
        if (!found)
            return -1;
        at = (size_t)(found - (s->data + from));
    }
    return (int64_t)(start + utf8_length(s->data + from, at));
}
