#include "engine/attention/evidence.h"

#include <stdlib.h>

#include "engine/base/memory.h"

static const struct {
    const char *name, *definition;
} figures[EVIDENCE_N_FIGURES] = {
    [EVIDENCE_RECALL] = {"recall", "Dense softmax mass of the keys that the head kept."},
    [EVIDENCE_DENSITY] = {"density", "Keys that the head kept over keys that it could see."},
    [EVIDENCE_ERROR] = {"error",
                        "Length of the difference between the head's sparse and dense output, "
                        "over the dense output's length."},
    [EVIDENCE_AGREEMENT] = {"agreement",
                            "Of the n heaviest keys the share that the head kept; n is the layer's "
                            "mean count of kept keys."},
};

const char *evidence_figure_name(enum evidence_figure figure)
{
    return figures[figure].name;
}

const char *evidence_figure_definition(enum evidence_figure figure)
{
    return figures[figure].definition;
}

struct evidence *evidence_new(int n_layers, int n_heads, int n_keys)
{
    struct evidence *e = xcalloc(1, sizeof *e);
    size_t n = (size_t)n_keys;
    e->n_layers = n_layers;
    e->n_heads = n_heads;
    e->n_keys = n_keys;
    for (int i = 0; i < EVIDENCE_N_FIGURES; i++)
        e->figures[i] = xcalloc((size_t)n_layers * (size_t)n_heads, sizeof *e->figures[i]);
    e->head.weight = xcalloc(n, sizeof *e->head.weight);
    e->head.kept_by = xcalloc(n, sizeof *e->head.kept_by);
    e->head.n_heads = xcalloc(n, sizeof *e->head.n_heads);
    e->head.prob = xcalloc(n, sizeof *e->head.prob);
    e->text_end = xcalloc(n, sizeof *e->text_end);
    return e;
}

void evidence_free(struct evidence *e)
{
    if (!e)
        return;
    for (int i = 0; i < EVIDENCE_N_FIGURES; i++)
        free(e->figures[i]);
    free(e->head.weight);
    free(e->head.kept_by);
    free(e->head.n_heads);
    free(e->head.prob);
    free(e->text);
    free(e->text_end);
    free(e);
}

static bool heavier(const float *weight, int a, int b)
{
    return weight[a] > weight[b] || (weight[a] == weight[b] && a < b);
}

int evidence_rank(const struct evidence *e, int key)
{
    int rank = 0;
    for (int j = 0; j < e->n_keys; j++)
        rank += heavier(e->head.weight, j, key);
    return rank;
}

/* The lightest of the kept ones is at the root: a heap of the n heaviest so far. */
static void sift(const float *weight, int *heap, int n, int at)
{
    for (;;) {
        int lightest = at;
        for (int child = 2 * at + 1; child <= 2 * at + 2 && child < n; child++)
            if (heavier(weight, heap[lightest], heap[child]))
                lightest = child;
        if (lightest == at)
            return;
        int key = heap[at];
        heap[at] = heap[lightest];
        heap[lightest] = key;
        at = lightest;
    }
}

int evidence_heaviest(const struct evidence *e, int n, int *keys)
{
    const float *weight = e->head.weight;
    if (n > e->n_keys)
        n = e->n_keys;
    for (int j = 0; j < n; j++)
        keys[j] = j;
    for (int at = n / 2 - 1; at >= 0; at--)
        sift(weight, keys, n, at);
    for (int j = n; n > 0 && j < e->n_keys; j++)
        if (heavier(weight, j, keys[0])) {
            keys[0] = j;
            sift(weight, keys, n, 0);
        }
    for (int left = n - 1; left > 0; left--) {
        int key = keys[0];
        keys[0] = keys[left];
        keys[left] = key;
        sift(weight, keys, left, 0);
    }
    return n;
}
