/* The figures and their definitions.  Screens, help and reports print the words from here. */
#include "engine/attention/metrics.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"

const struct metric metrics[] = {
    {"density", "",
     "Keys that the stack kept, as a share of the keys that dense attention would attend to; "
     "averaged over layers, query heads and steps."},
    {"read density", "",
     "Rows of the KV cache that attention really read, as a share of those that dense attention "
     "would read; heads of a group share a row."},
    {"sparsity", "", "1 - density."},
    {"attention speed-up", "x",
     "Dense time over sparse time of attention alone: scoring, choosing, upkeep of the masker's "
     "state and attending, in all layers."},
    {"step speed-up", "x", "Dense time over sparse time of one decode step, from token to token."},
    {"answer speed-up", "x",
     "Dense time over sparse time of the whole answer, index build included; the context's prefill "
     "is shared and not counted."},
    {"Jaccard", "",
     "Words that both answers have over words that either has (sets, split at blanks, "
     "case-sensitive); both empty: 1, one empty: 0."},
    {"agreement", "",
     "In forced mode: the share of steps at which the sparse lane's best token is the dense "
     "lane's."},
    {"divergence", "token",
     "The first place where the two answers' token ids differ; a near-tie if the two tokens' "
     "logits there differ by less than 0.1."},
    {"mass recall", "",
     "The dense softmax mass that falls on kept keys; mean over heads, and the worst head."},
    {"output error", "",
     "|o_sparse - o_dense| / |o_dense| of one attention call, from the same q, k and v."},
    {"TTFT", "ms", "Time to first token: from sending the question to its answer's first token."},
    {"ITL", "ms", "Inter-token latency: the mean time between an answer's tokens."},
    {NULL, NULL, NULL},
};

const struct metric *metric_find(const char *name)
{
    for (const struct metric *m = metrics; m->name; m++)
        if (strcmp(m->name, name) == 0)
            return m;
    return NULL;
}

static double ratio_or_one(uint64_t part, uint64_t whole)
{
    return whole ? (double)part / (double)whole : 1;
}

double metric_density(const struct attention_counts *c)
{
    return ratio_or_one(c->selected, c->visible);
}

double metric_read_density(const struct attention_counts *c)
{
    return ratio_or_one(c->rows_read, c->rows_visible);
}

double metric_speedup(double dense, double sparse)
{
    return sparse > 0 ? dense / sparse : 0;
}

/* --- Jaccard ------------------------------------------------------------------------------ */

struct word {
    const char *text; /* [n], borrowed */
    size_t n;
};

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static int compare_words(const void *a, const void *b)
{
    const struct word *x = a, *y = b;
    size_t n = x->n < y->n ? x->n : y->n;
    int order = memcmp(x->text, y->text, n);
    return order ? order : (x->n > y->n) - (x->n < y->n);
}

/* The distinct words of text, sorted; the caller frees. */
static struct word *word_set(const char *text, size_t n, size_t *n_words)
{
    struct word *words = NULL;
    size_t count = 0, capacity = 0;
    for (size_t i = 0; i < n;) {
        size_t start = i;
        while (i < n && !is_blank(text[i]))
            i++;
        if (i > start) {
            words = array_grow(words, &capacity, count + 1, sizeof *words);
            words[count++] = (struct word){text + start, i - start};
        } else {
            i++;
        }
    }
    if (count)
        qsort(words, count, sizeof *words, compare_words);
    size_t kept = 0;
    for (size_t i = 0; i < count; i++)
        if (!kept || compare_words(&words[kept - 1], &words[i]) != 0)
            words[kept++] = words[i];
    *n_words = kept;
    return words;
}

double metric_jaccard(const char *a, size_t n_a, const char *b, size_t n_b)
{
    size_t n_x, n_y, both = 0;
    struct word *x = word_set(a, n_a, &n_x), *y = word_set(b, n_b, &n_y);
    for (size_t i = 0, j = 0; i < n_x && j < n_y;) {
        int order = compare_words(&x[i], &y[j]);
        both += order == 0;
        i += order <= 0;
        j += order >= 0;
    }
    free(x);
    free(y);
    size_t either = n_x + n_y - both;
    return either ? (double)both / (double)either : 1;
}

