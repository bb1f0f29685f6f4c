#include "engine/attention/layer_set.h"

#include <assert.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/families/family.h"

enum { WORDS = LAYER_SET_MAX / 64, RANGE_TEXT_MAX = 32 };

static_assert((int)LAYER_SET_MAX >= (int)CONFIG_MAX_LAYERS, "a set holds every layer of a model");

bool layer_set_has(const struct layer_set *s, int layer)
{
    return layer >= 0 && layer < LAYER_SET_MAX && s->bits[layer / 64] >> layer % 64 & 1;
}

void layer_set_add(struct layer_set *s, int layer)
{
    assert(layer >= 0 && layer < LAYER_SET_MAX);
    s->bits[layer / 64] |= (uint64_t)1 << layer % 64;
}

bool layer_set_equal(const struct layer_set *a, const struct layer_set *b)
{
    return memcmp(a->bits, b->bits, sizeof a->bits) == 0;
}

int layer_set_first(const struct layer_set *s)
{
    for (int i = 0; i < WORDS; i++)
        if (s->bits[i])
            return i * 64 + __builtin_ctzll(s->bits[i]);
    return -1;
}

int layer_set_last(const struct layer_set *s)
{
    for (int i = WORDS - 1; i >= 0; i--)
        if (s->bits[i])
            return i * 64 + 63 - __builtin_clzll(s->bits[i]);
    return -1;
}

int layer_set_common(const struct layer_set *a, const struct layer_set *b)
{
    struct layer_set both;
    for (int i = 0; i < WORDS; i++)
        both.bits[i] = a->bits[i] & b->bits[i];
    return layer_set_first(&both);
}

struct layer_set layer_set_union(const struct layer_set *a, const struct layer_set *b)
{
    struct layer_set out;
    for (int i = 0; i < WORDS; i++)
        out.bits[i] = a->bits[i] | b->bits[i];
    return out;
}

struct layer_set layer_set_others(const struct layer_set *s)
{
    struct layer_set out;
    for (int i = 0; i < WORDS; i++)
        out.bits[i] = ~s->bits[i];
    return out;
}

/* --- Reading and writing ------------------------------------------------------------------ */

/* A layer's number; *text is moved past it.  -1: there is none, or it is beyond the largest. */
static long read_layer(const char **text)
{
    if (!isdigit((unsigned char)**text))
        return -1;
    char *end;
    long layer = strtol(*text, &end, 10);
    *text = end;
    return layer;
}

static const char *skip_blanks(const char *text)
{
    while (isspace((unsigned char)*text))
        text++;
    return text;
}

/* One "16" or "20-23", blanks around it allowed. */
static bool read_range(struct layer_set *s, const char *range, struct error *err)
{
    const char *at = skip_blanks(range);
    long first = read_layer(&at), last = first;
    at = skip_blanks(at);
    if (first >= 0 && *at == '-') {
        at = skip_blanks(at + 1);
        last = read_layer(&at);
        at = skip_blanks(at);
    }
    if (first < 0 || last < 0 || *at)
        return fail(err, "\"%s\" is no layer and no range of layers; write them as in 0-1,16",
                    range);
    if (last < first)
        return fail(err, "the range %ld-%ld runs backwards; write %ld-%ld", first, last, last,
                    first);
    if (last >= LAYER_SET_MAX)
        return fail(err, "a model has at most %d layers, there is no layer %ld", LAYER_SET_MAX,
                    last);
    for (int layer = (int)first; layer <= last; layer++) {
        if (layer_set_has(s, layer))
            return fail(err, "layer %d is named twice; name it once", layer);
        layer_set_add(s, layer);
    }
    return true;
}

bool layer_set_parse(struct layer_set *out, const char *text, struct error *err)
{
    struct layer_set s = {0};
    if (!*skip_blanks(text))
        return fail(err, "no layer is named; write layers and ranges as in 0-1,16");
    for (const char *at = text;; at++) {
        char range[RANGE_TEXT_MAX];
        size_t n = strcspn(at, ",");
        snprintf(range, sizeof range, "%.*s", (int)(n < sizeof range ? n : sizeof range - 1), at);
        if (!read_range(&s, range, err))
            return false;
        at += n;
        if (!*at)
            break;
    }
    *out = s;
    return true;
}

void layer_set_write(const struct layer_set *s, struct buf *out)
{
    bool any = false;
    for (int layer = 0; layer < LAYER_SET_MAX; layer++) {
        if (!layer_set_has(s, layer))
            continue;
        int last = layer;
        while (layer_set_has(s, last + 1))
            last++;
        buf_printf(out, "%s%d", any ? "," : "", layer);
        if (last > layer)
            buf_printf(out, "-%d", last);
        any = true;
        layer = last;
    }
}
