/* Cutting a word at matches. */
#include "engine/text/word_split.h"

#include <stdlib.h>

#include "engine/base/memory.h"
#include "engine/text/char_class.h"

void part_list_free(struct part_list *list)
{
    free(list->parts);
    *list = (struct part_list){0};
}

static void add_part(struct part_list *list, size_t start, size_t end, bool is_match)
{
    list->parts = array_grow(list->parts, &list->capacity, list->n + 1, sizeof *list->parts);
    list->parts[list->n++] = (struct part){start, end, is_match};
}

bool parts_by_pattern(struct part_list *list, const struct pattern *pattern, const char *text,
                      size_t n, struct error *err)
{
    struct pattern_walk walk;
    size_t done = 0;
    bool found, ok;
    list->n = 0;
    pattern_walk_start(&walk, pattern, text, n);
    while ((ok = pattern_walk_next(&walk, &found, err)) && found) {
        if (done != walk.start)
            add_part(list, done, walk.start, false);
        add_part(list, walk.start, walk.end, true);
        done = walk.end;
    }
    if (done != n)
        add_part(list, done, n, false);
    pattern_walk_stop(&walk);
    return ok;
}

void parts_by_class(struct part_list *list, bool (*is_in)(uint32_t c), const char *text, size_t n)
{
    size_t done = 0;
    list->n = 0;
    for (size_t i = 0; i < n;) {
        int len;
        if (is_in(char_at(text + i, n - i, &len))) {
            if (done < i)
                add_part(list, done, i, false);
            done = i + (size_t)len;
            add_part(list, i, done, true);
        }
        i += (size_t)len;
    }
    if (done < n)
        add_part(list, done, n, false);
}

/* Whether a part joins its neighbour, given what the neighbour was. */
static bool joins(enum split_behavior behavior, bool is_match, bool neighbour_is_match)
{
    if (behavior == SPLIT_CONTIGUOUS)
        return is_match == neighbour_is_match;
    return is_match && !neighbour_is_match;
}

/* Joins parts in place, from the left. */
static void join_parts(struct part_list *list, enum split_behavior behavior)
{
    size_t kept = 0;
    bool neighbour_is_match = false;
    for (size_t i = 0; i < list->n; i++) {
        struct part part = list->parts[i];
        if (kept && joins(behavior, part.is_match, neighbour_is_match))
            list->parts[kept - 1].end = part.end;
        else
            list->parts[kept++] = part;
        neighbour_is_match = part.is_match;
    }
    list->n = kept;
}

static void reverse_parts(struct part_list *list)
{
    for (size_t i = 0, j = list->n; i + 1 < j; i++) {
        struct part swap = list->parts[i];
        list->parts[i] = list->parts[--j];
        list->parts[j] = swap;
    }
}

/* Likewise from the right, where a part takes the match on its left. */
static void join_parts_from_right(struct part_list *list)
{
    size_t kept = 0;
    bool neighbour_is_match = false;
    reverse_parts(list);
    for (size_t i = 0; i < list->n; i++) {
        struct part part = list->parts[i];
        if (kept && joins(SPLIT_MERGED_WITH_NEXT, part.is_match, neighbour_is_match))
            list->parts[kept - 1].start = part.start;
        else
            list->parts[kept++] = part;
        neighbour_is_match = part.is_match;
    }
    list->n = kept;
    reverse_parts(list);
}

void split_parts(struct part_list *list, enum split_behavior behavior, bool invert,
                 const struct word *word, struct word_list *out)
{
    for (size_t i = 0; invert && i < list->n; i++)
        list->parts[i].is_match = !list->parts[i].is_match;
    if (behavior == SPLIT_MERGED_WITH_NEXT)
        join_parts_from_right(list);
    else if (behavior != SPLIT_REMOVED && behavior != SPLIT_ISOLATED)
        join_parts(list, behavior);
    for (size_t i = 0; i < list->n; i++) {
        const struct part *part = &list->parts[i];
        if (part->end > part->start && !(behavior == SPLIT_REMOVED && part->is_match))
            word_list_add(out, word->start + part->start, part->end - part->start,
                          word->is_first && part->start == 0);
    }
}
