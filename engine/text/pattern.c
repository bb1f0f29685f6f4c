/* Regular expressions by Oniguruma, literals by memmem. */
#include "engine/text/pattern.h"

#include <oniguruma.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/memory.h"
#include "engine/text/char_class.h"

/* One search may take this many steps, plus some for each byte of text: far more than any
 * tokenizer's own expression does, less than a second. */
#define MAX_RETRIES 10000000ul
#define MAX_RETRIES_PER_BYTE 16ul
/* A whole walk may take this long, plus some for each MiB.  Only an expression that is quadratic
 * in its text comes near. */
#define MAX_WALK_S 10.0
#define MAX_WALK_S_PER_MIB 10.0

/* What a text may grow to by replacing: a hostile file could make it grow without end. */
#define MAX_REPLACED_BYTES ((size_t)512 << 20)

struct pattern {
    regex_t *regex; /* NULL for a literal */
    char *source;   /* the expression or the literal */
    size_t n;       /* of source */
};

static void start_oniguruma(void)
{
    OnigEncoding encodings[] = {ONIG_ENCODING_UTF8};
    onig_initialize(encodings, 1);
}

struct pattern *pattern_new_regex(const char *regex, struct error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, start_oniguruma);

    struct pattern *p = xcalloc(1, sizeof *p);
    p->source = xstrdup(regex);
    p->n = strlen(regex);
    const OnigUChar *begin = (const OnigUChar *)p->source;
    OnigErrorInfo info;
    int code = onig_new(&p->regex, begin, begin + p->n, ONIG_OPTION_NONE, ONIG_ENCODING_UTF8,
                        ONIG_SYNTAX_RUBY, &info);
    if (code != ONIG_NORMAL) {
        OnigUChar why[ONIG_MAX_ERROR_MESSAGE_LEN];
        why[onig_error_code_to_str(why, code, &info)] = '\0';
        fail(err, "the regular expression \"%.200s\" is not valid: %s", regex, (char *)why);
        p->regex = NULL;
        pattern_free(p);
        return NULL;
    }
    return p;
}

struct pattern *pattern_new_literal(const char *literal, struct error *err)
{
    if (!*literal) {
        fail(err, "a pattern is an empty string (expected at least one character)");
        return NULL;
    }
    struct pattern *p = xcalloc(1, sizeof *p);
    p->source = xstrdup(literal);
    p->n = strlen(literal);
    return p;
}

struct pattern *pattern_load(const struct json *v, struct error *err)
{
    if (json_is_string(v))
        return pattern_new_literal(json_string(v), err);
    const char *regex = json_string(json_get(v, "Regex"));
    const char *literal = json_string(json_get(v, "String"));
    if (regex && !literal)
        return pattern_new_regex(regex, err);
    if (literal && !regex)
        return pattern_new_literal(literal, err);
    fail(err, "a pattern is neither {\"Regex\": \"...\"} nor {\"String\": \"...\"}");
    return NULL;
}

void pattern_free(struct pattern *p)
{
    if (!p)
        return;
    if (p->regex)
        onig_free(p->regex);
    free(p->source);
    free(p);
}

const char *pattern_literal(const struct pattern *p)
{
    return p->regex ? NULL : p->source;
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void pattern_walk_start(struct pattern_walk *w, const struct pattern *p, const char *text, size_t n)
{
    *w = (struct pattern_walk){.pattern = p, .text = text, .n = n, .last_end = SIZE_MAX};
    if (!p->regex)
        return;
    if (text_stand_in(&w->shown, text, n))
        w->text = w->shown.data;
    w->region = onig_region_new();
    OnigMatchParam *limits = onig_new_match_param();
    if (!w->region || !limits)
        fatal("out of memory: could not start a regular expression");
    onig_initialize_match_param(limits);
    unsigned long retries = MAX_RETRIES + MAX_RETRIES_PER_BYTE * n;
    onig_set_retry_limit_in_match_of_match_param(limits, retries);
    onig_set_retry_limit_in_search_of_match_param(limits, retries);
    w->limits = limits;
}

void pattern_walk_stop(struct pattern_walk *w)
{
    if (w->region)
        onig_region_free(w->region, 1);
    if (w->limits)
        onig_free_match_param(w->limits);
    buf_free(&w->shown);
    w->region = w->limits = NULL;
}

static bool too_long(struct pattern_walk *w, struct error *err)
{
    if (++w->n_searches % 256 != 1)
        return false;
    if (w->n_searches == 1)
        w->deadline_s =
            now_s() + MAX_WALK_S + MAX_WALK_S_PER_MIB * ((double)w->n / (1024.0 * 1024.0));
    else if (now_s() > w->deadline_s)
        return !fail(err, "the regular expression \"%.200s\" is too slow on this text of %zu bytes",
                     w->pattern->source, w->n);
    return false;
}

static bool search_regex(struct pattern_walk *w, bool *found, struct error *err)
{
    const OnigUChar *begin = (const OnigUChar *)w->text, *end = begin + w->n;
    OnigRegion *region = w->region;
    if (too_long(w, err))
        return false;
    int at = onig_search_with_param(w->pattern->regex, begin, end, begin + w->at, end, region,
                                    ONIG_OPTION_NONE, w->limits);
    *found = at >= 0;
    if (at == ONIG_MISMATCH)
        return true;
    if (at < 0) {
        OnigUChar why[ONIG_MAX_ERROR_MESSAGE_LEN];
        why[onig_error_code_to_str(why, at)] = '\0';
        return fail(err, "the regular expression \"%.200s\" gave up on this text of %zu bytes: %s",
                    w->pattern->source, w->n, (char *)why);
    }
    w->start = (size_t)region->beg[0];
    w->end = (size_t)region->end[0];
    return true;
}

static bool search_literal(struct pattern_walk *w, bool *found)
{
    const char *at = memmem(w->text + w->at, w->n - w->at, w->pattern->source, w->pattern->n);
    *found = at != NULL;
    if (at) {
        w->start = (size_t)(at - w->text);
        w->end = w->start + w->pattern->n;
    }
    return true;
}

bool pattern_walk_next(struct pattern_walk *w, bool *found, struct error *err)
{
    *found = false;
    while (w->at <= w->n) {
        bool ok = w->pattern->regex ? search_regex(w, found, err) : search_literal(w, found);
        if (!ok || !*found)
            return ok;
        if (w->start != w->end || w->last_end != w->end) {
            w->at = w->last_end = w->end;
            return true;
        }
        /* An empty match right after the last one does not count: one character on. */
        *found = false;
        int len = 1;
        if (w->at < w->n)
            char_at(w->text + w->at, w->n - w->at, &len);
        w->at += (size_t)len;
    }
    return true;
}

bool pattern_replace(const struct pattern *p, const char *text, size_t n, const char *content,
                     struct buf *out, struct error *err)
{
    struct pattern_walk walk;
    pattern_walk_start(&walk, p, text, n);
    size_t done = 0, content_len = strlen(content);
    bool found, ok;
    while ((ok = pattern_walk_next(&walk, &found, err)) && found) {
        if (out->len > MAX_REPLACED_BYTES) {
            ok = fail(err, "replacing \"%.60s\" makes a text of more than %zu bytes", p->source,
                      MAX_REPLACED_BYTES);
            break;
        }
        buf_append(out, text + done, walk.start - done);
        buf_append(out, content, content_len);
        done = walk.end;
    }
    if (ok)
        buf_append(out, text + done, n - done);
    pattern_walk_stop(&walk);
    return ok;
}
