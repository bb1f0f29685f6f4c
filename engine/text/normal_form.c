/* Normal forms: utf8proc decomposes and composes; the reordering in between is ours, because that
 * of utf8proc is quadratic in a run of combining marks, and a text may be nothing else.
 *
 * Characters that the reference does not normalize stand between the parts that it does: each is
 * left as it is and nothing is reordered or composed across it. */
#include "engine/text/normal_form.h"

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "engine/base/memory.h"
#include "engine/text/char_class.h"

/* No character decomposes into more than 18. */
#define MAX_DECOMPOSED 32

struct code_points {
    int32_t *items; /* [capacity] */
    size_t n, capacity;
};

static void add(struct code_points *list, int32_t c)
{
    list->items = array_grow(list->items, &list->capacity, list->n + 1, sizeof *list->items);
    list->items[list->n++] = c;
}

static unsigned combining_class(int32_t c)
{
    return c < 0x300 ? 0 : (unsigned)utf8proc_get_property(c)->combining_class & 0xFF;
}

static void decompose(struct code_points *list, uint32_t c, bool compat)
{
    utf8proc_int32_t parts[MAX_DECOMPOSED];
    int options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0);
    int last_class = 0;
    utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)c, parts, MAX_DECOMPOSED,
                                                 (utf8proc_option_t)options, &last_class);
    assert(n >= 0 && n <= MAX_DECOMPOSED);
    for (utf8proc_ssize_t i = 0; i < n; i++)
        add(list, parts[i]);
}

/* Sorts a run of marks by class, equal ones staying in order: counts, then places. */
static void sort_run(int32_t *run, size_t n, struct code_points *scratch)
{
    size_t starts[257] = {0};
    scratch->items = array_grow(scratch->items, &scratch->capacity, n, sizeof *scratch->items);
    for (size_t i = 0; i < n; i++)
        starts[combining_class(run[i]) + 1]++;
    for (int class = 0; class < 256; class ++)
        starts[class + 1] += starts[class];
    for (size_t i = 0; i < n; i++)
        scratch->items[starts[combining_class(run[i])]++] = run[i];
    memcpy(run, scratch->items, n * sizeof *run);
}

static void reorder(struct code_points *list, struct code_points *scratch)
{
    for (size_t i = 0; i < list->n;) {
        size_t end = i;
        bool sorted = true;
        unsigned last = 0;
        for (unsigned class; end < list->n && (class = combining_class(list->items[end])); end++) {
            sorted = sorted && class >= last;
            last = class;
        }
        if (!sorted)
            sort_run(list->items + i, end - i, scratch);
        i = end + 1;
    }
}

/* Puts out what was gathered, in its normal form, and empties it. */
static void flush(struct buf *out, struct code_points *list, struct code_points *scratch,
                  bool compose)
{
    if (!list->n)
        return;
    reorder(list, scratch);
    utf8proc_ssize_t n = (utf8proc_ssize_t)list->n;
    if (compose)
        n = utf8proc_normalize_utf32(list->items, n,
                                     (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    for (utf8proc_ssize_t i = 0; i < n; i++)
        buf_append_utf8(out, (uint32_t)list->items[i]);
    list->n = 0;
}

void normal_form(struct buf *out, const char *text, size_t n, bool compose, bool compat)
{
    struct code_points list = {0}, scratch = {0};
    for (size_t i = 0; i < n;) {
        size_t ascii = i;
        while (ascii < n && (unsigned char)text[ascii] < 0x80)
            ascii++;
        /* All of a run of ASCII is as it should be, but its last may compose with what follows. */
        if (ascii > i + 1) {
            flush(out, &list, &scratch, compose);
            buf_append(out, text + i, ascii - i - 1);
            i = ascii - 1;
        }
        int len;
        uint32_t c = char_at(text + i, n - i, &len);
        if (char_is_normalized(c)) {
            decompose(&list, c, compat);
        } else {
            flush(out, &list, &scratch, compose);
            buf_append(out, text + i, (size_t)len);
        }
        i += (size_t)len;
    }
    flush(out, &list, &scratch, compose);
    free(list.items);
    free(scratch.items);
}
