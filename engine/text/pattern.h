/* A pattern of a tokenizer: a regular expression or a literal string, and walking its matches.
 *
 * Regular expressions are Oniguruma's, Ruby syntax, as in the reference.  A walk over a text ends
 * in an error, never in a hang: a match may take so many steps, and a whole walk so much time. */
#ifndef ATTNSCOPE_ENGINE_TEXT_PATTERN_H
#define ATTNSCOPE_ENGINE_TEXT_PATTERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/base/error.h"
#include "engine/base/json.h"

struct pattern;

struct pattern *pattern_new_regex(const char *regex, struct error *err);
struct pattern *pattern_new_literal(const char *literal, struct error *err);
/* From {"Regex": ...}, {"String": ...} or a plain string, which is literal.  NULL on failure. */
struct pattern *pattern_load(const struct json *v, struct error *err);
void pattern_free(struct pattern *p);
/* The text of a literal pattern, NULL for a regular expression. */
const char *pattern_literal(const struct pattern *p);

/* One walk over text [n], from left to right.  Text and pattern are borrowed. */
struct pattern_walk {
    const struct pattern *pattern;
    const char *text;
    size_t n;
    size_t at;             /* where the next search begins */
    size_t last_end;       /* of the last match; SIZE_MAX before the first */
    size_t start, end;     /* the match found */
    struct buf shown;      /* the text with stand-ins, where it has any */
    void *region, *limits; /* of Oniguruma */
    double deadline_s;
    unsigned n_searches;
};

void pattern_walk_start(struct pattern_walk *w, const struct pattern *p, const char *text,
                        size_t n);
/* Finds the next match: *found, and w->start, w->end.  False if the limit was exceeded. */
bool pattern_walk_next(struct pattern_walk *w, bool *found, struct error *err);
void pattern_walk_stop(struct pattern_walk *w);

/* Appends text [n] to out with every match replaced by content. */
bool pattern_replace(const struct pattern *p, const char *text, size_t n, const char *content,
                     struct buf *out, struct error *err);

#endif
